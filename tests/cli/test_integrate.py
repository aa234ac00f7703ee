"""`licodec integrate` and `licodec thumbnail`: real files, read by the system's own tools where they are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import licodec
from tests.sdk.fixtures import pixels

Command = Callable[..., tuple[int, bytes, str]]
ROOT = Path(__file__).parents[2]
SIGNATURE = b"\x89LIC\r\n\x1a\n"


@pytest.fixture
def lic(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.lic"
    licodec.save(pixels(60, 120), path, quality=50, device="cpu", exif=exif)
    return path


def test_without_options_it_lists_what_there_is(licodec_command: Command) -> None:
    status, out, _ = licodec_command("integrate")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [
        b"mime",
        b"thumbnailer",
        b"magic",
    ]


def test_the_mime_type_is_known_by_the_signature(licodec_command: Command) -> None:
    status, out, _ = licodec_command("integrate", "--print", "mime")
    found = ElementTree.fromstring(out)
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    match = found.find(f"{space}mime-type/{space}magic/{space}match")
    assert status == 0 and match is not None
    assert match.get("value", "").encode().decode("unicode_escape").encode("latin-1") == SIGNATURE


@pytest.mark.skipif(shutil.which("file") is None, reason="file(1) is not installed")
def test_file_knows_ours_and_only_ours(licodec_command: Command, lic: Path) -> None:
    magic = lic.with_name("lic.magic")
    magic.write_bytes(licodec_command("integrate", "--print", "magic")[1])

    def told(path: Path, *options: str) -> str:
        command = ["file", "-b", "-m", str(magic), *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert told(lic) == "Learned-codec image (.lic), container version 1"
    assert told(lic, "--mime-type") == "image/x-lic"
    text = lic.with_name("LICENSE.lic")
    text.write_text("You may do as you like.")
    assert told(text, "--mime-type") != "image/x-lic"


@pytest.mark.skipif(shutil.which("update-mime-database") is None, reason="shared-mime-info is not installed")
def test_installing_makes_the_database_know_it(licodec_command: Command, tmp_path: Path) -> None:
    for _ in range(2):
        status, out, _ = licodec_command("integrate", "--install", "--data-dir", tmp_path / "share")
        assert status == 0
        assert all(Path(line.decode()).is_file() for line in out.splitlines()) and out.count(b"\n") == 2
    assert "image/x-lic" in (tmp_path / "share/mime/types").read_text()
    assert b"MimeType=image/x-lic" in (tmp_path / "share/thumbnailers/licodec.thumbnailer").read_bytes()


def test_print_and_install_are_two_things(licodec_command: Command, tmp_path: Path) -> None:
    status, _, err = licodec_command("integrate", "--print", "mime", "--install", "--data-dir", tmp_path)
    assert status == 2 and "give one" in err and not (tmp_path / "mime").exists()


def test_thumbnails_fit_and_stand_upright(licodec_command: Command, lic: Path, tmp_path: Path) -> None:
    assert licodec_command("thumbnail", lic, tmp_path / "t.png", "32")[0] == 0
    assert Image.open(tmp_path / "t.png").size == (16, 32)
    assert licodec_command("thumbnail", lic, tmp_path / "t.png")[0] == 0
    assert Image.open(tmp_path / "t.png").size == (60, 120), "never larger than the picture"


def test_what_is_no_lic_file_gets_no_thumbnail(licodec_command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    for name in ("x.png", "none.lic"):
        status, _, err = licodec_command("thumbnail", tmp_path / name, tmp_path / "t.png", "32")
        assert status == 1 and err.count("\n") == 1 and not (tmp_path / "t.png").exists()

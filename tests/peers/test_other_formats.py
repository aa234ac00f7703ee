"""Importing licodec changes nothing for files that are not ours."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.peers.probes import photo

ROOT = Path(__file__).resolve().parents[2]
OPEN_ALL = """
import hashlib, json, sys, warnings
from pathlib import Path
if sys.argv[2] == "first":
    import licodec
import PIL.Image
if sys.argv[2] == "last":
    PIL.Image.init()
    import licodec
warnings.simplefilter("ignore")

def seen(path):
    try:
        with PIL.Image.open(path) as image:
            image.load()
            return [image.format, image.mode, image.size, hashlib.md5(image.tobytes()).hexdigest()]
    except Exception as error:
        return [type(error).__name__, str(error)]

print(json.dumps({path.name: seen(path) for path in sorted(Path(sys.argv[1]).iterdir())}))
"""
SUFFIXES = (
    "bmp", "dds", "gif", "ico", "jp2", "jpg", "pcx", "png", "ppm", "qoi", "sgi", "tga", "tif", "webp",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of other formats, the same cut short or under our suffix, and bytes that are nothing."""
    found = tmp_path_factory.mktemp("files")
    for suffix in SUFFIXES:
        path = found / f"x.{suffix}"
        photo((48, 32)).save(path)
        data = path.read_bytes()
        (found / f"{suffix}.lic").write_bytes(data)
        (found / f"cut.{suffix}").write_bytes(data[: len(data) // 3])
    rng = random.Random(4)
    for number in range(40):
        (found / f"{number}.bin").write_bytes(rng.randbytes(rng.randrange(300)))
        (found / f"{number}.lic").write_bytes(b"\x89LIC"[: number % 5] + rng.randbytes(40))
    return found


def opened(folder: Path, when: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, str(folder), when], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_other_files_open_as_if_licodec_was_not_there(folder: Path) -> None:
    without = opened(folder, "never")
    assert without["x.png"][0] == without["png.lic"][0] == "PNG"
    assert len({seen[0] for seen in without.values()}) > len(SUFFIXES)
    assert opened(folder, "first") == opened(folder, "last") == without


def test_pillows_registries_gain_our_entries_alone() -> None:
    code = """
import json, PIL.Image as image
image.init()
def registries():
    return [list(image.ID), sorted(image.OPEN), sorted(image.SAVE), sorted(image.SAVE_ALL),
            sorted(image.EXTENSION.items()), sorted(image.MIME.items())]
before = registries()
import licodec
print(json.dumps([[each for each in after if each not in was] for was, after in zip(before, registries())]))
assert all([each for each in after if each in was] == was for was, after in zip(before, registries()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["LIC"], ["LIC"], ["LIC"], [], [[".lic", "LIC"]], [["LIC", "image/x-lic"]],
    ]  # fmt: skip


def test_saving_other_formats_writes_the_same_bytes(tmp_path: Path) -> None:
    code = """
import hashlib, io, sys
if sys.argv[2] == "with":
    import licodec
import PIL.Image
picture = PIL.Image.open(sys.argv[1])
for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
    buffer = io.BytesIO()
    picture.save(buffer, name, qualty=3)
    print(name, hashlib.md5(buffer.getvalue()).hexdigest())
"""
    PIL.Image.Image.save(photo((48, 32)), tmp_path / "x.png")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "x.png"), which],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout
        for which in ("with", "without")
    ]  # fmt: skip
    assert printed[0] == printed[1] and len(printed[0].splitlines()) == 6

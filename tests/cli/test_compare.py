"""`licodec compare` with the real codec: what it writes, says and refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from licodec.evaluation import compare as room
from licodec.evaluation.peers import PEERS
from tests.sdk.fixtures import pixels

from .conftest import picture

Command = Callable[..., tuple[int, bytes, str]]


def test_the_page_lies_in_the_folder_and_json_tells_its_figures(
    licodec_command: Command, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "pages"
    status, printed, err = licodec_command(
        "compare", photo, "--quality", "30", "--peers", "webp,jpeg", "--out", out, "--device", "cpu", "--json"
    )
    assert (status, err) == (0, "")
    report = json.loads(printed)
    assert (report["input"], report["output"]) == (str(photo), str(out / "photo.html"))
    assert [one["name"] for one in report["renditions"]] == ["fhic", "webp", "jpeg"]
    assert (report["width"], report["height"], report["shown"]) == (30, 20, [0, 0, 30, 20])
    page = (out / "photo.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "<h1>photo.png</h1>" in page
    for one in report["renditions"]:
        assert one["ms_ssim"] is None and f"{one['bytes']:,}</td>" in page
    assert list(out.iterdir()) == [out / "photo.html"]


def test_without_a_folder_the_page_lies_beside_the_picture_and_a_line_sums_it_up(
    licodec_command: Command, photo: Path
) -> None:
    status, printed, err = licodec_command("compare", photo, "--peers", "webp", "--device", "cpu")
    page = photo.with_suffix(".html")
    assert (status, err) == (0, "") and page.is_file()
    assert printed.decode().startswith(f"{page}: fhic ") and " dB; webp " in printed.decode()


def test_bytes_decide_instead_of_a_quality(licodec_command: Command, photo: Path) -> None:
    arguments = ("compare", photo, "--peers", "", "--device", "cpu", "--json")
    status, printed, _ = licodec_command(*arguments, "--bytes", "600")
    (ours,) = json.loads(printed)["renditions"]
    assert status == 0 and 500 < ours["bytes"] <= 600
    status, printed, err = licodec_command(*arguments, "--bytes", "3")
    assert (status, printed) == (1, b"") and "the smallest file has" in err and err.count("\n") == 1


def test_effort_is_of_our_file(licodec_command: Command, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels(64, 64)).save(photo)
    arguments = ("compare", photo, "--peers", "", "--device", "cpu", "--json", "--quality", "60")
    sizes = [
        json.loads(licodec_command(*arguments, *effort)[1])["renditions"][0]["bytes"]
        for effort in (("--effort", "1"), ("--effort", "5"), ("--effort", "1"))
    ]
    assert sizes[0] == sizes[2] != sizes[1]
    assert licodec_command(*arguments, "--effort", "10")[0] == 2


def test_stdin_goes_into_the_folder_or_to_stdout(
    licodec_command: Command, photo: Path, tmp_path: Path
) -> None:
    arguments = ("compare", "-", "--peers", "", "--device", "cpu", "-q", "10")
    status, printed, _ = licodec_command(*arguments, stdin=photo.read_bytes())
    assert status == 0 and printed.startswith(b"<!doctype html>")
    status, _, _ = licodec_command(*arguments, "--out", tmp_path, stdin=photo.read_bytes())
    assert status == 0 and "<h1>stdin</h1>" in (tmp_path / "stdin.html").read_text()


def test_a_bad_picture_stops_no_other_and_leaves_its_old_page(
    licodec_command: Command, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(photo.read_bytes()[:600])
    (out / "half.html").write_text("old")
    sources = (tmp_path / "text.png", tmp_path / "none.png", tmp_path / "half.png", photo)
    status, printed, err = licodec_command(
        "compare", *sources, "--out", out, "--peers", "webp", "--device", "cpu"
    )
    assert status == 1 and printed.count(b"\n") == 1
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(source) for source in sources[:3]]
    assert "no such picture" in lines[0] and "No such file" in lines[1]
    assert sorted(file.name for file in out.iterdir()) == ["half.html", "photo.html"]
    assert (out / "half.html").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--quality", "50", "--bytes", "1000"), "--quality and --bytes"),
        (("--quality", "101"), "101"),
        (("--bytes", "0"), "0"),
        (("--peers", "webp,mozjpeg"), "mozjpeg"),
        (("--crop", "1,2,3"), "crop"),
        (("--codec", "nothing"), "nothing"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    licodec_command: Command, photo: Path, arguments: tuple[str, ...], words: str
) -> None:
    status, printed, err = licodec_command("compare", photo, *arguments)
    assert (status, printed) == (2, b"") and words in err and err.count("\n") == 1
    assert not photo.with_suffix(".html").exists()


def test_a_file_can_be_no_folder_and_two_pages_no_file(
    licodec_command: Command, photo: Path, tmp_path: Path
) -> None:
    assert licodec_command("compare", photo, "--out", photo)[0] == 2
    other = picture(tmp_path / "photo.ppm")
    status, _, err = licodec_command("compare", photo, other, "--out", tmp_path / "out")
    assert status == 2 and "would both be written" in err


def test_a_part_outside_the_picture_is_refused(licodec_command: Command, photo: Path) -> None:
    status, _, err = licodec_command("compare", photo, "--crop", "0,0,31,20", "--device", "cpu")
    assert status == 1 and "30 x 20 pixels" in err


def test_a_peer_that_is_not_installed_is_left_out_or_refused_where_it_was_asked_for(
    licodec_command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    status, _, err = licodec_command("compare", photo, "--peers", "webp,avif")
    assert status == 1 and "peer avif needs a Pillow built with avif" in err
    monkeypatch.setattr(room, "PEERS", {**PEERS, "jxl": dataclasses.replace(PEERS["webp"], feature="avif")})
    status, printed, err = licodec_command("compare", photo, "--json", "--device", "cpu")
    report = json.loads(printed)
    assert (status, err) == (0, "")
    assert [one["name"] for one in report["renditions"]] == ["fhic", "webp"]
    assert set(report["left_out"]) == {"avif", "jxl"}
    assert "AVIF default (speed 6, 4:2:0) is left out" in photo.with_suffix(".html").read_text()


def test_what_becomes_of_cmyk_is_said_on_stderr_and_on_the_page(
    licodec_command: Command, tmp_path: Path
) -> None:
    Image.new("CMYK", (9, 9), (10, 200, 30, 0)).save(tmp_path / "print.jpg")
    status, _, err = licodec_command("compare", tmp_path / "print.jpg", "--peers", "", "--device", "cpu")
    assert status == 0 and "mode CMYK is stored as RGB" in err
    assert "CMYK, converted to sRGB." in (tmp_path / "print.html").read_text()


def test_bench_writes_a_page_where_it_is_told(
    licodec_command: Command, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("bench", "--images", photo, "--codecs", "jpeg,webp", "--quick", "--html")
    status, out, err = licodec_command(*arguments)
    assert (status, err) == (0, "") and "| WebP m6 |" in out.decode()
    assert "<h1>photo.png, 1 picture</h1>" in (tmp_path / "bench.html").read_text()
    (tmp_path / "bench.html").unlink()
    assert licodec_command(*arguments, "--out", "deep/er")[0] == 0
    assert (tmp_path / "deep/er/bench.html").is_file() and not (tmp_path / "bench.html").exists()
    status, _, err = licodec_command("bench", "--images", photo, "--lossless", "--html")
    assert status == 2 and "--html" in err

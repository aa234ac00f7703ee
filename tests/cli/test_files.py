"""encode and decode: names, streams, exit status. One bad file stops no other; nothing is half written."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import licodec

from .conftest import SIGNATURE, FakeEncoder, picture

pytestmark = pytest.mark.usefixtures("fake_sdk")

Command = Callable[..., tuple[int, bytes, str]]


def test_without_o_the_result_lies_beside_the_input(licodec_command: Command, photo: Path) -> None:
    status, out, err = licodec_command("encode", photo)
    assert (status, err) == (0, "")
    assert photo.with_suffix(".lic").read_bytes().startswith(SIGNATURE)
    assert b"photo.lic: 30x20, " in out


def test_options_reach_the_sdk(
    licodec_command: Command, photo: Path, fake_sdk: list[dict[str, Any]], tmp_path: Path
) -> None:
    status, _, err = licodec_command(
        *("encode", photo, "-q", "12.5", "-c", "fhic", "--order", "checkerboard", "--tune", "psnr"),
        *("--device", "cpu", "--threads", "2", "--weights", tmp_path, "--download", "never"),
    )
    assert (status, err) == (0, "")
    place = {"device": "cpu", "threads": 2, "weights": str(tmp_path), "download": "never"}
    assert fake_sdk == [{"codec": "fhic", "quality": 12.5, "order": "checkerboard", "tune": "psnr", **place}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-q", "x"),
        ("-q", "-1"),
        ("-q", "101"),
        ("-q", "nan"),
        ("-q", ""),
        ("--device", "gpu"),
        ("-j", "0"),
        ("--nonsense",),
    ],
)
def test_wrong_options_are_usage_errors_in_one_line_and_write_nothing(
    licodec_command: Command, photo: Path, arguments: tuple[str, ...]
) -> None:
    status, out, err = licodec_command("encode", photo, *arguments)
    assert (status, out) == (2, b"")
    assert err.startswith("licodec: ") and err.count("\n") == 1 and "licodec encode --help" in err
    assert os.listdir(photo.parent) == ["photo.png"]


@pytest.mark.parametrize("output", ["new/", "existing"])
def test_o_names_a_folder_for_many_inputs(licodec_command: Command, tmp_path: Path, output: str) -> None:
    (tmp_path / "existing").mkdir()
    sources = [picture(tmp_path / f"{name}.png") for name in "ab"]
    assert licodec_command("encode", *sources, "-o", f"{tmp_path}/{output}")[0] == 0
    assert sorted(os.listdir(tmp_path / output)) == ["a.lic", "b.lic"]


def test_names_that_clash_are_usage_errors_before_any_work(licodec_command: Command, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "sub" / "a.png")
    status, _, err = licodec_command("encode", a, b, "-o", tmp_path / "out/")
    assert status == 2 and "would both be written" in err
    status, _, err = licodec_command("encode", a, "-o", a)
    assert status == 2 and "overwrite the input" in err
    status, _, err = licodec_command("encode", a, b, "-o", "-")
    assert status == 2 and "takes one input" in err
    (tmp_path / "file").write_bytes(b"kept")
    status, _, err = licodec_command("encode", a, b, "-o", tmp_path / "file")
    assert status == 2 and "must be a folder" in err and (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_file_that_fails_is_named_and_the_others_are_done(
    licodec_command: Command, tmp_path: Path, jobs: str
) -> None:
    good = [picture(tmp_path / f"good{i}.png", i) for i in range(4)]
    (tmp_path / "text.png").write_bytes(b"no picture")
    truncated = tmp_path / "cut.png"
    truncated.write_bytes(good[0].read_bytes()[:200])
    sources = [good[0], tmp_path / "missing.png", good[1], tmp_path / "text.png", good[2], truncated, good[3]]
    status, out, err = licodec_command("encode", *sources, "-j", jobs)
    assert status == 1
    lines = err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [str(sources[i]) for i in (1, 3, 5)]
    assert lines[0].endswith("missing.png: No such file or directory")
    assert lines[1].endswith("text.png: Pillow reads no such picture")
    assert [line.split(b":")[0] for line in out.splitlines()] == [bytes(p.with_suffix(".lic")) for p in good]
    assert sorted(p.name for p in tmp_path.glob("*.lic")) == [f"good{i}.lic" for i in range(4)]


def test_a_damaged_lic_file_leaves_the_old_output_as_it_was(licodec_command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.lic").write_bytes(b"garbage")
    (tmp_path / "bad.png").write_bytes(b"old")
    status, _, err = licodec_command("decode", tmp_path / "bad.lic")
    assert status == 1 and err == f"licodec: {tmp_path / 'bad.lic'}: not a .lic file (at byte 0)\n"
    assert (tmp_path / "bad.png").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2


def test_a_target_that_can_not_be_written_is_named(
    licodec_command: Command, photo: Path, tmp_path: Path
) -> None:
    target = tmp_path / "no" / "x.lic"
    status, _, err = licodec_command("encode", photo, "-o", target)
    assert status == 1
    assert err == f"licodec: {photo}: No such file or directory: {target}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_is_named(licodec_command: Command, photo: Path) -> None:
    status, _, err = licodec_command("encode", photo, "-o", "/dev/full")
    assert status == 1 and err == f"licodec: {photo}: No space left on device: /dev/full\n"


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.tiff", "x.webp"])
def test_a_result_is_not_named_as_a_picture_of_another_format(
    licodec_command: Command, photo: Path, tmp_path: Path, name: str
) -> None:
    status, _, err = licodec_command("encode", photo, "-o", tmp_path / name)
    assert status == 2 and name in err and "end it in .lic" in err and not (tmp_path / name).exists()
    for other in ("x", "x.tmp", "x.LIC"):
        assert licodec_command("encode", photo, "-o", tmp_path / other)[0] == 0


def test_decoding_a_picture_of_another_format_says_what_is_decoded(
    licodec_command: Command, photo: Path
) -> None:
    before = photo.read_bytes()
    status, _, err = licodec_command("decode", photo)
    assert status == 2 and "what is read are .lic files" in err and photo.read_bytes() == before


def test_no_overwrite_leaves_a_file_and_counts_as_failure(licodec_command: Command, photo: Path) -> None:
    target = photo.with_suffix(".lic")
    target.write_bytes(b"old")
    status, _, err = licodec_command("encode", photo, "--no-overwrite")
    assert status == 1 and "exists already" in err and target.read_bytes() == b"old"
    assert licodec_command("encode", photo)[0] == 0
    assert target.read_bytes() != b"old"


def test_a_picture_goes_through_pipes_in_both_directions(licodec_command: Command, photo: Path) -> None:
    status, coded, err = licodec_command("encode", "-", stdin=photo.read_bytes())
    assert (status, err) == (0, "") and coded.startswith(SIGNATURE)
    status, decoded, err = licodec_command("decode", "-", "-f", "bmp", stdin=coded)
    assert (status, err) == (0, "") and decoded.startswith(b"BM")
    with Image.open(io.BytesIO(decoded)) as image, Image.open(photo) as original:
        assert image.tobytes() == original.tobytes()


def test_reduce_decodes_a_smaller_picture(licodec_command: Command, photo: Path) -> None:
    with Image.open(photo) as original:
        width, height = original.size
    coded = licodec_command("encode", "-", stdin=photo.read_bytes())[1]
    status, decoded, _ = licodec_command("decode", "-", "--reduce", "4", stdin=coded)
    with Image.open(io.BytesIO(decoded)) as image:
        assert status == 0 and image.size == (-(-width // 4), -(-height // 4))
    status, out, err = licodec_command("decode", "-", "--reduce", "3", stdin=coded)
    assert (status, out) == (2, b"") and "expected 1, 4, 8 or 16" in err


def test_region_decodes_a_rectangle(licodec_command: Command, photo: Path) -> None:
    coded = licodec_command("encode", "-", stdin=photo.read_bytes())[1]
    status, decoded, _ = licodec_command("decode", "-", "--region", "3,4,13,10", stdin=coded)
    with Image.open(io.BytesIO(decoded)) as image, Image.open(photo) as original:
        assert status == 0 and image.tobytes() == original.crop((3, 4, 13, 10)).tobytes()
    for wrong in ("3,4,13", "3,4,13,x", "all"):
        status, out, err = licodec_command("decode", "-", "--region", wrong, stdin=coded)
        assert (status, out) == (2, b"") and "expected four whole numbers (x0, y0, x1, y1)" in err


def test_digest_reaches_the_sdk_and_is_refused_for_a_lossy_codec(
    licodec_command: Command, photo: Path
) -> None:
    assert licodec_command("encode", photo, "-c", "pilc", "--digest")[0] == 0
    assert FakeEncoder.asked == [{"strip": False, "digest": True}]
    status, _, err = licodec_command("encode", photo, "--digest")
    assert status == 2 and "digest: fhic is lossy" in err


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_binary_data_is_never_sent_to_or_taken_from_a_terminal(
    licodec_command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    if stream == "stdout":
        monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))
        status, _, err = licodec_command("encode", photo, "-o", "-")
    else:
        monkeypatch.setattr(io, "TextIOWrapper", Terminal)
        status, _, err = licodec_command("encode", "-", stdin=photo.read_bytes())
    assert status == 2 and f"{stream} is a terminal" in err


def test_json_is_one_object_a_file_and_does_not_share_stdout_with_data(
    licodec_command: Command, tmp_path: Path
) -> None:
    sources = [picture(tmp_path / f"{name}.png") for name in "ab"]
    status, out, _ = licodec_command("encode", *sources, "--json", "-q", "30")
    reports = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [report["input"] for report in reports] == [str(source) for source in sources]
    target = Path(reports[0]["output"])
    assert reports[0]["bytes"] == target.stat().st_size
    assert reports[0]["bpp"] == pytest.approx(8 * reports[0]["bytes"] / 600, abs=1e-4)
    assert reports[0]["quality"] == 30
    status, out, err = licodec_command("encode", sources[0], "--json", "-o", "-")
    assert (status, out) == (2, b"") and "both want stdout" in err


def test_quiet_prints_errors_only(licodec_command: Command, photo: Path) -> None:
    status, out, err = licodec_command("encode", photo, photo.parent / "missing.png", "--quiet")
    assert (status, out) == (1, b"") and "missing.png" in err


def test_the_suffix_of_o_names_the_format(licodec_command: Command, photo: Path) -> None:
    licodec_command("encode", photo)
    coded = photo.with_suffix(".lic")
    assert licodec_command("decode", coded, "-o", photo.parent / "out.webp")[0] == 0
    with Image.open(photo.parent / "out.webp") as image, Image.open(photo) as original:
        assert image.format == "WEBP" and image.tobytes() == original.tobytes()
    for name in ("out.xyz", "out", "other.lic"):
        status, _, err = licodec_command("decode", coded, "-o", photo.parent / name)
        assert status == 2 and name in err


def test_strip_reaches_the_sdk(licodec_command: Command, photo: Path) -> None:
    assert licodec_command("encode", photo)[0] == 0
    assert licodec_command("encode", photo, "--strip")[0] == 0
    assert FakeEncoder.asked == [{"strip": False}, {"strip": True}]


@pytest.fixture
def carrying(photo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .lic file that decodes to a picture with all metadata, 8 x 4, to be turned."""

    class WithMetadata:
        def __init__(self, **_: Any) -> None: ...

        def __call__(self, data: bytes, **_: Any) -> Image.Image:
            image = Image.new("RGB", (8, 4))
            exif = Image.Exif()
            exif[0x0112] = 6
            exif[0x010F] = "Maker"
            image.info |= {"exif": exif.tobytes(), "dpi": (300, 300), "xmp": b"<x/>", "icc_profile": b"icc"}
            return image

    monkeypatch.setitem(vars(licodec), "Decoder", WithMetadata)
    (photo.parent / "x.lic").write_bytes(b"")
    return photo.parent / "x.lic"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_metadata_of_the_decoded_picture_is_written(
    licodec_command: Command, carrying: Path, suffix: str
) -> None:
    assert licodec_command("decode", carrying, "-f", suffix)[0] == 0
    with Image.open(carrying.with_suffix(f".{suffix}")) as image:
        exif = dict(image.getexif())
        assert (exif[0x0112], exif[0x010F]) == (6, "Maker")
        assert suffix == "tiff" or len(exif) == 2
        assert (image.info["xmp"], image.info["icc_profile"]) == (b"<x/>", b"icc")
        if suffix != "webp":
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_strip_writes_no_metadata_but_how_the_picture_is_turned(
    licodec_command: Command, carrying: Path
) -> None:
    assert licodec_command("decode", carrying, "--strip")[0] == 0
    with Image.open(carrying.with_suffix(".png")) as image:
        assert dict(image.getexif()) == {0x0112: 6}
        assert not {"dpi", "xmp", "icc_profile"} & set(image.info)


@pytest.mark.parametrize("command", ["encode", "decode", "inspect"])
@pytest.mark.parametrize("name", ["", ".", "/"])
def test_what_names_no_file_is_an_error_in_one_line(
    licodec_command: Command, command: str, name: str
) -> None:
    status, _, err = licodec_command(command, name)
    assert status != 0 and len(err.splitlines()) == 1


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "gif"])
@pytest.mark.parametrize("strip", [(), ("--strip",)])
def test_a_format_that_can_not_tell_gets_the_picture_turned(
    licodec_command: Command, carrying: Path, suffix: str, strip: tuple[str, ...]
) -> None:
    status, out, _ = licodec_command("decode", carrying, "-f", suffix, "--json", *strip)
    with Image.open(carrying.with_suffix(f".{suffix}")) as image:
        assert image.size == (4, 8)
    report = json.loads(out)
    assert (status, report["width"], report["height"]) == (0, 4, 8)


def test_ctrl_c_ends_with_130_and_leaves_no_file(
    licodec_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __call__(self, image: Image.Image, **_: Any) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setitem(vars(licodec), "Encoder", Interrupted)
    sources = [picture(tmp_path / f"{name}.png") for name in "abc"]
    for jobs in ("1", "2"):
        status, _, err = licodec_command("encode", *sources, "-j", jobs)
        assert status == 130 and err.strip() == "licodec: interrupted"
    assert not list(tmp_path.glob("*.lic")) and len(os.listdir(tmp_path)) == 3


def test_missing_weights_fail_with_one_line(
    licodec_command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise licodec.WeightsError("weights fhic/s-9 are not installed")

    monkeypatch.setitem(vars(licodec), "Encoder", Without)
    assert licodec_command("encode", photo) == (1, b"", "licodec: weights fhic/s-9 are not installed\n")


def test_warnings_are_one_line_without_source_code(
    licodec_command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    class Warning_:
        def __init__(self, *_: Any, **__: Any) -> None:
            warnings.warn("the reference coder is slow", licodec.LicWarning, stacklevel=1)

        def __call__(self, image: Image.Image, **_: Any) -> bytes:
            return b"data"

    monkeypatch.setitem(vars(licodec), "Encoder", Warning_)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        status, _, err = licodec_command("encode", photo)
    assert status == 0 and err == "licodec: warning: the reference coder is slow\n"


def test_a_bar_is_drawn_only_on_a_terminal_and_only_for_several_files(
    licodec_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    sources = [picture(tmp_path / f"{name}.png") for name in "ab"]
    for chosen, drawn in ((sources, True), (sources[:1], False), ([*sources, "--quiet"], False)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert licodec_command("encode", *chosen)[0] == 0
        assert bool(terminal.getvalue()) is drawn

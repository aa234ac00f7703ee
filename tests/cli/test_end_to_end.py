"""The command line with the real codec and its installed weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from licodec.evaluation.metrics import psnr

Command = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def slope(tmp_path: Path) -> Path:
    """A smooth picture, which every quality renders well."""
    y, x = np.mgrid[0:70, 0:100]
    pixels = np.stack([x * 2, y * 3, 120 + x - y], axis=2).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slope.png")
    return tmp_path / "slope.png"


def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_survives_encode_inspect_decode(licodec_command: Command, slope: Path) -> None:
    coded, decoded = slope.with_suffix(".lic"), slope.with_name("decoded.png")
    status, out, err = licodec_command("encode", slope, "-q", "60", "--device", "cpu", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    status, out, _ = licodec_command("inspect", coded, "--json")
    header = json.loads(out)
    assert (header["width"], header["height"], header["codec"]) == (100, 70, "fhic")
    assert header["bytes"] == report["bytes"] == coded.stat().st_size
    assert header["quality"] == pytest.approx(60, abs=0.3)
    assert licodec_command("decode", coded, "-o", decoded, "--device", "cpu")[0] == 0
    assert psnr(read(slope), read(decoded)) > 28


def test_lossless_keeps_every_sample(licodec_command: Command, slope: Path) -> None:
    coded, decoded = slope.with_suffix(".lic"), slope.with_name("decoded.png")
    status, out, err = licodec_command("encode", slope, "--lossless", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["codec"], report["quality"]) == ("pilc", None)
    assert licodec_command("decode", coded, "-o", decoded)[0] == 0
    assert np.array_equal(read(slope), read(decoded))
    status, out, _ = licodec_command("inspect", coded)
    assert status == 0
    rows = dict(line.split(maxsplit=1) for line in out.decode().splitlines()[1:])
    assert rows["lossless"] == "yes" and "quality" not in rows
    for option in (["-q", "50"], ["--target-size", "5000"]):
        status, _, err = licodec_command("encode", slope, "--lossless", *option)
        assert status == 2
        assert "lossless and" in err and "are both given" in err


@pytest.mark.parametrize("strip", [False, True])
def test_metadata_is_kept_unless_stripped_and_the_picture_stays_upright(
    licodec_command: Command, slope: Path, strip: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    jpeg, decoded = slope.with_suffix(".jpg"), slope.with_name("decoded.png")
    with Image.open(slope) as image:
        image.save(jpeg, exif=exif, icc_profile=b"profile", xmp=b"<x/>", dpi=(300, 300))
    assert licodec_command("encode", jpeg, "--device", "cpu", *(["--strip"] if strip else []))[0] == 0
    assert licodec_command("decode", slope.with_suffix(".lic"), "-o", decoded, "--device", "cpu")[0] == 0
    with Image.open(decoded) as image:
        assert (image.size, image.getexif()[0x0112]) == ((100, 70), 6)
        assert image.getexif().get(0x010F) == (None if strip else "Maker")
        for name, value in (("icc_profile", b"profile"), ("xmp", b"<x/>")):
            assert image.info.get(name) == (None if strip else value)
        assert ("dpi" in image.info) is not strip


def test_a_target_is_met_and_the_quality_told(licodec_command: Command, slope: Path) -> None:
    status, out, _ = licodec_command("encode", slope, "--target-size", "400", "--json", "--device", "cpu")
    report = json.loads(out)
    assert status == 0 and 380 < report["bytes"] <= 400 and 0 < report["quality"] < 100
    status, _, err = licodec_command("encode", slope, "--target-size", "700", "-q", "50")
    assert status == 2 and "quality and target_size" in err
    status, _, err = licodec_command("encode", slope, "--target-size", "30", "--device", "cpu")
    assert status == 1 and "the smallest file has" in err


def test_several_jobs_write_the_bytes_that_one_writes(licodec_command: Command, slope: Path) -> None:
    others = [slope.with_name(f"{name}.png") for name in "abc"]
    for turn, other in enumerate(others):
        Image.fromarray(np.roll(read(slope), 20 * turn, axis=1)).save(other)
    for folder, jobs in (("one", "1"), ("three", "3")):
        arguments = ("-o", f"{slope.parent / folder}/", "-j", jobs, "--device", "cpu")
        assert licodec_command("encode", *others, *arguments)[0] == 0
    for name in "abc":
        first, second = (slope.parent / folder / f"{name}.lic" for folder in ("one", "three"))
        assert first.read_bytes() == second.read_bytes()


def test_what_the_codec_does_not_take_is_one_line_and_stops_no_other(
    licodec_command: Command, slope: Path
) -> None:
    Image.new("I;16", (8, 8), 3000).save(slope.with_name("deep.png"))
    status, _, err = licodec_command("encode", slope.with_name("deep.png"), slope, "--device", "cpu")
    assert status == 1 and err.count("\n") == 1 and "deep.png: " in err and "8 bits" in err
    assert slope.with_suffix(".lic").exists() and not slope.with_name("deep.lic").exists()


def test_alpha_comes_back_as_alpha_and_formats_without_it_say_so(
    licodec_command: Command, slope: Path
) -> None:
    given = Image.open(slope).convert("RGB")
    given.putalpha(Image.linear_gradient("L").resize(given.size))
    given.save(slope)
    assert licodec_command("encode", slope, "--device", "cpu")[0] == 0
    status, out, _ = licodec_command("inspect", slope.with_suffix(".lic"), "--json")
    assert status == 0 and json.loads(out)["alpha_bytes"] > 20
    for suffix in ("png", "webp"):
        back = slope.with_name(f"back.{suffix}")
        assert licodec_command("decode", slope.with_suffix(".lic"), "-o", back, "--device", "cpu")[0] == 0
        assert Image.open(back).getchannel("A").tobytes() == given.getchannel("A").tobytes()
    back = slope.with_name("back.jpg")
    status, _, err = licodec_command("decode", slope.with_suffix(".lic"), "-o", back, "--device", "cpu")
    assert status == 1 and "alpha" in err and err.count("\n") == 1 and not back.exists()


def test_a_truncated_file_is_refused_by_decode_and_leaves_no_output(
    licodec_command: Command, slope: Path
) -> None:
    assert licodec_command("encode", slope, "--device", "cpu")[0] == 0
    cut = slope.with_name("cut.lic")
    cut.write_bytes(slope.with_suffix(".lic").read_bytes()[:-20])
    status, out, err = licodec_command("decode", cut, "--device", "cpu")
    assert (status, out) == (1, b"") and err.startswith(f"licodec: {cut}: ") and err.count("\n") == 1
    assert not cut.with_suffix(".png").exists()


def test_an_unknown_codec_is_a_usage_error(licodec_command: Command, slope: Path) -> None:
    status, _, err = licodec_command("encode", slope, "-c", "nonsense")
    assert status == 2 and "fhic" in err and err.count("\n") == 1


def test_bench_measures_the_codec_and_draws_crops(licodec_command: Command, slope: Path) -> None:
    out = slope.parent / "out"
    arguments = (
        "--codecs",
        "fhic,webp",
        "--qualities",
        "20,50,80",
        "--device",
        "cpu",
        "--quick",
        "--out",
        out,
    )
    status, table, err = licodec_command("bench", "--images", slope, *arguments)
    assert (status, err) == (0, "")
    assert "| fhic s-" in table.decode() and "decode by stage" in table.decode()
    found = json.loads((out / "bench.json").read_text())["codecs"]["fhic"]
    assert found["settings"] == [20, 50, 80] and found["bpp"] == sorted(found["bpp"])
    assert set(found["times_ms"]["decode"]["stages_median"]) >= {"network", "exact", "entropy"}
    assert found["checks"]["bits_against_estimate"]["holds"]
    assert (out / "crops.png").stat().st_size > 1000

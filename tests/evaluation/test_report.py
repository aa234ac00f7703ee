import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from licodec.evaluation.bench import BenchOptions, BenchResult, Classical, CodecResult, Subject, Trial, run
from licodec.evaluation.crops import CROP, crop_sheet, equal_bytes, setting_near, spread
from licodec.evaluation.environments import Row
from licodec.evaluation.metrics import Pixels
from licodec.evaluation.pictures import KODAK, Source
from licodec.evaluation.rate_distortion import anchor
from licodec.evaluation.report import markdown, to_json, write

Make = Callable[..., Source]


@pytest.fixture(scope="module")
def peers() -> list[Subject]:
    return [Classical("jpeg", (10, 30, 60, 90)), Classical("webp", (5, 30, 60, 90))]


@pytest.fixture
def result(make_source: Make, peers: list[Subject]) -> BenchResult:
    return run(
        peers,
        [make_source("a"), make_source("b", seed=2)],
        BenchOptions("dir/set", ms_ssim=False, quick=True),
    )


def as_kodak(name: str) -> BenchResult:
    """A run that repeats a published curve: the same point for each of the 24 pictures."""
    curve = anchor(name)
    assert curve.msssim is not None
    trials = [
        Trial(picture, float(i), 80_000, round(10_000 * bpp), psnr, score, (2.0,), (1.0,), ({},), ({},), None)
        for picture in KODAK
        for i, (bpp, psnr, score) in enumerate(zip(curve.bpp, curve.psnr, curve.msssim, strict=True))
    ]
    settings = tuple(float(i) for i in range(len(curve.bpp)))
    codec = CodecResult("ours", "Ours", "learned", settings, tuple(trials))
    return BenchResult({}, "kodak", dict.fromkeys(KODAK, (512, 768, 3)), True, (codec,))


def test_on_kodak_the_table_gives_the_deltas_against_published_curves() -> None:
    text = markdown(as_kodak("avif-default"))
    assert "+49.8 % (27.3-41.9 dB)" in text and "+47.5 %" in text and "+12.4 %" in text
    found = to_json(as_kodak("avif-default"))["codecs"]["ours"]["bd_rate"]["VTM-18.0"]
    assert found["psnr"]["value"] == pytest.approx(49.8, abs=0.06)
    assert found["psnr_30_38"]["value"] == pytest.approx(47.5, abs=0.06)


def test_on_other_pictures_published_curves_do_not_appear(result: BenchResult) -> None:
    text = markdown(result)
    assert "VTM" not in text.replace("no comparison", "") and "no comparison with published curves" in text
    assert set(to_json(result)["codecs"]["webp"]["bd_rate"]) == {"JPEG 4:2:0 optimize"}


def test_json_has_every_picture_with_bytes_and_psnr_at_every_setting(result: BenchResult) -> None:
    found = to_json(result)["codecs"]["jpeg"]
    assert set(found["per_picture"]) == {"a", "b"}
    for picture in found["per_picture"].values():
        assert len(picture["bytes"]) == len(picture["psnr"]) == len(found["settings"]) == 4
    pixels = 192 * 256
    assert found["bpp"][2] == pytest.approx(
        np.mean([8 * found["per_picture"][name]["bytes"][2] / pixels for name in "ab"]), abs=1e-5
    )


def test_equal_pictures_leave_json_valid(make_source: Make) -> None:
    class Lossless:
        name, title, kind, settings = "raw", "Raw", "learned", (0.0,)

        def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
            self.pixels = pixels
            return pixels.tobytes()

        def decode(self, data: bytes, stages: dict[str, float]) -> Pixels:
            return self.pixels

    result = run([Lossless()], [make_source("a")], BenchOptions("x", ms_ssim=False, quick=True))
    text = json.dumps(to_json(result), allow_nan=False)
    assert json.loads(text)["codecs"]["raw"]["psnr"] == [None]
    assert "Raw" in markdown(result)


def test_environments_appear_in_table_and_json() -> None:
    row = Row("oneDNN off", 6, 5, (), 71.0, float("inf"), 60.0)
    run = dataclasses.replace(as_kodak("webp-m6"), across={"ours": [row]})
    assert "| oneDNN off | 6 | 5 | identical | 71.0 | equal | yes |" in markdown(run)
    found = json.loads(json.dumps(to_json(run), allow_nan=False))["environments"]["ours"][0]
    assert found["holds"] is True and found["back"] is None and found["there"] == 71.0


def test_write_leaves_json_table_and_a_plot_that_opens(result: BenchResult, tmp_path: Path) -> None:
    data, table, plot = write(result, tmp_path / "deep" / "out")
    assert json.loads(data.read_text())["codecs"].keys() == {"jpeg", "webp"}
    assert table.read_text() == markdown(result)
    with Image.open(plot) as image:
        image.load()
        assert image.format == "PNG" and image.width > 700


def test_crop_sheet_shows_peers_at_no_more_bytes_than_ours(make_source: Make, tmp_path: Path) -> None:
    source, ours = make_source("photo", 300, 400), Classical("jpeg444", (40,))
    row = equal_bytes(source, ours, 40)
    size = int(row[1].figures.split()[0])
    assert [panel.title.split(",")[0] for panel in row[:3]] == [
        "photo",
        "JPEG 4:4:4 optimize",
        "JPEG 4:2:0 optimize",
    ]
    assert all(int(panel.figures.split()[0]) <= size for panel in row[2:])
    assert (row[0].pixels == source.pixels()[22:278, 72:328]).all()
    crop_sheet([row, row], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > len(row) * CROP and sheet.height > 2 * CROP


def test_crop_sheet_takes_pictures_smaller_than_a_crop(make_source: Make, tmp_path: Path) -> None:
    row = equal_bytes(make_source("tiny", 17, 23), Classical("jpeg"), 50, peers=("webp",))
    crop_sheet([row], tmp_path / "sheet.png")
    assert row[0].pixels.shape == (17, 23, 3)


def test_pictures_for_crops_are_spread_over_the_set_and_the_setting_is_the_nearest(
    make_source: Make, result: BenchResult
) -> None:
    names = [source.name for source in spread([make_source(f"{i:02d}", 8, 8) for i in range(24)])]
    assert names == ["04", "12", "20"]
    curve = result.codecs[0].curve
    assert setting_near(result.codecs[0], curve.bpp[2] * 1.01) == 60

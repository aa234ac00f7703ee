"""Pictures go through imageio and NumPy with all that belongs to them."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest

import licodec
from examples import imageio_pipeline
from tests.examples.page import masked, shown


def test_the_page_shows_what_it_prints(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = shown("python examples/imageio_pipeline.py")
    assert imageio_pipeline.main(command.arguments) == 1  # one is damaged
    # The damage is where half of the file is: that byte, and the checksums, are the weights' business.
    said, expected = (
        [line for line in masked(lines) if not line.startswith("damaged")]
        for lines in (capsys.readouterr().out.splitlines(), command.lines)
    )
    assert said == expected
    out = here / "out" / "stretched"
    assert {path.stem for path in out.iterdir()} == {*(f"crop-{number}" for number in range(1, 7)), "round"}
    for name in ("crop-6", "round"):
        picture = iio.imread(out / f"{name}.lic")
        assert picture[..., :3].min() < 20 and picture[..., :3].max() > 235


def test_metadata_orientation_and_alpha_go_along(tmp_path: Path) -> None:
    planes = np.tile(np.linspace(60, 180, 96).astype(np.uint8)[:, None, None], (1, 64, 4))
    planes[:, :, 3] = np.arange(64) * 4
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    source, target = tmp_path / "a.lic", tmp_path / "b.lic"
    more = {"exif": exif, "icc_profile": b"profile", "xmp": b"<xmp/>", "dpi": (300, 300)}
    licodec.save(planes, source, quality=90, **more)  # type: ignore[arg-type]
    said = imageio_pipeline.improve(source, target, quality=90, percent=1)
    assert said.startswith("64 x 96 RGBA, ")
    before, after = iio.immeta(source), iio.immeta(target)
    for name in ("icc_profile", "exif", "xmp", "dpi", "Orientation", "mode"):
        assert before[name] == after[name]
    assert after["Orientation"] == 6
    picture = iio.imread(target)
    np.testing.assert_array_equal(picture[..., 3], planes[..., 3])
    assert np.ptp(picture[..., 1]) > 1.7 * np.ptp(planes[..., 1])


def test_contrast_is_stretched_as_asked() -> None:
    ramp = np.arange(50, 150, dtype=np.uint8)[:, None].repeat(3, 1)
    assert [imageio_pipeline.stretch(ramp, 0)[at, 0] for at in (0, -1)] == [0, 255]
    wide = imageio_pipeline.stretch(ramp, 10)
    assert (wide == 0).sum() == (wide == 255).sum() and 30 <= (wide == 0).sum() <= 36
    flat = np.full((4, 4), 77, np.uint8)
    assert imageio_pipeline.stretch(flat, 1).tolist() == np.zeros((4, 4), int).tolist()


def test_a_picture_too_large_is_left_alone_without_decoding(
    tmp_path: Path, lics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imageio_pipeline, "MOST_PIXELS", 256 * 256 - 1)
    half = tmp_path / "half.lic"
    data = (lics / "crop-1.lic").read_bytes()
    half.write_bytes(data[: len(data) // 2])  # decoding would fail
    said = imageio_pipeline.improve(half, tmp_path / "b.lic", quality=80, percent=1)
    assert said == "left alone, 256 x 256 pixels are too many" and not (tmp_path / "b.lic").exists()

import math

import numpy as np
import pytest

from licodec.evaluation.metrics import Pixels, bits_per_pixel, ms_ssim, ms_ssim_db, psnr


def test_psnr_averages_the_squared_error_over_the_three_channels_together() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    one_channel_off = black.copy()
    one_channel_off[..., 1] = 30
    assert psnr(black, one_channel_off) == pytest.approx(10 * math.log10(255**2 / (900 / 3)), abs=1e-9)


def test_psnr_does_not_wrap_around_when_the_decoded_value_is_larger() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == pytest.approx(0.0)
    assert psnr(black + np.uint8(255), black) == pytest.approx(0.0)


def test_equal_pictures_have_infinite_psnr_and_ms_ssim_of_one(pixels: Pixels) -> None:
    assert psnr(pixels, pixels) == math.inf
    assert ms_ssim(pixels, pixels) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("side", [1, 160])
def test_ms_ssim_is_not_given_where_the_fifth_scale_does_not_fit(side: int) -> None:
    small = np.zeros((side, 400, 3), np.uint8)
    assert ms_ssim(small, small) is None


def test_ms_ssim_falls_with_noise_and_reads_well_in_db(pixels: Pixels) -> None:
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    score = ms_ssim(pixels, noisy)
    assert score is not None and 0.5 < score < 0.999
    assert ms_ssim_db(0.9) == pytest.approx(10.0)
    assert ms_ssim_db(1.0) == math.inf


def test_float_pictures_and_different_shapes_are_refused_by_name() -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="decoded: expected uint8"):
        psnr(good, good.astype(np.float32))
    with pytest.raises(ValueError, match="decoded: expected the reference's shape"):
        psnr(good, good[:2])


def test_rate_counts_whole_files() -> None:
    assert bits_per_pixel(12288, 768 * 512) == 0.25

"""The expected figures are those that authors or independent tools give for the same points."""

import math

import pytest

from licodec.evaluation.rate_distortion import (
    MS_SSIM_ANCHOR,
    WINDOW_DB,
    Curve,
    anchor,
    anchors,
    bd_psnr,
    bd_rate,
    rate_at,
)

STATED = {
    # curve: (against VTM-18.0, against VTM-9.1), per cent over the whole overlap
    "VTM-18.0": (0.0, -0.2),
    "VTM-9.1": (0.2, 0.0),
    "AV1-libaom": (17.3, 16.2),
    "BPG-444": (23.6, 22.0),
    "bmshj2018-hyperprior": (31.2, 30.5),
    "mbt2018-mean": (22.0, 21.3),
    "QARV": (-5.9, -5.9),
    "EVC-SS": (7.7, 7.1),
    "LALIC": (-14.7, -15.3),
    "HPCM-Large": (-19.4, -20.0),
    "shallow-NTC-2layer": (35.7, 34.7),
    "Cool-chic-5.0": (-6.1, -6.6),
}
STATED_CLASSICAL = {
    # curve: (overlap, 30-38 dB against VTM-18.0, MS-SSIM in dB against VTM-9.1)
    "jpeg-420": (199.4, 167.8, 111.5),
    "jpeg-444": (205.4, 177.3, 98.2),
    "jpeg2000": (46.9, 55.0, 49.8),
    "jxl-e7": (102.1, 91.9, 51.1),
    "webp-m6": (78.9, 76.8, 55.8),
    "avif-default": (49.8, 47.5, 12.4),
    "avif-444-psnr": (33.2, 36.0, 27.4),
}


def value(reference: str, test: str, **options: float) -> float:
    found = bd_rate(anchor(reference), anchor(test), **options)  # type: ignore[arg-type]
    assert found is not None
    return found.value


@pytest.mark.parametrize("name", STATED)
def test_bd_rate_reproduces_the_figures_of_published_curves(name: str) -> None:
    against_18, against_9 = STATED[name]
    assert value("VTM-18.0", name) == pytest.approx(against_18, abs=0.06)
    assert value("VTM-9.1", name) == pytest.approx(against_9, abs=0.06)


def test_bd_rate_reproduces_what_authors_state_to_two_digits() -> None:
    assert value("VTM-9.1", "LALIC") == pytest.approx(-15.27, abs=0.02)
    assert value("VTM-18.0", "HPCM-Large") == pytest.approx(-19.39, abs=0.02)


@pytest.mark.parametrize("name", STATED_CLASSICAL)
def test_bd_rate_reproduces_the_measured_classical_codecs(name: str) -> None:
    overlap, window, scores = STATED_CLASSICAL[name]
    assert value("VTM-18.0", name) == pytest.approx(overlap, abs=0.06)
    assert value("VTM-18.0", name, lo=WINDOW_DB[0], hi=WINDOW_DB[1]) == pytest.approx(window, abs=0.06)
    found = bd_rate(anchor(MS_SSIM_ANCHOR), anchor(name), metric="msssim")
    assert found is not None and found.value == pytest.approx(scores, abs=0.06)


def test_bd_psnr_and_rates_at_fixed_quality_reproduce_the_stated_ones() -> None:
    gain = bd_psnr(anchor("VTM-18.0"), anchor("QARV"))
    assert gain is not None and gain.value == pytest.approx(0.31, abs=0.006)
    for decibel, rate in ((30, 0.176), (34, 0.462), (38, 0.962)):
        assert rate_at(anchor("VTM-18.0"), decibel) == pytest.approx(rate, abs=0.0006)
    assert rate_at(anchor("QARV"), 30) is None


def test_a_curve_with_half_the_bits_is_minus_fifty_per_cent_over_the_stated_range() -> None:
    full = Curve("full", (0.2, 0.5, 1.0, 2.0), (30.0, 33.0, 36.0, 40.0))
    half = Curve("half", tuple(rate / 2 for rate in full.bpp), full.psnr)
    found = bd_rate(full, half, lo=31.0)
    assert found is not None
    assert found.value == pytest.approx(-50.0)
    assert (found.lo, found.hi) == (31.0, 40.0)


def test_curves_that_share_no_range_have_no_delta() -> None:
    low, high = Curve("low", (0.1, 0.2), (25.0, 28.0)), Curve("high", (1.0, 2.0), (35.0, 40.0))
    assert bd_rate(low, high) is None
    assert bd_psnr(low, high) is None


def test_falling_quality_is_refused_by_name_and_left_out_by_usable() -> None:
    bad = Curve("bad", (0.1, 0.2, 0.3, 0.4), (25.0, 28.0, 27.5, 30.0))
    good = Curve("good", (0.1, 0.4), (25.0, 30.0))
    with pytest.raises(ValueError, match=r"curve bad: psnr must rise.*0\.2000 bpp.*0\.3000 bpp"):
        bd_rate(good, bad)
    assert bad.usable().bpp == (0.1, 0.2, 0.4)
    assert bd_rate(good, bad.usable()) is not None


def test_lossless_points_do_not_enter_a_delta() -> None:
    assert Curve("c", (0.1, 0.2, 9.0), (25.0, 28.0, math.inf)).usable().psnr == (25.0, 28.0)


def test_every_anchor_names_its_source_and_an_unknown_name_lists_them() -> None:
    assert all(curve.source for curve in anchors().values())
    with pytest.raises(ValueError, match=r"VTM-18\.0"):
        anchor("VTM")

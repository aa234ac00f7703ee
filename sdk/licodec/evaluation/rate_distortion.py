"""Rate-distortion curves, the anchors they are held against, and Bjontegaard deltas.

A curve is a list of operating points averaged over a set of pictures. `bd_rate` says how many per cent more
(or, negative, fewer) bits one curve needs than another at the same distortion. It depends on the range of
distortion that both curves cover, so the range is always part of the result. Never compare curves of
different picture sets.

    >>> vtm = anchor("VTM-18.0")
    >>> round(bd_rate(vtm, anchor("QARV")).value, 1)
    -5.9

Source: G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, with
monotone piecewise cubic interpolation (PCHIP) instead of one cubic, which curves over a wide range need.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np

from .metrics import ms_ssim_db

Metric = Literal["psnr", "msssim"]

DEFAULT_ANCHOR = "VTM-18.0"
# The VTM-18.0 points carry no MS-SSIM; the VTM-9.1 file does.
MS_SSIM_ANCHOR = "VTM-9.1"
# Where the interesting rates are; curves that reach far beyond are only comparable inside one window.
WINDOW_DB = (30.0, 38.0)


@dataclass(frozen=True)
class Curve:
    """Operating points of one codec over one set of pictures, from low to high rate.

    `bpp` are bits per pixel of whole files, `psnr` dB, `msssim` scores 0..1 (or None); means over the
    pictures. `settings` are the codec's own numbers for the points, where known.
    """

    name: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    msssim: tuple[float, ...] | None = None
    settings: tuple[float, ...] | None = None
    source: str = ""

    def distortion(self, metric: Metric) -> tuple[float, ...]:
        """Return the points' dB values; raises ValueError where the curve has none for this metric."""
        if metric == "psnr":
            return self.psnr
        if self.msssim is None:
            raise ValueError(f"curve {self.name}: has no MS-SSIM values")
        return tuple(ms_ssim_db(value) for value in self.msssim)

    def usable(self, metric: Metric = "psnr") -> Curve:
        """Return the curve, sorted by rate, without points that another point beats in rate and distortion.

        Interpolation needs rising curves. Real codecs have rare points that cost more bits for less quality;
        they are left out here and reported by the bench's own check of monotonicity.
        """
        values = self.distortion(metric)
        kept: list[int] = []
        best = -math.inf
        for i in sorted(range(len(self.bpp)), key=lambda i: (self.bpp[i], -values[i])):
            if best < values[i] < math.inf:
                kept.append(i)
                best = values[i]
        return Curve(
            self.name,
            _take(self.bpp, kept),
            _take(self.psnr, kept),
            None if self.msssim is None else _take(self.msssim, kept),
            None if self.settings is None else _take(self.settings, kept),
            self.source,
        )


@dataclass(frozen=True)
class Delta:
    """A Bjontegaard delta and the range it was taken over.

    BD-rate: `value` in per cent, negative where the tested codec's files are smaller; `lo` and `hi` in dB.
    BD-PSNR: `value` in dB; `lo` and `hi` in bpp.
    """

    value: float
    lo: float
    hi: float


def bd_rate(
    reference: Curve, test: Curve, *, metric: Metric = "psnr", lo: float = -math.inf, hi: float = math.inf
) -> Delta | None:
    """Return the mean rate difference of `test` against `reference` in per cent.

    ln(bpp) is interpolated as a function of the metric (dB), and both curves are integrated exactly over the
    range that they share inside `lo`..`hi` (dB). None when they share no range. Raises ValueError for curves
    with fewer than two points, or whose distortion does not rise with the rate (see `Curve.usable`).
    """
    curves = [_rising(curve, metric) for curve in (reference, test)]
    lo = max(lo, *(values[0] for _, values in curves))
    hi = min(hi, *(values[-1] for _, values in curves))
    if hi <= lo:
        return None
    gap = [_mean_over(values, np.log(rates), lo, hi) for rates, values in curves]
    return Delta(100 * math.expm1(gap[1] - gap[0]), lo, hi)


def bd_psnr(reference: Curve, test: Curve, *, metric: Metric = "psnr") -> Delta | None:
    """Return the mean gain in dB of `test` over `reference` over their common range of ln(bpp)."""
    curves = [_rising(curve, metric) for curve in (reference, test)]
    lo = max(math.log(rates[0]) for rates, _ in curves)
    hi = min(math.log(rates[-1]) for rates, _ in curves)
    if hi <= lo:
        return None
    mean = [_mean_over(np.log(rates), values, lo, hi) for rates, values in curves]
    return Delta(mean[1] - mean[0], math.exp(lo), math.exp(hi))


def rate_at(curve: Curve, decibel: float, *, metric: Metric = "psnr") -> float | None:
    """Return the bpp at which the curve reaches `decibel`, or None outside its range."""
    from scipy.interpolate import PchipInterpolator

    rates, values = _rising(curve, metric)
    if not values[0] <= decibel <= values[-1]:
        return None
    return float(np.exp(PchipInterpolator(values, np.log(rates))(decibel)))


@functools.cache
def anchors() -> dict[str, Curve]:
    """Return the curves that come with the package, by name; they hold for the 24 Kodak pictures only."""
    text = resources.files(__package__).joinpath("anchors.json").read_text("utf-8")
    return {name: _curve(name, fields) for name, fields in json.loads(text)["curves"].items()}


def anchor(name: str = DEFAULT_ANCHOR) -> Curve:
    """Return one of `anchors()`; raises ValueError naming the known ones."""
    known = anchors()
    if name not in known:
        raise ValueError(f"anchor {name!r}: not known; there are {', '.join(known)}")
    return known[name]


def _curve(name: str, fields: dict[str, Any]) -> Curve:
    columns = {key: tuple(fields[key]) for key in ("bpp", "psnr", "msssim", "settings") if key in fields}
    return Curve(name, source=fields["source"], **columns)


def _take(values: Sequence[float], kept: list[int]) -> tuple[float, ...]:
    return tuple(values[i] for i in kept)


def _rising(curve: Curve, metric: Metric) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rates, values = np.asarray(curve.bpp), np.asarray(curve.distortion(metric))
    if len(rates) < 2:
        raise ValueError(f"curve {curve.name}: needs at least 2 points, has {len(rates)}")
    order = np.argsort(rates, kind="stable")
    rates, values = rates[order], values[order]
    for i in range(1, len(rates)):
        if rates[i] <= rates[i - 1] or values[i] <= values[i - 1]:
            raise ValueError(
                f"curve {curve.name}: {metric} must rise with the rate, but {rates[i - 1]:.4f} bpp has "
                f"{values[i - 1]:.3f} dB and {rates[i]:.4f} bpp has {values[i]:.3f} dB; drop the worse point "
                f"(Curve.usable does)"
            )
    return rates, values


def _mean_over(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], lo: float, hi: float) -> float:
    from scipy.interpolate import PchipInterpolator

    return float(PchipInterpolator(x, y).integrate(lo, hi)) / (hi - lo)

"""What a bench run must show beside its figures: quality means something, and the rate model is honest.

>>> from licodec.evaluation.bench import CodecResult
>>> checks(CodecResult("none", "none", "learned", (), ()))["mean_over_quality"]["holds"]
True
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from .bench import CodecResult, Trial

STEP = 5.0
"""Single pictures are held to rising size and PSNR only between qualities at least this far apart."""

ESTIMATE_SHARE = 0.003
ESTIMATE_BYTES = 100


def checks(result: CodecResult) -> dict[str, Any]:
    """Return the checks of one codec, each with `holds` and what it found where it doesn't hold."""
    found: dict[str, Any] = {
        "mean_over_quality": _verdict(list(_mean_violations(result))),
        f"per_picture_in_steps_of_{STEP:g}": _verdict(list(_picture_violations(result))),
    }
    if estimated := [trial for trial in result.trials if trial.estimated_bits is not None]:
        found["bits_against_estimate"] = _against_estimate(estimated)
    return found


def _verdict(violations: list[str]) -> dict[str, Any]:
    return {"holds": not violations, "violations": violations}


def _mean_violations(result: CodecResult) -> Iterator[str]:
    """Yield where the mean size or the mean PSNR does not rise strictly from one setting to the next."""
    curve = result.curve
    for i, (low, high) in enumerate(itertools.pairwise(result.settings)):
        if curve.bpp[i + 1] <= curve.bpp[i]:
            yield f"{low:g} -> {high:g}: {curve.bpp[i]:.4f} -> {curve.bpp[i + 1]:.4f} bpp"
        if curve.psnr[i + 1] <= curve.psnr[i]:
            yield f"{low:g} -> {high:g}: {curve.psnr[i]:.3f} -> {curve.psnr[i + 1]:.3f} dB"


def _picture_violations(result: CodecResult) -> Iterator[str]:
    chain = _in_steps(result.settings)
    by_key = {(trial.picture, trial.setting): trial for trial in result.trials}
    for picture in result.pictures:
        for low, high in itertools.pairwise(chain):
            a, b = by_key[picture, low], by_key[picture, high]
            if b.bytes <= a.bytes:
                yield f"{picture} {low:g} -> {high:g}: {a.bytes} -> {b.bytes} bytes"
            if b.psnr <= a.psnr:
                yield f"{picture} {low:g} -> {high:g}: {a.psnr:.3f} -> {b.psnr:.3f} dB"


def _in_steps(settings: Sequence[float]) -> list[float]:
    chain: list[float] = []
    for setting in settings:
        if not chain or abs(setting - chain[-1]) >= STEP:
            chain.append(setting)
    return chain


def _against_estimate(trials: list[Trial]) -> dict[str, Any]:
    """Compare the bits of whole files with what the model says its symbols should cost."""
    violations = []
    for trial in trials:
        estimate = trial.estimated_bits or 0.0
        if abs(8 * trial.bytes - estimate) > ESTIMATE_SHARE * estimate + 8 * ESTIMATE_BYTES:
            where = f"{trial.picture} {trial.setting:g}"
            violations.append(f"{where}: {8 * trial.bytes} bits, estimated {estimate:.0f}")
    surplus = [trial.bytes - (trial.estimated_bits or 0.0) / 8 for trial in trials]
    return {
        **_verdict(violations),
        "mean_surplus_bytes": statistics.fmean(surplus),
        "largest_surplus_bytes": max(surplus, key=abs),
        "total_surplus_share": sum(surplus) / (sum(trial.bytes for trial in trials) or 1),
    }

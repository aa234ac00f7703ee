"""How large or how good a file is to be: a quality, or a target that is met by coding.

    goal = chosen({"target_size": 40_000})
    data = goal.met(code, likeness, pixels)

Sizes and PSNR rise with the rate index, nearly always (SPEC.md promises nothing), so that a search by halving
finds the last index below a target; a guess at the slope saves half of the codings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lic_format.errors import UsageValueError
from licodec import options

TARGETS = ("target_size", "target_bpp", "target_psnr")
_START = 128
_SIZE_SLOPE, _PSNR_SLOPE = 0.016, 0.065
"""By how much the logarithm of the size and the PSNR in dB rise from one rate index to the next, about."""

Code = Callable[[int], bytes]
Likeness = Callable[[bytes], float]


@dataclass(frozen=True)
class Goal:
    """A quality 0..100, or a target: its option and value. `strict`: a target out of reach is an error."""

    quality: float = options.DEFAULT_QUALITY
    target: str | None = None
    value: float = 0.0
    strict: bool = True

    def met(self, code: Code, likeness: Likeness, pixels: int) -> bytes:
        """The file that meets it.

        Args:
            code: the file at a rate index 0..255. likeness: the PSNR in dB of what a file decodes to.
            pixels: of the picture.

        Returns the file at the quality; the largest file of at most the target's size; or the smallest file
        of at least its PSNR. Where there is none and `strict` is off, the nearest to it.

        Raises UsageValueError: strict, and out of reach; says what is in reach.
        """
        if self.target is None:
            return code(options.rate_index(self.quality))
        files: dict[int, bytes] = {}

        def coded(rate: int) -> bytes:
            if rate not in files:
                files[rate] = code(rate)
            return files[rate]

        likenesses: dict[int, float] = {}

        def measured(rate: int) -> float:
            likenesses[rate] = likeness(coded(rate))
            return likenesses[rate]

        if self.target == "target_psnr":
            last = _last_below(self.value, measured, _PSNR_SLOPE)
            if last < options.RATE_INDICES - 1:
                return coded(last + 1)
            best = max(likenesses, key=lambda rate: likenesses[rate])
            if self.strict:
                raise self._out_of_reach(f"the best is {likenesses[best]:.2f} dB")
            return coded(best)
        most = self.value if self.target == "target_size" else self.value * pixels / 8
        fitting = math.log(math.floor(most + 1e-6) + 0.5)  # sizes are whole, and bits a pixel rarely exact
        last = _last_below(fitting, lambda rate: math.log(len(coded(rate))), _SIZE_SLOPE)
        if last < 0 and self.strict:
            size = len(coded(0))
            raise self._out_of_reach(f"the smallest file has {size} bytes ({8 * size / pixels:.4f} bpp)")
        return coded(max(last, 0))

    def _out_of_reach(self, what: str) -> UsageValueError:
        return UsageValueError(
            f"{self.target}: {self.value:g} is out of reach for this picture: {what}; strict=False takes it",
            argument=self.target or "",
        )


def chosen(given: Mapping[str, Any], quality: float = options.DEFAULT_QUALITY) -> Goal:
    """The goal of an encoding from its options (quality, target_size, target_bpp, target_psnr, strict,
    lossless); those missing or None are not given. `quality`: where nothing is said.

    Raises UsageError for a wrong value, and for two that contradict each other.
    """
    values = {name: options.check(name, given.get(name)) for name in ("quality", *TARGETS)}
    strict = options.check("strict", given.get("strict", options.default("strict")))
    named = [name for name, value in values.items() if value is not None]
    if options.check("lossless", given.get("lossless")):
        named.insert(0, "lossless")
    if len(named) > 1:
        raise UsageValueError(f"{named[0]} and {named[1]} are both given; one of them decides", named[1])
    if named in ([], ["lossless"], ["quality"]):
        return Goal(quality if values["quality"] is None else values["quality"])
    return Goal(quality, named[0], float(values[named[0]]), strict)


def _last_below(target: float, measure: Callable[[int], float], slope: float) -> int:
    """The last rate index whose measure is below the target, taking measures to rise; -1 for none.

    `slope`: by how much they rise from one index to the next, about; it leads to the other side of the
    target. From then on the line between both sides does, and where that is slow the middle.
    """
    last = options.RATE_INDICES
    low, high, at_low, at_high = -1, last, -math.inf, math.inf
    rate, reach = _START, 1
    turns = itertools.cycle((False, False, True))
    while high - low > 1:
        value = measure(rate)
        if value < target:
            low, at_low = rate, value
        else:
            high, at_high = rate, value
        if low >= 0 and high < last:
            share = 0.5 if next(turns) else (target - at_low) / (at_high - at_low)
            rate = low + round(share * (high - low))
        else:
            step = max(reach, math.ceil(min(abs(target - value) / slope, last)))  # a PSNR may be infinite
            rate, reach = (low + step if high == last else high - step), 2 * reach
        rate = min(max(rate, low + 1), high - 1)
    return low

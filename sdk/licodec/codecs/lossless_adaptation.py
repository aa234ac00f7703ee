"""What a tile of pilc says of itself before its lanes: how its nets are to be changed for it.

A group is the passes of one name in one plane and one class of lattices. For each a tile may say by how many
scales its errors differ from what its net expects, and for the groups of the finest lattice what is added to
the weights of the linear prediction: colour that was once stored at half its resolution follows one kernel
all over a picture, which one in the weights can't know.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError
from licodec.codecs.lattices import PASSES, inputs, places

CLASSES: Final = 2
"""The finest lattice, and all others."""
OFFSET_MAX: Final = 3
CORRECTED: Final = 8
NEAR: Final = 5
"""The square of the largest distance of an input whose weight is corrected."""
STEP: Final = 8
"""Of a correction, in units of the linear prediction."""

Group = tuple[int, int, str]
"""Class of lattices (0 the finest, 1 others), plane, name of the pass."""
Correction = npt.NDArray[np.int8]
"""Of the inputs that are `near`, in steps."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """offsets: -3..3 of the scales, 0 where nothing is said. corrections: of groups of class 0."""

    offsets: Mapping[Group, int] = field(default_factory=dict)
    corrections: Mapping[Group, Correction] = field(default_factory=dict)


NONE: Final = Adaptation()


def groups(planes: int) -> list[Group]:
    """All groups of a tile, in the order in which it speaks of them."""
    return [(which, p, step.name) for which in range(CLASSES) for p in range(planes) for step in PASSES]


@functools.cache
def near(plane: int, name: str) -> npt.NDArray[np.intp]:
    """Which inputs of a pass a correction is for: its own plane's within sqrt(5) samples, and all of
    earlier planes'."""
    step = next(step for step in PASSES if step.name == name)
    row, column = step.target
    distances = [
        (2 * i + phase.row - row) ** 2 + (2 * j + phase.column - column) ** 2
        for phase, i, j in places(step.seen)
    ]
    own = [number for number, distance in enumerate(distances) if distance <= NEAR]
    return np.array([*own, *range(len(distances), inputs(plane, step))], np.intp)


def write(adaptation: Adaptation, planes: int) -> bytes:
    """Nothing where nothing is said."""
    marks, corrections = [], []
    for group in groups(planes):
        mark = OFFSET_MAX + adaptation.offsets.get(group, 0)
        if (correction := adaptation.corrections.get(group)) is not None:
            mark |= CORRECTED
            corrections.append(correction.tobytes())
        marks.append(mark)
    if set(marks) == {OFFSET_MAX}:
        return b""
    return bytes(marks) + b"".join(corrections)


def read(data: bytes | memoryview, planes: int) -> Adaptation:
    """The inverse of `write`; FormatError where the bytes can't be its."""
    if not data:
        return NONE
    all_groups = groups(planes)
    offsets: dict[Group, int] = {}
    corrections: dict[Group, Correction] = {}
    at = len(all_groups)
    if len(data) < at:
        raise FormatError(f"adaptation: {len(data)} bytes, expected {at} or more", chunk="DATA")
    for group, mark in zip(all_groups, bytes(data[:at]), strict=True):
        offsets[group] = (mark & ~CORRECTED) - OFFSET_MAX
        if offsets[group] > OFFSET_MAX or (mark & CORRECTED and group[0]):
            raise FormatError(f"adaptation: {mark} for {group}, expected 0..6, or 8 more", chunk="DATA")
        if mark & CORRECTED:
            count = near(*group[1:]).size
            corrections[group] = np.frombuffer(data[at : at + count], np.int8)
            at += count
    if at != len(data):
        raise FormatError(f"adaptation: {len(data)} bytes, its marks ask for {at}", chunk="DATA")
    return Adaptation(offsets, corrections)

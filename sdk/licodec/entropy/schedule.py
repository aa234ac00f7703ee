"""The order of passes over a latent: one description for encoder, decoder and tests.

A latent [M, h, w] is coded in passes. A pass takes a range of channels at some cells of the grid; its symbols
stand in channel, row, column order.

    one_step(M)             one pass over everything
    checkerboard(groups)    for each group of channels: anchors, then the others

        a o a o     a: (row + column) even
        o a o a
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Cells = Literal["all", "anchors", "others"]


@dataclass(frozen=True)
class Pass:
    """Channels `first`..`last - 1` of a latent at `cells`; `group` is the channel group they belong to."""

    group: int
    first: int
    last: int
    cells: Cells


def positions(cells: Cells, h: int, w: int) -> npt.NDArray[np.intp]:
    """Where on an h x w grid a pass codes: row * w + column, ascending."""
    even = (np.arange(h)[:, None] + np.arange(w)[None]) % 2 == 0
    return np.flatnonzero({"all": np.ones_like(even), "anchors": even, "others": ~even}[cells])


def one_step(channels: int) -> tuple[Pass, ...]:
    return (Pass(0, 0, channels, "all"),)


def checkerboard(groups: Sequence[int]) -> tuple[Pass, ...]:
    passes, first = [], 0
    for group, width in enumerate(groups):
        for cells in ("anchors", "others"):
            passes.append(Pass(group, first, first + width, cells))
        first += width
    return tuple(passes)

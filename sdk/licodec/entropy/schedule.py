"""The order of passes over a latent: one description for encoder, decoder and tests.

A latent [M, h, w] is coded in passes. A pass takes a range of channels at some positions of the grid; its
symbols stand in channel, row, column order.

    one_step(M)                     one pass over everything
    checkerboard(groups, depths)    each group of channels in depth + 1 passes over ever denser lattices

Level 0 of the lattices is the whole grid, and every level keeps half of the one before: level 2 k has the
rows and columns that are multiples of 2^k, level 2 k + 1 those of its positions with an even
(row + column) / 2^k.
A group of depth d starts with level d; each further pass adds what the next level below has more:

    depth 1: 0 1 0 1 0     depth 3: 0 3 1 3 0
             1 0 1 0 1              3 2 3 2 3
             0 1 0 1 0              1 3 0 3 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Pass:
    """Channels `first`..`last - 1` of a latent, those of `group`, in that group's pass `number`: at the
    positions of lattice `level`, without those of the levels above it if earlier passes had them."""

    group: int
    first: int
    last: int
    level: int
    number: int


def lattice(level: int, h: int, w: int) -> npt.NDArray[np.bool_]:
    """Which positions of an h x w grid belong to a level."""
    k, odd = divmod(level, 2)
    row, column = np.arange(h)[:, None], np.arange(w)[None]
    mask: npt.NDArray[np.bool_] = (row % 2**k == 0) & (column % 2**k == 0)
    return mask & ((row + column) // 2**k % 2 == 0) if odd else mask


def positions(step: Pass, h: int, w: int) -> npt.NDArray[np.intp]:
    """Where on an h x w grid a pass codes: row * w + column, ascending."""
    mask = lattice(step.level, h, w)
    return np.flatnonzero(mask & ~lattice(step.level + 1, h, w) if step.number else mask)


def one_step(channels: int) -> tuple[Pass, ...]:
    return (Pass(0, 0, channels, level=0, number=0),)


def checkerboard(groups: Sequence[int], depths: Sequence[int]) -> tuple[Pass, ...]:
    passes, first = [], 0
    for group, (width, depth) in enumerate(zip(groups, depths, strict=True)):
        for number in range(depth + 1):
            passes.append(Pass(group, first, first + width, level=depth - number, number=number))
        first += width
    return tuple(passes)

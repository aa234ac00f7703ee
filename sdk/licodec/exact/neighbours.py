"""A convolution at some positions of a map of which only some is known: what it reads, and nothing else.

A pass of a lattice reads values of earlier passes, which lie around each of its positions in the same way,
and one and the same value wherever nothing is known yet. So its outputs are products of few values with few
weights, and a bias that holds what is unknown: all of it away from the border, less of it near, as zeros lie
beyond.

`TensorNeighbours` computes with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of a map of that width as row * width + column, int64 [n]."""

    numbers: npt.NDArray[np.int64]
    width: int

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What a k x k convolution reads at n positions.

    Attributes:
        taps: which of its k k positions are known, ascending (dy * k + dx), int64 [T].
        rows: the row of known values that each of them reads, cell by cell, int32 [n T]; the row after the
            last one holds the zeros beyond the border.
        kind: what kind of position each is, int64 [n]: they differ in what lies beyond the border.
        inside: which unknown positions lie inside the map, by kind: float64 [kinds, k k] of 0 and 1.
        pattern: the same for the same taps and kinds, as all but the smallest maps of a lattice have.
    """

    taps: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int64]
    inside: npt.NDArray[np.float64]
    pattern: bytes


def neighbours(
    known: npt.NDArray[np.intp],
    cells: npt.NDArray[np.intp],
    height: int,
    width: int,
    kernel: int,
) -> Neighbours:
    """Neighbours of `cells` on a map, all positions as row * width + column; `known` in the order in which
    their values come.

    Raises:
        ValueError: a position around cells is known for some of them and unknown for others.
    """
    edge, beyond, unknown = kernel // 2, len(known), -1
    inner = np.full(height * width, unknown)
    inner[known] = np.arange(len(known))
    table = np.full((height + 2 * edge, width + 2 * edge), beyond)
    table[edge : edge + height, edge : edge + width] = inner.reshape(height, width)
    windows = np.lib.stride_tricks.sliding_window_view(table, (kernel, kernel))
    seen = windows[cells // width, cells % width].reshape(len(cells), kernel * kernel)
    taps = np.flatnonzero(((seen != unknown) & (seen != beyond)).any(axis=0))
    rows = seen[:, taps]
    if (rows == unknown).any():
        raise ValueError("known and unknown positions do not alternate alike around all cells")
    empty = seen == unknown
    bits = empty @ (1 << np.arange(kernel * kernel))  # unique numbers are found faster than unique rows
    _, first, kind = np.unique(bits, return_index=True, return_inverse=True)
    inside = empty[first]
    return Neighbours(
        taps,
        rows.reshape(-1).astype(np.int32),
        kind.reshape(-1).astype(np.int64),
        inside.astype(np.float64),
        taps.tobytes() + np.packbits(inside).tobytes(),
    )

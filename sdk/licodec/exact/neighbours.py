"""A convolution at some positions of a map of which only some is known: what it reads, and nothing else.

A pass of a lattice reads values of earlier passes, which lie around each of its positions in the same way,
and one and the same value wherever nothing is known yet. So its outputs are products of few values with few
weights, and a bias that holds what is unknown: all of it away from the border, less of it near, as zeros lie
beyond.

    near = neighbours(known, cells, height, width, kernel)
    biases = near.biases(by_position(weight), bias, unknown)
    out = near.gather(parts) @ near.select(weight).T + biases[near.kind]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
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

    taps: Tensor
    rows: Tensor
    kind: Tensor
    inside: Tensor
    pattern: bytes

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """Known values, rows [1, n_i, C], part by part in their order, as they are read: [n, T C]."""
        channels = parts[0].shape[2]
        beyond = parts[0].new_zeros(1, 1, channels)
        rows = torch.cat([*parts, beyond], 1).view(-1, channels)
        return rows.index_select(0, self.rows).view(len(self.kind), len(self.taps) * channels)

    def select(self, weight: Tensor) -> Tensor:
        """The weights [out, C, k, k] that known values meet, in the order of `gather`: [out, T C]."""
        return weight.flatten(2).index_select(2, self.taps).permute(0, 2, 1).flatten(1)

    def biases(self, spread: Tensor, bias: Tensor, unknown: Tensor) -> Tensor:
        """Bias [out] with what the value `unknown` [C] adds to it, by kind: [kinds, out]; `spread`: weights
        as [k k out, C]. Exact in float64 where all are integers."""
        added = torch.mv(spread, unknown).view(-1, len(bias))
        return torch.addmm(bias, self.inside.to(bias.dtype), added)


def by_position(weight: Tensor) -> Tensor:
    """Weights [out, C, k, k] -> [k k out, C]."""
    return weight.permute(2, 3, 0, 1).flatten(0, 2)


def neighbours(
    known: npt.NDArray[np.intp],
    cells: npt.NDArray[np.intp],
    height: int,
    width: int,
    kernel: int,
    device: str = "cpu",
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
        torch.from_numpy(taps).to(device),
        torch.from_numpy(rows.reshape(-1).astype(np.int32)).to(device),
        torch.from_numpy(kind.reshape(-1)).to(device),
        torch.from_numpy(inside.astype(np.float64)).to(device),
        taps.tobytes() + np.packbits(inside).tobytes(),
    )

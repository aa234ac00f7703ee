"""`neighbours` for values that are torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from licodec.exact.neighbours import Neighbours


class TensorNeighbours:
    """`Neighbours` on a device; attributes as there, as tensors.

    near = TensorNeighbours(neighbours(known, cells, height, width, kernel))
    biases = near.biases(by_position(weight), bias, unknown)
    out = near.gather(parts) @ near.select(weight).T + biases[near.kind]
    """

    def __init__(self, of: Neighbours, device: str = "cpu") -> None:
        self.taps, self.rows, self.kind, self.inside = (
            torch.from_numpy(each).to(device) for each in (of.taps, of.rows, of.kind, of.inside)
        )
        self.pattern = of.pattern

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

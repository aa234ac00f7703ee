"""Integer layers on the path int16: products, requantisation and all in one compiled loop; see `fixed_point`.

The sums are those of any other path, and so are the steps after them: float64, every one of them exact.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from licodec.exact import fixed_point
from licodec.exact.fixed_point import HERE, OUTPUTS, POSITIONS, WORTH_SHARING, compiled_loops


class CompiledLayer:
    """A layer of integer weights [out, in, k, k].

    Args:
        scale: what a sum is multiplied by, float64 [out]. high: the largest output.
    """

    def __init__(self, weight: Tensor, scale: Tensor, high: int) -> None:
        self.outputs, inputs, self.kernel, _ = weight.shape
        self._lacking = inputs % 2  # they are taken in pairs
        by_tap = F.pad(weight.flatten(2).transpose(1, 2).to(torch.int16), (0, self._lacking))
        self._weights = fixed_point.packed(by_tap.numpy())
        self._all = OUTPUTS * len(self._weights)
        self._scale = _whole(scale, self._all)
        self._high = high + 0.5
        self._places = 2 * np.arange(0, self._all, OUTPUTS, dtype=np.int64)

    def of_rows(
        self, rows: Tensor, offsets: Tensor, kind: Tensor | None = None, outputs: int | None = None
    ) -> Tensor:
        """A 1x1 layer of integers [1, n, in]: int16 [1, n, out], or only the first `outputs`.

        offsets: what is added to scaled sums, float64 [out]; with `kind`, int64 [n], its rows [kinds, out].
        """
        rows = rows.to(torch.int16)
        if self._lacking:
            rows = F.pad(rows, (0, 1))
        if rows.stride(2) != 1:
            rows = rows.contiguous()
        count, wanted = rows.shape[1], self.outputs if outputs is None else outputs
        if count < POSITIONS:
            rows = F.pad(rows, (0, 0, 0, POSITIONS - count))
            kind = None if kind is None else F.pad(kind, (0, POSITIONS - count))
        step = 2 * rows.stride(1)
        out = self._run(rows, HERE, (0, step), (1, rows.shape[1]), offsets, kind, -(-wanted // OUTPUTS))
        return out[:, :count, :wanted]

    def of_map(self, x: Tensor, offsets: Tensor) -> Tensor:
        """The layer on integers [1, in, h, w], zeros beyond the border: int16 [1, out, h, w]."""
        padded, taps = self._padded(x)
        row, step = 2 * padded.stride(0), 2 * padded.stride(1)
        h, w = x.shape[2:]
        size = h, max(w, POSITIONS)
        out = self._run(padded, taps, (row, step), size, offsets, None, len(self._weights))
        return out[:, :w, : self.outputs].permute(2, 0, 1).unsqueeze(0)

    def sums(self, x: Tensor) -> Tensor:
        """The products' sums without bias of integers [1, in, h, w]: int32 [1, out, h, w]."""
        padded, taps = self._padded(x)
        h, w = x.shape[2:]
        out = torch.empty(h, max(w, POSITIONS) + POSITIONS, self._all, dtype=torch.int32)
        given = (
            self._weights.ctypes.data, taps.ctypes.data, len(taps), self._pairs(taps),
            self._places.ctypes.data, len(self._weights), 0, 1.0, padded.data_ptr(), 2 * padded.stride(0),
            2 * padded.stride(1), 0, out.data_ptr(), 2 * out.stride(0), 2 * out.stride(1), w,
        )  # fmt: skip
        compiled_loops().run("sums_rows", given, h, h)
        return out[:, :w, : self.outputs].permute(2, 0, 1).unsqueeze(0)

    def _pairs(self, taps: fixed_point.Distances) -> int:
        return int(self._weights.shape[1]) // len(taps)

    def _padded(self, x: Tensor) -> tuple[Tensor, fixed_point.Distances]:
        """[h + k - 1, w + k - 1 + ..., in] with zeros around, and the bytes from the first of what a position
        sees to all."""
        edge, w = self.kernel // 2, x.shape[3]
        rows = x[0].permute(1, 2, 0).to(torch.int16)
        behind = edge + max(0, POSITIONS - w) + POSITIONS
        padded = F.pad(rows, (0, self._lacking, edge, behind, edge, edge)).contiguous()
        row, step = 2 * padded.stride(0), 2 * padded.stride(1)
        near = range(self.kernel)
        return padded, np.array([dy * row + dx * step for dy in near for dx in near], np.int64)

    def _run(
        self,
        x: Tensor,
        taps: fixed_point.Distances,
        steps: tuple[int, int],
        size: tuple[int, int],
        offsets: Tensor,
        kind: Tensor | None,
        blocks: int,
    ) -> Tensor:
        """[h, w, 16 blocks] of what begins at x; steps: bytes to the next row and column."""
        h, w = size
        out = torch.empty(h, w, blocks * OUTPUTS, dtype=torch.int16)
        table = _whole(offsets, self._all)
        kinds, kind_step = (HERE.ctypes.data, 0) if kind is None else (kind.data_ptr(), 8)
        row, step = 2 * out.stride(0), 2 * out.stride(1)
        pieces = -(-WORTH_SHARING // (blocks * OUTPUTS * 2 * self._weights.shape[1]))
        columns = h == 1
        compiled_loops().run(
            "exact_columns" if columns else "exact_rows",
            (
                self._weights.ctypes.data, taps.ctypes.data, len(taps), self._pairs(taps),
                self._places.ctypes.data, blocks, self._scale.data_ptr(), table.data_ptr(), 8 * self._all,
                kinds, kind_step, self._high, x.data_ptr(), *steps, out.data_ptr(), row, step, w,
            ),
            w if columns else h,
            -(-pieces // POSITIONS) * POSITIONS if columns else max(1, pieces // w),
        )  # fmt: skip
        return out


def _whole(values: Tensor, count: int) -> Tensor:
    """Float64 [.., out] with zeros for outputs that there are not, in memory one after the other."""
    return F.pad(values.double(), (0, count - values.shape[-1])).contiguous()

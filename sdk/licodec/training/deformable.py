"""What a deformable residual block in the analysis would gain: an experiment, and no part of any weights.

    python -m licodec.training.deformable weights/fhic/s-1 RUN DATA/train --minutes 20

The encoder of trained weights goes on learning as `encoders` says, once as it is and once with a block more.

After J. Dai et al., "Deformable Convolutional Networks" (arXiv 1703.06211), and for the factors of samples
X. Zhu et al., "Deformable ConvNets v2" (arXiv 1811.11168). What is ours: samples in groups of channels as
weighted sums of rows (`embedding_bag`), which on a CPU takes a tenth of the time of `grid_sample`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs import checkerboard as cb
from licodec.exact.layers import interpolate_knots
from licodec.exact.specs import KNOTS
from licodec.training.encoders import Way, arguments, compared

SAMPLES, GROUPS = 4, 4
"""Samples a position takes, and groups of channels that take them in places of their own."""
REACH = 4.0
"""Positions that a sample can be moved, each way."""
START = ((-2, -2), (-2, 2), (2, -2), (2, 2))
"""Rows and columns of the samples before they are moved: beyond what a 3x3 sees."""


def bilinear(x: Tensor, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
    """Sums of bilinear samples of a map, group by group of its channels; the edge is repeated beyond it.

    Args:
        x: [B, C, h, w]. rows, columns, factor: where samples lie, in positions, and what each counts,
            [B, h, w, G, K]; G divides C.

    Returns:
        [B, C, h, w]: of channel c the K samples of group c // (C / G).
    """
    b, c, h, w = x.shape
    groups = rows.shape[3]
    rows, columns = rows.clamp(0, h - 1), columns.clamp(0, w - 1)
    top, left = (at.detach().floor().clamp(max=max(0, end - 2)) for at, end in ((rows, h), (columns, w)))
    down, right = rows - top, columns - left
    weights = torch.stack(
        [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1
    )
    cell = (torch.arange(b, device=x.device).view(-1, 1, 1, 1, 1) * h + top.long()) * w + left.long()
    below, beside = (w if h > 1 else 0), (1 if w > 1 else 0)
    corners = torch.stack([cell, cell + beside, cell + below, cell + below + beside], -1)
    entry = corners * groups + torch.arange(groups, device=x.device).view(1, 1, 1, -1, 1, 1)
    found = F.embedding_bag(
        entry.flatten(4).flatten(0, 3),
        x.permute(0, 2, 3, 1).reshape(b * h * w * groups, c // groups),
        mode="sum",
        per_sample_weights=(weights * factor.unsqueeze(-1)).flatten(4).flatten(0, 3).to(x.dtype),
    )
    return found.view(b, h, w, c).permute(0, 3, 1, 2)


class DeformableBlock(nn.Module):
    """`checkerboard.Block` with samples beside the nine of its 3x3, in places that a layer finds from what
    is there. It starts as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = cb.Conv(width, width, 3, "replicate", groups=width)
        self.place = cb.Conv(width, 3 * GROUPS * SAMPLES, 1)
        self.wide, self.narrow = cb.Conv(width, 2 * width, 1), cb.Conv(2 * width, width, 1)
        self.film = nn.Parameter(torch.ones(KNOTS, 2 * width))
        self.start: Tensor
        self.register_buffer("start", torch.tensor(START).float().T.reshape(2, 1, SAMPLES), persistent=False)
        with torch.no_grad():
            self.around.weight.mul_(0.3)[:, :, 1, 1] += 1
            self.place.weight.mul_(0.1)
            for layer in (self.around, self.place, self.narrow):
                layer.bias.zero_()
            self.place.bias[2 * GROUPS * SAMPLES :] = 1 / SAMPLES
            self.narrow.weight.zero_()

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        near = self.around(x)
        h = cb.leaky(self.wide(near + self.sampled(x, near)))
        return cb.modulated(self.narrow, h, interpolate_knots(self.film, rate)).add_(x)

    def sampled(self, x: Tensor, near: Tensor) -> Tensor:
        """Sums of what lies where `place` says, [B, C, h, w]."""
        height, width = x.shape[2:]
        found = self.place(near).float().permute(0, 2, 3, 1).unflatten(3, (3, GROUPS, SAMPLES))
        moved = self.start + REACH * torch.tanh(found[:, :, :, :2] / REACH)
        row = torch.arange(height, device=x.device).view(1, -1, 1, 1, 1)
        column = torch.arange(width, device=x.device).view(1, 1, -1, 1, 1)
        return bilinear(x, row + moved[:, :, :, 0], column + moved[:, :, :, 1], found[:, :, :, 2])


def silent_block(width: int) -> cb.Block:
    """An ordinary block that starts as nothing."""
    block = cb.Block(width)
    with torch.no_grad():
        block.narrow.weight.zero_()
    return block


WAYS = {
    "as-it-is": Way(),
    "deformable": Way(blocks=(DeformableBlock,)),
    "ordinary": Way(blocks=(silent_block, silent_block)),
}
"""Two ordinary blocks take about the time of a deformable one."""


def main() -> None:
    parser = arguments(__doc__, minutes=20.0)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=["as-it-is", "deformable"])
    wish = parser.parse_args()
    compared(wish, {name: WAYS[name] for name in wish.ways})


if __name__ == "__main__":
    main()

"""Transforms of fhic's preset m: all their work on the 1/8 grid, for GPUs.

After Z. Jia et al., "Towards Practical Real-Time Neural Video Compression" (arXiv 2502.20762, the intra codec
of DCVC-RT) and its successor DCVC-UF (arXiv 2606.04410), whose block this is: one step from pixels to blocks
of 8x8, then nothing but 1x1 products and 3x3 within each channel, which move few bytes for what they compute.
What is ours: the linear path beside them, which starts as a KLT as in `checkerboard.Analysis`, factors in
every block that follow the rate, and the net's own look at what the linear path decodes.

    blocks --unshuffle--> look --> 1 + n blocks --> 3x3, stride 2 --+--> latents
       +----------------- klt / deviation --------------------------+

    latents --+--> klt ------------------------------------+--> blocks
              |     +--> look --+                          |
              +--> enter ------ + --> 1 + n blocks --> to_pixels

Of `Preset` count `eighth` (C) and the numbers of blocks on the 1/8 grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs.checkerboard import (
    AnalysisNet,
    Conv,
    coefficients,
    fit,
    modulated,
    shuffle,
    straight_blocks,
    unshuffle,
)
from licodec.codecs.checkerboard_layout import QUARTER, Preset
from licodec.exact.layers import interpolate_knots
from licodec.exact.specs import KNOTS

EIGHTH = 4 * QUARTER
"""Channels of the picture as blocks of 8x8 RGB pixels."""
SUMMED = 4
"""Neighbouring channels that a block sums."""
PIXEL_UNIT, FIRST_SHARE = 1 / 8, 0.1
"""What one unit of the synthesis' last block is in pixels (1 = 255), and the share of it that counts before
training."""


def gated(x: Tensor) -> Tensor:
    """x sigmoid(4 x)."""
    return F.silu(4 * x).mul_(1 / 4)


def summed(x: Tensor) -> Tensor:
    """[B, 4 C, h, w] -> [B, C, h, w]: sums of each four channels that lie side by side."""
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h, w, c // SUMMED, SUMMED).sum(4).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + last(around(gated(first(x)))), then x + narrow(film[r] * summed(gated(wide(x)))): 7 C^2 + 9 C
    multiplications a position. Behind a 1x1 `enter` where it takes another number of channels than it gives.

    film lets one net act differently at different rates.
    """

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.enter = Conv(inp, out, 1) if inp != out else nn.Identity()
        self.first, self.last = Conv(out, out, 1), Conv(out, out, 1)
        self.around = Conv(out, out, 3, "replicate", groups=out)
        self.wide, self.narrow = Conv(out, SUMMED * out, 1), Conv(out, out, 1)
        self.film = nn.Parameter(torch.ones(KNOTS, out))
        with torch.no_grad():
            self.around.weight.mul_(0.3)[:, :, 1, 1] += 1
            self.around.bias.zero_()
            for layer in (self.last, self.narrow):
                layer.weight.mul_(0.1)
                layer.bias.zero_()

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        x = self.enter(x)
        x = self.last(self.around(gated(self.first(x)))).add_(x)
        h = summed(gated(self.wide(x)))
        return modulated(self.narrow, h, interpolate_knots(self.film, rate)).add_(x)


class Analysis(AnalysisNet):
    """See the module, and for what goes in and out `AnalysisNet`."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.look = Conv(EIGHTH, p.eighth, 1)
        self.eighth_blocks = nn.ModuleList(
            Block(p.eighth, p.eighth) for _ in range(1 + p.encoder_eighth_blocks)
        )
        self.to_latents = Conv(p.eighth, p.latents, 3, "replicate", stride=2)
        self.klt = Conv(4 * EIGHTH, p.latents, 1)
        self.deviation: Tensor
        self.register_buffer("deviation", torch.ones(p.latents))

    def begun(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Coefficients of the linear path, and what the first block sees."""
        y = coefficients(self.klt, blocks, self.look.weight.dtype)
        return y / self.deviation.view(1, -1, 1, 1), self.look(fit(unshuffle(blocks, 2), self.look))

    def finished(self, begun: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        y, h = begun
        for block in self.eighth_blocks:
            h = block(h, rate)
        out: Tensor = y + self.to_latents(h).float()
        return out


class Synthesis(nn.Module):
    """See the module. Called as `checkerboard.Synthesis` is."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.klt = Conv(p.latents, 4 * EIGHTH, 1)
        self.enter = Conv(p.latents, 4 * p.eighth, 1)
        self.look = Conv(EIGHTH, p.eighth, 1)
        self.eighth_blocks = nn.ModuleList(
            Block(p.eighth, p.eighth) for _ in range(1 + p.decoder_eighth_blocks)
        )
        self.to_pixels = Block(p.eighth, EIGHTH)
        self.film = nn.Parameter(torch.full((KNOTS, EIGHTH), FIRST_SHARE))

    def forward(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        picture = straight_blocks(self.klt, v * scale, self.look.weight.dtype)
        h = shuffle(self.enter(fit(v, self.enter)), 2)
        h = h + self.look(unshuffle(fit(picture, self.look), 2))
        for block in self.eighth_blocks:
            h = block(h, rate)
        film = PIXEL_UNIT * interpolate_knots(self.film, rate)[:, :, None, None]
        h = self.to_pixels(h, rate).float() * film
        return picture.add_(shuffle(h, 2))

"""Transforms of fhic's preset paper: those of the authors' published code, and deformable blocks.

The skeleton is that of H. Fu et al., "Learned Image Compression with Gaussian-Laplacian-Logistic Mixture
Model and Concatenated Residual Modules" (IEEE TIP 32, 2023; arXiv 2107.06463), which fhic's paper extends:

    pixels --unit-- 1/2 --residual, unit-- 1/4 --attention, residual, unit-- 1/8
        --deformable, residual, 3x3 stride 2-- 1/16 --attention, deformable--> latents
    latents --attention, residual, unit-- 1/8 --residual, unit-- 1/4
        --attention, residual, unit-- 1/2 --residual, 3x3, shuffle--> pixels

N channels everywhere, the latents' (`Preset.latents`); no other size of `Preset` counts. Without what is
ours, and without divisive normalisations, N = 192 has 7.57 million parameters in the analysis and 12.27 in
the synthesis, 626 and 726 thousand multiplications a pixel; a normalisation has 37 thousand parameters.

What is ours: that there are deformable blocks behind stages 3 and 4 of the analysis and nowhere else, and
what is in them (`DeformableBlock`; the paper says that a deformable convolution and a residual block are its
parts, not where it has them or how many); one `film` in each transform and one in each deformable block, so
that one model serves all rates; edges that are repeated beyond the border; slope 0.1 of the leaky ReLUs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs.checkerboard import AnalysisNet, Conv, fit, leaky, modulated, shuffle, unshuffle
from licodec.codecs.checkerboard_layout import Preset
from licodec.codecs.deformable import DeformableBlock
from licodec.exact.layers import interpolate_knots
from licodec.exact.specs import KNOTS


def around(inp: int, out: int, stride: int = 1) -> Conv:
    """A 3x3 convolution."""
    return Conv(inp, out, 3, "replicate", stride=stride)


class DivisiveNormalisation(nn.Module):
    """x / sqrt(beta + gamma x^2), or times it: generalised divisive normalisation (J. Ballé et al.,
    arXiv 1511.06281). Kept are roots of beta and gamma, [N] and [N, N], so that these are not negative."""

    LEAST = 1e-6
    """Of beta."""

    def __init__(self, width: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(width))
        self.gamma = nn.Parameter(torch.full((width, width), 0.01).fill_diagonal_(0.1**0.5))

    def forward(self, x: Tensor) -> Tensor:
        gamma, beta = self.gamma.square()[:, :, None, None], self.beta.square() + self.LEAST
        norm = F.conv2d(x * x, gamma, beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class ConcatenatedResidual(nn.Module):
    """Two residual blocks one behind the other, and their input once more: t + b with a = conv, conv(t) + t
    and b = conv, conv(a) + a. What they add starts small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(around(width, width) for _ in range(4))
        with torch.no_grad():
            for layer in (self.layers[1], self.layers[3]):
                assert isinstance(layer, Conv)
                layer.weight.mul_(0.1)
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.layers
        a = leaky(second(leaky(first(x)))) + x
        return leaky(fourth(leaky(third(a)))) + a + x


class Bottleneck(nn.Module):
    """relu(x + widen(relu(middle(relu(narrow(x)))))), the 3x3 in half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.narrow, self.middle, self.widen = Conv(width, half, 1), around(half, half), Conv(half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.widen(F.relu(self.middle(F.relu(self.narrow(x)))))
        return F.relu(out + x)


class Attention(nn.Module):
    """x + mask(x) * trunk(x): where the mask, between 0 and 1, says that it counts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Bottleneck(width) for _ in range(3)))
        self.mask = nn.Sequential(*(Bottleneck(width) for _ in range(3)), Conv(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + torch.sigmoid(self.mask(x)) * self.trunk(x)
        return out


class Down(nn.Module):
    """Downsampling unit: 3x3 of stride 2 and 3x3 with a normalisation, beside a 1x1 of stride 2."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.first, self.second = around(inp, out, stride=2), around(out, out)
        self.normalise = DivisiveNormalisation(out)
        self.shortcut = Conv(inp, out, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.normalise(self.second(leaky(self.first(x)))) + self.shortcut(x)
        return out


class Up(nn.Module):
    """Upsampling unit, the mirror of `Down`: four times as many channels become four positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = around(width, 4 * width), around(width, width)
        self.normalise = DivisiveNormalisation(width, inverse=True)
        self.shortcut = Conv(width, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.normalise(self.second(shuffle(leaky(self.first(x)), 2)))
        return out + shuffle(self.shortcut(x), 2)


class Analysis(AnalysisNet):
    """See the module, and for what goes in and out `AnalysisNet`. `mean` and `deviation` are those of the
    latents before training."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        n = p.latents
        self.to_half = Down(3, n)
        self.to_quarter_grid = nn.Sequential(ConcatenatedResidual(n), Down(n, n))
        self.to_eighth = nn.Sequential(Attention(n), ConcatenatedResidual(n), Down(n, n))
        self.third = DeformableBlock(n)
        self.residual = ConcatenatedResidual(n)
        self.film = nn.Parameter(torch.ones(KNOTS, n))
        self.to_latents = around(n, n, stride=2)
        self.attention = Attention(n)
        self.fourth = DeformableBlock(n)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("deviation", torch.ones(n))

    def begun(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Features of the 1/8 grid: nearly all the work."""
        x = fit(shuffle(blocks, 4), self.to_half.first)
        return (self.to_eighth(self.to_quarter_grid(self.to_half(x))),)

    def finished(self, begun: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        h = self.residual(self.third(begun[0], rate))
        h = modulated(self.to_latents, h, interpolate_knots(self.film, rate))
        y = self.fourth(self.attention(h), rate).float()
        out: Tensor = (y - self.mean.view(1, -1, 1, 1)) / self.deviation.view(1, -1, 1, 1)
        return out

    @torch.no_grad()
    def standardise(self, blocks: Tensor) -> None:
        """Have the latents of these blocks mean 0 and variance 1, at the middle rate."""
        self.mean.zero_()
        self.deviation.fill_(1)
        y = self(blocks, torch.full((len(blocks),), 128, device=blocks.device))
        self.mean.copy_(y.mean((0, 2, 3)))
        self.deviation.copy_(y.std((0, 2, 3)).clamp_min(1e-6))


class Synthesis(nn.Module):
    """See the module. Called as `checkerboard.Synthesis` is; `deviation` makes latents in units of pixels
    what the first layer takes."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        n = p.latents
        self.deviation: Tensor
        self.register_buffer("deviation", torch.ones(n))
        self.from_latents = nn.Sequential(Attention(n), ConcatenatedResidual(n), Up(n))
        self.from_eighth_grid = nn.Sequential(ConcatenatedResidual(n), Up(n))
        self.from_quarter = nn.Sequential(Attention(n), ConcatenatedResidual(n), Up(n))
        self.residual = ConcatenatedResidual(n)
        self.film = nn.Parameter(torch.ones(KNOTS, n))
        self.leave = around(n, 12)

    def forward(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        x = v * scale / self.deviation.view(1, -1, 1, 1)
        h = self.from_latents(fit(x, self.leave))
        h = self.residual(self.from_quarter(self.from_eighth_grid(h)))
        pixels = shuffle(modulated(self.leave, h, interpolate_knots(self.film, rate)), 2)
        return unshuffle(pixels.float(), 4)

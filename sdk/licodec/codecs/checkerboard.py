"""fhic: checkerboard context, exact scale nets, one model for all rates.

After H. Fu et al., "Fast and High-Performance Learned Image Compression With Improved Checkerboard Context
Model, Deformable Residual Module, and Knowledge Distillation" (IEEE TIP 33, 2024): two passes over the
latent, each with its own parameter net. What is ours: every net that chooses a probability table is an
integer net and sees integers only.

    pixels x --analysis--> y (unit variance) --* gain[r]--> --refinement--> y'
    z = round(hyper_analysis(y'))
    exact nets:  z (and |q| of earlier steps) --> table index of every symbol
    mean nets:   z (and y^ of earlier steps)  --> mu            q = choice(y' - mu)     y^ = q + mu
    y^ and inverse_gain[r] --synthesis--> pixels

The choice is the nearest integer, or the one below where that saves more bits than its distortion is worth;
it is zero, and not coded, where the exact nets give the narrowest table, and in all channels from one on in
which no symbol would pay (`channel_skip`).

Latent channels come in groups. Each group is coded in passes over a checkerboard, the first of them predicted
from z and the earlier groups, the others also from the group's positions before them:

    0 1 0 1 0      The first groups hold what says most about the picture: four passes      0 3 1 3 0
    1 0 1 0 1      there, each from neighbours on all sides, and not half of it from        3 2 3 2 3
    0 1 0 1 0      z alone.                                                                  1 3 0 3 1

How many passes a group has follows from its depth in the preset.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_format.container import LicFile
from lic_format.errors import FormatError, UsageValueError, WeightsError
from lic_format.header import Colour, Head, Order
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.channel_skip import (
    Channels,
    coded_channels,
    first_skipped,
    read_skipped,
)
from licodec.codecs.checkerboard_layout import (
    CELL,
    HYPER,
    HYPER_LIMIT,
    HYPER_ROUND,
    NEARLY_ZERO,
    QUARTER,
    SCALES,
    SEEN,
    SERIAL,
    Z_MAX,
    Z_OFFSET_MAX,
    CodedPass,
    Preset,
    Symbols,
    choose_symbols,
    estimated_bits,
    exact_layers,
    grid,
    knot_of,
    magnitude_table,
    once,
    precision_asked_for,
    read_known_answers,
    read_preset,
    refuse_search,
    symbol_savings,
    taps_kernel,
    tiles,
    times,
    written,
)
from licodec.codecs.contract import USUALLY, Coded, LossyWish, Shared, Stages, Timer
from licodec.codecs.registry import (
    FHIC_FRONTS_MAX,
    FHIC_ORDERS,
    FHIC_SIDE_INFO,
    fhic_fronts,
)
from licodec.entropy import schedule
from licodec.entropy.coder import StreamDecoder
from licodec.entropy.schedule import Pass, one_step
from licodec.entropy.tables import NOT_CODED, TableSet, load_set
from licodec.exact.layers import StoredLayer, interpolate_knots
from licodec.exact.paths import PATHS, SAFE_PATH, ExactNet, exact_section
from licodec.exact.specs import KNOTS
from licodec.exact.tensor_neighbours import TensorNeighbours, by_position
from licodec.images import Picture, reduced
from licodec.store import Weights
from licodec.threads import torch_as_wanted

if TYPE_CHECKING:
    from licodec.codecs.serial import Serial

NetT = TypeVar("NetT", bound=nn.Module)
T = TypeVar("T")


# --- Building blocks ----------------------------------------------------------------------------------------


def unshuffle(x: Tensor, r: int) -> Tensor:
    """[B, C, h, w] -> [B, r*r*C, h/r, w/r], channels in (dy, dx, c) order; a view-and-copy in channels_last
    memory."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // r, r, w // r, r, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h // r, w // r, r * r * c).permute(0, 3, 1, 2)


def shuffle(x: Tensor, r: int) -> Tensor:
    """Inverse of `unshuffle`."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h, w, r, r, c // (r * r))
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h * r, w * r, c // (r * r)).permute(0, 3, 1, 2)


Edge = Literal["zeros", "replicate"]


class Conv(nn.Conv2d):
    """Convolution with a bias that keeps the size, or divides it by `stride`. `edge` says what lies beyond
    the border: zeros, which are what nothing is known of, or in the transforms what lies on it: zero is a
    colour there, and pictures of another one would get a frame."""

    bias: nn.Parameter

    def __init__(
        self, inp: int, out: int, kernel: int, edge: Edge = "zeros", groups: int = 1, stride: int = 1
    ) -> None:
        super().__init__(
            inp, out, kernel, stride=stride, padding=kernel // 2, padding_mode=edge, groups=groups
        )

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # else only the shapes are asked for, and this takes as long as all else
            super().reset_parameters()


def fit(x: Tensor, layer: Conv) -> Tensor:
    """x in the dtype of the layer's weights, where autocast doesn't see to that."""
    if x.dtype == layer.weight.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(layer.weight.dtype)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.1, in place. Plain ReLUs died here: at this learning rate whole branches fell
    silent."""
    return F.leaky_relu(x, 0.1, inplace=True)


def modulated(layer: Conv, x: Tensor, film: Tensor) -> Tensor:
    """layer(x * film), film [B, C]; for a single picture the factors go into the weights, which are fewer."""
    out: Tensor
    if len(film) > 1:
        out = layer(x * film[:, :, None, None].to(x.dtype))
    else:
        weight = layer.weight * film.view(1, -1, 1, 1).to(layer.weight.dtype)
        out = layer._conv_forward(x, weight, layer.bias)
    return out


class Block(nn.Module):
    """x + narrow(film[r] * leaky(wide(around(x)))): 3x3 within each channel, then 1x1 over twice as many.

    A third of the time of a residual block of two 3x3 convolutions (docs/training.md). film lets one net act
    differently at different rates.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = Conv(width, width, 3, "replicate", groups=width)
        self.wide, self.narrow = Conv(width, 2 * width, 1), Conv(2 * width, width, 1)
        self.film = nn.Parameter(torch.ones(KNOTS, 2 * width))
        with torch.no_grad():
            self.around.weight.mul_(0.3)[:, :, 1, 1] += 1
            self.around.bias.zero_()
            self.narrow.weight.mul_(0.1)
            self.narrow.bias.zero_()

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        h = leaky(self.wide(self.around(x)))
        return modulated(self.narrow, h, interpolate_knots(self.film, rate)).add_(x)


STRONG = 64
"""Latents whose coefficients the straight paths always compute in float32. Where the branches compute in a
faster type the others are small enough not to need more, and most of the work."""


def to_blocks(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3], H and W multiples of 4 -> pixels minus 0.5 as 4x4 blocks, float32
    [B, 48, H/4, W/4] in channels_last memory, channels in (dy, dx, rgb) order."""
    b, h, w, _ = pixels.shape
    rows = pixels.reshape(b, h // 4, 4, w // 4, 12).transpose(2, 3).reshape(b, h // 4, w // 4, QUARTER)
    return rows.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)


def whole(layer: Conv, x: Tensor) -> Tensor:
    """A straight path in one product."""
    out: Tensor = layer(fit(x, layer)).float()
    return out


def coefficients(klt: Conv, blocks: Tensor, fast: torch.dtype) -> Tensor:
    """Straight path of an analysis: blocks [B, 48, 4h, 4w] -> coefficients [B, M, h, w], float32. `fast`: the
    type in which the branches compute."""
    blocks = unshuffle(blocks, 4)
    if klt.weight.dtype == fast or klt.out_channels <= STRONG:
        return whole(klt, blocks)
    strong = F.conv2d(blocks, klt.weight[:STRONG], klt.bias[:STRONG])
    weak = F.conv2d(blocks.to(fast), klt.weight[STRONG:].to(fast), klt.bias[STRONG:].to(fast))
    return torch.cat([strong, weak.float()], 1)


def straight_blocks(klt: Conv, coefficients: Tensor, fast: torch.dtype) -> Tensor:
    """Straight path of a synthesis: coefficients [B, M, h, w] -> blocks [B, 48, 4h, 4w], float32."""
    if klt.weight.dtype == fast or klt.in_channels <= STRONG:
        return shuffle(whole(klt, coefficients), 4)
    strong, weak = coefficients[:, :STRONG], coefficients[:, STRONG:].to(fast)
    out = F.conv2d(strong, klt.weight[:, :STRONG], klt.bias)
    return shuffle(out.add_(F.conv2d(weak, klt.weight[:, STRONG:].to(fast)).float()), 4)


class AnalysisNet(nn.Module):
    """Blocks as `to_blocks` gives them [B, 48, 4h, 4w] -> latents of about unit variance [B, M, h, w],
    float32."""

    def forward(self, blocks: Tensor, rate: Tensor) -> Tensor:
        return self.finished(self.begun(blocks), rate)

    def begun(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """What is the same at every rate."""
        raise NotImplementedError

    def finished(self, begun: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        """Latents of what `begun` gives, which stays as it is."""
        raise NotImplementedError


class Analysis(AnalysisNet):
    """The lapped analysis.

    `klt` starts as the principal components of 16x16 blocks of photographs. Before it, convolutions on the
    1/4 and 1/8 grids correct the pixels (as the filter of a lapped transform does, among others); blocks on
    the 1/16 grid correct the latents, which they alone can do by their place in a block. What they add starts
    near zero.
    """

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.first = Conv(QUARTER, QUARTER, 3, "replicate")
        self.to_quarter = Conv(QUARTER, QUARTER, 3, "replicate")
        self.to_eighth = Conv(4 * QUARTER, p.eighth, 1)
        self.eighth_blocks = nn.ModuleList(Block(p.eighth) for _ in range(p.encoder_eighth_blocks))
        self.from_eighth = Conv(p.eighth, 4 * QUARTER, 1)
        self.to_sixteenth = Conv(4 * p.eighth, p.encoder_sixteenth, 1)
        self.sixteenth_blocks = nn.ModuleList(
            Block(p.encoder_sixteenth) for _ in range(p.encoder_sixteenth_blocks)
        )
        self.to_latents = Conv(p.encoder_sixteenth, p.latents, 1)
        self.klt = Conv(16 * QUARTER, p.latents, 1)
        self.deviation: Tensor
        self.register_buffer("deviation", torch.ones(p.latents))

    def begun(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Corrected blocks, and features of the 1/8 grid."""
        h = leaky(self.first(fit(blocks, self.first)))
        return blocks + self.to_quarter(h).float(), self.to_eighth(unshuffle(h, 2))

    def finished(self, begun: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        blocks, h = begun
        for block in self.eighth_blocks:
            h = block(h, rate)
        h = leaky(h)
        y = coefficients(self.klt, blocks + shuffle(self.from_eighth(h), 2).float(), self.first.weight.dtype)
        h = self.to_sixteenth(unshuffle(h, 2))
        for block in self.sixteenth_blocks:
            h = block(h, rate)
        out: Tensor = y / self.deviation.view(1, -1, 1, 1) + self.to_latents(leaky(h)).float()
        return out


class Synthesis(nn.Module):
    """Decoded latents [B, M, h, w] -> blocks as `to_blocks` gives them [B, 48, 4h, 4w]. Mirror of `Analysis`:
    the straight path first, then corrections of its pixels on the 1/8 grid, which sees latents too, and on
    the 1/4 grid."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.klt = Conv(p.latents, 16 * QUARTER, 1)
        self.enter = Conv(p.latents, p.decoder_sixteenth, 1)
        self.sixteenth_blocks = nn.ModuleList(
            Block(p.decoder_sixteenth) for _ in range(p.decoder_sixteenth_blocks)
        )
        self.from_sixteenth = Conv(p.decoder_sixteenth, 4 * p.eighth, 1)
        self.look = Conv(4 * QUARTER, p.eighth, 1)
        self.eighth_blocks = nn.ModuleList(Block(p.eighth) for _ in range(p.decoder_eighth_blocks))
        self.to_quarter = Conv(p.eighth, 4 * QUARTER, 1)
        self.render = Conv(QUARTER, QUARTER, 3, "replicate")
        self.film = nn.Parameter(torch.ones(KNOTS, QUARTER))
        self.leave = Conv(QUARTER, QUARTER, 3, "replicate")

    def forward(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        """
        Args:
            v: latents in bounded units (see `MeanNets`), which suit the branch at every rate.
            scale: what makes them coefficients in units of pixels, [B, M, 1, 1].
        """
        picture = straight_blocks(self.klt, v * scale, self.look.weight.dtype)
        h = self.enter(fit(v, self.enter))
        for block in self.sixteenth_blocks:
            h = block(h, rate)
        h = shuffle(self.from_sixteenth(leaky(h)), 2).add_(self.look(unshuffle(fit(picture, self.look), 2)))
        for block in self.eighth_blocks:
            h = block(h, rate)
        picture += shuffle(self.to_quarter(leaky(h)), 2).float()  # a sum of two types is four times slower
        h = leaky(self.render(fit(picture, self.render)))
        return modulated(self.leave, h, interpolate_knots(self.film, rate)).float().add_(picture)


class Preview(nn.Module):
    """Decoded latents of the first groups [B, m, h, w] -> the picture at a quarter of its size, as blocks
    [B, 48, h, w] of 4x4 pixels in (y, x, rgb) order, minus 0.5. In a twentieth of the operations."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        m = sum(p.groups[: p.preview_groups])
        self.klt = Conv(m, QUARTER, 1)
        self.enter = Conv(m, p.decoder_sixteenth, 1)
        self.block = Block(p.decoder_sixteenth)
        self.leave = Conv(p.decoder_sixteenth, QUARTER, 1)

    def forward(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        """Arguments as of `Synthesis`, m of their M channels."""
        out = whole(self.klt, v * scale)
        h = self.block(self.enter(fit(v, self.enter)), rate)
        return out.add_(self.leave(leaky(h)).float())


def transforms(p: Preset) -> tuple[Callable[[Preset], AnalysisNet], Callable[[Preset], nn.Module]]:
    """What makes the analysis and the synthesis of a preset. A synthesis is called as `Synthesis` is."""
    if p.transforms == "unshuffled":
        from licodec.codecs import unshuffled  # which, as the next, is made of this module's parts

        return unshuffled.Analysis, unshuffled.Synthesis
    if p.transforms == "gllmm":
        from licodec.codecs import gllmm

        return gllmm.Analysis, gllmm.Synthesis
    return Analysis, Synthesis


Shown = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What makes pixels of decoded latents, called as `Synthesis` is."""


class Refinement(nn.Module):
    """One look at what latents decode to, before they are coded (analysis by synthesis).

    What the decoded picture lacks goes through `adjoint`, which starts as the transpose of the synthesis'
    straight path, and moves the latents. Analysis alone cannot do that: what a latent should be depends on
    how the synthesis answers to this picture, and on which of the other latents will become zero.
    """

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.adjoint = Conv(16 * QUARTER, p.latents, 1)
        self.step = nn.Parameter(torch.full((KNOTS, p.latents), 0.3))

    def forward(
        self,
        s: Tensor,
        blocks: Tensor,
        gain: Tensor,
        inverse: Tensor,
        rate: Tensor,
        net: Shown,
    ) -> Tensor:
        """Refined latents in units of symbols, [B, M, h, w].

        Args:
            s: latents in units of symbols, [B, M, h, w]. blocks: the picture, [B, 48, 4h, 4w].
            gain: symbols per unit of a latent. inverse: coefficients per symbol. Both [B, M, 1, 1].
            net: what decodes.
        """
        with torch.no_grad():
            kept = F.hardshrink(s, NEARLY_ZERO)
            per_unit = density(gain)
            missing = blocks - net(kept / per_unit, per_unit * inverse, rate)
        found = whole(self.adjoint, unshuffle(missing, 4))
        step = interpolate_knots(self.step, rate)[:, :, None, None]
        return torch.lerp(s, kept.addcmul(found, 1 / inverse), step)


class HyperAnalysis(nn.Module):
    """Scaled latents y' [B, M, h, w], h and w multiples of 4 -> hyper-latents [B, Z, h/4, w/4] before
    rounding."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [Conv(p.latents, 96, 1), Conv(384, 96, 1), Conv(96, 96, 3), Conv(384, p.hyper, 1)]
        )

    def forward(self, y: Tensor) -> Tensor:
        a, b, c, d = self.layers
        assert isinstance(a, Conv)
        # asinh, in a fifth of the time that torch.asinh takes on a CPU
        level = torch.copysign(torch.log(y.abs() + torch.sqrt(y * y + 1)), y)
        h = unshuffle(leaky(a(fit(level, a))), 2)
        h = unshuffle(leaky(c(leaky(b(h)))), 2)
        out: Tensor = 4.0 * d(h).float()
        return out


Settle = Callable[[Pass, Tensor], Tensor]
"""The values of a pass, given their means; both rows [B, n, M_g], a row for each of the pass's cells."""


def rows_of(x: Tensor) -> Tensor:
    """A map [B, C, h, w] as rows [B, h w, C]; a view in channels_last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def pointwise(layer: Conv, rows: Tensor) -> Tensor:
    """A 1x1 convolution of rows."""
    return F.linear(fit(rows, layer), layer.weight.flatten(1), layer.bias)


@dataclass(frozen=True)
class Place:
    """`layout.Place`, its attributes as tensors on a device."""

    cells: Tensor
    seen: Tensor
    height: int
    width: int
    known: Tensor
    order: Tensor
    unknown: int
    _of: layout.Place
    _near: dict[int, TensorNeighbours] = field(default_factory=dict, compare=False)

    def near(self, kernel: int) -> TensorNeighbours:
        """What a convolution reads around the positions."""
        if kernel not in self._near:
            with torch.inference_mode(False):  # as in `places`
                self._near[kernel] = TensorNeighbours(self._of.near(kernel), str(self.seen.device))
        return self._near[kernel]


@functools.lru_cache(maxsize=32)
def places(h: int, w: int, depth: int, device: str = "cpu") -> tuple[Place, ...]:
    """See `layout.places`."""
    found = []
    with torch.inference_mode(False):  # kept for later callers, who may want gradients through a selection
        for of in layout.places(h, w, depth):
            full, seen, before, order = (
                torch.from_numpy(each).to(device) for each in (of.cells, of.seen, of.known, of.order)
            )
            place = Place(full, seen, of.height, of.width, before, order, of.unknown, of)
            found.append(place)
    return tuple(found)


def spread(parts: Sequence[Tensor], place: Place) -> Tensor:
    """Rows [B, n, C] of successive passes, with those of what is unknown last, as a map [B, C, h, w] of the
    place's grid."""
    rows = torch.cat(list(parts), 1).index_select(1, place.order)
    return rows.view(len(rows), place.height, place.width, -1).permute(0, 3, 1, 2)


def interleave(parts: Sequence[Tensor], preset: Preset, h: int, w: int) -> Tensor:
    """Rows [B, n, M_g] of all passes of order 1 as one map [B, M, h, w]."""
    passes = iter(parts)
    groups = [
        spread([next(passes) for _ in range(depth + 1)], places(h, w, depth, str(parts[0].device))[-1])
        for depth in preset.depths
    ]
    return torch.cat(groups, 1)


def squeezer(channels: int) -> nn.Module:
    return Conv(channels, SEEN, 1) if channels > SEEN else nn.Identity()


def squeezed(layer: nn.Module, rows: Tensor) -> Tensor:
    return pointwise(layer, rows) if isinstance(layer, Conv) else rows


class Contexts(nn.Module):
    """What mean nets see of earlier groups: `digest` mixes their channels, `context` looks around."""

    digest: nn.ModuleList
    context: nn.ModuleList

    def base(self, group: int, features: Tensor, earlier: list[Tensor]) -> Tensor:
        """What all passes of a group see, as rows: hyper features, and context of the earlier groups'
        values."""
        if group == 0:
            return rows_of(features)
        known = torch.cat(earlier, 1) if len(earlier) > 1 else earlier[0]
        layer = self.context[group - 1]
        assert isinstance(layer, Conv)
        context = F.leaky_relu(layer(self.digest[group - 1](fit(known, layer))), 0.2)
        return rows_of(torch.cat([features, context], 1))


class MeanNets(Contexts):
    """Means of the symbols, step by step.

    Everything here is in *bounded* units, symbols / `density(gain)`: the latents' standard deviation where
    quantisation is fine, and whole symbols where it is so coarse that most are zero.

    `hyper(z)`: z float [B, Z, h/4, w/4] -> features; `walk` does the rest.
    """

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.preset = p
        w = p.mean
        self.hyper_layers = nn.ModuleList([Conv(p.hyper, 4 * 96, 1), Conv(96, 96, 3), Conv(96, 4 * w, 1)])
        earlier = [sum(p.groups[:g]) for g in range(1, len(p.groups))]
        self.digest = nn.ModuleList(squeezer(m) for m in earlier)
        self.context = nn.ModuleList(Conv(min(m, SEEN), w, 3) for m in earlier)
        self.squeeze = nn.ModuleList(squeezer(m) for m in p.groups)
        self.taps, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for step in p.passes:
            g, m = step.group, step.last - step.first
            base = w if g == 0 else 2 * w
            hidden = w if g == 0 else w * 3 // 2
            if step.number:
                self.taps[self._name(step)] = Conv(min(m, SEEN), 96, taps_kernel(step))
                base += 96
            widths = [base, *(p.mean_heads or (hidden,))]
            head = [part for a, b in pairwise(widths) for part in (Conv(a, b, 1), nn.LeakyReLU(0.2))]
            self.heads[self._name(step)] = nn.Sequential(*head, last := Conv(widths[-1], m, 1))
            with torch.no_grad():
                last.weight.mul_(0.1)
                last.bias.zero_()
        self._selected: dict[tuple[str, bytes], tuple[Tensor, Tensor]] = {}

    @staticmethod
    def _name(step: Pass) -> str:
        return f"{step.group}_{step.number}"

    def hyper(self, z: Tensor) -> Tensor:
        a, b, c = self.hyper_layers
        assert isinstance(a, Conv)
        h = shuffle(F.leaky_relu(a(fit(z * 0.25, a)), 0.2), 2)
        h = F.leaky_relu(b(h), 0.2)
        return F.leaky_relu(shuffle(c(h), 2), 0.2)

    def walk(self, features: Tensor, settle: Settle, passes: Sequence[Pass] = ()) -> Tensor:
        """All passes in order, or the first `passes`: the decoded values [B, M, h, w] in bounded units.

        `settle(pass, mean)` gives the pass's values for that mean; training, encoder and decoder differ only
        there.
        """
        h, w = features.shape[2:]
        decoded: list[Tensor] = []
        parts: list[Tensor] = []
        for step in passes or self.preset.passes:
            g = step.group
            around = places(h, w, self.preset.depths[g], str(features.device))
            place = around[step.number]
            if step.number == 0:
                base = self.base(g, features, decoded)
                parts = []
            seen = base.index_select(1, place.cells)
            if step.number:
                seen = torch.cat([seen, self.look(step, parts, place)], 2)
            parts.append(settle(step, self.head(step, seen).float()))
            if step.level == 0:
                decoded.append(spread(parts, around[-1]))
        return torch.cat(decoded, 1)

    def head(self, step: Pass, seen: Tensor) -> Tensor:
        *hidden, last = cast("list[Conv]", list(self.heads[self._name(step)].children())[::2])
        for layer in hidden:
            seen = F.leaky_relu(pointwise(layer, seen), 0.2)
        return pointwise(last, seen)

    def look(self, step: Pass, parts: list[Tensor], place: Place) -> Tensor:
        """What a pass sees around its cells, rows [B, n, out], of the rows [B, n_i, C] of the group's passes
        before it; zeros stand where these have left something out."""
        name, squeeze = self._name(step), self.squeeze[step.group]
        layer = self.taps[name]
        assert isinstance(layer, Conv)
        known = [squeezed(squeeze, fit(part, layer)) for part in parts]
        if self.training:  # on whole maps, for gradients
            rest = squeezed(squeeze, parts[0].new_zeros(1, 1, parts[0].shape[2]))
            rest = rest.expand(len(parts[0]), place.unknown, -1)
            seen = rows_of(F.leaky_relu(layer(spread([*known, rest], place)), 0.2))
            return seen.index_select(1, place.seen)
        near = place.near(layer.kernel_size[0])
        key = (name, near.pattern)
        if key not in self._selected:
            with torch.inference_mode(False), torch.no_grad():  # as in `places`
                unknown = squeezed(squeeze, fit(parts[0].new_zeros(parts[0].shape[2]), layer))
                biases = near.biases(by_position(layer.weight), layer.bias, unknown)
                self._selected[key] = near.select(layer.weight).t(), biases
        weight, biases = self._selected[key]
        out = torch.addmm(biases.index_select(0, near.kind), near.gather(known), weight)
        return F.leaky_relu(out, 0.2).unsqueeze(0)


def density(gain: Tensor) -> Tensor:
    """Symbols per bounded unit: sqrt(1 + gain^2), where gain is symbols per standard deviation."""
    return torch.sqrt(1 + gain * gain)


# --- Exact scale nets: one wiring for the trainable twins and for the integer layers ------------------------


class Layer(Protocol):
    """Runs the named layer: a trainable twin in training, an integer layer in coding."""

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """On a map [B, in, h, w]."""

    def pointwise(self, name: str, rows: Tensor) -> Tensor:
        """On rows [B, n, in]."""

    def around(self, name: str, known: Sequence[Tensor], unknown: Tensor, place: Place) -> Tensor:
        """At the cells of a place, rows [B, n, out]: of rows [B, n_i, in] of the passes before, and of
        `unknown` [1 or B, 1, in] wherever they left something out."""


@dataclass(frozen=True)
class IntegerLayers:
    """Layers of an exact net at one rate index on one path."""

    net: ExactNet
    rate: int
    path: str
    outputs: Mapping[str, int] = field(default_factory=dict)
    """How many outputs of a 1x1 layer are wanted, where not all are."""

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name in self.outputs:
            return self.pointwise(name, rows_of(x)).mT.reshape(1, -1, *x.shape[2:])
        return self.net(name, x, self.rate, self.path)

    def pointwise(self, name: str, rows: Tensor) -> Tensor:
        return self.net.pointwise(name, rows, self.rate, self.path, self.outputs.get(name))

    def around(self, name: str, known: Sequence[Tensor], unknown: Tensor, place: Place) -> Tensor:
        near = place.near(self.net.layers[name].spec.kernel)
        return self.net.around(name, known, unknown, near, self.rate, self.path)


class ScaleNets:
    """The wiring. `layer(name, x)` runs a layer; everything between layers only moves integers around. For
    one batch of pictures and their rates."""

    prefix = ""
    """Of the names of those layers that look at symbols."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._unknown: dict[int, Tensor] = {}

    def hyper(self, z: Tensor) -> Tensor:
        """Clipped hyper-latents [B, Z, h/4, w/4] -> features [B, E, h, w]."""
        h = shuffle(self.layer("hyper.1", self.layer("hyper.0", z)), 2)
        return shuffle(self.layer("hyper.2", h), 2)

    def direct(self, features: Tensor) -> Tensor:
        """Order 0: scale indices of all symbols at once, [B, M, h, w]."""
        return self.layer("direct.1", self.layer("direct.0", features))

    def base(self, group: int, features: Tensor, projected: list[Tensor]) -> Tensor:
        """What all passes of a group see, as rows; `projected`: maps of the groups before it."""
        if group == 0:
            return rows_of(features)
        context = self.layer(f"{self.prefix}context.{group}", torch.cat(projected, 1))
        return rows_of(torch.cat([features, context], 1))

    def project(self, group: int, magnitudes: Tensor) -> Tensor:
        """Compressed magnitudes of a group's symbols (zeros where unknown) -> 32 features a position, both as
        rows."""
        return self.layer.pointwise(f"{self.prefix}project.{group}", magnitudes)

    def scales(self, step: Pass, base: Tensor, place: Place, projected: Sequence[Tensor]) -> Tensor:
        """Scale indices of a pass, rows [B, n, M_g]; `projected`: features [B, n, 32] of the group's passes
        before it."""
        name = f"{step.group}.{step.number}"
        seen = base.index_select(1, place.cells)
        if step.number:
            if step.group not in self._unknown:
                nothing = projected[0].new_zeros(1, 1, step.last - step.first)
                self._unknown[step.group] = self.project(step.group, nothing)
            taps = self.layer.around(f"taps.{name}", projected, self._unknown[step.group], place)
            seen = torch.cat([seen, taps], 2)
        return self.layer.pointwise(f"scale.{name}.1", self.layer.pointwise(f"scale.{name}.0", seen))


# --- Coding -------------------------------------------------------------------------------------------------


def precision_of(device: str) -> str:
    """bfloat16 where the device has instructions for it, else float32. LICODEC_PRECISION overrules it."""
    wish = precision_asked_for()
    if wish in ("float32", "bfloat16"):
        return wish
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(bool(query()) for name in queries if (query := getattr(torch.cpu, name, None)) is not None):
        return "bfloat16"
    return "float32"


def build(weights: Weights, device: str, *, exact: str = "auto") -> Checkerboard:
    """The model of a weights file. `exact` forces one path of `licodec.exact.paths.PATHS` for the integer
    nets.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds. ExactnessError: no
        exact path.
    """
    return Checkerboard(weights, device, exact)


class Checkerboard:
    """Loaded weights on a device. Immutable but for caches of constants; safe in several threads."""

    def __init__(self, weights: Weights, device: str, exact: str = "auto") -> None:
        torch_as_wanted()
        self.preset = read_preset(weights)
        self.device = device
        self.tables = load_set(1)
        if weights.metadata.get("tables") != self.tables.digest.hex():
            raise WeightsError(
                f"{weights.path}: made for the table set {weights.metadata.get('tables')!r}, "
                f"this version has {self.tables.digest.hex()}"
            )
        m, z = self.preset.latents, self.preset.hyper
        read = _Tensors(weights)
        self.families = {
            order: read.integers(f"family.{name}", (m,), torch.uint8, 0, 2)
            for order, name in ((Order.ONE_STEP, "direct"), (Order.CHECKERBOARD, "context"))
        }
        self.prior_index = read.integers(
            "prior.index", (KNOTS, z), torch.uint8, 0, self.tables.count - 1
        ).numpy()
        self.prior_offset = read.integers(
            "prior.offset", (KNOTS, z), torch.int16, -Z_OFFSET_MAX, Z_OFFSET_MAX
        ).numpy()
        self.gain = read.floats("gain", (KNOTS, m))
        self.inverse_gain = read.floats("synthesis.inverse_gain", (KNOTS, m))
        self.step_value = read.floats("encoder.step_value", (KNOTS, m))
        self.default_order = Order(int(read.integers("order", (1,), torch.uint8, 0, 1)[0]))
        self.magnitudes = magnitude_table()
        specs = exact_layers(self.preset)
        if serial := SERIAL in weights.tensors:
            from licodec.codecs.serial import serial_layers

            specs += serial_layers(self.preset)
        layers = [StoredLayer.from_tensors(spec, "exact.", weights.tensors) for spec in specs]
        precision = precision_of(device)
        paths = PATHS if exact == "auto" else (exact,)
        self.exact = ExactNet(layers, read_known_answers(weights), paths)
        self.precision = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._tensors = read
        self._analysis, synthesis = transforms(self.preset)
        self.synthesis = self._net("synthesis.", synthesis)
        self.means = self._net("means.", MeanNets)
        if not weights.known:  # then nobody has looked at what is not needed for every file
            _ = self.analysis, self.hyper_analysis
            _ = self.refinement if self.preset.refined else None
            _ = self.preview if self.preset.straight else None
        self._serial: Serial | None = None
        if serial:
            from licodec.codecs.serial import Serial, SerialMeans

            family = read.integers(SERIAL, (m,), torch.uint8, 0, 2)
            means = self._net("serial.means.", SerialMeans)
            self._serial = Serial(means, family, self.exact, self.magnitudes)
        self.shown_by: Shown = self.synthesis
        """What makes pixels of decoded latents; another one than encoders look at in `wide_synthesis`."""
        self.halo = self.preset.halo
        """Latent positions that it sees around one."""
        self._name = f"{weights.ref.codec}/{weights.ref.tag}"
        self._weights = weights

    @property
    def orders(self) -> tuple[Order, ...]:
        """The decode orders that these weights know."""
        return FHIC_ORDERS if self._serial is not None else FHIC_ORDERS[:2]

    @property
    def lapped(self) -> Synthesis:
        """The synthesis of weights with lapped transforms.

        Raises:
            WeightsError: the weights have others.
        """
        if not isinstance(self.synthesis, Synthesis):
            raise WeightsError(f"{self._name} has {self.preset.transforms} transforms, expected lapped ones")
        return self.synthesis

    def _net(self, prefix: str, kind: Callable[[Preset], NetT]) -> NetT:
        net = _mixed(self._tensors.module(prefix, kind, self.preset), self.precision)
        return net if self.device == "cpu" else net.to(self.device)

    @functools.cached_property
    def analysis(self) -> AnalysisNet:
        return self._net("encoder.analysis.", self._analysis)

    @functools.cached_property
    def refinement(self) -> Refinement:
        """Where the preset is `refined`."""
        return self._net("encoder.refine.", Refinement)

    @functools.cached_property
    def hyper_analysis(self) -> HyperAnalysis:
        return self._net("encoder.hyper.", HyperAnalysis)

    @functools.cached_property
    def preview(self) -> Preview:
        """Of reduced pictures, where the preset is `straight`."""
        return self._net("synthesis.preview.", Preview)

    # Encoder

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LossyWish = USUALLY,
    ) -> Coded:
        """See `contract.LossyModel`. The float nets choose the symbols; the stream holds whatever they
        chose."""
        torch_as_wanted()
        chosen = self.default_order if order is None else self._order(order)
        if chosen == Order.SERIAL and fhic_fronts(picture.width, picture.height) > FHIC_FRONTS_MAX:
            raise UsageValueError(
                f"order: {picture.width} x {picture.height} pixels are more than {FHIC_FRONTS_MAX} "
                "wavefronts of order 2 (serial), which would take hours; use another order",
                argument="order",
            )
        effort = 1 if wish.effort is None else wish.effort
        if chosen == Order.SERIAL and effort > 1:
            raise UsageValueError(
                f"effort: {effort} with order 2 (serial), expected 1; leave one of the two out",
                argument="effort",
            )
        refuse_search(effort, self._weights)
        timer = Timer(stages)
        with timer("pixels"):
            blocks = once(shared, "blocks", lambda: self._to_input(picture.planes))
        proposal = self.proposed(blocks, rate, chosen, timer, shared, skip=True)
        found = self.walked(proposal, timer, whole=effort > 1)
        if effort > 1:
            from licodec.codecs.latent_descent import improved  # which is made of this module's parts

            found = improved(self, picture.planes.shape, blocks, proposal, found, effort, timer)
        return written(found.symbols, found.passes, rate, chosen, self.tables, timer)

    def gone_on(
        self,
        picture: Picture,
        *,
        rate: int,
        order: Order,
        stages: Stages | None,
        s: npt.NDArray[np.float32],
        z: npt.NDArray[np.int16],
        skipped: Channels,
        done: int,
        effort: int,
    ) -> Coded:
        """`encode` with an effort above `done`, from what a search that stands for that effort has found.

        Args:
            s: latents in units of symbols [h, w, M]. z: hyper-latents [Z, h', w']. skipped: channels that are
                left out [M].
        """
        from licodec.codecs.latent_descent import CHOICE, improved

        torch_as_wanted()
        timer = Timer(stages)
        with timer("pixels"):
            blocks = self._to_input(picture.planes)
        gain, inverse = self._gains(rate)
        with torch.inference_mode(), _no_autocast(self.device), timer("network"):
            y = torch.from_numpy(s).to(self.device).permute(2, 0, 1)[None].contiguous()
            features = self._mean_features(z, *s.shape[:2])
        proposal = Proposal(rate, order, y, z, features, density(gain), inverse, skipped)
        first = self.walked(proposal, timer, CHOICE, whole=True)
        found = improved(self, picture.planes.shape, blocks, proposal, first, effort, timer, done, CHOICE)
        return written(found.symbols, found.passes, rate, order, self.tables, timer)

    def _order(self, order: int) -> Order:
        if order not in self.orders:
            listed = " or ".join(f"{int(known)} ({known.name.lower()})" for known in self.orders)
            hint = '; Encoder(order="serial") loads others, which do' if order == Order.SERIAL else ""
            raise UsageValueError(
                f"order: the weights {self._name} code in order {listed}, got {int(order)}{hint}",
                argument="order",
            )
        return Order(order)

    def _to_input(self, planes: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, C] -> blocks of the grid's size, edges repeated."""
        height, width, _ = planes.shape
        h, w = grid(height, width)
        rows, columns = h * CELL - height, w * CELL - width
        if rows or columns:
            planes = np.pad(planes, ((0, rows), (0, columns), (0, 0)), mode="edge")
        if planes.shape[2] == 1:
            planes = np.repeat(planes, 3, axis=2)
        if not planes.flags.writeable:  # which torch would warn of
            planes = planes.copy()
        with torch.inference_mode():
            return to_blocks(torch.from_numpy(planes[None]).to(self.device))

    def _symbols(
        self,
        blocks: Tensor,
        rate: int,
        order: Order,
        timer: Timer,
        shared: Shared | None = None,
    ) -> tuple[Symbols, list[CodedPass]]:
        """Symbols of a picture as `_to_input` gives it, and the passes of their stream."""
        found = self.walked(self.proposed(blocks, rate, order, timer, shared), timer)
        return found.symbols, found.passes

    def proposed(
        self,
        blocks: Tensor,
        rate: int,
        order: Order,
        timer: Timer,
        shared: Shared | None = None,
        *,
        skip: bool = False,
    ) -> Proposal:
        """What the float nets propose for a picture as `_to_input` gives it. `skip`: channels may be left
        out."""
        at = torch.tensor([rate])
        gain, inverse = self._gains(rate)
        h, w = blocks.shape[2] // 4, blocks.shape[3] // 4
        with torch.inference_mode(), _no_autocast(self.device), timer("network"):
            y = self._latents(blocks, gain, inverse, at.to(self.device), shared)
            padded = F.pad(y, (0, -w % HYPER, 0, -h % HYPER), mode="replicate")
            centre = torch.from_numpy(self.prior_offset[knot_of(rate)]).to(self.device).float()[:, None, None]
            z = _int16(round_towards(self.hyper_analysis(padded), centre).clamp_(-Z_MAX, Z_MAX))
            features = self._mean_features(z, h, w)
            skipped = np.zeros(self.preset.latents, np.bool_)
            if skip and order != Order.SERIAL:
                step_value = interpolate_knots(self.step_value, at)[0].numpy()
                skipped[first_skipped(rows_of(y)[0].cpu().numpy(), step_value) :] = True
        return Proposal(rate, order, y, z, features, density(gain), inverse, skipped)

    def walked(self, proposal: Proposal, timer: Timer, worth: float = 1.0, *, whole: bool = False) -> Walked:
        """The symbols of a proposal, chosen pass by pass; `worth`: of distortion, times what is usual.

        Where the integer nets say that a symbol is not coded it becomes zero before anything is predicted
        from it. Groups of which nothing is coded have no passes in the stream, and are decoded only for the
        `whole`.
        """
        if proposal.order == Order.SERIAL:
            return self._walked_serially(proposal, timer)
        y, rate, order, per_unit = proposal.y, proposal.rate, proposal.order, proposal.per_unit
        h, w = y.shape[2:]
        groups = list(self.preset.groups)
        per_units = torch.split(rows_of(per_unit), groups, 2)
        with torch.inference_mode(), timer("network"):
            parts = torch.split(rows_of(y / per_unit), groups, 2)
        skipped = proposal.skipped
        scales = Scales(self, proposal.z, h, w, rate, order, self.exact.path, timer, skipped)
        coded: list[CodedPass] = []
        step_value = interpolate_knots(self.step_value, torch.tensor([rate]))[0].numpy() * np.float32(worth)
        savings = symbol_savings(self.tables)
        waited = 0.0

        def settle(step: Pass, mean: Tensor) -> Tensor:
            nonlocal waited
            per = per_units[step.group]
            start = time.perf_counter()
            index = scales.index(step)
            waited += time.perf_counter() - start
            cells = places(h, w, self.preset.depths[step.group], self.device)[step.number].cells
            value = as_columns((parts[step.group].index_select(1, cells) - mean) * per)
            symbols = choose_symbols(value, index, step_value[step.first : step.last], savings)
            start = time.perf_counter()
            scales.settle(step, symbols)
            waited += time.perf_counter() - start
            coded.append(CodedPass(step, symbols, index))
            return torch.addcdiv(mean, as_rows(symbols, self.device), per)

        steps = self.preset.passes
        there = [step for step in steps if not skipped[step.first : step.last].all()]
        decoded = torch.empty(0)
        if whole or there:
            with torch.inference_mode(), _no_autocast(self.device), timer("network"):
                decoded = self.means.walk(proposal.features, settle, steps if whole else there)
        if timer.stages is not None:
            timer.stages["network"] -= waited * 1000
        for step in steps[len(coded) :]:
            index = scales.index(step)
            coded.append(CodedPass(step, np.zeros(index.shape, np.int16), index))
            scales.settle(step, coded[-1].symbols)
        found = Symbols(proposal.z, tuple(scales.settled), steps, h, w, skipped)
        passes = [self._hyper_pass(proposal.z, rate), *coded[: len(there)]]
        if order == Order.ONE_STEP:
            q = found.q.reshape(self.preset.latents, -1)
            passes[1:] = [CodedPass(one_step(len(q))[0], q, scales.everything)]
        return Walked(found, passes, coded, decoded)

    def _walked_serially(self, proposal: Proposal, timer: Timer) -> Walked:
        """`walked` in order 2, where nothing is decoded on the way."""
        from licodec.codecs.serial import Choice, SerialIndices, wavefronts

        assert self._serial is not None
        z, rate, per_unit = proposal.z, proposal.rate, proposal.per_unit
        h, w = proposal.y.shape[2:]
        choice = Choice(
            interpolate_knots(self.step_value, torch.tensor([rate]))[0].numpy(), symbol_savings(self.tables)
        )
        indices = SerialIndices(self._serial, z, wavefronts(h, w), rate, self.exact.path, timer)
        with torch.inference_mode(), _no_autocast(self.device):
            y = proposal.y / per_unit
            fronts = wavefronts(h, w, self.device)
            q, coded = self._serial.choose(indices, fronts, proposal.features, y, per_unit, choice)
        found = Symbols.of(z, q, self.preset.passes)
        return Walked(found, [self._hyper_pass(z, rate), *coded], [], torch.empty(0))

    def _latents(
        self, blocks: Tensor, gain: Tensor, inverse: Tensor, at: Tensor, shared: Shared | None
    ) -> Tensor:
        """Latents in units of symbols float32 [1, M, h, w], refined once where the preset is; computed in
        tiles."""
        size = (1, self.preset.latents, blocks.shape[2] // 4, blocks.shape[3] // 4)
        empty = functools.partial(
            torch.empty,  # dtype said: the caller's default may be another one
            size,
            dtype=torch.float32,
            device=self.device,
            memory_format=torch.channels_last,
        )
        first = empty()
        parts = list(tiles(*size[2:], self.preset.halo, self.preset.tile_pixels))
        kept = shared if len(parts) == 1 else None  # of a large picture it would be hundreds of megabytes
        for tile in parts:
            seen = blocks[:, :, tile.outer_block_rows, tile.outer_block_columns]
            begun = once(kept, "analysis", functools.partial(self.analysis.begun, seen))
            y = self.analysis.finished(begun, at) * gain
            first[:, :, tile.rows, tile.columns] = y[:, :, tile.inner_rows, tile.inner_columns]
        if not self.preset.refined:
            return first
        refined = empty()
        for tile in parts:
            y = first[:, :, tile.outer_rows, tile.outer_columns]
            seen = blocks[:, :, tile.outer_block_rows, tile.outer_block_columns]
            y = self.refinement(y, seen, gain, inverse, at, self.synthesis)
            refined[:, :, tile.rows, tile.columns] = y[:, :, tile.inner_rows, tile.inner_columns]
        return refined

    def _hyper_pass(self, z: npt.NDArray[np.int16], rate: int) -> CodedPass:
        """The stream's first pass: hyper-latents with their offset taken off."""
        index, offset = self._hyper_prior(z.shape, rate)
        symbols = (z - offset).reshape(len(z), -1)
        return CodedPass(one_step(len(z))[0], symbols, index)

    def _hyper_prior(
        self, shape: tuple[int, ...], rate: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        """Table indices [Z, h' w'] and offsets [Z, 1, 1] of hyper-latents [Z, h', w']."""
        knot = knot_of(rate)
        index = np.repeat(self.prior_index[knot][:, None], shape[1] * shape[2], axis=1)
        return index, self.prior_offset[knot][:, None, None]

    # Decoder

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        """See `contract.Model`. All symbols first (integers), then the float nets once."""
        torch_as_wanted()
        head, timer = file.head, Timer(stages)
        preview = reduce != 1 and self.preset.straight
        symbols = self._read(file, timer, self.preset.preview_groups if preview else None)
        with torch.inference_mode(), _no_autocast(self.device):
            with timer("network"):
                v, scale = self._decoded(symbols, head.rate, Order(head.order))
            if preview:
                planes = self._reduced_pixels(v, scale, head, reduce, timer)
            else:
                planes = reduced(self._pixels(v, scale, head, timer), reduce)
        with timer("pixels"):
            if head.colour == Colour.GREY:
                planes = ((planes.astype(np.uint16).sum(axis=2, keepdims=True) + 1) // 3).astype(np.uint8)
        return Picture(planes, depth=8, orientation=head.orientation, metadata=file.metadata)

    def read_symbols(self, file: LicFile) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """Hyper-latents [Z, h', w'] and symbols [M, h, w] of a file, verified by the stream's seal."""
        symbols = self._read(file, Timer(None))
        return symbols.z, symbols.q

    def _read(self, file: LicFile, timer: Timer, groups: int | None = None) -> Symbols:
        """A stream that doesn't verify is read once more with the safe integer path before it is called
        damaged. `groups`: of as many groups only, where the order allows it; what is left is the container's
        checksum then."""
        path = self.exact.path
        try:
            return self._read_symbols(file, path, timer, groups)
        except FormatError:
            if path == SAFE_PATH:
                raise
            return self._read_symbols(file, SAFE_PATH, timer, groups)

    def _read_symbols(self, file: LicFile, path: str, timer: Timer, groups: int | None = None) -> Symbols:
        head = file.head
        h, w = grid(head.height, head.width)
        order = Order(head.order)
        if order not in self.orders:
            raise FormatError(
                f"fhic: decode order {int(order)}, for which the weights {self._name} have no nets",
                chunk="HEAD",
            )
        side = FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD")
        skipped = read_skipped(side["channel_skip"], side["channels"], self.preset.latents)
        if order == Order.SERIAL and skipped.any():
            raise FormatError(
                f"fhic: channel_skip {side['channel_skip']} in decode order {int(order)}, expected 0",
                chunk="HEAD",
            )
        steps = tuple(step for step in self.preset.passes if groups is None or step.group < groups)
        stream = StreamDecoder(file.units[0].body, self.tables)
        z_shape = (self.preset.hyper, -(-h // HYPER), -(-w // HYPER))
        with timer("entropy"):
            index, offset = self._hyper_prior(z_shape, head.rate)
            z = stream.get(index.reshape(-1)).reshape(z_shape) + offset
        if order == Order.SERIAL:
            q = self._read_serial(stream, z, (h, w), head.rate, path, timer, groups)
            return Symbols.of(z, q, steps)
        with exact_section(path):
            scales = Scales(self, z, h, w, head.rate, order, path, timer, skipped)
            if order == Order.ONE_STEP:
                with timer("entropy"):
                    q = stream.get(scales.everything.reshape(-1)).reshape(scales.everything.shape)
                for step in steps:
                    scales.settle(step, q[step.first : step.last, schedule.positions(step, h, w)])
            else:
                for step in steps:
                    index = scales.index(step)
                    with timer("entropy"):
                        if skipped[step.first : step.last].all():
                            symbols = np.zeros(index.shape, np.int16)
                        else:
                            symbols = stream.get(index.reshape(-1)).reshape(index.shape)
                    scales.settle(step, symbols)
        if order == Order.ONE_STEP or len(steps) == len(self.preset.passes):
            with timer("entropy"):
                stream.close()
        return Symbols(z, tuple(scales.settled), steps, h, w, skipped)

    def _read_serial(
        self,
        stream: StreamDecoder,
        z: npt.NDArray[np.int16],
        size: tuple[int, int],
        rate: int,
        path: str,
        timer: Timer,
        groups: int | None,
    ) -> npt.NDArray[np.int16]:
        """Symbols [M, h, w] of a stream in order 2, of the first `groups` or all."""
        from licodec.codecs.serial import SerialIndices, wavefronts

        assert self._serial is not None
        with exact_section(path):
            indices = SerialIndices(self._serial, z, order := wavefronts(*size), rate, path, timer)
            q = self._serial.read(stream, indices, order, groups, timer)
        if groups is None:
            with timer("entropy"):
                stream.close()
        return q

    def _gains(self, rate: int) -> tuple[Tensor, Tensor]:
        """Symbols per unit of a latent, and coefficients in units of pixels per symbol, [1, M, 1, 1]."""
        at = torch.tensor([rate])
        gain, inverse = (
            torch.exp(interpolate_knots(knots, at)).to(self.device)[:, :, None, None]
            for knots in (self.gain, self.inverse_gain)
        )
        return gain, inverse

    def _mean_features(self, z: npt.NDArray[np.int16], h: int, w: int) -> Tensor:
        hyper = torch.from_numpy(z).unsqueeze(0).to(self.device).float()
        return self.means.hyper(hyper.contiguous(memory_format=torch.channels_last))[:, :, :h, :w]

    def _decoded(
        self, symbols: Symbols, rate: int, order: Order = Order.CHECKERBOARD
    ) -> tuple[Tensor, Tensor]:
        """Decoded latents in bounded units, float32 [1, M, h, w], and the factors [1, M, 1, 1] that make them
        coefficients in units of pixels."""
        at, coded = torch.tensor([rate]), slice(symbols.steps[-1].last)
        per_unit = density(torch.exp(interpolate_knots(self.gain[:, coded], at)))
        inverse = (per_unit * torch.exp(interpolate_knots(self.inverse_gain[:, coded], at))).to(self.device)
        if order == Order.SERIAL:
            return self._serial_decoded(symbols, per_unit), inverse[:, :, None, None]
        groups = list(self.preset.groups[: symbols.steps[-1].group + 1])
        per_units = torch.split(per_unit.to(self.device)[:, None], groups, 2)
        passes = iter(symbols.passes)

        def settle(step: Pass, mean: Tensor) -> Tensor:
            q = next(passes)
            if symbols.skipped[step.first : step.last].all():
                return mean
            return torch.addcdiv(mean, as_rows(q, self.device), per_units[step.group])

        features = self._mean_features(symbols.z, symbols.height, symbols.width)
        decoded = self.means.walk(features, settle, symbols.steps)
        return decoded, inverse[:, :, None, None]

    def _serial_decoded(self, symbols: Symbols, per_unit: Tensor) -> Tensor:
        """Decoded latents in order 2, in bounded units."""
        from licodec.codecs.serial import wavefronts

        assert self._serial is not None
        h, w = symbols.height, symbols.width
        features = self._mean_features(symbols.z, h, w)
        return self._serial.decoded(
            symbols.q,
            wavefronts(h, w, self.device),
            features,
            per_unit.to(self.device)[:, :, None, None],
            symbols.steps[-1].group + 1,
        )

    def _pixels(self, v: Tensor, scale: Tensor, head: Head, timer: Timer) -> npt.NDArray[np.uint8]:
        """Synthesis in overlapping tiles, rounded to uint8 [H, W, 3]."""
        planes = np.empty((head.height, head.width, 3), np.uint8)
        at = torch.tensor([head.rate], device=self.device)
        for tile in tiles(v.shape[2], v.shape[3], self.halo, self.preset.tile_pixels):
            with timer("network"):
                blocks = self.shown_by(v[:, :, tile.outer_rows, tile.outer_columns], scale, at)
            with timer("pixels"):
                inner = blocks[:, :, tile.inner_block_rows, tile.inner_block_columns].float()
                levels = (
                    inner.mul_(255).add_(128).clamp_(0, 255).to(torch.uint8)
                )  # (x + 0.5) * 255, rounded half up
                out = shuffle(levels, 4)[0].permute(1, 2, 0).cpu().numpy()
                target = planes[tile.pixel_rows, tile.pixel_columns]
                target[...] = out[: target.shape[0], : target.shape[1]]
        return planes

    def _reduced_pixels(
        self, v: Tensor, scale: Tensor, head: Head, reduce: int, timer: Timer
    ) -> npt.NDArray[np.uint8]:
        """Preview in tiles, averaged to 1 / `reduce` of the size and rounded: uint8 [H / reduce, W / reduce,
        3], rounded up."""
        size = -(-head.height // reduce), -(-head.width // reduce)
        side = CELL // reduce
        planes = np.empty((v.shape[2] * side, v.shape[3] * side, 3), np.uint8)
        at = torch.tensor([head.rate], device=self.device)
        for tile in tiles(v.shape[2], v.shape[3], 1):
            with timer("network"):
                blocks = self.preview(v[:, :, tile.outer_rows, tile.outer_columns], scale, at)
                pixels = shuffle(blocks[:, :, tile.inner_rows, tile.inner_columns], 4)
                pixels = F.avg_pool2d(pixels, 4 // side) if side < 4 else pixels
            with timer("pixels"):
                levels = (pixels * 255).add_(128).clamp_(0, 255).to(torch.uint8)
                rows, columns = times(tile.rows, side), times(tile.columns, side)
                planes[rows, columns] = levels[0].permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(planes[: size[0], : size[1]])


# --- Parts of coding ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proposal:
    """What an encoder's float nets propose for a picture.

    Attributes:
        y: latents in units of symbols, float32 [1, M, h, w].
        z: hyper-latents, int16 [Z, h', w']. features: what the mean nets make of them.
        per_unit: symbols per bounded unit (`density`). inverse: coefficients per symbol. Both [1, M, 1, 1].
        skipped: channels that are left out, bool [M].
    """

    rate: int
    order: Order
    y: Tensor
    z: npt.NDArray[np.int16]
    features: Tensor
    per_unit: Tensor
    inverse: Tensor
    skipped: Channels


@dataclass(frozen=True)
class Walked:
    """What became of a proposal.

    Attributes:
        symbols: of the picture. passes: of the stream, in its order.
        coded: the passes of order 1, with the tables of the order of the stream.
        decoded: the latents, in bounded units, float32 [1, M, h, w], where the whole was asked for.
    """

    symbols: Symbols
    passes: list[CodedPass]
    coded: list[CodedPass]
    decoded: Tensor

    def bits(self, tables: TableSet) -> float:
        """What the tables say that they cost."""
        return sum(estimated_bits(part.symbols, part.index, tables) for part in self.passes)


class Scales:
    """Table indices of a latent's symbols, pass by pass, from integers that a decoder knows: encoder and
    decoder drive this same object, so that they cannot drift apart.

    `index(pass)` says how the symbols of a pass are coded, `settle(pass, symbols)` what they are; passes in
    the order of order 1. `settled` is what is known so far. In order 0 `everything` holds all
    indices at once. What only tables of `skipped` channels (bool [M]) depend on is not computed.
    """

    def __init__(
        self,
        model: Checkerboard,
        z: npt.NDArray[np.int16],
        h: int,
        w: int,
        rate: int,
        order: Order,
        path: str,
        timer: Timer,
        skipped: Channels | None = None,
    ) -> None:
        self.settled: list[npt.NDArray[np.int16]] = []
        self._size, self._preset = (h, w), model.preset
        self._path, self._timer, self._one_step = path, timer, order == Order.ONE_STEP
        self._magnitudes = model.magnitudes
        self._family = (model.families[order].numpy() * SCALES)[:, None]
        self._skipped = np.zeros(model.preset.latents, np.bool_) if skipped is None else skipped
        outputs = {}
        if self._skipped.any():
            outputs["direct.1"] = coded_channels(self._skipped)
            for step in model.preset.passes:
                name = f"scale.{step.group}.{step.number}.1"
                outputs[name] = coded_channels(self._skipped[step.first : step.last])
        self._end = coded_channels(self._skipped)
        self._nets = ScaleNets(IntegerLayers(model.exact, rate, path, outputs))
        self._base = torch.empty(0)
        self._earlier: list[Tensor] = []
        self._projected: list[Tensor] = []
        with self._exact():
            clipped = np.clip(z, -HYPER_LIMIT, HYPER_LIMIT).astype(np.float32)
            self._features = self._nets.hyper(torch.from_numpy(clipped).unsqueeze(0))[:, :, :h, :w]
            if self._one_step:
                whole = slice(0, len(self._skipped))
                self.everything = np.full((whole.stop, h * w), NOT_CODED, np.uint8)
                if self._end:
                    scale = self._nets.direct(self._features)
                    self.everything = self._index(scale.flatten(2), whole)

    @contextlib.contextmanager
    def _exact(self) -> Iterator[None]:
        with self._timer("exact"), exact_section(self._path):
            yield

    def index(self, step: Pass) -> npt.NDArray[np.uint8]:
        """Table index of each symbol of a pass, uint8 [C, n]; `NOT_CODED` where it is zero without a
        code."""
        part = slice(step.first, step.last)
        place = self._places(step)[step.number]
        if self._one_step:
            return self.everything[part][:, place.cells.numpy()]
        if self._skipped[part].all():
            return np.full((step.last - step.first, len(place.cells)), NOT_CODED, np.uint8)
        with self._exact():
            if step.number == 0:
                self._base = self._nets.base(step.group, self._features, self._earlier)
            scale = self._nets.scales(step, self._base, place, self._projected)
            return self._index(scale.mT, part)

    def settle(self, step: Pass, symbols: npt.NDArray[np.int16]) -> None:
        """Symbols [C, n] of a pass."""
        self.settled.append(symbols)
        if self._one_step or self._end <= (step.last if step.level == 0 else step.first):
            return
        if step.number == 0:
            self._projected = []
        with self._exact():
            level = self._magnitudes.take(np.abs(symbols), mode="clip")
            self._projected.append(self._nets.project(step.group, torch.from_numpy(level[None]).mT))
            if step.level == 0:
                self._earlier.append(spread(self._projected, self._places(step)[-1]))

    def _places(self, step: Pass) -> tuple[Place, ...]:
        return places(*self._size, self._preset.depths[step.group])

    def _index(self, scale: Tensor, part: slice) -> npt.NDArray[np.uint8]:
        """Scale indices [1, C, n] holding 0..63 of the first C channels of a part -> table indices of all,
        [part, n]; scale index 0 is not coded."""
        index = table_indices(scale, self._family[part][: scale.shape[1]])
        skipped = self._skipped[part]
        if not skipped.any():
            return index
        whole = np.full((len(skipped), index.shape[1]), NOT_CODED, np.uint8)
        kept = np.flatnonzero(~skipped)
        whole[kept] = index[kept]
        return whole


def table_indices(scale: Tensor, family: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale indices [1, C, n] holding 0..63 and each channel's first table [C, 1] -> table indices [C, n];
    scale index 0 is not coded."""
    t: npt.NDArray[np.uint8] = scale[0].to("cpu", torch.uint8).contiguous().numpy()
    index: npt.NDArray[np.uint8] = t + family
    np.putmask(index, t == 0, NOT_CODED)
    return index


def round_half_up(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def round_towards(x: Tensor, centre: Tensor) -> Tensor:
    """Integers near x, up to HYPER_ROUND off on the side of the integers `centre`."""
    d = x - centre
    return centre + torch.sign(d) * torch.floor(d.abs() + (1 - HYPER_ROUND))


def as_columns(x: Tensor) -> npt.NDArray[np.float32]:
    """Rows [1, n, C] -> float32 [C, n] on the CPU."""
    out: npt.NDArray[np.float32] = x[0].cpu().t().contiguous().numpy()
    return out


def as_rows(symbols: npt.NDArray[np.int16], device: str) -> Tensor:
    """int16 [C, n] -> float32 rows [1, n, C]."""
    return torch.from_numpy(symbols[None]).to(device).mT.contiguous().float()


def _int16(x: Tensor) -> npt.NDArray[np.int16]:
    out: npt.NDArray[np.int16] = x[0].cpu().to(torch.int16).contiguous().numpy()
    return out


def _no_autocast(device: str) -> torch.autocast:
    return torch.autocast(device.partition(":")[0], enabled=False)


# --- Reading weights ----------------------------------------------------------------------------------------


class _Tensors:
    """Tensors of a weights file by name, checked; WeightsError names what is wrong."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def _get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.weights.tensors.get(name)
        if tensor is None:
            raise WeightsError(f"{self.weights.path}: no tensor {name!r}, which fhic needs")
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{self.weights.path}: {name!r} has shape {tuple(tensor.shape)}, expected {shape}"
            )
        return tensor

    def integers(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, low: int, high: int) -> Tensor:
        tensor = self._get(name, shape)
        if tensor.dtype != dtype:
            raise WeightsError(f"{self.weights.path}: {name!r} is {tensor.dtype}, expected {dtype}")
        if int(tensor.min()) < low or int(tensor.max()) > high:
            found = f"{int(tensor.min())}..{int(tensor.max())}"
            raise WeightsError(f"{self.weights.path}: {name!r} holds {found}, expected {low}..{high}")
        return tensor

    def floats(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """float32; stored as a float type, or as int8 with one float32 step an output channel in
        `name_step`."""
        tensor = self._get(name, shape)
        if tensor.dtype == torch.int8:
            step = self._get(f"{name}_step", shape[:1]).float()
            tensor = tensor.float() * step.view(-1, *[1] * (len(shape) - 1))
        elif not tensor.dtype.is_floating_point:
            raise WeightsError(f"{self.weights.path}: {name!r} is {tensor.dtype}, expected floats")
        return tensor.float()

    def module(self, prefix: str, kind: Callable[[Preset], NetT], preset: Preset) -> NetT:
        """A float net with its weights, in channels_last memory, without gradients."""
        with torch.device("meta"):
            net = kind(preset)
        for path, part in net.named_modules(prefix=prefix.rstrip(".")):
            part.training = False
            for name, expected in [*part.named_parameters(path, False), *part.named_buffers(path, False)]:
                tensor = self.floats(name, tuple(expected.shape))
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                own = isinstance(expected, nn.Parameter)
                setattr(part, name.rpartition(".")[2], nn.Parameter(tensor, False) if own else tensor)
        return net


def _mixed(net: NetT, fast: torch.dtype) -> NetT:
    """Convolutions in the fast type, but for the straight path: its large coefficients need float32."""
    if fast != torch.float32:
        for name, child in net.named_children():
            if name != "klt":
                child.to(fast)
    return net

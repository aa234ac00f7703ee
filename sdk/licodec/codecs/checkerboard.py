"""fhic: checkerboard context, exact scale nets, one model for all rates.

After H. Fu et al., "Fast and High-Performance Learned Image Compression With Improved Checkerboard Context
Model, Deformable Residual Module, and Knowledge Distillation" (IEEE TIP 33, 2024): two passes over the
latent, each with its own parameter net. What is ours: every net that chooses a probability table is an
integer net and sees integers only.

    pixels x --analysis--> y (unit variance) --* gain[r]--> y'
    z = round(hyper_analysis(y'))
    exact nets:  z (and |q| of earlier steps) --> table index of every symbol
    mean nets:   z (and y^ of earlier steps)  --> mu            q = round(y' - mu)      y^ = q + mu
    y^ * inverse_gain[r] --synthesis--> pixels

Latent channels come in groups; each group is coded in two passes over a checkerboard:

    a o a o a      a: anchors, (row + column) even, predicted from z and the earlier groups
    o a o a o      o: the others, which see the anchors of their group around them as well
    a o a o a
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_format.container import SEALED_ANS, LicFile, Unit
from lic_format.errors import FormatError, UsageValueError, WeightsError
from lic_format.header import Colour, Order
from licodec.codecs.contract import Coded, Stages
from licodec.codecs.registry import FHIC_ORDERS, FHIC_SIDE_INFO
from licodec.entropy.coder import StreamDecoder, StreamEncoder
from licodec.entropy.schedule import Direction, Reader, Writer, checkerboard
from licodec.entropy.tables import TableSet, load_set
from licodec.exact.layers import KNOTS, LayerSpec, StoredLayer, interpolate_knots
from licodec.exact.paths import PATHS, SAFE_PATH, ExactNet, exact_section
from licodec.images import Picture
from licodec.store import Weights

NetT = TypeVar("NetT", bound=nn.Module)

CELL = 16
"""Pixels a latent position covers, each way."""
HYPER = 4
"""Latent positions a hyper-latent position covers, each way."""
SCALE_MIN, SCALE_MAX, SCALES = 0.11, 64.0, 64


@dataclass(frozen=True)
class Preset:
    """Sizes of one member of the family."""

    groups: tuple[int, ...]
    stem: int = 96
    body: int = 192
    stem_blocks: int = 2
    body_blocks: int = 2
    hyper: int = 96
    mean: int = 128
    exact: int = 64

    @property
    def latents(self) -> int:
        return sum(self.groups)


SIZE_MAX = 4096
"""No width of a net is larger; a weights file that says so is damaged."""
PRESETS = {"s": Preset(groups=(48, 272))}


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


class Conv(nn.Conv2d):
    """Convolution with a bias that keeps the size."""

    bias: nn.Parameter

    def __init__(self, inp: int, out: int, kernel: int) -> None:
        super().__init__(inp, out, kernel, padding=kernel // 2)


def fit(x: Tensor, layer: Conv) -> Tensor:
    """x in the dtype of the layer's weights, where autocast doesn't see to that."""
    if x.dtype == layer.weight.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(layer.weight.dtype)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.1. Plain ReLUs died here: at this learning rate whole branches fell silent."""
    return F.leaky_relu(x, 0.1)


class ResidualBlock(nn.Module):
    """x + conv(film[r] * leaky(conv(x))): film lets one net act differently at different rates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 3)
        self.film = nn.Parameter(torch.ones(KNOTS, width))
        with torch.no_grad():
            self.second.weight.mul_(0.1)
            self.second.bias.zero_()

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        h = leaky(self.first(x))
        film = interpolate_knots(self.film, rate)[:, :, None, None].to(h.dtype)
        out: Tensor = x + self.second(h * film)
        return out


class Analysis(nn.Module):
    """Pixels [B, 3, H, W] minus 0.5 -> latents of about unit variance [B, M, H/16, W/16], float32.

    The straight way (stem's centre tap, `linear`) starts as the block KLT of photographs, the branches start
    near zero.
    """

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.stem = Conv(192, p.stem, 3)
        self.stem_blocks = nn.ModuleList(ResidualBlock(p.stem) for _ in range(p.stem_blocks))
        self.linear = Conv(4 * p.stem, p.latents, 1)
        self.enter = Conv(4 * p.stem, p.body, 1)
        self.body_blocks = nn.ModuleList(ResidualBlock(p.body) for _ in range(p.body_blocks))
        self.leave = Conv(p.body, p.latents, 1)
        self.deviation: Tensor
        self.register_buffer("deviation", torch.ones(p.latents))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        h = self.stem(fit(unshuffle(x, 8), self.stem))
        for block in self.stem_blocks:
            h = block(h, rate)
        h = unshuffle(h, 2)
        y = self.linear(fit(h, self.linear)).float() / self.deviation.view(1, -1, 1, 1)
        h = self.enter(h)
        for block in self.body_blocks:
            h = block(h, rate)
        out: Tensor = y + self.leave(leaky(h)).float()
        return out


class Synthesis(nn.Module):
    """Latents of about unit variance [B, M, h, w] -> pixels minus 0.5 [B, 3, 16h, 16w], float32. Mirror of
    `Analysis`."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.linear = Conv(p.latents, 4 * p.stem, 1)
        self.enter = Conv(p.latents, p.body, 1)
        self.body_blocks = nn.ModuleList(ResidualBlock(p.body) for _ in range(p.body_blocks))
        self.leave = Conv(p.body, 4 * p.stem, 1)
        self.stem_blocks = nn.ModuleList(ResidualBlock(p.stem) for _ in range(p.stem_blocks))
        self.stem = Conv(p.stem, 192, 3)
        self.deviation: Tensor
        self.register_buffer("deviation", torch.ones(p.latents))
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, v: Tensor, rate: Tensor) -> Tensor:
        return shuffle(self.blocks(v, rate), 8).float()

    def blocks(self, v: Tensor, rate: Tensor) -> Tensor:
        """The picture as 8x8 blocks, [B, 192, 2h, 2w], channels in (dy, dx, rgb) order."""
        t = self.linear(v * self.deviation.view(1, -1, 1, 1))
        h = self.enter(fit(v, self.enter))
        for block in self.body_blocks:
            h = block(h, rate)
        h = fit(shuffle(t + self.leave(leaky(h)), 2), self.stem)
        for block in self.stem_blocks:
            h = block(h, rate)
        out: Tensor = self.stem(h)
        return out


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
        h = unshuffle(leaky(a(torch.asinh(y))), 2)
        h = unshuffle(leaky(c(leaky(b(h)))), 2)
        out: Tensor = 4.0 * d(h).float()
        return out


Settle = Callable[[int, Tensor], Tensor]


class MeanNets(nn.Module):
    """Means of the symbols, in units of the latents' standard deviation, step by step. Coding runs them in
    float32.

    `hyper(z)`: z float [B, Z, h/4, w/4] -> features; `walk` does the rest.
    """

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.groups = p.groups
        w = p.mean
        self.hyper_layers = nn.ModuleList(
            [Conv(p.hyper, 4 * 96, 1), Conv(96, 96, 3), Conv(96, 4 * w, 1), Conv(w, w, 3)]
        )
        self.context = nn.ModuleList(Conv(sum(p.groups[:g]), w, 5) for g in range(1, len(p.groups)))
        self.anchor, self.other, self.taps = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for g, m in enumerate(p.groups):
            base = w if g == 0 else 2 * w
            hidden = w if g == 0 else w * 3 // 2
            self.taps.append(Conv(m, 96, 5 if g == 0 else 3))
            self.anchor.append(nn.Sequential(Conv(base, hidden, 1), nn.LeakyReLU(0.2), Conv(hidden, m, 1)))
            self.other.append(
                nn.Sequential(Conv(base + 96, hidden, 1), nn.LeakyReLU(0.2), Conv(hidden, m, 1))
            )
        with torch.no_grad():
            for net in [*self.anchor, *self.other]:
                assert isinstance(net, nn.Sequential)
                last = net[2]
                assert isinstance(last, Conv)
                last.weight.mul_(0.1)
                last.bias.zero_()

    def hyper(self, z: Tensor) -> Tensor:
        a, b, c, d = self.hyper_layers
        h = shuffle(F.leaky_relu(a(z * 0.25), 0.2), 2)
        h = F.leaky_relu(b(h), 0.2)
        return F.leaky_relu(d(shuffle(F.leaky_relu(c(h), 0.2), 2)), 0.2)

    def base(self, group: int, features: Tensor, earlier: list[Tensor]) -> Tensor:
        """What both passes of a group see: hyper features, and context of the earlier groups' y^."""
        if group == 0:
            return features
        known = torch.cat(earlier, 1) if len(earlier) > 1 else earlier[0]
        return torch.cat([features, F.leaky_relu(self.context[group - 1](known), 0.2)], 1)

    def anchors(self, group: int, base: Tensor) -> Tensor:
        out: Tensor = self.anchor[group](base)
        return out

    def walk(self, features: Tensor, mask: Tensor, settle: Settle) -> tuple[Tensor, Tensor]:
        """All steps in order: (means, y^), both [B, M, h, w] in unit-variance units.

        `settle(group, mean)` gives the group's y^ for that mean; training, encoder and decoder differ only
        there. `mask`: bool [h, w], true at anchors.
        """
        means: list[Tensor] = []
        decoded: list[Tensor] = []
        for g in range(len(self.groups)):
            base = self.base(g, features, decoded)
            first = self.anchors(g, base).float()
            second = self.others(g, base, torch.where(mask, settle(g, first), 0)).float()
            means.append(torch.where(mask, first, second))
            decoded.append(settle(g, means[-1]))
        return torch.cat(means, 1), torch.cat(decoded, 1)

    def others(self, group: int, base: Tensor, anchors: Tensor) -> Tensor:
        taps = F.leaky_relu(self.taps[group](anchors), 0.2)
        out: Tensor = self.other[group](torch.cat([base, taps], 1))
        return out


# --- Exact scale nets: one wiring for the trainable twins and for the integer layers ------------------------

Layer = Callable[[str, Tensor], Tensor]
"""Runs the named layer on a tensor: a trainable twin in training, an integer layer in coding."""

HYPER_LIMIT = 127
MAGNITUDE_UNIT = 1 / 16
HYPER_UNIT = 1 / 4


def exact_layers(p: Preset) -> list[LayerSpec]:
    """All integer layers of the scale nets, in the order in which they run."""
    e = p.exact
    specs = [
        LayerSpec("hyper.0", p.hyper, 96, 3, in_unit=HYPER_UNIT, signed=True),
        LayerSpec("hyper.1", 96, 4 * e, 3),
        LayerSpec("hyper.2", e, 4 * e, 3),
        LayerSpec("direct.0", e, 128, 1),
        LayerSpec("direct.1", 128, p.latents, 1, last=True),
    ]
    for g, m in enumerate(p.groups):
        specs.append(LayerSpec(f"project.{g}", m, 32, 1, in_unit=MAGNITUDE_UNIT))
        context = 0 if g == 0 else 48
        if g:
            specs.append(LayerSpec(f"context.{g}", 32 * g, 48, 3))
        specs += [
            LayerSpec(f"anchor.{g}.0", e + context, 96, 1),
            LayerSpec(f"anchor.{g}.1", 96, m, 1, last=True),
            LayerSpec(f"taps.{g}", 32, 64, 5),
            LayerSpec(f"other.{g}.0", e + context + 64, 96, 1),
            LayerSpec(f"other.{g}.1", 96, m, 1, last=True),
        ]
    return specs


class ScaleNets:
    """The wiring. `layer(name, x)` runs a layer; everything between layers only moves integers around."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def hyper(self, z: Tensor) -> Tensor:
        """Clipped hyper-latents [B, Z, h/4, w/4] -> features [B, 64, h, w]."""
        h = shuffle(self.layer("hyper.1", self.layer("hyper.0", z)), 2)
        return shuffle(self.layer("hyper.2", h), 2)

    def direct(self, features: Tensor) -> Tensor:
        """Order 0: scale indices of all symbols at once, [B, M, h, w]."""
        return self.layer("direct.1", self.layer("direct.0", features))

    def base(self, group: int, features: Tensor, projected: list[Tensor]) -> Tensor:
        if group == 0:
            return features
        return torch.cat([features, self.layer(f"context.{group}", torch.cat(projected, 1))], 1)

    def project(self, group: int, magnitudes: Tensor) -> Tensor:
        """Compressed magnitudes of a group's symbols (zeros where unknown) -> 32 features a position."""
        return self.layer(f"project.{group}", magnitudes)

    def anchors(self, group: int, base: Tensor) -> Tensor:
        return self.layer(f"anchor.{group}.1", self.layer(f"anchor.{group}.0", base))

    def others(self, group: int, base: Tensor, projected_anchors: Tensor) -> Tensor:
        taps = self.layer(f"taps.{group}", projected_anchors)
        return self.layer(f"other.{group}.1", self.layer(f"other.{group}.0", torch.cat([base, taps], 1)))


# --- Coding -------------------------------------------------------------------------------------------------

SYMBOL_MAX = 32767
Z_OFFSET_MAX = 1024
Z_MAX = SYMBOL_MAX - Z_OFFSET_MAX
"""Hyper-latents are coded with an offset taken off, which must not leave 16 bits."""
ZERO_BELOW = 0.6
"""A residual of 0.5..0.6 costs more bits as 1 than its distortion is worth (figures: docs/training.md)."""
HALO = 8
"""Latent positions of context around a tile of analysis or synthesis: both see 6.5 at most."""
TILE_PIXELS = 1 << 21
"""Pixels of a tile of a large picture: bounds memory, changes no value."""


def magnitude_table() -> npt.NDArray[np.float32]:
    """What the scale nets see of a symbol, by min(|q|, 255): round(16 log2(1 + |q|)), at most 127; integers
    only.

    v = round(16 log2(n)) is the largest v with 2^(2 v - 1) <= n^32.
    """
    values = [((n**32).bit_length() - 1 + 1) // 2 for n in range(1, 257)]
    return np.minimum(values, 127).astype(np.float32)


def bfloat16_is_fast(device: str) -> bool:
    """Whether convolutions in bfloat16 run on the device's own instructions. LICODEC_PRECISION overrules
    it."""
    wish = os.environ.get("LICODEC_PRECISION", "")
    if wish:
        if wish not in ("float32", "bfloat16"):
            raise UsageValueError(
                f"environment variable LICODEC_PRECISION is {wish!r}, expected float32 or bfloat16",
                argument="LICODEC_PRECISION",
            )
        return wish == "bfloat16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return any(
        bool(query())
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if (query := getattr(torch.cpu, name, None)) is not None
    )


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
        self.preset = _preset(weights)
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
        self.default_order = Order(int(read.integers("order", (1,), torch.uint8, 0, 1)[0]))
        self.magnitudes = magnitude_table()
        layers = [
            StoredLayer.from_tensors(spec, "exact.", weights.tensors) for spec in exact_layers(self.preset)
        ]
        self.exact = ExactNet(layers, _known_answers(weights), PATHS if exact == "auto" else (exact,))
        fast = torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
        self.precision = fast
        self.analysis = _mixed(read.module("encoder.analysis.", Analysis, self.preset), fast).to(device)
        self.synthesis = _mixed(read.module("synthesis.", Synthesis, self.preset), fast).to(device)
        self.hyper_analysis = read.module("encoder.hyper.", HyperAnalysis, self.preset).to(device)
        self.means = read.module("means.", MeanNets, self.preset).to(device)

    # Encoder

    def encode(
        self, picture: Picture, *, rate: int, order: int | None = None, stages: Stages | None = None
    ) -> Coded:
        """See `contract.Model`. The float nets choose the symbols; the stream holds whatever they chose."""
        chosen = self.default_order if order is None else _order(order)
        timer = Timer(stages)
        with torch.inference_mode(), _no_autocast(self.device):
            with timer("pixels"):
                x = self._to_input(picture.planes)
            with timer("network"):
                z, q = self._symbols(x, rate)
        stream = StreamEncoder(self.tables)
        bits = _BitCount(Writer(stream), self.tables) if stages is not None else None
        self._code(bits or Writer(stream), z, q, rate, chosen, self.exact.path, timer)
        with timer("entropy"):
            body = stream.finish()
        if stages is not None and bits is not None:
            stages["estimated_bits"] = stages.get("estimated_bits", 0.0) + bits.total
        side_info = FHIC_SIDE_INFO.write(
            {"layout": 1, "tables": 1, "channel_skip": 0, "tiling": 0, "hyper_prior": 0}
        )
        return Coded({"rate": rate, "order": chosen, "side_info": side_info}, (Unit(SEALED_ANS, b"", body),))

    def _to_input(self, planes: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, C] -> float [1, 3, H', W'] minus 0.5, H' and W' the next multiples of 16, edges
        repeated."""
        height, width, _ = planes.shape
        rows, columns = -height % CELL, -width % CELL
        if rows or columns:
            planes = np.pad(planes, ((0, rows), (0, columns), (0, 0)), mode="edge")
        if planes.shape[2] == 1:
            planes = np.repeat(planes, 3, axis=2)
        if not planes.flags.writeable:
            planes = planes.copy()
        x = torch.from_numpy(planes).to(self.device).permute(2, 0, 1).unsqueeze(0)
        return x.to(torch.float32).div_(255).sub_(0.5)

    def _symbols(self, x: Tensor, rate: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """Hyper-latents int16 [Z, h', w'] and symbols int16 [M, h, w] of pixels [1, 3, 16 h, 16 w]."""
        at = torch.tensor([rate], device=self.device)
        gain = torch.exp(interpolate_knots(self.gain, at.cpu())).to(self.device)[:, :, None, None]
        h, w = x.shape[2] // CELL, x.shape[3] // CELL
        # Dtype said: the caller's default may be another one.
        y = torch.empty(
            (1, self.preset.latents, h, w),
            dtype=torch.float32,
            device=self.device,
            memory_format=torch.channels_last,
        )
        for tile in tiles(h, w):
            part = self.analysis(x[:, :, tile.outer_pixel_rows, tile.outer_pixel_columns], at)
            y[:, :, tile.rows, tile.columns] = part[:, :, tile.inner_rows, tile.inner_columns]
        padded = F.pad(y * gain, (0, -w % HYPER, 0, -h % HYPER), mode="replicate")
        z = round_half_up(self.hyper_analysis(padded)).clamp_(-Z_MAX, Z_MAX)
        parts, gains = (
            torch.split(y, list(self.preset.groups), 1),
            torch.split(gain, list(self.preset.groups), 1),
        )
        found: list[Tensor] = [torch.empty(0)] * len(self.preset.groups)

        def settle(g: int, mean: Tensor) -> Tensor:
            found[g] = quantised((parts[g] - mean) * gains[g])
            return found[g] / gains[g] + mean

        self.means.walk(self.means.hyper(z)[:, :, :h, :w], anchor_mask(h, w, self.device), settle)
        return _int16(z), _int16(torch.cat(found, 1))

    # Symbols <-> stream: one loop for both directions, integers only

    def _code(
        self,
        direction: Direction,
        z: npt.NDArray[np.int16],
        q: npt.NDArray[np.int16],
        rate: int,
        order: Order,
        path: str,
        timer: Timer,
    ) -> None:
        """Code z [Z, h', w'] and q [M, h, w]: read from the arrays by an encoder, filled in by a decoder."""
        everywhere = np.ones(1, bool)
        with timer("entropy"):
            knot = (rate + 8) // 16
            index = np.broadcast_to(self.prior_index[knot][:, None, None], z.shape)
            offset = self.prior_offset[knot][:, None, None]
            centred = z - offset
            direction.exchange(centred, np.ascontiguousarray(index), everywhere)
            z[...] = centred + offset
        h, w = q.shape[1:]
        family = (self.families[order] * 64).view(-1, 1, 1)
        with exact_section(path):
            nets = ScaleNets(lambda name, x: self.exact(name, x, rate, path))
            with timer("exact"):
                clipped = np.clip(z, -HYPER_LIMIT, HYPER_LIMIT).astype(np.float32)
                features = nets.hyper(torch.from_numpy(clipped).unsqueeze(0))[:, :, :h, :w]
            if order == Order.ONE_STEP:
                with timer("exact"):
                    index = _index(nets.direct(features), family)
                with timer("entropy"):
                    direction.exchange(q, index, everywhere)
            else:
                self._code_checkerboard(direction, q, nets, features, family, timer)

    def _code_checkerboard(
        self,
        direction: Direction,
        q: npt.NDArray[np.int16],
        nets: ScaleNets,
        features: Tensor,
        family: Tensor,
        timer: Timer,
    ) -> None:
        projected: list[Tensor] = []
        for step in checkerboard(self.preset.groups):
            symbols = q[step.first : step.last]
            where = step.mask(*q.shape[1:])
            with timer("exact"):
                if step.cells == "anchors":
                    base = nets.base(step.group, features, projected)
                    scale = nets.anchors(step.group, base)
                else:
                    scale = nets.others(
                        step.group, base, nets.project(step.group, self._magnitudes(symbols, ~where))
                    )
                index = _index(scale, family[step.first : step.last])
            with timer("entropy"):
                direction.exchange(symbols, index, where)
            if step.cells == "others" and step.last < q.shape[0]:
                with timer("exact"):
                    projected.append(nets.project(step.group, self._magnitudes(symbols)))

    def _magnitudes(
        self, symbols: npt.NDArray[np.int16], known: npt.NDArray[np.bool_] | None = None
    ) -> Tensor:
        """Compressed magnitudes float32 [1, M_g, h, w] holding 0..127; zero where a symbol isn't known
        yet."""
        level = self.magnitudes[np.minimum(np.abs(symbols), 255).astype(np.uint8)]
        if known is not None:
            level *= known
        return torch.from_numpy(level).unsqueeze(0)

    # Decoder

    def decode(self, file: LicFile, *, stages: Stages | None = None) -> Picture:
        """See `contract.Model`. All symbols first (integers), then the float nets once."""
        head, timer = file.head, Timer(stages)
        z, q = self.read_symbols(file, timer)
        with torch.inference_mode(), _no_autocast(self.device):
            with timer("network"):
                v, at = self._latents(z, q, head.rate)
            planes = self._pixels(v, at, head.height, head.width, timer)
        with timer("pixels"):
            if head.colour == Colour.GREY:
                planes = ((planes.astype(np.uint16).sum(axis=2, keepdims=True) + 1) // 3).astype(np.uint8)
        return Picture(planes, depth=8, orientation=head.orientation, metadata=file.metadata)

    def read_symbols(
        self, file: LicFile, timer: Timer | None = None
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """Hyper-latents [Z, h', w'] and symbols [M, h, w] of a file, verified by the stream's seal.

        A stream that doesn't verify is read once more with the safe integer path before it is called damaged.
        """
        path = self.exact.path
        try:
            return self._read_symbols(file, path, timer or Timer(None))
        except FormatError:
            if path == SAFE_PATH:
                raise
            return self._read_symbols(file, SAFE_PATH, timer or Timer(None))

    def _read_symbols(
        self, file: LicFile, path: str, timer: Timer
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        head = file.head
        h, w = -(-head.height // CELL), -(-head.width // CELL)
        z = np.zeros((self.preset.hyper, -(-h // HYPER), -(-w // HYPER)), np.int16)
        q = np.zeros((self.preset.latents, h, w), np.int16)
        stream = StreamDecoder(file.units[0].body, self.tables)
        self._code(Reader(stream), z, q, head.rate, Order(head.order), path, timer)
        with timer("entropy"):
            stream.close()
        return z, q

    def _latents(
        self, z: npt.NDArray[np.int16], q: npt.NDArray[np.int16], rate: int
    ) -> tuple[Tensor, Tensor]:
        """Decoded latents in synthesis units, float32 [1, M, h, w], and the rate index as a tensor."""
        at = torch.tensor([rate])
        gain = torch.exp(interpolate_knots(self.gain, at))
        inverse = (gain * torch.exp(interpolate_knots(self.inverse_gain, at))).to(self.device)[
            :, :, None, None
        ]
        gain = gain.to(self.device)[:, :, None, None]
        h, w = q.shape[1:]
        symbols = (
            torch.from_numpy(q)
            .unsqueeze(0)
            .to(self.device)
            .float()
            .contiguous(memory_format=torch.channels_last)
        )
        scaled = torch.split(symbols / gain, list(self.preset.groups), 1)
        hyper = torch.from_numpy(z).unsqueeze(0).to(self.device).float()
        features = self.means.hyper(hyper)[:, :, :h, :w]
        _, decoded = self.means.walk(
            features, anchor_mask(h, w, self.device), lambda g, mean: scaled[g] + mean
        )
        return decoded * inverse, at.to(self.device)

    def _pixels(self, v: Tensor, at: Tensor, height: int, width: int, timer: Timer) -> npt.NDArray[np.uint8]:
        """Synthesis in overlapping tiles, rounded to uint8 [H, W, 3]."""
        planes = np.empty((height, width, 3), np.uint8)
        for tile in tiles(v.shape[2], v.shape[3]):
            with timer("network"):
                blocks = self.synthesis.blocks(v[:, :, tile.outer_rows, tile.outer_columns], at)
            with timer("pixels"):
                inner = blocks[:, :, tile.inner_block_rows, tile.inner_block_columns].float()
                levels = (
                    inner.mul_(255).add_(128).clamp_(0, 255).to(torch.uint8)
                )  # (x + 0.5) * 255, rounded half up
                out = shuffle(levels, 8)[0].permute(1, 2, 0).cpu().numpy()
                target = planes[tile.pixel_rows, tile.pixel_columns]
                target[...] = out[: target.shape[0], : target.shape[1]]
        return planes


# --- Parts of coding ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A rectangle of latent positions that a net computes, and the larger one it looks at; rows and columns
    as slices."""

    rows: slice
    columns: slice
    outer_rows: slice
    outer_columns: slice

    @property
    def inner_rows(self) -> slice:
        return _inside(self.rows, self.outer_rows)

    @property
    def inner_columns(self) -> slice:
        return _inside(self.columns, self.outer_columns)

    @property
    def inner_block_rows(self) -> slice:
        return _times(self.inner_rows, 2)

    @property
    def inner_block_columns(self) -> slice:
        return _times(self.inner_columns, 2)

    @property
    def pixel_rows(self) -> slice:
        return _times(self.rows, CELL)

    @property
    def pixel_columns(self) -> slice:
        return _times(self.columns, CELL)

    @property
    def outer_pixel_rows(self) -> slice:
        return _times(self.outer_rows, CELL)

    @property
    def outer_pixel_columns(self) -> slice:
        return _times(self.outer_columns, CELL)


def _inside(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def _times(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def tiles(h: int, w: int, pixels: int = TILE_PIXELS) -> Iterator[Tile]:
    """Tiles of a grid of latent positions, each with its halo; one tile for all but large pictures."""
    positions = max(1024, pixels // CELL**2)
    columns = min(w, max(32, positions // min(h, 64)))
    rows = min(h, max(32, positions // columns))
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            yield Tile(
                slice(top, bottom),
                slice(left, right),
                slice(max(0, top - HALO), min(h, bottom + HALO)),
                slice(max(0, left - HALO), min(w, right + HALO)),
            )


class Timer:
    """Adds the milliseconds of named stages to a mapping, if there is one."""

    def __init__(self, stages: Stages | None) -> None:
        self.stages = stages

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self.stages is None:
            yield
            return
        start = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + (time.perf_counter() - start) * 1000


class _BitCount:
    """Passes symbols on and adds up what the tables say they cost: the model's own estimate of the file."""

    def __init__(self, target: Direction, tables: TableSet) -> None:
        self.target, self.bits, self.total = target, _table_bits(tables), 0.0

    def exchange(
        self, symbols: npt.NDArray[Any], index: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_]
    ) -> None:
        self.target.exchange(symbols, index, where)
        coded = np.broadcast_to(where, symbols.shape)
        column = np.clip(symbols[coded].astype(np.int32), -255, 255) + 255
        self.total += float(self.bits[index[coded], column].sum(dtype=np.float64))


@functools.cache
def _table_bits(tables: TableSet) -> npt.NDArray[np.float32]:
    return tables.bits()


def _order(order: int) -> Order:
    if order not in FHIC_ORDERS:
        listed = " or ".join(str(int(known)) for known in FHIC_ORDERS)
        raise UsageValueError(f"order: fhic codes in order {listed}, got {order!r}", argument="order")
    return Order(order)


def round_half_up(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def quantised(x: Tensor) -> Tensor:
    """The encoder's choice of symbols: rounded, but zero for all that is nearer to zero than `ZERO_BELOW`."""
    return torch.where(x.abs() < ZERO_BELOW, 0, round_half_up(x)).clamp_(-SYMBOL_MAX, SYMBOL_MAX)


@functools.lru_cache(maxsize=8)
def anchor_mask(h: int, w: int, device: str) -> Tensor:
    """bool [h, w], true at anchors: (row + column) even."""
    with torch.inference_mode(False):  # kept for later callers, who may want gradients through a selection
        even = (torch.arange(h)[:, None] + torch.arange(w)[None]) % 2 == 0
        return even.to(device)


def _index(scale: Tensor, family: Tensor) -> npt.NDArray[np.uint8]:
    """Table index uint8 [M, h, w] of scale indices [1, M, h, w] holding 0..63."""
    index: npt.NDArray[np.uint8] = (scale[0].cpu().to(torch.uint8) + family).contiguous().numpy()
    return index


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
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{self.weights.path}: {name!r} holds values that are not finite")
        return tensor.float()

    def module(self, prefix: str, kind: Callable[[Preset], NetT], preset: Preset) -> NetT:
        """A float net with its weights, in channels_last memory, without gradients."""
        with torch.device("meta"):
            net = kind(preset)
        state = {name: self.floats(prefix + name, tuple(t.shape)) for name, t in net.state_dict().items()}
        net.load_state_dict(state, assign=True)
        return net.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _mixed(net: NetT, fast: torch.dtype) -> NetT:
    """Convolutions in the fast type, but for the straight path: its large coefficients need float32."""
    for name, child in net.named_children():
        if name != "linear":
            child.to(fast)
    return net


def _preset(weights: Weights) -> Preset:
    try:
        values = json.loads(weights.metadata["architecture"])
        values["groups"] = tuple(values["groups"])
        for size in (*values["groups"], *(size for name, size in values.items() if name != "groups")):
            if type(size) is not int or not 1 <= size <= SIZE_MAX:
                raise ValueError(f"{size!r} is no size")
        return Preset(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights.path}: its metadata 'architecture' does not describe a preset of fhic ({error})"
        ) from error


def _known_answers(weights: Weights) -> dict[str, int]:
    try:
        return {str(name): int(crc) for name, crc in json.loads(weights.metadata["known_answers"]).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{weights.path}: no readable metadata 'known_answers' ({error})") from error

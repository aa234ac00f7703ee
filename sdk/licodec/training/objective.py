"""fhic's training objective: rate of the symbols under both decode orders, distortion of the decoded picture.

`loss = bpp + lambda(r) * 255^2 * error`, each picture of a batch with its own rate index r, divided by
sqrt(lambda(r)) so that high rates do not drown low ones. The error is MSE, or `MS_SSIM_UNIT` times what
MS-SSIM lacks of 1.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import gllmm, unshuffled
from licodec.entropy.schedule import Pass
from licodec.exact.layers import interpolate_knots
from licodec.exact.specs import KNOTS
from licodec.exact.trainable import TrainableConv, round_through
from licodec.training.klt import BlockKLT

LAMBDA_MIN, LAMBDA_RATIO = 0.0009, 400.0
Distortion = Literal["mse", "ms-ssim"]
MS_SSIM_UNIT = 0.02
"""The mean squared error that counts as much as an MS-SSIM of 0: about what photographs' bits are worth under
either at the same lambda."""


def rate_lambda(rate: Tensor) -> Tensor:
    """lambda(r) = 0.0009 * 400^(r / 255), in bits per pixel for one unit of 255^2 * MSE."""
    return LAMBDA_MIN * LAMBDA_RATIO ** (rate.float() / 255)


@dataclass
class Terms:
    """Per picture of a batch, each [B]: bits per pixel of the latents by decode order, of the hyper-latents,
    MSE, and the error that training goes by, in units of MSE.

    `direct` reaches only its own two layers: everything they share with order 1 is trained for order 1.
    """

    direct: Tensor
    context: Tensor
    hyper: Tensor
    mse: Tensor
    error: Tensor

    def loss(self, rate: Tensor) -> Tensor:
        weight = rate_lambda(rate)
        bits = self.direct + self.context + self.hyper
        return ((bits + weight * 255**2 * self.error) * (0.016 / weight).sqrt()).mean()


TAIL = 2.0**-12
"""Weight of a wide component in the training likelihood. It stands for escapes: an outlier costs some 20 bits
as in the coder, instead of hundreds, and its gradient neither explodes nor vanishes."""


def logistic_bits(v: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the mass on [v - 1/2, v + 1/2] of a zero-mean logistic of scale `scale` with a wide tail."""
    a = v.abs()
    wide = 3 * scale + 1
    mass = (1 - TAIL) * (torch.sigmoid((0.5 - a) / scale) - torch.sigmoid((-0.5 - a) / scale))
    tail = TAIL * (torch.sigmoid((0.5 - a) / wide) - torch.sigmoid((-0.5 - a) / wide))
    return -torch.log2(mass + tail + 1e-30)


def index_bits(v: Tensor, index: Tensor) -> Tensor:
    """The same with the scale given as a table index, 0..63 between table entries: standard deviation 0.11 ..
    64."""
    t = index + (index.clamp(-0.5, 63.5) - index).detach()
    deviation = layout.SCALE_MIN * torch.exp(
        t * (math.log(layout.SCALE_MAX / layout.SCALE_MIN) / (layout.SCALES - 1))
    )
    return logistic_bits(v, deviation * (math.sqrt(3) / math.pi))


class Prices:
    """Bits of symbols q given scale indices, [B, M, h, w] -> [B]: `alone` with the gradient for what predicts
    them, `both` with that for what moves them too (see `TrainingModel.forward`).

    These are long chains of elementwise operations: `compile` makes loops of them, four times as fast, on a
    CPU with a C++ compiler.
    """

    def __init__(self) -> None:
        self.alone: Callable[[Tensor, Tensor], Tensor] = _price
        self.both: Callable[[Tensor, Tensor, Tensor], Tensor] = _price_and_move

    def compile(self, device: str) -> None:
        if device != "cpu" or not shutil.which("c++"):
            return
        self.alone = torch.compile(_price, dynamic=True)
        self.both = torch.compile(_price_and_move, dynamic=True)


def _price(q: Tensor, index: Tensor) -> Tensor:
    return index_bits(q, index).sum((1, 2, 3))


def _price_and_move(q: Tensor, index: Tensor, value: Tensor) -> Tensor:
    return value_of(index_bits(q, index), smooth(lambda v: index_bits(v, index), value)).sum((1, 2, 3))


ZERO_BELOW = 0.62
"""Encoders weigh bits against distortion and take zero up to about here."""
CORRECTION_UNIT = 1 / 4
"""Size of what the last layers of branches put out, in pixels (1 = 255): their weights start and move in this
unit."""
INPUT_SCALE = 4.0
"""The same for layers that take pixels or coefficients in: inputs of 0.25 should count as about one."""


class TrainingModel(nn.Module):
    """All nets of the codec, float and twins of the integer ones, with the learned gains and the hyper
    prior."""

    def __init__(self, preset: layout.Preset, distortion: Distortion = "mse") -> None:
        super().__init__()
        self.preset, self.distortion = preset, distortion
        self.prices = Prices()
        self.mixed = True
        analysis, synthesis = cb.transforms(preset)
        self.analysis, self.synthesis = analysis(preset), synthesis(preset)
        if preset.straight:
            self.preview = cb.Preview(preset)
        if preset.refined:
            self.refinement = cb.Refinement(preset)
        self.hyper_analysis = cb.HyperAnalysis(preset)
        self.means = cb.MeanNets(preset)
        self.twins = nn.ModuleDict(
            {spec.name.replace(".", "_"): TrainableConv(spec) for spec in layout.exact_layers(preset)}
        )
        m = preset.latents
        self.gain = nn.Parameter(torch.zeros(KNOTS, m))
        self.inverse_gain = nn.Parameter(torch.zeros(KNOTS, m))
        self.prior_mean = nn.Parameter(torch.zeros(KNOTS, preset.hyper))
        self.prior_scale = nn.Parameter(torch.full((KNOTS, preset.hyper), -1.4))

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The float nets that the preset has, by what their tensors' names begin with in a weights file."""
        named = {
            "encoder.analysis.": self.analysis,
            "encoder.hyper.": self.hyper_analysis,
            "synthesis.": self.synthesis,
            "means.": self.means,
        }
        if self.preset.refined:
            named["encoder.refine."] = self.refinement
        if self.preset.straight:
            named["synthesis.preview."] = self.preview
        return named

    @torch.no_grad()
    def start_from_klt(self, klt: BlockKLT, blocks: Tensor) -> None:
        """Straight paths from the KLT, gains at the step of high-rate theory, scale biases at the components'
        spread.

        Transforms without a straight path start as noise, whose channels are brought to mean 0 and variance 1
        on `blocks` [B, 48, 4h, 4w]. They get the gains of the components: so the first of them have most to
        say, and rates are what they are elsewhere.
        """
        if isinstance(self.synthesis, gllmm.Synthesis):
            assert isinstance(self.analysis, gllmm.Analysis)
            self.analysis.standardise(blocks)
            self.synthesis.deviation.copy_(klt.deviation)
            self.synthesis.leave.weight.mul_(0.1 * CORRECTION_UNIT)
            self.synthesis.leave.bias.zero_()
        else:
            self._start_straight(klt)
            self.preview_from_synthesis()
        weight = rate_lambda(torch.arange(KNOTS) * 16)
        step = torch.sqrt(
            18 / (math.log(2) * 65025 * weight)
        )  # per pixel unit; 16x16 orthonormal coefficients
        gain = torch.log(klt.deviation[None] / (step[:, None] * 16 / 16))
        self.gain.copy_(gain)
        self.inverse_gain.copy_(torch.log(klt.deviation) - gain)
        index = (
            (gain + math.log(0.6 / layout.SCALE_MIN))
            * (layout.SCALES - 1)
            / math.log(layout.SCALE_MAX / layout.SCALE_MIN)
        )
        self.twin("direct.1").bias.copy_(index.clamp(0, 60))
        for part in self.preset.passes:
            bias = index[:, part.first : part.last].clamp(0, 60)
            self.twin(f"scale.{part.group}.{part.number}.1").bias.copy_(bias)
        for spec in layout.exact_layers(self.preset):
            if spec.last:
                self.twin(spec.name).weight.mul_(0.5)

    def _start_straight(self, klt: BlockKLT) -> None:
        """Straight paths from the KLT; what is added to them starts small, and sees pixels in a unit that
        suits it."""
        a, s = self.analysis, self.synthesis
        pixels: tuple[cb.Conv, ...] = ()
        latents: tuple[cb.Conv, ...]
        looks: tuple[cb.Conv, ...]
        if isinstance(a, cb.Analysis) and isinstance(s, cb.Synthesis):
            pixels = (a.to_quarter, a.from_eighth, s.leave, s.to_quarter)
            latents, looks = (a.to_latents, s.from_sixteenth), (s.look, s.render)
        else:
            assert isinstance(a, unshuffled.Analysis) and isinstance(s, unshuffled.Synthesis)
            latents, looks = (a.to_latents,), (a.look, s.look)
        a.deviation.copy_(klt.deviation)
        adjoint = (self.refinement.adjoint,) if self.preset.refined else ()
        for layer in (a.klt, *adjoint):
            layer.weight.copy_(klt.components[:, :, None, None])
            layer.bias.zero_()
        s.klt.weight.copy_(klt.components.T[:, :, None, None])
        s.klt.bias.zero_()
        for layers, unit in ((pixels, 0.1 * CORRECTION_UNIT), (latents, 0.1)):
            for layer in layers:
                layer.weight.mul_(unit)
                layer.bias.zero_()
        for layer in looks:
            layer.weight.mul_(INPUT_SCALE)

    @torch.no_grad()
    def preview_from_synthesis(self) -> None:
        """The preview's straight path: averages of what the synthesis' one decodes to."""
        straight, layer = self.synthesis.klt, self.preview.klt
        assert isinstance(straight, cb.Conv)
        pixels = straight.weight[:, : layer.in_channels, 0, 0].view(4, 4, 4, 4, 3, -1)
        layer.weight.copy_(pixels.mean((2, 3)).reshape(layout.QUARTER, -1, 1, 1))
        layer.bias.copy_(straight.bias.view(4, 4, 4, 4, 3).mean((2, 3)).flatten())
        self.preview.leave.weight.mul_(0.1 * CORRECTION_UNIT)
        self.preview.leave.bias.zero_()

    def twin(self, name: str) -> TrainableConv:
        module = self.twins[name.replace(".", "_")]
        assert isinstance(module, TrainableConv)
        return module

    def quantise_twins(self, on: bool) -> None:
        for module in self.twins.values():
            assert isinstance(module, TrainableConv)
            module.quantise = on

    def forward(self, blocks: Tensor, rate: Tensor) -> Terms:
        """blocks: see `checkerboard.to_blocks`, [B, 48, 4h, 4w]; rate int64 [B].

        The rate is that of rounded symbols, and trains what predicts them. What moves the symbols themselves
        (transforms, gains, means) has its gradient from symbols with uniform noise, priced by the same
        predictions: a straight-through gradient is blind where symbols are zero, and gains drift up with it.
        """
        return self.priced(blocks, *self.latents(blocks, rate), rate)

    def priced(self, blocks: Tensor, y: Tensor, z: Tensor, rate: Tensor) -> Terms:
        """`forward` from its `latents` on."""
        gain, inverse = self.gains(rate)
        mean = interpolate_knots(self.prior_mean, rate)[:, :, None, None]
        scale = torch.exp(interpolate_knots(self.prior_scale, rate))[:, :, None, None]
        z_hat = round_through(z)
        z_bits = value_of(
            logistic_bits(z_hat.detach() - mean, scale),
            smooth(lambda v: logistic_bits(v, scale), z - mean.detach()),
        )
        direct, context, y_hat = self.code(y, z_hat, rate)
        per_unit = cb.density(gain)
        with self.autocast(blocks):
            decoded = self.synthesis(y_hat / per_unit, per_unit * inverse, rate)
        area = 16 * blocks.shape[2] * blocks.shape[3]
        mse = F.mse_loss(decoded, blocks, reduction="none").mean((1, 2, 3))
        error = mse if self.distortion == "mse" else MS_SSIM_UNIT * (1 - ms_ssim(decoded, blocks))
        if self.preset.straight:
            # The straight-through gradient at y is that at y^, which holds the rounding error itself: it
            # would have symbols that round to zero grow. Taken off, as an orthonormal synthesis would pass it
            # back.
            rounding = (inverse * inverse * (y_hat - y)).detach()
            pull = 2 * (rounding * y).sum((1, 2, 3)) / (3 * area)
            error = value_of(error, -pull * (error / mse).detach())
        return Terms(
            direct=direct / area,
            context=context / area,
            hyper=z_bits.sum((1, 2, 3)) / area,
            mse=mse.detach(),
            error=error,
        )

    def autocast(self, x: Tensor) -> torch.autocast:
        """bfloat16 for convolutions, unless `mixed` is off."""
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed)

    def gains(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols per unit of a latent, and latents in units of pixels per symbol, both [B, M, 1, 1]."""
        gain, inverse = (interpolate_knots(knots, rate) for knots in (self.gain, self.inverse_gain))
        return torch.exp(gain)[:, :, None, None], torch.exp(inverse)[:, :, None, None]

    def latents(self, blocks: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, M, h, w] in units of symbols, and hyper-latents before rounding."""
        bf16, (gain, inverse) = self.autocast(blocks), self.gains(rate)
        with bf16:
            y = self.analysis(blocks, rate)
        y = y * gain
        if self.preset.refined:
            with bf16:  # left before the synthesis is used again: autocast keeps weights cast without a graph
                y = self.refinement(y, blocks, gain.detach(), inverse.detach(), rate, self.synthesis)
        missing = (0, -y.shape[3] % layout.HYPER, 0, -y.shape[2] % layout.HYPER)
        with bf16:
            z = self.hyper_analysis(F.pad(y, missing, mode="replicate") if any(missing) else y)
        return y, z

    def code(self, y: Tensor, z: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents and rounded hyper-latents -> bits [B] under order 0 and order 1, and decoded latents y^."""
        mu, y_hat = self.walk_means(y, z, cb.density(self.gains(rate)[0]))
        residual = y - mu
        q_hat = dead_zone_round(residual.detach())
        nets = self.scale_nets(rate)
        with self.autocast(y):
            features = scale_features(nets, z, *y.shape[2:])
            direct = nets.direct(features.detach()).float()
            context = context_indices(nets, self.preset, features, q_hat).float()
        return self.prices.alone(q_hat, direct), self.prices.both(q_hat, context, residual), y_hat

    def scale_nets(self, rate: Tensor) -> cb.ScaleNets:
        return twin_nets(self.twin, rate)

    def walk_means(self, y: Tensor, z: Tensor, per_unit: Tensor) -> tuple[Tensor, Tensor]:
        """Means of all steps and y^ = round(y - mu) + mu, both [B, M, h, w] in y's units."""
        h, w = y.shape[2:]
        groups = list(self.preset.groups)
        parts, per_units = (torch.split(cb.rows_of(x), groups, 2) for x in (y / per_unit, per_unit))
        means: list[Tensor] = []

        def settle(step: Pass, mean: Tensor) -> Tensor:
            means.append(mean)
            place = cb.places(h, w, self.preset.depths[step.group], str(y.device))[step.number]
            value = parts[step.group].index_select(1, place.cells)
            return _quantised(value, mean, per_units[step.group])

        with self.autocast(y):
            decoded = self.means.walk(self.means.hyper(z)[:, :, :h, :w], settle)
        # Rounding errors stay constants in y's units: the gain must not look as if it could shrink them.
        return cb.interleave(means, self.preset, h, w) * per_unit, y + (decoded * per_unit - y).detach()


def ms_ssim(decoded: Tensor, blocks: Tensor) -> Tensor:
    """Of pictures as blocks [B, 48, h, w] of at least 161 pixels a side: [B]."""
    from pytorch_msssim import ms_ssim as similarity

    planes = (cb.shuffle(each.float(), 4).contiguous() + 0.5 for each in (decoded, blocks))
    out: Tensor = similarity(*planes, data_range=1.0, size_average=False)
    return out


def smooth(bits: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Something with the mean gradient of bits(x + noise), noise uniform in -0.5..0.5. That is known to be
    bits(x + 0.5) - bits(x - 0.5); drawn noise gives the same, made noisy."""
    with torch.no_grad():
        slope = bits(x + 0.5) - bits(x - 0.5)
    return slope * x


def value_of(exact: Tensor, smooth: Tensor) -> Tensor:
    """The value and gradients of `exact`, with those of `smooth` added."""
    return exact + (smooth - smooth.detach())


@dataclass(frozen=True)
class TwinLayers:
    """Layers of twins, for one batch's rates."""

    twin: Callable[[str], TrainableConv]
    rate: Tensor

    def __call__(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = self.twin(name)(x, self.rate)
        return out

    def pointwise(self, name: str, rows: Tensor) -> Tensor:
        return cb.rows_of(self(name, rows.mT.unsqueeze(2)))

    def around(self, name: str, known: Sequence[Tensor], unknown: Tensor, place: cb.Place) -> Tensor:
        rest = unknown.expand(len(known[0]), place.unknown, -1)
        seen = cb.rows_of(self(name, cb.spread([*known, rest], place)))
        return seen.index_select(1, place.seen)


def twin_nets(twin: Callable[[str], TrainableConv], rate: Tensor) -> cb.ScaleNets:
    """The scale nets made of twins."""
    return cb.ScaleNets(TwinLayers(twin, rate))


def scale_features(nets: cb.ScaleNets, z: Tensor, h: int, w: int) -> Tensor:
    """Features [B, E, h, w] of rounded hyper-latents, which may cover more."""
    return nets.hyper(z.clamp(-layout.HYPER_LIMIT, layout.HYPER_LIMIT) * layout.HYPER_UNIT)[:, :, :h, :w]


def context_indices(nets: cb.ScaleNets, preset: layout.Preset, features: Tensor, q: Tensor) -> Tensor:
    """Scale indices of order 1 for all symbols q [B, M, h, w], as a decoder finds them step by step."""
    magnitude = (round_log(q) * layout.MAGNITUDE_UNIT).clamp(max=127 * layout.MAGNITUDE_UNIT)
    return walk_scales(nets, preset, features, magnitude)


def walk_scales(nets: cb.ScaleNets, preset: layout.Preset, features: Tensor, level: Tensor) -> Tensor:
    """The same for levels of symbols in the units of the nets."""
    h, w = level.shape[2:]
    earlier: list[Tensor] = []
    scales: list[Tensor] = []
    for g, part in enumerate(torch.split(level, list(preset.groups), 1)):
        base, known = nets.base(g, features, earlier), nets.project(g, cb.rows_of(part))
        around = cb.places(h, w, preset.depths[g], str(level.device))
        projected = [known.index_select(1, place.cells) for place in around[:-1]]
        for step in (step for step in preset.passes if step.group == g):
            place = around[step.number]
            scales.append(nets.scales(step, base, place, projected[: step.number]))
        earlier.append(cb.spread(projected, around[-1]))
    return cb.interleave(scales, preset, h, w)


def round_log(q: Tensor) -> Tensor:
    """Compressed magnitude of integer symbols, the rule behind the committed 256-entry table: round(16 log2(1
    + |q|))."""
    return torch.floor(16 * torch.log2(1 + q.abs()) + 0.5)


def _quantised(value: Tensor, mean: Tensor, per_unit: Tensor) -> Tensor:
    """round((y - mu) * density) / density + mu in bounded units, straight-through."""
    return value + ((dead_zone_round((value - mean) * per_unit) / per_unit + mean) - value).detach()


def dead_zone_round(x: Tensor) -> Tensor:
    """What encoders do to symbols, about: rounded, but zero below `ZERO_BELOW`."""
    return torch.where(x.abs() < ZERO_BELOW, 0, cb.round_half_up(x))

"""fhic's training objective: rate of the symbols under both decode orders, distortion of the decoded picture.

`loss = bpp + lambda(r) * 255^2 * MSE`, each picture of a batch with its own rate index r, divided by
sqrt(lambda(r)) so that high rates do not drown low ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs import checkerboard as cb
from licodec.exact.layers import KNOTS, interpolate_knots
from licodec.exact.trainable import TrainableConv, round_through
from licodec.training.klt import BlockKLT

LAMBDA_MIN, LAMBDA_RATIO = 0.0009, 400.0


def rate_lambda(rate: Tensor) -> Tensor:
    """lambda(r) = 0.0009 * 400^(r / 255), in bits per pixel for one unit of 255^2 * MSE."""
    return LAMBDA_MIN * LAMBDA_RATIO ** (rate.float() / 255)


@dataclass
class Terms:
    """Per picture of a batch, each [B]: bits per pixel of the latents by decode order, of the hyper-latents,
    and MSE."""

    direct: Tensor
    context: Tensor
    hyper: Tensor
    mse: Tensor

    def loss(self, rate: Tensor) -> Tensor:
        weight = rate_lambda(rate)
        bits = 0.5 * (self.direct + self.context) + self.hyper
        return ((bits + weight * 255**2 * self.mse) * (0.016 / weight).sqrt()).mean()


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
    deviation = cb.SCALE_MIN * torch.exp(t * (math.log(cb.SCALE_MAX / cb.SCALE_MIN) / (cb.SCALES - 1)))
    return logistic_bits(v, deviation * (math.sqrt(3) / math.pi))


class TrainingModel(nn.Module):
    """All nets of the codec, float and twins of the integer ones, with the learned gains and the hyper
    prior."""

    def __init__(self, preset: cb.Preset) -> None:
        super().__init__()
        self.preset = preset
        self.analysis = cb.Analysis(preset)
        self.synthesis = cb.Synthesis(preset)
        self.hyper_analysis = cb.HyperAnalysis(preset)
        self.means = cb.MeanNets(preset)
        self.twins = nn.ModuleDict(
            {spec.name.replace(".", "_"): TrainableConv(spec) for spec in cb.exact_layers(preset)}
        )
        m = preset.latents
        self.gain = nn.Parameter(torch.zeros(KNOTS, m))
        self.inverse_gain = nn.Parameter(torch.zeros(KNOTS, m))
        self.prior_mean = nn.Parameter(torch.zeros(KNOTS, preset.hyper))
        self.prior_scale = nn.Parameter(torch.full((KNOTS, preset.hyper), -1.4))

    @torch.no_grad()
    def start_from_klt(self, klt: BlockKLT) -> None:
        """Straight paths from the KLT, gains at the step of high-rate theory, scale biases at the components'
        spread."""
        a, s = self.analysis, self.synthesis
        for net in (a, s):
            net.stem.weight.mul_(0.02)
            net.stem.bias.zero_()
            net.linear.bias.zero_()
            net.deviation.copy_(klt.deviation)
        a.stem.weight[:, :, 1, 1] += klt.stem
        s.stem.weight[:, :, 1, 1] += klt.stem.T
        a.linear.weight.copy_(klt.cell[:, :, None, None])
        s.linear.weight.copy_(klt.cell.T[:, :, None, None])
        for net in (a, s):
            net.leave.weight.mul_(0.05)
        weight = rate_lambda(torch.arange(KNOTS) * 16)
        step = torch.sqrt(
            18 / (math.log(2) * 65025 * weight)
        )  # per pixel unit; 16x16 orthonormal coefficients
        gain = torch.log(klt.deviation[None] / (step[:, None] * 16 / 16))
        self.gain.copy_(gain)
        self.inverse_gain.copy_(-gain)
        index = (
            (gain + math.log(0.6 / cb.SCALE_MIN)) * (cb.SCALES - 1) / math.log(cb.SCALE_MAX / cb.SCALE_MIN)
        )
        first = 0
        self.twin("direct.1").bias.copy_(index.clamp(0, 60))
        for g, m in enumerate(self.preset.groups):
            for name in (f"anchor.{g}.1", f"other.{g}.1"):
                self.twin(name).bias.copy_(index[:, first : first + m].clamp(0, 60))
            first += m
        for spec in cb.exact_layers(self.preset):
            if spec.last:
                self.twin(spec.name).weight.mul_(0.5)

    def twin(self, name: str) -> TrainableConv:
        module = self.twins[name.replace(".", "_")]
        assert isinstance(module, TrainableConv)
        return module

    def quantise_twins(self, on: bool) -> None:
        for module in self.twins.values():
            assert isinstance(module, TrainableConv)
            module.quantise = on

    def forward(self, x: Tensor, rate: Tensor, rounded: Tensor) -> Terms:
        """x: pixels minus 0.5, [B, 3, H, W], H and W multiples of 64; rate int64 [B]; rounded bool [B]: price
        rounded symbols (straight-through) instead of symbols with uniform noise."""
        bf16 = torch.autocast(x.device.type, torch.bfloat16)
        with bf16:
            y = self.analysis(x, rate)
        gain = torch.exp(interpolate_knots(self.gain, rate))[:, :, None, None]
        inverse = torch.exp(interpolate_knots(self.inverse_gain, rate))[:, :, None, None]
        y = y * gain
        with bf16:
            z = self.hyper_analysis(y)
        mean = interpolate_knots(self.prior_mean, rate)[:, :, None, None]
        scale = torch.exp(interpolate_knots(self.prior_scale, rate))[:, :, None, None]
        choose = rounded.view(-1, 1, 1, 1)
        z_hat = round_through(z)
        z_bits = logistic_bits(torch.where(choose, z_hat, self._noisy(z)) - mean, scale)
        mu, y_hat = self.walk_means(y, z_hat, gain)
        q_hat = round_through(y - mu)
        v = torch.where(choose, q_hat, self._noisy(y - mu))
        with bf16:
            features = self.scale_nets(rate).hyper(
                z_hat.clamp(-cb.HYPER_LIMIT, cb.HYPER_LIMIT) * cb.HYPER_UNIT
            )
            direct = self.scale_nets(rate).direct(features)
            context = context_indices(self.scale_nets(rate), self.preset.groups, features, q_hat.detach())
            decoded = self.synthesis(y_hat * inverse, rate)
        area = x.shape[2] * x.shape[3]
        return Terms(
            direct=index_bits(v, direct).sum((1, 2, 3)) / area,
            context=index_bits(v, context).sum((1, 2, 3)) / area,
            hyper=z_bits.sum((1, 2, 3)) / area,
            mse=F.mse_loss(decoded, x, reduction="none").mean((1, 2, 3)),
        )

    @staticmethod
    def _noisy(x: Tensor) -> Tensor:
        return x + torch.empty_like(x).uniform_(-0.5, 0.5)

    def scale_nets(self, rate: Tensor) -> cb.ScaleNets:
        return cb.ScaleNets(lambda name, x: self.twin(name)(x, rate))

    def walk_means(self, y: Tensor, z: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Means of all steps and y^ = round(y - mu) + mu, both [B, M, h, w] in y's units."""
        h, w = y.shape[2:]
        mask = cb.anchor_mask(h, w, str(y.device))
        with torch.autocast(y.device.type, torch.bfloat16):
            features = self.means.hyper(z)
        groups = list(self.preset.groups)
        parts, gains = torch.split(y / gain, groups, 1), torch.split(gain, groups, 1)
        with torch.autocast(y.device.type, torch.bfloat16):
            means, decoded = self.means.walk(
                features, mask, lambda g, mean: _quantised(parts[g], mean, gains[g])
            )
        # Rounding errors stay constants in y's units: the gain must not look as if it could shrink them.
        return means * gain, y + (decoded * gain - y).detach()


def context_indices(nets: cb.ScaleNets, groups: Sequence[int], features: Tensor, q: Tensor) -> Tensor:
    """Scale indices of order 1 for all symbols q [B, M, h, w], as a decoder finds them step by step."""
    mask = cb.anchor_mask(q.shape[2], q.shape[3], str(q.device))
    magnitude = (round_log(q) * cb.MAGNITUDE_UNIT).clamp(max=127 * cb.MAGNITUDE_UNIT)
    projected: list[Tensor] = []
    out = []
    for g, part in enumerate(torch.split(magnitude, list(groups), 1)):
        base = nets.base(g, features, projected)
        anchors = nets.project(g, torch.where(mask, part, 0))
        out.append(torch.where(mask, nets.anchors(g, base), nets.others(g, base, anchors)))
        if g + 1 < len(groups):
            projected.append(nets.project(g, part))
    return torch.cat(out, 1)


def round_log(q: Tensor) -> Tensor:
    """Compressed magnitude of integer symbols, the rule behind the committed 256-entry table: round(16 log2(1
    + |q|))."""
    return torch.floor(16 * torch.log2(1 + q.abs()) + 0.5)


def _quantised(normal: Tensor, mean: Tensor, gain: Tensor) -> Tensor:
    """round((y - mu) * gain) / gain + mu in unit-variance units, straight-through."""
    return normal + ((torch.floor((normal - mean) * gain + 0.5) / gain + mean) - normal).detach()

"""Float twins of the integer layers: trained with gradients, converted once, never used to code.

A twin computes in *units*: an integer activation `a` in 0..127 stands for the real number `a * unit`. While
`quantise` is off the twin is an ordinary convolution whose output is clipped to the range that the integers
can hold; with `quantise` on weights and activations are rounded as the integer layer will round them
(straight-through gradients). Biases are not: their rounding to accumulator units is too fine to matter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.exact.layers import StoredLayer, dyadic, interpolate_knots
from licodec.exact.specs import ACTIVATION_MAX, KNOTS, LayerSpec

WEIGHT_MAX = 127


def round_through(x: Tensor) -> Tensor:
    """Round half up, the rule of the integer layers; the gradient passes as if nothing had happened."""
    return x + (torch.floor(x + 0.5) - x).detach()


class TrainableConv(nn.Module):
    """Twin of one integer convolution with a bias per rate knot.

    `forward(x, rate)`: x float [B, in, h, w] in real units, rate int64 [B] in 0..255. Returns [B, out, h, w]
    in real units: clipped to 0..127 units for a hidden layer, unbounded for a layer whose output is a table
    index (`spec.last`).
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.out, spec.inp, spec.kernel, spec.kernel))
        nn.init.kaiming_uniform_(self.weight, a=1.0)
        self.bias = nn.Parameter(torch.zeros(KNOTS, spec.out))
        self.quantise = False

    def _weight(self) -> Tensor:
        if not self.quantise:
            return self.weight
        step = self.weight_step().view(-1, 1, 1, 1)
        return round_through(self.weight / step) * step

    def weight_step(self) -> Tensor:
        """Real value of one integer weight step, [out]; constant under the gradient."""
        return (self.weight.detach().abs().amax(dim=(1, 2, 3)) / WEIGHT_MAX).clamp_min(1e-6)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        y = F.conv2d(x, self._weight(), padding=self.spec.kernel // 2).float()
        y = y + interpolate_knots(self.bias, rate)[:, :, None, None]
        if self.spec.last:
            return y
        unit = self.spec.out_unit
        if self.quantise:
            y = round_through(y / unit) * unit
        return y.clamp(0.0, ACTIVATION_MAX * unit)


def convert(layer: TrainableConv) -> StoredLayer:
    """The integer layer that a trained twin stands for.

    The real multiplier `weight step * input unit / output unit` becomes m * 2^-s with m in [2^14, 2^15).
    Where the bound of SPEC.md ("Integer nets") would not hold with one bit to spare, that output channel gets
    a coarser weight step.
    """
    spec = layer.spec
    weight = layer.weight.detach().double()
    bias = layer.bias.detach().double()
    step = layer.weight_step().double()
    for _ in range(24):
        w = torch.floor(weight / step.view(-1, 1, 1, 1) + 0.5).clamp(-WEIGHT_MAX, WEIGHT_MAX)
        b = torch.floor(bias / (step * spec.in_unit) + 0.5)
        bound = spec.in_max * w.abs().sum(dim=(1, 2, 3)) + b.abs().amax(dim=0)
        over = bound >= 2**23
        if not bool(over.any()):
            break
        step = torch.where(over, step * 1.25, step)
    out_unit = 1.0 if spec.last else spec.out_unit
    multiplier, shift = dyadic(step * spec.in_unit / out_unit)
    return StoredLayer(
        spec=spec, weight=w.to(torch.int8), bias=b.to(torch.int32), multiplier=multiplier, shift=shift
    )

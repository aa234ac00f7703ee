"""Integer convolutions computed in float arithmetic that cannot round, and the arithmetic rules they follow.

Weights are int8, activations 0..127 (first inputs -127..127), sums stay below 2^24 in magnitude, so float32
represents every partial sum exactly in whatever order a library adds. After the sum comes the one rule of
requantisation, `floor(acc * m / 2^s + 1/2)`, in float64, where it is exact too. SPEC.md, "Integer nets",
states the rules; the proof duty is `check_bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lic_format.errors import WeightsError
from licodec.exact.specs import LayerSpec, refuse_unbounded


@dataclass(frozen=True)
class StoredLayer:
    """The integers of one layer: weight int8 [out, in, k, k]; bias int32 [17, out]; multiplier, shift int32
    [out]. `checked`: `check_bounds` has seen them."""

    spec: LayerSpec
    weight: Tensor
    bias: Tensor
    multiplier: Tensor
    shift: Tensor
    checked: bool = False

    @property
    def high(self) -> int:
        """Largest output value; the smallest is 0."""
        return self.spec.high

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}{self.spec.name}.{part}": getattr(self, part)
            for part in ("weight", "bias", "multiplier", "shift")
        }

    @classmethod
    def from_tensors(cls, spec: LayerSpec, prefix: str, tensors: Mapping[str, Tensor]) -> StoredLayer:
        """Read and check one layer; WeightsError names the tensor and what is wrong with it."""
        parts: dict[str, Tensor] = {}
        for part, (shape, kind) in spec.shapes.items():
            dtype = getattr(torch, kind)
            name = f"{prefix}{spec.name}.{part}"
            tensor = tensors.get(name)
            if tensor is None:
                raise WeightsError(f"weights hold no tensor {name!r}, which the integer net needs")
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise WeightsError(
                    f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}"
                )
            parts[part] = tensor
        layer = cls(spec, parts["weight"], parts["bias"], parts["multiplier"], parts["shift"])
        check_bounds(layer, prefix)
        return replace(layer, checked=True)


def check_bounds(layer: StoredLayer, prefix: str = "") -> None:
    """See `specs.refuse_unbounded`."""
    weight, bias, multiplier, shift = (
        each.cpu().numpy() for each in (layer.weight, layer.bias, layer.multiplier, layer.shift)
    )
    refuse_unbounded(layer.spec, weight, bias, multiplier, shift, prefix)


def dyadic(real: Tensor) -> tuple[Tensor, Tensor]:
    """Positive real multipliers [n] as (m, s), m * 2^-s with m in [2^14, 2^15) and s in 0..30, both int32."""
    mantissa, exponent = torch.frexp(real.double())
    m = torch.floor(mantissa * 2**15 + 0.5).to(torch.int64)
    s = 15 - exponent.to(torch.int64)
    carried = m == 2**15
    m, s = torch.where(carried, m // 2, m), torch.where(carried, s - 1, s)
    # Outside the range of shifts a multiplier is too large or too small to matter: keep the nearest one that
    # is legal.
    m = torch.where(s > 30, torch.full_like(m, 2**14), m)
    return m.to(torch.int32), s.clamp(0, 30).to(torch.int32)


def interpolate_knots(table: Tensor, rate: Tensor) -> Tensor:
    """Float table [17, n] at rate indices [B] in 0..255, linear between knots: [B, n]."""
    knot = rate >> 4
    fraction = ((rate & 15).to(table.dtype) / 16).unsqueeze(1)
    return torch.lerp(table[knot], table[knot + 1], fraction)


def integer_knots(table: Tensor, rate: int) -> Tensor:
    """Integer table [17, n] at one rate index, floored: (b0 * (16 - f) + b1 * f) >> 4, int64 [n]."""
    knot, f = divmod(rate, 16)
    low, high = table[knot : knot + 2].cpu().numpy().astype(np.int64)
    return torch.from_numpy((low * (16 - f) + high * f) >> 4)

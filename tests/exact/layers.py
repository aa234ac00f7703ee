"""Integer layers for the tests, and an independent way to compute them: NumPy, int64, SPEC.md's formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from licodec.exact.layers import StoredLayer
from licodec.exact.paths import PATHS, ExactNet, exact_section, usable
from licodec.exact.specs import KNOTS, LayerSpec

Integers = npt.NDArray[np.int64]
HERE = tuple(filter(usable, PATHS))
"""The paths of this machine."""


def random_layer(
    seed: int,
    inp: int,
    out: int,
    kernel: int,
    *,
    name: str = "layer",
    last: bool = False,
    signed: bool = False,
) -> StoredLayer:
    """A layer whose outputs use their whole range."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (out, inp, kernel, kernel))
    spread = 127 * 40 * np.sqrt(weight[0].size)  # of the sums, about
    bias = rng.integers(-int(spread), int(spread) + 1, (KNOTS, out))
    multiplier = rng.integers(2**14, 2**15, out)
    shift = np.full(out, 14 + int(np.ceil(np.log2(spread / 64))))
    return stored(
        LayerSpec(name, inp, out, kernel, last=last, signed=signed), weight, bias, multiplier, shift
    )


def stored(spec: LayerSpec, weight: Any, bias: Any, multiplier: Any, shift: Any) -> StoredLayer:
    """A layer of array-likes, in the types in which layers are stored."""
    return StoredLayer(
        spec,
        torch.as_tensor(np.asarray(weight)).to(torch.int8),
        torch.as_tensor(np.asarray(bias)).to(torch.int32),
        torch.as_tensor(np.asarray(multiplier)).to(torch.int32),
        torch.as_tensor(np.asarray(shift)).to(torch.int32),
    )


def random_input(seed: int, layer: StoredLayer, height: int, width: int) -> Integers:
    """Integers [in, height, width] over the layer's legal range."""
    low = -127 if layer.spec.signed else 0
    return np.random.default_rng(seed).integers(low, 128, (layer.spec.inp, height, width))


def expected_sums(layer: StoredLayer, x: Integers, rate: int) -> Integers:
    """acc of SPEC.md: the convolution, and the bias between two rate knots."""
    weight, bias = layer.weight.numpy().astype(np.int64), layer.bias.numpy().astype(np.int64)
    margin = layer.spec.kernel // 2
    padded = np.pad(x.astype(np.int64), ((0, 0), (margin, margin), (margin, margin)))
    sums = np.zeros((layer.spec.out, *x.shape[1:]), np.int64)
    for dy in range(layer.spec.kernel):
        for dx in range(layer.spec.kernel):
            moved = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
            sums += np.tensordot(weight[:, :, dy, dx], moved, axes=1)
    j, f = rate // 16, rate % 16
    result: Integers = sums + ((bias[j] * (16 - f) + bias[j + 1] * f) // 16)[:, None, None]
    return result


def expected_output(layer: StoredLayer, x: Integers, rate: int) -> Integers:
    sums = expected_sums(layer, x, rate)
    out = np.empty_like(sums)
    for o, (m, s) in enumerate(zip(layer.multiplier.tolist(), layer.shift.tolist(), strict=True)):
        out[o] = requantised(sums[o], m, s)
    return out.clip(0, 63 if layer.spec.last else 127)


def requantised(acc: Integers, m: int, s: int) -> Integers:
    """floor((acc m + 2^(s-1)) / 2^s), before clamping."""
    result: Integers = (acc * m + 2 ** (s - 1)) // 2**s if s else acc * m
    return result


def run(net: ExactNet, layer: StoredLayer, x: Integers, rate: int, path: str | None = None) -> Integers:
    """The layer on the net's path, or another."""
    with exact_section(path or net.path):
        y = net(layer.spec.name, torch.from_numpy(x.astype(np.float32)).unsqueeze(0), rate, path)
    result: Integers = np.asarray(y[0], np.int64)
    return result

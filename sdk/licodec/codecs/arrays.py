"""Tensors of a weights file as arrays, checked, for codecs that run without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lic_format.errors import WeightsError
from licodec.store import Weights

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution: weight float32 [out, k k, in], the kernel's positions in (dy, dx) order; bias float32
    [out]."""

    weight: Floats
    bias: Floats


class Arrays:
    """By name; WeightsError names what is missing or wrong."""

    def __init__(self, weights: Weights, codec: str) -> None:
        self.weights, self._codec = weights, codec

    def __contains__(self, name: str) -> bool:
        return name in self.weights.tensors

    def integers(self, name: str, shape: tuple[int, ...], dtype: str, low: int, high: int) -> Array:
        array = self._array(name, shape)
        if str(array.dtype) != dtype:
            raise WeightsError(f"{self.weights.path}: {name!r} is {array.dtype}, expected {dtype}")
        if int(array.min()) < low or int(array.max()) > high:
            found = f"{int(array.min())}..{int(array.max())}"
            raise WeightsError(f"{self.weights.path}: {name!r} holds {found}, expected {low}..{high}")
        return array

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """float32; stored as a float type, or as int8 with one float step an output channel in
        `name_step`."""
        array = self._array(name, shape)
        if array.dtype == np.int8:
            step = self._array(f"{name}_step", shape[:1]).astype(np.float32)
            return array * step.reshape(-1, *[1] * (len(shape) - 1))
        if not np.issubdtype(array.dtype, np.floating):
            raise WeightsError(f"{self.weights.path}: {name!r} is {array.dtype}, expected floats")
        return array.astype(np.float32, copy=False)

    def conv(self, name: str, out: int, inp: int, kernel: int = 1) -> Conv:
        """Of the tensors `name`.weight and `name`.bias; `inp` of one group's channels where there are
        groups."""
        weight = self.floats(f"{name}.weight", (out, inp, kernel, kernel))
        by_tap = weight.reshape(out, inp, -1).transpose(0, 2, 1)
        return Conv(np.ascontiguousarray(by_tap), self.floats(f"{name}.bias", (out,)))

    def _array(self, name: str, shape: tuple[int, ...]) -> Array:
        if name not in self.weights.tensors:
            raise WeightsError(f"{self.weights.path}: no tensor {name!r}, which {self._codec} needs")
        array = self.weights.tensors.array(name)
        if array.shape != shape:
            raise WeightsError(f"{self.weights.path}: {name!r} has shape {array.shape}, expected {shape}")
        return array

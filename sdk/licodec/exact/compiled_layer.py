"""Integer layers in compiled loops: products, requantisation and all; see `fixed_point`. Needs no torch.

The sums are those of any path of `paths`, and so are the steps after them: float64, every one of them exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lic_format.errors import ExactnessError, WeightsError
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    OUTPUTS,
    POSITIONS,
    Held,
    Listed,
    Map,
    address_of,
    bits_of,
    blocks_of,
    compiled_loops,
    positions_worth_sharing,
    window,
)
from licodec.exact.known_answers import KNOWN_ANSWER_RATE, answer, known_map
from licodec.exact.neighbours import Neighbours
from licodec.exact.specs import LayerSpec, refuse_unbounded

Integers = npt.NDArray[np.integer[Any]]
Doubles = npt.NDArray[np.float64]


class Stored(Protocol):
    """Tensors of a weights file by name."""

    def __contains__(self, name: object) -> bool: ...

    def array(self, name: str) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Offsets:
    """What is added to scaled sums: the bias in units of what comes out, and the half that rounds.

    Attributes:
        table: float64 [kinds, outputs]. kinds: that of each position, int64; None where all are alike.
    """

    table: Held
    kinds: Held | None = None


class CompiledLayer:
    """A layer of integers: weight int8 [out, in, k, k], in even; bias int32 [17, out]; multiplier and shift
    int32 [out].

    Raises:
        WeightsError: its sums could leave the range in which they are exact.
    """

    def __init__(
        self, spec: LayerSpec, weight: Integers, bias: Integers, multiplier: Integers, shift: Integers
    ) -> None:
        refuse_unbounded(spec, weight, bias, multiplier, shift, "exact.")
        self.spec = spec
        self._weight, self._knots = weight, bias
        self.scale: Doubles = np.ldexp(multiplier.astype(np.float64), -shift)
        self._high = bits_of(spec.high + 0.5)
        self._biases: dict[int, Doubles] = {}
        self._alike: dict[int, Offsets] = {}

    @classmethod
    def read(cls, spec: LayerSpec, prefix: str, tensors: Stored) -> CompiledLayer:
        """Of a weights file; WeightsError names the tensor and what is wrong with it."""
        parts: dict[str, Integers] = {}
        for part, (shape, kind) in spec.shapes.items():
            name = f"{prefix}{spec.name}.{part}"
            if name not in tensors:
                raise WeightsError(f"weights hold no tensor {name!r}, which the integer net needs")
            array = tensors.array(name)
            if array.shape != shape or str(array.dtype) != kind:
                raise WeightsError(f"tensor {name!r} is {array.dtype} {array.shape}, expected {kind} {shape}")
            parts[part] = array
        return cls(spec, **parts)

    @functools.cached_property
    def weights(self) -> Held:
        """Of the whole kernel, as the inner loop takes them."""
        out, inputs = self._weight.shape[:2]
        by_tap = self._weight.reshape(out, inputs, -1).transpose(0, 2, 1)
        return Held(fixed_point.packed(by_tap.astype(np.int16)))

    @functools.cached_property
    def whole_scale(self) -> Held:
        """With those of the outputs that fill up the last 16."""
        return self._whole(self.scale)

    def bias(self, rate: int) -> Doubles:
        """At a rate index, floored between knots; float64 [out]."""
        found = self._biases.get(rate)
        if found is None:
            knot, f = divmod(rate, 16)
            low, high = self._knots[knot : knot + 2].astype(np.int64)
            found = self._biases[rate] = ((low * (16 - f) + high * f) >> 4).astype(np.float64)
        return found

    def offsets(self, rate: int) -> Offsets:
        """Where nothing is unknown."""
        found = self._alike.get(rate)
        if found is None:
            found = self._alike[rate] = Offsets(self._whole(self.bias(rate) * self.scale + 0.5))
        return found

    def of_zeros(self, rate: int) -> Integers:
        """What comes out where all inputs are zero, int64 [out]."""
        y = np.floor(self.bias(rate) * self.scale + 0.5)
        return np.clip(y, 0, self.spec.high).astype(np.int64)

    def offsets_near(self, near: Neighbours, unknown: Integers, rate: int) -> Held:
        """A table, by kind of position, where only some is known around it and everything else inside the map
        is `unknown` [in]."""
        of_unknown = self._by_tap().astype(np.int64) @ unknown  # [out, taps]
        bias = self.bias(rate) + near.inside @ of_unknown.T.astype(np.float64)
        return self._whole(bias * self.scale + 0.5)

    def weights_near(self, near: Neighbours) -> Held:
        """Those of the known neighbours alone, as the inner loop takes them."""
        return Held(fixed_point.packed(self._by_tap()[:, near.taps].astype(np.int16)))

    def _by_tap(self) -> Integers:
        out, inputs = self._weight.shape[:2]
        return self._weight.reshape(out, inputs, -1).transpose(0, 2, 1)

    def _whole(self, values: Doubles) -> Held:
        lacking = -len(self.scale) % OUTPUTS
        return Held(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, lacking)]))

    def run(
        self,
        weights: Held,
        taps: Held,
        places: Held,
        source: Listed,
        target: Listed,
        offsets: Offsets,
    ) -> None:
        """int16 outputs, 16 for each of `places`, of int16 inputs.

        taps: bytes from a position to those that it sees, as many as `weights` are for. places: bytes from
        where a position's outputs begin to where each 16 of them stand.
        """
        pairs = weights.array.shape[1]
        kinds, step = (HERE, 0) if offsets.kinds is None else (offsets.kinds, 8)
        scale, table = self.whole_scale, offsets.table
        x, x_at = source
        out, out_at = target
        count, blocks = len(x_at), len(places)
        compiled_loops().run(
            "exact_at",
            (
                weights.address, taps.address, len(taps), pairs // len(taps), places.address, blocks,
                scale.address, table.address, 8 * table.array.shape[-1], kinds.address, step, self._high, x,
                x_at.address, out, out_at.address, count,
            ),
            count,
            positions_worth_sharing(pairs, blocks),
            weights, taps, places, scale, table, kinds, x_at, out_at,
        )  # fmt: skip

    def known_answer(self) -> int:
        """CRC-32 over its sums on the known inputs, see `known_answers`."""
        spec = self.spec
        inputs = known_map(spec.inp, spec.signed, spec.kernel)
        h, w, channels = inputs.shape
        seen = Map(h + 2, w + 2, channels)  # with room for two rows and columns of zeros on each side
        seen.memory[...] = 0
        seen.memory[2 : 2 + h, 2 : 2 + w] = inputs
        taps, weights = window(spec.kernel, seen.row, seen.step), self.weights
        out = np.empty((h, w + POSITIONS, len(weights) * OUTPUTS), np.int32)
        places, pairs = blocks_of(out.shape[2]), weights.array.shape[1] // len(taps)
        compiled_loops().run(
            "sums",
            (
                weights.address, taps.address, len(taps), pairs, places.address, len(places), 0, 0,
                seen.address + seen.row + seen.step, seen.row, seen.step, 0, address_of(out),
                out.strides[0] // 2, out.strides[1] // 2, w,
            ),
            h,
            8,
            weights, taps, places,
        )  # fmt: skip
        bias = self.bias(KNOWN_ANSWER_RATE).astype(np.int32)
        return answer(out[:, :w, : spec.out] + bias, spec.kernel)


def refuse_wrong_sums(layers: Mapping[str, CompiledLayer], answers: Mapping[str, int]) -> None:
    """Whether the loops give the known answers on this machine.

    Raises:
        ExactnessError: they don't, or answers are missing.
    """
    if missing := sorted(set(layers) - set(answers)):
        raise ExactnessError(f"the weights hold no known answers for the integer layers {', '.join(missing)}")
    wrong = next((name for name, layer in layers.items() if layer.known_answer() != answers[name]), None)
    known_map.cache_clear()  # megabytes that the pictures to come can use
    if wrong:
        raise ExactnessError(f"compiled loops give wrong sums on this machine (layer {wrong})")

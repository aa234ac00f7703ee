"""Layers of float nets in integers of 16 bits, compiled; see `licodec.compiled`.

A processor multiplies and adds integers of 16 bits at twice the rate of float32, and nothing here rounds
differently on another one: what these layers give is the same on every machine, whatever the number of
threads. Values have a step for each channel, taken from what trained nets were seen to give
(`training.steps`); they saturate beyond 16,383 steps. Weights have a step for each output, so small that sums
of 32 bits hold whatever inputs there are. What follows a sum (bias, residual, leaky ReLU, the step of what
comes out) is float32, one rounded operation after the other.

A `Map` has one more row and column on each side, for what lies beyond the border, and more columns at the
end, which layers overwrite: the inner loop, `products`, takes 6 positions at a time. `fixed_point_loops`
holds the loops themselves; here is what runs them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from licodec import object_cache
from licodec.threads import torch_limited, wanted

Integers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.floating[Any]]
Distances = npt.NDArray[np.int64]
"""In bytes."""
Strided = tuple[int, int, int]
"""The address of position (0, 0), and the bytes to the next row and column."""

POSITIONS: Final = 6
OUTPUTS: Final = 16
LARGEST: Final = 16383
SUM_OF_WEIGHTS: Final = 131000
"""Of an output's weights without their signs: 16,383 times as much stays below 2^31."""
PLAIN, RESIDUAL, REAL, SUMS = range(4)
"""What a layer writes: integers; integers of the sum with a residual; the same sum as float32; the products'
sums themselves, in 32 bits."""
LANES: Final = 8
NAMES: Final = {PLAIN: "plain", RESIDUAL: "residual", REAL: "real", SUMS: "sums"}
SHARED_BYTES, LEAVE = 8 * 64, 7 * 64
"""What threads share (`fixed_point_loops`), and where in it stands that they may leave."""
SOURCES: Final = "licodec.exact.fixed_point", "licodec.exact.fixed_point_loops"
"""What the loops are defined by."""
WORTH_SHARING: Final = 2_000_000
"""Products of a piece of work."""
MOST_THREADS: Final = 8
"""Of a call: more of them find too little to do while they look for it."""


# --- Compiling ----------------------------------------------------------------------------------------------


def has_pairs() -> bool:
    """Whether the processor multiplies pairs of 16 bits, eight at once."""
    return bool(object_cache.features().get("avx2", False))


class Compiled:
    """The loops, as functions that run without the interpreter's lock. They believe the addresses that they
    are given."""

    def __init__(self, paired: bool) -> None:
        def text() -> str:
            from licodec.exact.fixed_point_loops import module_text

            return module_text(paired)

        self._engine = object_cache.engine("fixed_point", SOURCES, text, paired)

    @functools.cached_property
    def work(self) -> Any:
        """What a thread that helps does until it may leave."""
        return ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._engine.get_function_address("work"))

    @functools.cached_property
    def _share(self) -> Any:
        kinds = [ctypes.c_int64] * 5
        return ctypes.CFUNCTYPE(None, *kinds)(self._engine.get_function_address("share"))

    @functools.cache  # noqa: B019 - there is one of these, for good
    def _job(self, name: str) -> tuple[int, Any]:
        address = self._engine.get_function_address(name)
        return address, ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)

    def run(self, name: str, arguments: Sequence[int | float], total: int, chunk: int) -> None:
        """All rows or columns of a job, in pieces of `chunk` where other threads help.

        arguments: without first and last; addresses, numbers, and floats where float32 is wanted.
        """
        given = np.array([_bits(each) for each in (*arguments[:-1], 0, 0, arguments[-1])], np.int64)
        address, alone = self._job(name)
        if _mine.shared is None or total <= chunk:
            alone(given.ctypes.data, 0, total)
        else:
            self._share(_mine.shared.ctypes.data, address, given.ctypes.data, total, chunk)


def _bits(value: int | float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little") if isinstance(value, float) else value


class _Mine(threading.local):
    """What this thread shares with those that help it."""

    shared: npt.NDArray[np.int64] | None = None


_mine = _Mine()


@contextlib.contextmanager
def helped() -> Iterator[None]:
    """Inside, as many other threads as `threads.wanted` says help this one; in a section inside another one
    those of the outer.

    They look for work all the time, as waking a thread takes longer than most of the work. So would torch's
    own threads: torch runs in this thread alone meanwhile.
    """
    count = min(wanted(), MOST_THREADS) - 1
    if count < 1 or _mine.shared is not None:
        yield
        return
    shared = np.zeros(SHARED_BYTES // 8, np.int64)
    work = compiled_loops().work
    others = [threading.Thread(target=work, args=(shared.ctypes.data,), daemon=True) for _ in range(count)]
    with torch_limited(1):
        try:
            for each in others:
                each.start()
            _mine.shared = shared
            yield
        finally:
            _mine.shared = None
            shared[LEAVE // 8] = 1
            for each in others:
                if each.ident is not None:
                    each.join()


@functools.cache
def compiled_loops(paired: bool | None = None) -> Compiled:
    """Loaded, or compiled where `object_cache` has none: half a millisecond or some tenths of a second."""
    return Compiled(has_pairs() if paired is None else paired)


# --- Layers and maps ----------------------------------------------------------------------------------------


class Map:
    """A map of height x width positions in memory.

    Attributes:
        memory: int16 [height + 2, width + .., channels].
        address: of position (0, 0). row, step: bytes to the next row and column.
    """

    def __init__(self, height: int, width: int, channels: int, finer: int = 1) -> None:
        """`finer`: how many of its columns a layer's column may make."""
        self.height, self.width, self.channels, self.finer = height, width, channels, finer
        self.memory = np.empty((height + 2, width + 2 + finer * POSITIONS, channels), np.int16)
        self.row, self.step, _ = self.memory.strides
        self.address = self.memory.ctypes.data + self.row + self.step

    def finished(self) -> Map:
        """Itself, when the border is repeated beyond it."""
        of, width = self.memory, self.width
        of[1:-1, 0] = of[1:-1, 1]
        of[1:-1, width + 1] = of[1:-1, width]
        of[0, : width + 2] = of[1, : width + 2]
        of[-1, : width + 2] = of[-2, : width + 2]
        return self

    def bordered(self) -> Map:
        """Itself, when zeros stand beyond the border."""
        self.memory[0] = self.memory[-1] = 0
        self.memory[:, 0] = self.memory[:, self.width + 1] = 0
        return self


def rows_in_steps(rows: Floats, per_value: Reals) -> npt.NDArray[np.int16]:
    """Rows [n, C] times per_value [C], rounded and saturated."""
    n, channels = rows.shape
    factors = np.ascontiguousarray(per_value, np.float32)
    if channels % LANES:
        whole: npt.NDArray[np.int16] = np.rint(np.clip(rows * factors, -LARGEST, LARGEST)).astype(np.int16)
        return whole
    out = np.empty((n, channels), np.int16)
    given = rows.ctypes.data, 0, factors.ctypes.data, out.ctypes.data, 0, channels, n
    compiled_loops().run("in_steps_rows", given, 1, 1)
    return out


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution in integers.

    Attributes:
        weights: int32 [outputs / 16, taps x inputs / 2, 16], two of 16 bits in each.
        constants: float32 [outputs / 16, 4, 16]: what makes sums real, bias, steps per real output, step of
            the residual.
        slope: of the leaky ReLU; 1 where there is none.
    """

    weights: Integers
    constants: Floats
    slope: float

    @property
    def outputs(self) -> int:
        """With those of zeros that fill up the last 16."""
        return len(self.weights) * OUTPUTS

    def run(
        self,
        writes: int,
        taps: Distances,
        places: Distances,
        source: Strided,
        residual: int,
        target: Strided,
        rows: int,
        width: int,
    ) -> None:
        """taps: bytes from a position to those that it sees; places: bytes from where its outputs
        begin to where each 16 of them stand."""
        blocks, pairs, _ = self.weights.shape
        assert len(places) == blocks
        columns = rows == 1
        chunk = -(-WORTH_SHARING // (self.weights.size * 2))
        chunk = -(-chunk // POSITIONS) * POSITIONS if columns else max(1, chunk // width)
        compiled_loops().run(
            f"{NAMES[writes]}_{'columns' if columns else 'rows'}",
            (
                self.weights.ctypes.data, taps.ctypes.data, len(taps), pairs // len(taps),
                places.ctypes.data, blocks, self.constants.ctypes.data, float(self.slope), *source, residual,
                *target, width,
            ),
            width if columns else rows,
            chunk,
        )  # fmt: skip

    def times(self, factors: Floats) -> Layer:
        """The same with outputs times factors [outputs], which come after the leaky ReLU."""
        constants = self.constants.copy()
        constants[:, 2] *= factors.reshape(-1, OUTPUTS)
        return replace(self, constants=constants)


Within = tuple[Integers, Floats]
"""Weights int32 [9, channels] and constants float32 [3, channels] of a 3x3 convolution within channels."""


def block(around: Within, wide: Layer, narrow: Layer, x: Map, out: Map) -> None:
    """A residual block; see `checkerboard.Block`."""
    channels = x.channels
    places = 2 * np.arange(0, 2 * channels, OUTPUTS, dtype=np.int64)
    compiled_loops().run(
        "block_rows",
        (
            x.address, x.row, x.step, around[0].ctypes.data, around[1].ctypes.data, wide.weights.ctypes.data,
            wide.constants.ctypes.data, narrow.weights.ctypes.data, narrow.constants.ctypes.data, channels,
            HERE.ctypes.data, places.ctypes.data, float(narrow.slope), out.address, out.row, x.width,
        ),
        x.height,
        2,
    )  # fmt: skip


HERE: Final = np.zeros(1, np.int64)
"""The taps of a 1x1 convolution."""


def layer(
    weight: Floats,
    bias: Floats,
    inputs: Floats,
    outputs: Floats,
    *,
    residual: Floats | None = None,
    slope: float = 1.0,
) -> Layer:
    """A layer of real weights [out, taps, in].

    inputs, outputs, residual: the steps of what goes in, comes out and is added, [in], [out], [out].
    """
    out = len(weight)
    real = weight.astype(np.float64) * inputs
    flat = np.abs(real.reshape(out, -1))
    unit = np.maximum(flat.sum(1) / SUM_OF_WEIGHTS, flat.max(1) / LARGEST)
    unit[unit == 0] = 1.0
    whole = np.rint(real / unit[:, None, None]).astype(np.int16)
    added = np.zeros(out) if residual is None else residual
    lacking = -out % OUTPUTS
    constants = np.pad(np.stack([unit, bias, 1 / outputs, added]), ((0, 0), (0, lacking)))
    constants = constants.astype(np.float32)
    return Layer(
        packed(whole),
        np.ascontiguousarray(constants.reshape(4, -1, OUTPUTS).transpose(1, 0, 2)),
        slope,
    )


def layer_within(weight: Floats, bias: Floats, inputs: Floats, outputs: Floats) -> tuple[Integers, Floats]:
    """A 3x3 convolution within each channel, real weights [C, 9]: what `_around` takes."""
    real = weight.astype(np.float64) * inputs[:, None]
    unit = np.maximum(np.abs(real).sum(1) / SUM_OF_WEIGHTS, np.abs(real).max(1) / LARGEST)
    unit[unit == 0] = 1.0
    constants = np.stack([unit, bias, 1 / outputs]).astype(np.float32)
    return np.ascontiguousarray(np.rint(real / unit[:, None]).T.astype(np.int32)), constants


def packed(weight: Integers) -> Integers:
    """Weights int16 [out, taps, in] as the inner loop reads them: int32 [out / 16, taps x in / 2, 16], with
    outputs of zeros at the end where 16 are not to be had."""
    out, taps, channels = weight.shape
    whole = np.zeros((-(-out // OUTPUTS) * OUTPUTS, taps * channels), np.int16)
    whole[:out] = weight.reshape(out, -1)
    pairs = whole.reshape(-1, OUTPUTS, taps * channels // 2, 2).transpose(0, 2, 1, 3)
    return _aligned(np.ascontiguousarray(pairs).view(np.int32)[..., 0])


def _aligned(array: Integers) -> Integers:
    """A copy that begins where vectors are read fastest."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    out = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out

"""Layers of float nets in integers of 16 bits, compiled; see `licodec.compiled`.

A processor multiplies and adds integers of 16 bits at twice the rate of float32, and nothing here rounds
differently on another one: what these layers give is the same on every machine, whatever the number of
threads. Values have a step for each channel, taken from what trained nets were seen to give
(`training.steps`); they saturate beyond 16,383 steps. Weights have a step for each output, so small that sums
of 32 bits hold whatever inputs there are. What follows a sum (bias, residual, leaky ReLU, the step of what
comes out) is float32, one rounded operation after the other.

A `Map` has one more row and column on each side, for what lies beyond the border, and more columns at the
end, which layers overwrite: the inner loop takes 6 or 12 positions at a time. `fixed_point_loops` holds the
loops themselves; here is what runs them.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from licodec import object_cache
from licodec.exact.neighbours import Neighbours, Positions
from licodec.threads import wanted

Integers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.floating[Any]]
Distances = npt.NDArray[np.int64]
"""In bytes."""
Strided = tuple[int, int, int]
"""The address of position (0, 0), and the bytes to the next row and column."""

POSITIONS: Final = 12
"""The loops take so many at a time, or half of it."""
OUTPUTS: Final = 16
LARGEST: Final = 16383
MOST_OF_WEIGHTS: Final = (2**31 - 1) // LARGEST
"""An output's weights without their signs add up to no more: 16,383 times as much stays below 2^31."""
SUM_OF_WEIGHTS: Final = 131000
"""What they add up to before they are rounded, where no weight is too large."""
PLAIN, RESIDUAL, REAL, SUMS, MASKED = range(5)
"""What a layer writes: integers; integers of the sum with a residual; the same sum as float32; the products'
sums themselves, in 32 bits; integers that are times the slope where another map isn't positive, as what goes
back through a leaky ReLU is."""
LANES: Final = 8
NAMES: Final = {PLAIN: "plain", RESIDUAL: "residual", REAL: "real", SUMS: "sums", MASKED: "masked"}
SHARED_BYTES, LEAVE, LET_OTHERS = 9 * 64, 7 * 64, 8 * 64
"""What threads share (`fixed_point_loops`), and where in it stands that they may leave, and what lets others
run."""
SOURCES: Final = (
    "licodec.exact.fixed_point",
    "licodec.exact.fixed_point_loops",
    "licodec.exact.loop_building",
)
"""What the loops are defined by."""
WORTH_SHARING: Final = 2_000_000
"""Products of a piece of work."""
MOST_THREADS: Final = 8
"""Of a call: more of them find too little to do while they look for it."""


# --- Compiling ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Of a processor.

    Attributes:
        paired: whether it multiplies pairs of 16 bits. lanes: how many of them at once. positions: how many
            positions' sums its registers hold, 16 outputs each.
    """

    paired: bool
    lanes: int = 8
    positions: int = 6


PORTABLE: Final = Kind(False)
EIGHT_PAIRS: Final = Kind(True)
SIXTEEN_PAIRS: Final = Kind(True, 16, 12)
"""And adds them in the same instruction, without which vectors of that length were not seen to pay."""


def has_pairs() -> bool:
    """Whether the processor multiplies pairs of 16 bits, eight at once."""
    return bool(object_cache.features().get("avx2", False))


def kind_here() -> Kind:
    """What the processor suits."""
    if not has_pairs():
        return PORTABLE
    wide = all(object_cache.features().get(name, False) for name in ("avx512bw", "avx512vnni"))
    return SIXTEEN_PAIRS if wide else EIGHT_PAIRS


class Jobs:
    """An engine's functions of (arguments in memory, first, last), which threads that help share."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @functools.cache  # noqa: B019 - there is one of these an engine, for good
    def _job(self, name: str) -> tuple[int, Any]:
        address = self._engine.get_function_address(name)
        assert address, name
        return address, ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)(address)

    def run(self, name: str, arguments: Sequence[int], total: int, chunk: int, *held: object) -> None:
        """All of 0..total, in pieces of `chunk` where other threads help.

        arguments: addresses, numbers, and `bits_of` what is float32. held: what has those addresses and might
        be let go of meanwhile.
        """
        given = struct.pack(f"{len(arguments)}q", *arguments)
        address, alone = self._job(name)
        if _mine.shared is None or total <= chunk:
            alone(given, 0, total)
        else:
            compiled_loops().share(_mine.shared, address, given, total, chunk)


class Compiled:
    """The loops, as functions that run without the interpreter's lock. They believe the addresses that they
    are given."""

    def __init__(self, kind: Kind) -> None:
        def text() -> str:
            from licodec.exact.fixed_point_loops import module_text

            return module_text(kind)

        self._engine = object_cache.engine("fixed_point", SOURCES, text, kind)
        self._jobs = Jobs(self._engine)

    @functools.cached_property
    def work(self) -> Any:
        """What a thread that helps does until it may leave."""
        return ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._engine.get_function_address("work"))

    @functools.cached_property
    def share(self) -> Any:
        """A job of whatever engine, done by this thread and those that help."""
        kinds = [ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64]
        return ctypes.CFUNCTYPE(None, *kinds)(self._engine.get_function_address("share"))

    def run(self, name: str, arguments: Sequence[int], total: int, chunk: int, *held: object) -> None:
        """All rows or positions of a job, in pieces of `chunk` where other threads help.

        arguments, held: as of `Jobs.run`, without first and last.
        """
        self._jobs.run(f"{name}_job", (*arguments[:-1], 0, 0, arguments[-1]), total, chunk, *held)


def address_of(array: npt.NDArray[Any]) -> int:
    """`array.ctypes.data` of an array without gaps, in half of the time."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (TypeError, ValueError):  # read-only, or empty
        return array.ctypes.data


def bits_of(value: float) -> int:
    """Of a float32."""
    return int.from_bytes(struct.pack("<f", value), "little")


class Held:
    """An array, and its address: to ask for it takes a microsecond. Who runs a loop on it holds it meanwhile:
    caches and properties may let it go."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array: Final = np.ascontiguousarray(array)
        self.address: Final = address_of(self.array)

    def __len__(self) -> int:
        return len(self.array)


class _Mine(threading.local):
    """The address of what this thread shares with those that help it."""

    shared: int | None = None


_mine = _Mine()


@contextlib.contextmanager
def helped() -> Iterator[None]:
    """Inside, as many other threads as `threads.wanted` says help this one; in a section inside another one
    those of the outer.

    They look for work all the time, as waking a thread takes longer than most of the work, and let others
    have the processor where these wait for it.
    """
    count = min(wanted(), MOST_THREADS) - 1
    if count < 1 or _mine.shared is not None:
        yield
        return
    shared = np.zeros(SHARED_BYTES // 8, np.int64)
    shared[LET_OTHERS // 8] = _let_others_run()
    others = [threading.Thread(target=_help, args=(shared,), daemon=True) for _ in range(count)]
    try:
        with contextlib.suppress(RuntimeError):  # the system gives no more threads
            for each in others:
                each.start()
        _mine.shared = address_of(shared)
        yield
    finally:
        _mine.shared = None
        shared[LEAVE // 8] = 1
        for each in others:
            if each.ident is not None:
                each.join()


def _help(shared: npt.NDArray[np.int64]) -> None:
    """Holds what is shared as long as it helps, also where nobody waits for its end any more."""
    compiled_loops().work(address_of(shared))


@functools.cache
def _let_others_run() -> int:
    """The address of the system's function by which a thread hands its processor over; 0 where there is
    none."""
    library, name = ("kernel32", "SwitchToThread") if os.name == "nt" else (None, "sched_yield")
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    return 0


@functools.cache
def compiled_loops(kind: Kind | None = None) -> Compiled:
    """Loaded, or compiled where `object_cache` has none: half a millisecond or some tenths of a second."""
    return Compiled(kind or kind_here())


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
        self.address = address_of(self.memory) + self.row + self.step

    def like(self) -> Map:
        """Another one of its size."""
        return Map(self.height, self.width, self.channels, self.finer)

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


class Board:
    """A map of height x width positions with zeros beyond its border, for layers whose positions are listed.

    Attributes:
        memory: int16 [height + 2 border, width + 2 border, channels], zeros at first.
        base: the address of position (0, 0). row, step: bytes to the next row and column.
    """

    def __init__(self, height: int, width: int, channels: int, border: int = 0) -> None:
        self.height, self.width = height, width
        self.memory = np.zeros((height + 2 * border, width + 2 * border, channels), np.int16)
        self.row, self.step, _ = self.memory.strides
        self.base = address_of(self.memory) + border * (self.row + self.step)

    def copied(self) -> Board:
        """Another one that holds the same."""
        of = copy.copy(self)
        of.memory = self.memory.copy()
        of.base += address_of(of.memory) - address_of(self.memory)
        return of

    def at(self, positions: Positions, first: int = 0, every: int = 1) -> Listed:
        """Channel `first` of positions; of a map that is so many times as fine as theirs."""
        return Listed(self.base + 2 * first, distances(positions, every * self.row, every * self.step))

    def window(self, kernel: int, apart: int = 1, near: Neighbours | None = None) -> Held:
        """Bytes from a position to those that a convolution sees, so many rows and columns apart; or only to
        those that are known."""
        return window(kernel, apart * self.row, apart * self.step, near)

    def places(self, channels: int, side: int = 1) -> Held:
        """Bytes from a position's first output to each 16 of them: `channels` at each of side x side
        positions."""
        return places(channels, side, self.row, self.step)


@functools.lru_cache(256)
def window(kernel: int, row: int, step: int, near: Neighbours | None = None) -> Held:
    """Bytes from a position to those that a convolution sees; see `Board.window`."""
    around = range(-(kernel // 2), kernel // 2 + 1)
    every = np.array([dy * row + dx * step for dy in around for dx in around], np.int64)
    return Held(every if near is None else every[near.taps])


@functools.lru_cache(64)
def inside(side: int, row: int, step: int) -> Held:
    """Bytes from the first of side x side positions to all."""
    return Held(np.array([dy * row + dx * step for dy in range(side) for dx in range(side)], np.int64))


@functools.lru_cache(64)
def places(channels: int, side: int, row: int, step: int) -> Held:
    """See `Board.places`."""
    blocks = 2 * np.arange(0, channels, OUTPUTS, dtype=np.int64)
    return Held((inside(side, row, step).array[:, None] + blocks).reshape(-1))


def blocks_of(count: int) -> Held:
    """Bytes from the first 16 of `count` channels to all others."""
    return places(count, 1, 0, 0)


FEW_POSITIONS: Final = 1 << 14
"""Where more lie is not remembered: it takes megabytes, and their layers a hundred times as long to run as it
takes to find out."""


def distances(of: Positions, row: int, step: int) -> Held:
    """Bytes from position (0, 0) to each, as `listed` gives them."""
    return _remembered(of, row, step) if len(of) <= FEW_POSITIONS else _distances(of, row, step)


def _distances(of: Positions, row: int, step: int) -> Held:
    rows, columns = np.divmod(of.numbers, of.width)
    return listed(rows * row + columns * step)


_remembered = functools.lru_cache(512)(_distances)


def all_positions(height: int, width: int) -> Positions:
    """In rows."""
    few = height * width <= FEW_POSITIONS
    return _few_positions(height, width) if few else _all_positions(height, width)


def _all_positions(height: int, width: int) -> Positions:
    return Positions(np.arange(height * width, dtype=np.int64), width)


_few_positions = functools.lru_cache(32)(_all_positions)


class Listed(NamedTuple):
    """Positions that lie anywhere in memory.

    Attributes:
        base: an address. at: bytes from there to each position, int64, as `listed` gives them.
    """

    base: int
    at: Held


def listed(distances: npt.NDArray[np.integer[Any]]) -> Held:
    """Distances as `Listed` has them: some times as many as the inner loop takes at once; those that lack are
    the last one again, which layers compute again."""
    out = np.empty(-(-len(distances) // POSITIONS) * POSITIONS, np.int64)
    out[: len(distances)] = distances
    out[len(distances) :] = distances[-1]
    return Held(out)


def rows_of(array: npt.NDArray[Any], count: int) -> Listed:
    """The first `count` rows of an array [.., C]."""
    step = array.strides[0]
    few = count <= FEW_POSITIONS
    return Listed(address_of(array), _few_rows(count, step) if few else _one_by_one(count, step))


def _one_by_one(count: int, step: int) -> Held:
    return listed(np.arange(count, dtype=np.int64) * step)


_few_rows = functools.lru_cache(128)(_one_by_one)


def positions_worth_sharing(pairs: int, blocks: int) -> int:
    """Positions of a piece of work of so many pairs of inputs for `blocks` times 16 outputs, a multiple of
    6."""
    products = pairs * 2 * blocks * OUTPUTS
    return POSITIONS * -(-WORTH_SHARING // (products * POSITIONS))


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
    _weights: int = field(init=False, repr=False)
    _constants: int = field(init=False, repr=False)
    _slope: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = address_of(self.weights), address_of(self.constants), bits_of(self.slope)
        for name, value in zip(("_weights", "_constants", "_slope"), given, strict=True):
            object.__setattr__(self, name, value)

    @property
    def outputs(self) -> int:
        """With those of zeros that fill up the last 16."""
        return len(self.weights) * OUTPUTS

    def run(
        self,
        writes: int,
        taps: Held,
        places: Held,
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
        compiled_loops().run(
            NAMES[writes],
            (
                self._weights, taps.address, len(taps), pairs // len(taps), places.address, blocks,
                self._constants, self._slope, *source, residual, *target, width,
            ),
            rows,
            max(1, positions_worth_sharing(pairs, blocks) // width),
            taps, places,
        )  # fmt: skip

    def run_at(
        self,
        writes: int,
        taps: Held,
        places: Held,
        source: Listed,
        target: Listed,
        residual: Listed | None = None,
    ) -> None:
        """The same at positions that lie anywhere, all but SUMS; of an output in float32 `places` are half
        as many bytes as there are."""
        blocks, pairs, _ = self.weights.shape
        assert len(places) == blocks
        added, added_at = residual or target
        x, x_at = source
        out, out_at = target
        count = len(x_at)
        compiled_loops().run(
            f"{NAMES[writes]}_at",
            (
                self._weights, taps.address, len(taps), pairs // len(taps), places.address, blocks,
                self._constants, self._slope, x, x_at.address, added, added_at.address, out, out_at.address,
                count,
            ),
            count,
            positions_worth_sharing(pairs, blocks),
            taps, places, x_at, added_at, out_at,
        )  # fmt: skip

    def times(self, factors: Floats) -> Layer:
        """The same with outputs times factors [outputs], which come after the leaky ReLU."""
        constants = self.constants.copy()
        constants[:, 2] *= factors.reshape(-1, OUTPUTS)
        return replace(self, constants=constants)

    def added_times(self, factors: Floats) -> Layer:
        """The same with what is added times factors [outputs]."""
        constants = self.constants.copy()
        constants[:, 3] *= factors.reshape(-1, OUTPUTS)
        return replace(self, constants=constants)

    def scaled(self, factors: Floats) -> Layer:
        """The same with all that comes out times factors [outputs], where there is no leaky ReLU."""
        assert self.slope == 1
        constants = self.constants.copy()
        constants[:, [0, 1, 3]] *= factors.reshape(-1, 1, OUTPUTS)
        return replace(self, constants=constants)


Within = tuple[Integers, Floats]
"""Weights int32 [9, channels] and constants float32 [3, channels] of a 3x3 convolution within channels."""


def run_within(of: Within, x: Map, out: Map, *, added: bool = False) -> None:
    """A 3x3 convolution within each channel; `added`: to what stands in the output, constants [4, channels]
    having its steps."""
    assert x.step == out.step
    compiled_loops().run(
        "around_added_rows" if added else "around_rows",
        (
            x.address, x.row, x.step, address_of(of[0]), address_of(of[1]), x.channels, out.address, out.row,
            x.width,
        ),
        x.height,
        4,
        of,
    )  # fmt: skip


def block(around: Within, wide: Layer, narrow: Layer, x: Map, out: Map, hidden: Map | None = None) -> None:
    """A residual block; see `checkerboard.Block`. hidden: what its leaky ReLU gives goes there."""
    channels, places = x.channels, blocks_of(2 * x.channels)
    assert hidden is None or hidden.step == 2 * x.step
    compiled_loops().run(
        "block",
        (
            x.address, x.row, x.step, address_of(around[0]), address_of(around[1]), wide._weights,
            wide._constants, narrow._weights, narrow._constants, channels, HERE.address,
            places.address, narrow._slope, out.address, out.row,
            *((hidden.address, hidden.row) if hidden else (0, 0)), x.width,
        ),
        x.height,
        2,
        places, hidden,
    )  # fmt: skip


def block_back(narrow: Layer, wide: Layer, x: Map, hidden: Map, out: Map) -> None:
    """What comes back through a block's `narrow`, MASKED by what was hidden, and `wide`."""
    places = blocks_of(2 * x.channels)
    assert (x.step, hidden.step) == (out.step, 2 * out.step)
    compiled_loops().run(
        "block_back",
        (
            x.address, x.row, x.step, narrow._weights, narrow._constants, wide._weights, wide._constants,
            narrow._slope, x.channels, HERE.address, places.address, hidden.address, hidden.row, out.address,
            out.row, x.width,
        ),
        x.height,
        2,
        places,
    )  # fmt: skip


HERE: Final = Held(np.zeros(1, np.int64))
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
    unit = _units(flat)
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


def layer_within(
    weight: Floats, bias: Floats, inputs: Floats, outputs: Floats, *, residual: Floats | None = None
) -> Within:
    """A 3x3 convolution within each channel, real weights [C, 9]; see `layer`."""
    real = weight.astype(np.float64) * inputs[:, None]
    unit = _units(np.abs(real))
    rows: list[npt.NDArray[Any]] = [unit, bias, 1 / outputs]
    rows += [] if residual is None else [residual]
    constants = np.stack(rows).astype(np.float32)
    return np.ascontiguousarray(np.rint(real / unit[:, None]).T.astype(np.int32)), constants


def _units(magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A step for each output's weights, of whose magnitudes [out, n] as whole steps no sum is too large."""
    unit = np.maximum(magnitudes.sum(1) / SUM_OF_WEIGHTS, magnitudes.max(1) / LARGEST)
    unit[unit == 0] = 1.0
    while (over := np.rint(magnitudes / unit[:, None]).sum(1) > MOST_OF_WEIGHTS).any():
        unit[over] *= 1.001  # rounding took some of them up
    out: npt.NDArray[np.float64] = unit
    return out


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
    start = -address_of(memory) % 64
    out = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out

"""Nested lattices: in which order a tile's samples are coded, whoever predicts them.

A tile is three planes, G, R - G and B - G, or one. Of each, every second row and column makes a lattice of a
quarter of the samples, again and again, down to at most 16 x 16: the base. What lies between is coded in
passes. Each sees all that is known, and is computed for all of its samples at once:

    ee eo ee eo      A    oo from ee
    oe oo oe oo      B0   eo from ee, oo
    ee eo ee eo      B1   oe from ee, oo, eo
    oe oo oe oo

The next finer lattice's ee is what this one has become. Planes come one after the other, so that R - G and
B - G see all of the earlier planes, also below and to the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
R = TypeVar("R")
"""A request."""
S = TypeVar("S", bound=npt.NDArray[Any])
"""Samples."""

BASE: Final = 16
"""Largest side of the lattice that is not halved any more."""

BEFORE, AFTER = 1, 2
"""Rows and columns by which a phase is continued with its edge: as far as passes look."""

SLACK: Final = 16
"""Samples behind a lattice that loops over so many at a time may read; they mean nothing."""


class Phase(NamedTuple):
    """Which rows and columns of a lattice: 0 even, 1 odd."""

    row: int
    column: int


EE, EO, OE, OO = Phase(0, 0), Phase(0, 1), Phase(1, 0), Phase(1, 1)
PHASES: Final = EE, EO, OE, OO

Place = tuple[Phase, int, int]
"""A sample seen from another: its phase, and how many rows and columns further in that phase."""


class Window(NamedTuple):
    """Samples of one phase seen from another: how many rows and columns further in that phase."""

    phase: Phase
    rows: range
    columns: range

    @property
    def size(self) -> int:
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True)
class Pass:
    """One pass over a lattice: what it codes, and which samples of its own plane it sees.

    nearest: the four samples whose mean all others are compared with.
    around: the eight neighbours in an earlier plane, which is known everywhere.
    """

    name: str
    target: Phase
    nearest: tuple[Place, Place, Place, Place]
    seen: tuple[Window, ...]
    around: tuple[Window, ...]


PASSES: Final = (
    Pass(
        "A",
        OO,
        ((EE, 0, 0), (EE, 0, 1), (EE, 1, 0), (EE, 1, 1)),
        (Window(EE, range(-1, 3), range(-1, 3)),),
        (
            Window(EE, range(2), range(2)),
            Window(EO, range(2), range(1)),
            Window(OE, range(1), range(2)),
        ),
    ),
    Pass(
        "B0",
        EO,
        ((EE, 0, 0), (EE, 0, 1), (OO, -1, 0), (OO, 0, 0)),
        tuple(Window(phase, range(-1, 2), range(-1, 3)) for phase in (EE, OO)),
        (
            Window(OE, range(-1, 1), range(2)),
            Window(OO, range(-1, 1), range(1)),
            Window(EE, range(1), range(2)),
        ),
    ),
    Pass(
        "B1",
        OE,
        ((OO, 0, -1), (OO, 0, 0), (EE, 0, 0), (EE, 1, 0)),
        tuple(Window(phase, range(-1, 3), range(-1, 2)) for phase in (OO, EE, EO)),
        (
            Window(EO, range(2), range(-1, 1)),
            Window(EE, range(2), range(1)),
            Window(OO, range(1), range(-1, 1)),
        ),
    ),
)

NAMES: Final = {step.target: step.name for step in PASSES}
"""The pass that codes a phase."""


class Lattice:
    """One lattice of a plane by its four phases, each continued beyond its edges.

    A phase without samples (in a lattice of one row or one column) reads as `ee`.
    """

    def __init__(self, height: int, width: int, dtype: npt.DTypeLike = np.float32) -> None:
        self.height, self.width, self.dtype = height, width, np.dtype(dtype)
        self.rows, self.columns = (height + 1) // 2, (width + 1) // 2
        shape = len(PHASES), self.rows + BEFORE + AFTER, self.columns + BEFORE + AFTER
        size = math.prod(shape)
        self.flat: npt.NDArray[Any] = np.empty(size + SLACK, dtype)[:size]
        self.stack = self.flat.reshape(shape)
        self.padded: dict[Phase, npt.NDArray[Any]] = dict(zip(PHASES, self.stack, strict=True))

    def size(self, phase: Phase) -> tuple[int, int]:
        """Rows and columns that a phase has."""
        return (self.height + 1 - phase.row) // 2, (self.width + 1 - phase.column) // 2

    def put(
        self, phase: Phase, values: npt.NDArray[np.generic], less: npt.NDArray[Any] | None = None
    ) -> None:
        """All samples of a phase: by how much values are more than `less`, where that is given."""
        h, w = values.shape
        out = self.padded[phase]
        if not h * w:
            out[:] = self.padded[EE]
            return
        inner = out[BEFORE : BEFORE + h]
        if less is None:
            inner[:, BEFORE : BEFORE + w] = values
        else:
            np.subtract(values, less, out=inner[:, BEFORE : BEFORE + w])
        inner[:, :BEFORE] = inner[:, BEFORE, None]
        inner[:, BEFORE + w :] = inner[:, BEFORE + w - 1, None]
        out[:BEFORE] = out[BEFORE]
        out[BEFORE + h :] = out[BEFORE + h - 1]

    def at(self, place: Place, rows: slice, width: int) -> npt.NDArray[Any]:
        """What these rows of a pass, `width` samples each, see at a place."""
        phase, i, j = place
        return self.padded[phase][
            BEFORE + i + rows.start : BEFORE + i + rows.stop, BEFORE + j : BEFORE + j + width
        ]

    def values(self, phase: Phase) -> npt.NDArray[Any]:
        """The samples of a phase [h, w]."""
        h, w = self.size(phase)
        return self.padded[phase][BEFORE : BEFORE + h, BEFORE : BEFORE + w]

    def samples(self) -> npt.NDArray[Any]:
        """The whole lattice [height, width], once all phases are there."""
        out = np.empty((self.height, self.width), self.dtype)
        for phase in (EE, OO, EO, OE):
            out[phase.row :: 2, phase.column :: 2] = self.values(phase)
        return out

    def write(self, out: Bytes, more: Lattice | None = None) -> None:
        """The samples, and those of another lattice added, into a channel [height, width] whose they are."""
        if self.dtype == np.int16:  # of compiled loops
            from licodec.codecs.lattices_compiled import join

            join(self.stack, (more or self).stack, more is not None, out)
            return
        for phase in PHASES:
            values = self.values(phase)
            sums = values if more is None else values + more.values(phase)
            np.copyto(out[phase.row :: 2, phase.column :: 2], sums, casting="unsafe")


def lattice_of(plane: npt.NDArray[Any]) -> Lattice:
    """The finest lattice of a plane [height, width] that is known."""
    height, width = plane.shape
    out = Lattice(height, width, plane.dtype)
    if plane.dtype == np.int16:  # of compiled loops
        from licodec.codecs.lattices_compiled import fill

        fill(plane, out.stack)
        return out
    for phase in PHASES:
        out.put(phase, plane[phase.row :: 2, phase.column :: 2])
    return out


def sides(height: int, width: int) -> list[tuple[int, int]]:
    """Sides of a plane's lattices from the finest to the base: of one element where the plane is the base."""
    out = [(height, width)]
    while max(out[-1]) > BASE:
        h, w = out[-1]
        out.append(((h + 1) // 2, (w + 1) // 2))
    return out


def places(windows: Sequence[Window]) -> Iterator[Place]:
    """What windows hold, row by row."""
    for phase, rows, columns in windows:
        for i in rows:
            for j in columns:
                yield phase, i, j


def inputs(plane: int, step: Pass) -> int:
    """How many samples a net sees, in its own and in earlier planes."""
    seen, around = (sum(window.size for window in windows) for windows in (step.seen, step.around))
    return seen + plane * around


# --- A tile -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Request:
    """What a tile has to be told next: the samples of one phase of one lattice of one channel, as differences
    from their predictions.

    phase: None for a base lattice, which is not predicted but coded by differences of neighbours.
    prediction: of the samples, [h, w]; table: for each of them, [h, w].
    """

    plane: int
    level: int
    phase: Phase | None
    prediction: Bytes
    table: Bytes

    def samples_of(self, channels: Sequence[Bytes]) -> Bytes:
        """These samples in a tile whose channels are G, R, B: a view."""
        step = 1 << self.level
        if self.phase is None:
            return channels[self.plane][::step, ::step]
        row, column = self.phase
        return channels[self.plane][row * step :: 2 * step, column * step :: 2 * step]

    def symbols_of(self, samples: Bytes) -> Bytes:
        """[h, w] samples as [h w] symbols, mod 256."""
        if self.phase is not None:
            return np.subtract(samples, self.prediction).reshape(-1)
        differences = np.diff(samples, axis=1, prepend=np.uint8(0))
        differences[1:, 0] = np.diff(samples[:, 0])
        return differences.reshape(-1)

    def samples_from(self, symbols: Bytes) -> Bytes:
        """The inverse of `symbols_of`."""
        shaped = symbols.reshape(self.prediction.shape)
        if self.phase is not None:
            return np.add(shaped, self.prediction)
        rows = shaped.copy()
        rows[:, 0] = np.cumsum(rows[:, 0], dtype=np.uint8)
        return np.cumsum(rows, axis=1, dtype=np.uint8)


Look = Callable[[int, Pass, Lattice, Sequence[Lattice], Bytes, Bytes], None]
"""Predicts a pass: of level 0 (the finest) or more, in a lattice of its own plane and those of earlier ones.

Fills the predictions of the samples themselves and the table of each: [h, w] both.
"""
Passes = Generator[Request, Bytes, tuple[Bytes]]


def passes(shape: tuple[int, ...], look: Look, base_table: int, dtype: npt.DTypeLike = np.float32) -> Passes:
    """The passes of a tile [height, width, 1 or 3 planes], in their order.

    A generator: it yields what it has to be told, is sent the samples, uint8 [h, w], and returns the tile,
    uint8. One loop for both directions: an encoder answers from the picture, a decoder from the stream.

    base_table: the table of differences between neighbours in a base lattice of G; R - G and B - G have the
    next ones. dtype: of the lattices that `look` sees, float32 or int16.
    """
    height, width, planes = shape
    shapes = sides(height, width)
    known: list[list[Lattice]] = []
    green: npt.NDArray[Any] | None = None
    tile = np.empty((height, width, planes), np.uint8)
    for plane, channel in enumerate(channel_order(planes)):
        base = len(shapes) - 1
        unknown = np.zeros(shapes[base], np.uint8)
        table = np.full(shapes[base], base_table + plane, np.uint8)
        request = Request(plane, base, None, unknown, table)
        samples = yield request
        values = samples.astype(dtype)
        if green is None:
            green = values
        else:
            values -= green
        mine: list[Lattice] = []
        for level in range(base - 1, -1, -1):
            own = Lattice(*shapes[level], dtype)
            own.put(EE, values)
            earlier = [lattices[base - 1 - level] for lattices in known]
            for step in PASSES:
                if 0 in own.size(step.target):
                    own.put(step.target, np.empty(own.size(step.target), dtype))
                    continue
                h, w = own.size(step.target)
                prediction, table = np.empty((h, w), np.uint8), np.empty((h, w), np.uint8)
                look(level, step, own, earlier, prediction, table)
                request = Request(plane, level, step.target, prediction, table)
                samples = yield request
                own.put(step.target, samples, earlier[0].values(step.target) if plane else None)
            if level:
                values = own.samples()
            mine.append(own)
        if mine:
            mine[-1].write(tile[:, :, channel], known[0][-1] if plane else None)
        else:
            tile[:, :, channel] = samples
        known.append(mine)
    return (tile,)


class Known(NamedTuple):
    """A tile whose samples are known: its channels G, R, B, and all lattices of each plane, finest first."""

    channels: tuple[Bytes, ...]
    lattices: list[list[Lattice]]

    @classmethod
    def of(cls, tile: npt.NDArray[Any], dtype: npt.DTypeLike = np.float32) -> Known:
        """A tile [height, width, 1 or 3 channels]; dtype: float32, or int16 for compiled loops."""
        channels = channels_of(tile)
        green, *colours = (channel.astype(dtype) for channel in channels)
        for values in colours:
            values -= green
        levels = len(sides(*green.shape)) - 1
        out: list[list[Lattice]] = []
        for values in (green, *colours):
            lattices: list[Lattice] = []
            for _ in range(levels):
                lattices.append(lattice_of(lattices[-1].values(EE) if lattices else values))
            out.append(lattices)
        return cls(channels, out)


def requests(tile: Known, look: Look, base_table: int) -> Iterator[tuple[Request, Bytes]]:
    """What `passes` asks of a tile that is known, in its order, with the samples, a view of its channels: for
    encoders, which need not put a tile together again."""
    channels, lattices = tile
    shapes = sides(*channels[0].shape)
    base = len(shapes) - 1
    for plane, mine in enumerate(lattices):
        table = np.full(shapes[base], base_table + plane, np.uint8)
        request = Request(plane, base, None, np.zeros(shapes[base], np.uint8), table)
        yield request, request.samples_of(channels)
        for level in range(base - 1, -1, -1):
            own, earlier = mine[level], [each[level] for each in lattices[:plane]]
            for step in PASSES:
                h, w = own.size(step.target)
                if h * w == 0:
                    continue
                prediction, table = np.empty((h, w), np.uint8), np.empty((h, w), np.uint8)
                look(level, step, own, earlier, prediction, table)
                request = Request(plane, level, step.target, prediction, table)
                yield request, request.samples_of(channels)


NOTHING: Final = np.empty(0, np.uint8)


def walked(
    tiles: Sequence[Generator[R, S, tuple[S, ...]]], answer: Callable[[Sequence[R | None]], Sequence[S]]
) -> list[tuple[S, ...]]:
    """Go through the passes of several tiles in lockstep, and return what each returns.

    answer: gives samples for the requests of all; what it gives for None is not looked at.
    """
    done: list[tuple[S, ...]] = [()] * len(tiles)
    asked: list[R | None] = [next(tile) for tile in tiles]
    while any(request is not None for request in asked):
        for i, samples in enumerate(answer(asked)):
            if asked[i] is not None:
                try:
                    asked[i] = tiles[i].send(samples)
                except StopIteration as end:
                    asked[i], done[i] = None, end.value
    return done


def channel_order(channels: int) -> tuple[int, ...]:
    """Where G, R, B are among R, G, B, and these among those; or the one channel of a grey tile."""
    return (1, 0, 2) if channels == 3 else (0,)


def channels_of(tile: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """G, R, B of a tile of colours, or the one channel of a grey one."""
    return tuple(np.ascontiguousarray(tile[:, :, channel]) for channel in channel_order(tile.shape[2]))

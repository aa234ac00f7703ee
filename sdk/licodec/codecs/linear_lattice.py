"""Lattices without networks: pilc's tile mode 5, which needs no weights file.

    bodies = encode_many(tiles)
    tiles = decode_many(bodies, [tile.shape for tile in tiles])

The passes are those of `lattices`, as in mode 4. Where that has a net, this has per pass

    linear predictions     one for each of five directions in which the picture goes on
    an activity            a linear combination of magnitudes: of inputs, and of sums and differences of two
    thresholds             which make a scale of it

so that a sample takes a few hundred additions. All numbers are integers of the package's file
`linear_lattice.bin`, which `licodec.training.linear_lattice` writes; sums stay below 2^24, so that float32
holds them exactly. SPEC.md has the rules and the file's digest.

When not to use it: where weights are at hand and size counts more than time. Nets make photographs 2 to 5 %
smaller.

    >>> tile = (np.arange(40 * 30 * 3).reshape(40, 30, 3) % 251).astype(np.uint8)
    >>> (body,) = encode_many([tile])
    >>> bool((decode_many([body], [tile.shape])[0] == tile).all())
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import WeightsError
from licodec.codecs.lattices import (
    NOTHING,
    PASSES,
    Bytes,
    Known,
    Lattice,
    Look,
    Pass,
    Passes,
    Phase,
    Place,
    Request,
    passes,
    places,
    requests,
    walked,
)
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import SYMBOLS

if TYPE_CHECKING:
    from licodec.codecs.linear_lattice_compiled import Looking as CompiledLooking

Tile = npt.NDArray[Any]
"""Samples uint8 [height, width, 1 or 3]."""
Floats = npt.NDArray[np.float32]
"""Integers, held as float32."""
Ints = npt.NDArray[np.int64]
Offset = tuple[int, int]
"""Rows and columns of a lattice from one sample to another."""
Stream = list[tuple[Bytes, Bytes]]
"""Symbols of a tile and the table of each, stage by stage."""

PLANES: Final = 3
CLASSES: Final = 2
"""Numbers of the finest lattice, and of all others."""
DIRECTIONS: Final = 5
"""Neither; more along the second axis than the first, much more; more along the first, much more."""
STEEPNESS: Final = 60
"""In `Numbers.direction`, a difference of one level."""
LINEAR_UNIT: Final = 512
ACTIVITY_UNIT: Final = 2048
ACTIVITY_SHIFT: Final = 4
ACTIVITIES: Final = 4096
FINE_SCALES: Final = 24
"""Scales whose tables also depend on the quarter of a level that the prediction falls into."""
COARSE_SCALES: Final = 24
SCALES: Final = FINE_SCALES + COARSE_SCALES
BASE_TABLE: Final = 4 * FINE_SCALES + COARSE_SCALES
"""The table of differences between neighbours in a base lattice of G; R - G and B - G have the next ones."""
TABLES: Final = BASE_TABLE + PLANES
INPUT_MAX: Final = 510
"""Of the difference between two samples of R - G."""
SUM_LIMIT: Final = 1 << 24

PATH: Final = Path(__file__).with_name("linear_lattice.bin")
DIGEST: Final = "b5189ca437b194e7fa24b3c3b01d4952a8a4b9652e83ef250964c520e73d8ce5"
"""SHA-256 of the file."""


# --- What a pass looks at -----------------------------------------------------------------------------------

AXES: Final[Mapping[str, tuple[Offset, Offset]]] = {
    "A": ((1, 1), (1, -1)),
    "B0": ((0, 1), (1, 0)),
    "B1": ((0, 1), (1, 0)),
}
"""The two lines on which a sample stands between two of the nearest four."""

_TAPS: Final[Mapping[str, frozenset[Offset]]] = {
    "A": frozenset({(1, 1), (1, 3), (3, 1)}),
    "B0": frozenset({(0, 1), (0, 3), (1, 0), (1, 2), (2, 1)}),
    "B1": frozenset({(0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (3, 0)}),
}
"""By magnitudes of the offsets; all signs of them."""

_AROUND: Final = ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Offsets in the order of `Pass.around`."""


@dataclass(frozen=True)
class View:
    """What a pass sees on a plane.

    taps: samples of its own plane, row by row.
    pairs: (p, q, sign): what two inputs add up to, p + sign q. First differences of two taps two steps apart
        along the first axis, then along the second; the two nearest on the first axis; and for each earlier
        plane the two neighbours on the first axis, on the second, and on the other two lines.
    """

    taps: tuple[Place, ...]
    offsets: tuple[Offset, ...]
    inputs: int
    pairs: tuple[tuple[int, int, int], ...]


@cache
def view_of(plane: int, name: str) -> View:
    """By plane and name of a pass."""
    step = next(each for each in PASSES if each.name == name)
    found = {_offset(step.target, place): place for place in places(step.seen)}
    offsets = sorted(each for each in found if (abs(each[0]), abs(each[1])) in _TAPS[name])
    number = {offset: i for i, offset in enumerate(offsets)}
    pairs = []
    for down, right in AXES[name]:
        for y, x in offsets:
            other = number.get((y + 2 * down, x + 2 * right))
            if other is not None:
                pairs.append((number[y, x], other, -1))
    (down, right), _ = AXES[name]
    pairs.append((number[-down, -right], number[down, right], 1))
    others = ((1, 1), (1, -1)) if name != "A" else ((0, 1), (1, 0))
    for earlier in range(plane):
        first = len(offsets) + len(_AROUND) * earlier
        for down, right in (*AXES[name], *others):
            before, after = _AROUND.index((-down, -right)), _AROUND.index((down, right))
            pairs.append((first + before, first + after, 1))
    inputs = len(offsets) + len(_AROUND) * plane
    return View(tuple(found[each] for each in offsets), tuple(offsets), inputs, tuple(pairs))


def _offset(target: Phase, place: Place) -> Offset:
    phase, i, j = place
    return 2 * i + phase.row - target.row, 2 * j + phase.column - target.column


# --- Numbers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Numbers:
    """The integers of one pass on a plane, k inputs and f pairs.

    linear: [5, k], predictions in 1/512 by direction.
    activity: [5, k + f + 1], in 1/2048 by direction: of the magnitudes of inputs, then of pairs, then of 1.
    direction: [2, f], how steep the picture is along either axis, in 1/60, from the magnitudes of pairs.
    thresholds: [47] ascending; the scale is how many of them an activity in 1/128 reaches.
    """

    linear: Ints
    activity: Ints
    direction: Ints
    thresholds: Ints


Name = tuple[int, int, str]
"""Class of lattice (0 the finest, 1 others), plane and name of pass."""


def names() -> Iterator[Name]:
    """In the order of the file."""
    for which in range(CLASSES):
        for plane in range(PLANES):
            for step in PASSES:
                yield which, plane, step.name


def _layout(name: Name) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Arrays of a pass in the file: name, dtype, shape."""
    view = view_of(*name[1:])
    k, f = view.inputs, len(view.pairs)
    return (
        ("linear", "<i2", (DIRECTIONS, k)),
        ("activity", "<i2", (DIRECTIONS, k + f + 1)),
        ("direction", "<u1", (2, f)),
        ("thresholds", "<u2", (SCALES - 1,)),
    )


@dataclass(frozen=True, eq=False)
class Table:
    """All numbers: of the passes, and how often of 4096 a symbol is expected by each table of the lanes."""

    numbers: Mapping[Name, Numbers]
    frequencies: Ints

    def to_bytes(self) -> bytes:
        """The file."""
        parts = [
            getattr(self.numbers[name], field).astype(dtype).tobytes()
            for name in names()
            for field, dtype, _ in _layout(name)
        ]
        return b"".join([*parts, self.frequencies.astype("<u2").tobytes()])


def read(data: bytes) -> Table:
    """The inverse of `Table.to_bytes`.

    Raises:
        WeightsError: other bytes than these; sums that could leave the integers that float32 holds.
    """
    at = 0

    def take(dtype: str, shape: tuple[int, ...]) -> Ints:
        nonlocal at
        count = int(np.prod(shape))
        size = count * np.dtype(dtype).itemsize
        if at + size > len(data):
            raise WeightsError(f"linear_lattice.bin: {len(data)} bytes, expected more")
        values = np.frombuffer(data, dtype, count, at).astype(np.int64).reshape(shape)
        at += size
        return values

    numbers = {}
    for name in names():
        numbers[name] = Numbers(**{field: take(dtype, shape) for field, dtype, shape in _layout(name)})
        _check(name, numbers[name])
    frequencies = take("<u2", (TABLES, SYMBOLS))
    if at != len(data):
        raise WeightsError(f"linear_lattice.bin: {len(data)} bytes, expected {at}")
    return Table(numbers, frequencies)


def _check(name: Name, numbers: Numbers) -> None:
    k = view_of(*name[1:]).inputs
    largest = np.full(numbers.activity.shape[1], 2 * INPUT_MAX)
    largest[:k], largest[-1] = INPUT_MAX, 1
    worst = max(
        int((np.abs(numbers.linear) * INPUT_MAX).sum(axis=1).max()),
        int((np.abs(numbers.activity) * largest).sum(axis=1).max()),
        int((numbers.direction * 2 * INPUT_MAX).sum(axis=1).max()) * 5 + 8 * STEEPNESS,
    )
    if worst >= SUM_LIMIT:
        raise WeightsError(
            f"linear_lattice.bin: sums of {name} reach {worst}, the limit is {SUM_LIMIT} (2^24)"
        )
    if (np.diff(numbers.thresholds) < 0).any():
        raise WeightsError(f"linear_lattice.bin: thresholds of {name} do not ascend")


# --- A pass -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Numbers of a pass as the matrices that samples are multiplied by.

    linear: [5, k]; magnitudes: [7, k + f + 1], activities and, last, both steepnesses.
    scale_of: the scale by activity, [4096].
    """

    view: View
    linear: Floats
    magnitudes: Floats
    scale_of: Bytes


def _prepared(view: View, numbers: Numbers) -> _Prepared:
    steep = np.pad(numbers.direction, ((0, 0), (view.inputs, 1)))
    scale_of = np.searchsorted(numbers.thresholds, np.arange(ACTIVITIES), side="right")
    return _Prepared(
        view,
        numbers.linear.astype(np.float32),
        np.concatenate([numbers.activity, steep]).astype(np.float32),
        scale_of.astype(np.uint8),
    )


def fill_inputs(
    x: Floats, mean: Floats, view: View, step: Pass, own: Lattice, earlier: Sequence[Lattice], part: slice
) -> None:
    """What some rows of a pass see, into `x` [k, rows, w] (or more than k): its taps less the mean of the
    nearest four, which goes into `mean` [rows, w]; neighbours in each earlier plane less the sample in their
    midst."""
    w = mean.shape[1]
    first, second, third, fourth = (own.at(place, part, w) for place in step.nearest)
    np.add(first, second, out=mean)
    mean += third
    mean += fourth
    mean += 2
    mean *= 0.25
    np.floor(mean, out=mean)
    row = 0
    for place in view.taps:
        np.subtract(own.at(place, part, w), mean, out=x[row])
        row += 1
    for lattice in earlier:
        centre = lattice.at((step.target, 0, 0), part, w)
        for place in places(step.around):
            np.subtract(lattice.at(place, part, w), centre, out=x[row])
            row += 1


def fill_pairs(x: Floats, view: View) -> None:
    """Pairs of inputs, into the rows of `x` [k + f, ...] behind them."""
    for row, (p, q, sign) in enumerate(view.pairs, view.inputs):
        (np.add if sign > 0 else np.subtract)(x[p], x[q], out=x[row])


def directions(along: Floats, across: Floats) -> npt.NDArray[np.intp]:
    """Which direction, 0..4, by how steep the picture is along the first and the second axis, in 1/60."""
    out = np.zeros(along.shape, np.uint8)
    for more, (steep, even) in ((1, (along, across)), (3, (across, along))):
        least = 5 * even + 8 * STEEPNESS
        out += (4 * steep > least).view(np.uint8) * np.uint8(more)
        out += (2 * steep > least).view(np.uint8)
    return out.astype(np.intp)


AT_ONCE: Final = 16384
"""Samples that are predicted at a time: few enough to stay in a core's cache."""


class Looking:
    """A `Look` of lattices of float32. Not for several threads at once."""

    def __init__(self, prepared: Mapping[Name, _Prepared]) -> None:
        self._prepared = prepared
        self._blocks: dict[str, Floats] = {}

    def _take(self, name: str, rows: int, n: int) -> Floats:
        """An array [rows, n] of anything."""
        block = self._blocks.get(name)
        if block is None or block.size < rows * n:
            block = self._blocks[name] = np.empty(rows * max(n, AT_ONCE), np.float32)
        return block[: rows * n].reshape(rows, n)

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Bytes,
        table: Bytes,
    ) -> None:
        prepared = self._prepared[min(level, 1), len(earlier), step.name]
        h, w = prediction.shape
        rows = max(1, AT_ONCE // w)
        for top in range(0, h, rows):
            part = slice(top, min(top + rows, h))
            self._rows(prepared, step, own, earlier, part, prediction[part], table[part])

    def _rows(
        self,
        prepared: _Prepared,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        part: slice,
        prediction: Bytes,
        table: Bytes,
    ) -> None:
        view = prepared.view
        h, w = prediction.shape
        n, k, f = h * w, view.inputs, len(view.pairs)
        x = self._take("inputs", k + f + 1, n)
        mean = self._take("mean", h, w)
        fill_inputs(x.reshape(k + f + 1, h, w), mean, view, step, own, earlier, part)
        linear = self._take("linear", DIRECTIONS, n)
        np.matmul(prepared.linear, x[:k], out=linear)
        fill_pairs(x, view)
        x[-1] = 1
        np.abs(x, out=x)
        sums = self._take("sums", DIRECTIONS + 2, n)
        np.matmul(prepared.magnitudes, x, out=sums)

        chosen = directions(sums[-2], sums[-1])
        chosen *= n
        chosen += np.arange(n)
        activity = sums.reshape(-1).take(chosen).astype(np.int32)
        activity >>= ACTIVITY_SHIFT
        np.clip(activity, 0, ACTIVITIES - 1, out=activity)
        scale = prepared.scale_of.take(activity)
        quarters = linear.reshape(-1).take(chosen).astype(np.int32)
        quarters += 64 + 2 * 128
        quarters >>= 7
        fine = scale < FINE_SCALES
        index = np.where(fine, 4 * scale + (quarters & 3), 3 * FINE_SCALES + scale)
        table[:] = index.reshape(h, w)
        quarters >>= 2
        levels = quarters.reshape(h, w)
        np.add(levels, mean, out=levels, casting="unsafe")
        if earlier:
            np.add(levels, earlier[0].at((step.target, 0, 0), part, w), out=levels, casting="unsafe")
        np.clip(levels, 0, 255, out=prediction, casting="unsafe")


# --- Tiles --------------------------------------------------------------------------------------------------


class Coder:
    """A table, ready for coding. Immutable; safe in several threads."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.tables = LaneTables(table.frequencies)
        self._prepared = {
            name: _prepared(view_of(*name[1:]), numbers) for name, numbers in table.numbers.items()
        }

    def look(self) -> Looking:
        """For the passes of one thread."""
        return Looking(self._prepared)

    @cached_property
    def compiled(self) -> CompiledLooking:
        """Compiled; see `licodec.compiled`."""
        from licodec.codecs.linear_lattice_compiled import look_of

        return look_of(self.table.numbers)

    def streams_of(self, tiles: Sequence[Tile], compiled: bool = False) -> list[Stream]:
        """What an encoder writes of several tiles."""
        look, dtype = self._look(compiled)
        return [
            [
                (request.symbols_of(samples), request.table.reshape(-1))
                for request, samples in requests(Known.of(tile, dtype), look, BASE_TABLE)
            ]
            for tile in tiles
        ]

    def _look(self, compiled: bool) -> tuple[Look, npt.DTypeLike]:
        return (self.compiled, np.int16) if compiled else (self.look(), np.float32)

    def _walks(self, shapes: Sequence[tuple[int, ...]], compiled: bool) -> list[Passes]:
        look, dtype = self._look(compiled)
        return [passes(shape, look, BASE_TABLE, dtype) for shape in shapes]

    def encode(self, tiles: Sequence[Tile], compiled: bool = False) -> list[bytes]:
        """See `encode_many`."""
        if compiled and len(tiles) > 1:
            return [body for tile in tiles for body in self.encode([tile], compiled)]
        counts = [lanes.lanes_for(tile.size) for tile in tiles]
        return lanes.encode_many(self.streams_of(tiles, compiled), self.tables, counts, compiled=compiled)

    def decode(
        self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]], compiled: bool = False
    ) -> list[Tile]:
        """See `decode_many`."""
        if compiled and len(bodies) > 1:
            pairs = zip(bodies, shapes, strict=True)
            return [tile for body, shape in pairs for tile in self.decode([body], [shape], compiled)]
        decoder = lanes.LaneDecoder(bodies, self.tables, compiled=compiled)

        def answer(asked: Sequence[Request | None]) -> Sequence[Bytes]:
            symbols = decoder.get([NOTHING if each is None else each.table.reshape(-1) for each in asked])
            return [
                NOTHING if each is None else each.samples_from(found)
                for each, found in zip(asked, symbols, strict=True)
            ]

        done = walked(self._walks(shapes, compiled), answer)
        decoder.close()
        return [tile for (tile,) in done]


@cache
def coder() -> Coder:
    """The coder of the package's file, read once.

    Raises:
        WeightsError: the file is another one, or not there.
    """
    try:
        data = PATH.read_bytes()
    except OSError as error:
        raise WeightsError(f"{PATH}: {error}: the package is not complete") from None
    if (found := hashlib.sha256(data).hexdigest()) != DIGEST:
        raise WeightsError(f"{PATH}: SHA-256 is {found}, expected {DIGEST}")
    return Coder(read(data))


def encode_many(tiles: Sequence[Tile], compiled: bool = False) -> list[bytes]:
    """Bodies of tiles uint8 [height, width, 1 or 3] in mode 5, coded in lockstep.

    compiled: one by one, by loops that numba compiles, without the interpreter's lock; the same bytes.
    """
    return coder().encode(tiles, compiled)


def decode_many(
    bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]], compiled: bool = False
) -> list[Tile]:
    """Tiles of bodies in mode 5: `shapes` are those of the tiles that were encoded. compiled: as above.

    Raises:
        FormatError: a body can't be one. Samples are only certain once their check was compared.
    """
    return coder().decode(bodies, shapes, compiled) if bodies else []

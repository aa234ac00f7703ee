"""pilc: lossless coding on nested lattices, exact from end to end.

After PILC (Kang, Qiu, Zhang, Li, Xia, CVPR 2022, arXiv 2206.05279), with another order of samples. A tile is
three planes, G, R - G and B - G. Of each, every second row and column makes a lattice of a quarter of the
samples, again and again, down to at most 16 x 16: the base. What lies between is coded in passes. Each sees
all that is known, and is computed for all of its samples at once:

    ee eo ee eo      A    oo from ee
    oe oo oe oo      B0   eo from ee, oo
    ee eo ee eo      B1   oe from ee, oo, eo
    oe oo oe oo

The next finer lattice's ee is what this one has become. Planes come one after the other, so that R - G and
B - G see all of the earlier planes, also below and to the right.

A pass has an integer net of 16 and 16 units. What it gives for a sample is a prediction in quarters of a
level and the scale of its error; both choose the table with which the lanes of `licodec.entropy.lanes` code
the sample's difference from the prediction, mod 256. All sums are integers below 2^24 (some of them in units
of 1/64), which float32 holds exactly in whatever order they are added. So matrices are multiplied in float32
and every machine gets the same numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from lic_format.container import CODEC_BYTES, LANES, LicFile, Unit
from lic_format.errors import FormatError, WeightsError
from lic_format.header import Order
from licodec.codecs import screen_content
from licodec.codecs.contract import Coded, Shared, Stages
from licodec.codecs.registry import LATTICE, PILC_SIDE_INFO, PILC_TILE, Area, tile_exponents, tiles
from licodec.codecs.screen_content import Tile
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import PRECISION
from licodec.images import Picture
from licodec.store.weights import Weights
from licodec.threads import products_on_one_thread

Floats = npt.NDArray[np.float32]
"""Integers, held as float32."""
Bytes = npt.NDArray[np.uint8]

BASE: Final = 16
"""Largest side of the lattice that is not halved any more."""

# --- Lattices -----------------------------------------------------------------------------------------------

BEFORE, AFTER = 1, 2
"""Rows and columns by which a phase is continued with its edge: as far as passes look."""


class Phase(NamedTuple):
    """Which rows and columns of a lattice: 0 even, 1 odd."""

    row: int
    column: int


EE, EO, OE, OO = Phase(0, 0), Phase(0, 1), Phase(1, 0), Phase(1, 1)

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


class Lattice:
    """One lattice of a plane by its four phases, each continued beyond its edges.

    A phase without samples (in a lattice of one row or one column) reads as `ee`.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.rows, self.columns = (height + 1) // 2, (width + 1) // 2
        self.padded: dict[Phase, Floats] = {}

    def size(self, phase: Phase) -> tuple[int, int]:
        """Rows and columns that a phase has."""
        return (self.height + 1 - phase.row) // 2, (self.width + 1 - phase.column) // 2

    def put(self, phase: Phase, values: npt.NDArray[np.generic]) -> None:
        """All samples of a phase."""
        h, w = values.shape
        if not h * w:
            self.padded[phase] = self.padded[EE]
            return
        out = np.empty((self.rows + BEFORE + AFTER, self.columns + BEFORE + AFTER), np.float32)
        inner = out[BEFORE : BEFORE + h]
        inner[:, BEFORE : BEFORE + w] = values
        inner[:, :BEFORE] = inner[:, BEFORE, None]
        inner[:, BEFORE + w :] = inner[:, BEFORE + w - 1, None]
        out[:BEFORE] = out[BEFORE]
        out[BEFORE + h :] = out[BEFORE + h - 1]
        self.padded[phase] = out

    def at(self, place: Place, rows: slice, width: int) -> Floats:
        """What these rows of a pass, `width` samples each, see at a place."""
        phase, i, j = place
        return self.padded[phase][
            BEFORE + i + rows.start : BEFORE + i + rows.stop, BEFORE + j : BEFORE + j + width
        ]

    def values(self, phase: Phase) -> Floats:
        """The samples of a phase [h, w]."""
        h, w = self.size(phase)
        return self.padded[phase][BEFORE : BEFORE + h, BEFORE : BEFORE + w]

    def samples(self) -> Floats:
        """The whole lattice [height, width], once all phases are there."""
        out = np.empty((self.height, self.width), np.float32)
        for phase in (EE, OO, EO, OE):
            out[phase.row :: 2, phase.column :: 2] = self.values(phase)
        return out


def sides(height: int, width: int) -> list[tuple[int, int]]:
    """Sides of a plane's lattices from the finest to the base: of one element where the plane is the base."""
    out = [(height, width)]
    while max(out[-1]) > BASE:
        h, w = out[-1]
        out.append(((h + 1) // 2, (w + 1) // 2))
    return out


# --- Nets ---------------------------------------------------------------------------------------------------

UNITS: Final = 16
LINEAR_UNIT: Final = 512
WEIGHT_UNIT: Final = 64
INPUT_MAX: Final = 510
"""Of the difference between two samples of R - G."""
HIDDEN_MAX: Final = 32767
SUM_LIMIT: Final = 1 << 24
ACTIVITIES: Final = 4096
FINE_SCALES: Final = 24
"""Scales whose tables also depend on the quarter of a level that the prediction falls into."""
COARSE_SCALES: Final = 24
BASE_TABLE: Final = 4 * FINE_SCALES + COARSE_SCALES
"""The table of differences between neighbours in a base lattice of G; R - G and B - G have the next ones."""
TABLES: Final = BASE_TABLE + 3
CLASSES: Final = 2
"""Nets of the finest lattice, and of all others."""


def inputs(plane: int, step: Pass) -> int:
    """How many samples a net sees, in its own and in earlier planes."""
    seen, around = (sum(window.size for window in windows) for windows in (step.seen, step.around))
    return seen + plane * around


@dataclass(frozen=True, eq=False)
class Net:
    """The integers of one net, as the matrices that samples are multiplied by.

    first: [1 + 15, k + 1], the linear prediction in 1/512 and the first layer in 1/64; the last column
        meets 1.
    second: [16, 15 + 1] in 1/64 of the first layer's unit, so that what comes out is floored to that unit.
    third: [2, 16 + 1], in 1/4096: what is added to the prediction, and the activity.
    """

    first: Floats
    second: Floats
    third: Floats


AT_ONCE: Final = 16384
"""Samples that go through a net at a time: few enough to stay in a core's cache."""


class Scratch:
    """Memory for the layers of one net after the other. Not for several threads at once."""

    def __init__(self) -> None:
        self._blocks: dict[str, Floats] = {}

    def take(self, name: str, rows: int, n: int) -> Floats:
        """An array [rows, n] of anything."""
        block = self._blocks.get(name)
        if block is None or block.size < rows * n:
            block = self._blocks[name] = np.empty(rows * max(n, AT_ONCE), np.float32)
        return block[: rows * n].reshape(rows, n)


def fill_inputs(
    maps: Floats, mean: Floats, step: Pass, own: Lattice, earlier: Sequence[Lattice], part: slice
) -> None:
    """What a net sees at some rows of a pass, into `maps` [k, rows, w] (or more than k): samples of its plane
    less the mean of the nearest four, which goes into `mean` [rows, w]; neighbours in each earlier plane less
    the sample in their midst."""
    w = mean.shape[1]
    first, second, third, fourth = (own.at(place, part, w) for place in step.nearest)
    np.add(first, second, out=mean)
    mean += third
    mean += fourth
    mean += 2
    mean *= 0.25
    np.floor(mean, out=mean)
    row = 0
    for place in _places(step.seen):
        np.subtract(own.at(place, part, w), mean, out=maps[row])
        row += 1
    for lattice in earlier:
        centre = lattice.at((step.target, 0, 0), part, w)
        for place in _places(step.around):
            np.subtract(lattice.at(place, part, w), centre, out=maps[row])
            row += 1


def _places(windows: Sequence[Window]) -> Iterator[Place]:
    for phase, rows, columns in windows:
        for i in rows:
            for j in columns:
                yield phase, i, j


def look(
    net: Net,
    step: Pass,
    own: Lattice,
    earlier: Sequence[Lattice],
    table_of: Bytes,
    scratch: Scratch,
    part: slice,
    prediction: npt.NDArray[np.int32],
    table: Bytes,
) -> None:
    """Run a net over some rows of a pass.

    table_of: [4096 x 4], the table by activity and quarter. prediction, table: [rows, w], are filled: with
    the predictions of the samples themselves, 0..255, and with their tables.
    """
    h, w = prediction.shape
    n, k = h * w, inputs(len(earlier), step)
    x = scratch.take("inputs", k + 1, n)
    mean = scratch.take("mean", h, w)
    fill_inputs(x.reshape(k + 1, h, w), mean, step, own, earlier, part)
    x[k] = 1
    one = scratch.take("first", UNITS + 1, n)
    np.matmul(net.first, x, out=one[:UNITS])
    np.clip(one[1:UNITS], 0, HIDDEN_MAX, out=one[1:UNITS])
    one[UNITS] = 1
    two = scratch.take("second", UNITS + 1, n)
    np.matmul(net.second, one[1:], out=two[:UNITS])
    np.floor(two[:UNITS], out=two[:UNITS])
    np.clip(two[:UNITS], 0, HIDDEN_MAX, out=two[:UNITS])
    two[UNITS] = 1
    three = scratch.take("third", 2, n)
    np.matmul(net.third, two, out=three)

    # Quarters of a level: (linear / 512 + correction / 4096) 4, rounded.
    correction, activity = three.astype(np.int32)
    correction >>= 3
    correction += one[0].astype(np.int32)
    correction += 64 + 2 * 128
    correction >>= 7
    quarter = correction & 3
    correction >>= 2
    activity >>= 6
    np.clip(activity, 0, ACTIVITIES - 1, out=activity)
    activity <<= 2
    activity += quarter
    np.take(table_of, activity.reshape(h, w), out=table, mode="clip")
    np.add(correction.reshape(h, w), mean, out=prediction, casting="unsafe")
    if earlier:
        np.add(prediction, earlier[0].at((step.target, 0, 0), part, w), out=prediction, casting="unsafe")
    np.clip(prediction, 0, 255, out=prediction)


# --- A tile -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Request:
    """What a tile has to be told next: the samples of one phase of one lattice of one channel, as differences
    from their predictions.

    phase: None for a base lattice, which is not predicted but coded by differences of neighbours.
    prediction: of the samples 0..255, [h, w]; table: for each of them, [h, w].
    """

    plane: int
    level: int
    phase: Phase | None
    prediction: npt.NDArray[np.int32]
    table: Bytes

    def samples_of(self, channels: Sequence[Bytes]) -> Bytes:
        """These samples in a tile whose channels are G, R, B."""
        step = 1 << self.level
        if self.phase is None:
            return channels[self.plane][::step, ::step]
        row, column = self.phase
        return channels[self.plane][row * step :: 2 * step, column * step :: 2 * step]

    def symbols_of(self, samples: Bytes) -> Bytes:
        """[h, w] samples as [h w] symbols, mod 256."""
        if self.phase is not None:
            return np.subtract(samples, self.prediction, dtype=np.int32).astype(np.uint8).reshape(-1)
        differences = np.diff(samples, axis=1, prepend=np.uint8(0))
        differences[1:, 0] = np.diff(samples[:, 0])
        return differences.reshape(-1)

    def samples_from(self, symbols: Bytes) -> Bytes:
        """The inverse of `symbols_of`."""
        shaped = symbols.reshape(self.prediction.shape)
        if self.phase is not None:
            return (shaped + self.prediction).astype(np.uint8)
        rows = shaped.copy()
        rows[:, 0] = np.cumsum(rows[:, 0], dtype=np.uint8)
        return np.cumsum(rows, axis=1, dtype=np.uint8)


Nets = Mapping[tuple[int, int, str], Net]
"""By class of lattice (0 the finest, 1 others), plane and name of pass."""
Passes = Generator[Request, Bytes, tuple[Bytes, ...]]


def passes(shape: tuple[int, ...], nets: Nets, table_of: Bytes, scratch: Scratch) -> Passes:
    """The passes of a tile [height, width, 1 or 3 planes], in their order.

    A generator: it yields what it has to be told, is sent the samples, uint8 [h, w], and returns the channels
    G, R, B, uint8 [height, width]. One loop for both directions: an encoder answers from the picture, a
    decoder from the stream.
    """
    height, width, planes = shape
    shapes = sides(height, width)
    known: list[list[Lattice]] = []
    green: list[Floats] = []
    out: list[Bytes] = []
    for plane in range(planes):
        base = len(shapes) - 1
        unknown = np.zeros(shapes[base], np.int32)
        table = np.full(shapes[base], BASE_TABLE + plane, np.uint8)
        samples = yield Request(plane, base, None, unknown, table)
        values = np.asarray(samples, np.float32)
        if plane:
            values -= green[base]
        else:
            green = [values] * (base + 1)
        mine: list[Lattice] = []
        for level in range(base - 1, -1, -1):
            own = Lattice(*shapes[level])
            own.put(EE, values)
            earlier = [lattices[base - 1 - level] for lattices in known]
            for step in PASSES:
                if 0 in own.size(step.target):
                    own.put(step.target, np.empty(own.size(step.target), np.float32))
                    continue
                net = nets[min(level, 1), plane, step.name]
                h, w = own.size(step.target)
                prediction, table = np.empty((h, w), np.int32), np.empty((h, w), np.uint8)
                rows = max(1, AT_ONCE // w)
                for top in range(0, h, rows):
                    part = slice(top, min(top + rows, h))
                    look(net, step, own, earlier, table_of, scratch, part, prediction[part], table[part])
                samples = yield Request(plane, level, step.target, prediction, table)
                told = np.asarray(samples, np.float32)
                own.put(step.target, told - earlier[0].values(step.target) if plane else told)
            values = own.samples()
            mine.append(own)
            if not plane:
                green[level] = values
        known.append(mine)
        out.append((values + green[0] if plane else values).astype(np.uint8))
    return tuple(out)


_NOTHING: Final = np.empty(0, np.uint8)
Answer = Callable[[Sequence[Request | None]], Sequence[Bytes]]
"""Samples for the requests of several tiles; what it gives for None is not looked at."""


def walked(tiles: Sequence[Passes], answer: Answer) -> list[tuple[Bytes, ...]]:
    """Go through the passes of several tiles in lockstep, and return their channels."""
    done: list[tuple[Bytes, ...]] = [()] * len(tiles)
    asked: list[Request | None] = [next(tile) for tile in tiles]
    while any(asked):
        for i, samples in enumerate(answer(asked)):
            if asked[i] is not None:
                try:
                    asked[i] = tiles[i].send(samples)
                except StopIteration as end:
                    asked[i], done[i] = None, end.value
    return done


Stream = list[tuple[Bytes, Bytes]]
"""Symbols of a tile and the table of each, stage by stage."""


def streams_of(tiles: Sequence[Tile], nets: Nets, table_of: Bytes) -> list[Stream]:
    """What an encoder writes of several tiles."""
    channels = [_channels(tile) for tile in tiles]
    streams: list[Stream] = [[] for _ in tiles]

    def answer(asked: Sequence[Request | None]) -> Sequence[Bytes]:
        out = []
        for request, mine, stream in zip(asked, channels, streams, strict=True):
            samples = _NOTHING if request is None else request.samples_of(mine)
            if request is not None:
                stream.append((request.symbols_of(samples), request.table.reshape(-1)))
            out.append(samples)
        return out

    scratch = Scratch()
    walked([passes(tile.shape, nets, table_of, scratch) for tile in tiles], answer)
    return streams


# --- Tiles and files ----------------------------------------------------------------------------------------

TOGETHER: Final = 8
"""Tiles that are coded in lockstep."""


def build(weights: Weights, device: str, *, exact: str = "auto") -> Lossless:
    """The model of a weights file. It runs on the CPU whatever the device; there is one exact path.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds.
    """
    return Lossless(weights)


class Lossless:
    """Loaded nets and tables. Immutable; safe in several threads."""

    def __init__(self, weights: Weights) -> None:
        read = _Integers(weights)
        self.tables = LaneTables(read("frequencies", (TABLES, 256), 0, 1 << PRECISION))
        self.table_of = read("tables", (ACTIVITIES, 4), 0, BASE_TABLE - 1).astype(np.uint8).reshape(-1)
        self.nets: Nets = {
            (which, plane, step.name): _net(read, f"{which}.{plane}.{step.name}", inputs(plane, step))
            for which in range(CLASSES)
            for plane in range(3)
            for step in PASSES
        }

    # Encoder

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
    ) -> Coded:
        """See `contract.Model`. Rate and order mean nothing here."""
        columns, rows = tile_exponents(picture.width, picture.height)
        places = tiles(picture.width, picture.height, columns, rows)
        units: list[Unit] = []
        with products_on_one_thread():
            for first in range(0, len(places), TOGETHER):
                group = places[first : first + TOGETHER]
                parts = [np.ascontiguousarray(picture.planes[place]) for place in group]
                units += self._encode_tiles(parts)
        fields = {"layout": 1, "columns": columns, "rows": rows, "digest": b""}
        return Coded(
            {"rate": 0, "order": Order.ONE_STEP, "side_info": PILC_SIDE_INFO.write(fields)},
            tuple(units),
        )

    def _encode_tiles(self, group: Sequence[Tile]) -> list[Unit]:
        drawn = [screen_content.best(tile, effort=0) for tile in group]
        flips = [_flips(tile) for tile in group]
        places = [i for i, (mode, _) in enumerate(drawn) if mode != screen_content.Mode.CONSTANT]
        bodies = self.encode_lattices([_flipped(group[i], flips[i]) for i in places])
        lattices = dict(zip(places, bodies, strict=True))
        units = []
        for i, (tile, (mode, body)) in enumerate(zip(group, drawn, strict=True)):
            lattice = lattices.get(i)
            if lattice is not None and len(lattice) < len(body):
                units.append(_unit(LATTICE, flips[i], check_of(tile), lattice))
            else:
                units.append(_unit(mode, 0, check_of(tile), body))
        return units

    def encode_lattices(self, group: Sequence[Tile]) -> list[bytes]:
        """Bodies of tiles in mode 4."""
        streams = streams_of(group, self.nets, self.table_of)
        return lanes.encode_many(streams, self.tables, [lanes.lanes_for(tile.size) for tile in group])

    # Decoder

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        """See `contract.Model`. FormatError where a tile's samples are not those that were encoded."""
        head = file.head
        out = np.empty((head.height, head.width, head.colour.planes), np.uint8)
        side = PILC_SIDE_INFO.read_whole(head.side_info, where="HEAD")
        grid = tiles(head.width, head.height, side["columns"], side["rows"])
        work = list(enumerate(zip(grid, file.units, strict=True)))
        with products_on_one_thread():
            for first in range(0, len(work), TOGETHER):
                self._decode_tiles(out, work[first : first + TOGETHER])
        return Picture(out)

    def _decode_tiles(self, out: Bytes, group: Sequence[tuple[int, tuple[Area, Unit]]]) -> None:
        records = [PILC_TILE.read_whole(unit.side_info, where="DATA") for _, (_, unit) in group]
        targets = [out[place] for _, (place, _) in group]
        bodies = [unit.body for _, (_, unit) in group]
        lattices = [i for i, record in enumerate(records) if record["mode"] == LATTICE]
        shapes = [targets[i].shape for i in lattices]
        found = self.decode_lattices([bodies[i] for i in lattices], shapes)
        for i, tile in zip(lattices, found, strict=True):
            targets[i][:] = _flipped(tile, records[i]["flips"])
        for i in range(len(group)):
            if i not in lattices:
                mode, target = records[i]["mode"], targets[i]
                target[:] = screen_content.decode(mode, bodies[i], target.shape, np.uint8)
        for (number, _), target, record in zip(group, targets, records, strict=True):
            if (check := check_of(target)) != record["check"]:
                raise FormatError(
                    f"tile {number} decodes to samples of CRC-32 {check:08x}, the file says "
                    f"{record['check']:08x}: damaged",
                    chunk="DATA",
                )

    def decode_lattices(self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> list[Tile]:
        """Tiles of bodies in mode 4, before they are turned back; FormatError where a body can't be one."""
        if not bodies:
            return []
        decoder = lanes.LaneDecoder(bodies, self.tables)

        def answer(asked: Sequence[Request | None]) -> Sequence[Bytes]:
            symbols = decoder.get([_NOTHING if each is None else each.table.reshape(-1) for each in asked])
            return [
                _NOTHING if each is None else each.samples_from(found)
                for each, found in zip(asked, symbols, strict=True)
            ]

        scratch = Scratch()
        walks = [passes(shape, self.nets, self.table_of, scratch) for shape in shapes]
        done = walked(walks, answer)
        decoder.close()
        return [np.stack([channels[c] for c in _order(len(channels))], axis=2) for channels in done]


def _order(channels: int) -> tuple[int, ...]:
    """Where G, R, B are among R, G, B, and these among those; or the one channel of a grey tile."""
    return (1, 0, 2) if channels == 3 else (0,)


def _channels(tile: Tile) -> tuple[Bytes, ...]:
    """G, R, B of a tile of colours, or the one channel of a grey one."""
    return tuple(np.ascontiguousarray(tile[:, :, channel]) for channel in _order(tile.shape[2]))


def _unit(mode: int, flips: int, check: int, body: bytes) -> Unit:
    record = PILC_TILE.write({"mode": mode, "flips": flips, "check": check})
    return Unit(LANES if mode == LATTICE else CODEC_BYTES, record, body)


def check_of(tile: Tile) -> int:
    """What a file says of a tile's samples."""
    return zlib.crc32(tile.tobytes())


def _flipped(tile: Tile, flips: int) -> Tile:
    """Upside down for bit 0, left to right for bit 1; both undo themselves."""
    return tile[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]


def _flips(tile: Tile) -> int:
    """Which flips make the samples between lattices smoothest. A side of even length changes its phase so.

    Colour that was once stored at half its resolution is smooth at every second sample: photographs on CD,
    most of JPEG.
    """
    if tile.shape[2] == 1:
        return 0
    colour = tile[:, :, ::2].astype(np.int16) - tile[:, :, 1:2]
    return sum(1 << axis for axis in (0, 1) if _even_ones_are_smoother(np.moveaxis(colour, axis, 0)))


def _even_ones_are_smoother(lines: npt.NDArray[np.int16]) -> bool:
    if len(lines) % 2 or len(lines) < 4:
        return False
    bends = np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).sum(axis=(1, 2), dtype=np.int64)
    odd, even = int(bends[::2].sum()), int(bends[1::2].sum())  # bends[0] is line 1's
    return even < 0.98 * odd


class _Integers:
    """Integer tensors of a weights file, checked; WeightsError names what is wrong."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __call__(self, name: str, shape: tuple[int, ...], low: int, high: int) -> npt.NDArray[np.int64]:
        path, tensor = self._weights.path, self._weights.tensors.get(name)
        if tensor is None:
            raise WeightsError(f"{path}: no tensor {name!r}, which pilc needs")
        if tuple(tensor.shape) != shape or tensor.dtype.is_floating_point:
            raise WeightsError(
                f"{path}: {name!r} is {tensor.dtype} {tuple(tensor.shape)}, expected integers {shape}"
            )
        values: npt.NDArray[np.int64] = tensor.numpy().astype(np.int64)
        if values.min() < low or values.max() > high:
            raise WeightsError(
                f"{path}: {name!r} holds {values.min()}..{values.max()}, expected {low}..{high}"
            )
        return values

    def matrix(self, name: str, shape: tuple[int, int], largest_input: int) -> Floats:
        """A layer's weights and, last in each row, its bias, as float32, which holds all its sums exactly."""
        values = self(name, shape, 1 - SUM_LIMIT, SUM_LIMIT - 1)
        worst = int((np.abs(values[:, :-1]).sum(axis=1) * largest_input + np.abs(values[:, -1])).max())
        if worst >= SUM_LIMIT:
            raise WeightsError(
                f"{self._weights.path}: sums of {name!r} can reach {worst}, the limit is {SUM_LIMIT} (2^24)"
            )
        return values.astype(np.float32)


def _net(read: _Integers, name: str, k: int) -> Net:
    return net_of(
        read.matrix(f"{name}.first", (UNITS, k + 1), INPUT_MAX),
        read.matrix(f"{name}.second", (UNITS, UNITS), HIDDEN_MAX),
        read.matrix(f"{name}.third", (2, UNITS + 1), HIDDEN_MAX),
    )


def net_of(first: npt.NDArray[Any], second: npt.NDArray[Any], third: npt.NDArray[Any]) -> Net:
    """A net of stored integers."""
    return Net(
        first.astype(np.float32),
        second.astype(np.float32) / np.float32(WEIGHT_UNIT),
        third.astype(np.float32),
    )

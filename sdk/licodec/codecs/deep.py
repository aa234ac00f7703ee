"""Samples of 16 bits: how pilc stores them, and mode 7, deep, which needs no weights.

    stored = Stored.of(planes)                  # u = v >> 4 where four bits of all samples say nothing
    body, = encode([tile])                      # uint16 [height, width, 1 or 3]
    tile, = decode([body], [tile.shape])

A tile goes through the passes of `lattices`. A sample is predicted by a sum of what the pass knows around it,
with committed integers as weights; another such sum, of magnitudes, says how far off that will be and chooses
the table. What is coded is the difference in zig-zag order: its magnitude roughly, by the lanes, and the bits
below that as they are, since they are noise.

    difference   0  -1   1 ...  -8      8..11     -12..-9    12..15 ...
    zig-zag z    0   1   2 ...  15      16..23 (even, odd)   24..31 ...
    token        0   1   2 ...  15      16                   17     ...      the two highest bits of z
    low bits     0   0   0 ...   0      3                    3      ...      the others

All sums are integers below 2^53, which float64 holds exactly in whatever order they are added.

When not to use it: for samples of 8 bits, for which there are nets.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lic_format.container import CODEC_BYTES, Unit
from lic_format.errors import FormatError
from lic_format.fields import Table, VarBytes
from licodec.codecs import screen_content
from licodec.codecs.lattices import (
    EE,
    PASSES,
    Lattice,
    Pass,
    Phase,
    Place,
    channel_order,
    channels_of,
    inputs,
    places,
    sides,
    walked,
)
from licodec.codecs.registry import DEEP, PILC_TILE
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import ESCAPE, SYMBOLS

Tile = npt.NDArray[Any]
"""Samples [height, width, channels], uint8 or uint16."""
Deep = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
"""Integers, held as float64."""

DEPTH: Final = 16
TOP: Final = (1 << DEPTH) - 1

# --- What is stored -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """What stands for samples v of 16 bits: u = v >> shift, numbers of so many bits.

    Where repeated is 1, the bits that were shifted out are the highest bits of u once more, as they are where
    fewer bits were spread over 16: 257 u of 8 bits.
    """

    bits: int = DEPTH
    shift: int = 0
    repeated: int = 0

    @classmethod
    def of(cls, planes: Deep) -> Self:
        """What says all of these samples in the fewest bits."""
        for bits in range(DEPTH // 2, DEPTH):
            found = cls(bits, DEPTH - bits, 1)
            if found.holds(planes[:1]) and found.holds(planes):
                return found
        ones = int(np.bitwise_or.reduce(planes, axis=None))
        shift = (ones & -ones).bit_length() - 1 if ones else 0
        return cls(max(1, (ones >> shift).bit_length()), shift)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of stored samples: uint8 where they have at most 8 bits, else uint16."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    def holds(self, planes: Deep) -> bool:
        """Whether it stands for just these samples."""
        return bool((self._spread(planes >> np.uint16(self.shift)) == planes).all())

    def taken(self, planes: Deep) -> Tile:
        """The stored samples of a picture."""
        return (planes >> np.uint16(self.shift)).astype(self.dtype)

    def spread(self, stored: Tile) -> Deep:
        """The picture of stored samples; FormatError where one has more bits than it may."""
        if (most := int(stored.max())) >> self.bits:
            raise FormatError(
                f"a stored sample is {most}, samples of {self.bits} bits are expected: damaged", chunk="DATA"
            )
        return self._spread(stored.astype(np.uint16))

    def _spread(self, stored: Deep) -> Deep:
        out = stored << np.uint16(self.shift)
        if self.repeated:
            out |= stored >> np.uint16(self.bits - self.shift)
        return out


FIELDS: Final = tuple(field.name for field in dataclasses.fields(Stored))
"""As the side info of a file names them."""

# --- Tokens and low bits ------------------------------------------------------------------------------------

VERBATIM: Final = 16
"""Differences in zig-zag order below which a token is all there is."""
TOKENS: Final = VERBATIM + 2 * (DEPTH - 4)
LOW: Final = Table("deep", (("low", VarBytes(1 << 21), "low bits of all tokens, in the order of these"),))


def _low_bits() -> Bytes:
    above = [token // 2 - 8 + 3 for token in range(VERBATIM, TOKENS)]
    return np.array([0] * VERBATIM + above, np.uint8)


LOW_BITS: Final = _low_bits()
"""Bits below each token."""
FIRST: Final = np.concatenate(([0], np.cumsum(1 << LOW_BITS.astype(np.int64))[:-1])).astype(np.int32)
"""The smallest number of each token."""
TOKEN_OF: Final = np.arange(TOKENS, dtype=np.uint8).repeat(1 << LOW_BITS.astype(np.int64))
"""The token of each number 0..65535."""


def zigzag(differences: Deep) -> Deep:
    """Differences mod 2^16, small magnitudes first: 0, -1, 1, -2, 2, ..."""
    negative = (differences >> np.uint16(DEPTH - 1)) * np.uint16(TOP)
    return (differences << np.uint16(1)) ^ negative


def unzigzag(numbers: Deep) -> Deep:
    """The inverse of `zigzag`."""
    return (numbers >> np.uint16(1)) ^ ((numbers & np.uint16(1)) * np.uint16(TOP))


def packed_low(numbers: Deep) -> bytes:
    """The low bits of numbers in zig-zag order [N], the first bit of a byte its lowest."""
    out = np.zeros(2 * numbers.size + 3, np.uint8)
    bits = 0
    for first in range(0, numbers.size, AT_ONCE):
        part = numbers[first : first + AT_ONCE]
        part = part[part >= VERBATIM]
        if not part.size:
            continue
        tokens = TOKEN_OF.take(part)
        widths = LOW_BITS.take(tokens).astype(np.int64)
        ends = np.cumsum(widths)
        starts = ends - widths + bits
        bits += int(ends[-1])
        # At most three begin in a byte, and no two of them share a bit: adding joins them.
        at = starts >> 3
        firsts = np.flatnonzero(np.diff(at, prepend=-1))
        joined = np.add.reduceat((part - FIRST.take(tokens)) << (starts & 7), firsts)
        for byte in range(3):
            out[at[firsts] + byte] |= (joined >> 8 * byte).astype(np.uint8)
    return out[: (bits + 7) >> 3].tobytes()


class LowBits:
    """Reads low bits stage by stage; FormatError where there are fewer or more of them than asked for."""

    def __init__(self, data: bytes) -> None:
        self._size = 8 * len(data)
        stored = np.zeros(len(data) + 3, np.uint8)
        stored[: len(data)] = np.frombuffer(data, np.uint8)
        wide = stored.astype(np.uint32)
        self._windows = wide[:-2] | wide[1:-1] << np.uint32(8) | wide[2:] << np.uint32(16)
        self._at = 0

    def get(self, tokens: Bytes) -> Deep:
        """The numbers of these tokens [N]."""
        numbers = FIRST[tokens]
        some = (tokens >= VERBATIM).nonzero()[0]
        widths = LOW_BITS[tokens[some]].astype(np.int64)
        ends = self._at + np.cumsum(widths)
        if ends.size:
            starts, self._at = ends - widths, int(ends[-1])
            if self._at > self._size:
                raise _damaged(f"{self._size} low bits are stored, the tokens ask for more")
            found = self._windows[starts >> 3] >> (starts & 7).astype(np.uint32)
            numbers[some] += (found & ((1 << widths) - 1).astype(np.uint32)).astype(np.int32)
        return numbers.astype(np.uint16)

    def close(self) -> None:
        """Check that nothing is left but zeros that fill the last byte."""
        left = self._size - self._at
        if left >= 8:
            raise _damaged(f"{left} of {self._size} low bits are left over")
        if left and int(self._windows[self._at >> 3]) >> (self._at & 7) & 255 >> (self._at & 7):
            raise _damaged("bits behind the last low bits are not zero")


def _damaged(reason: str) -> FormatError:
    return FormatError(f"deep: {reason}", chunk="DATA")


# --- Numbers ------------------------------------------------------------------------------------------------

UNIT: Final = 1024
"""Of weights, for predictions and for activities."""
WEIGHT_MAX: Final = 1 << 16
CONTEXTS: Final = 72
FIRST_ACTIVITY: Final = 32
"""Quarters of an octave of an activity below which the context is 0."""
BASE_TABLE: Final = CONTEXTS
"""The table of differences between neighbours in a base lattice of G; R - G and B - G have the next ones."""
TABLES: Final = CONTEXTS + 3
CLASSES: Final = 2
NUMBERS: Final = "deep.json"


class Weights(NamedTuple):
    """Of one pass: what the k samples it sees are multiplied by for the prediction, [1, k], and what the
    magnitudes of the same for the activity, [1, k].

    own, around: where those samples are, in the pass's own plane and in each earlier one.
    """

    prediction: Floats
    activity: Floats
    own: tuple[Place, ...]
    around: tuple[tuple[Place, ...], ...]

    @classmethod
    def of(cls, plane: int, step: Pass, prediction: Sequence[int], activity: Sequence[int]) -> Self:
        """Weights of all that the pass could see; where both are 0 it need not look."""
        both = np.array([prediction, activity], np.float64)
        if both.shape != (2, inputs(plane, step)) or np.abs(both).max() >= WEIGHT_MAX:
            raise ValueError(f"{both.shape[1]} weights of plane {plane}, pass {step.name}")
        used: npt.NDArray[np.bool_] = (both[0] != 0) | (both[1] != 0)
        seen, around = list(places(step.seen)), list(places(step.around))
        flags: list[bool] = used.tolist()
        kept = iter(flags)
        own = tuple(place for place in seen if next(kept))
        earlier = tuple(tuple(place for place in around if next(kept)) for _ in range(plane))
        return cls(both[:1, used], both[1:, used], own, earlier)

    @property
    def size(self) -> int:
        return int(self.prediction.shape[1])


@dataclass(frozen=True, eq=False)
class Numbers:
    """Weights by class of lattice (0 the finest, 1 others), plane and name of pass; the tables."""

    weights: dict[tuple[int, int, str], Weights]
    tables: LaneTables

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        """Those of a JSON document as `NUMBERS` is one."""
        weights = {}
        for which in range(CLASSES):
            for plane in range(3):
                for step in PASSES:
                    name = f"{which}.{plane}.{step.name}"
                    both = (stored[kind][name] for kind in ("prediction", "activity"))
                    weights[which, plane, step.name] = Weights.of(plane, step, *both)
        frequencies = np.zeros((TABLES, SYMBOLS), np.int64)
        frequencies[:, :TOKENS] = stored["tables"]
        frequencies[:, ESCAPE] = 1
        return cls(weights, LaneTables(frequencies))


@functools.cache
def committed() -> Numbers:
    """The numbers that files are coded with."""
    return Numbers.of(json.loads((importlib.resources.files(__package__) / NUMBERS).read_text("ascii")))


# --- A tile -------------------------------------------------------------------------------------------------

AT_ONCE: Final = 4096
"""Samples that are predicted at a time."""


def fill_inputs(
    x: Floats,
    mean: Floats,
    step: Pass,
    lattices: Sequence[Lattice],
    wanted: tuple[Sequence[Place], Sequence[Sequence[Place]]],
    part: slice,
) -> None:
    """What a pass sees at some rows, into `x` [k, rows, w]: samples of its plane less the floored mean of the
    nearest four, which goes into `mean` [rows, w]; neighbours in each earlier plane less the sample in their
    midst.

    lattices: of its own plane and of the earlier ones. wanted: places in the former, and in each of the
        latter.
    """
    own, *earlier = lattices
    w = mean.shape[1]
    first, second, third, fourth = (own.at(place, part, w) for place in step.nearest)
    np.add(first, second, out=mean)
    mean += third
    mean += fourth
    mean += 2
    mean *= 0.25
    np.floor(mean, out=mean)
    row = 0
    for place in wanted[0]:
        np.subtract(own.at(place, part, w), mean, out=x[row])
        row += 1
    for lattice, around in zip(earlier, wanted[1], strict=True):
        centre = lattice.at((step.target, 0, 0), part, w)
        for place in around:
            np.subtract(lattice.at(place, part, w), centre, out=x[row])
            row += 1


def context_of(activity: Floats) -> npt.NDArray[np.int64]:
    """The context of activities, integers from 0: quarters of an octave.

    A float64 begins with the exponent, and the highest bits of its mantissa are the quarter.
    """
    quarters = activity.view(np.int64) >> 50
    quarters -= 4 * 1023 + FIRST_ACTIVITY
    return np.clip(quarters, 0, CONTEXTS - 1, out=quarters)


@dataclass(frozen=True, eq=False)
class Request:
    """What a tile has to be told next: the samples of one phase of one lattice of one channel, as differences
    from their predictions, mod 2^16.

    phase: None for a base lattice: there the differences are those between neighbours once more.
    prediction: 0..65535, uint16 [h, w]; table: uint8 [h, w].
    """

    plane: int
    level: int
    phase: Phase | None
    prediction: Deep
    table: Bytes

    def samples_of(self, channels: Sequence[Deep]) -> Deep:
        """These samples in a tile whose channels are G, R, B."""
        step = 1 << self.level
        if self.phase is None:
            return channels[self.plane][::step, ::step]
        row, column = self.phase
        return channels[self.plane][row * step :: 2 * step, column * step :: 2 * step]

    def differences_of(self, samples: Deep) -> Deep:
        """[h, w] samples as [h w] differences."""
        out = samples - self.prediction
        if self.phase is None:
            column = np.diff(out[:, 0])
            out = np.diff(out, axis=1, prepend=np.uint16(0))
            out[1:, 0] = column
        return out.reshape(-1)

    def samples_from(self, differences: Deep) -> Deep:
        """The inverse of `differences_of`."""
        out = differences.reshape(self.prediction.shape)
        if self.phase is None:
            out = out.copy()
            out[:, 0] = np.cumsum(out[:, 0], dtype=np.uint16)
            out = np.cumsum(out, axis=1, dtype=np.uint16)
        return out + self.prediction


Passes = Generator[Request, Deep, tuple[Deep, ...]]
Look = Callable[[int, Pass, Lattice, Sequence[Lattice], Floats, Bytes], None]
"""Predicts a pass of level 0 (the finest) or more: fills predictions in the pass's own plane, any integers
[h, w], and tables."""


@dataclass(frozen=True, eq=False)
class Looking:
    """The committed numbers as a `Look`."""

    numbers: Numbers

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Floats,
        table: Bytes,
    ) -> None:
        weights = self.numbers.weights[min(level, 1), len(earlier), step.name]
        h, w = prediction.shape
        rows = max(1, AT_ONCE // w)
        k = weights.size
        whole = np.empty(k * rows * w)
        for top in range(0, h, rows):
            part = slice(top, min(top + rows, h))
            n = (part.stop - top) * w
            x = whole[: k * n].reshape(k, n)
            mean = prediction[part]
            fill_inputs(x.reshape(k, -1, w), mean, step, (own, *earlier), (weights.own, weights.around), part)
            found = np.matmul(weights.prediction, x)
            found += UNIT // 2
            found *= 1 / UNIT
            mean += np.floor(found, out=found).reshape(-1, w)
            np.abs(x, out=x)
            table[part] = context_of(np.matmul(weights.activity, x)).reshape(-1, w)


def passes(shape: tuple[int, ...], look: Look) -> Passes:
    """The passes of a tile [height, width, 1 or 3 planes], in their order.

    A generator, as `lattices.passes` is one for 8 bits: it yields what it has to be told, is sent the
    samples, uint16 [h, w], and returns the channels G, R, B.
    """
    height, width, planes = shape
    shapes = sides(height, width)
    base = len(shapes) - 1
    known: list[list[Lattice]] = []
    green: list[Floats] = []
    out: list[Deep] = []
    for plane in range(planes):
        midst = green[base] if plane else np.zeros(shapes[base])
        table = np.full(shapes[base], BASE_TABLE + plane, np.uint8)
        samples = yield Request(plane, base, None, midst.astype(np.uint16), table)
        values = samples - midst
        if not plane:
            green = [values] * (base + 1)
        mine: list[Lattice] = []
        for level in range(base - 1, -1, -1):
            own = Lattice(*shapes[level], np.float64)
            own.put(EE, values)
            earlier = [lattices[base - 1 - level] for lattices in known]
            for step in PASSES:
                h, w = own.size(step.target)
                if 0 in (h, w):
                    own.put(step.target, np.empty((h, w)))
                    continue
                prediction, table = np.empty((h, w)), np.empty((h, w), np.uint8)
                look(level, step, own, earlier, prediction, table)
                midst = earlier[0].values(step.target) if plane else np.zeros((1, 1))
                prediction += midst
                np.clip(prediction, 0, TOP, out=prediction)
                samples = yield Request(plane, level, step.target, prediction.astype(np.uint16), table)
                own.put(step.target, samples - midst)
            values = own.samples()
            mine.append(own)
            if not plane:
                green[level] = values
        known.append(mine)
        out.append((values + green[0] if plane else values).astype(np.uint16))
    return tuple(out)


NOTHING: Final = np.empty(0, np.uint16)
NO_TABLES: Final = np.empty(0, np.uint8)


def streams_of(tiles: Sequence[Deep], look: Look) -> list[list[tuple[Deep, Bytes]]]:
    """What an encoder writes of several tiles: numbers in zig-zag order and the table of each, by stage."""
    channels = [channels_of(tile) for tile in tiles]
    streams: list[list[tuple[Deep, Bytes]]] = [[] for _ in tiles]

    def answer(asked: Sequence[Request | None]) -> Sequence[Deep]:
        out = []
        for request, mine, stream in zip(asked, channels, streams, strict=True):
            samples = NOTHING if request is None else request.samples_of(mine)
            if request is not None:
                stream.append((zigzag(request.differences_of(samples)), request.table.reshape(-1)))
            out.append(samples)
        return out

    walked([passes(tile.shape, look) for tile in tiles], answer)
    return streams


def encode(tiles: Sequence[Deep]) -> list[bytes]:
    """Bodies of tiles, uint16 [height, width, 1 or 3] each, in mode 7."""
    numbers = committed()
    streams = streams_of(tiles, Looking(numbers))
    stages = [[(TOKEN_OF[found], table) for found, table in stream] for stream in streams]
    coded = lanes.encode_many(stages, numbers.tables, [lanes.lanes_for(tile.size) for tile in tiles])
    low = [packed_low(np.concatenate([found for found, _ in stream])) for stream in streams]
    return [LOW.write({"low": bits}) + body for bits, body in zip(low, coded, strict=True)]


def decode(bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> list[Deep]:
    """Tiles of bodies in mode 7; FormatError where a body can't be one."""
    if not bodies:
        return []
    numbers = committed()
    heads = [LOW.read(body, where="DATA") for body in bodies]
    low = [LowBits(values["low"]) for values, _ in heads]
    rest = [memoryview(body)[start:] for body, (_, start) in zip(bodies, heads, strict=True)]
    decoder = lanes.LaneDecoder(rest, numbers.tables)

    def answer(asked: Sequence[Request | None]) -> Sequence[Deep]:
        symbols = decoder.get([NO_TABLES if each is None else each.table.reshape(-1) for each in asked])
        out = []
        for request, tokens, bits in zip(asked, symbols, low, strict=True):
            if tokens.size and (most := int(tokens.max())) >= TOKENS:
                raise _damaged(f"token {most}, expected 0..{TOKENS - 1}")
            out.append(NOTHING if request is None else request.samples_from(unzigzag(bits.get(tokens))))
        return out

    look = Looking(numbers)
    done = walked([passes(shape, look) for shape in shapes], answer)
    decoder.close()
    for bits in low:
        bits.close()
    return [np.stack([channels[c] for c in channel_order(len(channels))], axis=2) for channels in done]


def check_of(tile: Deep, number: int) -> int:
    """What a file says of a tile's stored samples: CRC-32 of their bytes, the high one of each first, and of
    its place."""
    return zlib.crc32(tile.astype(">u2").tobytes()) ^ number


def encode_units(group: Sequence[Deep], first: int) -> list[Unit]:
    """Units of tiles of uint16, the first of which has that number: the smallest of modes 0..3 and
    7."""
    drawn = [screen_content.best(tile, effort=0) for tile in group]
    at = [i for i, (mode, _) in enumerate(drawn) if mode != screen_content.Mode.CONSTANT]
    bodies: dict[int, bytes] = dict(zip(at, encode([group[i] for i in at]), strict=True)) if at else {}
    units = []
    for i, (tile, (mode, body)) in enumerate(zip(group, drawn, strict=True)):
        deep = bodies.get(i)
        chosen, best = (DEEP, deep) if deep is not None and len(deep) < len(body) else (int(mode), body)
        record = PILC_TILE.write({"mode": chosen, "flips": 0, "check": check_of(tile, first + i)})
        units.append(Unit(CODEC_BYTES, record, best))
    return units


def decode_units(units: Sequence[tuple[int, Unit]], targets: Sequence[Tile]) -> None:
    """The tiles of units, each with its number in the file, into `targets`, uint16.

    FormatError where a tile's samples are not those that were encoded.
    """
    records = [PILC_TILE.read_whole(unit.side_info, where="DATA") for _, unit in units]
    at = [i for i, record in enumerate(records) if record["mode"] == DEEP]
    coded = decode([units[i][1].body for i in at], [targets[i].shape for i in at])
    found = dict(zip(at, coded, strict=True))
    for i, ((number, unit), target, record) in enumerate(zip(units, targets, records, strict=True)):
        tile = found.get(i)
        if tile is None:
            tile = screen_content.decode(record["mode"], unit.body, target.shape, np.uint16)
        flips = record["flips"]
        target[:] = tile[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]
        if (check := check_of(target, number)) != record["check"]:
            raise FormatError(
                f"tile {number} decodes to samples of check {check:08x}, the file says "
                f"{record['check']:08x}: damaged, or not in its place",
                chunk="DATA",
            )

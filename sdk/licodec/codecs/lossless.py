"""pilc: lossless coding on nested lattices, exact from end to end.

After PILC (Kang, Qiu, Zhang, Li, Xia, CVPR 2022, arXiv 2206.05279), with another order of samples: the
passes of `lattices`.

A pass has an integer net of two layers. What it gives for a sample is a prediction in quarters of a
level and the scale of its error; both choose the table with which the lanes of `licodec.entropy.lanes` code
the sample's difference from the prediction, mod 256. All sums are integers below 2^24 (some of them in units
of 1/64), which float32 holds exactly in whatever order they are added. So matrices are multiplied in float32
and every machine gets the same numbers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lic_format.container import CODEC_BYTES, LANES, LicFile, Part, Unit
from lic_format.errors import FormatError, WeightsError
from lic_format.fields import read_varint, write_varint
from lic_format.header import Head, Order
from licodec import compiled
from licodec.codecs import deep, linear_lattice, screen_content, threeway
from licodec.codecs.contract import USUAL, Coded, LosslessWish, Shared, Stages, Timer
from licodec.codecs.lattices import (
    NAMES,
    NOTHING,
    PASSES,
    Bytes,
    Known,
    Lattice,
    Look,
    Pass,
    Request,
    inputs,
    passes,
    places,
    requests,
    walked,
)
from licodec.codecs.lossless_adaptation import (
    CLASSES,
    OFFSET_MAX,
    STEP,
    Adaptation,
    Correction,
    Group,
    groups,
    near,
    read,
    write,
)
from licodec.codecs.registry import (
    CODECS,
    DEEP_LAYOUT,
    LANE_MODES,
    LATTICE,
    LATTICE0,
    PILC_DEEP_SIDE_INFO,
    PILC_SIDE_INFO,
    PILC_TILE,
    THREEWAY,
    Area,
    tile_exponents,
    tiles,
)
from licodec.codecs.screen_content import Tile
from licodec.codecs.window import Window
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import ESCAPE, PRECISION, TOTAL
from licodec.images import Picture
from licodec.store.weights import Weights
from licodec.threads import Team, one_at_a_time, products_on_one_thread, wanted

if TYPE_CHECKING:
    from licodec.codecs.lossless_compiled import CompiledNets
    from licodec.codecs.lossless_compiled import Looking as CompiledLooking

Floats = npt.NDArray[np.float32]
"""Integers, held as float32."""
T = TypeVar("T")
R = TypeVar("R")

# --- Nets ---------------------------------------------------------------------------------------------------

UNITS_MAX: Final = 64
"""In a layer of a net."""
LINEAR_UNIT: Final = 512
WEIGHT_UNIT: Final = 64
INPUT_MAX: Final = 510
"""Of the difference between two samples of R - G."""
HIDDEN_MAX: Final = 32767
SUM_LIMIT: Final = 1 << 24
WEIGHT_MAX: Final = 32767
"""So that two products at a time are added as processors do it for 16 bits."""
ACTIVITIES: Final = 4096
FINE_SCALES: Final = 24
"""Scales whose tables also depend on the quarter of a level that the prediction falls into."""
COARSE_SCALES: Final = 24
BASE_TABLE: Final = 4 * FINE_SCALES + COARSE_SCALES
"""The table of differences between neighbours in a base lattice of G; R - G and B - G have the next ones."""
TABLES: Final = BASE_TABLE + 3
SCALES: Final = FINE_SCALES + COARSE_SCALES


@dataclass(frozen=True, eq=False)
class Net:
    """The integers of one net, as the matrices that samples are multiplied by.

    first: [1 + a, k + 1], the linear prediction in 1/512 and the first layer in 1/64; the last column
        meets 1.
    second: [b, a + 1] in 1/64 of the first layer's unit, so that what comes out is floored to that unit.
    third: [2, b + 1], in 1/4096: what is added to the prediction, and the activity.
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
    for place in places(step.seen):
        np.subtract(own.at(place, part, w), mean, out=maps[row])
        row += 1
    for lattice in earlier:
        centre = lattice.at((step.target, 0, 0), part, w)
        for place in places(step.around):
            np.subtract(lattice.at(place, part, w), centre, out=maps[row])
            row += 1


Nets = Mapping[Group, Net]


def tables_by_activity(scales: Bytes, offset: int) -> Bytes:
    """The table of an activity and a quarter, [4096 x 4], where scales are to be so many steps larger.

    scales: [4096], of an activity.
    """
    scale = np.clip(scales.astype(np.int64) + offset, 0, SCALES - 1)[:, None]
    fine, coarse = 4 * scale + np.arange(4), 3 * FINE_SCALES + scale
    out: npt.NDArray[Any] = np.where(scale < FINE_SCALES, fine, coarse)
    return out.astype(np.uint8).reshape(-1)


def scales_by_activity(scales: Bytes) -> Bytes:
    """4 scale + quarter, [4096 x 4]: what encoders count before they choose offsets."""
    out: npt.NDArray[Any] = 4 * scales[:, None].astype(np.int64) + np.arange(4)
    return out.astype(np.uint8).reshape(-1)


def corrected(net: Net, group: Group, correction: Correction) -> Net:
    """The net with another linear prediction; FormatError where its sums could leave float32's integers."""
    row = net.first[0].astype(np.int64)
    row[near(*group[1:])] += STEP * correction.astype(np.int64)
    magnitudes = np.abs(row[:-1])
    if magnitudes.max() > WEIGHT_MAX or magnitudes.sum() * INPUT_MAX + abs(row[-1]) >= SUM_LIMIT:
        raise FormatError("adaptation: a correction takes the linear prediction past 2^24", chunk="DATA")
    first = net.first.copy()
    first[0] = row
    return Net(first, net.second, net.third)


class Layers(NamedTuple):
    """What a net makes of some rows of a pass, n samples in all.

    x: [k + 1, n], the inputs and 1. mean: [rows, w], of the nearest four. linear: [n], in 1/512. correction,
    activity: int32 [n], in 1/4096.
    """

    x: Floats
    mean: Floats
    linear: Floats
    correction: npt.NDArray[np.int32]
    activity: npt.NDArray[np.int32]


def run(
    net: Net, step: Pass, own: Lattice, earlier: Sequence[Lattice], part: slice, w: int, scratch: Scratch
) -> Layers:
    """Run a net over rows of a pass, w samples each. What it returns lies in `scratch`."""
    h, k = part.stop - part.start, inputs(len(earlier), step)
    n = h * w
    x = scratch.take("inputs", k + 1, n)
    mean = scratch.take("mean", h, w)
    fill_inputs(x.reshape(k + 1, h, w), mean, step, own, earlier, part)
    x[k] = 1
    one = scratch.take("first", len(net.first) + 1, n)
    np.matmul(net.first, x, out=one[:-1])
    np.clip(one[1:-1], 0, HIDDEN_MAX, out=one[1:-1])
    one[-1] = 1
    two = scratch.take("second", len(net.second) + 1, n)
    np.matmul(net.second, one[1:], out=two[:-1])
    np.floor(two[:-1], out=two[:-1])
    np.clip(two[:-1], 0, HIDDEN_MAX, out=two[:-1])
    two[-1] = 1
    three = scratch.take("third", 2, n)
    np.matmul(net.third, two, out=three)
    correction, activity = three.astype(np.int32)
    return Layers(x, mean, one[0], correction, activity)


def quarters_of(linear: npt.NDArray[np.int32], correction: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Predictions in quarters of a level: (linear / 512 + correction / 4096) 4, and what rounds them."""
    out = correction >> 3
    out += linear
    out += 64 + 2 * 128
    out >>= 7
    return out


def table_places(quarters: npt.NDArray[np.int32], activity: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Where the table of a sample stands among [4096 x 4]."""
    places = activity >> 6
    np.clip(places, 0, ACTIVITIES - 1, out=places)
    places <<= 2
    places += quarters & 3
    return places


@dataclass(frozen=True, eq=False)
class Seen:
    """What a net makes of n samples of a known pass, as whole numbers.

    x: [near, n], the inputs whose weights can be corrected. wanted: [n], the samples less the mean of the
    nearest four. linear: [n], in 1/512. correction, activity: [n], in 1/4096.
    """

    x: npt.NDArray[np.float64]
    wanted: npt.NDArray[np.int32]
    linear: npt.NDArray[np.int32]
    correction: npt.NDArray[np.int32]
    activity: npt.NDArray[np.int32]

    def moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Sums of x x^T [near, near] and of x times the errors [near], weighed by the scales that the net
        expects: whole numbers below 2^53, exact in any order."""
        activity = np.clip(self.activity >> 6, 0, ACTIVITIES - 1).astype(np.int64) + 20
        errors = (self.wanted.astype(np.int64) << 12) - (self.linear << 3) - self.correction
        errors = np.clip(errors, -192 * activity, 192 * activity)
        weighed = self.x * ((1 << 20) // activity**2)
        return weighed @ self.x.T, weighed @ errors

    def gain(self, correction: Correction, table_of: Bytes, costs: npt.NDArray[np.float64]) -> float:
        """How much less the symbols cost with a correction; costs: whole numbers [tables, 256]."""

        def cost(linear: npt.NDArray[np.int32]) -> float:
            quarters = quarters_of(linear, self.correction)
            tables = table_of[table_places(quarters, self.activity)]
            return float(costs[tables, (self.wanted - (quarters >> 2)) & 255].sum())

        added = (STEP * correction.astype(np.float64)) @ self.x
        return cost(self.linear) - cost(self.linear + added.astype(np.int32))


@dataclass(frozen=True, eq=False)
class Looking:
    """The nets of all passes, and for each the table by activity and quarter, [4096 x 4]: a `Look` of
    lattices of float32. Not for several threads at once."""

    nets: Nets
    tables_of: Mapping[Group, Bytes]
    scratch: Scratch

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Bytes,
        table: Bytes,
    ) -> None:
        group = min(level, 1), len(earlier), step.name
        net, table_of = self.nets[group], self.tables_of[group]
        h, w = prediction.shape
        rows = max(1, AT_ONCE // w)
        for top in range(0, h, rows):
            part = slice(top, min(top + rows, h))
            seen = run(net, step, own, earlier, part, w, self.scratch)
            quarters = quarters_of(seen.linear.astype(np.int32), seen.correction).reshape(-1, w)
            places = table_places(quarters, seen.activity.reshape(-1, w))
            np.take(table_of, places, out=table[part], mode="clip")
            quarters >>= 2
            np.add(quarters, seen.mean, out=quarters, casting="unsafe")
            if earlier:
                beside = earlier[0].at((step.target, 0, 0), part, w)
                np.add(quarters, beside, out=quarters, casting="unsafe")
            np.clip(quarters, 0, 255, out=prediction[part], casting="unsafe")

    def see(self, step: Pass, own: Lattice, earlier: Sequence[Lattice], parts: Sequence[slice]) -> Seen:
        """What the net of a pass of the finest lattice makes of some of its rows."""
        group = 0, len(earlier), step.name
        _, w = own.size(step.target)
        found = []
        for part in parts:
            layers = run(self.nets[group], step, own, earlier, part, w, self.scratch)
            wanted = own.at((step.target, 0, 0), part, w) - layers.mean
            x = layers.x[near(*group[1:])].astype(np.float64)
            linear = layers.linear.astype(np.int32)
            found.append((x, wanted.reshape(-1).astype(np.int32), linear, layers.correction, layers.activity))
        return Seen(*(np.concatenate(each, axis=-1) for each in zip(*found, strict=True)))


# --- A tile -------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """What a tile's stream holds at a time. group: None in a base lattice. symbols, tables: [n]."""

    group: Group | None
    symbols: Bytes
    tables: Bytes


Stream = list[Stage]


def streams_of(
    tiles: Sequence[Tile], looks: Sequence[Look], dtype: npt.DTypeLike = np.float32
) -> list[Stream]:
    """What an encoder writes of several tiles; `dtype` is of the lattices that `looks` see."""
    return [stream_of(Known.of(tile, dtype), look) for tile, look in zip(tiles, looks, strict=True)]


def stream_of(tile: Known, look: Look) -> Stream:
    """What an encoder writes of a tile."""
    stream = []
    for request, samples in requests(tile, look, BASE_TABLE):
        name = None if request.phase is None else NAMES[request.phase]
        group = None if name is None else (min(request.level, 1), request.plane, name)
        stream.append(Stage(group, request.symbols_of(samples), request.table.reshape(-1)))
    return stream


# --- What suits a tile --------------------------------------------------------------------------------------

FITTED: Final = 4096
"""Samples of a pass, about, that its linear prediction is fitted to."""
STRIP: Final = 4
"""Rows of a pass that are taken together for that."""
COST_UNIT: Final = 256
"""Of costs, a bit: whole numbers, so that sums are the same in any order."""


class Costs:
    """What symbols cost under a set of tables, in 1/256 bit.

    of_tables: [tables, 256]. of_offsets: int16 [4 x 48 x 256, 7], of a symbol at a scale and a quarter, by
    offset.
    """

    def __init__(self, tables: LaneTables) -> None:
        frequencies = tables.frequencies.astype(np.float64)
        escape = 8 - np.log2(np.maximum(frequencies[:, ESCAPE, None], 1) / TOTAL)
        coded = frequencies > 0
        coded[:, ESCAPE] &= tables.full
        costs = np.where(coded, -np.log2(np.maximum(frequencies, 1) / TOTAL), escape)
        self.of_tables: npt.NDArray[np.float64] = np.rint(costs * COST_UNIT)
        by_scale = [
            self.of_tables[tables_by_activity(np.arange(SCALES, dtype=np.uint8), offset)].reshape(-1)
            for offset in range(-OFFSET_MAX, OFFSET_MAX + 1)
        ]
        self.of_offsets = np.stack(by_scale, axis=1).astype(np.int16)


def offset_of(stage: Sequence[Stage], costs: Costs, *, compiled: bool = False) -> int:
    """By how many scales the stages of a group, whose tables are 4 scale + quarter, are coded best. Judged on
    a part of long ones."""
    step = max(1, sum(symbols.size for _, symbols, _ in stage) // FITTED)
    parts = [(scales[::step], symbols[::step]) for _, symbols, scales in stage]
    if compiled:
        from licodec.codecs.lossless_compiled import totals_of

        totals = sum(totals_of(*part, costs.of_offsets) for part in parts)
    else:
        places = np.concatenate([scales.astype(np.intp) << 8 | symbols for scales, symbols in parts])
        totals = costs.of_offsets.take(places, axis=0).sum(axis=0)
    best = int(totals.argmin())
    return best - OFFSET_MAX if totals[best] < totals[OFFSET_MAX] else 0


def renamed(tables: Bytes, names: Bytes, *, compiled: bool = False) -> Bytes:
    """names[tables]."""
    if compiled:
        from licodec.codecs.lossless_compiled import renamed as renamed_at_once

        out: Bytes = renamed_at_once(tables, names)
        return out
    return names.take(tables)


def rows_to_fit(height: int, width: int) -> list[slice]:
    """Strips of rows of a pass, spread over it."""
    strips = max(1, min(FITTED // (STRIP * width), height // STRIP))
    tops = [max(0, (2 * number + 1) * (height - STRIP) // (2 * strips)) for number in range(strips)]
    return [slice(top, min(top + STRIP, height)) for top in tops]


def correction_of(
    net: Net, group: Group, seen: Seen, table_of: Bytes, costs: Costs, samples: int
) -> Correction | None:
    """What to add to a net's linear prediction in a pass of so many samples, where that pays for its bytes:
    least squares of the errors on what was seen, weighed by the scales that the net expects."""
    k, count = seen.x.shape
    gram, moment = seen.moments()
    gram += (np.trace(gram) / k * 1e-4 + 1) * np.eye(k)
    correction = np.clip(np.rint(np.linalg.solve(gram, moment) / (8 * STEP)), -127, 127).astype(np.int8)
    try:
        corrected(net, group, correction)
    except FormatError:
        return None

    gain = seen.gain(correction, table_of, costs.of_tables) / COST_UNIT
    # A fit of k numbers seems to gain k / 2 nats on what it was fitted to, and loses them elsewhere.
    return correction if (gain - k / np.log(2)) * samples / count > 8 * k else None


# --- Tiles and files ----------------------------------------------------------------------------------------

NO_TIMER: Final = Timer(None)
TOGETHER: Final = 8
"""Tiles that are coded in lockstep."""
WORTH_COMPILING: Final = 4 << 20
"""Samples that a model codes in NumPy before it turns to compiled loops: these take half a second to load, in
which NumPy codes some four million."""


CODED: Final = {"lattice": LATTICE, "lattice0": LATTICE0, "threeway": THREEWAY}
"""Tile modes for photographs."""
NAMED: Final = {mode: name for name, mode in CODED.items()}
LADDER: Final = ((LATTICE0,), (LATTICE,), (LATTICE, LATTICE0, THREEWAY))
"""Those of little, usual and the highest effort."""
WITH_NETS, EVERYTHING = 4, 9
"""The least efforts of the latter two."""
SEEN_LINES: Final = 32
"""Rows and columns of a tile, about, that say which flips suit it."""
SMALL: Final = 4096
"""Pixels of tiles that are coded in every way."""
CLOSE: Final = 1.25
"""Drawn tiles that a first try leaves so many times larger than the best way are not tried any harder."""


class Plan(NamedTuple):
    """How tiles are coded.

    modes: those tried for photographs. drawn: effort for tiles that seem drawn, see `screen_content.best`.
    all_flips: whether all four are tried, or the likeliest alone.
    """

    modes: tuple[int, ...]
    drawn: int
    all_flips: bool
    more: Plan | None = None
    """For small tiles, which cost no time."""


def build(weights: Weights, device: str, *, exact: str = "auto") -> Lossless:
    """The model of a weights file. On a CUDA device it runs where Triton is installed and after a trial only,
    else on the CPU; there is one exact path, and the bytes are the same.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds.
    """
    if device.startswith("cuda") and importlib.util.find_spec("triton"):
        from licodec.codecs import lossless_cuda

        return lossless_cuda.on_device(weights, device)
    return Lossless(weights)


class Lossless:
    """Loaded nets and tables. Immutable; safe in several threads."""

    together = TOGETHER

    def __init__(self, weights: Weights) -> None:
        read = _Integers(weights)
        self.tables = LaneTables(read("frequencies", (TABLES, 256), 0, 1 << PRECISION))
        self.scales = read("scales", (ACTIVITIES,), 0, SCALES - 1).astype(np.uint8)
        self.nets: Nets = {
            (which, plane, step.name): _net(read, f"{which}.{plane}.{step.name}", inputs(plane, step))
            for which in range(CLASSES)
            for plane in range(3)
            for step in PASSES
        }
        self.threeway = threeway.load(read)
        self._path = weights.path

        self.costs = Costs(self.tables)
        offsets = range(-OFFSET_MAX, OFFSET_MAX + 1)
        self._tables_of = {offset: tables_by_activity(self.scales, offset) for offset in offsets}
        every_scale = np.arange(SCALES, dtype=np.uint8)
        self._tables_of_scale = {offset: tables_by_activity(every_scale, offset) for offset in offsets}
        self._compiled: CompiledNets | None = None
        self._coded = 0

    # How

    @property
    def compiled(self) -> bool:
        """Whether compiled loops are at work."""
        return self._compiled is not None

    def compile(self) -> None:
        """From now on use compiled loops, where numba is installed."""
        if self._compiled is None and compiled.here():
            from licodec.codecs import lossless_compiled

            self._compiled = lossless_compiled.nets_of(self.nets)

    @property
    def dtype(self) -> npt.DTypeLike:
        """Of the lattices that `look` sees."""
        return np.float32 if self._compiled is None else np.int16

    def look(
        self, tables_of: Mapping[Group, Bytes], adaptation: Adaptation, scratch: Scratch
    ) -> Looking | CompiledLooking:
        """What predicts the passes of a tile. Those of one `scratch` are for one thread."""
        nets = {
            group: corrected(self.nets[group], group, correction)
            for group, correction in adaptation.corrections.items()
        }
        if self._compiled is not None:
            return self._compiled.looking(nets, tables_of)
        return Looking({**self.nets, **nets}, tables_of, scratch)

    def tables_of(self, adaptation: Adaptation) -> dict[Group, Bytes]:
        """By activity and quarter, of each group of a tile."""
        return {group: self._tables_of[adaptation.offsets.get(group, 0)] for group in groups(3)}

    def _over_groups(self, work: Callable[[Sequence[T]], R], items: Sequence[T], samples: int) -> Iterator[R]:
        """Do work for groups of tiles. Compiled loops hold no lock: one by one, on several threads. NumPy's
        short calls would wait for each other: in lockstep, on one."""
        self._coded += samples
        if self._coded > WORTH_COMPILING:
            self.compile()
        together, count = self.together, 1
        if self._compiled is not None:
            together, count = 1, wanted()
        groups = [items[first : first + together] for first in range(0, len(items), together)]
        with products_on_one_thread():
            if count == 1:
                yield from map(work, groups)
                return
            with Team(count) as team:
                yield from team.map(work, groups)

    # Encoder

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LosslessWish = USUAL,
    ) -> Coded:
        """See `contract.LosslessModel`. Rate and order mean nothing here."""
        columns, rows = tile_exponents(picture.width, picture.height)
        places = tiles(picture.width, picture.height, columns, rows)
        fields = {"layout": 1, "columns": columns, "rows": rows, "digest": wish.digest}
        planes, table = picture.planes, PILC_SIDE_INFO
        if picture.depth == deep.DEPTH:
            stored = deep.Stored.of(planes)
            planes, table = stored.taken(planes), PILC_DEEP_SIDE_INFO
            fields |= {"layout": DEEP_LAYOUT} | dataclasses.asdict(stored)
        timer, plan = Timer(stages), self._plan(wish)

        def encoded(group: Sequence[tuple[int, Area]]) -> list[Unit]:
            parts, first = [np.ascontiguousarray(planes[place]) for _, place in group], group[0][0]
            if planes.dtype == np.uint16:
                return deep.encode_units(parts, first)
            return self._encode_tiles(parts, first, plan, timer)

        work = list(enumerate(places))
        units = [unit for group in self._over_groups(encoded, work, planes.size) for unit in group]
        return Coded(
            {"rate": 0, "order": Order.ONE_STEP, "side_info": table.write(fields)},
            tuple(units),
        )

    def _plan(self, wish: LosslessWish) -> Plan:
        """Which ways are tried."""
        effort = wish.effort
        modes = LADDER[0] if effort < WITH_NETS else LADDER[1] if effort < EVERYTHING else LADDER[2]
        chosen = modes if wish.modes is None else tuple(CODED[name] for name in sorted(wish.modes))
        if self.threeway is None and wish.modes is None:
            chosen = tuple(mode for mode in chosen if mode != THREEWAY)
        if effort == EVERYTHING:
            return Plan(chosen, screen_content.EFFORT_MAX, True)
        if effort < WITH_NETS:
            return Plan(chosen, 0, False)
        more = None if wish.modes else self._plan(LosslessWish(effort=EVERYTHING))
        return Plan(chosen, 1, False, more)

    def _encode_tiles(self, group: Sequence[Tile], first: int, plan: Plan, timer: Timer) -> list[Unit]:
        """Units of tiles, the first of which has that number."""
        small = [i for i, tile in enumerate(group) if tile.shape[0] * tile.shape[1] <= SMALL]
        large = [i for i in range(len(group)) if i not in small]
        best: dict[int, tuple[int, int, bytes]] = {}
        for members, how in ((large, plan), (small, plan.more or plan)):
            ways = self._smallest([group[i] for i in members], how, timer) if members else []
            best |= dict(zip(members, ways, strict=True))
        units = []
        for i, tile in enumerate(group):
            mode, flips, body = best[i]
            units.append(_unit(mode, flips, check_of(tile, first + i), body))
        return units

    def _smallest(self, group: Sequence[Tile], plan: Plan, timer: Timer) -> list[tuple[int, int, bytes]]:
        """Mode, flips and body of tiles: the smallest of the ways of a plan."""
        with one_at_a_time(), timer("drawn"):
            drawn = [screen_content.best(tile, effort=0) for tile in group]
        best = [(int(mode), 0, body) for mode, body in drawn]
        rest = [i for i, (mode, _) in enumerate(drawn) if mode != screen_content.Mode.CONSTANT]
        with one_at_a_time(), timer("flips"):
            judged = {i: _flips(group[i], compiled=self.compiled) for i in rest}
        coders = {
            LATTICE: lambda tiles: self.encode_lattices(tiles, timer),
            LATTICE0: lambda tiles: linear_lattice.encode_many(tiles, compiled=self.compiled),
            THREEWAY: self.encode_threeway,
        }
        for mode in plan.modes:
            for turned in range(4) if plan.all_flips and mode != THREEWAY else (None,):
                flips = {i: judged[i] if turned is None else turned for i in rest}
                with timer(NAMED[mode]):
                    bodies = coders[mode]([_flipped(group[i], flips[i]) for i in rest])
                for i, body in zip(rest, bodies, strict=True):
                    if len(body) < len(best[i][2]):
                        best[i] = mode, flips[i], body
        with timer("drawn"):
            for i in rest:
                if plan.drawn and len(drawn[i][1]) < CLOSE * len(best[i][2]):
                    mode, body = screen_content.best(group[i], effort=plan.drawn)
                    best[i] = min(best[i], (int(mode), 0, body), key=lambda way: len(way[2]))
        return best

    def encode_lattices(self, group: Sequence[Tile], timer: Timer = NO_TIMER) -> list[bytes]:
        """Bodies of tiles in mode 4."""
        adapted = self.streams(group, timer)
        with timer("lanes"):
            counts = [lanes.lanes_for(tile.size) for tile in group]
            streams = [[(symbols, tables) for _, symbols, tables in stream] for _, stream in adapted]
            coded = lanes.encode_many(streams, self.tables, counts, compiled=self.compiled)
        said = [
            write(adaptation, tile.shape[2]) for tile, (adaptation, _) in zip(group, adapted, strict=True)
        ]
        return [write_varint(len(head)) + head + body for head, body in zip(said, coded, strict=True)]

    def streams(self, tiles: Sequence[Tile], timer: Timer = NO_TIMER) -> list[tuple[Adaptation, Stream]]:
        """What suits each tile, and what its lanes hold."""
        scratch = Scratch()
        scales_of = dict.fromkeys(groups(3), scales_by_activity(self.scales))
        found: list[tuple[dict[Group, Correction], Stream]] = []
        for each in tiles:
            with timer("corrections"):
                tile = Known.of(each, self.dtype)
                corrections = self._corrections(tile.lattices, scratch)
            with timer("networks"):
                look = self.look(scales_of, Adaptation({}, corrections), scratch)
                found.append((corrections, stream_of(tile, look)))
        with nullcontext() if self.compiled else one_at_a_time(), timer("offsets"):
            return [self._adapted(*each) for each in found]

    def _corrections(
        self, lattices: Sequence[Sequence[Lattice]], scratch: Scratch
    ) -> dict[Group, Correction]:
        """Of R - G and B - G, in their finest lattices; for G they gain nothing. lattices: of each plane."""
        if len(lattices) == 1 or not lattices[0]:
            return {}
        planes = [of_plane[0] for of_plane in lattices]
        if planes[0].height * planes[0].width < 2 * FITTED:
            return {}
        look = self.look({}, Adaptation(), scratch)
        out = {}
        for plane in (1, 2):
            for step in PASSES:
                group, (h, w) = (0, plane, step.name), planes[plane].size(step.target)
                if h * w == 0:
                    continue
                seen = look.see(step, planes[plane], planes[:plane], rows_to_fit(h, w))
                found = correction_of(self.nets[group], group, seen, self._tables_of[0], self.costs, h * w)
                if found is not None:
                    out[group] = found
        return out

    def _adapted(self, corrections: Mapping[Group, Correction], stream: Stream) -> tuple[Adaptation, Stream]:
        """Choose offsets, and turn scales into tables."""
        of_group: dict[Group, list[Stage]] = {}
        for stage in stream:
            if stage.group is not None:
                of_group.setdefault(stage.group, []).append(stage)
        how = self.compiled
        offsets = {group: offset_of(each, self.costs, compiled=how) for group, each in of_group.items()}
        out = [
            Stage(group, symbols, renamed(tables, self._tables_of_scale[offsets[group]], compiled=how))
            if group is not None
            else Stage(group, symbols, tables)
            for group, symbols, tables in stream
        ]
        return Adaptation(offsets, corrections), out

    # Decoder

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        """See `contract.Model`. FormatError where a tile's samples are not those that were encoded."""
        head = file.head
        whole = (slice(0, head.height), slice(0, head.width))
        return self._decode_units(head, list(enumerate(file.units)), whole, stages)

    def decode_region(self, part: Part, area: Area, *, stages: Stages | None = None) -> Picture:
        """See `contract.LosslessModel`."""
        return self._decode_units(part.head, part.units, area, stages)

    def _decode_units(
        self, head: Head, units: Sequence[tuple[int, Unit]], area: Area, stages: Stages | None
    ) -> Picture:
        side = CODECS["pilc"].read_side_info(head.side_info)
        stored = deep.Stored(*(side[name] for name in deep.FIELDS)) if head.depth == deep.DEPTH else None
        window = Window(area, head.colour.planes, stored.dtype if stored else np.uint8)
        grid = tiles(head.width, head.height, side["columns"], side["rows"])
        work = [(number, grid[number], unit) for number, unit in units]
        timer = Timer(stages)

        def decoded(group: Sequence[tuple[int, Area, Unit]]) -> None:
            self._decode_tiles(window, group, timer)

        for _ in self._over_groups(decoded, work, window.samples.size):
            pass
        if stored:
            return Picture(stored.spread(window.samples), depth=deep.DEPTH)
        return Picture(window.samples)

    def _decode_tiles(self, window: Window, group: Sequence[tuple[int, Area, Unit]], timer: Timer) -> None:
        targets = [window.room_for(place) for _, place, _ in group]
        if window.samples.dtype == np.uint16:
            deep.decode_units([(number, unit) for number, _, unit in group], targets)
            for (_, place, _), target in zip(group, targets, strict=True):
                window.settle(place, target)
            return
        records = [PILC_TILE.read_whole(unit.side_info, where="DATA") for _, _, unit in group]
        bodies = [unit.body for _, _, unit in group]
        together = {
            LATTICE: lambda bodies, shapes: self.decode_lattices(bodies, shapes, timer),
            LATTICE0: lambda bodies, shapes: linear_lattice.decode_many(bodies, shapes, self.compiled),
            THREEWAY: self.decode_threeway,
        }
        for mode, decode in together.items():
            mine = [i for i, record in enumerate(records) if record["mode"] == mode]
            with timer(NAMED[mode]) if mine else NO_TIMER(""):
                found = decode([bodies[i] for i in mine], [targets[i].shape for i in mine])
            for i, tile in zip(mine, found, strict=True):
                targets[i][:] = _flipped(tile, records[i]["flips"])
        for record, target, body in zip(records, targets, bodies, strict=True):
            if record["mode"] not in together:
                target[:] = screen_content.decode(record["mode"], body, target.shape, np.uint8)
        for (number, place, _), target, record in zip(group, targets, records, strict=True):
            if (check := check_of(target, number)) != record["check"]:
                raise FormatError(
                    f"tile {number} decodes to samples of check {check:08x}, the file says "
                    f"{record['check']:08x}: damaged, or not in its place",
                    chunk="DATA",
                )
            window.settle(place, target)

    def decode_lattices(
        self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]], timer: Timer = NO_TIMER
    ) -> list[Tile]:
        """Tiles of bodies in mode 4, before they are turned back; FormatError where a body can't be one."""
        if not bodies:
            return []
        adapted = [split(body, shape[2]) for body, shape in zip(bodies, shapes, strict=True)]
        decoder = lanes.LaneDecoder([body for _, body in adapted], self.tables, compiled=self.compiled)

        def answer(asked: Sequence[Request | None]) -> Sequence[Bytes]:
            start = time.perf_counter()
            symbols = decoder.get([NOTHING if each is None else each.table.reshape(-1) for each in asked])
            timer.add("lanes", took := time.perf_counter() - start)
            timer.add("networks", -took)
            return [
                NOTHING if each is None else each.samples_from(found)
                for each, found in zip(asked, symbols, strict=True)
            ]

        scratch = Scratch()
        looks = [self.look(self.tables_of(adaptation), adaptation, scratch) for adaptation, _ in adapted]
        walks = [
            passes(shape, look, BASE_TABLE, self.dtype) for shape, look in zip(shapes, looks, strict=True)
        ]
        with timer("networks"):
            done = walked(walks, answer)
        decoder.close()
        return [tile for (tile,) in done]

    def encode_threeway(self, group: Sequence[Tile]) -> list[bytes]:
        """Bodies of tiles in mode 6; WeightsError where the weights have no such system."""
        return self._with_threeway().encode_many(group)

    def decode_threeway(self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> list[Tile]:
        """Tiles of bodies in mode 6; FormatError where a body can't be one, WeightsError where the weights
        have no such system."""
        return list(self._with_threeway().decode_many(bodies, shapes)) if bodies else []

    def _with_threeway(self) -> threeway.Threeway:
        if self.threeway is None:
            raise WeightsError(
                f"{self._path}: no tensors {threeway.PREFIX!r}..., which tiles of mode {THREEWAY} need"
            )
        return self.threeway


def split(body: bytes | memoryview, planes: int) -> tuple[Adaptation, memoryview]:
    """A body of mode 4: what the tile says of itself, and its lanes."""
    count, at = read_varint(body, 0)
    view = memoryview(body)
    if count > len(view) - at:
        raise FormatError(
            f"adaptation: {count} bytes are announced, {len(view) - at} are there", chunk="DATA"
        )
    return read(view[at : at + count], planes), view[at + count :]


def _unit(mode: int, flips: int, check: int, body: bytes) -> Unit:
    record = PILC_TILE.write({"mode": mode, "flips": flips, "check": check})
    return Unit(LANES if mode in LANE_MODES else CODEC_BYTES, record, body)


def check_of(tile: Tile, number: int) -> int:
    """What a file says of a tile: another thing in every place, so that exchanged tiles are seen."""
    return zlib.crc32(tile.tobytes()) ^ number


def _flipped(tile: Tile, flips: int) -> Tile:
    """Upside down for bit 0, left to right for bit 1; both undo themselves."""
    return tile[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]


def _flips(tile: Tile, *, compiled: bool = False) -> int:
    """Which flips make the samples between lattices smoothest. A side of even length changes its phase so.

    Colour that was once stored at half its resolution is smooth at every second sample: photographs on CD,
    most of JPEG.
    """
    if tile.shape[2] == 1:
        return 0
    part = [max(1, side // SEEN_LINES) for side in tile.shape[:2]]
    colours = (tile[:, :: part[1]], tile[:: part[0]].transpose(1, 0, 2))
    return sum(1 << axis for axis, lines in enumerate(colours) if _even_ones_are_smoother(lines, compiled))


def _even_ones_are_smoother(samples: Tile, compiled: bool) -> bool:
    if len(samples) % 2 or len(samples) < 4:
        return False
    if compiled:
        from licodec.codecs.lossless_compiled import bends_of

        even, odd = bends_of(samples)
        return bool(even < 0.98 * odd)
    lines = samples[:, :, ::2].astype(np.int16) - samples[:, :, 1:2]
    bends = np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).sum(axis=(1, 2), dtype=np.int64)
    odd, even = int(bends[::2].sum()), int(bends[1::2].sum())  # bends[0] is line 1's
    return even < 0.98 * odd


class _Integers:
    """Integer tensors of a weights file, checked; WeightsError names what is wrong."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @property
    def path(self) -> Path:
        return self._weights.path

    def has(self, name: str) -> bool:
        return name in self._weights.tensors

    def __call__(
        self, name: str, shape: tuple[int | None, ...], low: int, high: int
    ) -> npt.NDArray[np.int64]:
        """A tensor; None stands for any length."""
        path, tensors = self._weights.path, self._weights.tensors
        if name not in tensors:
            raise WeightsError(f"{path}: no tensor {name!r}, which pilc needs")
        found, dtype = tensors.shape(name), tensors.dtype(name)
        fits = len(found) == len(shape) and all(b in (a, None) for a, b in zip(found, shape, strict=True))
        if not fits or "float" in dtype:
            raise WeightsError(f"{path}: {name!r} is {dtype} {found}, expected integers {shape}")
        values = tensors.array(name).astype(np.int64)
        if values.min(initial=low) < low or values.max(initial=high) > high:
            raise WeightsError(
                f"{path}: {name!r} holds {values.min()}..{values.max()}, expected {low}..{high}"
            )
        return values

    def matrix(self, name: str, rows: int | None, columns: int, largest_input: int) -> Floats:
        """A layer's weights and, last in each row, its bias, as float32, which holds all its sums exactly."""
        values = self(name, (rows, columns), 1 - SUM_LIMIT, SUM_LIMIT - 1)
        if not 2 <= len(values) <= 1 + UNITS_MAX:
            raise WeightsError(
                f"{self._weights.path}: {name!r} has {len(values)} rows, expected 2..{1 + UNITS_MAX}"
            )
        if (largest := int(np.abs(values[:, :-1]).max())) > WEIGHT_MAX:
            raise WeightsError(
                f"{self._weights.path}: {name!r} has a weight of magnitude {largest}, more than {WEIGHT_MAX}"
            )
        worst = int((np.abs(values[:, :-1]).sum(axis=1) * largest_input + np.abs(values[:, -1])).max())
        if worst >= SUM_LIMIT:
            raise WeightsError(
                f"{self._weights.path}: sums of {name!r} can reach {worst}, the limit is {SUM_LIMIT} (2^24)"
            )
        return values.astype(np.float32)


def _net(read: _Integers, name: str, k: int) -> Net:
    first = read.matrix(f"{name}.first", None, k + 1, INPUT_MAX)
    second = read.matrix(f"{name}.second", None, len(first), HIDDEN_MAX)
    return net_of(first, second, read.matrix(f"{name}.third", 2, len(second) + 1, HIDDEN_MAX))


def net_of(first: npt.NDArray[Any], second: npt.NDArray[Any], third: npt.NDArray[Any]) -> Net:
    """A net of stored integers."""
    return Net(
        first.astype(np.float32),
        second.astype(np.float32) / np.float32(WEIGHT_UNIT),
        third.astype(np.float32),
    )

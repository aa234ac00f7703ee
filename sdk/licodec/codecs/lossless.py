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

import importlib.util
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lic_format.container import CODEC_BYTES, LANES, LicFile, Unit
from lic_format.errors import FormatError, WeightsError
from lic_format.header import Order
from licodec.codecs import screen_content
from licodec.codecs.contract import Coded, Shared, Stages
from licodec.codecs.lattices import (
    NOTHING,
    PASSES,
    Bytes,
    Lattice,
    Pass,
    Request,
    inputs,
    passes,
    places,
    walked,
)
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
CLASSES: Final = 2
"""Nets of the finest lattice, and of all others."""


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


Nets = Mapping[tuple[int, int, str], Net]
"""By class of lattice (0 the finest, 1 others), plane and name of pass."""


@dataclass(frozen=True, eq=False)
class Looking:
    """The nets of all passes, and the table by activity and quarter, [4096 x 4]: a `Look` of lattices of
    float32. Not for several threads at once."""

    nets: Nets
    table_of: Bytes
    scratch: Scratch

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: npt.NDArray[np.int32],
        table: Bytes,
    ) -> None:
        net = self.nets[min(level, 1), len(earlier), step.name]
        h, w = prediction.shape
        rows = max(1, AT_ONCE // w)
        for top in range(0, h, rows):
            part = slice(top, min(top + rows, h))
            self._rows(net, step, own, earlier, part, prediction[part], table[part])

    def _rows(
        self,
        net: Net,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        part: slice,
        prediction: npt.NDArray[np.int32],
        table: Bytes,
    ) -> None:
        h, w = prediction.shape
        n, k = h * w, inputs(len(earlier), step)
        x = self.scratch.take("inputs", k + 1, n)
        mean = self.scratch.take("mean", h, w)
        fill_inputs(x.reshape(k + 1, h, w), mean, step, own, earlier, part)
        x[k] = 1
        one = self.scratch.take("first", len(net.first) + 1, n)
        np.matmul(net.first, x, out=one[:-1])
        np.clip(one[1:-1], 0, HIDDEN_MAX, out=one[1:-1])
        one[-1] = 1
        two = self.scratch.take("second", len(net.second) + 1, n)
        np.matmul(net.second, one[1:], out=two[:-1])
        np.floor(two[:-1], out=two[:-1])
        np.clip(two[:-1], 0, HIDDEN_MAX, out=two[:-1])
        two[-1] = 1
        three = self.scratch.take("third", 2, n)
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
        np.take(self.table_of, activity.reshape(h, w), out=table, mode="clip")
        np.add(correction.reshape(h, w), mean, out=prediction, casting="unsafe")
        if earlier:
            np.add(prediction, earlier[0].at((step.target, 0, 0), part, w), out=prediction, casting="unsafe")
        np.clip(prediction, 0, 255, out=prediction)


# --- A tile -------------------------------------------------------------------------------------------------

Stream = list[tuple[Bytes, Bytes]]
"""Symbols of a tile and the table of each, stage by stage."""


def streams_of(tiles: Sequence[Tile], nets: Nets, table_of: Bytes) -> list[Stream]:
    """What an encoder writes of several tiles."""
    channels = [_channels(tile) for tile in tiles]
    streams: list[Stream] = [[] for _ in tiles]

    def answer(asked: Sequence[Request | None]) -> Sequence[Bytes]:
        out = []
        for request, mine, stream in zip(asked, channels, streams, strict=True):
            samples = NOTHING if request is None else request.samples_of(mine)
            if request is not None:
                stream.append((request.symbols_of(samples), request.table.reshape(-1)))
            out.append(samples)
        return out

    look = Looking(nets, table_of, Scratch())
    walked([passes(tile.shape, look, BASE_TABLE) for tile in tiles], answer)
    return streams


# --- Tiles and files ----------------------------------------------------------------------------------------

TOGETHER: Final = 8
"""Tiles that are coded in lockstep."""


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
            for first in range(0, len(places), self.together):
                group = places[first : first + self.together]
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
            for first in range(0, len(work), self.together):
                self._decode_tiles(out, work[first : first + self.together])
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
            symbols = decoder.get([NOTHING if each is None else each.table.reshape(-1) for each in asked])
            return [
                NOTHING if each is None else each.samples_from(found)
                for each, found in zip(asked, symbols, strict=True)
            ]

        look = Looking(self.nets, self.table_of, Scratch())
        walks = [passes(shape, look, BASE_TABLE) for shape in shapes]
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

    def __call__(
        self, name: str, shape: tuple[int | None, ...], low: int, high: int
    ) -> npt.NDArray[np.int64]:
        """A tensor; None stands for any length."""
        path, tensor = self._weights.path, self._weights.tensors.get(name)
        if tensor is None:
            raise WeightsError(f"{path}: no tensor {name!r}, which pilc needs")
        found = tuple(tensor.shape)
        fits = len(found) == len(shape) and all(b in (a, None) for a, b in zip(found, shape, strict=True))
        if not fits or tensor.dtype.is_floating_point:
            raise WeightsError(f"{path}: {name!r} is {tensor.dtype} {found}, expected integers {shape}")
        values: npt.NDArray[np.int64] = tensor.numpy().astype(np.int64)
        if values.min() < low or values.max() > high:
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

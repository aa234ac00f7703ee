"""Three-way prediction with a VQ-VAE: tile mode 6 of pilc, and the system as it was published.

After PILC (Kang, Qiu, Zhang, Li, Xia, CVPR 2022, arXiv 2206.05279). A sample is predicted from the three
samples that are known of its corner, which touches G, R - G and B - G alike:

    NW  N        planes are bytes mod 256, read as -128..127: G - 128, R - G, B - G
     W  x        outside of the tile they are 0

The residuals are coded with tables that do not depend on samples at all. A VQ-VAE sees the residuals of a
cell of 8 x 8 pixels and says with one index what they look like; an integer net of two layers makes of the
indices a scale and a mean offset for every 2 x 2 samples of each plane. So a decoder reads all indices, then
all residuals in one stage, and only then are samples made of residuals: by cumulative sums, or diagonal by
diagonal.

    1  2  3  4      the samples of one diagonal, in all planes of several tiles, are made at once;
    2  3  4  5      where each diagonal is one piece of memory, that is a few operations on vectors
    3  4  5  6

When not to use it: where size counts. `lattices` predicts from all sides and takes a tenth less.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from lic_format.errors import FormatError, WeightsError
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import PRECISION

Bytes = npt.NDArray[np.uint8]
Signed = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

# --- Prediction ---------------------------------------------------------------------------------------------


class Predictor(IntEnum):
    """What of W, N and NW predicts a sample."""

    SCAN = 0
    """W + N - NW mod 256, which cumulative sums undo."""
    WEIGHTS = 1
    """A sum with weights in 1/256 of each plane."""
    MEDIAN = 2
    """The median of W, N and W + N - NW."""


Q8: Final = 8


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predictor. Planes are int8 [height, width, planes], as many times G, R - G, B - G as there are tiles
    (or G alone); so are residuals, mod 256.

    weights: int32 [3, 3] of W, N, NW (columns) for G, R - G, B - G (rows), in 1/256; for `WEIGHTS` alone.
    """

    kind: Predictor
    weights: npt.NDArray[np.int32]

    def residuals(self, planes: Signed) -> Signed:
        """What the predictions lack."""
        padded = np.pad(planes, ((1, 0), (1, 0), (0, 0)))
        west, north, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
        if self.kind == Predictor.SCAN:
            return planes - west - north + corner
        if self.kind == Predictor.MEDIAN:
            low, high = np.minimum(west, north), np.maximum(west, north)
            return planes - west - north + np.clip(corner, low, high)
        of_west, of_north, of_corner = self._of_planes(planes.shape[2])
        summed = west * of_west + north * of_north + corner * of_corner
        guess = _narrowed(summed)
        guess[0], guess[:, 0] = west[0], north[:, 0]
        guess[0, 0] = 0
        return planes - guess

    def planes(self, residuals: Signed) -> Signed:
        """The inverse of `residuals`."""
        if self.kind == Predictor.SCAN:
            return _running_sums(residuals)
        height, width, count = residuals.shape
        if height > width:  # the shorter side across the diagonals, or the sheared planes might be huge
            weights = self.weights[:, [1, 0, 2]]
            turned = Prediction(self.kind, weights).planes(residuals.transpose(1, 0, 2))
            return np.ascontiguousarray(turned.transpose(1, 0, 2))

        # Row d of `sheared` and row d + 2 of `known` are the diagonal y + x = d, sample y of it at y; of
        # `known` at y + 1, so that there are zeros all around.
        row, diagonals = width + height - 1, width + height - 1
        padded = np.zeros((height, row + 1, count), np.int8)
        padded[:, :width] = residuals
        sheared = as_strided(padded, (diagonals, height, count), (count, row * count, 1))
        given = np.ascontiguousarray(sheared).reshape(diagonals, height * count)
        known = np.zeros((diagonals + 2, (height + 1) * count), np.int8)
        (self._median if self.kind == Predictor.MEDIAN else self._weighted)(given, known, width, count)
        down = (height + 1) * count
        first = known.reshape(-1)[2 * down + count :]
        return np.ascontiguousarray(as_strided(first, (height, width, count), (down + count, down, 1)))

    def _of_planes(self, count: int) -> tuple[npt.NDArray[np.int32], ...]:
        """Weights of W, N, NW for each of so many planes."""
        rows = self.weights[: 1 if count % 3 else 3]
        return tuple(np.tile(column, count // len(rows)).astype(np.int32) for column in rows.T)

    @staticmethod
    def _median(given: Signed, known: Signed, width: int, count: int) -> None:
        """Fill `known` diagonal by diagonal. The median is W + N - (NW between W and N), all mod 256."""
        height = given.shape[1] // count
        low, high = np.empty_like(given[0]), np.empty_like(given[0])
        rows = list(known)
        for d, residuals in enumerate(given):
            first, end = max(0, d - width + 1) * count, min(height, d + 1) * count
            before, corners = rows[d + 1], rows[d][first:end]
            west, north = before[first + count : end + count], before[first:end]
            between, most = low[: end - first], high[: end - first]
            np.minimum(west, north, out=between)
            np.maximum(west, north, out=most)
            np.maximum(between, corners, out=between)
            np.minimum(between, most, out=between)
            out = rows[d + 2][first + count : end + count]
            np.add(west, north, out)
            np.subtract(out, between, out)
            np.add(out, residuals[first:end], out)

    def _weighted(self, given: Signed, known: Signed, width: int, count: int) -> None:
        """Fill `known` diagonal by diagonal."""
        height = given.shape[1] // count
        of_west, of_north, of_corner = (np.tile(each, height) for each in self._of_planes(count))
        total, part = np.empty(given.shape[1], np.int32), np.empty(given.shape[1], np.int32)
        rows = list(known)
        for d, residuals in enumerate(given):
            first, end = max(0, d - width + 1) * count, min(height, d + 1) * count
            before, corners = rows[d + 1], rows[d][first:end]
            west, north = before[first + count : end + count], before[first:end]
            size = end - first
            summed, term = total[:size], part[:size]
            np.multiply(west, of_west[:size], summed)
            summed += np.multiply(north, of_north[:size], term)
            summed += np.multiply(corners, of_corner[:size], term)
            guess = _narrowed(summed)
            if first == 0:
                guess[:count] = west[:count]
            if d < height:
                guess[-count:] = north[-count:] if d else 0
            np.add(guess, residuals[first:end], rows[d + 2][first + count : end + count])


def _running_sums(residuals: Signed) -> Signed:
    """Cumulative sums mod 256, along the rows and down the columns. Column by column and row by row, since
    NumPy's own `cumsum` goes sample by sample and takes ten times as long."""
    out = residuals
    for _ in range(2):
        out = out.transpose(1, 0, 2).copy()
        lines = list(out.reshape(len(out), -1))
        for line, after in pairwise(lines):
            np.add(line, after, after)
    return out


def _narrowed(sums: npt.NDArray[np.int32]) -> Signed:
    """Sums in 1/256 as samples; changes the sums."""
    sums += 1 << (Q8 - 1)
    sums >>= Q8
    np.clip(sums, -128, 127, out=sums)
    return sums.astype(np.int8)


def planes_of(tile: Bytes) -> Signed:
    """G - 128, R - G, B - G mod 256 of a tile [height, width, 3], G - 128 of a grey one: the same shape."""
    out = np.empty(tile.shape, np.uint8)
    if tile.shape[2] == 1:
        np.subtract(tile, np.uint8(128), out=out)
    else:
        green = tile[:, :, 1]
        np.subtract(green, np.uint8(128), out=out[:, :, 0])
        np.subtract(tile[:, :, 0], green, out=out[:, :, 1])
        np.subtract(tile[:, :, 2], green, out=out[:, :, 2])
    return out.view(np.int8)


def tile_of(planes: Signed) -> Bytes:
    """The inverse of `planes_of`."""
    unsigned = planes.view(np.uint8)
    green = unsigned[:, :, 0] + np.uint8(128)
    if planes.shape[2] == 1:
        return green[:, :, None]
    return np.stack([unsigned[:, :, 1] + green, green, unsigned[:, :, 2] + green], axis=2)


# --- Indices ------------------------------------------------------------------------------------------------

CELL: Final = 8
"""Pixels a side that have one index."""
PART: Final = 2
"""Pixels a side that have one scale and one offset in each plane."""
PARTS: Final = CELL // PART
BASE: Final = 4
"""Largest side of the coarsest grid of indices, which have no neighbours."""
STEPS: Final = 8
"""Contexts of an index by each of two features of its neighbours."""
CONTEXTS: Final = STEPS * STEPS
"""Then comes the table of the coarsest grid."""
FEATURE_MAX: Final = 255
SHARED: Final = 12
"""A multiple of 1, 2, 3 and 4: as many neighbours as a cell can have."""
CODES_MAX: Final = 256

Grid = npt.NDArray[np.intp]


class Asked(NamedTuple):
    """Which indices of a grid come next: those `here` among every step-th row and column; their tables."""

    step: int
    here: npt.NDArray[np.bool_]
    tables: Bytes

    def of(self, grid: Grid) -> Bytes:
        return grid[:: self.step, :: self.step][self.here].astype(np.uint8)


Stages = Generator[Asked, Bytes, Grid]


@dataclass(frozen=True, eq=False)
class Contexts:
    """Which table codes an index. features: [K, 2], 0..255; thresholds: [2, 7], ascending."""

    features: Integers
    thresholds: Integers

    def stages(self, rows: int, columns: int) -> Stages:
        """The stages of a grid of indices, rows x columns.

        A generator, one loop for both directions: it yields what it has to be told, is sent the indices in
        raster order, uint8 [n], and returns the grid.

        Raises:
            FormatError: an index beyond the codes.
        """
        grid = np.zeros((rows, columns), np.intp)
        features = np.zeros((2, rows, columns), np.int64)
        step = 1
        while max(-(-rows // step), -(-columns // step)) > BASE:
            step *= 2
        everywhere = np.ones(grid[::step, ::step].shape, np.bool_)
        told = yield Asked(step, everywhere, np.full(everywhere.size, CONTEXTS, np.uint8))
        self._put(grid, features, step, everywhere, told)
        while step > 1:
            step //= 2
            h, w = grid[::step, ::step].shape
            odd_row, odd_column = np.arange(h)[:, None] % 2 == 1, np.arange(w)[None, :] % 2 == 1
            for diagonal, here in ((True, odd_row & odd_column), (False, odd_row != odd_column)):
                if here.any():
                    tables = self._tables(features[:, ::step, ::step], diagonal, here)
                    self._put(grid, features, step, here, (yield Asked(step, here, tables)))
        return grid

    def told(self, grid: Grid) -> list[tuple[Bytes, Bytes]]:
        """Tables and indices of each stage of a grid that is known."""
        out: list[tuple[Bytes, Bytes]] = []

        def answer(asked: Sequence[Asked | None]) -> Sequence[Bytes]:
            (only,) = asked
            assert only is not None
            out.append((only.tables, only.of(grid)))
            return [out[-1][1]]

        _walked([self.stages(*grid.shape)], answer)
        return out

    def _put(
        self,
        grid: Grid,
        features: Integers,
        step: int,
        here: npt.NDArray[np.bool_],
        indices: Bytes,
    ) -> None:
        if indices.size and int(indices.max()) >= len(self.features):
            raise FormatError(
                f"index {indices.max()} of a cell, there are codes 0..{len(self.features) - 1}", chunk="DATA"
            )
        grid[::step, ::step][here] = indices
        for feature, of_code in zip(features, self.features.T, strict=True):
            feature[::step, ::step][here] = of_code[indices]

    def _tables(self, features: Integers, diagonal: bool, here: npt.NDArray[np.bool_]) -> Bytes:
        """By the mean of each feature among four neighbours, or as many of them as there are."""
        h, w = here.shape
        sides = ((0, 0), (0, 2), (2, 0), (2, 2)) if diagonal else ((0, 1), (1, 0), (1, 2), (2, 1))
        present = np.pad(np.ones((h, w), np.int64), 1)
        count = sum(present[y : y + h, x : x + w] for y, x in sides)
        share = SHARED // np.maximum(count, 1)
        out = np.zeros(int(here.sum()), np.int64)
        for feature, thresholds in zip(features, self.thresholds, strict=True):
            padded = np.pad(feature, 1)
            total = sum(padded[y : y + h, x : x + w] for y, x in sides) * share
            out = out * STEPS + np.searchsorted(thresholds, total[here], side="right")
        return out.astype(np.uint8)


# --- Networks -----------------------------------------------------------------------------------------------

SUM_LIMIT: Final = 1 << 24
CODE_MAX: Final = 127
CODE_UNIT: Final = 32
WEIGHT_UNIT: Final = 64
HIDDEN_MAX: Final = 4095
HIDDEN_UNITS_MAX: Final = 256
CODE_LENGTH_MAX: Final = 64
SCALES: Final = 48
OFFSETS: Final = -8, 7
OUTPUTS: Final = PARTS * PARTS * 3


@dataclass(frozen=True, eq=False)
class Decoder:
    """The integer net that makes scales and offsets of indices, as integers in float32.

    codes: [K, d] in 1/32. first: [a, 9 d + 1] in 1/64, of the 3 x 3 cells around; the last column meets 1.
    second: [96, a + 1] in 1/64: scales, then offsets, by row, column and plane of a part.
    """

    codes: Floats
    first: Floats
    second: Floats

    def __call__(self, indices: Grid) -> tuple[Bytes, Signed]:
        """Scale 0..47 and offset -8..7 of the parts: uint8 and int8 [4 rows, 4 columns, 3]."""
        rows, columns = indices.shape
        out = self.outputs(self.inputs(indices) @ self.first.T, self.second)
        scales = np.clip(out[:, :OUTPUTS], 0, SCALES - 1).astype(np.uint8)
        offsets = np.clip(out[:, OUTPUTS:], *OFFSETS).astype(np.int8)
        return _arranged(scales, rows, columns), _arranged(offsets, rows, columns)

    def inputs(self, indices: Grid) -> Floats:
        """What the first layer sees of each cell, [cells, 9 d + 1]."""
        rows, columns = indices.shape
        codes = np.pad(self.codes[indices], ((1, 1), (1, 1), (0, 0)), mode="edge")
        length = codes.shape[2]
        x = np.empty((rows, columns, 9 * length + 1), np.float32)
        for at in range(9):
            y, z = divmod(at, 3)
            x[:, :, at * length : (at + 1) * length] = codes[y : y + rows, z : z + columns]
        x[:, :, -1] = 1
        return x.reshape(rows * columns, -1)

    @staticmethod
    def outputs(sums: Floats, second: Floats) -> Floats:
        """From sums of the first layer, [cells, a], to rows of the second one: integers [cells, rows]."""
        hidden = np.empty((len(sums), second.shape[1]), np.float32)
        np.floor(sums * np.float32(1 / CODE_UNIT), out=hidden[:, :-1])
        np.clip(hidden[:, :-1], 0, HIDDEN_MAX, out=hidden[:, :-1])
        hidden[:, -1] = 1
        out: Floats = hidden @ second.T
        out *= 1 / WEIGHT_UNIT**2
        return np.floor(out, out=out)


def _arranged(of_cells: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    parts = of_cells.reshape(rows, columns, PARTS, PARTS, 3).transpose(0, 2, 1, 3, 4)
    return parts.reshape(rows * PARTS, columns * PARTS, 3)


def spread(parts: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """What stands for the parts, as samples [height, width, planes]."""
    height, width, planes = shape
    rows, columns = parts.shape[:2]
    out = np.empty((rows, PART, columns, PART, planes), parts.dtype)
    out[:] = parts[:, None, :, None, :planes]
    return out.reshape(rows * PART, columns * PART, planes)[:height, :width]


ENCODER_UNIT: Final = 1024
PRICE: Final = 0.02
"""Squared distance that a bit of an index is worth."""
CANDIDATES: Final = 4
"""Nearest codes among which an encoder takes the one that makes a cell smallest."""
INPUTS: Final = OUTPUTS + 12
ENCODER_LAYERS: Final = 3


@dataclass(frozen=True, eq=False)
class Encoder:
    """The net that says what a cell looks like. Any index decodes, so floating point is enough.

    layers: matrices [out, in + 1], the last column is added, ReLU between them. codes: [K, d], as the decoder
    has them but not in 1/32. prices: [K], added to the squared distance.
    """

    layers: tuple[Floats, ...]
    codes: Floats
    prices: Floats

    def __call__(self, x: Floats) -> Floats:
        """Inputs of cells, [n, 60], as the costs of all codes, [n, K]."""
        for number, layer in enumerate(self.layers):
            x = x @ layer[:, :-1].T + layer[:, -1]
            if number < len(self.layers) - 1:
                np.maximum(x, 0, out=x)
        costs: Floats = x @ (-2 * self.codes.T)
        costs += (self.codes**2).sum(axis=1) + self.prices
        return costs


def inputs_of(residuals: Signed) -> tuple[Floats, int, int]:
    """What the encoder sees of each cell, [cells, 60], and how many rows and columns of cells there are.

    The logarithms of the magnitudes of the parts, and which of their signs prevails in quarters of a cell.
    """
    height, width, planes = residuals.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    edges = (0, rows * CELL - height), (0, columns * CELL - width), (0, 0)
    padded = np.pad(residuals, edges, mode="edge").astype(np.int16)
    parts = padded.reshape(rows * PARTS, PART, columns * PARTS, PART, planes)
    sizes = np.abs(parts)
    sizes = sizes[:, 0] + sizes[:, 1]
    sizes = sizes[:, :, 0] + sizes[:, :, 1]
    signs = parts[:, 0] + parts[:, 1]
    signs = signs[:, :, 0] + signs[:, :, 1]

    def quarters(of_parts: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        four = of_parts.reshape(rows * 2, 2, columns * 2, 2, planes)
        four = four[:, 0] + four[:, 1]
        four = four[:, :, 0] + four[:, :, 1]
        return four.reshape(rows, 2, columns, 2, planes).transpose(0, 2, 1, 3, 4).reshape(-1, 4, planes)

    of_cells = sizes.reshape(rows, PARTS, columns, PARTS, planes).transpose(0, 2, 1, 3, 4)
    x = np.full((rows * columns, INPUTS), -1, np.float32)  # log2(0.5), of planes that are not there
    logs = x[:, :OUTPUTS].reshape(-1, PARTS * PARTS, 3)
    logs[:, :, :planes] = np.log2(of_cells.reshape(-1, PARTS * PARTS, planes) + np.float32(0.5))
    ways = x[:, OUTPUTS:].reshape(-1, 4, 3)
    ways[:] = 0
    ways[:, :, :planes] = quarters(signs) / (quarters(sizes) + np.float32(4))
    return x, rows, columns


# --- A tile -------------------------------------------------------------------------------------------------


class Reader(Protocol):
    """Integer tensors of a weights file; WeightsError where one is missing or not as asked for."""

    @property
    def path(self) -> Path: ...

    def has(self, name: str) -> bool: ...

    def __call__(self, name: str, shape: tuple[int | None, ...], low: int, high: int) -> Integers: ...


PREFIX: Final = "threeway."


@dataclass(frozen=True, eq=False)
class Threeway:
    """Loaded weights. Immutable; safe in several threads.

    tables: which lane table codes a residual, [planes, scales].
    lengths: for encoders, bits of a part of some scale and plane, [2, scales, planes]: those of four
        residuals of 0, and those of each 1 in the sum of their magnitudes.
    """

    prediction: Prediction
    contexts: Contexts
    decoder: Decoder
    encoder: Encoder
    tables: Bytes
    lane_tables: LaneTables
    lengths: Floats

    def nearest(self, residuals: Signed) -> Grid:
        """What the encoder says of the cells of a tile."""
        x, rows, columns = inputs_of(residuals)
        grid: Grid = self.encoder(x).argmin(axis=1).reshape(rows, columns)
        return grid

    def indices_of(self, residuals: Signed) -> Grid:
        """Of the nearest codes of each cell the one with which it has fewest bits, where those around are the
        nearest ones."""
        x, rows, columns = inputs_of(residuals)
        planes, costs = residuals.shape[2], self.encoder(x)
        nearest: Grid = costs.argmin(axis=1)
        count = min(CANDIDATES, costs.shape[1])
        candidates = np.argpartition(costs, count - 1, axis=1)[:, :count]

        length = self.decoder.codes.shape[1]
        own = slice(4 * length, 5 * length)
        around = self.decoder.inputs(nearest.reshape(rows, columns))
        around[:, own] = 0
        sums = around @ self.decoder.first.T
        of_code = self.decoder.codes @ self.decoder.first[:, own].T
        sizes = np.exp2(x[:, :OUTPUTS]) - np.float32(0.5)
        bits = np.empty((count, len(x)), np.float32)
        for each, chosen in zip(bits, candidates.T, strict=True):
            scales = self.decoder.outputs(sums + of_code[chosen], self.decoder.second[:OUTPUTS])
            place = np.clip(scales, 0, SCALES - 1).astype(np.intp) * 3 + np.arange(OUTPUTS) % 3
            of_parts = np.take(self.lengths[0], place) + np.take(self.lengths[1], place) * sizes
            of_planes = of_parts.reshape(-1, PARTS * PARTS, 3)[:, :, :planes]
            each[:] = of_planes.sum(axis=(1, 2)) + self.encoder.prices[chosen] / PRICE
        best = bits.argmin(axis=0)
        grid: Grid = candidates[np.arange(len(x)), best].reshape(rows, columns)
        return grid

    def stream_of(self, residuals: Signed, indices: Grid) -> list[tuple[Bytes, Bytes]]:
        """Symbols and tables of a tile, stage by stage."""
        stream = [(symbols, tables) for tables, symbols in self.contexts.told(indices)]
        tables, offsets = self.maps(indices, residuals.shape)
        stream.append(((residuals - offsets).view(np.uint8).reshape(-1), tables.reshape(-1)))
        return stream

    def maps(self, indices: Grid, shape: tuple[int, ...]) -> tuple[Bytes, Signed]:
        """Lane table and offset of every sample, [height, width, planes]."""
        scales, offsets = self.decoder(indices)
        tables = np.empty_like(scales)
        for plane, of_plane in enumerate(self.tables):
            tables[:, :, plane] = of_plane[scales[:, :, plane]]
        return spread(tables, shape), spread(offsets, shape)

    def encode_many(self, tiles: Sequence[Bytes]) -> list[bytes]:
        """Bodies of tiles, uint8 [height, width, 1 or 3]."""
        streams = []
        for tile in tiles:
            residuals = self.prediction.residuals(planes_of(tile))
            streams.append(self.stream_of(residuals, self.indices_of(residuals)))
        counts = [lanes.lanes_for(tile.size) for tile in tiles]
        return lanes.encode_many(streams, self.lane_tables, counts)

    def decode_many(self, bodies: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> list[Bytes]:
        """The tiles; FormatError where a body can't be one."""
        if not bodies:
            return []
        decoder = lanes.LaneDecoder(bodies, self.lane_tables)
        walks = [self.contexts.stages(-(-shape[0] // CELL), -(-shape[1] // CELL)) for shape in shapes]

        def answer(asked: Sequence[Asked | None]) -> Sequence[Bytes]:
            return decoder.get([NOTHING if each is None else each.tables for each in asked])

        maps = [self.maps(grid, shape) for grid, shape in zip(_walked(walks, answer), shapes, strict=True)]
        symbols = decoder.get([tables.reshape(-1) for tables, _ in maps])
        decoder.close()
        residuals = [
            of_tile.view(np.int8).reshape(shape) + offsets
            for of_tile, shape, (_, offsets) in zip(symbols, shapes, maps, strict=True)
        ]
        del symbols, maps
        return [tile_of(planes) for planes in self._planes(residuals)]

    def _planes(self, residuals: Sequence[Signed]) -> list[Signed]:
        """Planes of tiles, those of one shape together."""
        out: list[Signed] = [residuals[0]] * len(residuals)
        for shape in {each.shape for each in residuals}:
            alike = [i for i, each in enumerate(residuals) if each.shape == shape]
            together = np.concatenate([residuals[i] for i in alike], axis=2)
            for i, planes in zip(
                alike, np.split(self.prediction.planes(together), len(alike), axis=2), strict=True
            ):
                out[i] = planes
        return out


NOTHING: Final = np.empty(0, np.uint8)


def _walked(
    walks: Sequence[Stages], answer: Callable[[Sequence[Asked | None]], Sequence[Bytes]]
) -> list[Grid]:
    """Go through the stages of several grids in lockstep, and return them."""
    asked: list[Asked | None] = [next(walk) for walk in walks]
    grids = [np.empty((0, 0), np.intp)] * len(walks)
    while any(asked):
        for i, indices in enumerate(answer(asked)):
            if asked[i] is not None:
                try:
                    asked[i] = walks[i].send(indices)
                except StopIteration as end:
                    asked[i], grids[i] = None, end.value
    return grids


# --- Weights ------------------------------------------------------------------------------------------------


def load(read: Reader) -> Threeway | None:
    """The system of a weights file, or None where the file has none.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds.
    """
    if not read.has(f"{PREFIX}frequencies"):
        return None

    def tensor(name: str, shape: tuple[int | None, ...], low: int, high: int) -> Integers:
        return read(PREFIX + name, shape, low, high)

    kind = Predictor(int(tensor("predictor", (1,), 0, max(Predictor))[0]))
    weights = tensor("weights", (3, 3), -(1 << 14), 1 << 14).astype(np.int32)
    codes = tensor("codes", (None, None), -CODE_MAX, CODE_MAX)
    _between(read, "codes", "codes", len(codes), CODES_MAX)
    _between(read, "codes", "numbers of a code", codes.shape[1], CODE_LENGTH_MAX)
    first = _matrix(read, "first", None, 9 * codes.shape[1] + 1, CODE_MAX)
    _between(read, "first", "rows", len(first), HIDDEN_UNITS_MAX)
    second = _matrix(read, "second", 2 * OUTPUTS, len(first) + 1, HIDDEN_MAX)
    thresholds = tensor("thresholds", (2, STEPS - 1), 0, SHARED * FEATURE_MAX)
    if (np.diff(thresholds, axis=1) < 0).any():
        raise WeightsError(f"{read.path}: thresholds of '{PREFIX}thresholds' do not ascend")
    lane_tables = LaneTables(tensor("frequencies", (None, 256), 0, 1 << PRECISION))
    if lane_tables.count <= CONTEXTS + 1:
        raise WeightsError(
            f"{read.path}: '{PREFIX}frequencies' has {lane_tables.count} tables, "
            f"expected more than {CONTEXTS + 1}"
        )
    layers, length = [], INPUTS
    for number in range(ENCODER_LAYERS):
        layer = tensor(f"encoder.{number}", (None, length + 1), -32767, 32767)
        layers.append((layer / ENCODER_UNIT).astype(np.float32))
        length = len(layer)
    if length != codes.shape[1]:
        raise WeightsError(
            f"{read.path}: '{PREFIX}encoder.{ENCODER_LAYERS - 1}' has {length} rows, "
            f"expected {codes.shape[1]}, as many as a code has numbers"
        )
    prices = tensor("prices", (len(codes),), 0, 32767)
    tables = tensor("tables", (3, SCALES), 0, lane_tables.count - 1).astype(np.uint8)
    return Threeway(
        Prediction(kind, weights),
        Contexts(tensor("features", (len(codes), 2), 0, FEATURE_MAX), thresholds),
        Decoder(codes.astype(np.float32), first, second),
        Encoder(
            tuple(layers),
            (codes / CODE_UNIT).astype(np.float32),
            (prices / ENCODER_UNIT).astype(np.float32),
        ),
        tables,
        lane_tables,
        lengths_of(lane_tables, tables),
    )


def lengths_of(lane_tables: LaneTables, tables: Bytes) -> Floats:
    """What residuals cost by their magnitudes, as if tables were geometric; see `Threeway`."""
    distance = np.minimum(np.arange(256), 256 - np.arange(256))
    seen = lane_tables.frequencies * (distance < 128)
    mean = np.maximum((seen * distance).sum(axis=1) / np.maximum(seen.sum(axis=1), 1), 1 / 256)
    ratio = (np.sqrt(1 + mean**2) - 1) / mean  # of the geometric law with that mean magnitude
    ends = -PART * PART * np.log2((1 - ratio) / (1 + ratio)), -np.log2(ratio)
    return np.stack([each[tables].T for each in ends]).astype(np.float32)


def _between(read: Reader, name: str, what: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise WeightsError(f"{read.path}: '{PREFIX}{name}' has {count} {what}, expected 1..{most}")


def _matrix(read: Reader, name: str, rows: int | None, columns: int, largest_input: int) -> Floats:
    """A layer's weights and, last in each row, its bias, as float32, which holds all its sums exactly."""
    values = read(PREFIX + name, (rows, columns), 1 - SUM_LIMIT, SUM_LIMIT - 1)
    sums = np.abs(values[:, :-1]).sum(axis=1) * largest_input + np.abs(values[:, -1])
    if (worst := int(sums.max(initial=0))) >= SUM_LIMIT:
        raise WeightsError(
            f"{read.path}: sums of '{PREFIX}{name}' can reach {worst}, the limit is {SUM_LIMIT} (2^24)"
        )
    return values.astype(np.float32)

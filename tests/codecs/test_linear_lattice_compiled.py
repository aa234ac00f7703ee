"""Compiled loops of lattices without networks give what NumPy gives: predictions, tables, bytes, samples."""

from __future__ import annotations

import types
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lic_format import FormatError
from licodec import compiled
from licodec.codecs import lattices
from licodec.codecs import linear_lattice as codec
from tests.codecs.test_lossless import photograph

pytestmark = pytest.mark.skipif(not compiled.here(), reason="numba is not installed")

Samples = npt.NDArray[np.uint8]
SIZES = [(1, 1), (1, 40), (40, 1), (33, 18), (17, 67), (300, 260)]


def wild_numbers(seed: int) -> dict[codec.Name, codec.Numbers]:
    """Numbers whose sums come close to 2^24, for samples that make them so and others."""
    rng = np.random.default_rng(seed)
    out = {}
    for number, name in enumerate(codec.names()):
        view = codec.view_of(*name[1:])
        k, f = view.inputs, len(view.pairs)
        largest = np.array([codec.INPUT_MAX] * k + [2 * codec.INPUT_MAX] * f + [1])
        linear, activity = (
            np.clip((codec.SUM_LIMIT - 1) // (most * most.size), 0, 32767)
            * rng.choice([-1, 1], (codec.DIRECTIONS, most.size))
            for most in (largest[:k], largest)
        )
        linear, activity = (
            np.where(rng.random(each.shape) < 0.7, each, rng.integers(-300, 300, each.shape))
            for each in (linear, activity)
        )
        if number % 2:
            activity = np.abs(activity)
        direction = rng.integers(0, 256, (2, f))
        direction[rng.random((2, f)) < 0.4] = 0
        direction = np.minimum(direction, (codec.SUM_LIMIT - 1) // (5 * 2 * codec.INPUT_MAX * f) - 1)
        thresholds = np.sort(rng.integers(0, 2 * codec.ACTIVITIES, codec.SCALES - 1))
        out[name] = codec.Numbers(linear, activity, direction, thresholds)
        codec._check(name, out[name])
    return out


def wild_tiles(height: int, width: int, channels: int) -> list[Samples]:
    rng = np.random.default_rng(height + width)
    shape = height, width, channels
    return [
        photograph(*shape),
        rng.integers(0, 256, shape).astype(np.uint8),
        (255 * rng.integers(0, 2, shape)).astype(np.uint8),
    ]


def seen(
    tile: Samples, look: lattices.Look, dtype: npt.DTypeLike
) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Predictions and tables of all passes of a tile."""
    channels, out = lattices.channels_of(tile), []
    walk = lattices.passes(tile.shape, look, codec.BASE_TABLE, dtype)
    request = next(walk)
    while True:
        out.append((request.prediction.copy(), request.table.copy()))
        try:
            request = walk.send(request.samples_of(channels))
        except StopIteration:
            return out


def numpy_look(numbers: Mapping[codec.Name, codec.Numbers]) -> codec.Looking:
    prepared = {name: codec._prepared(codec.view_of(*name[1:]), each) for name, each in numbers.items()}
    return codec.Looking(prepared)


def same(tile: Samples, ours: lattices.Look, theirs: lattices.Look) -> None:
    for one, other in zip(seen(tile, ours, np.float32), seen(tile, theirs, np.int16), strict=True):
        for each, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(each, found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_and_tables_are_those_of_numpy(channels: int, seed: int) -> None:
    from licodec.codecs.linear_lattice_compiled import look_of

    for numbers in (wild_numbers(seed), codec.coder().table.numbers):
        look, plain = look_of(numbers), numpy_look(numbers)
        for height, width in SIZES[:-1]:
            for tile in wild_tiles(height, width, channels):
                same(tile, plain, look)


def test_they_are_the_same_on_processors_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from licodec.codecs import linear_lattice_compiled

    of_look: Any = linear_lattice_compiled._look
    code = of_look.py_func.__code__
    names = {**vars(linear_lattice_compiled), "_block": linear_lattice_compiled.block(False)}
    monkeypatch.setattr(linear_lattice_compiled, "_look", numba.njit(types.FunctionType(code, names)))
    numbers = wild_numbers(5)
    for tile in wild_tiles(37, 53, 3):
        same(tile, numpy_look(numbers), linear_lattice_compiled.look_of(numbers))


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_samples_are_those_of_numpy(channels: int) -> None:
    tiles = [tile for height, width in SIZES for tile in wild_tiles(height, width, channels)[:2]]
    bodies = codec.encode_many(tiles, compiled=True)
    assert bodies == codec.encode_many(tiles)
    shapes = [tile.shape for tile in tiles]
    for found in (codec.decode_many(bodies, shapes, compiled=True), codec.decode_many(bodies, shapes)):
        for tile, back in zip(tiles, found, strict=True):
            assert back.dtype == np.uint8
            np.testing.assert_array_equal(back, tile)


def test_damaged_bodies_end_as_in_numpy() -> None:
    tile = photograph(24, 31, 3)
    (body,) = codec.encode_many([tile])
    rng = np.random.default_rng(2)
    damaged = [body[:length] for length in range(0, len(body), 200)]
    for _ in range(12):
        flipped = bytearray(body)
        flipped[rng.integers(len(body))] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))

    def ending(data: bytes, compiled: bool) -> object:
        try:
            return codec.decode_many([data], [tile.shape], compiled=compiled)[0].tolist()
        except FormatError as error:
            return str(error)

    for data in damaged:
        assert ending(data, True) == ending(data, False)


def test_threads_share_a_look() -> None:
    tiles = [photograph(90, 70 + i, 3) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(lambda tile: codec.encode_many([tile], compiled=True)[0], tiles))
        found = pool.map(lambda body, tile: codec.decode_many([body], [tile.shape], True)[0], bodies, tiles)
        for tile, back in zip(tiles, found, strict=True):
            np.testing.assert_array_equal(back, tile)
    assert bodies == codec.encode_many(tiles)

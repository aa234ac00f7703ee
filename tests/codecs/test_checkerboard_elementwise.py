"""What stands between fhic's compiled layers against NumPy: every rounding, on any number of threads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from licodec import object_cache, threads
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_elementwise import Places, Target
from licodec.exact import fixed_point
from licodec.exact.fixed_point import LARGEST, Floats, Held, Strided

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")
Ints = npt.NDArray[np.int16]
SIZES = [(12, 0), (4, 1), (4, 7), (4, 8), (12, 33), (48, 100), (96, 2), (160, 201)]
ROWS = [(4, 1), (12, 3), (44, 11), (320, 130)]
BLOCKS = [(1, 1), (3, 5), (9, 70)]


@pytest.fixture(params=[1, 2, 3], autouse=True, ids=lambda count: f"{count} threads")
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With so many threads, that share even little."""
    monkeypatch.setattr(elementwise, "WORTH_SHARING", 256)
    with threads.limited(request.param), fixed_point.helped():
        yield


def in_steps(values: Floats) -> Ints:
    assert values.dtype == np.float32
    out: Ints = np.rint(np.clip(values, -LARGEST, LARGEST)).astype(np.int16)
    return out


def floats(rng: np.random.Generator, *shape: int, spread: float = 1.0) -> Floats:
    """Of many magnitudes."""
    return (rng.normal(size=shape) * spread * np.exp2(rng.integers(-6, 3, shape))).astype(np.float32)


def factors(rng: np.random.Generator, count: int) -> Floats:
    return np.exp(rng.normal(size=count)).astype(np.float32)


def symbols(rng: np.random.Generator, *shape: int) -> Ints:
    """Most of them small, and some as large as there are."""
    of = np.rint(rng.normal(size=shape) * np.exp2(rng.integers(-2, 16, shape)))
    return np.clip(of, -32768, 32767).astype(np.int16)


def within(rng: np.random.Generator, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same rows as a part of larger ones, whose other values are anything."""
    around = rng.integers(0, 100, (len(rows), rows.shape[1] + 5)).astype(rows.dtype)
    around[:, 2 : 2 + rows.shape[1]] = rows
    return around[:, 2 : 2 + rows.shape[1]]


def all_around(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What `within` has put a part in."""
    assert part.base is not None
    return part.base


def rows_of(array: npt.NDArray[Any]) -> tuple[int, int]:
    return array.ctypes.data, array.strides[0]


def strided(array: npt.NDArray[Any]) -> Strided:
    return array.ctypes.data, array.strides[0], array.strides[1]


def scattered(rng: np.random.Generator, n: int, bytes_each: int) -> npt.NDArray[np.int64]:
    return rng.permutation(2 * n)[:n].astype(np.int64) * bytes_each


# --- Between symbols by channel and rows by position --------------------------------------------------------


@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_magnitudes(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    q, out = symbols(rng, channels, n), within(rng, np.full((n, channels), 7, np.int16))
    before = all_around(out).copy()
    elementwise.magnitudes(q, rows_of(out))
    assert np.array_equal(out, layout.magnitude_table()[np.minimum(np.abs(q.astype(np.int32)), 255)].T)
    before[:, 2 : 2 + channels] = out
    assert np.array_equal(all_around(out), before), "nothing beside the rows is written"


def test_magnitudes_of_all_symbols() -> None:
    every = np.arange(-32768, 32768).astype(np.int16).reshape(4, -1)
    out = np.empty((every.shape[1], 4), np.int16)
    elementwise.magnitudes(every, rows_of(out))
    assert np.array_equal(out, layout.magnitude_table()[np.minimum(np.abs(every.astype(np.int32)), 255)].T)


@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_indices(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    scales = rng.integers(0, 30, (n, channels)) * rng.integers(0, 2, (n, channels))
    first_table = (rng.integers(0, 7, channels) * 32 - 32 * rng.integers(0, 2, channels)).astype(np.int32)
    rows, out = within(rng, scales.astype(np.int16)), np.empty((channels, n), np.uint8)
    elementwise.indices(rows_of(rows), first_table, out)
    wanted = np.where((first_table < 0) | (scales == 0), 255, scales + first_table).T
    assert np.array_equal(out, wanted)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_settle(channels: int, n: int, count: int) -> None:
    rng = np.random.default_rng(n)
    means, q = within(rng, floats(rng, n, channels, spread=9.0)), symbols(rng, channels, n)
    per = factors(rng, channels)
    for given in (q, None):
        value = means if given is None else means + given.T.astype(np.float32) / per
        memory = [np.full((2 * n, channels + 3 * number), 99, np.int16) for number in range(count)]
        targets, wanted = [], [each.copy() for each in memory]
        for each, expected in zip(memory, wanted, strict=True):
            offsets, per_unit = scattered(rng, n, each.strides[0]), factors(rng, channels) * 100
            targets.append(Target(Places(each.ctypes.data, Held(offsets)), per_unit))
            expected[offsets // each.strides[0], :channels] = in_steps(value * per_unit)
        elementwise.settle(rows_of(means), given, per, targets, n)
        assert all(np.array_equal(each, expected) for each, expected in zip(memory, wanted, strict=True))


@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_choose(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    own, means = floats(rng, n, channels, spread=4.0), within(rng, floats(rng, n, channels))
    halves = rng.random(own.shape) < 0.1
    own[halves] = np.rint(own[halves] * 2) / 2
    means[halves] = 0
    for extreme in (1e6, -np.inf, np.nan):
        own[rng.random(own.shape) < 0.02] = extreme
    y = floats(rng, 2 * n, channels + 3)
    offsets, per = scattered(rng, n, y.strides[0]), factors(rng, channels)
    y[offsets // y.strides[0], :channels] = own
    index = rng.integers(0, 256, (channels, n)).astype(np.uint8)
    index[rng.random(index.shape) < 0.2] = 255
    worth, savings = factors(rng, channels), floats(rng, 256, 257, spread=0.5)
    out = np.full((channels, n), 77, np.int16)
    elementwise.choose(Places(y.ctypes.data, Held(offsets)), rows_of(means), per, index, worth, savings, out)
    value = np.ascontiguousarray((own - means * per).T, np.float32)
    assert np.array_equal(out, layout.choose_symbols(value, index, worth, savings))


@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_expected(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    s = floats(rng, 2 * n, channels, spread=4.0)
    s[rng.random(s.shape) < 0.1] = 1.0
    s[:1, :1], s[-1:, -1:] = 1e6, -1e6
    offsets, per = scattered(rng, n, s.strides[0]), factors(rng, channels)
    rows = offsets // s.strides[0]
    means, savings = within(rng, floats(rng, n, channels)), floats(rng, 256, 257)
    variance, flat, per_step = (factors(rng, channels) for _ in range(3))
    index = rng.integers(0, 256, s.shape).astype(np.uint8)
    index[rng.random(s.shape) < 0.3] = 255
    rise, slope, memory = np.full_like(s, 7), np.full_like(s, 7), np.full(s.shape, 99, np.int16)
    elementwise.expected(
        Places(s.ctypes.data, Held(offsets)), rows_of(means), index.ctypes.data, savings, per,
        (variance, flat), [Target(Places(memory.ctypes.data, Held(offsets // 2)), per_step)],
        rise.ctypes.data, slope.ctypes.data, 2.5, n,
    )  # fmt: skip
    value = s[rows] - means * per
    low = np.floor(np.clip(value, -layout.SYMBOL_MAX, layout.SYMBOL_MAX))
    coded = index[rows] != 255
    along = np.clip(np.float32(0.5) + (value - low - np.float32(0.5)) * np.float32(2.5), 0, 1)
    p = np.where(coded, along * along * (3 - 2 * along), 0)
    rising = np.where(coded, 6 * 2.5 * along * (1 - along), 0)
    larger = np.clip(np.where(low >= 0, low + 1, -low), 0, 256).astype(int)
    more = np.where(low >= 0, 1, -1) * savings[index[rows], larger] + variance * (
        1 - 2 * along**2 * (3 - 2 * along)
    )
    np.testing.assert_allclose(rise[rows], rising, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope[rows], rising * more * flat, rtol=1e-3, atol=1e-4)
    wanted = (means + np.where(coded, low + p, 0) / per) * per_step
    assert (np.abs(memory[rows] - np.clip(np.rint(wanted), -16383, 16383)) <= 1).all()
    others = np.setdiff1d(np.arange(2 * n), rows)
    assert (rise[others] == 7).all() and (slope[others] == 7).all() and (memory[others] == 99).all()


@pytest.mark.parametrize(("channels", "n"), SIZES)
def test_returned(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    lacking, rise, slope = (floats(rng, 2 * n, channels) for _ in range(3))
    back, own = (rng.integers(-16383, 16384, (3 * n, channels), np.int16) for _ in range(2))
    offsets = scattered(rng, n, lacking.strides[0])
    more_at = [scattered(rng, n, back.strides[0]) for _ in range(2)]
    given = np.stack([factors(rng, channels) * 1e-3, *(factors(rng, channels) * 100 for _ in range(2))])
    given = given.astype(np.float32)
    before, out = lacking.copy(), np.full((n, channels), 99, np.int16)
    more = (Places(back.ctypes.data, Held(more_at[0])), Places(own.ctypes.data, Held(more_at[1])))
    elementwise.returned(
        Places(lacking.ctypes.data, Held(offsets)), rise.ctypes.data, slope.ctypes.data, more, given, out
    )
    rows = offsets // lacking.strides[0]
    a, b = (
        each[at // each.strides[0]].astype(np.float32) for each, at in zip((back, own), more_at, strict=True)
    )
    whole = before.copy()
    whole[rows] += (a + b) * given[0]
    assert np.array_equal(lacking, whole)
    wanted = whole[rows] * (1 - rise[rows]) * given[1] + slope[rows] * given[2]
    assert np.array_equal(out, in_steps(wanted))


# --- Pixels and blocks of 4x4 -------------------------------------------------------------------------------


def blocks_of(planes: npt.NDArray[np.uint8]) -> Floats:
    """Pixels / 255 - 0.5, float32 [H / 4, W / 4, 48]."""
    height, width, _ = planes.shape
    real = planes.astype(np.float32) / np.float32(255) - np.float32(0.5)
    parts = real.reshape(height // 4, 4, width // 4, 4, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(parts).reshape(height // 4, width // 4, 48)


STEP = np.float32(layout.SHOWN_STEP)


def shown_blocks(rng: np.random.Generator, h: int, w: int, spread: float) -> npt.NDArray[np.int16]:
    return in_steps((floats(rng, h, w, 48, spread=spread) / STEP).astype(np.float32))


def within_map(rng: np.random.Generator, blocks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same blocks as a part of a larger map."""
    h, w, _ = blocks.shape
    around = rng.integers(0, 100, (h + 2, w + 3, 48)).astype(blocks.dtype)
    around[1 : 1 + h, 1 : 1 + w] = blocks
    return around[1 : 1 + h, 1 : 1 + w]


@pytest.mark.parametrize(("h", "w"), BLOCKS)
def test_to_steps_and_missing(h: int, w: int) -> None:
    rng = np.random.default_rng(w)
    planes = rng.integers(0, 256, (4 * h, 4 * w + 4, 3)).astype(np.uint8)[:, 4:]
    shown, per = within_map(rng, shown_blocks(rng, h, w, 0.1)), factors(rng, 48) * 1000
    for lacking in (False, True):
        out = within_map(rng, np.full((h, w, 48), 3, np.int16))
        wanted = all_around(out).copy()
        if lacking:
            elementwise.missing(planes, strided(shown), per, strided(out))
        else:
            elementwise.to_steps(planes, per, strided(out))
        values = blocks_of(planes)
        if lacking:
            values -= shown * STEP
        wanted[1 : 1 + h, 1 : 1 + w] = in_steps(values * per)
        assert np.array_equal(all_around(out), wanted)


@pytest.mark.parametrize(("h", "w"), BLOCKS)
def test_pixels(h: int, w: int) -> None:
    rng = np.random.default_rng(w)
    shown = within_map(rng, shown_blocks(rng, h, w, 0.3))
    shown[0, 0, :4] = np.array([32767, -32768, 16383, -16383])
    planes = rng.integers(0, 256, (4 * h + 8, 4 * w + 8, 3)).astype(np.uint8)
    wanted, part = planes.copy(), planes[4 : 4 + 4 * h, 4 : 4 + 4 * w]
    made = np.clip(shown * STEP * np.float32(255) + np.float32(128), 0, 255).astype(np.uint8)
    lines = made.reshape(h, w, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4 * h, 4 * w, 3)
    wanted[4 : 4 + 4 * h, 4 : 4 + 4 * w] = lines
    elementwise.pixels(strided(shown), rows_of(part), h, w)
    assert np.array_equal(planes, wanted)


def test_pixels_come_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    shown = np.rint(blocks_of(every) / STEP).astype(np.int16)
    out = np.empty_like(every)
    elementwise.pixels(strided(shown), rows_of(out), 4, 4)
    assert np.array_equal(out, every)


# --- Rows of latents ----------------------------------------------------------------------------------------


def nearly_zeroed(s: Floats) -> Floats:
    return np.where(np.abs(s) > np.float32(layout.NEARLY_ZERO), s, np.float32(0))


def latents(rng: np.random.Generator, *shape: int) -> Floats:
    s = floats(rng, *shape, spread=3.0)
    s[rng.random(shape) < 0.1] = layout.NEARLY_ZERO
    s[rng.random(shape) < 0.1] = -np.nextafter(np.float32(layout.NEARLY_ZERO), np.float32(1))
    return s


@pytest.mark.parametrize(("channels", "n"), ROWS)
def test_kept(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    s, some, others = latents(rng, n, channels), factors(rng, channels), factors(rng, channels) * 1000
    out, more = (np.empty((n, channels), np.int16) for _ in range(2))
    elementwise.kept(s, some, out, others, more)
    assert np.array_equal(out, in_steps(nearly_zeroed(s) * some))
    assert np.array_equal(more, in_steps(nearly_zeroed(s) * others))


@pytest.mark.parametrize(("channels", "n"), ROWS)
def test_refined(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    h, w = n, 3
    s, inverse, step = latents(rng, h, w, channels), factors(rng, channels), factors(rng, channels)
    around = floats(rng, h + 1, w + 2, channels + 4)
    found, out = around[1:, 1 : 1 + w, :channels], np.empty_like(s)
    elementwise.refined(s, strided(found), inverse, step, out)
    assert np.array_equal(out, s + step * ((nearly_zeroed(s) + found * inverse) - s))


@pytest.mark.parametrize(("channels", "n"), ROWS)
def test_asinh_in_steps(channels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    y = (rng.normal(size=(n, channels)) * 10.0 ** rng.uniform(-7, 5.5, (n, channels))).astype(np.float32)
    y[0, :4] = 0, 1e6, -1e6, -0.0
    per = np.full(channels, 1000, np.float32)
    out = np.empty((n, channels), np.int16)
    elementwise.asinh_in_steps(y, per, out)
    exact = np.arcsinh(y.astype(np.float64)) * 1000
    assert np.abs(out - exact).max() <= 0.5 + 1000 * 2e-6 * 15
    mostly = np.abs(exact - np.floor(exact) - 0.5) > 0.03
    assert np.array_equal(out[mostly], np.rint(exact[mostly]).astype(np.int16))


@pytest.mark.parametrize("sign", [1, -1])
def test_asinh_is_right_to_2e_6(sign: int) -> None:
    """By thousands of factors, each of which says between what bounds it is."""
    for y in (10.0 ** np.linspace(-6, 6, 200)).astype(np.float32):
        exact = float(np.arcsinh(y.astype(np.float64)))
        per = (np.geomspace(4000, 8000, 4000) / exact).astype(np.float32)
        out = np.empty((1, len(per)), np.int16)
        elementwise.asinh_in_steps(np.full(out.shape, sign * y, np.float32), per, out)
        low, high = (
            float(way((out[0] + half) / per.astype(np.float64)))
            for way, half in ((np.max, -0.5), (np.min, 0.5))
        )
        assert abs(high - low) < 5e-7 * exact
        assert abs((low + high) / 2 - sign * exact) < max(2e-6 * exact, 1e-6)


def test_sources_are_all_that_the_definitions_import() -> None:
    tree = ast.parse(object_cache._source("licodec.codecs.checkerboard_elementwise_loops"))
    seen = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    ours = {each for each in seen if each and each.startswith("licodec")}
    assert ours <= set(elementwise.SOURCES)

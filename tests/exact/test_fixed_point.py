"""The compiled loops against NumPy: every sum, every rounding, on any number of threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from licodec import threads
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    LARGEST,
    PLAIN,
    REAL,
    RESIDUAL,
    SUM_OF_WEIGHTS,
    Compiled,
    Floats,
    Held,
    Layer,
    Map,
    layer,
)

Ints = npt.NDArray[np.int64]
pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


compiled = functools.cache(Compiled)
KINDS = {
    "single products": fixed_point.PORTABLE,
    "eight pairs": fixed_point.EIGHT_PAIRS,
    "sixteen pairs": fixed_point.SIXTEEN_PAIRS,
}


@pytest.fixture(params=KINDS)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """The loops with the processor's instructions, and without."""
    kind = KINDS[request.param]
    if kind.lanes > fixed_point.kind_here().lanes:
        pytest.skip("processor without vectors of that length")
    made = compiled(kind)
    monkeypatch.setattr(fixed_point, "compiled_loops", lambda: made)
    yield made


def some_layer(
    rng: np.random.Generator, out: int, taps: int, inputs: int, slope: float
) -> tuple[Layer, Floats]:
    weight = rng.normal(size=(out, taps, inputs)).astype(np.float32)
    bias = rng.normal(size=out).astype(np.float32) * 20
    steps = np.exp2(rng.integers(-6, -2, inputs)).astype(np.float32)
    outputs = np.exp2(rng.integers(-4, 0, out)).astype(np.float32)
    units = np.exp2(rng.integers(-4, 0, out)).astype(np.float32)
    return layer(weight, bias, steps, outputs, residual=units, slope=slope), weight


def unpacked(of: Layer, taps: int) -> Ints:
    """[out, taps, in]."""
    pairs = of.weights.view(np.int16).reshape(*of.weights.shape, 2)
    out: Ints = pairs.transpose(0, 2, 1, 3).reshape(of.outputs, taps, -1).astype(np.int64)
    return out


def expected(of: Layer, sums: Ints, residual: Ints | None) -> npt.NDArray[np.float32]:
    """Real outputs of sums [.., out]: float32, one rounding after the other."""
    scale, bias, _, unit = (of.constants[:, row].reshape(-1) for row in range(4))
    y = sums.astype(np.float32) * scale + bias
    if residual is not None:
        y = y + residual.astype(np.float32) * unit
    slope = np.float32(of.slope)
    out: npt.NDArray[np.float32] = np.maximum(y, y * slope)
    return out


def in_steps(of: Layer, real: npt.NDArray[np.float32]) -> Ints:
    post = of.constants[:, 2].reshape(-1)
    out: Ints = np.rint(np.clip(real * post, -LARGEST, LARGEST)).astype(np.int64)
    return out


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (5, 6), (4, 13)])
@pytest.mark.parametrize("writes", [PLAIN, RESIDUAL, REAL])
def test_a_3x3_layer_is_what_numpy_makes_of_it(loops: Compiled, height: int, width: int, writes: int) -> None:
    rng = np.random.default_rng(height * width)
    of, _ = some_layer(rng, 32, 9, 6, 0.1)
    x, added = Map(height, width, 6), Map(height, width, 32)
    for each in (x, added):
        each.memory[...] = rng.integers(-3000, 3000, each.memory.shape)
    near = [(dy, dx) for dy in range(3) for dx in range(3)]
    seen = np.stack([x.memory[dy : dy + height, dx : dx + width].astype(np.int64) for dy, dx in near], 2)
    sums = np.einsum("hwti,oti->hwo", seen, unpacked(of, 9))
    known = added.memory[1:-1, 1 : 1 + width].astype(np.int64)
    real = expected(of, sums, None if writes == PLAIN else known)
    taps = Held(np.array([(dy - 1) * x.row + (dx - 1) * x.step for dy, dx in near], np.int64))
    places = Held(2 * np.arange(0, 32, 16, dtype=np.int64))
    out = Map(height, width, 32)
    whole = np.zeros((height, added.memory.shape[1], 32), np.float32)
    target = (out.address, out.row, out.step)
    if writes == REAL:
        target = (whole.ctypes.data, whole.strides[0] // 2, whole.strides[1] // 2)
    of.run(writes, taps, places, (x.address, x.row, x.step), added.address, target, height, width)
    if writes == REAL:
        assert np.array_equal(whole[:, :width], real)
    else:
        assert np.array_equal(out.memory[1:-1, 1 : 1 + width], in_steps(of, real))


def test_what_is_too_large_saturates_and_sums_never_leave_32_bits(loops: Compiled) -> None:
    weight = np.random.default_rng(3).normal(size=(16, 1, 400)).astype(np.float32)
    of = layer(weight, np.zeros(16, np.float32), np.ones(400, np.float32), np.full(16, 1e-6, np.float32))
    stored = unpacked(of, 1)
    assert np.abs(stored).sum(axis=(1, 2)).max() * LARGEST < 2**31
    assert np.abs(stored).sum(axis=(1, 2)).min() > 0.99 * SUM_OF_WEIGHTS, "no bit is left unused"
    x, out = Map(1, 2, 400), Map(1, 2, 16)
    x.memory[...] = LARGEST
    x.memory[1, 2] = -LARGEST
    of.run(PLAIN, HERE, HERE, (x.address, x.row, x.step), 0, (out.address, out.row, out.step), 1, 2)
    signs = np.sign(stored.sum(axis=(1, 2)))
    assert np.array_equal(out.memory[1, 1:3], np.stack([signs, -signs]) * LARGEST)


@pytest.mark.parametrize("count", [10, 300, 768, 2304])
def test_weights_that_are_rounded_up_keep_their_sum_within_bounds(count: int) -> None:
    ones = np.ones(16, np.float32)
    alike = np.full((16, 1, count), 0.37, np.float32)
    of = layer(alike, ones, np.ones(count, np.float32), ones)
    total = np.abs(unpacked(of, 1)).sum(axis=(1, 2))
    assert (total * LARGEST < 2**31).all() and (total > 0.98 * SUM_OF_WEIGHTS).all()
    within, _ = fixed_point.layer_within(alike[:, 0, :9], ones, ones, ones)
    assert (np.abs(within).sum(0) * LARGEST < 2**31).all()


@pytest.mark.parametrize("width", [1, 7, 61])
def test_a_block_is_its_three_layers(loops: Compiled, width: int) -> None:
    rng = np.random.default_rng(width)
    height, channels = 3, 16
    wide, _ = some_layer(rng, 2 * channels, 1, channels, 0.1)
    narrow, _ = some_layer(rng, channels, 1, 2 * channels, 1.0)
    weights = rng.integers(-3000, 3000, (9, channels)).astype(np.int32)
    constants = np.stack([np.full(channels, 1e-3), rng.normal(size=channels), np.full(channels, 0.5)])
    constants = constants.astype(np.float32)
    x, out = Map(height, width, channels), Map(height, width, channels)
    x.memory[...] = rng.integers(-2000, 2000, x.memory.shape)
    fixed_point.block((weights, constants), wide, narrow, x, out)
    taps = [
        x.memory[dy : dy + height, dx : dx + width].astype(np.int64) for dy in range(3) for dx in range(3)
    ]
    total = sum(tap * weight for tap, weight in zip(taps, weights, strict=True)).astype(np.float32)
    near = (total * constants[0] + constants[1]) * constants[2]
    near = np.rint(np.clip(near, -LARGEST, LARGEST)).astype(np.int64)
    hidden = in_steps(wide, expected(wide, near @ unpacked(wide, 1)[:, 0].T, None))
    known = x.memory[1:-1, 1 : 1 + width].astype(np.int64)
    real = expected(narrow, hidden @ unpacked(narrow, 1)[:, 0].T, known)
    assert np.array_equal(out.memory[1:-1, 1 : 1 + width], in_steps(narrow, real))


@pytest.mark.parametrize("width", [1, 7, 61])
def test_what_goes_back_through_a_leaky_relu_is_less_where_it_was_not_positive(
    loops: Compiled, width: int
) -> None:
    rng = np.random.default_rng(width)
    of, _ = some_layer(rng, 32, 1, 16, 0.1)
    x, mask, out = Map(3, width, 16), Map(3, width, 32), Map(3, width, 32)
    for each in (x, mask):
        each.memory[...] = rng.integers(-2, 3, each.memory.shape) * 700
    target = out.address, out.row, out.step
    places = fixed_point.blocks_of(32)
    of.run(fixed_point.MASKED, HERE, places, (x.address, x.row, x.step), mask.address, target, 3, width)
    seen, gave = (each.memory[1:-1, 1 : 1 + width].astype(np.int64) for each in (x, mask))
    scale, bias, _, _ = (of.constants[:, row].reshape(-1) for row in range(4))
    y = (seen @ unpacked(of, 1)[:, 0].T).astype(np.float32) * scale + bias
    real = np.where(gave > 0, y, y * np.float32(0.1))
    assert np.array_equal(out.memory[1:-1, 1 : 1 + width], in_steps(of, real))


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("width", [1, 7, 61])
def test_a_convolution_within_channels_from_map_to_map(loops: Compiled, width: int, added: bool) -> None:
    rng = np.random.default_rng(width)
    height, channels = 6, 32
    weight = rng.normal(size=(channels, 9)).astype(np.float32)
    ones = np.ones(channels, np.float32)
    steps = np.exp2(rng.integers(-3, 1, channels)).astype(np.float32)
    of = fixed_point.layer_within(weight, ones * 3, ones, steps, residual=steps if added else None)
    x, out = Map(height, width, channels), Map(height, width, channels)
    for each in (x, out):
        each.memory[...] = rng.integers(-900, 900, each.memory.shape)
    before = out.memory[1:-1, 1 : 1 + width].astype(np.float32)
    fixed_point.run_within(of, x, out, added=added)
    taps = [
        x.memory[dy : dy + height, dx : dx + width].astype(np.int64) for dy in range(3) for dx in range(3)
    ]
    total = sum(tap * each for tap, each in zip(taps, of[0], strict=True)).astype(np.float32)
    real = total * of[1][0] + of[1][1]
    real = real + before * steps if added else real
    wanted = np.rint(np.clip(real * of[1][2], -LARGEST, LARGEST))
    assert np.array_equal(out.memory[1:-1, 1 : 1 + width], wanted)


def test_the_border_is_repeated_or_zeros() -> None:
    x = Map(2, 3, 2)
    x.memory[...] = 9
    x.memory[1:-1, 1:4] = np.arange(12).reshape(2, 3, 2)
    inner = x.memory[1:-1, 1:4].copy()
    assert np.array_equal(x.finished().memory[:, :5], np.pad(inner, ((1, 1), (1, 1), (0, 0)), mode="edge"))
    assert np.array_equal(x.bordered().memory[:, :5], np.pad(inner, ((1, 1), (1, 1), (0, 0))))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_threads_does_every_piece_once(count: int) -> None:
    rng = np.random.default_rng(8)
    of, _ = some_layer(rng, 16, 1, 32, 1.0)
    x = rng.integers(-1000, 1000, (1200, 32)).astype(np.int16)
    sums = x[:1194].astype(np.int64) @ unpacked(of, 1)[:, 0].T
    wanted = in_steps(of, expected(of, sums, None))
    at = fixed_point.listed(np.arange(1194) * 64), fixed_point.listed(np.arange(1194) * 32)
    given = (
        of.weights.ctypes.data,
        HERE.address,
        1,
        16,
        HERE.address,
        1,
        of.constants.ctypes.data,
        fixed_point.bits_of(1.0),
    )
    with threads.limited(count), fixed_point.helped():
        for chunk in (6, 12, 60, 1194) * 8:
            out = np.zeros((1200, 16), np.int16)
            rows = (x.ctypes.data, at[0].address, 0, 0, out.ctypes.data, at[1].address)
            fixed_point.compiled_loops().run("plain_at", (*given, *rows, 1194), 1194, chunk)
            assert np.array_equal(out[:1194], wanted) and not out[1194:].any()


@pytest.mark.parametrize("writes", [PLAIN, RESIDUAL, REAL])
@pytest.mark.parametrize("count", [1, 6, 13, 100])
def test_positions_may_lie_anywhere(loops: Compiled, writes: int, count: int) -> None:
    rng = np.random.default_rng(count)
    of, _ = some_layer(rng, 32, 3, 10, 0.2)
    x = rng.integers(-1000, 1000, (200, 10)).astype(np.int16)
    added = rng.integers(-1000, 1000, (5, 32)).astype(np.int16)
    places, targets, kinds = (
        rng.permutation(190)[:count],
        rng.permutation(200)[:count],
        rng.integers(0, 5, count),
    )
    taps = np.array([0, 20, 100], np.int64)
    sums = np.zeros((count, 32), np.int64)
    for tap, rows in enumerate((0, 1, 5)):
        sums += x[places + rows].astype(np.int64) @ unpacked(of, 3)[:, tap].T
    residual = None if writes == PLAIN else added[kinds].astype(np.int64)
    real = expected(of, sums, residual)
    out = np.full((200, 32), -5, np.float32 if writes == REAL else np.int16)
    at = [fixed_point.listed(each) for each in (places * 20, targets * out.strides[0], kinds * 64)]
    source, target, more = (
        fixed_point.Listed(base.ctypes.data, each) for base, each in zip((x, out, added), at, strict=True)
    )
    of.run_at(
        writes, Held(taps), fixed_point.blocks_of(32), source, target, None if writes == PLAIN else more
    )
    wanted = np.full_like(out, -5)
    wanted[targets] = real if writes == REAL else in_steps(of, real)
    assert np.array_equal(out, wanted)


def test_threads_that_help_are_gone_afterwards_and_sections_nest() -> None:
    before = threading.active_count()
    with threads.limited(3), fixed_point.helped():
        assert threading.active_count() == before + 2
        with fixed_point.helped():
            assert threading.active_count() == before + 2
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    with threads.limited(1), fixed_point.helped():
        assert threading.active_count() == before
    with threads.limited(100), fixed_point.helped():
        assert threading.active_count() == before + fixed_point.MOST_THREADS - 1
    with pytest.raises(KeyError), threads.limited(2), fixed_point.helped():
        raise KeyError
    assert threading.active_count() == before


def test_where_no_more_threads_are_to_be_had_those_that_are_help(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def only_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", only_one)
    with threads.limited(3), fixed_point.helped():
        assert started[0].is_alive() and fixed_point._mine.shared is not None
    assert threading.active_count() == before and not started[0].is_alive()

"""Compiled loops of pilc give what NumPy gives: predictions, tables, bytes, samples, errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic_format import FormatError
from licodec import compiled, store, threads
from licodec.codecs import lattices
from licodec.codecs import lossless as pilc
from licodec.codecs.lossless_adaptation import CLASSES, Adaptation, groups, near
from licodec.entropy import lanes
from licodec.images import Picture
from tests.codecs.test_lossless import file_of, photograph

pytestmark = pytest.mark.skipif(not compiled.here(), reason="numba is not installed")


@pytest.fixture(scope="module")
def loaded() -> store.Weights:
    return store.load("pilc", "l-1")


@pytest.fixture(scope="module")
def plain(loaded: store.Weights) -> pilc.Lossless:
    return pilc.build(loaded, "cpu")


@pytest.fixture(scope="module")
def quick(loaded: store.Weights) -> pilc.Lossless:
    codec = pilc.build(loaded, "cpu")
    codec.compile()
    assert codec.compiled
    return codec


def wild_nets(units: tuple[int, int], seed: int) -> pilc.Nets:
    """Nets whose sums come close to 2^24, and whose layers saturate at both ends."""
    rng = np.random.default_rng(seed)
    nets = {}
    for which in range(CLASSES):
        for plane in range(3):
            for step in lattices.PASSES:
                k = lattices.inputs(plane, step)
                matrices: list[Any] = []
                for rows, columns, most in (
                    (1 + units[0], k, pilc.INPUT_MAX),
                    (units[1], units[0], pilc.HIDDEN_MAX),
                    (2, units[1], pilc.HIDDEN_MAX),
                ):
                    each = (pilc.SUM_LIMIT - 1) // (most * columns)
                    matrix = rng.integers(-each, each + 1, (rows, columns + 1))
                    matrix[:, -1] = rng.integers(-500, 500, rows)
                    matrices.append(matrix)
                nets[which, plane, step.name] = pilc.net_of(*matrices)
    return nets


@pytest.mark.parametrize("units", [(16, 16), (15, 16), (48, 32), (1, 1), (7, 5), (64, 64)])
@pytest.mark.parametrize("shape", [(61, 83, 3), (17, 300, 1)])
def test_predictions_and_tables_are_those_of_numpy(
    units: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    from licodec.codecs import lossless_compiled

    rng = np.random.default_rng(sum(units))
    nets, table_of = wild_nets(units, 3), rng.integers(0, 120, 4 * pilc.ACTIVITIES).astype(np.uint8)
    tables_of = dict.fromkeys(groups(3), table_of)
    group = 0, shape[2] - 1, "B1"
    other = rng.integers(-128, 128, near(*group[1:]).size).astype(np.int8)
    first = nets[group].first.copy()
    first[0] = 0
    changed = {group: pilc.corrected(dataclasses.replace(nets[group], first=first), group, other)}
    for tile in (rng.integers(0, 256, shape).astype(np.uint8), photograph(*shape)):
        asked = [
            pilc.streams_of([tile], [pilc.Looking({**nets, **changed}, tables_of, pilc.Scratch())]),
            pilc.streams_of([tile], [lossless_compiled.nets_of(nets).looking(changed, tables_of)], np.int16),
        ]
        for ours, theirs in zip(asked[0][0], asked[1][0], strict=True):
            assert ours.group == theirs.group
            np.testing.assert_array_equal(ours.symbols, theirs.symbols)
            np.testing.assert_array_equal(ours.tables, theirs.tables)


@pytest.mark.parametrize(
    ("outputs", "samples", "shift"), [(4, 16, 0), (4, 16, 6), (1, 64, None), (2, 32, None), (4, 16, None)]
)
def test_products_are_the_same_on_processors_without_the_instruction(
    outputs: int, samples: int, shift: int | None
) -> None:
    from licodec.codecs import lossless_compiled

    of_pairs, one_by_one = (
        lossless_compiled.products(outputs, samples, shift, paired)
        for paired in (lossless_compiled.HAS_PMADDWD, False)
    )

    def both(w: int, b: int, x: int, out: int, other: int) -> None:
        of_pairs(np.uintp(w), np.uintp(b), np.uintp(x), np.uintp(out), 12, samples)
        one_by_one(np.uintp(w), np.uintp(b), np.uintp(x), np.uintp(other), 12, samples)

    rng = np.random.default_rng(1)
    weights = rng.integers(-3000, 3001, (outputs, 24), dtype=np.int16)
    x = rng.integers(-510, 511, (24, samples), dtype=np.int16)
    x[0], weights[:, 0] = 32767, [511, -511, 0, 1][:outputs]
    bias = rng.integers(-9, 9, outputs).astype(np.int32)
    pairs = np.ascontiguousarray(weights.view(np.int32).T)
    columns = np.ascontiguousarray(x.T).view(np.int32).T.copy()
    found = np.zeros((2, outputs, samples), np.int32)
    addresses = (array.ctypes.data for array in (pairs, bias, columns, *found))
    compiled.function(both)(*addresses)
    expected = weights.astype(np.int64) @ x + bias[:, None]
    for out in found:
        if shift is None:
            np.testing.assert_array_equal(out, expected)
        else:
            clipped = np.clip(expected >> shift, 0, pilc.HIDDEN_MAX)
            np.testing.assert_array_equal(out[: outputs // 2] & 65535, clipped[0::2])
            np.testing.assert_array_equal(out[: outputs // 2] >> 16, clipped[1::2])


def test_flips_are_those_of_numpy() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for height, width in ((40, 64), (41, 64), (40, 3), (2, 200), (300, 90), (64, 64)):
        tile = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        for axis in (0, 1):  # colours that are smooth at odd rows or columns
            smooth = tile.astype(np.int64).swapaxes(0, 1) if axis else tile.astype(np.int64)
            smooth[1:-1:2] = (smooth[:-2:2] + smooth[2::2][: len(smooth[1:-1:2])]) // 2
            turned = smooth.swapaxes(0, 1) if axis else smooth
            for each in (turned, turned[::-1], turned[:, ::-1], tile):
                samples = each.astype(np.uint8)
                seen.add(pilc._flips(samples))
                assert pilc._flips(samples, compiled=True) == pilc._flips(samples)
    assert len(seen) > 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (3, 4), (37, 20), (16, 53)])
def test_lattices_are_those_of_numpy(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    values = rng.integers(0, 256, (2, 2 * height, 3 * width)).astype(np.int16)[:, ::2, ::3]
    ours, theirs = ([lattices.lattice_of(each.astype(kind)) for each in values] for kind in (float, np.int16))
    for one, other, expected in zip(ours, theirs, values, strict=True):
        np.testing.assert_array_equal(one.stack, other.stack)
        for lattice in (one, other):
            out = np.zeros((height, width, 3), np.uint8)
            lattice.write(out[:, :, 1])
            np.testing.assert_array_equal(out[:, :, 1], expected)
    for first, second in (ours, theirs):
        out = np.zeros((height, width), np.uint8)
        lattices.lattice_of(second.samples() - first.samples()).write(out, first)
        np.testing.assert_array_equal(out, values[1])


def test_what_corrections_are_fitted_to_is_that_of_numpy(plain: pilc.Lossless, quick: pilc.Lossless) -> None:
    tile = photograph(70, 90).astype(np.int16)
    for step in lattices.PASSES:
        found = []
        for codec in (plain, quick):
            planes = [
                lattices.lattice_of(plane.astype(codec.dtype))
                for plane in (tile[:, :, 1], tile[:, :, 0] - tile[:, :, 1], tile[:, :, 2] - tile[:, :, 1])
            ]
            look = codec.look({}, Adaptation(), pilc.Scratch())
            h, w = planes[2].size(step.target)
            found.append(look.see(step, planes[2], planes[:2], pilc.rows_to_fit(h, w)))
        ours, theirs = found
        for name in ("x", "wanted", "linear", "correction", "activity"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        for sums, expected in zip(theirs.moments(), ours.moments(), strict=True):
            np.testing.assert_array_equal(sums, expected)
        correction = np.arange(len(ours.x), dtype=np.int8) % 7 - 3
        table_of, costs = plain.tables_of(Adaptation())[0, 2, step.name], plain.costs.of_tables
        gain = ours.gain(correction, table_of, costs)
        assert gain == theirs.gain(correction, table_of, costs) != 0


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(1, 1, 3), (1, 40, 1), (33, 18, 3), (17, 16, 1), (600, 530, 3)]
)
def test_bytes_and_samples_are_those_of_numpy(
    plain: pilc.Lossless, quick: pilc.Lossless, height: int, width: int, channels: int
) -> None:
    samples = photograph(height, width, channels)
    file = file_of(quick, samples)
    assert file == file_of(plain, samples)
    for codec in (quick, plain):
        np.testing.assert_array_equal(codec.decode(file).planes, samples)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads_gives_the_same(quick: pilc.Lossless, count: int) -> None:
    samples = photograph(300, 1400)
    file = file_of(quick, samples)
    assert len(file.units) > 1
    with threads.limited(count):
        assert file_of(quick, samples) == file
        np.testing.assert_array_equal(quick.decode(file).planes, samples)


def test_a_model_turns_to_compiled_loops_when_they_have_paid(
    loaded: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, samples = pilc.build(loaded, "cpu"), photograph(40, 50)
    monkeypatch.setattr(pilc, "WORTH_COMPILING", 2 * samples.size)
    for expected in (False, False, True):
        coded = codec.encode(Picture(samples), rate=0)
        assert codec.compiled is expected
    monkeypatch.setattr(compiled, "here", lambda: False)
    without = pilc.build(loaded, "cpu")
    without.compile()
    assert not without.compiled
    assert without.encode(Picture(samples), rate=0) == coded


# --- lanes ------------------------------------------------------------------------------------------


def some_tables(rng: np.random.Generator) -> lanes.LaneTables:
    frequencies = np.zeros((3, 256), np.int64)
    frequencies[0] = 16
    frequencies[1, [0, 1, 255, 128]] = 4000, 50, 40, 6
    frequencies[2, 7], frequencies[2, 128] = 4095, 1
    spread = rng.integers(1, 200, 20)
    frequencies = np.vstack([frequencies, np.zeros((1, 256), np.int64)])
    frequencies[3, :20], frequencies[3, 128] = spread, 4096 - spread.sum()
    return lanes.LaneTables(frequencies)


Stages = list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


def some_stages(rng: np.random.Generator, sizes: list[int]) -> Stages:
    return [
        (
            np.where(rng.random(n) < 0.8, rng.integers(0, 9, n), rng.integers(0, 256, n)).astype(np.uint8),
            rng.integers(0, 4, n).astype(np.uint8),
        )
        for n in sizes
    ]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    sizes=st.lists(st.integers(0, 700), max_size=4),
    more=st.lists(st.integers(0, 90), max_size=3),
    exponents=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_lanes_are_those_of_numpy(
    seed: int, sizes: list[int], more: list[int], exponents: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    tables, tiles = some_tables(rng), [some_stages(rng, sizes), some_stages(rng, more)]
    counts = [1 << each for each in exponents]
    bodies = lanes.encode_many(tiles, tables, counts, compiled=True)
    assert bodies == lanes.encode_many(tiles, tables, counts)
    decoder = lanes.LaneDecoder(bodies, tables, compiled=True)
    nothing = np.empty(0, np.uint8)
    for stage in range(max(len(sizes), len(more))):
        wanted = [tile[stage] if stage < len(tile) else (nothing, nothing) for tile in tiles]
        for (symbols, _), found in zip(wanted, decoder.get([index for _, index in wanted]), strict=True):
            np.testing.assert_array_equal(found, symbols)
    decoder.close()


def test_damaged_lanes_end_as_in_numpy() -> None:
    rng = np.random.default_rng(4)
    tables, stages = some_tables(rng), some_stages(rng, [90, 40])
    body = lanes.encode(stages, tables, 4)
    damaged = [body[:length] for length in range(len(body))]
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))

    def ending(data: bytes, compiled: bool) -> object:
        try:
            decoder = lanes.LaneDecoder([data], tables, compiled=compiled)
            found = [decoder.get([index])[0].tolist() for _, index in stages]
            decoder.close()
            return found
        except FormatError as error:
            return str(error)

    for data in damaged:
        assert ending(data, True) == ending(data, False)

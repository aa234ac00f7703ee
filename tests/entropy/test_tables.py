"""Promises of the probability tables: the committed integers, their canonical form, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic_format.errors import UsageTypeError, UsageValueError, WeightsError
from licodec.entropy import tables as tables_module
from licodec.entropy.reference import escape_bytes
from licodec.entropy.tables import (
    FAMILIES,
    LIMIT_MAX,
    SCALES,
    TOTAL,
    TableSet,
    load_set,
    quantise,
    scale_grid,
)

ROOT = Path(__file__).parents[2]
SET1_SHA256 = "54a06e4d84e81801419919326af6bd172bf4a76d31d230db65fdae64e7b79727"


def builder() -> ModuleType:
    pytest.importorskip("scipy")
    spec = importlib.util.spec_from_file_location("build_tables", ROOT / "tools" / "build_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_set_1_is_the_committed_one() -> None:
    committed = (Path(tables_module.__file__).parent / "tables" / "set1.bin").read_bytes()
    tables = load_set()
    assert hashlib.sha256(committed).hexdigest() == SET1_SHA256
    assert tables.digest.hex() == SET1_SHA256
    assert tables.to_bytes() == committed
    assert (tables.id, tables.count) == (1, len(FAMILIES) * SCALES)
    assert load_set(1) is tables


def test_the_build_script_leads_to_the_committed_set() -> None:
    """Another scipy may move single units; shapes, limits and everything larger must agree."""
    built, committed = builder().build(), load_set()
    assert built.limits.tolist() == committed.limits.tolist()
    for i in range(committed.count):
        difference = built.frequencies(i).astype(int) - committed.frequencies(i).astype(int)
        assert np.abs(difference).max() <= 2, f"table {i}"


def test_every_table_adds_up_and_has_no_empty_entry() -> None:
    tables = load_set()
    for i in range(tables.count):
        frequencies, cumulative = tables.frequencies(i), tables.cumulative(i)
        assert frequencies.size == 2 * tables.limit(i) + 2
        assert frequencies.min() >= 1
        assert int(frequencies.sum()) == TOTAL
        assert np.diff(cumulative.astype(int)).tolist() == frequencies.tolist()
        assert (cumulative[0], cumulative[-1]) == (0, TOTAL)


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_the_scale_of_every_family_is_its_standard_deviation(family: int) -> None:
    """Checked where neither the tail nor the width of a step hides it."""
    for scale in range(28, 41):
        i = family * SCALES + scale
        limit, frequencies = load_set().limit(i), load_set().frequencies(i)[:-1].astype(float)
        q = np.arange(-limit, limit + 1)
        variance = (frequencies * q * q).sum() / frequencies.sum() - 1 / 12  # a step adds its own
        assert math.sqrt(variance) == pytest.approx(scale_grid()[scale], rel=0.01)


def test_families_of_one_scale_differ_as_their_names_say() -> None:
    tables = [family * SCALES + 36 for family in range(len(FAMILIES))]
    limits = [load_set().limit(i) for i in tables]
    peaks = [int(load_set().frequencies(i)[load_set().limit(i)]) for i in tables]
    assert limits[0] < min(limits[1:]), "a Gaussian has the shortest tail"
    assert peaks[0] < peaks[1] < peaks[2], "a Laplacian has the highest peak"


def test_cheapest_bits_belong_to_the_greatest_frequency() -> None:
    tables = load_set()
    greatest = max(int(tables.frequencies(i).max()) for i in range(tables.count))
    assert greatest == 65533
    assert tables.cheapest_bits == pytest.approx(-math.log2(greatest / TOTAL))


def test_bits_price_symbols_and_escapes() -> None:
    tables = load_set()
    bits = tables.bits()
    assert bits.shape == (192, 2 * LIMIT_MAX + 1)
    assert bits.dtype == np.float32
    for i in (0, 5, 40, 63, 64, 100, 191):
        limit, frequencies = tables.limit(i), tables.frequencies(i)
        for q in range(-LIMIT_MAX, LIMIT_MAX + 1):
            if abs(q) <= limit:
                expected = -math.log2(frequencies[q + limit] / TOTAL)
            else:
                expected = -math.log2(frequencies[-1] / TOTAL) + 8 * len(escape_bytes(q, limit))
            assert bits[i, LIMIT_MAX + q] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_bits_of_one_caller_are_not_those_of_another() -> None:
    load_set().bits()[:] = 0
    assert load_set().bits().min() > 0


def test_a_set_cannot_be_changed() -> None:
    tables = load_set()
    with pytest.raises(AttributeError):
        tables.id = 2
    for array in (tables.frequencies(3), tables.limits):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("limits", "frequencies", "says"),
    [
        ([1], [1, 65533, 1, 2], "adds up to 65537"),
        ([1], [1, 65532, 1, 1], "adds up to 65535"),
        ([1], [0, 65534, 1, 1], "frequency 0"),
        ([1], [-1, 65535, 1, 1], "frequency -1"),
        ([0, 1], [65535, 1, 1, 70000, 1, 1], "table 1, entry 1: frequency 70000"),
        ([0], [0, 65536], "frequency 0"),
        ([1], [65535, 1], "ask for 4 frequencies, found 2"),
        ([256], [1] * 514, "limits must be 0..255"),
        ([-1], [1, 65535], "limits must be 0..255"),
        ([], [], "vector of integers"),
        ([1], [1.0, 65533.0, 1.0, 1.0], "vector of integers"),
        ([1], [[1, 65533, 1, 1]], "vector of integers"),
    ],
)
def test_wrong_tables_are_refused_by_name(limits: list[int], frequencies: list[int], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        TableSet(9, limits, frequencies)


@pytest.mark.parametrize("set_id", [0, -1, 256])
def test_wrong_set_ids_are_refused(set_id: int) -> None:
    with pytest.raises(WeightsError, match=r"1\.\.255"):
        TableSet(set_id, [0], [65535, 1])


def test_odd_or_empty_vectors_are_no_tables() -> None:
    for vector in (np.array([1, 65534, 1]), np.array([], int), np.array([[1, 65535]])):
        with pytest.raises(WeightsError, match=r"needs 2L\+2 entries"):
            TableSet.from_tables(9, [vector])


def test_a_damaged_table_file_is_refused_or_has_another_digest() -> None:
    tables = TableSet.from_tables(7, [[1, 65533, 1, 1], [65000, 536], [100, 200, 65000, 200, 30, 6]])
    data = tables.to_bytes()
    assert TableSet.from_bytes(data).digest == tables.digest
    for length in range(len(data)):
        with pytest.raises(WeightsError):
            TableSet.from_bytes(data[:length])
    with pytest.raises(WeightsError):
        TableSet.from_bytes(data + b"\0\0")
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(WeightsError):
            assert TableSet.from_bytes(bytes(damaged)).digest != tables.digest


def test_large_sets_take_wide_indices() -> None:
    small = TableSet.from_tables(200, [[65535, 1]] * 255)
    large = TableSet.from_tables(200, [[65535, 1]] * 256)
    assert (small.index_dtype.name, small.not_coded) == ("uint8", 255)
    assert (large.index_dtype.name, large.not_coded) == ("uint16", 65535)


def test_unknown_sets_and_tables_are_usage_errors() -> None:
    with pytest.raises(UsageValueError, match="table sets 1, found 2"):
        load_set(2)
    with pytest.raises(UsageTypeError, match="integer"):
        load_set("1")  # type: ignore[arg-type]
    for index in (-1, 192, 255):
        with pytest.raises(UsageValueError, match=r"0\.\.191"):
            load_set().frequencies(index)


@given(st.integers(0, LIMIT_MAX), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 10.0]))
@settings(max_examples=100, deadline=None)
def test_quantised_probabilities_are_a_table_near_the_ideal(
    limit: int, seed: int, concentration: float
) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(2 * limit + 2, concentration))
    table = TableSet.from_tables(9, [quantise(p)])  # valid, or this raises
    frequencies = table.frequencies(0).astype(float)
    some = p > 0
    excess = (p[some] * np.log2(p[some] * TOTAL / frequencies[some])).sum()
    assert -1e-9 <= excess <= 1.5 * p.size / TOTAL, "more than the least frequencies cost"
    gain = p * np.log2((frequencies + 1) / frequencies)
    loss = p * np.log2(frequencies / np.maximum(frequencies - 1, 0.5))
    assert gain.max() - loss[frequencies > 1].min() <= 2e-5, "moving one unit would save bits"


@pytest.mark.parametrize(
    "wrong", [[], [1.0], [1, 1, 1], [math.nan, 1], [-0.1, 1], [0, 0], [math.inf, 1], [[1, 1]]]
)
def test_what_is_no_probability_vector_is_refused(wrong: list[float]) -> None:
    with pytest.raises(UsageValueError, match="probabilities"):
        quantise(wrong)

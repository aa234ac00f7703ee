"""Promises of the lanes: one specification, one fast coder, the same bytes; several tiles as each alone."""

from __future__ import annotations

import doctest
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lic_format.errors import FormatError, UsageError, WeightsError
from licodec.entropy import lanes
from licodec.entropy import lanes_reference as reference
from licodec.entropy.lanes import LaneDecoder, LaneTables, Stage, encode, encode_many, lanes_for
from tests.memory import bounded

ROOT = Path(__file__).parents[2]

# Table 0 codes three residuals and the escape, 1 is full and flat, 2 escapes everything and costs no bits.
GOLDEN_TABLES: list[dict[int, int]] = [
    {0: 2000, 1: 1000, 128: 96, 255: 1000},
    {symbol: 16 for symbol in range(256)},
    {128: 4096},
]
# Three stages on 4 lanes, two with a partial row: (symbols, table indices).
GOLDEN_STAGES = [
    ([0, 1, 255, 0, 2, 0], [0, 0, 0, 0, 0, 0]),
    ([128, 127, 3, 9, 128, 0, 1, 0], [1, 1, 1, 1, 0, 0, 2, 0]),
    ([255, 10, 20, 30, 40, 50, 60], [0, 1, 1, 1, 1, 1, 1]),
]
GOLDEN_BODY = bytes.fromhex(
    "02 03 02 80 01 bd a5 a8 3b 70 c8 fe 10 d0 bc 1d 04 cc 14 04 00 08 3c a0 46 20 03 c0 03"
)


def golden_frequencies() -> npt.NDArray[np.int64]:
    rows = np.zeros((len(GOLDEN_TABLES), 256), np.int64)
    for row, table in zip(rows, GOLDEN_TABLES, strict=True):
        row[list(table)] = list(table.values())
    return rows


def stages_of(lists: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Stage]:
    return [(np.array(symbols, np.uint8), np.array(index, np.uint8)) for symbols, index in lists]


def lists_of(stages: Sequence[Stage]) -> list[tuple[list[int], list[int]]]:
    return [(symbols.tolist(), index.tolist()) for symbols, index in stages]


def random_frequencies(rng: np.random.Generator, tables: int) -> npt.NDArray[np.int64]:
    """Tables of every kind: full, of few symbols, of the escape alone; peaked and flat."""
    rows = np.zeros((tables, 256), np.int64)
    for row in rows:
        count = int(rng.choice([1, 2, 5, 60, 256]))
        used = np.union1d(rng.choice(256, count, replace=False), [128])
        weights = rng.dirichlet(np.full(used.size, rng.choice([0.05, 1, 50])))
        row[used] = 1 + rng.multinomial(4096 - used.size, weights)
    return rows


def symbol_at(frequencies: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The symbol that each of the 4096 slots of each table belongs to."""
    symbols = np.tile(np.arange(256, dtype=np.uint8), len(frequencies))
    return symbols.repeat(frequencies.ravel()).reshape(-1, 4096)


def random_stage(rng: np.random.Generator, frequencies: npt.NDArray[np.int64], count: int) -> Stage:
    """Symbols as the tables expect them, and one in fifty of any value."""
    index = rng.integers(0, len(frequencies), count).astype(np.uint8)
    symbols = symbol_at(frequencies)[index, rng.integers(0, 4096, count)]
    odd = rng.random(count) < 0.02
    symbols[odd] = rng.integers(0, 256, int(odd.sum()))
    return symbols, index


def decode(
    bodies: Sequence[bytes | memoryview],
    indices: Sequence[Sequence[npt.NDArray[np.uint8]]],
    tables: LaneTables,
) -> list[list[list[int]]]:
    """Symbols of each stage of each tile; ``indices`` by tile and stage."""
    decoder = LaneDecoder(bodies, tables)
    stages = [decoder.get(of_stage) for of_stage in zip(*indices, strict=True)]
    decoder.close()
    return [[symbols[tile].tolist() for symbols in stages] for tile in range(len(bodies))]


# --- one stream, written and read in two ways -----------------------------------------------------------


def test_golden_body_is_written_and_read() -> None:
    tables, stages = LaneTables(golden_frequencies()), stages_of(GOLDEN_STAGES)
    assert encode(stages, tables, 4) == GOLDEN_BODY
    symbols = [s for s, _ in GOLDEN_STAGES]
    assert decode([GOLDEN_BODY], [[i for _, i in stages]], tables) == [symbols]
    # The same beside itself, and behind a tile on other lanes.
    other = encode(stages, tables, 64)
    both = decode([other, memoryview(GOLDEN_BODY), GOLDEN_BODY], [[i for _, i in stages]] * 3, tables)
    assert both == [symbols] * 3


def test_golden_body_of_the_specification() -> None:
    frequencies = golden_frequencies().tolist()
    assert reference.encode_tile(GOLDEN_STAGES, frequencies, 4) == GOLDEN_BODY
    decoded = reference.decode_tile(GOLDEN_BODY, [i for _, i in GOLDEN_STAGES], frequencies)
    assert decoded == [s for s, _ in GOLDEN_STAGES]


def test_the_chapter_has_the_golden_body() -> None:
    chapter = (ROOT / "SPEC.md").read_text().split("\n## Lanes")[1].split("\n## ")[0]
    digits = "".join(re.findall(r"\b[0-9a-f]{2}\b", chapter.split("```")[-2]))
    assert bytes.fromhex(digits) == GOLDEN_BODY
    for row, part in (("symbols", 0), ("table index", 1)):
        cells = next(x for x in chapter.splitlines() if x.startswith(f"| {row} |")).strip("|").split("|")[1:]
        assert [[int(x) for x in cell.split()] for cell in cells] == [s[part] for s in GOLDEN_STAGES]
    for table, frequencies in enumerate(GOLDEN_TABLES):
        row = next(x for x in chapter.splitlines() if x.startswith(f"| table {table} |"))
        said = {int(s): int(f) for s, f in re.findall(r"(\d+): (\d+)", row)}
        assert said == frequencies if table != 1 else "16 each" in row


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    tiles=st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.integers(0, 700), min_size=3, max_size=3)),
        min_size=1,
        max_size=4,
    ),
)
def test_both_coders_write_the_same_bytes_and_read_them(
    seed: int, tiles: list[tuple[int, list[int]]]
) -> None:
    rng = np.random.default_rng(seed)
    frequencies = random_frequencies(rng, int(rng.integers(1, 6)))
    tables, lists = LaneTables(frequencies), frequencies.tolist()
    stages = [[random_stage(rng, frequencies, n) for n in counts] for _, counts in tiles]
    bodies = encode_many(stages, tables, [1 << log2 for log2, _ in tiles])
    for body, of_tile, (log2, _) in zip(bodies, stages, tiles, strict=True):
        assert body == reference.encode_tile(lists_of(of_tile), lists, 1 << log2)
        wanted = [symbols.tolist() for symbols, _ in of_tile]
        assert reference.decode_tile(body, [i.tolist() for _, i in of_tile], lists) == wanted
    decoded = decode(bodies, [[i for _, i in of_tile] for of_tile in stages], tables)
    assert decoded == [[symbols.tolist() for symbols, _ in of_tile] for of_tile in stages]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_tiles_in_lockstep_are_as_each_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frequencies = random_frequencies(rng, int(rng.choice([1, 9, 128])))
    tables = LaneTables(frequencies)
    lanes = [1 << int(rng.integers(0, 10)) for _ in range(int(rng.integers(1, 7)))]
    stages = [[random_stage(rng, frequencies, int(rng.integers(0, 3000))) for _ in range(3)] for _ in lanes]
    bodies = encode_many(stages, tables, lanes)
    assert bodies == [encode(of_tile, tables, n) for of_tile, n in zip(stages, lanes, strict=True)]
    decoded = decode(bodies, [[i for _, i in of_tile] for of_tile in stages], tables)
    for body, of_tile, symbols in zip(bodies, stages, decoded, strict=True):
        assert symbols == [s.tolist() for s, _ in of_tile]
        assert decode([body], [[i for _, i in of_tile]], tables) == [symbols]


def test_a_large_tile_is_read_back() -> None:
    rng = np.random.default_rng(5)
    frequencies = random_frequencies(rng, 72)
    tables = LaneTables(frequencies)
    stages = [random_stage(rng, frequencies, n) for n in (64, 65_536, 1, 40_000)]
    body = encode(stages, tables, 512)
    assert decode([body], [[i for _, i in stages]], tables) == [[s.tolist() for s, _ in stages]]


def test_dividing_in_floats_is_exact_at_every_frequency() -> None:
    """The encoder's quotients where they are nearest to failing: around multiples of f, up to f * 2**20."""
    quotients = np.concatenate([[0, 1, 2, 3], 2 ** np.arange(2, 20), 2 ** np.arange(2, 20) + 1, [2**20 - 1]])
    for f in range(1, 4097):
        x = np.unique(np.concatenate([quotients * f, quotients * f + f - 1]))
        x = x[(x >= 1 << 16) & (x < f << 20)]
        reciprocal = (1 + 2.0**-51) / np.float64(f)
        assert (np.floor(x.astype(np.float64) * reciprocal).astype(np.int64) == x // f).all(), f


def test_a_state_at_the_limit_gives_up_a_word() -> None:
    """A flat table's first symbol leads from 2**16 to 2**24, its frequency times 2**20, exactly."""
    symbols, index = [0, 0], [1, 1]
    body = encode(stages_of([(symbols, index)]), LaneTables(golden_frequencies()), 1)
    assert body == reference.encode_tile([(symbols, index)], golden_frequencies().tolist(), 1)
    assert body == bytes.fromhex("00 00 00 00 01 00 00 00")


# --- what stands in a body -------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [lanes, reference], ids=lambda module: module.__name__)
def test_the_examples_in_the_modules_hold(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


def test_an_empty_tile_is_its_lanes() -> None:
    tables = LaneTables(golden_frequencies())
    body = bytes.fromhex("01 00 00000100 00000100")
    assert encode([], tables, 2) == encode(stages_of([([], [])]), tables, 2) == body
    LaneDecoder([body], tables).close()
    assert LaneDecoder([], tables).get([]) == []


def test_what_a_table_lacks_is_kept_as_raw_bytes_in_coding_order() -> None:
    tables = LaneTables(golden_frequencies())
    stages = stages_of([([7, 0, 128], [0, 0, 0]), ([128, 200], [1, 0])])  # 128 is a symbol of table 1
    body = encode(stages, tables, 1)
    assert body[:5] == bytes([0, 3, 7, 128, 200])
    assert decode([body], [[i for _, i in stages]], tables) == [[[7, 0, 128], [128, 200]]]


def test_a_certain_symbol_costs_nothing() -> None:
    tables = LaneTables(golden_frequencies())
    symbols, index = np.arange(256, dtype=np.uint8), np.full(256, 2, np.uint8)
    body = encode([(symbols, index)], tables, 4)
    assert len(body) == 1 + 2 + 256 + 4 * 4  # the raw bytes, no word
    assert decode([body], [[index]], tables) == [[symbols.tolist()]]


def test_bytes_are_near_the_entropy() -> None:
    rng = np.random.default_rng(3)
    frequencies = random_frequencies(rng, 20)
    index = rng.integers(0, 20, 300_000).astype(np.uint8)
    slots = rng.integers(0, 4096, index.size)
    symbols = symbol_at(frequencies)[index, slots]
    tables = LaneTables(frequencies)
    body = encode([(symbols, index)], tables, lanes_for(symbols.size))
    ideal = -np.log2(frequencies[index, symbols] / 4096).sum() / 8
    escapes = int(((symbols == 128) & ~tables.full[index]).sum())
    assert len(body) - escapes < ideal * 1.001 + 3 * lanes_for(symbols.size) + 8


def test_lanes_are_one_for_about_3072_symbols() -> None:
    assert [lanes_for(n) for n in (0, 1, 3072, 4344, 4345, 6144)] == [1, 1, 1, 1, 2, 2]
    assert [lanes_for(3072 * n) for n in (4, 100, 181, 182, 362, 512, 10_000)] == [
        4,
        128,
        128,
        256,
        256,
        512,
        512,
    ]


def test_what_a_decoder_looks_up() -> None:
    frequencies = golden_frequencies()
    slots = LaneTables(frequencies).slots
    for table, row in enumerate(frequencies.tolist()):
        start = 0
        for symbol, frequency in enumerate(row):
            for bias in {0, frequency - 1} if frequency else ():
                entry = int(slots[table, start + bias])
                assert (entry >> 24, (entry >> 12 & 4095) + 1, entry & 4095) == (symbol, frequency, bias)
            start += frequency


# --- bad bytes -------------------------------------------------------------------------------------------


def damaged_body() -> tuple[bytes, LaneTables, list[Stage]]:
    rng = np.random.default_rng(9)
    frequencies = random_frequencies(rng, 3)
    frequencies[0] = golden_frequencies()[0]
    stages = [random_stage(rng, frequencies, n) for n in (5, 26, 13)]
    tables = LaneTables(frequencies)
    return encode(stages, tables, 4), tables, stages


def outcome(body: bytes, tables: LaneTables, stages: list[Stage]) -> list[list[int]] | None:
    """Symbols alone, the same as the specification and as beside a sound tile; None for a FormatError."""
    indices = [i for _, i in stages]
    frequencies = tables.frequencies.tolist()
    try:
        found = decode([body], [indices], tables)[0]
    except FormatError:
        with pytest.raises(FormatError):
            reference.decode_tile(body, [i.tolist() for i in indices], frequencies)
        for bodies in ([body, GOLDEN_NEIGHBOUR], [GOLDEN_NEIGHBOUR, body]):
            with pytest.raises(FormatError):
                sound = [i for _, i in stages]
                decode(bodies, [sound, sound], tables)
        return None
    assert reference.decode_tile(body, [i.tolist() for i in indices], frequencies) == found
    return found


GOLDEN_NEIGHBOUR = damaged_body()[0]


def test_truncated_body_is_refused_at_every_byte() -> None:
    body, tables, stages = damaged_body()
    assert outcome(body, tables, stages) == [s.tolist() for s, _ in stages]
    for length in range(len(body)):
        assert outcome(body[:length], tables, stages) is None, length
    for more in (b"\0", b"\0\0", body):
        assert outcome(body + more, tables, stages) is None


def test_flipped_bits_give_an_error_or_other_symbols() -> None:
    body, tables, stages = damaged_body()
    wanted = [s.tolist() for s, _ in stages]
    changed = 0
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        found = outcome(bytes(flipped), tables, stages)
        assert found != wanted, bit
        changed += found is not None
    assert changed < len(body)  # raw bytes of escapes only


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=80), seed=st.integers(0, 99))
def test_any_bytes_give_symbols_or_an_error(body: bytes, seed: int) -> None:
    _, tables, stages = damaged_body()
    outcome(bytes([seed % 4]) + body, tables, stages)


def body_of(head: str, states: Sequence[int], words: Sequence[int] = ()) -> bytes:
    return bytes.fromhex(head) + np.array(states, "<u4").tobytes() + np.array(words, "<u2").tobytes()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (body_of("0a 00", [1 << 16] * 1024), r"lanes: 2\^10 of them, at most 2\^9"),
        (body_of("00 80", []), "the bytes end inside a number"),
        (body_of("00 80 00", [1 << 16]), "shortest form"),
        (b"\0" + b"\xff" * 30, "more than 5 bytes"),
        (body_of("00 ff ff ff ff 0f", [1 << 16]), "4294967295 escapes and 1 states take"),
        (body_of("01 00", [1 << 16]), "0 escapes and 2 states take 10 bytes, the body has 6"),
        (body_of("00 00", [1 << 16]) + b"\0", "words: 1 bytes, expected 2 each"),
        (body_of("01 00", [1 << 16, 65535]), "lane 1: starts in state 65535, the smallest is 65536"),
        (body_of("00 00", [1 << 16], [5]), "words: 1 of 1 are left over"),
        (body_of("00 01 07", [1 << 16]), "escapes: 1 of 1 are left over"),
        (body_of("01 00", [1 << 16, 1 << 20]), "lane 1: ends in state 1048576, expected 65536"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, message: str) -> None:
    tables = LaneTables(golden_frequencies())
    with pytest.raises(FormatError, match=message):
        LaneDecoder([body], tables).close()
    with pytest.raises(FormatError, match=message):
        reference.decode_tile(body, [], golden_frequencies().tolist())
    good = encode([], tables, 8)
    with pytest.raises(FormatError, match=message):
        LaneDecoder([good, body], tables).close()


def test_symbols_that_ask_for_more_than_there_is() -> None:
    tables = LaneTables(golden_frequencies())
    index = np.ones(64, np.uint8)
    bare = body_of("00 00", [1 << 16])
    with pytest.raises(FormatError, match=r"^words: 0 are stored, the symbols ask for more"):
        LaneDecoder([bare], tables).get([index])
    full = encode([(index, index)] * 2, tables, 1)
    for bodies, tile in (([bare, full], 0), ([full, bare], 1), ([full, bare, full], 1)):
        with pytest.raises(FormatError, match=f"^tile {tile} of {len(bodies)}: words: 0 are stored"):
            LaneDecoder(bodies, tables).get([index] * len(bodies))
    with pytest.raises(FormatError, match="escapes: 0 are stored, the symbols ask for more"):
        LaneDecoder([bare], tables).get([np.full(1, 2, np.uint8)])


def test_an_escape_that_its_table_codes_is_refused() -> None:
    tables = LaneTables(golden_frequencies())
    stages = stages_of([([7, 0], [0, 0])])
    body = bytearray(encode(stages, tables, 1))
    assert body[2] == 7
    body[2] = 255
    with pytest.raises(FormatError, match="escapes: 255 is escaped, table 0 has it"):
        LaneDecoder([bytes(body)], tables).get([stages[0][1]])


def test_other_tables_are_noticed() -> None:
    body, tables, stages = damaged_body()
    frequencies = tables.frequencies.astype(np.int64)
    used = frequencies[2].argmax()
    frequencies[2, [used, 128]] += [-1, 1]
    assert outcome(body, LaneTables(frequencies), stages) is None


def test_memory_follows_from_what_the_caller_asks_for() -> None:
    tables = LaneTables(golden_frequencies())
    claims = body_of("09 ff ff ff ff 0f", [1 << 16])
    with bounded(100_000), pytest.raises(FormatError):
        LaneDecoder([claims], tables)
    words = body_of("00 00", [1 << 16], [0] * 500_000)
    index = np.zeros(2_000_000, np.uint8)
    blocks = 2 * 8 * (1 << 15)
    with bounded(5 * len(words) + blocks + 4 * 10_000), pytest.raises(FormatError):
        LaneDecoder([words], tables).get([index[:10_000]])
    certain = body_of("09 00", [1 << 16] * 512)
    index[:] = 1
    start = time.perf_counter()
    with bounded(2 * index.size + blocks + 100_000), pytest.raises(FormatError):
        LaneDecoder([certain], tables).get([index])
    assert time.perf_counter() - start < 5


# --- bad arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[0], r"expected integers \[tables, 256\], found int64 of shape \(256,\)"),
        (lambda f: f.astype(float), r"found float64 of shape"),
        (lambda f: f[:, :255], r"of shape \(3, 255\)"),
        (lambda f: f[:0], "expected 1..128 tables, found 0"),
        (lambda f: f.repeat(50, 0), "expected 1..128 tables, found 150"),
        (lambda f: f - 1, "table 0, symbol 2: frequency -1 is outside 0..4096"),
        (lambda f: f + np.eye(3, 256, dtype=int), "table 0 adds up to 4097, expected 4096"),
        (lambda f: np.roll(f, 1, 1), r"table 0 codes neither all symbols nor the escape \(symbol 128\)"),
    ],
)
def test_wrong_tables_are_refused(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(WeightsError, match=message):
        LaneTables(change(golden_frequencies()))


def test_tables_are_immutable() -> None:
    tables = LaneTables(golden_frequencies())
    with pytest.raises(AttributeError, match="immutable"):
        tables.count = 2
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0, 0] = 1


def test_wrong_arguments_are_refused() -> None:
    tables = LaneTables(golden_frequencies())
    zeros = np.zeros(4, np.uint8)
    for count in (0, 3, 1024, -1):
        with pytest.raises(UsageError, match=f"lanes: expected a power of two, 1..512, found {count}"):
            encode([(zeros, zeros)], tables, count)
    with pytest.raises(UsageError, match="lanes: 1 numbers for 2 tiles"):
        encode_many([[], []], tables, [1])
    with pytest.raises(UsageError, match="symbols: 4 of them for 3 table indices"):
        encode([(zeros, zeros[:3])], tables, 1)
    with pytest.raises(UsageError, match=r"symbols: expected a vector of uint8, found int64"):
        encode([(zeros.astype(np.int64), zeros)], tables, 1)
    with pytest.raises(UsageError, match=r"table indices: expected 0..2, found 3"):
        encode([(zeros, zeros + np.uint8(3))], tables, 1)
    decoder = LaneDecoder([encode([(zeros, zeros)], tables, 1)], tables)
    with pytest.raises(UsageError, match="indices: 2 arrays for 1 tiles"):
        decoder.get([zeros, zeros])
    with pytest.raises(
        UsageError, match=r"indices: expected a vector of uint8, found uint8 of shape \(2, 2\)"
    ):
        decoder.get([zeros.reshape(2, 2)])
    with pytest.raises(UsageError, match=r"indices: expected 0..2, found 200"):
        decoder.get([zeros + np.uint8(200)])
    assert decoder.get([zeros])[0].tolist() == [0] * 4  # none of these moved it
    decoder.close()


def test_strided_arrays_are_as_good() -> None:
    tables = LaneTables(golden_frequencies())
    symbols, index = np.repeat(np.array([0, 1, 9, 255], np.uint8), 2)[::2], np.zeros(8, np.uint8)[::2]
    body = encode([(symbols, index)], tables, 2)
    assert decode([body], [[index]], tables) == [[[0, 1, 9, 255]]]

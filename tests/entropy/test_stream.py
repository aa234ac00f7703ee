"""Promises of the entropy stream: one specification, three coders, the same bytes; damage is always seen."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lic_format.container import join_ans_body, split_ans_body
from lic_format.errors import FormatError, LicWarning, UsageError
from licodec.entropy import coder as coder_module
from licodec.entropy import coder_compiled, reference
from licodec.entropy.coder import StreamDecoder, StreamEncoder, check_work, symbols_seal
from licodec.entropy.tables import SYMBOL_MAX, TOTAL, TableSet, load_set

constriction = pytest.importorskip("constriction")

Pass = tuple[list[int], list[int], TableSet]

# (bits of the totals, frequencies, symbols in decoding order, seal or None for state 0, words)
GOLDEN_WORDS: dict[str, tuple[int, list[int], list[int], int | None, str]] = {
    "A": (2, [1, 2, 1], [1, 0, 2, 1, 1], None, "16400000"),
    "B": (16, [1, 65533, 1, 1], [1] * 6 + [0, 3] + [1] * 4, 0, "04ffff00 0012060c 00000001"),
    "C": (16, [4096] * 16, list(range(16)), 0x4C494331, "ba994331 3214fedc 4c087654 00000001"),
    "D": (1, [1, 1], [0, 1, 1, 0] * 20, 0xFFFFFFFF, "99ffffff 99d99999 33199999 0001ff33"),
    "E": (16, [1, 65533, 1, 1], [], 0x12345678, "12345678 00000001"),
    "F": (24, [16777213, 1, 1, 1], [0, 1, 2, 3, 0], 0, "00ffffff 03fffffe 01030000 00000100"),
}

# Two passes, three families, tables in mixed order, escapes of both signs, one position not coded.
GOLDEN_PASSES = [
    ([0, 3, -1, 0, 12, -2, 0, 1], [20, 40, 20, 255, 94, 40, 138, 20]),
    ([-32767, 5, 0, -1, 0, 32767, 1, 200], [191, 69, 0, 0, 255, 0, 148, 127]),
]
GOLDEN_STREAM = bytes.fromhex("07 faff03 06 fffb03 a9defee0 a4ffffff ff8bd6f2 63dc7eb3 08000000")
GOLDEN_SEAL = 0x0173B9A9


def encode(passes: Sequence[Pass]) -> bytes:
    encoder = StreamEncoder(passes[0][2] if passes else load_set())
    for symbols, index, tables in passes:
        encoder.put(np.array(symbols, np.int64), np.array(index, tables.index_dtype), tables=tables)
    return encoder.finish()


def decode(body: bytes, passes: Sequence[Pass]) -> list[list[int]]:
    decoder = StreamDecoder(body, passes[0][2] if passes else load_set())
    out = [
        decoder.get(np.array(index, tables.index_dtype), tables=tables).tolist()
        for _, index, tables in passes
    ]
    decoder.close()
    return out


def golden_passes() -> list[Pass]:
    return [(symbols, index, load_set()) for symbols, index in GOLDEN_PASSES]


def scaled(frequencies: Sequence[int], bits: int) -> list[int]:
    return [0, *(np.cumsum(np.array(frequencies, np.int64)) << (24 - bits)).tolist()]


def native_model(frequencies: Sequence[int], bits: int) -> Any:
    p = np.array(frequencies, np.float64) * (1 << (24 - bits)) - 1
    return constriction.stream.model.Categorical(p, perfect=False)


def native_words(
    frequencies: Sequence[int], bits: int, symbols: Sequence[int], seal: int | None
) -> list[int]:
    ans = constriction.stream.stack.AnsCoder
    coder = ans() if seal is None else ans(np.array([seal], np.uint32), seal=True)
    coder.encode_reverse(np.array(symbols, np.int32), native_model(frequencies, bits))
    words: list[int] = coder.get_compressed().tolist()
    return words


CODERS: dict[str, type[coder_module._Coder]] = {
    "constriction": coder_module._NativeCoder,
    "plain Python": coder_module._ReferenceCoder,
}
if coder_compiled.here():
    CODERS["loops"] = coder_compiled.CompiledCoder


@contextlib.contextmanager
def coding_with(name: str) -> Iterator[None]:
    """Streams that begin inside use this coder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coder_compiled, "here", lambda: name == "loops")
        patch.setattr(coder_module, "_kind", lambda: CODERS[name])
        yield


@pytest.fixture(params=CODERS)
def each_coder(request: pytest.FixtureRequest) -> Iterator[str]:
    with coding_with(request.param):
        yield request.param


# --- golden data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN_WORDS)
def test_golden_words_of_the_reference(case: str) -> None:
    bits, frequencies, symbols, seal, words = GOLDEN_WORDS[case]
    state = 0 if seal is None else reference.SEAL_BASE + seal
    for way in ("one by one", "at once"):
        coder = reference.AnsCoder(state=state)
        cumulative = scaled(frequencies, bits)
        if way == "at once":
            coder.encode_reverse(symbols, cumulative)
        else:
            for symbol in reversed(symbols):
                coder.push(cumulative[symbol], cumulative[symbol + 1] - cumulative[symbol])
        assert " ".join(f"{w:08x}" for w in coder.words()) == words
        decoder = reference.AnsCoder(coder.words())
        if way == "at once":
            assert decoder.decode(cumulative, len(symbols)) == symbols
        else:
            assert [decoder.pop(cumulative) for _ in symbols] == symbols
        assert seal is None or decoder.holds_only(seal)


@pytest.mark.parametrize("case", GOLDEN_WORDS)
def test_golden_words_of_constriction(case: str) -> None:
    bits, frequencies, symbols, seal, words = GOLDEN_WORDS[case]
    assert " ".join(f"{w:08x}" for w in native_words(frequencies, bits, symbols, seal)) == words


def test_golden_stream_is_written_and_read(each_coder: str) -> None:
    assert encode(golden_passes()) == GOLDEN_STREAM
    assert decode(GOLDEN_STREAM, golden_passes()) == [symbols for symbols, _ in GOLDEN_PASSES]
    index = [np.array(i, np.uint8) for _, i in GOLDEN_PASSES]
    assert symbols_seal([(np.array(GOLDEN_PASSES[k][0]), index[k]) for k in range(2)]) == GOLDEN_SEAL


def test_golden_stream_of_the_specification() -> None:
    assert reference.encode_stream(golden_passes()) == GOLDEN_STREAM
    decoded = reference.decode_stream(GOLDEN_STREAM, [(i, t) for _, i, t in golden_passes()])
    assert decoded == [symbols for symbols, _ in GOLDEN_PASSES]


def test_an_empty_stream_is_nothing_but_its_seal(each_coder: str) -> None:
    body = bytes.fromhex("00 00000000 01000000")
    assert encode([]) == body
    assert decode(body, []) == []
    assert decode(body, [([0, 0], [255, 255], load_set())]) == [[0, 0]]
    assert decode(body, [([], [], load_set())]) == [[]]


# --- the coders agree ---------------------------------------------------------------------------------------


@st.composite
def raw_tables(draw: st.DrawFn) -> tuple[int, list[int]]:
    """(bits, frequencies): from two entries to 520, even, random, or one giant among ones."""
    bits = draw(st.integers(1, 16))
    count = draw(st.integers(2, min(520, 1 << bits)))
    spare = (1 << bits) - count
    seed, kind = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(["giant", "random", "even"]))
    rng = np.random.default_rng(seed)
    if kind == "giant":
        extra = np.bincount([rng.integers(count)], minlength=count) * spare
    elif kind == "random":
        extra = rng.multinomial(spare, rng.dirichlet(np.full(count, 0.2)))
    else:
        extra = np.full(count, spare // count)
        extra[: spare - extra.sum()] += 1
    return bits, (extra + 1).tolist()


@given(raw_tables(), st.integers(0, 2000), st.integers(0, 2**32 - 1), st.booleans(), st.randoms())
@settings(max_examples=150, deadline=None)
def test_any_table_gives_the_same_words_in_both_coders(
    table: tuple[int, list[int]], count: int, seal: int, rare: bool, random: Any
) -> None:
    bits, frequencies = table
    pool = (
        [i for i, f in enumerate(frequencies) if f == min(frequencies)] if rare else range(len(frequencies))
    )
    symbols = random.choices(list(pool), k=count)
    coder = reference.AnsCoder(state=reference.SEAL_BASE + seal)
    coder.encode_reverse(symbols, scaled(frequencies, bits))
    words = coder.words()
    assert words == native_words(frequencies, bits, symbols, seal)
    assert reference.AnsCoder(words).decode(scaled(frequencies, bits), count) == symbols
    native = constriction.stream.stack.AnsCoder(np.array(words, np.uint32))
    assert native.decode(native_model(frequencies, bits), count).tolist() == symbols


@st.composite
def table_sets(draw: st.DrawFn) -> TableSet:
    """The packaged set, or a random one of one to 260 tables."""
    if draw(st.booleans()):
        return load_set()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    limits = rng.integers(0, draw(st.sampled_from([1, 5, 256])), draw(st.sampled_from([1, 3, 255, 256, 260])))
    concentration = draw(st.sampled_from([0.01, 0.2, 50.0]))
    return TableSet.from_tables(
        draw(st.integers(128, 255)),
        [
            rng.multinomial(TOTAL - 2 * n - 2, rng.dirichlet(np.full(2 * n + 2, concentration))) + 1
            for n in limits
        ],
    )


@st.composite
def streams(draw: st.DrawFn, min_symbols: int = 0) -> list[Pass]:
    """Passes of any size, masks, table mixes and sets; values from small to the int16 extremes."""
    passes: list[Pass] = []
    for n in draw(st.lists(st.integers(min_symbols, 60), min_size=1, max_size=4)):
        tables = draw(table_sets())
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        used = rng.integers(0, tables.count, draw(st.integers(1, 5)))
        index = rng.choice(used, n)
        largest = draw(st.sampled_from([1, 3, 300, SYMBOL_MAX]))
        symbols = rng.integers(-largest, largest + 1, n)
        if largest == SYMBOL_MAX:
            symbols[::3] = np.sign(symbols[::3]) * SYMBOL_MAX
        masked = rng.random(n) < draw(st.sampled_from([0.0, 0.5]))
        masked[:min_symbols] = False
        index[masked], symbols[masked] = tables.not_coded, 0
        passes.append((symbols.tolist(), index.tolist(), tables))
    return passes


@given(streams())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_stream_has_the_bytes_of_the_specification_and_comes_back(passes: list[Pass]) -> None:
    body = encode(passes)
    assert body == reference.encode_stream(passes)
    symbols = [p[0] for p in passes]
    assert decode(body, passes) == symbols
    assert reference.decode_stream(body, [(index, tables) for _, index, tables in passes]) == symbols


@given(streams())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_coder_writes_the_same_bytes_and_reads_them(passes: list[Pass]) -> None:
    bodies = set()
    for name in CODERS:
        with coding_with(name):
            body = encode(passes)
            assert decode(body, passes) == [p[0] for p in passes], name
        bodies.add(body)
    assert len(bodies) == 1


@st.composite
def hostile_bodies(draw: st.DrawFn) -> bytes:
    """Whole numbers as escapes, and words of any bits, few of them or many."""
    values = draw(st.lists(st.integers(0, 2**17), max_size=5))
    escapes = b"".join(reference.write_varint(value) for value in values)
    words = draw(st.lists(st.sampled_from([0, 1, 2**32 - 1]) | st.integers(0, 2**32 - 1), max_size=40))
    last = draw(st.integers(1, 2**32 - 1))
    return bytes([len(escapes)]) + escapes + np.array([*words, 0, last], "<u4").tobytes()


@given(hostile_bodies(), streams())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_words_mean_the_same_to_every_coder(body: bytes, passes: list[Pass]) -> None:
    found = []
    for name in CODERS:
        seen: list[Any] = []
        with coding_with(name):
            decoder = StreamDecoder(body, load_set())
            try:
                for _, index, tables in passes:
                    seen.append(decoder.get(np.array(index, tables.index_dtype), tables=tables).tolist())
                    seen.append(decoder.seal)
                decoder.close()
            except FormatError as error:
                seen.append(str(error))
        found.append(seen)
    assert all(seen == found[0] for seen in found)


@pytest.mark.parametrize("words", [[7, 0xFF7FFFFF, 1], [7, 0xFF800000, 1], [7, 0, 2], [0xFFFFFFFF, 1, 2]])
def test_a_word_is_taken_exactly_below_2_to_the_32(words: list[int], each_coder: str) -> None:
    tables = TableSet.from_tables(128, [[32768, 32768]])  # whose first pop gives 2^32 - 1, 2^32 or near it
    ans, one = reference.AnsCoder(words), np.array([0, 1])
    coder = CODERS[each_coder].opened(np.array(words, np.uint32))
    for _ in range(40):
        (entry,) = ans.decode(reference.scaled_cumulative(tables, 0), 1)
        symbols, escaped = coder.pop(one, tables)
        assert escaped.size == entry and (entry or symbols.tolist() == [0])


def test_a_set_of_thousands_of_tables_is_read_with_fewer_hints() -> None:
    rng = np.random.default_rng(6)
    limits = rng.choice([0, 1, 255], 3000, p=[0.5, 0.48, 0.02])
    spread = (rng.multinomial(TOTAL - 2 * n - 2, rng.dirichlet(np.full(2 * n + 2, 0.3))) + 1 for n in limits)
    tables = TableSet.from_tables(200, list(spread))
    index = rng.integers(0, 3000, 4000)
    symbols = rng.integers(-1, 2, 4000) * (limits[index] + (rng.random(4000) < 0.1))
    passes = [(symbols.tolist(), index.tolist(), tables)]
    assert encode(passes) == reference.encode_stream(passes)
    assert decode(encode(passes), passes) == [symbols.tolist()]


def test_without_a_compiled_coder_one_warning_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder_compiled, "here", lambda: False)
    monkeypatch.setitem(sys.modules, "constriction", None)
    coder_module._without_loops.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encode(golden_passes())
            decode(GOLDEN_STREAM, golden_passes())
    finally:
        coder_module._without_loops.cache_clear()
    assert [w.category for w in caught] == [LicWarning]
    assert "neither llvmlite nor constriction is installed" in str(caught[0].message)


# --- the loops ----------------------------------------------------------------------------------------------


def test_the_first_streams_of_a_process_import_no_compiler() -> None:
    code = """
import sys
import numpy as np
from licodec.entropy import coder, coder_compiled
from licodec.entropy.tables import load_set
index, symbols = np.full(50, 30, np.uint8), np.arange(50, dtype=np.int16) % 3
bodies = []
for number in range(12):
    encoder = coder.StreamEncoder(load_set())
    encoder.put(symbols, index)
    bodies.append(encoder.finish())
    if number == 0:
        assert "llvmlite" not in sys.modules
assert len(set(bodies)) == 1
assert ("llvmlite" in sys.modules) == coder_compiled.here()
"""
    pytest.importorskip("constriction")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


needs_loops = pytest.mark.skipif(not coder_compiled.here(), reason="llvmlite is not installed")


@needs_loops
@given(st.integers(0, 100), st.sampled_from([0.0, 0.2, 0.9, 1.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_positions_are_grouped_as_by_a_stable_sort(n: int, masked: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, rng.choice([1, 3, 192, 255]), n).astype(np.uint8)
    index[np.repeat(rng.random(n // 5 + 1) < masked, 5)[:n]] = 255
    values = rng.integers(-9, 9, n).astype(np.int16)
    made, sorted_by_numpy = (
        coder_compiled.CompiledGrouping(index),
        coder_module._SortedGrouping(index, 255, 255),
    )
    ordered = made.gather(values)
    assert np.array_equal(ordered, sorted_by_numpy.gather(values)) and made.coded == sorted_by_numpy.coded
    assert np.array_equal(made.begins, sorted_by_numpy.begins)
    assert np.array_equal(made.scatter(ordered), np.where(index == 255, 0, values))


class Guarded:
    """numpy, whose new arrays stand between others that nobody may touch."""

    MARK = 0x5A

    def __init__(self) -> None:
        self.blocks: list[npt.NDArray[np.uint8]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, size: int, dtype: Any) -> npt.NDArray[Any]:
        count = size * np.dtype(dtype).itemsize
        self.blocks.append(np.full(64 + count + 64, self.MARK, np.uint8))
        return self.blocks[-1][64 : 64 + count].view(dtype)

    def zeros(self, size: int, dtype: Any) -> npt.NDArray[Any]:
        out = self.empty(size, dtype)
        out[...] = 0
        return out

    def untouched(self) -> bool:
        edges = (edge for block in self.blocks for edge in (block[:64], block[-64:]))
        return all((edge == self.MARK).all() for edge in edges)


@needs_loops
@given(hostile_bodies(), streams())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_loops_write_nothing_beyond_what_is_theirs(body: bytes, passes: list[Pass]) -> None:
    guarded = Guarded()
    with coding_with("loops"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(coder_compiled, "np", guarded)
        patch.setattr(coder_module, "np", guarded)
        assert decode(encode(passes), passes) == [p[0] for p in passes]
        with contextlib.suppress(FormatError):
            decode(body, passes)
    assert guarded.untouched() and len(guarded.blocks) > len(passes)


# --- sizes --------------------------------------------------------------------------------------------------


def test_a_large_pass_with_every_table_comes_back() -> None:
    rng = np.random.default_rng(1)
    n = 300_000
    index = rng.integers(0, 192, n).astype(np.uint8)
    index[rng.random(n) < 0.1] = 255
    symbols = np.rint(rng.laplace(size=n) * 3).astype(np.int16)
    symbols[index == 255] = 0
    encoder = StreamEncoder(load_set())
    encoder.put(symbols, index)
    body = encoder.finish()
    decoder = StreamDecoder(body, load_set())
    assert np.array_equal(decoder.get(index), symbols)
    decoder.close()
    assert decoder.seal == encoder.seal == symbols_seal([(symbols, index)])


def test_the_estimate_of_the_tables_is_the_length_of_the_stream() -> None:
    rng = np.random.default_rng(2)
    index = rng.integers(0, 192, 100_000).astype(np.uint8)
    scales = 0.11 * np.exp(np.arange(64) * np.log(64 / 0.11) / 63)
    symbols = np.clip(np.rint(rng.normal(size=index.size) * scales[index % 64]), -255, 255).astype(np.int16)
    encoder = StreamEncoder(load_set())
    encoder.put(symbols, index)
    estimate = float(load_set().bits()[index, symbols.astype(int) + 255].sum(dtype=np.float64)) / 8
    assert 0 <= len(encoder.finish()) - estimate <= 12 + 0.0005 * estimate


def test_streams_of_several_threads_do_not_mix() -> None:
    passes = golden_passes()
    results: list[bool] = []

    def work() -> None:
        for _ in range(100):
            body = encode(passes)
            results.append(body == GOLDEN_STREAM and decode(body, passes) == [p[0] for p in passes])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 400
    assert all(results)


# --- damage -------------------------------------------------------------------------------------------------


def words_at(body: bytes) -> int:
    return len(body) - len(reference.split_body(body)[1])


def flip(body: bytes, at: int) -> bytes:
    bit = at % (len(body) * 8)
    return body[: bit // 8] + bytes([body[bit // 8] ^ 1 << bit % 8]) + body[bit // 8 + 1 :]


def swap_words(body: bytes, at: int) -> bytes:
    start = words_at(body)
    words = [body[k : k + 4] for k in range(start, len(body), 4)]
    i, j = at % len(words), (at // 7) % len(words)
    words[i], words[j] = words[j], words[i]
    return body[:start] + b"".join(words)


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "bit flip": flip,
    "truncation": lambda body, at: body[: at % len(body)],
    "last word lost": lambda body, at: body[:-4],
    "first word lost": lambda body, at: body[: words_at(body)] + body[words_at(body) + 4 :],
    "word appended": lambda body, at: body + (at % 2**32).to_bytes(4, "little"),
    "word inserted": lambda body, at: body[: words_at(body)] + b"\1\2\3\4" + body[words_at(body) :],
    "words swapped": swap_words,
    "escape inserted": lambda body, at: bytes([body[0] + 1]) + b"\5" + body[1:] if body[0] < 127 else b"",
    "bytes reversed": lambda body, at: body[::-1],
    "all zero": lambda body, at: bytes(len(body)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@given(passes=streams(min_symbols=4), at=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_always_a_format_error(damage: str, passes: list[Pass], at: int) -> None:
    body = encode(passes)
    damaged = DAMAGES[damage](body, at)
    if damaged == body:
        return
    with pytest.raises(FormatError):
        decode(damaged, passes)
    with pytest.raises(FormatError):
        reference.decode_stream(damaged, [(index, tables) for _, index, tables in passes])


def test_every_bit_flip_and_truncation_of_the_golden_stream_is_seen(each_coder: str) -> None:
    for bit in range(len(GOLDEN_STREAM) * 8):
        with pytest.raises(FormatError):
            decode(flip(GOLDEN_STREAM, bit), golden_passes())
    for length in range(len(GOLDEN_STREAM)):
        with pytest.raises(FormatError):
            decode(GOLDEN_STREAM[:length], golden_passes())


@given(st.binary(max_size=80), streams(min_symbols=12))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_bytes_are_a_format_error(body: bytes, passes: list[Pass]) -> None:
    for attempt in (body, b"\0" + body[: len(body) // 4 * 4]):
        with pytest.raises(FormatError):
            decode(attempt, passes)


def test_another_order_of_passes_is_seen() -> None:
    first, second = golden_passes()
    with pytest.raises(FormatError):
        decode(GOLDEN_STREAM, [second, first])


def test_one_wrong_table_index_is_seen() -> None:
    rng = np.random.default_rng(3)
    symbols, index = rng.integers(-3, 4, 200), rng.integers(20, 60, 200).astype(np.uint8)
    encoder = StreamEncoder(load_set())
    encoder.put(symbols, index)
    body = encoder.finish()
    for k in range(200):
        wrong = index.copy()
        wrong[k] += 1
        decoder = StreamDecoder(body, load_set())
        with pytest.raises(FormatError):  # either call may see it
            decoder.get(wrong)
            decoder.close()


def test_a_copy_of_the_seal_below_the_words_is_seen(each_coder: str) -> None:
    start = words_at(GOLDEN_STREAM)
    forged = GOLDEN_STREAM[:start] + GOLDEN_SEAL.to_bytes(4, "little") + GOLDEN_STREAM[start:]
    with pytest.raises(FormatError, match="do not verify"):
        decode(forged, golden_passes())


def test_symbols_left_undecoded_are_seen() -> None:
    decoder = StreamDecoder(GOLDEN_STREAM, load_set())
    decoder.get(np.array(GOLDEN_PASSES[0][1], np.uint8))
    with pytest.raises(FormatError, match="left over"):
        decoder.close()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "end inside a number"),
        ("00", "0 bytes, expected 4 each and at least 2"),
        ("00 01000000", "at least 2 words"),
        ("00 00000000 01000000 00", "expected 4 each"),
        ("00 00000000 00000000", "last one is 0"),
        ("8000 00000000 01000000", "shortest form"),
        ("8080808080 01", "more than 5 bytes"),
        ("09 00000000 01000000", "9 bytes declared, 8 are there"),
        ("ffffffff0f", "declared"),
        ("01 80 00000000 01000000", "escapes: the bytes end inside a number"),
        ("02 8000 00000000 01000000", "escapes: a number is not written in its shortest form"),
        ("04 80808001 00000000 01000000", "escapes: a number of more than 3 bytes"),
        ("01 00 00000000 01000000", "left over"),
    ],
)
def test_each_lie_of_a_body_is_named(body: str, says: str, each_coder: str) -> None:
    with pytest.raises(FormatError, match=says):
        decode(bytes.fromhex(body), [])
    with pytest.raises(FormatError):
        reference.decode_stream(bytes.fromhex(body), [])


def test_an_escape_beyond_int16_is_refused(each_coder: str) -> None:
    for value in (32766, 40000, (1 << 20) - 1):  # table 0 has L = 1: the largest excess is 32 765
        escape = reference.write_varint(2 * value)
        tables = load_set()
        coder = reference.AnsCoder(state=reference.SEAL_BASE)  # any seal: the escape is judged first
        cumulative = reference.scaled_cumulative(tables, 0)
        coder.push(cumulative[3], cumulative[4] - cumulative[3])
        words = b"".join(w.to_bytes(4, "little") for w in coder.words())
        with pytest.raises(FormatError, match="the largest is 32767"):
            decode(bytes([len(escape)]) + escape + words, [([0], [0], tables)])


# --- work ---------------------------------------------------------------------------------------------------


def test_a_small_file_cannot_ask_for_many_symbols() -> None:
    start = time.perf_counter()
    with pytest.raises(FormatError, match="symbols take at least"):
        check_work(2**27, 100, load_set())
    with pytest.raises(FormatError):
        check_work(2**60, 10**6, load_set())
    assert time.perf_counter() - start < 0.01


@pytest.mark.parametrize("count", [0, 1, 1000, 1_000_000, 4_000_000])
def test_the_work_test_passes_the_cheapest_stream_there_is(count: int) -> None:
    encoder = StreamEncoder(load_set())
    encoder.put(np.zeros(count, np.int16), np.zeros(count, np.uint8))
    words = len(encoder.finish()) - 1
    check_work(count, words, load_set())
    if count >= 4_000_000:  # and not twice of it (33 bytes of symbols, 8 of seal and rounding)
        with pytest.raises(FormatError):
            check_work(2 * count, words, load_set())


def test_the_work_test_takes_the_cheapest_of_all_sets() -> None:
    dear = TableSet.from_tables(130, [[32768, 32768]])
    with pytest.raises(FormatError):
        check_work(1000, 100, dear)
    check_work(1000, 100, dear, load_set())


def test_reading_far_past_the_end_ends() -> None:
    """Words do not bound the work, the caller's index does: no hang, no panic, a plain refusal."""
    decoder = StreamDecoder(bytes.fromhex("00 00000000 01000000"), load_set())
    decoder.get(np.full(2_000_000, 63, np.uint8))
    with pytest.raises(FormatError, match="do not verify"):
        decoder.close()


# --- wrong arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "index", "argument"),
    [
        (np.array([0, 1]), np.array([0], np.uint8), "symbols"),
        (np.array([32768]), np.array([0], np.uint8), "symbols"),
        (np.array([-32768], np.int16), np.array([0], np.uint8), "symbols"),
        (np.array([2**40]), np.array([0], np.uint8), "symbols"),
        (np.array([2**64 - 1], np.uint64), np.array([0], np.uint8), "symbols"),
        (np.array([0.0]), np.array([0], np.uint8), "symbols"),
        ([0], np.array([0], np.uint8), "symbols"),
        (np.array([[0]]), np.array([0], np.uint8), "symbols"),
        (np.array([1]), np.array([255], np.uint8), "symbols"),
        (np.array([0]), np.array([0], np.int64), "index"),
        (np.array([0]), np.array([0], np.uint16), "index"),
        (np.array([0]), [0], "index"),
        (np.array([0]), np.array([[0]], np.uint8), "index"),
        (np.array([0]), np.array([192], np.uint8), "index"),
        (np.array([0, 0]), np.array([255, 254], np.uint8), "index"),
    ],
)
def test_wrong_arguments_are_named(symbols: npt.NDArray[Any], index: npt.NDArray[Any], argument: str) -> None:
    encoder = StreamEncoder(load_set())
    with pytest.raises(UsageError) as caught:
        encoder.put(symbols, index)
    assert caught.value.argument == argument
    assert isinstance(caught.value, ValueError | TypeError)
    assert encoder.finish() == bytes.fromhex("00 00000000 01000000"), "a refused pass left something behind"
    if argument == "index":
        with pytest.raises(UsageError):
            StreamDecoder(GOLDEN_STREAM, load_set()).get(index)


def test_any_integer_dtype_and_layout_of_symbols_gives_the_same_bytes() -> None:
    index = np.array(GOLDEN_PASSES[0][1], np.uint8)
    bodies = set()
    for dtype in (np.int8, np.int16, np.int32, np.int64, ">i2"):
        wide = np.zeros((8, 2), dtype)
        wide[:, 0] = GOLDEN_PASSES[0][0]
        encoder = StreamEncoder(load_set())
        encoder.put(wide[:, 0], np.stack([index, index], 1)[:, 0])
        bodies.add(encoder.finish())
    assert len(bodies) == 1


# --- the container ------------------------------------------------------------------------------------------


def test_the_container_takes_the_body_as_the_coder_wrote_it() -> None:
    escapes, words = split_ans_body(GOLDEN_STREAM)
    assert (escapes, words) == reference.split_body(GOLDEN_STREAM)
    assert join_ans_body(escapes, words) == GOLDEN_STREAM

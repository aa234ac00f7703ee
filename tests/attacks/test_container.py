"""Attacks on the container: each test says in its name what it tries. All must end in a LicError, at once.

The payload of DATA is attacked where it is decoded; here it is opaque, and damage to it is seen by its CRC.
"""

from __future__ import annotations

import io
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lic_format
from lic_format import (
    Chunk,
    FormatError,
    LicError,
    LicFile,
    Unit,
    UnsupportedError,
    read,
    read_head,
    read_stream,
)
from lic_format.limits import max_units
from tests import memory
from tests.format import corpus

DATA = [
    pytest.param(data, id=name)
    for name, data in zip(("plain", "rich", "weightless"), corpus.valid_files(), strict=True)
]
RICH = corpus.pieces(corpus.valid_files()[1])
PLAIN = corpus.pieces(corpus.valid_files()[0])


def _refused(data: bytes) -> LicError:
    """The one error that every way of reading gives; a stream may go on after DONE."""
    with pytest.raises(LicError) as caught:
        read(data)
    if "follow the end" not in str(caught.value):
        with pytest.raises(type(caught.value)):
            read_stream(io.BytesIO(data))
    return caught.value


@pytest.mark.parametrize("data", DATA)
def test_truncated_file_is_refused_at_every_byte(data: bytes) -> None:
    for count in range(len(data)):
        error = _refused(data[:count])
        assert isinstance(error, FormatError) and error.incomplete, count


@pytest.mark.parametrize("data", DATA)
def test_every_single_bit_flip_is_seen(data: bytes) -> None:
    for at, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        with pytest.raises(FormatError):
            read(flipped)


@pytest.mark.parametrize("data", DATA)
def test_every_lost_or_doubled_byte_is_seen(data: bytes) -> None:
    for at in range(len(data)):
        with pytest.raises(LicError):
            read(data[:at] + data[at + 1 :])
        with pytest.raises(LicError):
            read(data[:at] + data[at : at + 1] + data[at:])


def test_bytes_after_the_end_are_refused() -> None:
    for tail in (b"\0", b"DONE", corpus.SIGNATURE, bytes(1000)):
        with pytest.raises(FormatError, match="follow the end"):
            read(corpus.valid_files()[0] + tail)


def test_every_swap_of_two_known_chunks_is_refused() -> None:
    for first, second in itertools.combinations(range(len(RICH)), 2):
        names = {RICH[first][0], RICH[second][0]}
        if names & {"zzzz", "aLPH"} or names == {"DATA"}:
            continue  # unknown ancillary chunks may stand anywhere, and units are the codec's to judge
        swapped = list(RICH)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert isinstance(_refused(corpus.join(swapped)), FormatError)


def test_every_permutation_of_the_smallest_file_but_one_is_refused() -> None:
    for order in itertools.permutations(PLAIN):
        if list(order) != PLAIN:
            assert isinstance(_refused(corpus.join(list(order))), FormatError)


@pytest.mark.parametrize("name", ["HEAD", "iccp", "exif", "xmpd", "dpix", "prev", "ALPH", "DONE"])
def test_a_chunk_that_stands_twice_is_refused(name: str) -> None:
    at = [kind for kind, _ in RICH].index(name)
    assert isinstance(_refused(corpus.join(RICH[: at + 1] + RICH[at:])), FormatError)


@pytest.mark.parametrize("name", ["HEAD", "DATA", "DONE"])
def test_a_file_without_a_chunk_that_it_needs_is_refused(name: str) -> None:
    assert isinstance(_refused(corpus.join([chunk for chunk in PLAIN if chunk[0] != name])), FormatError)


def test_an_alpha_flag_without_alpha_and_alpha_without_the_flag_are_refused() -> None:
    without = corpus.join([chunk for chunk in RICH if chunk[0] != "ALPH"])
    with pytest.raises(FormatError, match="alpha flag is 1"):
        read_head(without)
    unflagged = corpus.join([PLAIN[0], ("ALPH", b"\x00"), *PLAIN[1:]])
    with pytest.raises(FormatError, match="alpha flag is 0"):
        read_head(unflagged)


def test_unknown_ancillary_chunks_are_kept_before_the_data_and_refused_after() -> None:
    ancillary = ("qqqq", b"from a later version")
    for at in range(1, len(PLAIN) + 1):
        data = corpus.join([*PLAIN[:at], ancillary, *PLAIN[at:]])
        if at == 1:
            assert read(data).metadata == (Chunk(*ancillary),)
            assert lic_format.write(read(data)) == data
        else:
            assert isinstance(_refused(data), FormatError)


def test_an_unknown_critical_chunk_is_named_as_newer_wherever_it_stands() -> None:
    for at in (1, 2):
        error = _refused(corpus.join([*PLAIN[:at], ("QQQQ", b"from a later version"), *PLAIN[at:]]))
        assert isinstance(error, UnsupportedError) and "QQQQ" in str(error)


def test_damage_in_an_unknown_critical_chunk_is_damage() -> None:
    data = corpus.join([PLAIN[0], ("QQQQ", b"later"), *PLAIN[1:]]).replace(b"later", b"latex")
    assert isinstance(_refused(data), FormatError)


@pytest.mark.parametrize("name", ["HEAD", "DATA", "DONE"])
@pytest.mark.parametrize("more", [1, 2, 3, 4])
def test_a_length_that_is_not_minimal_is_refused_even_with_a_right_crc(name: str, more: int) -> None:
    chunks = [corpus.frame(*chunk) for chunk in PLAIN]
    at = [kind for kind, _ in PLAIN].index(name)
    size = corpus.leb128(len(PLAIN[at][1]))
    size = size[:-1] + bytes([size[-1] | 128]) + b"\x80" * (more - 1) + b"\x00"
    chunks[at] = corpus.frame(*PLAIN[at], length=size)
    with pytest.raises(FormatError, match=r"not minimal|longer than 5"):
        read(corpus.SIGNATURE + b"".join(chunks))


@pytest.mark.parametrize("claim", [13, 100, 1 << 16, 1 << 24, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 35) - 1])
@pytest.mark.parametrize("name", ["HEAD", "DATA", "exif", "ALPH", "qqqq", "QQQQ"])
def test_a_length_past_the_end_is_refused_without_being_believed(name: str, claim: int) -> None:
    start = corpus.SIGNATURE if name == "HEAD" else corpus.SIGNATURE + corpus.frame(*PLAIN[0])
    data = start + name.encode() + corpus.leb128(claim) + bytes(12)
    with memory.bounded(_allowance(data)):
        assert isinstance(_refused(data), FormatError)


@pytest.mark.parametrize("name", ["iccp", "exif", "xmpd", "dpix", "prev", "ALPH", "DATA"])
def test_a_chunk_too_short_for_its_kind_is_refused(name: str) -> None:
    chunks = [(kind, b"" if kind == name else payload) for kind, payload in RICH]
    with pytest.raises(FormatError, match=f"length is 0.*{name}"):
        read(corpus.join(chunks))


@pytest.mark.parametrize("side", [0, (1 << 24) + 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 35) - 1])
def test_a_side_out_of_range_is_refused(side: int) -> None:
    payload = PLAIN[0][1]
    for lie in (
        payload[:1] + corpus.leb128(side) + payload[3:],
        payload[:3] + corpus.leb128(side) + payload[5:],
    ):
        with pytest.raises(FormatError, match=r"width|height"):
            read_head(corpus.join([("HEAD", lie), *PLAIN[1:]]))


def test_the_largest_sides_are_refused_by_the_pixel_limit_before_anything_else_is_read() -> None:
    payload = PLAIN[0][1]
    largest = payload[:1] + corpus.leb128(1 << 24) * 2 + payload[5:]
    with pytest.raises(UnsupportedError, match="pixels"):
        read_head(corpus.join([("HEAD", largest)]))


def test_random_bytes_after_the_signature_are_refused() -> None:
    for seed in range(500):
        rng = random.Random(seed)
        assert isinstance(_refused(corpus.SIGNATURE + rng.randbytes(rng.randrange(300))), LicError)


def test_random_payloads_with_right_crcs_give_a_value_or_a_lic_error() -> None:
    rng = random.Random(9)
    for (name, _), _ in itertools.product(RICH, range(150)):
        payload = rng.randbytes(rng.randrange(40))
        chunks = [(kind, payload if kind == name else old) for kind, old in RICH]
        try:
            lic_format.write(read(corpus.join(chunks)))
        except LicError:
            continue


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00" + b"\x01" * 4,
        b"\x00" + b"\x01" * 9,
        b"\x00" + bytes(8),
        b"\x05" + b"\x01" * 12,
        b"\xff\xff\xff\xff\x0f",
    ],
    ids=[
        "empty",
        "no words",
        "one word",
        "odd",
        "last word zero",
        "escapes eat a word",
        "escapes past the end",
    ],
)
def test_a_sealed_unit_that_cannot_hold_a_stream_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError, match="DATA"):
        read(corpus.join([PLAIN[0], ("DATA", b"\x00\x00" + body), PLAIN[2]]))


@pytest.mark.parametrize("payload", [b"\x03\x00", b"\xff\x00abc"])
def test_an_unknown_kind_of_unit_is_newer(payload: bytes) -> None:
    with pytest.raises(UnsupportedError, match="kind"):
        read(corpus.join([PLAIN[0], ("DATA", payload), PLAIN[2]]))


# --- memory and time ----------------------------------------------------------------------------------------


def _allowance(data: bytes) -> int:
    """Reading may need four times the input and 1 MiB, whatever the input says."""
    return 4 * len(data) + (1 << 20)


def _large_head() -> tuple[str, bytes]:
    payload = PLAIN[0][1]
    return "HEAD", payload[:1] + corpus.leb128(1 << 14) * 2 + payload[5:]


def _hostile_files() -> Iterator[tuple[str, bytes]]:
    large = _large_head()
    most = max_units(1 << 14, 1 << 14)
    done = ("DONE", b"")
    yield "tiny units", corpus.join([large, *[("DATA", b"\x02\x00")] * most, done])
    yield "units of two bytes", corpus.join([large, *[("DATA", b"\x02\x02abxy")] * most, done])
    yield "too many units", corpus.join([large, *[("DATA", b"\x02\x00ab")] * (20 * most), done])
    yield "tiny chunks", corpus.join([large, *[("abcd", b"")] * 100_000])
    yield "one large chunk", corpus.join([large, ("abcd", bytes(8 << 20)), ("DATA", b"\x02\x00"), done])
    yield "one large unit", corpus.join([large, ("DATA", b"\x02\x00" + bytes(8 << 20)), done])
    yield "large side info", corpus.join([large, *[("DATA", b"\x02\xff\xff\x03" + bytes(65535))] * 100, done])
    yield "large and cut", corpus.join([large, ("DATA", b"\x02\x00" + bytes(8 << 20))])[:-9]
    yield (
        "large and damaged",
        corpus.join([large, ("DATA", b"\x02\x00" + bytes(8 << 20)), done])[:-20] + bytes(20),
    )


HOSTILE = [pytest.param(data, id=name) for name, data in _hostile_files()]
READERS: list[Callable[[bytes], object]] = [
    read,
    lambda data: read(data, partial=True),
    lambda data: read_stream(io.BytesIO(data)),
    read_head,
    lambda data: read_head(io.BytesIO(data)),
]


@pytest.mark.parametrize("data", HOSTILE)
@pytest.mark.parametrize("reader", READERS, ids=["read", "partial", "stream", "head", "head of a stream"])
def test_memory_stays_below_four_times_the_input_and_a_mebibyte(
    reader: Callable[[bytes], object], data: bytes
) -> None:
    start = time.perf_counter()
    with memory.bounded(_allowance(data)):
        try:
            result = reader(data)
        except LicError:
            result = None
    del result
    assert time.perf_counter() - start < 5


def test_a_claimed_length_is_not_allocated_by_a_real_file(tmp_path: Path) -> None:
    data = corpus.SIGNATURE + corpus.frame(*PLAIN[0]) + b"DATA" + corpus.leb128(4_000_000_000) + bytes(100)
    (tmp_path / "liar.lic").write_bytes(data)
    with (
        open(tmp_path / "liar.lic", "rb") as stream,
        memory.bounded(_allowance(data)),
        pytest.raises(FormatError) as caught,
    ):
        read_stream(stream)
    assert caught.value.incomplete


def test_the_largest_number_of_units_is_read_and_one_more_is_not() -> None:
    most = max_units(1 << 14, 1 << 14)
    units = [("DATA", b"\x02\x00")] * most
    assert len(read(corpus.join([_large_head(), *units, ("DONE", b"")])).units) == most
    with pytest.raises(FormatError, match="more than"):
        read(corpus.join([_large_head(), *units, units[0], ("DONE", b"")]))


def test_a_file_of_units_alone_is_written_as_it_was_read() -> None:
    file = LicFile(corpus.head(), units=(Unit(2, b"s", b"b"),) * 10)
    assert read(lic_format.write(file)) == file

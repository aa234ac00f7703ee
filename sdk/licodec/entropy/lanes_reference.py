"""Interleaved lanes in plain Python: their specification in code and the oracle of the tests.

A tile's symbols (bytes) are dealt to L rANS states, the *lanes*, which share one stream of 16-bit words:

    stage 1, 11 symbols, L = 4       stage 2, 6 symbols
    lane   0   1   2   3             lane   0   1   2   3
    row 0  s0  s1  s2  s3            row 0  s0  s1  s2  s3
    row 1  s4  s5  s6  s7            row 1  s4  s5             (the last row of a stage may be partial)
    row 2  s8  s9  s10

States go on from stage to stage. In each row, after every lane has taken its symbol, the lanes whose state
fell below 2**16 take a word each, in lane order. The encoder does everything backwards and starts each lane
at 2**16, where a decoder that has read everything must find it.

When not to use it: `lanes` writes and reads the same bytes some hundred times as fast.

    >>> frequencies = [[2048 if s in (0, 128) else 0 for s in range(256)]]
    >>> body = encode_tile([([0, 0, 7], [0, 0, 0])], frequencies, lanes=2)
    >>> body.hex(" ")
    '01 01 07 00 10 04 00 00 00 02 00'
    >>> decode_tile(body, [[0, 0, 0]], frequencies)
    [[0, 0, 7]]

Sources: Duda, arXiv 1311.2540 (rANS); Giesen, arXiv 1402.3392 (interleaving).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from lic_format.errors import FormatError

from .reference import read_varint, write_varint

PRECISION: Final = 12  # bits of a frequency's sum
TOTAL: Final = 1 << PRECISION
SYMBOLS: Final = 256
ESCAPE: Final = 128  # the residual furthest from 0, so the one that a table misses least
STATE_MIN: Final = 1 << 16  # states are 2**16..2**32-1: a symbol of 12 bits takes one word of 16 at most
WORD_BITS: Final = 16
LANES_LOG2_MAX: Final = 9
LANES_MAX: Final = 1 << LANES_LOG2_MAX

_COUNT_BYTES: Final = 5  # of the count of escapes, a varint

Frequencies = Sequence[Sequence[int]]
"""Of each table 256 integers, not negative, with the sum 4096."""


def is_full(table: Sequence[int]) -> bool:
    """Whether a table codes all 256 symbols, so that 128 is a symbol like others and no escape."""
    return min(table) > 0


def rows_of(count: int, lanes: int) -> Iterator[range]:
    """Positions of each row of a stage of ``count`` symbols; position i is in lane i mod ``lanes``."""
    for first in range(0, count, lanes):
        yield range(first, min(first + lanes, count))


def encode_tile(
    stages: Sequence[tuple[Sequence[int], Sequence[int]]], frequencies: Frequencies, lanes: int
) -> bytes:
    """Body of a tile.

    Args:
        stages: (symbols 0..255, table index of each) of each stage.
        frequencies: the tables; one that is not full has the escape's frequency, at least 1, at 128.
        lanes: a power of two, 1..512.
    """
    starts = [[0, *accumulate(table)] for table in frequencies]
    escapes = bytearray()
    coded: list[list[tuple[int, int]]] = []  # (start, frequency) of what stands in the stream
    for symbols, index in stages:
        stage = []
        for symbol, t in zip(symbols, index, strict=True):
            if not frequencies[t][symbol] or (symbol == ESCAPE and not is_full(frequencies[t])):
                escapes.append(symbol)
                symbol = ESCAPE
            stage.append((starts[t][symbol], frequencies[t][symbol]))
        coded.append(stage)

    states, words = [STATE_MIN] * lanes, []  # words: last first
    for stage in reversed(coded):
        for row in reversed(list(rows_of(len(stage), lanes))):
            for i in reversed(row):
                start, frequency = stage[i]
                x = states[i % lanes]
                if x >= frequency << (32 - PRECISION):
                    words.append(x % (1 << WORD_BITS))
                    x >>= WORD_BITS
                states[i % lanes] = (x // frequency << PRECISION) + start + x % frequency
    return (
        bytes([lanes.bit_length() - 1])
        + write_varint(len(escapes))
        + bytes(escapes)
        + struct.pack(f"<{lanes}I", *states)
        + struct.pack(f"<{len(words)}H", *reversed(words))
    )


def decode_tile(
    body: bytes | memoryview, stages: Sequence[Sequence[int]], frequencies: Frequencies
) -> list[list[int]]:
    """Symbols of each stage, given the table index of each symbol.

    Raises:
        FormatError: the bytes are no tile with these tables, or were damaged.
    """
    lanes, escapes, state_bytes, word_bytes = split_body(body)
    states = list(struct.unpack(f"<{lanes}I", state_bytes))
    words = struct.unpack(f"<{len(word_bytes) // 2}H", word_bytes)
    at = escape = 0
    out: list[list[int]] = []
    for index in stages:
        symbols = [0] * len(index)
        for row in rows_of(len(index), lanes):
            for i in row:
                table, x = frequencies[index[i]], states[i % lanes]
                slot, start, symbol = x % TOTAL, 0, 0
                while slot >= start + table[symbol]:
                    start += table[symbol]
                    symbol += 1
                x = table[symbol] * (x >> PRECISION) + slot - start
                if x < STATE_MIN:
                    if at == len(words):
                        raise FormatError(f"words: {len(words)} are stored, the symbols ask for more")
                    x = x << WORD_BITS | words[at]
                    at += 1
                states[i % lanes], symbols[i] = x, symbol
        for i, symbol in enumerate(symbols):
            table = frequencies[index[i]]
            if symbol == ESCAPE and not is_full(table):
                if escape == len(escapes):
                    raise FormatError(f"escapes: {len(escapes)} are stored, the symbols ask for more")
                symbols[i] = raw = escapes[escape]
                escape += 1
                if raw != ESCAPE and table[raw]:
                    raise FormatError(f"escapes: {raw} is escaped, table {index[i]} has it")
        out.append(symbols)
    if escape != len(escapes):
        raise FormatError(f"escapes: {len(escapes) - escape} of {len(escapes)} are left over")
    if at != len(words):
        raise FormatError(f"words: {len(words) - at} of {len(words)} are left over")
    for lane, x in enumerate(states):
        if x != STATE_MIN:
            raise FormatError(
                f"lane {lane}: ends in state {x}, expected {STATE_MIN}: damaged, or other tables"
            )
    return out


def split_body(body: bytes | memoryview) -> tuple[int, bytes, bytes, bytes]:
    """(lanes, escapes, bytes of the states, bytes of the words); FormatError where it cannot be a tile."""
    lanes, first, states, words = sections_of(body)
    return lanes, bytes(body[first:states]), bytes(body[states:words]), bytes(body[words:])


def sections_of(body: bytes | memoryview) -> tuple[int, int, int, int]:
    """(lanes, where the escapes, the states and the words begin); FormatError where it cannot be a tile."""
    if not len(body):
        raise FormatError("lanes: the body is empty")
    if body[0] > LANES_LOG2_MAX:
        raise FormatError(f"lanes: 2^{body[0]} of them, at most 2^{LANES_LOG2_MAX} are allowed")
    lanes = 1 << body[0]
    head = bytes(body[1 : 1 + _COUNT_BYTES])
    count, length = read_varint(head, 0, where="count of escapes", max_bytes=_COUNT_BYTES)
    first = 1 + length
    states = first + count
    words = states + 4 * lanes
    if words > len(body):
        raise FormatError(
            f"lanes: {count} escapes and {lanes} states take {words} bytes, the body has {len(body)}"
        )
    if (len(body) - words) % 2:
        raise FormatError(f"words: {len(body) - words} bytes, expected 2 each")
    for lane, x in enumerate(struct.unpack(f"<{lanes}I", body[states:words])):
        if x < STATE_MIN:
            raise FormatError(f"lane {lane}: starts in state {x}, the smallest is {STATE_MIN}")
    return lanes, first, states, words

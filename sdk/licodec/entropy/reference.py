"""The entropy stream in plain Python: its specification in code, the oracle of the tests, and the coder
that runs where constriction has no wheel (Linux on ARM).

A stream is one ANS coder: a 64-bit state and a stack of 32-bit words. Decoding pops symbols; the encoder
pushes the same symbols in the opposite order. Order inside a stream, as the decoder meets it:

    pass 1                     pass 2             ...     (the codec's schedule: z, then latent passes)
    table 0 | table 3 | ...    table 1 | ...              (ascending table index; no group is empty)
    0 4 5 9 | 1 2     | ...    ...                        (positions of the group, ascending)

The start state of the encoder is 2**32 + CRC-32 of all symbols. Popping everything must lead back to
exactly that state with no word left, which wrong bytes, wrong tables and wrong weights do not.

When not to use it: `coder` writes and reads the same bytes about fifteen times as fast.

    >>> from licodec.entropy.tables import load_set
    >>> tables = load_set()
    >>> body = encode_stream([([1, 0, -70, 0], [3, 0, 3, 255], tables)])
    >>> decode_stream(body, [([3, 0, 3, 255], tables)])
    [[1, 0, -70, 0]]
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from lic_format.errors import FormatError

from .tables import PRECISION, SYMBOL_MAX, TableSet

CODER_BITS: Final = 24  # the coder's own probability resolution; tables of 16 bits are shifted up to it
SHIFT: Final = CODER_BITS - PRECISION
WORD: Final = 1 << 32
SEAL_BASE: Final = WORD  # the seal sits above it, so the start state is never below 2**32

_MASK: Final = (1 << CODER_BITS) - 1
_WORD_MASK: Final = WORD - 1

Cumulative = Sequence[int]
"""Left bounds of the K symbols and, last, 2**24: K+1 ascending integers starting at 0."""


class AnsCoder:
    """ANS coder over 32-bit words, 64-bit state, 24-bit probabilities; a stack, so last in is first out.

    Args:
        words: a finished stack to decode from, bottom first.
        state: start state of an encoder; 0, or 2**32 + seal.
    """

    __slots__ = ("bulk", "state")

    def __init__(self, words: Iterable[int] = (), state: int = 0) -> None:
        self.bulk = list(words)
        self.state = state
        while self.bulk and self.state < WORD:
            self.state = self.state << 32 | self.bulk.pop()

    def push(self, left: int, width: int) -> None:
        """Push a symbol whose interval is [left, left + width) of 2**24."""
        if self.state >> (64 - CODER_BITS) >= width:
            self.bulk.append(self.state & _WORD_MASK)
            self.state >>= 32
        quotient, remainder = divmod(self.state, width)
        self.state = (quotient << CODER_BITS) + left + remainder

    def pop(self, cumulative: Cumulative) -> int:
        """Pop a symbol 0..K-1; past the end of the words it still returns one, see ``holds_only``."""
        value = self.state & _MASK
        symbol = bisect_right(cumulative, value) - 1
        left = cumulative[symbol]
        self.state = (self.state >> CODER_BITS) * (cumulative[symbol + 1] - left) + value - left
        if self.state < WORD and self.bulk:
            self.state = self.state << 32 | self.bulk.pop()
        return symbol

    def encode_reverse(self, symbols: Sequence[int], cumulative: Cumulative) -> None:
        """Push symbols of one table, last first, so that ``decode`` returns them in the given order."""
        state, bulk = self.state, self.bulk
        widths = [b - a for a, b in pairwise(cumulative)]
        for symbol in reversed(symbols):  # push(), written over local names
            width = widths[symbol]
            if state >> 40 >= width:
                bulk.append(state & _WORD_MASK)
                state >>= 32
            quotient, remainder = divmod(state, width)
            state = (quotient << 24) + cumulative[symbol] + remainder
        self.state = state

    def decode(self, cumulative: Cumulative, count: int) -> list[int]:
        """Pop ``count`` symbols of one table."""
        state, bulk, find = self.state, self.bulk, bisect_right
        rights = cumulative[1:]  # so that the search gives the symbol itself
        widths = [b - a for a, b in pairwise(cumulative)]
        out = [0] * count
        for position in range(count):  # pop(), written over local names
            value = state & 0xFFFFFF
            out[position] = symbol = find(rights, value)
            state = (state >> 24) * widths[symbol] + value - cumulative[symbol]
            if state < 0x100000000 and bulk:
                state = state << 32 | bulk.pop()
        self.state = state
        return out

    def words(self) -> list[int]:
        """The finished stack, bottom first: every word, then the state, low half first."""
        out, state = list(self.bulk), self.state
        while state:
            out.append(state & _WORD_MASK)
            state >>= 32
        return out

    def holds_only(self, seal: int) -> bool:
        """Whether the coder is back where an encoder sealed with ``seal`` started."""
        return not self.bulk and self.state == SEAL_BASE + seal


def scaled_cumulative(tables: TableSet, index: int) -> list[int]:
    """Cumulative frequencies of a table in the coder's resolution: K+1 integers from 0 to 2**24."""
    return [int(c) << SHIFT for c in tables.cumulative(index)]


def escape_bytes(symbol: int, limit: int) -> bytes:
    """Bytes of a symbol beyond its table's L: LEB128 of (|q| - L - 1) * 2 + (q < 0), 1 to 3 bytes."""
    return write_varint((abs(symbol) - limit - 1) * 2 + (symbol < 0))


def read_varint(data: bytes, offset: int, *, where: str, max_bytes: int) -> tuple[int, int]:
    """LEB128 at ``offset`` of ``data``: (value, offset behind it). FormatError unless whole and minimal."""
    value = 0
    for k in range(max_bytes):
        if offset + k >= len(data):
            raise FormatError(f"{where}: the bytes end inside a number")
        byte = data[offset + k]
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            if byte == 0 and k:
                raise FormatError(f"{where}: a number is not written in its shortest form")
            return value, offset + k + 1
    raise FormatError(f"{where}: a number of more than {max_bytes} bytes")


def write_varint(value: int) -> bytes:
    """Unsigned LEB128 in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def groups_of(index: Sequence[int], tables: TableSet) -> list[tuple[int, list[int]]]:
    """(table index, positions) of a pass in decoding order; positions that are not coded are left out."""
    used = sorted(set(index) - {tables.not_coded})
    return [(table, [i for i, t in enumerate(index) if t == table]) for table in used]


def seal_of(symbols: Iterable[int]) -> int:
    """CRC-32 of symbols in decoding order, as little-endian int16."""
    return zlib.crc32(b"".join(struct.pack("<h", q) for q in symbols))


def encode_stream(passes: Sequence[tuple[Sequence[int], Sequence[int], TableSet]]) -> bytes:
    """Body of a stream: escape length, escape bytes, coder words.

    Args:
        passes: (symbols -32767..32767, table index of each, table set) of each pass.
    """
    ordered = [
        (tables, table, [symbols[i] for i in positions])
        for symbols, index, tables in passes
        for table, positions in groups_of(index, tables)
    ]
    escapes = b"".join(
        escape_bytes(q, tables.limit(table))
        for tables, table, group in ordered
        for q in group
        if abs(q) > tables.limit(table)
    )
    coder = AnsCoder(state=SEAL_BASE + seal_of(q for _, _, group in ordered for q in group))
    for tables, table, group in reversed(ordered):
        limit, cumulative = tables.limit(table), scaled_cumulative(tables, table)
        for q in reversed(group):
            code = q + limit if abs(q) <= limit else 2 * limit + 1
            coder.push(cumulative[code], cumulative[code + 1] - cumulative[code])
    words = coder.words()
    return write_varint(len(escapes)) + escapes + struct.pack(f"<{len(words)}I", *words)


def decode_stream(body: bytes, passes: Sequence[tuple[Sequence[int], TableSet]]) -> list[list[int]]:
    """Symbols of each pass, given its (table indices, table set); 0 where a position is not coded.

    Raises:
        FormatError: the bytes are no stream with these tables, or were damaged.
    """
    escapes, words = split_body(body)
    coder, at = AnsCoder(struct.unpack(f"<{len(words) // 4}I", words)), 0
    decoded: list[int] = []
    out: list[list[int]] = []
    for index, tables in passes:
        symbols = [0] * len(index)
        for table, positions in groups_of(index, tables):
            limit, cumulative = tables.limit(table), scaled_cumulative(tables, table)
            for i in positions:
                q = coder.pop(cumulative) - limit
                if q > limit:
                    value, at = read_varint(escapes, at, where="escapes", max_bytes=3)
                    q = (limit + 1 + (value >> 1)) * (-1 if value & 1 else 1)
                    if abs(q) > SYMBOL_MAX:
                        raise FormatError(f"escapes: symbol {q}, the largest is {SYMBOL_MAX}")
                symbols[i] = q
                decoded.append(q)
        out.append(symbols)
    if at != len(escapes):
        raise FormatError(f"escapes: {len(escapes) - at} bytes are left over")
    if not coder.holds_only(seal_of(decoded)):
        raise FormatError(
            "symbols do not verify: damaged words, or other tables or weights than the encoder's"
        )
    return out


def split_body(body: bytes) -> tuple[bytes, bytes]:
    """(escape bytes, word bytes) of a body; FormatError where it cannot be one."""
    length, start = read_varint(body, 0, where="escape length", max_bytes=5)
    end = start + length
    if end > len(body):
        raise FormatError(f"escape length: {length} bytes declared, {len(body) - start} are there")
    escapes, words = body[start:end], body[end:]
    if len(words) % 4 or len(words) < 8:
        raise FormatError(f"coder words: {len(words)} bytes, expected 4 each and at least 2 words")
    if words[-4:] == bytes(4):
        raise FormatError("coder words: the last one is 0, which no encoder writes")
    return escapes, words

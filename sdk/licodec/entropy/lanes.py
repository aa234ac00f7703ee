"""Interleaved-lane rANS: bytes and table indices <-> the body of a tile (DATA units of kind 1), in numpy.

A tile's symbols are dealt to 1..512 lanes that step together, so that a row of lanes is one vector; several
tiles step in lockstep, their lanes side by side. `lanes_reference` specifies the stream, and draws it.

When not to use it: for symbols beyond a byte, or few of them (a lane costs about 3 bytes): see `coder`.

    >>> import numpy as np
    >>> frequencies = np.zeros((1, 256), int)
    >>> frequencies[0, [255, 0, 1, 128]] = 1000, 2000, 1000, 96  # residuals -1, 0, 1 and the escape
    >>> tables = LaneTables(frequencies)
    >>> symbols, index = np.array([0, 255, 0, 1, 77], np.uint8), np.zeros(5, np.uint8)
    >>> body = encode([(symbols, index)], tables, lanes=2)
    >>> decoder = LaneDecoder([body], tables)
    >>> decoder.get([index])[0].tolist()
    [0, 255, 0, 1, 77]
    >>> decoder.close()

Sources: Duda, arXiv 1311.2540 (rANS); Giesen, arXiv 1402.3392 (interleaving).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError, UsageTypeError, UsageValueError, WeightsError

from .lanes_reference import ESCAPE, LANES_MAX, PRECISION, STATE_MIN, SYMBOLS, TOTAL, WORD_BITS, split_body
from .reference import write_varint

Bytes = npt.NDArray[np.uint8]
Wide = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Lanes = npt.NDArray[np.intp]
Stage = tuple[Bytes, Bytes]
"""Symbols and the table index of each: uint8 [N] both."""

TABLES_MAX: Final = 128
SYMBOLS_PER_LANE: Final = 3072  # a lane's 3 bytes are then 0.008 bits a symbol

# Rows are worked on in blocks of about so many symbols (2**14 and 2**16 were measured: slower).
_BLOCK: Final = 1 << 15

# Constants of the loops. Arrays without dimensions, which ufuncs take with less ado than numbers.
_SLOT: Final = np.array(TOTAL - 1, np.int64)
_PRECISION: Final = np.array(PRECISION, np.int64)
_FREQUENCY_SHIFT: Final = np.array(32, np.int64)
_SYMBOL_SHIFT: Final = 16
_STATE_MIN: Final = np.array(STATE_MIN, np.int64)
_WORD_BITS: Final = np.array(WORD_BITS, np.int64)
_WORD_DOWN: Final = np.array(0.5**WORD_BITS)


class LaneTables:
    """Immutable, validated tables of the lanes; safe to share between threads.

    A table that codes all 256 symbols is *full*. In any other one the frequency at 128 is the escape's, at
    least 1: 128 and the symbols of frequency 0 are then kept as raw bytes. So every table takes every byte.

    Args:
        frequencies: integers [T, 256], T 1..128; each row adds up to 4096; 0 is not codable.

    Raises:
        WeightsError: other shape, dtype or range; a row with another sum, or neither full nor with escape.
    """

    count: int
    frequencies: npt.NDArray[np.uint16]
    """[T, 256], read-only."""
    full: npt.NDArray[np.bool_]
    """[T], read-only: whether a table codes all symbols and so has no escape."""

    def __init__(self, frequencies: npt.ArrayLike) -> None:
        given: npt.NDArray[Any] = np.asarray(frequencies)
        if given.dtype.kind not in "iu" or given.ndim != 2 or given.shape[1] != SYMBOLS:
            found = f"{given.dtype} of shape {given.shape}"
            raise WeightsError(f"lane tables: expected integers [tables, {SYMBOLS}], found {found}")
        if not 1 <= len(given) <= TABLES_MAX:
            raise WeightsError(f"lane tables: expected 1..{TABLES_MAX} tables, found {len(given)}")
        if given.min() < 0 or given.max() > TOTAL:
            table, symbol = np.argwhere((given < 0) | (given > TOTAL))[0].tolist()
            entry = f"lane tables: table {table}, symbol {symbol}"
            raise WeightsError(f"{entry}: frequency {given[table, symbol]} is outside 0..{TOTAL}")
        wide = given.astype(np.int64)
        sums = wide.sum(1)
        if (sums != TOTAL).any():
            table = int(np.flatnonzero(sums != TOTAL)[0])
            raise WeightsError(f"lane tables: table {table} adds up to {sums[table]}, expected {TOTAL}")
        if not wide[:, ESCAPE].all():
            table = int(np.flatnonzero(wide[:, ESCAPE] == 0)[0])
            raise WeightsError(
                f"lane tables: table {table} codes neither all symbols nor the escape (symbol {ESCAPE})"
            )

        self.count = len(wide)
        self.frequencies = _frozen(wide.astype(np.uint16))
        self.full = _frozen(wide.min(1) > 0)
        starts: Wide = wide.cumsum(1) - wide
        # Decoder, for each slot: frequency << 32 | symbol << 16 | slot - start.
        flat, first = wide.ravel(), (starts + np.arange(self.count, dtype=np.int64)[:, None] * TOTAL).ravel()
        symbol = np.tile(np.arange(SYMBOLS, dtype=np.int64), self.count)
        bias = np.arange(self.count * TOTAL, dtype=np.int64) - first.repeat(flat)
        self._slots: Wide = _frozen((flat << 32 | symbol << _SYMBOL_SHIFT).repeat(flat) | bias)
        # Encoder, for each table and symbol: frequency << 16 | escaped << 15 | start, of 128 where escaped.
        escaped = wide == 0
        escaped[:, ESCAPE] = ~self.full
        codes = np.where(escaped, 1 << 15 | _code(wide, starts)[:, [ESCAPE]], _code(wide, starts))
        self._codes: npt.NDArray[np.int32] = _frozen(codes.astype(np.int32).ravel())

    @functools.cached_property
    def slots(self) -> npt.NDArray[np.uint32]:
        """What decoders on other devices look up, uint32 [T, 4096]: symbol, frequency - 1, slot - start.

        In 8, 12 and 12 bits from the highest; ``slot`` is the state modulo 4096, ``start`` the sum of the
        frequencies before the symbol's.
        """
        entries = self._slots
        symbol, frequency = entries >> _SYMBOL_SHIFT & SYMBOLS - 1, entries >> 32
        packed = symbol << 24 | frequency - 1 << PRECISION | entries & TOTAL - 1
        return _frozen(packed.astype(np.uint32).reshape(self.count, TOTAL))

    @functools.cached_property
    def symbols(self) -> Bytes:
        """The symbol of each slot, uint8 [T * 4096]: less memory than `slots`."""
        return _frozen((self._slots >> _SYMBOL_SHIFT & SYMBOLS - 1).astype(np.uint8))

    @functools.cached_property
    def spans(self) -> npt.NDArray[np.uint32]:
        """Frequency << 16 | start of each symbol, uint32 [T * 256]."""
        wide = self.frequencies.astype(np.int64)
        return _frozen(_code(wide, wide.cumsum(1) - wide).astype(np.uint32).ravel())

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """What encoders look up, int32 [T, 256], read-only: frequency << 16 | escaped << 15 | start.

        Where a symbol is escaped, frequency and start are the escape's. A table is full where 128 is not.
        """
        return self._codes.reshape(self.count, SYMBOLS)

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_codes"):  # the last attribute that the constructor sets
            raise AttributeError(f"LaneTables are immutable, {name} cannot be set")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"LaneTables(count={self.count}, full={int(self.full.sum())})"


def lanes_for(symbols: int) -> int:
    """Lanes of a tile of so many symbols: the power of two nearest to a lane for 3072 of them, 1..512."""
    lanes = 1
    while lanes < LANES_MAX and symbols * symbols >= 2 * (lanes * SYMBOLS_PER_LANE) ** 2:
        lanes *= 2
    return lanes


def encode(stages: Sequence[Stage], tables: LaneTables, lanes: int) -> bytes:
    """Body of a tile: lanes, escapes, states, words.

    Args:
        stages: (symbols, table index of each) of each stage, uint8 [N] both.
        tables: the tables of all stages.
        lanes: a power of two, 1..512; see ``lanes_for``.

    Raises:
        UsageTypeError, UsageValueError: arrays of other dtype, shape or range; lanes that cannot be.
    """
    return encode_many([stages], tables, [lanes])[0]


def encode_many(
    tiles: Sequence[Sequence[Stage]], tables: LaneTables, lanes: Sequence[int], *, compiled: bool = False
) -> list[bytes]:
    """Bodies of several tiles, as ``encode`` gives them, coded in lockstep.

    Args:
        tiles: the stages of each.
        lanes: of each tile.
        compiled: one tile after the other by loops that numba compiles, without the interpreter's lock; the
            same bytes.

    Raises:
        UsageTypeError, UsageValueError: as ``encode``; not as many lanes as tiles.
    """
    if len(lanes) != len(tiles):
        raise UsageValueError(f"lanes: {len(lanes)} numbers for {len(tiles)} tiles", argument="lanes")
    for count in lanes:
        if not (1 <= count <= LANES_MAX and count & (count - 1) == 0):
            raise UsageValueError(
                f"lanes: expected a power of two, 1..{LANES_MAX}, found {count}", argument="lanes"
            )
    if compiled:
        return [_encode_compiled(stages, tables, count) for stages, count in zip(tiles, lanes, strict=True)]
    escapes: list[list[bytes]] = [[] for _ in tiles]
    codes: list[list[npt.NDArray[np.int32]]] = [[] for _ in tiles]
    for tile, stages in enumerate(tiles):
        for symbols, index in stages:
            _check_stage(symbols, index, tables)
            position = index.astype(np.uint16)
            position <<= 8
            position |= symbols
            code = tables._codes.take(position)
            codes[tile].append(code)
            escapes[tile].append(symbols[(code & 1 << 15).nonzero()[0]].tobytes())

    lockstep = _Encoder(lanes)
    for stage in reversed(range(max(map(len, codes), default=0))):
        lockstep.put([of_tile[stage] if stage < len(of_tile) else _NOTHING for of_tile in codes])
    bodies = []
    for count, parts, (states, words) in zip(lanes, escapes, lockstep.finish(), strict=True):
        bodies.append(_body(count, b"".join(parts), states, words))
    return bodies


def _encode_compiled(stages: Sequence[Stage], tables: LaneTables, lanes: int) -> bytes:
    from .lanes_compiled import RECIPROCALS, encode_stages

    for symbols, index in stages:
        _check_stage(symbols, index, tables)
    symbols = np.concatenate([_NO_SYMBOLS, *(symbols for symbols, _ in stages)])
    index = np.concatenate([_NO_SYMBOLS, *(index for _, index in stages)])
    ends = np.cumsum([symbols.size for symbols, _ in stages], dtype=np.int64)
    states = np.full(lanes, STATE_MIN, np.uint32)
    words, escapes = np.empty(symbols.size + 1, np.uint16), np.empty(symbols.size, np.uint8)
    drawn, escaped = encode_stages(symbols, index, ends, tables._codes, RECIPROCALS, states, words, escapes)
    raw = escapes[escapes.size - escaped :].tobytes()
    return _body(lanes, raw, states, words[words.size - drawn :])


def _check_stage(symbols: Bytes, index: Bytes, tables: LaneTables) -> None:
    _checked(index, tables.count, "table indices")
    _checked(symbols, SYMBOLS, "symbols")
    if symbols.size != index.size:
        raise UsageValueError(
            f"symbols: {symbols.size} of them for {index.size} table indices", argument="symbols"
        )


def _body(lanes: int, escapes: bytes, states: npt.NDArray[Any], words: npt.NDArray[Any]) -> bytes:
    head = bytes([lanes.bit_length() - 1]) + write_varint(len(escapes)) + escapes
    return head + states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


class LaneDecoder:
    """Reads the stages of several tiles in lockstep; what ``get`` returned is certain only after ``close``.

    Time and memory follow from the indices that the caller asks for, not from the bytes: a symbol of
    frequency 4096 takes none. After a FormatError the decoder is of no more use.

    Args:
        bodies: of each tile, as ``encode`` gave it.
        tables: the tables of all of them.
        compiled: one tile after the other by loops that numba compiles, without the interpreter's lock.

    Raises:
        FormatError: the bytes cannot be a tile.
    """

    def __init__(
        self, bodies: Sequence[bytes | memoryview], tables: LaneTables, *, compiled: bool = False
    ) -> None:
        self._tables = tables
        self._compiled = compiled
        split = [split_body(body) for body in bodies]
        self._lanes = [lanes for lanes, _, _, _ in split]
        self._escapes = [np.frombuffer(escapes, np.uint8) for _, escapes, _, _ in split]
        self._escape = [0] * len(split)
        kinds = (np.uint32, np.uint16) if compiled else (np.int64, np.int64)
        self._states: list[Wide] = [np.frombuffer(s, "<u4").astype(kinds[0]) for _, _, s, _ in split]
        # One array for all tiles: a tile that asks for more than its words reads another's until it is found.
        self._words: Wide = np.frombuffer(b"".join(w for _, _, _, w in split), "<u2").astype(kinds[1])
        ends = np.cumsum([len(words) // 2 for _, _, _, words in split], dtype=np.int64)
        self._ends: list[int] = ends.tolist()
        self._at: list[int] = [0, *self._ends][: len(split)]
        block = 0 if compiled else max(_BLOCK, sum(self._lanes))
        self._offsets, self._entries = np.empty(block, np.int64), np.empty(block, np.int64)

    def get(self, indices: Sequence[Bytes]) -> list[Bytes]:
        """Symbols of the next stage of each tile: uint8 [N] each.

        Args:
            indices: table index of each symbol, uint8 [N], for each tile; tiles may differ in N.

        Raises:
            FormatError: words or escapes are missing, or an escape is none. Damaged bytes or wrong indices;
                most of these show in ``close`` only.
            UsageTypeError, UsageValueError: arrays of other number, dtype or shape; an index without a table.
        """
        if len(indices) != len(self._lanes):
            raise UsageValueError(
                f"indices: {len(indices)} arrays for {len(self._lanes)} tiles", argument="indices"
            )
        for index in indices:
            _checked(index, self._tables.count, "indices")
        out = [np.empty(index.size, np.uint8) for index in indices]
        if self._compiled:
            self._decode_compiled(indices, out)
        else:
            for segment in _segments([index.size for index in indices], self._lanes):
                self._decode(segment, indices, out)
            for tile, symbols in enumerate(out):
                self._unescape(tile, symbols, indices[tile])
        return out

    def close(self) -> None:
        """Check that everything was consumed and that each lane is back where the encoder started.

        Raises:
            FormatError: damaged bytes, or other tables or indices than the encoder's.
        """
        for tile, states in enumerate(self._states):
            where = self._where(tile)
            if left := self._escapes[tile].size - self._escape[tile]:
                raise FormatError(f"{where}escapes: {left} of {self._escapes[tile].size} are left over")
            if left := self._ends[tile] - self._at[tile]:
                raise FormatError(f"{where}words: {left} of {self._stored(tile)} are left over")
            wrong = np.flatnonzero(states != STATE_MIN)
            if wrong.size:
                raise FormatError(
                    f"{where}lane {wrong[0]}: ends in state {states[wrong[0]]}, expected {STATE_MIN}: "
                    "damaged, or tables, weights or integer results other than the encoder's"
                )

    def _decode(self, segment: _Segment, indices: Sequence[Bytes], out: Sequence[Bytes]) -> None:
        """Decode a segment into ``out`` and move states and words on."""
        states = segment.gather(self._states)
        words = (_WordsOfOne if len(segment.parts) == 1 else _WordsOfMany)(self, segment)
        for first, rows in segment.blocks():
            size = rows * segment.width
            offsets = self._offsets[:size].reshape(rows, segment.width)
            entries = self._entries[:size].reshape(rows, segment.width)
            for part in segment.parts:
                offsets[:, part.columns] = part.rows(indices[part.tile], first, rows)
            offsets <<= PRECISION
            _decode_rows(states, offsets, entries, self._tables._slots, words.draw)
            words.settle()
            entries >>= _SYMBOL_SHIFT
            for part in segment.parts:
                np.copyto(part.rows(out[part.tile], first, rows), entries[:, part.columns], casting="unsafe")
        segment.scatter(states, self._states)

    def _decode_compiled(self, indices: Sequence[Bytes], out: Sequence[Bytes]) -> None:
        from .lanes_compiled import decode_stage, put_escapes

        tables = self._tables
        symbols_of, spans = tables.symbols, tables.spans
        for tile, (index, symbols) in enumerate(zip(indices, out, strict=True)):
            at, end = self._at[tile], self._ends[tile]
            at = decode_stage(self._states[tile], self._words, at, end, index, symbols_of, spans, symbols)
            if at < 0:
                raise self._words_end(tile)
            self._at[tile] = at
        for tile, (index, symbols) in enumerate(zip(indices, out, strict=True)):
            stored = self._escapes[tile][self._escape[tile] :]
            escaped = put_escapes(symbols, index, tables.full, tables.frequencies, stored)
            if escaped < 0:
                self._unescape(tile, symbols, index)  # says what is wrong
            self._escape[tile] += escaped

    def _unescape(self, tile: int, symbols: Bytes, index: Bytes) -> None:
        """Put the raw bytes in the places of a stage's escapes."""
        escaped = (symbols == ESCAPE).nonzero()[0]
        if not escaped.size:
            return
        of_escaped = index[escaped]
        with_escape = ~self._tables.full[of_escaped]
        escaped, of_escaped = escaped[with_escape], of_escaped[with_escape]
        stored, first = self._escapes[tile], self._escape[tile]
        raw = stored[first : first + escaped.size]
        if raw.size != escaped.size:
            raise FormatError(
                f"{self._where(tile)}escapes: {stored.size} are stored, the symbols ask for more"
            )
        needless = (self._tables.frequencies[of_escaped, raw] > 0) & (raw != ESCAPE)
        if needless.any():
            k = int(needless.argmax())
            raise FormatError(
                f"{self._where(tile)}escapes: {raw[k]} is escaped, table {of_escaped[k]} has it"
            )
        symbols[escaped] = raw
        self._escape[tile] += escaped.size

    def _words_end(self, tile: int) -> FormatError:
        stored = self._stored(tile)
        return FormatError(f"{self._where(tile)}words: {stored} are stored, the symbols ask for more")

    def _where(self, tile: int) -> str:
        return f"tile {tile} of {len(self._lanes)}: " if len(self._lanes) > 1 else ""

    def _stored(self, tile: int) -> int:
        return self._ends[tile] - (self._ends[tile - 1] if tile else 0)


class _WordsOfOne:
    """The next words of a segment's only tile.

    ``draw`` gives the words of one row for its lanes, [K] ascending: int64 [K]. ``settle`` tells the decoder
    after a block what was drawn. Where a tile has no more words, one or the other raises FormatError.
    """

    def __init__(self, decoder: LaneDecoder, segment: _Segment) -> None:
        self._decoder, self._tile = decoder, segment.parts[0].tile
        self._words, self._at, self._end = decoder._words, decoder._at[self._tile], decoder._ends[self._tile]

    def draw(self, lanes: Lanes) -> Wide:
        first = self._at
        self._at = stop = first + lanes.size
        if stop > self._end:
            raise self._decoder._words_end(self._tile)
        return self._words[first:stop]

    def settle(self) -> None:
        self._decoder._at[self._tile] = self._at


class _WordsOfMany:
    """The next words of several tiles, as ``_WordsOfOne``.

    A slice for each tile instead was measured: 3 % faster for two tiles, slower from four on.
    """

    def __init__(self, decoder: LaneDecoder, segment: _Segment) -> None:
        self._decoder, self._tiles = decoder, [part.tile for part in segment.parts]
        self._words = decoder._words if decoder._words.size else np.zeros(1, np.int64)
        self._at = np.array([decoder._at[tile] for tile in self._tiles], np.int64)
        starts = [part.columns.start for part in segment.parts]
        self._edges = np.array([*starts, segment.width], np.int64)
        self._ranks = np.arange(segment.width, dtype=np.int64)

    def draw(self, lanes: Lanes) -> Wide:
        bounds = lanes.searchsorted(self._edges)  # lanes ascend, so each tile's stand together
        counts = bounds[1:] - bounds[:-1]
        source = (self._at - bounds[:-1]).repeat(counts)
        np.add(source, self._ranks[: lanes.size], source)
        np.add(self._at, counts, self._at)
        return self._words.take(source, None, None, "clip")  # another tile's or the last, until settled

    def settle(self) -> None:
        for tile, at in zip(self._tiles, self._at.tolist(), strict=True):
            if at > self._decoder._ends[tile]:
                raise self._decoder._words_end(tile)
            self._decoder._at[tile] = at


class _Encoder:
    """Lanes of several tiles, fed from the last stage to the first."""

    def __init__(self, lanes: Sequence[int]) -> None:
        self._lanes = lanes
        self._states: list[Floats] = [np.full(count, STATE_MIN, np.float64) for count in lanes]
        self._words: list[list[npt.NDArray[np.uint16]]] = [[] for _ in lanes]  # blocks, last first

    def put(self, codes: Sequence[npt.NDArray[np.int32]]) -> None:
        """The stage before the one put last: for each tile the codes of its symbols, see ``LaneTables``."""
        for segment in reversed(_segments([code.size for code in codes], self._lanes)):
            states = segment.gather(self._states)
            for first, rows in reversed(list(segment.blocks())):
                block = np.empty((rows, segment.width), np.int32)
                for part in segment.parts:
                    block[:, part.columns] = part.rows(codes[part.tile], first, rows)
                self._put_rows(segment, states, block)
            segment.scatter(states, self._states)

    def _put_rows(self, segment: _Segment, states: Floats, block: npt.NDArray[np.int32]) -> None:
        words, lanes = _encode_rows(states, block, len(segment.parts) > 1)
        if lanes is None:
            self._words[segment.parts[0].tile].append(words)
            return
        part_of_lane = np.arange(len(segment.parts), dtype=np.uint8 if len(segment.parts) < 256 else np.int64)
        part_of_lane = part_of_lane.repeat([part.width for part in segment.parts])
        part_of_word = part_of_lane.take(lanes)
        ordered = words.take(part_of_word.argsort(kind="stable"))
        counts = np.bincount(part_of_word, minlength=len(segment.parts))
        for part, of_part in zip(segment.parts, np.split(ordered, counts.cumsum()[:-1]), strict=True):
            self._words[part.tile].append(of_part)

    def finish(self) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]]:
        """States and words of each tile."""
        for states, blocks in zip(self._states, self._words, strict=True):
            yield states.astype(np.uint32), np.concatenate([_NO_WORDS, *reversed(blocks)])


@dataclass(frozen=True)
class _Part:
    """Rows of one tile in a segment: ``width`` lanes each, from symbol ``first`` of its stage on."""

    tile: int
    first: int
    width: int
    columns: slice
    """Where its lanes stand among the segment's."""

    def rows(self, of_stage: npt.NDArray[Any], first: int, rows: int) -> npt.NDArray[Any]:
        """View of an array [N] of the stage as [rows, width], from the segment's row ``first`` on."""
        start = self.first + first * self.width
        return of_stage[start : start + rows * self.width].reshape(rows, self.width)


@dataclass(frozen=True)
class _Segment:
    """Rows of a stage in which the same lanes of the same tiles take part."""

    parts: list[_Part]
    height: int
    width: int

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first row, rows) of each block."""
        most = max(1, _BLOCK // self.width)
        for first in range(0, self.height, most):
            yield first, min(most, self.height - first)

    def gather(self, states: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """States of the lanes, side by side: [width]."""
        return np.concatenate([states[part.tile][: part.width] for part in self.parts])

    def scatter(self, gathered: npt.NDArray[Any], states: Sequence[npt.NDArray[Any]]) -> None:
        """The inverse of ``gather``."""
        for part in self.parts:
            states[part.tile][: part.width] = gathered[part.columns]


def _segments(counts: Sequence[int], lanes: Sequence[int]) -> list[_Segment]:
    """Segments of a stage in decoding order, for tiles of ``counts`` symbols on so many lanes.

    Tiles know nothing of each other, so the rows that fill all lanes of a tile come first and the partial
    ones of all tiles last, together:

        tile 0   ======== ======== ===         3 segments, tiles 0 and 1 | 0 | 0 and 1
        tile 1   ====     ====                 in the first 1 row of all lanes of both, ...
    """
    whole = [count // of_tile for count, of_tile in zip(counts, lanes, strict=True)]
    segments = []
    for above, below in pairwise(sorted({0, *whole})):
        active = [(t, above * lanes[t], lanes[t]) for t, rows in enumerate(whole) if rows >= below]
        segments.append(_segment(active, below - above))
    partial = [
        (t, rows * lanes[t], counts[t] - rows * lanes[t])
        for t, rows in enumerate(whole)
        if counts[t] > rows * lanes[t]
    ]
    if partial:
        segments.append(_segment(partial, 1))
    return segments


def _segment(active: Sequence[tuple[int, int, int]], height: int) -> _Segment:
    """Segment of the given (tile, first symbol, lanes)."""
    parts, column = [], 0
    for tile, first, width in active:
        parts.append(_Part(tile, first, width, slice(column, column + width)))
        column += width
    return _Segment(parts, height, column)


# The loops below run once a row. What can be done for a block at once is done outside of them, and no array
# of a row's width is made in them.


def _decode_rows(
    states: Wide, offsets: Wide, entries: Wide, slots: Wide, draw: Callable[[Lanes], Wide]
) -> None:
    """Decode rows.

    Args:
        states: int64 [lanes], changed in place.
        offsets: int64 [rows, lanes], table index * 4096.
        entries: int64 [rows, lanes], filled with what stands in ``slots``.
        slots: see ``LaneTables``.
        draw: gives the words of a row, see ``_WordsOfOne``.
    """
    slot, factor, low = np.empty_like(states), np.empty_like(states), np.empty(states.shape, np.bool_)
    for offset, entry in zip(offsets, entries, strict=True):
        np.bitwise_and(states, _SLOT, slot)
        np.add(slot, offset, slot)
        slots.take(slot, None, entry, "clip")  # nothing to clip, but without the copy that checking takes
        np.right_shift(states, _PRECISION, states)
        np.right_shift(entry, _FREQUENCY_SHIFT, factor)
        np.multiply(states, factor, states)
        np.bitwise_and(entry, _SLOT, slot)
        np.add(states, slot, states)
        np.less(states, _STATE_MIN, low)
        lanes = low.nonzero()[0]
        if lanes.size:
            renewed = states.take(lanes)
            np.left_shift(renewed, _WORD_BITS, renewed)
            np.bitwise_or(renewed, draw(lanes), renewed)
            states[lanes] = renewed


def _encode_rows(
    states: Floats, block: npt.NDArray[np.int32], with_lanes: bool
) -> tuple[npt.NDArray[np.uint16], Wide | None]:
    """Encode rows, last row first; (words in decoding order, the lane of each if asked for).

    States are float64, which holds integers of 32 bits exactly and divides faster than integers do:
    floor(x / f) is floor(x * r) with r a little above 1 / f. For r from 1 / f to (1 + 2**-50) / f the rounded
    product is not below the quotient where that is an integer, and does not reach the next integer: while
    x / f < 2**20 that is at least 1 / f away.

    Args:
        states: float64 [lanes], changed in place.
        block: int32 [rows, lanes], see ``LaneTables``.
    """
    frequencies = (block >> 16).astype(np.float64)
    limits = frequencies * float(1 << (32 - PRECISION))  # a state from here on gives up a word first
    reciprocals = (1 + 2.0**-51) / frequencies
    gaps = TOTAL - frequencies
    starts = (block & TOTAL - 1).astype(np.float64)
    words, first = np.empty(block.size, np.float64), block.size
    origins = np.empty(block.size if with_lanes else 0, np.int64)
    quotient, high = np.empty_like(states), np.empty(states.shape, np.bool_)
    for limit, reciprocal, gap, start in zip(
        limits[::-1], reciprocals[::-1], gaps[::-1], starts[::-1], strict=True
    ):
        np.greater_equal(states, limit, high)
        lanes = high.nonzero()[0]
        if lanes.size:
            full = states.take(lanes)
            stop, first = first, first - lanes.size
            words[first:stop] = full
            if with_lanes:
                origins[first:stop] = lanes
            np.multiply(full, _WORD_DOWN, full)
            np.floor(full, full)
            states[lanes] = full
        # floor(x / f) * 4096 + start + x mod f
        np.multiply(states, reciprocal, quotient)
        np.floor(quotient, quotient)
        np.multiply(quotient, gap, quotient)
        np.add(states, quotient, states)
        np.add(states, start, states)
    given = words[first:].astype(np.int64).astype(np.uint16)
    return given, origins[first:] if with_lanes else None


def _code(frequencies: Wide, starts: Wide) -> Wide:
    return frequencies << 16 | starts


def _checked(values: Bytes, count: int, what: str) -> Bytes:
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 1:
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values)
        raise UsageTypeError(f"{what}: expected a vector of uint8, found {found}", argument=what)
    if count < SYMBOLS and values.size and (most := int(values.max())) >= count:
        raise UsageValueError(f"{what}: expected 0..{count - 1}, found {most}", argument=what)
    return values


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array


_NOTHING: Final = _frozen(np.empty(0, np.int32))
_NO_SYMBOLS: Final = _frozen(np.empty(0, np.uint8))
_NO_WORDS: Final = _frozen(np.empty(0, np.uint16))

__all__: Sequence[str] = (
    "SYMBOLS_PER_LANE",
    "TABLES_MAX",
    "LaneDecoder",
    "LaneTables",
    "encode",
    "encode_many",
    "lanes_for",
)

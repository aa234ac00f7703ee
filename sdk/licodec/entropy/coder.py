"""Grouped, sealed ANS coding: symbols and table indices <-> the body of a DATA unit.

Each pass of a codec's schedule is one ``put`` or ``get``. Inside a pass symbols are grouped by table. Three
coders write and read the same bytes: compiled loops (`coder_compiled`) where llvmlite is installed, else
constriction, one call per table in use, else `reference`, which specifies the stream.

When not to use it: for symbols without a probability table (raw bits, runs): codecs keep those in units
of their own kind.

    >>> import numpy as np
    >>> from licodec.entropy.tables import load_set
    >>> symbols, index = np.array([0, -1, 2, 0, 900]), np.array([0, 70, 70, 255, 191], np.uint8)
    >>> encoder = StreamEncoder(load_set())
    >>> encoder.put(symbols, index)
    >>> decoder = StreamDecoder(encoder.finish(), load_set())
    >>> decoder.get(index).tolist()
    [0, -1, 2, 0, 900]
    >>> decoder.close()
    >>> decoder.seal == encoder.seal == symbols_seal([(symbols, index)])
    True

Sources: Duda, arXiv 1311.2540 (ANS); Bamler, arXiv 2201.01741 (constriction).
"""

from __future__ import annotations

import abc
import functools
import importlib.util
import itertools
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError, LicWarning, UsageTypeError, UsageValueError

from . import coder_compiled, reference
from .coder_compiled import CompiledCoder, CompiledGrouping
from .reference import SHIFT
from .tables import NOT_CODED, NOT_CODED_WIDE, SYMBOL_MAX, TableSet

IntArray = npt.NDArray[np.integer[Any]]
Symbols = npt.NDArray[np.int16]
Codes = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

ESCAPE_BYTES_MAX: Final = 3
CHEAPEST_SHARE: Final = 0.99  # see check_work: a coder never gets below 255/256 of the ideal


class StreamEncoder:
    """Collects the passes of one stream and writes its body.

    Args:
        tables: table set of passes that name none.
    """

    def __init__(self, tables: TableSet) -> None:
        self._tables = tables
        self._passes: list[tuple[Codes, Places, TableSet]] = []
        self._escapes: list[bytes] = []
        self._kind = _kind()
        self._seal = 0

    def put(self, symbols: IntArray, index: IntArray, *, tables: TableSet | None = None) -> None:
        """Add a pass.

        Args:
            symbols: integers [N], -32767..32767, flattened in channel, row, column order.
            index: table index of each, uint8 [N] (uint16 for sets of more than 255 tables);
                ``tables.not_coded`` (255) where the symbol is 0 and not in the stream.
            tables: table set of this pass, where it is not the stream's.

        Raises:
            UsageTypeError, UsageValueError: arrays of other dtype, shape or range; an index without a
                table; a symbol other than 0 that is marked as not coded.
        """
        tables = tables or self._tables
        values = _checked_symbols(symbols)
        grouping = _grouping(_checked_index(index, tables), tables.count)
        if values.size != index.size:
            raise UsageValueError(
                f"symbols: {values.size} of them for {index.size} table indices", argument="symbols"
            )
        ordered = grouping.gather(values)
        if np.count_nonzero(ordered) != np.count_nonzero(values):
            raise UsageValueError(
                f"symbols: one that is not 0 has index {tables.not_coded} (not coded) and would be lost",
                argument="symbols",
            )
        codes, escaped = self._kind.chosen(ordered, grouping.begins, tables)
        if escaped.size:
            limits = _limits_at(escaped, grouping.begins, tables)
            pairs = zip(ordered[escaped].tolist(), limits.tolist(), strict=True)
            self._escapes.append(b"".join(reference.escape_bytes(q, most) for q, most in pairs))
        self._seal = _crc32(ordered, self._seal)
        self._passes.append((codes, grouping.begins, tables))

    def finish(self) -> bytes:
        """Body of the stream: escape length, escape bytes, coder words."""
        coder = self._kind.sealed(self._seal)
        for codes, begins, tables in reversed(self._passes):
            coder.push(codes, begins, tables)
        escapes = b"".join(self._escapes)
        return reference.write_varint(len(escapes)) + escapes + coder.words().astype("<u4").tobytes()

    @property
    def seal(self) -> int:
        """CRC-32 of the symbols put so far, in decoding order."""
        return self._seal


class StreamDecoder:
    """Reads the passes of one stream; nothing that ``get`` returned is certain before ``close``.

    Time and memory follow from the indices that the caller asks for, not from the bytes: judge the number
    of symbols with ``check_work`` before allocating them.

    Args:
        body: escape length, escape bytes, coder words.
        tables: table set of passes that name none.

    Raises:
        FormatError: the bytes cannot be a stream.
    """

    def __init__(self, body: bytes, tables: TableSet) -> None:
        self._tables = tables
        escapes, words = reference.split_body(body)
        self._magnitudes, self._negative = _parse_escapes(escapes)
        self._escape = 0
        self._coder = _kind().opened(np.frombuffer(words, "<u4").astype(np.uint32))
        self._seal = 0

    def get(self, index: IntArray, *, tables: TableSet | None = None) -> Symbols:
        """Symbols of the next pass: int16 [N], 0 where the index says not coded.

        Args:
            index: table index of each position, as in ``StreamEncoder.put``.
            tables: table set of this pass, where it is not the stream's.

        Raises:
            FormatError: an escape is missing or out of range. Damaged bytes or wrong indices; most of
                these show in ``close`` only.
            UsageTypeError, UsageValueError: index of other dtype or shape, or without a table.
        """
        tables = tables or self._tables
        grouping = _grouping(_checked_index(index, tables), tables.count)
        ordered, escaped = self._coder.pop(grouping.begins, tables)
        if escaped.size:
            ordered[escaped] = self._next_escapes(_limits_at(escaped, grouping.begins, tables))
        self._seal = _crc32(ordered, self._seal)
        return grouping.scatter(ordered)

    def close(self) -> None:
        """Check that everything was consumed and that the symbols are the encoder's.

        Raises:
            FormatError: they are not. Damaged bytes, or other tables, weights or integer results.
        """
        left = self._magnitudes.size - self._escape
        if left:
            raise FormatError(f"escapes: {left} values are left over after the last symbol")
        if not self._coder.holds_only(self._seal):
            raise FormatError(
                f"symbols do not verify (their CRC-32 is {self._seal:08x}): damaged words, or tables, "
                "weights or integer results other than the encoder's"
            )

    @property
    def seal(self) -> int:
        """CRC-32 of the decoded symbols, known to be the encoder's after ``close``."""
        return self._seal

    def _next_escapes(self, limit: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The next escaped symbols, one for each of these limits of their tables."""
        end = self._escape + limit.size
        if end > self._magnitudes.size:
            raise FormatError(f"escapes: {self._magnitudes.size} values are stored, the symbols ask for more")
        magnitudes = self._magnitudes[self._escape : end] + (limit + 1)
        if magnitudes.max() > SYMBOL_MAX:
            raise FormatError(f"escapes: magnitude {magnitudes.max()}, the largest is {SYMBOL_MAX}")
        symbols = np.where(self._negative[self._escape : end], -magnitudes, magnitudes)
        self._escape = end
        return symbols


def symbols_seal(passes: Iterable[tuple[IntArray, IntArray]]) -> int:
    """Seal of a stream without coding it: CRC-32 of the coded symbols as int16, in decoding order.

    Args:
        passes: (symbols, index) of each pass, as in ``StreamEncoder.put``.
    """
    seal = 0
    for symbols, index in passes:
        marker = NOT_CODED if index.dtype == np.uint8 else NOT_CODED_WIDE
        seal = _crc32(_grouping(index, marker).gather(_checked_symbols(symbols)), seal)
    return seal


def check_work(symbol_count: int, word_bytes: int, tables: TableSet, *others: TableSet) -> None:
    """Refuse more symbols than the bytes of a body can possibly hold; costs nothing, touches no bytes.

    A push of probability p multiplies the coder's state by at least 1 + (1/p - 1) * 255/256, so symbols
    take at least 255/256 of their ideal bits; 99 % of the cheapest symbol's price is a safe bound. It is
    what keeps a small file from asking for a huge picture: the words alone can be read for ever.

    Args:
        symbol_count: coded symbols of the stream as the header's sizes ask for, hyper-latents included.
        word_bytes: bytes of its coder words (the whole body is a good enough bound).
        tables, others: every table set that the stream uses.

    Raises:
        FormatError: the bytes cannot hold that many symbols.
    """
    cheapest = min(t.cheapest_bits for t in (tables, *others))
    need = symbol_count * cheapest * CHEAPEST_SHARE / 8
    if need > word_bytes:
        raise FormatError(
            f"{symbol_count} symbols take at least {need:.0f} bytes, this stream has {word_bytes}: "
            "the sizes in the header are not this file's"
        )


class Grouping(Protocol):
    """Positions of a pass in decoding order: by table, then by position (a stable sort of the index)."""

    @property
    def coded(self) -> int:
        """How many there are."""

    @property
    def begins(self) -> Places:
        """Where the group of each table begins in this order, and the last ends."""

    def gather(self, values: Symbols) -> Symbols:
        """Values of the coded positions in decoding order."""

    def scatter(self, ordered: Symbols) -> Symbols:
        """The inverse; 0 at positions that are not coded."""


class _SortedGrouping:
    """In NumPy.

    Sorting in chunks that stay in cache was measured: the same 4 million symbols took the same time.
    """

    def __init__(self, index: IntArray, marker: int, count: int) -> None:
        coded = np.flatnonzero(index != marker)  # most positions of most passes are not
        tables = index[coded]
        self.size, self.coded = index.size, coded.size
        self.begins = np.concatenate([[0], np.cumsum(np.bincount(tables, minlength=count))])
        # A radix sort, as the dtype is uint8 or uint16.
        self._order = coded[np.argsort(tables, kind="stable")]

    def gather(self, values: Symbols) -> Symbols:
        return values[self._order]

    def scatter(self, ordered: Symbols) -> Symbols:
        allocate = np.empty if self.coded == self.size else np.zeros
        out: Symbols = allocate(self.size, ordered.dtype)
        out[self._order] = ordered
        return out


def _grouping(index: IntArray, count: int) -> Grouping:
    marker = NOT_CODED if index.dtype == np.uint8 else NOT_CODED_WIDE
    narrow = marker == NOT_CODED and index.size < coder_compiled.POSITIONS_MAX
    compiled = narrow and coder_compiled.at_once()
    made: Grouping = CompiledGrouping(index) if compiled else _SortedGrouping(index, marker, count)
    if made.begins[count] < made.coded:
        raise UsageValueError(
            f"index: expected a table 0..{count - 1} or {marker} (not coded), "
            f"found {index[index != marker].max()}",
            argument="index",
        )
    return made


def _limits_at(places: Places, begins: Places, tables: TableSet) -> npt.NDArray[np.int32]:
    """L of the tables of symbols at these places of the decoding order."""
    return tables.limits[np.searchsorted(begins, places, side="right") - 1].astype(np.int32)


class _Coder(Protocol):
    """What a stream needs of an ANS coder. Symbols are in decoding order; begins: see `Grouping`."""

    @classmethod
    def opened(cls, words: npt.NDArray[np.uint32]) -> _Coder: ...

    @classmethod
    def sealed(cls, seal: int) -> _Coder: ...

    @staticmethod
    def chosen(ordered: Symbols, begins: Places, tables: TableSet) -> tuple[Codes, Places]:
        """(What ``push`` takes for these symbols of a pass, the places of escapes among them)."""

    def push(self, codes: Codes, begins: Places, tables: TableSet) -> None: ...

    def pop(self, begins: Places, tables: TableSet) -> tuple[Symbols, Places]:
        """(The symbols of the next pass, the places of escapes, which hold anything yet)."""

    def words(self) -> npt.NDArray[np.uint32]: ...
    def holds_only(self, seal: int) -> bool: ...


class _GroupCoder(abc.ABC):
    """A coder of one group after the other; codes are symbol + L, or 2L + 1 for an escape."""

    @staticmethod
    def chosen(ordered: Symbols, begins: Places, tables: TableSet) -> tuple[Codes, Places]:
        limit = _limits(begins, tables)
        codes = ordered + limit
        # As unsigned, negative ones are large too.
        escaped = np.flatnonzero(codes.view(np.uint32) > 2 * limit)
        codes[escaped] = 2 * limit[escaped] + 1
        return codes, escaped

    def push(self, codes: Codes, begins: Places, tables: TableSet) -> None:
        models = self.models(tables)
        for table, start, stop in reversed(_groups(begins, tables)):
            self.encode_reverse(codes[start:stop], models[table])

    def pop(self, begins: Places, tables: TableSet) -> tuple[Symbols, Places]:
        models = self.models(tables)
        codes = np.empty(int(begins[tables.count]), np.int32)
        for table, start, stop in _groups(begins, tables):
            codes[start:stop] = self.decode(models[table], stop - start)
        limit = _limits(begins, tables)
        codes -= limit
        return codes.astype(np.int16), np.flatnonzero(codes > limit)

    @staticmethod
    @abc.abstractmethod
    def models(tables: TableSet) -> Sequence[Any]:
        """Its own form of each table."""

    @abc.abstractmethod
    def encode_reverse(self, codes: Codes, model: Any) -> None: ...

    @abc.abstractmethod
    def decode(self, model: Any, count: int) -> Codes: ...


def _groups(begins: Places, tables: TableSet) -> list[tuple[int, int, int]]:
    """(table, first, behind the last) of each group that is not empty."""
    used = np.flatnonzero(np.diff(begins[: tables.count + 1]))
    edges = (used, begins[used], begins[used + 1])
    return list(zip(*(each.tolist() for each in edges), strict=True))


def _limits(begins: Places, tables: TableSet) -> npt.NDArray[np.int32]:
    """L of the table of each symbol."""
    return np.repeat(tables.limits.astype(np.int32), np.diff(begins[: tables.count + 1]))


class _NativeCoder(_GroupCoder):
    """constriction's ANS coder, with the traps of its Python interface kept out of reach.

    Counts are sizes of arrays that exist (an absurd one makes it panic past ``except Exception``), words
    never end in 0 (refused), codes are within their table by construction.
    """

    def __init__(self, ans: Any) -> None:
        self._ans = ans

    @classmethod
    def opened(cls, words: npt.NDArray[np.uint32]) -> _NativeCoder:
        import constriction

        return cls(constriction.stream.stack.AnsCoder(words))

    @classmethod
    def sealed(cls, seal: int) -> _NativeCoder:
        import constriction

        return cls(constriction.stream.stack.AnsCoder(np.array([seal], np.uint32), seal=True))

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def models(tables: TableSet) -> Sequence[Any]:
        import constriction

        # With K entries, left bounds are trunc(sum of p before * (2**24 - K) / sum of p) + position. Given
        # f * 256 - 1 the factor is exactly 1 and the bounds are the integer sums themselves.
        categorical = constriction.stream.model.Categorical
        return [
            categorical(tables.frequencies(i).astype(np.float64) * (1 << SHIFT) - 1, perfect=False)
            for i in range(tables.count)
        ]

    def encode_reverse(self, codes: Codes, model: Any) -> None:
        self._ans.encode_reverse(codes, model)

    def decode(self, model: Any, count: int) -> Codes:
        codes: Codes = self._ans.decode(model, count)
        return codes

    def words(self) -> npt.NDArray[np.uint32]:
        words: npt.NDArray[np.uint32] = self._ans.get_compressed()
        return words

    def holds_only(self, seal: int) -> bool:
        try:
            rest = self._ans.get_compressed(unseal=True)
        except AssertionError:  # the state does not begin with the 1 of a seal
            return False
        return rest.size == 1 and int(rest[0]) == seal


class _ReferenceCoder(_GroupCoder):
    """The plain-Python coder behind the same interface."""

    def __init__(self, ans: reference.AnsCoder) -> None:
        self._ans = ans

    @classmethod
    def opened(cls, words: npt.NDArray[np.uint32]) -> _ReferenceCoder:
        return cls(reference.AnsCoder(words.tolist()))

    @classmethod
    def sealed(cls, seal: int) -> _ReferenceCoder:
        return cls(reference.AnsCoder(state=reference.SEAL_BASE + seal))

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def models(tables: TableSet) -> Sequence[Any]:
        return [reference.scaled_cumulative(tables, i) for i in range(tables.count)]

    def encode_reverse(self, codes: Codes, model: Any) -> None:
        self._ans.encode_reverse(codes.tolist(), model)

    def decode(self, model: Any, count: int) -> Codes:
        return np.array(self._ans.decode(model, count), np.int32)

    def words(self) -> npt.NDArray[np.uint32]:
        return np.array(self._ans.words(), np.uint32)

    def holds_only(self, seal: int) -> bool:
        return self._ans.holds_only(seal)


STREAMS_BEFORE_LOOPS: Final = 8
"""Fewer take less time in constriction's coder than the import of llvmlite does. Bytes are the same."""
_streams = itertools.count(1)


def _kind() -> type[_Coder]:
    """The fastest coder that there is here; for the first streams of a process the one that starts first."""
    if coder_compiled.at_once():
        return CompiledCoder
    without = _without_loops()
    few = without is _NativeCoder and next(_streams) <= STREAMS_BEFORE_LOOPS
    return CompiledCoder if coder_compiled.here() and not few else without


@functools.cache
def _without_loops() -> type[_Coder]:
    if importlib.util.find_spec("constriction") is not None:
        return _NativeCoder
    if coder_compiled.here():
        return _ReferenceCoder
    warnings.warn(
        "neither llvmlite nor constriction is installed: entropy coding runs in plain Python, with the same "
        "bytes but about fifteen times slower",
        LicWarning,
        stacklevel=4,
    )
    return _ReferenceCoder


def _parse_escapes(data: bytes) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """(excess over L + 1, sign) of all escape values; a loop over bytes would be slow on hostile files."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    starts = np.concatenate(([0], ends + 1))
    if starts[-1] != octets.size:
        raise FormatError("escapes: the bytes end inside a number")
    starts = starts[:-1]
    lengths = ends - starts + 1
    if ends.size and lengths.max() > ESCAPE_BYTES_MAX:
        raise FormatError(f"escapes: a number of more than {ESCAPE_BYTES_MAX} bytes")
    if ((octets[ends] == 0) & (lengths > 1)).any():
        raise FormatError("escapes: a number is not written in its shortest form")
    values = np.zeros(ends.size, np.int32)
    for k in range(ESCAPE_BYTES_MAX):
        has = lengths > k
        values[has] |= (octets[starts[has] + k] & 0x7F).astype(np.int32) << 7 * k
    return values >> 1, (values & 1).astype(np.bool_)


def _crc32(ordered: Symbols, before: int) -> int:
    return zlib.crc32(ordered.astype("<i2", copy=False).data, before)


def _checked_symbols(symbols: IntArray) -> Symbols:
    if not isinstance(symbols, np.ndarray) or symbols.dtype.kind not in "iu":
        found = getattr(symbols, "dtype", type(symbols).__name__)
        raise UsageTypeError(f"symbols: expected an integer array, found {found}", argument="symbols")
    if symbols.ndim != 1:
        raise UsageValueError(f"symbols: expected one dimension, found {symbols.shape}", argument="symbols")
    if symbols.size and (symbols.min() < -SYMBOL_MAX or symbols.max() > SYMBOL_MAX):
        raise UsageValueError(
            f"symbols: expected -{SYMBOL_MAX}..{SYMBOL_MAX}, found {symbols.min()}..{symbols.max()}",
            argument="symbols",
        )
    return symbols.astype(np.int16, copy=False)


def _checked_index(index: IntArray, tables: TableSet) -> IntArray:
    if not isinstance(index, np.ndarray) or index.dtype != tables.index_dtype:
        found = getattr(index, "dtype", type(index).__name__)
        raise UsageTypeError(f"index: expected {tables.index_dtype}, found {found}", argument="index")
    if index.ndim != 1:
        raise UsageValueError(f"index: expected one dimension, found {index.shape}", argument="index")
    return index

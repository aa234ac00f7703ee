"""Grouped, sealed ANS coding on constriction: symbols and table indices <-> the body of a DATA unit.

Each pass of a codec's schedule is one ``put`` or ``get``. Inside a pass symbols are grouped by table, so
that a pass costs one native call per table in use; the stream itself is specified by `reference`, which
also takes over, with the same bytes, where constriction is not installed.

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

import functools
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError, LicWarning, UsageTypeError, UsageValueError

from . import reference
from .reference import SHIFT
from .tables import NOT_CODED, NOT_CODED_WIDE, SYMBOL_MAX, TableSet

try:
    import constriction
except ImportError:  # no wheel for Linux on ARM, and no source distribution
    constriction = None

IntArray = npt.NDArray[np.integer[Any]]
Symbols = npt.NDArray[np.int16]
Codes = npt.NDArray[np.int32]  # symbol + L, or 2L+1 for an escape: positions in a table

ESCAPE_BYTES_MAX: Final = 3
CHEAPEST_SHARE: Final = 0.99  # see check_work: a coder never gets below 255/256 of the ideal


class StreamEncoder:
    """Collects the passes of one stream and writes its body.

    Args:
        tables: table set of passes that name none.
    """

    def __init__(self, tables: TableSet) -> None:
        self._tables = tables
        self._passes: list[tuple[Codes, list[tuple[int, int, int]], TableSet]] = []
        self._escapes: list[bytes] = []
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
        grouping = _Grouping(_checked_index(index, tables), tables.count)
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
        self._seal = _crc32(ordered, self._seal)
        self._passes.append((self._codes(ordered, grouping, tables), grouping.groups, tables))

    def finish(self) -> bytes:
        """Body of the stream: escape length, escape bytes, coder words."""
        coder = _sealed_coder(self._seal)
        for codes, groups, tables in reversed(self._passes):
            models = coder.models(tables)
            for table, start, stop in reversed(groups):
                coder.encode_reverse(codes[start:stop], models[table])
        escapes = b"".join(self._escapes)
        return reference.write_varint(len(escapes)) + escapes + coder.words().astype("<u4").tobytes()

    @property
    def seal(self) -> int:
        """CRC-32 of the symbols put so far, in decoding order."""
        return self._seal

    def _codes(self, ordered: Symbols, grouping: _Grouping, tables: TableSet) -> Codes:
        limit = grouping.per_position(tables.limits)
        codes = ordered + limit
        escaped = np.flatnonzero(
            codes.view(np.uint32) > 2 * limit
        )  # as unsigned, negative ones are large too
        if escaped.size:
            pairs = zip(ordered[escaped].tolist(), limit[escaped].tolist(), strict=True)
            self._escapes.append(b"".join(reference.escape_bytes(q, most) for q, most in pairs))
            codes[escaped] = 2 * limit[escaped] + 1
        return codes


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
        self._coder = _opened_coder(np.frombuffer(words, "<u4").astype(np.uint32))
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
        grouping = _Grouping(_checked_index(index, tables), tables.count)
        models = self._coder.models(tables)
        codes = np.empty(grouping.coded, np.int32)
        for table, start, stop in grouping.groups:
            codes[start:stop] = self._coder.decode(models[table], stop - start)
        limit = grouping.per_position(tables.limits)
        codes -= limit
        ordered = codes.astype(np.int16)
        escaped = np.flatnonzero(codes > limit)
        if escaped.size:
            ordered[escaped] = self._next_escapes(limit[escaped])
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
        seal = _crc32(_Grouping(index, marker).gather(_checked_symbols(symbols)), seal)
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


class _Grouping:
    """Positions of a pass in decoding order: by table, then by position (a stable sort of the index).

    Sorting in chunks that stay in cache was measured: the same 4 million symbols took the same time.
    """

    def __init__(self, index: IntArray, count: int) -> None:
        marker = int(np.iinfo(index.dtype).max)  # 255 or 65 535: not coded
        coded = np.flatnonzero(index != marker)  # most positions of most passes are not
        tables = index[coded]
        counts = np.bincount(tables, minlength=count)
        if len(counts) > count:
            raise UsageValueError(
                f"index: expected a table 0..{count - 1} or {marker} (not coded), found {tables.max()}",
                argument="index",
            )
        edges = np.concatenate([[0], np.cumsum(counts)])
        self.size, self.coded = index.size, coded.size
        used = np.flatnonzero(counts)
        self.groups: list[tuple[int, int, int]] = list(
            zip(used.tolist(), edges[used].tolist(), edges[used + 1].tolist(), strict=True)
        )
        """(table, first, behind the last) of each group that is not empty."""
        # A radix sort, as the dtype is uint8 or uint16.
        self._order = coded[np.argsort(tables, kind="stable")]

    def per_position(self, of_table: IntArray) -> npt.NDArray[np.int32]:
        """What each coded position's table has, in decoding order."""
        tables, first, stop = np.array(self.groups, np.intp).reshape(-1, 3).T
        return np.repeat(of_table[tables].astype(np.int32), stop - first)

    def gather(self, values: Symbols) -> Symbols:
        """Values of the coded positions in decoding order."""
        return values[self._order]

    def scatter(self, ordered: Symbols) -> Symbols:
        """The inverse of ``gather``; 0 at positions that are not coded."""
        allocate = np.empty if self.coded == self.size else np.zeros
        out: Symbols = allocate(self.size, ordered.dtype)
        out[self._order] = ordered
        return out


class _Coder(Protocol):
    """What a stream needs of an ANS coder; models are its own form of a table."""

    @staticmethod
    def models(tables: TableSet) -> Sequence[Any]: ...
    def encode_reverse(self, codes: Codes, model: Any) -> None: ...
    def decode(self, model: Any, count: int) -> Codes: ...
    def words(self) -> npt.NDArray[np.uint32]: ...
    def holds_only(self, seal: int) -> bool: ...


class _NativeCoder:
    """constriction's ANS coder, with the traps of its Python interface kept out of reach.

    Counts are sizes of arrays that exist (an absurd one makes it panic past ``except Exception``), words
    never end in 0 (refused), codes are within their table by construction.
    """

    def __init__(self, ans: Any) -> None:
        self._ans = ans

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def models(tables: TableSet) -> Sequence[Any]:
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


class _ReferenceCoder:
    """The plain-Python coder behind the same interface."""

    def __init__(self, ans: reference.AnsCoder) -> None:
        self._ans = ans

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


def _sealed_coder(seal: int) -> _Coder:
    if constriction is not None:
        return _NativeCoder(constriction.stream.stack.AnsCoder(np.array([seal], np.uint32), seal=True))
    _warn_of_fallback()
    return _ReferenceCoder(reference.AnsCoder(state=reference.SEAL_BASE + seal))


def _opened_coder(words: npt.NDArray[np.uint32]) -> _Coder:
    if constriction is not None:
        return _NativeCoder(constriction.stream.stack.AnsCoder(words))
    _warn_of_fallback()
    return _ReferenceCoder(reference.AnsCoder(words.tolist()))


@functools.cache  # once a process
def _warn_of_fallback() -> None:
    warnings.warn(
        "constriction is not installed: entropy coding runs in plain Python, with the same bytes but about "
        "fifteen times slower",
        LicWarning,
        stacklevel=4,
    )


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

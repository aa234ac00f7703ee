"""Integer probability tables of the entropy coder: what a table index means, to the last bit.

A table holds the frequencies of the symbols -L..L followed by those of the escape symbol; they are
integers, at least 1 each, and add up to 65 536, so that every machine codes with the same numbers.
Committed set 1 has three shape families of 64 scales each:

    table index = family * 64 + scale index          (uint8 0..191; 255 = not coded, symbol 0)

    family 0  Gauss           scale index i  ->  standard deviation 0.11 * (64 / 0.11) ** (i / 63)
    family 1  Student t8
    family 2  Laplace

When not to use it: to *derive* tables on the machine that codes. ``erf`` and ``exp`` differ in their
last bit between machines, so tables are made once (``tools/build_tables.py``, or ``quantise`` at the
conversion of trained weights), stored as integers, and only read ever after.

    >>> tables = load_set()
    >>> tables.count, tables.limit(0), tables.frequencies(0).tolist()
    (192, 1, [1, 65533, 1, 1])
    >>> int(tables.frequencies(100).sum())
    65536
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import UsageTypeError, UsageValueError, WeightsError

FAMILIES: Final = ("gauss", "student-t8", "laplace")
SCALES: Final = 64
SCALE_MIN: Final = 0.11  # below it every table is [1, 65533, 1, 1] or nearly so: a finer grid gains nothing
SCALE_MAX: Final = 64.0

PRECISION: Final = 16  # bits; against 12 bits it saves 0.08 % of the file, 20 bits would save 0.004 % more
TOTAL: Final = 1 << PRECISION
LIMIT_MAX: Final = 255  # a cap of 127 costs 0.8 % at large scales, no cap gains 0.3 %
NOT_CODED: Final = 255  # index of positions that are not in the stream; uint8 index arrays
NOT_CODED_WIDE: Final = 65535  # the same for sets of more than 255 tables; uint16 index arrays
COUNT_MAX: Final = NOT_CODED_WIDE

SYMBOL_MAX: Final = 32767  # symbols are sealed as int16; -32768 is left out so that |q| is an int16 too
PACKAGED_SETS: Final = (1,)  # sets 1..127 live in the package, 128..255 in weights files

_HEADER_BYTES: Final = 3  # set id u8, table count u16


def scale_grid() -> npt.NDArray[np.float64]:
    """Standard deviations of scale indices 0..63 (all families), float64 [64], 0.11 to 64."""
    steps = np.arange(SCALES) / (SCALES - 1)
    return SCALE_MIN * np.exp(steps * math.log(SCALE_MAX / SCALE_MIN))


def quantise(probabilities: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Integer frequencies for a probability vector (symbols -L..L, then the escape's tail mass).

    Every entry gets max(1, floor(p * 65536)); what is missing is handed out one by one where it saves
    most bits, what is too much is taken where it costs least. Offline only: the result is stored.

    Args:
        probabilities: float [K], K = 2L+2 in 2..512, each finite and >= 0, sum > 0 (normalised here).

    Returns:
        uint32 [K], each >= 1, sum 65 536.

    Raises:
        UsageValueError: the vector is not one of probabilities.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or p.size % 2 or not 2 <= p.size <= 2 * LIMIT_MAX + 2:
        raise UsageValueError(
            f"probabilities: expected a vector of 2L+2 entries, L <= {LIMIT_MAX}, found shape {p.shape}",
            argument="probabilities",
        )
    if not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise UsageValueError(
            "probabilities: every entry must be finite and not negative, and one positive",
            argument="probabilities",
        )
    p = p / p.sum()
    frequencies: list[int] = np.maximum(1, np.floor(p * TOTAL)).astype(np.int64).tolist()
    missing = TOTAL - sum(frequencies)
    step = 1 if missing > 0 else -1

    def price(i: int) -> float:  # bits lost by one step at entry i; negative when handing out
        f = frequencies[i]
        return float(p[i]) * math.log2(f / (f + step))

    heap = [(price(i), i) for i, f in enumerate(frequencies) if f + step >= 1]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        _, i = heapq.heappop(heap)
        frequencies[i] += step
        if frequencies[i] + step >= 1:
            heapq.heappush(heap, (price(i), i))
    return np.array(frequencies, dtype=np.uint32)


class TableSet:
    """Immutable, validated set of probability tables; safe to share between threads.

    Args:
        set_id: 1..255, the number that a file's side info names.
        limits: integers [count], L of each table, 0..255; count 1..65535.
        frequencies: integers, all tables one after the other, 2L+2 entries each.

    Raises:
        WeightsError: an entry is below 1, a table does not add up to 65 536, sizes disagree.
    """

    __slots__ = (
        "_cumulative", "_frequencies", "_limits", "_offsets",
        "cheapest_bits", "count", "digest", "id",
    )  # fmt: skip

    id: int
    count: int
    digest: bytes
    """SHA-256 of ``to_bytes()``; part of the decode digest of every model that codes with this set."""
    cheapest_bits: float
    """Bits of the cheapest symbol of all tables: N symbols cannot take less than N times this."""

    def __init__(self, set_id: int, limits: npt.ArrayLike, frequencies: npt.ArrayLike) -> None:
        where = f"table set {set_id}"
        lim = _integers(limits, f"{where}: limits")
        flat = _integers(frequencies, f"{where}: frequencies")
        if not 1 <= set_id <= 255:
            raise WeightsError(f"{where}: the id of a table set is 1..255")
        if not 1 <= lim.size <= COUNT_MAX:
            raise WeightsError(f"{where}: expected 1..{COUNT_MAX} tables, found {lim.size}")
        if lim.min() < 0 or lim.max() > LIMIT_MAX:
            raise WeightsError(f"{where}: limits must be 0..{LIMIT_MAX}, found {lim.min()}..{lim.max()}")
        offsets = np.concatenate(([0], np.cumsum(2 * lim + 2)))
        if flat.size != offsets[-1]:
            raise WeightsError(f"{where}: limits ask for {offsets[-1]} frequencies, found {flat.size}")
        if flat.min() < 1 or flat.max() >= TOTAL:
            at = int(np.flatnonzero((flat < 1) | (flat >= TOTAL))[0])
            table = int(np.searchsorted(offsets, at, side="right")) - 1
            entry = f"{where}: table {table}, entry {at - offsets[table]}"
            raise WeightsError(f"{entry}: frequency {flat[at]} is outside 1..{TOTAL - 1}")
        sums = np.add.reduceat(flat, offsets[:-1])
        if (sums != TOTAL).any():
            table = int(np.flatnonzero(sums != TOTAL)[0])
            raise WeightsError(f"{where}: table {table} adds up to {sums[table]}, expected {TOTAL}")

        self.id = set_id
        self.count = int(lim.size)
        self._limits = _frozen(lim.astype(np.uint8))
        self._frequencies = _frozen(flat.astype(np.uint32))
        self._offsets: list[int] = offsets.tolist()
        before = (np.cumsum(flat) - flat) % TOTAL  # every table before adds up to TOTAL
        self._cumulative = _frozen(before.astype(np.uint32))
        self.cheapest_bits = PRECISION - math.log2(int(flat.max()))
        self.digest = hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_tables(cls, set_id: int, tables: Iterable[npt.ArrayLike]) -> TableSet:
        """Set of the given frequency vectors (2L+2 integers each), for example ``quantise`` results."""
        vectors = [np.asarray(t) for t in tables]
        for i, v in enumerate(vectors):
            if v.ndim != 1 or v.size % 2 or v.size < 2:
                raise WeightsError(f"table set {set_id}: table {i} needs 2L+2 entries, found shape {v.shape}")
        limits = [(v.size - 2) // 2 for v in vectors]
        return cls(set_id, limits, np.concatenate(vectors) if vectors else [])

    @classmethod
    def from_bytes(cls, data: bytes) -> TableSet:
        """Set from its canonical form (see ``to_bytes``); WeightsError where the bytes are not one."""
        if len(data) < _HEADER_BYTES:
            raise WeightsError(f"table set: {len(data)} bytes, expected at least {_HEADER_BYTES}")
        count = int.from_bytes(data[1:3], "little")
        limits = np.frombuffer(data[_HEADER_BYTES : _HEADER_BYTES + count], np.uint8)
        body = data[_HEADER_BYTES + count :]
        if limits.size != count or len(body) % 2:
            raise WeightsError(f"table set {data[0]}: {len(data)} bytes do not hold {count} tables")
        return cls(data[0], limits, np.frombuffer(body, "<u2"))

    def to_bytes(self) -> bytes:
        """Canonical form: set id u8, count u16, L u8 of each table, all frequencies u16 (little-endian)."""
        head = bytes([self.id]) + self.count.to_bytes(2, "little")
        return head + self._limits.tobytes() + self._frequencies.astype("<u2").tobytes()

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """dtype of index arrays for this set: uint8, or uint16 from 256 tables on."""
        return np.dtype(np.uint8 if self.count <= NOT_CODED else np.uint16)

    @property
    def not_coded(self) -> int:
        """Index of positions that are not in the stream: 255, or 65 535 in sets of more than 255 tables."""
        return NOT_CODED if self.count <= NOT_CODED else NOT_CODED_WIDE

    def limit(self, index: int) -> int:
        """L of table ``index``: it codes -L..L directly, larger values by escape."""
        return int(self._limits[self._checked(index)])

    @property
    def limits(self) -> npt.NDArray[np.uint8]:
        """L of every table, uint8 [count], read-only."""
        return self._limits

    @property
    def all_frequencies(self) -> npt.NDArray[np.uint32]:
        """``frequencies`` of all tables, one after the other, read-only."""
        return self._frequencies

    def frequencies(self, index: int) -> npt.NDArray[np.uint32]:
        """Frequencies of -L..L, then of the escape: uint32 [2L+2], sum 65 536, read-only."""
        i = self._checked(index)
        return self._frequencies[self._offsets[i] : self._offsets[i + 1]]

    def cumulative(self, index: int) -> npt.NDArray[np.uint32]:
        """Sums of the frequencies before each entry and, last, 65 536: uint32 [2L+3]."""
        i = self._checked(index)
        return np.append(self._cumulative[self._offsets[i] : self._offsets[i + 1]], np.uint32(TOTAL))

    def bits(self) -> npt.NDArray[np.float32]:
        """Cost in bits of the symbols -255..255 under each table: float32 [count, 511], a fresh array.

        Column 255 + q is symbol q. Values beyond a table's L cost its escape symbol plus the escape
        bytes. What a stream takes beside these sums: its seal (33 bits) and on average 16 bits of rounding.
        """
        magnitude = np.arange(LIMIT_MAX + 1)
        out = np.empty((self.count, 2 * LIMIT_MAX + 1), np.float32)
        for i in range(self.count):
            limit = self.limit(i)
            cost = PRECISION - np.log2(self.frequencies(i).astype(np.float64))
            excess = np.maximum(magnitude - limit - 1, 0) * 2
            outside = cost[-1] + 8.0 * (1 + (excess >= 1 << 7))  # 2 * 254 + 1 < 2**14: two bytes at most
            row = np.concatenate((outside[:0:-1], outside))
            row[LIMIT_MAX - limit : LIMIT_MAX + limit + 1] = cost[:-1]
            out[i] = row
        return out

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise UsageValueError(
                f"index: table set {self.id} has tables 0..{self.count - 1}, found {index}", argument="index"
            )
        return int(index)

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "digest"):  # the last attribute that the constructor sets
            raise AttributeError(f"a TableSet is immutable, {name} cannot be set")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"TableSet(id={self.id}, count={self.count}, digest={self.digest.hex()[:16]}...)"


def load_set(set_id: int = 1) -> TableSet:
    """Table set ``set_id`` of the package, validated once and kept.

    Raises:
        UsageTypeError: ``set_id`` is not an integer.
        UsageValueError: the package holds no such set.
        WeightsError: the installed table file is damaged.
    """
    if not isinstance(set_id, int):
        raise UsageTypeError(f"set_id: expected an integer, found {set_id!r}", argument="set_id")
    if set_id not in PACKAGED_SETS:
        held = ", ".join(map(str, PACKAGED_SETS))
        raise UsageValueError(
            f"set_id: the package holds table sets {held}, found {set_id}", argument="set_id"
        )
    return _read_set(set_id)


@functools.cache
def _read_set(set_id: int) -> TableSet:
    return TableSet.from_bytes((resources.files(__package__) / "tables" / f"set{set_id}.bin").read_bytes())


def _integers(values: npt.ArrayLike, where: str) -> npt.NDArray[np.int64]:
    array: npt.NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        found = f"{array.dtype} of shape {array.shape}"
        raise WeightsError(f"{where}: expected a vector of integers, found {found}")
    return array.astype(np.int64)


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array


__all__: Sequence[str] = (
    "FAMILIES",
    "LIMIT_MAX",
    "NOT_CODED",
    "NOT_CODED_WIDE",
    "PRECISION",
    "SCALES",
    "SCALE_MAX",
    "SCALE_MIN",
    "SYMBOL_MAX",
    "TOTAL",
    "TableSet",
    "load_set",
    "quantise",
    "scale_grid",
)

"""The stream of `coder` on compiled loops (`coder_loops`): a whole pass a call, the same bytes.

It runs where llvmlite is installed and integers are little endian, in a third of the time that grouping in
NumPy and constriction's coder take together.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from licodec import compiled

from .reference import SEAL_BASE, SHIFT
from .tables import NOT_CODED, PRECISION, TOTAL, TableSet

IntArray = npt.NDArray[np.integer[Any]]
Symbols = npt.NDArray[np.int16]
Places = npt.NDArray[np.int64]
SOURCES: Final = "licodec.entropy.coder_loops", "licodec.entropy.tables"
"""What the loops are defined by."""
ARGUMENTS: Final = {"collect": 6, "gather": 6, "scatter": 6, "pop": 11, "choose": 7, "push": 6}
HINT_BITS: Final = 7
"""Upper bits of what a state has for the next symbol, which say from which entry on to look for its entry.
With more of them the tables of a pass leave the cache."""
HINTS_MAX: Final = 1 << 18
"""Of a set, 8 bytes each; sets of very many tables have fewer bits."""
POSITIONS_MAX: Final = 1 << 32
_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
BITS_SET: Final = np.argsort(1 - _BITS.astype(np.int8), axis=1, kind="stable").astype(np.uint8)
"""Which bits of a byte are set, lowest first, and then the others."""


def here() -> bool:
    """Whether the loops can run in this process. Imports nothing."""
    return sys.byteorder == "little" and compiled.loops_here()


def at_once() -> bool:
    """Whether they can, and what they need is imported already, which takes as long as eight pictures."""
    return here() and "llvmlite" in sys.modules


class Loops:
    """The loops, as functions that run without the interpreter's lock. They believe the addresses that they
    are given."""

    def __init__(self) -> None:
        from licodec import object_cache  # which imports llvmlite

        def text() -> str:
            from .coder_loops import module_text

            return module_text()

        self._engine = object_cache.engine("coder", SOURCES, text)
        self.collect, self.gather, self.scatter, self.pop, self.choose, self.push = (
            self._function(name, count) for name, count in ARGUMENTS.items()
        )

    def _function(self, name: str, count: int) -> Callable[..., int]:
        wide = ctypes.c_int64
        return ctypes.CFUNCTYPE(wide, *[wide] * count)(self._engine.get_function_address(name))


@functools.cache
def loops() -> Loops:
    """Compiled or loaded once a process."""
    return Loops()


class LoopTables:
    """A table set as the loops read it; see `coder_loops`.

    Attributes:
        to_pop, to_choose, to_push: their first arguments.
    """

    def __init__(self, tables: TableSet) -> None:
        self._tables, self.count, self.limits = tables, tables.count, tables.limits
        frequencies = tables.all_frequencies.astype(np.int64)
        sizes = 2 * tables.limits.astype(np.int64) + 2
        before = (np.cumsum(frequencies) - frequencies) & TOTAL - 1
        self.firsts: Places = np.cumsum(sizes) - sizes
        self.frequencies = frequencies.astype(np.uint16)
        number = np.arange(frequencies.size) - np.repeat(self.firsts, sizes)
        self.entries: Places = frequencies << 40 + SHIFT | number << 24 | before << SHIFT
        self.bits = min(HINT_BITS, (HINTS_MAX // tables.count).bit_length() - 1)
        # As many entries as begin at or before a part's beginning, less one, is the number of its entry.
        shift = PRECISION - self.bits
        part = before + (1 << shift) - 1 >> shift
        within = part < 1 << self.bits
        table = np.repeat(np.arange(tables.count), sizes)
        begun = np.bincount((table << self.bits | part)[within], minlength=tables.count << self.bits)
        number = begun.reshape(tables.count, -1).cumsum(axis=1) - 1
        self.hints = self.entries[number + self.firsts[:, None]]
        kept = (self.firsts, self.limits, self.frequencies, self.hints)
        firsts, limits, all_frequencies, hints = (each.ctypes.data for each in kept)
        self.to_choose = tables.count, firsts, limits
        self.to_pop = (*self.to_choose, all_frequencies, hints, self.bits)

    @functools.cached_property
    def to_push(self) -> tuple[int, int]:
        self._reciprocals = np.uint64(2**64 - 1) // self._tables.all_frequencies.astype(np.uint64)
        return self.entries.ctypes.data, self._reciprocals.ctypes.data

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(tables: TableSet) -> LoopTables:
        return LoopTables(tables)


def _address(array: npt.NDArray[Any]) -> int:
    """`array.ctypes.data` of a contiguous array, in a third of the time."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (TypeError, ValueError):  # read-only, or empty
        return array.ctypes.data


class CompiledGrouping:
    """The order of a pass's positions; see `coder.Grouping`. Of index uint8 [N], N < POSITIONS_MAX."""

    def __init__(self, index: IntArray) -> None:
        index, n = np.ascontiguousarray(index), index.size
        positions, tables = np.empty(n, np.uint32), np.empty(n, np.uint8)
        self.size, self.begins = n, np.zeros(NOT_CODED + 1, np.int64)
        self.coded = loops().collect(
            _address(index),
            n,
            _address(BITS_SET),
            _address(positions),
            _address(tables),
            _address(self.begins),
        )
        self._positions, self._tables = positions, tables

    def gather(self, values: Symbols) -> Symbols:
        ordered, values = np.empty(self.coded, np.int16), np.ascontiguousarray(values)
        self._move(loops().gather, values, ordered)
        return ordered

    def scatter(self, ordered: Symbols) -> Symbols:
        out = (np.empty if self.coded == self.size else np.zeros)(self.size, np.int16)
        self._move(loops().scatter, out, ordered)
        return out

    def _move(self, move: Callable[..., int], by_position: Symbols, ordered: Symbols) -> None:
        nexts = self.begins.copy()
        move(
            self.coded, _address(self._positions), _address(self._tables), _address(nexts),
            _address(by_position), _address(ordered),
        )  # fmt: skip


class CompiledCoder:
    """An ANS coder over 32-bit words, as `reference.AnsCoder`; passes as `coder` has them."""

    def __init__(self, words: npt.NDArray[np.uint32], state: int = 0) -> None:
        """words: a finished stack to decode from. state: of an encoder, which has none."""
        left = words.size
        while left and state < SEAL_BASE:
            left -= 1
            state = state << 32 | int(words[left])
        self._words = words
        self._coder = np.array([state, left], np.uint64)
        self._addresses = _address(self._coder), _address(words)
        self._pushed: list[npt.NDArray[np.uint32]] = []

    @classmethod
    def opened(cls, words: npt.NDArray[np.uint32]) -> CompiledCoder:
        return cls(words)

    @classmethod
    def sealed(cls, seal: int) -> CompiledCoder:
        return cls(np.empty(0, np.uint32), SEAL_BASE + seal)

    @staticmethod
    def chosen(ordered: Symbols, begins: Places, tables: TableSet) -> tuple[npt.NDArray[np.int32], Places]:
        """Of symbols in decoding order: (their entries among those of all tables, the places of escapes).

        begins: where each table's group begins, and the last ends.
        """
        made = LoopTables.of(tables)
        entries, escaped = np.empty(ordered.size, np.int32), np.empty(ordered.size, np.int64)
        count = loops().choose(
            *made.to_choose, _address(begins), _address(ordered), _address(entries), _address(escaped)
        )
        return entries, escaped[:count]

    def pop(self, begins: Places, tables: TableSet) -> tuple[Symbols, Places]:
        """The next symbols: (in decoding order, the places of those that are escapes). begins: as of
        `chosen`."""
        made, coded = LoopTables.of(tables), int(begins[tables.count])
        ordered, escaped = np.empty(coded, np.int16), np.empty(coded, np.int64)
        count = loops().pop(
            *made.to_pop, *self._addresses, _address(begins), _address(ordered), _address(escaped)
        )
        return ordered, escaped[:count]

    def push(self, entries: npt.NDArray[np.int32], begins: Places, tables: TableSet) -> None:
        """Entries as `chosen` gives them, the last one first."""
        made, words = LoopTables.of(tables), np.empty(entries.size, np.uint32)
        count = loops().push(
            *made.to_push, entries.size, _address(entries), self._addresses[0], _address(words)
        )
        self._pushed.append(words[:count].copy())

    def words(self) -> npt.NDArray[np.uint32]:
        """What was pushed, as a finished stack."""
        state = int(self._coder[0])
        last = np.array([state & (SEAL_BASE - 1), state >> 32], np.uint32)
        return np.concatenate([*self._pushed, last])

    def holds_only(self, seal: int) -> bool:
        """See `reference.AnsCoder`."""
        state, left = (int(each) for each in self._coder)
        return left == 0 and state == SEAL_BASE + seal

"""The loops of `lanes` over one tile, compiled; see `licodec.compiled`. Same bytes, same symbols."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from licodec import compiled
from licodec.entropy.lanes_reference import ESCAPE, TOTAL

Integers = npt.NDArray[Any]

RECIPROCALS: Final = np.array([0, *((1 << 44) // f + 1 for f in range(1, TOTAL + 1))], np.uint64)
"""Of frequencies, in 1/2^44 and a little more: x // f is what a product has above 44 bits, for x < 2^20 f."""


@compiled.function
def decode_stage(
    states: Integers,
    words: Integers,
    at: int,
    end: int,
    index: Integers,
    symbols: Integers,
    spans: Integers,
    out: Integers,
) -> np.int64:
    """Symbols of a stage, uint8 [N] into `out`; returns the place after the last word, or -1 where words run
    out.

    states: uint32 [lanes], changed in place. words: uint16, of which at..end - 1 are this tile's. symbols,
    spans: see `LaneTables`.
    """
    lanes, word = states.size, np.uintp(at)  # what is no less than 0 indexes without a look
    for first in range(0, index.size, lanes):
        width = min(lanes, index.size - first)
        row, drawn = index[first : first + width], out[first : first + width]
        if np.intp(word) + width <= end:  # words for all of them: no need to look again
            for lane in range(width):
                x, table = states[lane], np.uint32(row[lane])
                slot = x & np.uint32(4095)
                symbol = symbols[np.uintp(table << np.uint32(12) | slot)]
                span = spans[np.uintp(table << np.uint32(8) | np.uint32(symbol))]
                x = (span >> np.uint32(16)) * (x >> np.uint32(12)) + slot - (span & np.uint32(65535))
                low = x < np.uint32(65536)
                renewed = np.uint32(x << np.uint32(16)) | np.uint32(words[word])
                states[lane] = renewed if low else x
                word += np.uintp(low)
                drawn[lane] = symbol
        else:
            for lane in range(width):
                x, table = states[lane], np.uint32(row[lane])
                slot = x & np.uint32(4095)
                symbol = symbols[np.uintp(table << np.uint32(12) | slot)]
                span = spans[np.uintp(table << np.uint32(8) | np.uint32(symbol))]
                x = (span >> np.uint32(16)) * (x >> np.uint32(12)) + slot - (span & np.uint32(65535))
                if x < np.uint32(65536):
                    if np.intp(word) >= end:
                        return np.int64(-1)
                    x = np.uint32(x << np.uint32(16)) | np.uint32(words[word])
                    word += np.uintp(1)
                states[lane] = x
                drawn[lane] = symbol
    return np.int64(word)


@compiled.function
def encode_stages(
    symbols: Integers,
    index: Integers,
    ends: Integers,
    codes: Integers,
    reciprocals: Integers,
    states: Integers,
    words: Integers,
    escapes: Integers,
) -> tuple[np.int64, np.int64]:
    """All stages of a tile, from the last symbol to the first; returns how many words and escapes there are.

    symbols, index: uint8 [N], the stages one after the other; ends: int64, where each ends. codes: int32, see
    `LaneTables`. reciprocals: see `RECIPROCALS`. states: uint32 [lanes], changed in place. words: uint16
    [N + 1], escapes: uint8 [N], are filled from their ends backwards.
    """
    lanes = states.size
    word, escape = np.uintp(words.size), escapes.size  # what is no less than 0 indexes without a look
    for stage in range(ends.size - 1, -1, -1):
        start = ends[stage - 1] if stage else 0
        rows = (ends[stage] - start + lanes - 1) // lanes
        for row in range(rows - 1, -1, -1):
            first = start + row * lanes
            width = min(lanes, ends[stage] - first)
            of_row, tables = symbols[first : first + width], index[first : first + width]
            for before in range(width):
                lane = np.uintp(width - 1 - before)
                symbol = of_row[lane]
                code = np.uint32(codes[np.uintp(tables[lane]) << np.uintp(8) | np.uintp(symbol)])
                if code & np.uint32(1 << 15):
                    escape -= 1
                    escapes[escape] = symbol
                frequency = code >> np.uint32(16)
                x = states[lane]
                full = x >> np.uint32(20) >= frequency
                words[word - np.uintp(1)] = x  # kept where it is full: no branch, which nothing could foresee
                word -= np.uintp(full)
                x = x >> np.uint32(16) if full else x
                quotient = np.uint32(np.uint64(x) * reciprocals[frequency] >> np.uint64(44))
                states[lane] = x + quotient * (np.uint32(4096) - frequency) + (code & np.uint32(4095))
    return np.int64(words.size) - np.int64(word), np.int64(escapes.size - escape)


@compiled.function
def put_escapes(
    symbols: Integers, index: Integers, full: Integers, frequencies: Integers, stored: Integers
) -> int:
    """Put raw bytes in the places of a stage's escapes; returns how many there were, or -1, with all symbols
    as they were, where too few are stored or one is needless.

    symbols, index: uint8 [N]. full, frequencies: see `LaneTables`. stored: uint8, the bytes from here on.
    """
    places, count = np.empty(stored.size, np.int64), 0
    for first in range(0, symbols.size, 512):
        part, escapes = symbols[first : first + 512], 0
        for i in range(part.size):
            escapes += part[i] == ESCAPE
        if not escapes:
            continue
        for i in range(first, first + part.size):
            if symbols[i] == ESCAPE and not full[index[i]]:
                if count == stored.size:
                    return -1
                if stored[count] != ESCAPE and frequencies[index[i], stored[count]]:
                    return -1
                places[count] = i
                count += 1
    for i in range(count):
        symbols[places[i]] = stored[i]
    return count

"""The loops of `lanes` over one tile, compiled; see `licodec.compiled`. Same bytes, same symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from licodec import compiled
from licodec.entropy.lanes_reference import ESCAPE

Integers = npt.NDArray[Any]


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
) -> int:
    """Symbols of a stage, uint8 [N] into `out`; returns the place after the last word, or -1 where words run
    out.

    states: uint32 [lanes], changed in place. words: uint16, of which at..end - 1 are this tile's. symbols,
    spans: see `LaneTables`.
    """
    lanes = states.size
    for first in range(0, index.size, lanes):
        width = min(lanes, index.size - first)
        row, drawn = index[first : first + width], out[first : first + width]
        if at + width <= end:  # words for all of them: no need to look again
            for lane in range(width):
                x, table = states[lane], np.uint32(row[lane])
                slot = x & np.uint32(4095)
                symbol = symbols[np.intp(table << np.uint32(12) | slot)]
                span = spans[np.intp(table << np.uint32(8) | np.uint32(symbol))]
                x = (span >> np.uint32(16)) * (x >> np.uint32(12)) + slot - (span & np.uint32(65535))
                low = x < np.uint32(65536)
                renewed = np.uint32(x << np.uint32(16)) | np.uint32(words[at])
                states[lane] = renewed if low else x
                at += int(low)
                drawn[lane] = symbol
        else:
            for lane in range(width):
                x, table = states[lane], np.uint32(row[lane])
                slot = x & np.uint32(4095)
                symbol = symbols[np.intp(table << np.uint32(12) | slot)]
                span = spans[np.intp(table << np.uint32(8) | np.uint32(symbol))]
                x = (span >> np.uint32(16)) * (x >> np.uint32(12)) + slot - (span & np.uint32(65535))
                if x < np.uint32(65536):
                    if at >= end:
                        return -1
                    x = np.uint32(x << np.uint32(16)) | np.uint32(words[at])
                    at += 1
                states[lane] = x
                drawn[lane] = symbol
    return at


@compiled.function
def encode_stages(
    symbols: Integers,
    index: Integers,
    ends: Integers,
    codes: Integers,
    states: Integers,
    words: Integers,
    escapes: Integers,
) -> tuple[int, int]:
    """All stages of a tile, from the last symbol to the first; returns how many words and escapes there are.

    symbols, index: uint8 [N], the stages one after the other; ends: int64, where each ends. codes: int32, see
    `LaneTables`. states: uint32 [lanes], changed in place. words: uint16 [N + 1], escapes: uint8 [N], are
    filled from their ends backwards.
    """
    lanes = states.size
    word, escape = words.size, escapes.size
    for stage in range(ends.size - 1, -1, -1):
        start = ends[stage - 1] if stage else 0
        rows = (ends[stage] - start + lanes - 1) // lanes
        for row in range(rows - 1, -1, -1):
            first = start + row * lanes
            for lane in range(min(lanes, ends[stage] - first) - 1, -1, -1):
                symbol = symbols[first + lane]
                code = np.uint32(codes[np.intp(index[first + lane]) << 8 | np.intp(symbol)])
                if code & np.uint32(1 << 15):
                    escape -= 1
                    escapes[escape] = symbol
                frequency = code >> np.uint32(16)
                x = states[lane]
                if x >> np.uint32(20) >= frequency:
                    word -= 1
                    words[word] = x & np.uint32(65535)
                    x >>= np.uint32(16)
                states[lane] = (
                    np.uint32((x // frequency) << np.uint32(12)) + x % frequency + (code & np.uint32(4095))
                )
    return words.size - word, escapes.size - escape


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

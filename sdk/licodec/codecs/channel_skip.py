"""Channels of a latent that a file leaves out: how fhic's side info lists them, and which an encoder takes.

    >>> import numpy as np
    >>> skipped = np.arange(320) >= 150
    >>> write_skipped(skipped)
    (1, b'\\x96\\x01')
    >>> np.array_equal(read_skipped(1, b"\\x96\\x01", 320), skipped)
    True

A set of channels has one way to be listed, the shortest: two bytes at most for all channels from one on,
which is what pictures need, as channels stand in the order of their energy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError
from lic_format.fields import read_varint, write_varint

NONE, SUFFIX, SKIPPED, KEPT, BITMAP = range(5)
"""Values of channel_skip."""

Channels = npt.NDArray[np.bool_]

SYMBOL_PRICE: Final = 10.0
"""Bits that a symbol other than zero costs in a channel of hardly any: what the choice of channels reckons
with before it knows tables (docs/training.md)."""
NEGLIGIBLE: Final = 5 / 1024
"""Bits a latent position that all channels left out may be worth beyond their price."""
SPARED: Final = 2e-4
"""Bits that not running the nets of one channel at one position is worth."""
_AT_ONCE: Final = 32


def first_skipped(values: npt.NDArray[np.float32], step_value: npt.NDArray[np.float32]) -> int:
    """The channel from which on no symbol pays: an estimate that needs neither means nor tables. The number
    of channels where leaving some out is not worth being said.

    A symbol pays where the distortion that it takes off, in bits, is above SYMBOL_PRICE.

    Args:
        values: symbols before rounding, their means taken for zero, [n, M].
        step_value: bits that the squared error of one whole symbol is worth, [M].
    """
    first = count = len(step_value)
    budget = NEGLIGIBLE * len(values)
    while first > 0 and budget >= 0:
        part = slice(max(0, first - _AT_ONCE), first)
        magnitude = np.abs(values[:, part])
        nearest = np.rint(magnitude)
        gain = (2 * magnitude - nearest) * nearest * step_value[part] - SYMBOL_PRICE
        worth = np.maximum(gain, 0, out=gain).sum(axis=0, dtype=np.float64)[::-1]
        left_out = int(np.count_nonzero(np.cumsum(worth) <= budget))
        budget -= float(worth[: left_out + 1].sum())
        first -= left_out
    said = 8 * len(write_varint(first))
    return first if (count - first) * len(values) * SPARED >= said else count


def coded_channels(skipped: Channels) -> int:
    """How many channels there are up to the last one that has symbols."""
    kept = np.flatnonzero(~skipped)
    return int(kept[-1]) + 1 if len(kept) else 0


def write_skipped(skipped: Channels) -> tuple[int, bytes]:
    """The side info's channel_skip and channels for bool [M], True where a channel has no symbols."""
    if not skipped.any():
        return NONE, b""
    count, first = len(skipped), int(np.argmax(skipped))
    kept, tail = np.flatnonzero(~skipped), coded_channels(skipped)
    ways = [
        (SKIPPED, write_varint(tail) + _gaps(np.flatnonzero(skipped[:tail]), -1)),
        (KEPT, write_varint(first) + _gaps(kept[kept > first], first - 1)),
        (BITMAP, np.packbits(skipped, bitorder="little").tobytes()),
    ]
    if tail == first < count:
        ways.append((SUFFIX, write_varint(first)))
    return min(ways, key=lambda way: (len(way[1]), way[0]))


def read_skipped(mode: int, listed: bytes, count: int) -> Channels:
    """Bool [count] of the side info's channel_skip and channels, in memory in proportion to these.

    Raises:
        FormatError: channels that are not there, or a list that could be shorter.
    """
    if mode == BITMAP:
        bits = np.unpackbits(np.frombuffer(listed, np.uint8), bitorder="little").astype(np.bool_)
        if len(listed) != -(-count // 8) or bits[count:].any():
            raise _wrong(f"a bitmap of {len(listed)} bytes", f"{count} bits, then zeros to the byte's end")
        skipped = bits[:count]
    else:
        skipped = _read_list(mode, listed, count)
    if write_skipped(skipped) != (mode, listed):
        raise _wrong(f"{len(listed)} bytes of channel_skip {mode}", "the shortest list of these channels")
    return skipped


def _read_list(mode: int, listed: bytes, count: int) -> Channels:
    skipped = np.zeros(count, np.bool_)
    if mode == NONE:
        return skipped
    first, offset = read_varint(listed, 0)
    if first > count:
        raise _wrong(f"channels from {first} on", f"at most {count}")
    skipped[first:] = True
    channel, end = (first - 1, count) if mode == KEPT else (-1, first)
    while offset < len(listed):
        gap, offset = read_varint(listed, offset)
        channel += 1 + gap
        if channel >= end:
            raise _wrong(f"channel {channel} in a list", f"one below {end}")
        skipped[channel] = mode != KEPT
    return skipped


def _gaps(channels: npt.NDArray[np.intp], before: int) -> bytes:
    """How many channels lie between each of these and the one before it."""
    return b"".join(map(write_varint, (np.diff(channels, prepend=before) - 1).tolist()))


def _wrong(found: str, expected: str) -> FormatError:
    return FormatError(f"fhic side info: {found}, expected {expected}", chunk="HEAD")

"""How much a file may ask of the machine that reads it: every bound, with its reason.

A reader allocates nothing in proportion to a number that a file claims before the number was judged here.
"""

from __future__ import annotations

import os

from .errors import UnsupportedError, UsageValueError

MAX_SIDE = 1 << 24
"""Largest width and height in pixels that HEAD can hold."""

DEFAULT_MAX_PIXELS = 1 << 28
"""Largest picture read unless the caller says otherwise: 805 MB as 8-bit RGB."""

MAX_PIXELS_VARIABLE = "LICODEC_MAX_PIXELS"
"""Environment variable that replaces DEFAULT_MAX_PIXELS."""

MAX_PIXELS_PER_BYTE = 1 << 16
"""Pixels per coded byte. A flat picture costs learned codecs about one bit per 64 x 64 block (2^15 pixels a
byte), so twice that refuses no honest file, and a 100-byte file cannot ask for 10^8 pixels of work."""

MAX_HEAD = 65535
"""Bytes of HEAD: far more than version 1 uses, so that a later version's HEAD reads as newer, not broken."""

MAX_SIDE_INFO = 4096
"""Bytes of a codec's side info in HEAD: it must stay cheap to open a file."""

MAX_UNIT_SIDE_INFO = 65535
"""Bytes of side info in one DATA chunk."""

MAX_METADATA = 16 << 20
"""Bytes of one metadata chunk's content, inflated: no zip bombs in a picture's `info`."""

MAX_METADATA_CHUNKS = 64
"""Chunks between HEAD and the first DATA: a record in memory is larger than a chunk of 9 bytes in a file."""

MAX_PREVIEW = 1 << 18
"""Bytes of a preview (long side of at most 160 pixels)."""

MAX_CHUNK = (1 << 32) - 1
"""Bytes of any chunk's payload."""


def max_units(width: int, height: int) -> int:
    """Largest number of DATA chunks: 1024 (levels, blocks), and one for every 2^15 pixels (tiles)."""
    return 1024 + width * height // (1 << 15)


def pixel_limit(max_pixels: int | None = None) -> int:
    """The pixel limit in force: the argument, else the environment variable, else the default."""
    if max_pixels is not None:
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise UsageValueError(
                f"max_pixels must be a whole number above 0, got {max_pixels!r}", "max_pixels"
            )
        return max_pixels
    text = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if not text:
        return DEFAULT_MAX_PIXELS
    # At most 18 digits: int() of a very long digit string is an error (and slow) of its own.
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
        raise UsageValueError(
            f"environment variable {MAX_PIXELS_VARIABLE} must be a positive whole number, got {text[:40]!r}",
            MAX_PIXELS_VARIABLE,
        )
    return int(text)


def check_pixels(width: int, height: int, max_pixels: int | None = None) -> None:
    """Refuse (UnsupportedError) a picture of more than `pixel_limit(max_pixels)` pixels."""
    limit = pixel_limit(max_pixels)
    if width * height > limit:
        raise UnsupportedError(
            f"the picture says it has {width} x {height} = {width * height} pixels, the limit is {limit}; "
            f"if you trust the file, raise max_pixels or the environment variable {MAX_PIXELS_VARIABLE}"
        )


def check_density(
    width: int, height: int, payload_bytes: int, max_pixels_per_byte: int = MAX_PIXELS_PER_BYTE
) -> None:
    """Refuse (UnsupportedError) more than `max_pixels_per_byte` pixels for a byte of coded payload.

    payload_bytes: side info and bodies of all DATA chunks. Costs nothing, so it comes before weights are
    loaded.
    """
    if width * height > payload_bytes * max_pixels_per_byte:
        raise UnsupportedError(
            f"{payload_bytes} bytes of coded data claim {width} x {height} pixels, more than "
            f"{max_pixels_per_byte} a byte; if you trust the file, raise max_pixels_per_byte"
        )

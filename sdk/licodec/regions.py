"""A rectangle of a picture: as callers name it, and as rows and columns.

    area = area_of((0, 0, 512, 256), 5000, 3000)      # (slice(0, 256), slice(0, 512))

Coordinates are those of the pixels as stored in the file, whatever its orientation says of how to turn them.
"""

from __future__ import annotations

from lic_format.errors import UsageValueError
from licodec.codecs.registry import Area

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1: columns x0 to x1 - 1 of rows y0 to y1 - 1."""


def area_of(region: Region, width: int, height: int, reduce: int = 1) -> Area:
    """The rows and columns of a region of a picture.

    reduce: to which part of its size the picture is decoded. Sides of the region lie at multiples of it, or
    at the picture's right or lower edge, so that no pixel of the result is made of others than the region's.

    Raises UsageValueError, which names the region and the picture's size: empty, reversed, outside.
    """
    x0, y0, x1, y1 = region
    size = f"the picture has {width} x {height} pixels"
    if x0 == x1 or y0 == y1:
        raise _refuse(f"{region} is empty, expected x0 < x1 and y0 < y1; {size}")
    if x0 > x1 or y0 > y1:
        raise _refuse(f"{region} is reversed, expected x0 < x1 and y0 < y1; {size}")
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        raise _refuse(f"{region} reaches outside: {size}")
    for value, edge in ((x0, width), (y0, height), (x1, width), (y1, height)):
        if value % reduce and value != edge:
            raise _refuse(
                f"{region} with reduce={reduce}: {value} is no multiple of {reduce} and no edge; {size}"
            )
    return slice(y0, y1), slice(x0, x1)


def shrunk(area: Area, factor: int) -> Area:
    """Where an area of `area_of` is in the picture reduced by a factor."""
    rows, columns = (slice(part.start // factor, -(-part.stop // factor)) for part in area)
    return rows, columns


def _refuse(message: str) -> UsageValueError:
    return UsageValueError(f"region: {message}", argument="region")

"""An alpha plane as tiles of pilc's modes without weights: ALPH's method 2.

    body = encode(plane)
    plane = decode(body, plane.shape, 8)

Alpha that was drawn, as slopes and edges, takes a sixth to a half less as LZMA2 of differences (mode lz) than
deflated (method 1); alpha with noise, as mattes of photographs have it, less still as mode lattice0. Where
method 1 is smaller nothing is lost but time: whoever writes the chunk takes the smaller one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError
from lic_format.limits import max_units
from lic_format.metadata import ALPHA_TILE, TILING
from licodec.codecs import linear_lattice, screen_content
from licodec.codecs.registry import LATTICE0, PILC_TILE_EXPONENT, Area, tile_exponents, tiles
from licodec.codecs.window import Window
from licodec.threads import products_on_one_thread

Plane = npt.NDArray[Any]
"""Samples [H, W], uint8 or uint16."""

TOGETHER: Final = 8
"""Tiles that are coded in lockstep."""


def encode(plane: Plane) -> bytes:
    """The body of a plane [H, W] uint8 or uint16, which is not empty."""
    height, width = plane.shape
    columns, rows = tile_exponents(width, height)
    grid = tiles(width, height, columns, rows)
    fields = {"columns": columns, "rows": rows, "check": check_of(plane)}
    parts = [TILING.write(fields)]
    for first in range(0, len(grid), TOGETHER):
        parts += _encoded(
            [np.ascontiguousarray(plane[place])[:, :, None] for place in grid[first:][:TOGETHER]]
        )
    return b"".join(parts)


def _encoded(group: Sequence[Plane]) -> list[bytes]:
    found: list[tuple[int, bytes]] = [screen_content.best(tile, effort=0) for tile in group]
    varied = [i for i, (mode, _) in enumerate(found) if mode != screen_content.Mode.CONSTANT]
    candidates = [
        (i, screen_content.Mode.LZ, screen_content.encode_lz_of_one_filter(group[i])) for i in varied
    ]
    of_bytes = [i for i in varied if group[i].dtype == np.uint8]
    with products_on_one_thread():
        bodies = linear_lattice.encode_many([group[i] for i in of_bytes])
    for i, mode, body in (*candidates, *zip(of_bytes, [LATTICE0] * len(bodies), bodies, strict=True)):
        if len(body) < len(found[i][1]):
            found[i] = mode, body
    return [ALPHA_TILE.write({"mode": mode, "body": body}) for mode, body in found]


def decode(body: bytes, shape: tuple[int, int], depth: int) -> Plane:
    """The plane of a body: `shape` rows and columns, `depth` 8 or 16 bits.

    Raises FormatError where the body is no such plane, UnsupportedError for a mode or packing of a later
    version. Memory: a few times the plane and the body, whatever the body says.
    """
    height, width = shape
    out, wanted = _decoded(body, shape, depth, (slice(0, height), slice(0, width)))
    if (check := check_of(out)) != wanted:
        raise _damaged(f"samples of CRC-32 {check:08x}, the chunk says {wanted:08x}")
    return out


def decode_area(body: bytes, shape: tuple[int, int], depth: int, area: Area) -> Plane:
    """Some rows and columns of what `decode` gives, and its errors but for the check, which is the whole
    plane's. Only tiles that meet the area are decoded. Memory: a few times the area and eight tiles."""
    return _decoded(body, shape, depth, area)[0]


def _decoded(body: bytes, shape: tuple[int, int], depth: int, area: Area) -> tuple[Plane, int]:
    """An area, and what the body says is the check of the plane."""
    height, width = shape
    values, at = TILING.read(body, where="ALPH")
    columns, rows = values["columns"], values["rows"]
    count = -(-width >> columns) * -(-height >> rows)
    if columns + rows > PILC_TILE_EXPONENT or count > max_units(width, height):
        raise _damaged(
            f"{count} tiles of 2^{columns} x 2^{rows} samples; expected at most "
            f"{max_units(width, height)} of at most 2^{PILC_TILE_EXPONENT}"
        )
    window = Window(area, 1, np.uint8 if depth == 8 else np.uint16)
    work: list[tuple[Area, int, bytes]] = []
    for place in tiles(width, height, columns, rows):
        record, at = ALPHA_TILE.read(body, at, where="ALPH")
        if all(p.start < a.stop and a.start < p.stop for p, a in zip(place, area, strict=True)):
            work.append((place, int(record["mode"]), bytes(record["body"])))
    if at != len(body):
        raise _damaged(f"{len(body) - at} bytes behind the last tile")
    for first in range(0, len(work), TOGETHER):
        group = [(window.room_for(place), mode, coded) for place, mode, coded in work[first:][:TOGETHER]]
        try:
            _decode([(room[:, :, 0], mode, coded) for room, mode, coded in group])
        except FormatError as error:
            raise _damaged(error.reason) from None
        for (place, _, _), (room, _, _) in zip(work[first:][:TOGETHER], group, strict=True):
            window.settle(place, room)
    return window.samples[:, :, 0], values["check"]


def _decode(work: Sequence[tuple[Plane, int, bytes]]) -> None:
    lattices = [(target, body) for target, mode, body in work if mode == LATTICE0]
    if lattices and lattices[0][0].dtype != np.uint8:
        raise _damaged(f"a tile of mode {LATTICE0} in a plane of 16 bits")
    with products_on_one_thread():
        found = linear_lattice.decode_many(
            [body for _, body in lattices], [(*target.shape, 1) for target, _ in lattices]
        )
    for (target, _), tile in zip(lattices, found, strict=True):
        target[:] = tile[:, :, 0]
    for target, mode, body in work:
        if mode != LATTICE0:
            height, width = target.shape
            target[:] = screen_content.decode(mode, body, (height, width, 1), target.dtype)[:, :, 0]


def check_of(plane: Plane) -> int:
    """CRC-32 of the samples, those of two bytes with the high one first."""
    return zlib.crc32(plane.astype(plane.dtype.newbyteorder(">"), copy=False).tobytes())


def _damaged(reason: str) -> FormatError:
    return FormatError(reason, chunk="ALPH")

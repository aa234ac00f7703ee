"""The alpha plane: its exact coder (SPEC.md, ALPH), and what becomes of colours that nobody sees.

    chunk = encode(plane)                  # without loss; a constant plane costs 11 bytes in the file
    plane = decode(chunk, plane.shape, 8)
    planes = without_hidden(planes, plane) # equal for pictures that look equal

One prediction for the whole plane, then deflate: alpha is flat but for its edges, and runs are what deflate
is good at. Where edges are soft, tiles of the lossless codec's modes (`codecs.alpha_tiles`) are smaller.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from lic_format.errors import FormatError
from lic_format.metadata import ALPHA, CONSTANT, PREDICTED, PREDICTION, TILED, Chunk

Plane: TypeAlias = npt.NDArray[Any]
"""Samples [H, W], uint8 or uint16."""
Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_AXES: Final[tuple[tuple[int, ...], ...]] = ((), (1,), (0,), (1, 0))
"""By predictor: along which axes differences are taken, which are 0 rows and 1 columns."""
_CHOOSING, _BEST = 1, 9
"""zlib's levels for choosing the predictor, and for the file."""
_AT_ONCE: Final = 1 << 16
"""Bytes that are inflated at a time for a part of a plane, but for wider rows."""
UNSEEN = 128
"""The colour of pictures of which nothing is visible."""


# --- exact coder ----------------------------------------------------------------------------------


def encode(plane: Plane) -> Chunk:
    """The ALPH chunk of a plane [H, W] uint8 or uint16, which is not empty."""
    first = plane[0, 0]
    if (plane == first).all():
        body = int(first).to_bytes(plane.itemsize, "big")
        return Chunk("ALPH", ALPHA.write({"method": CONSTANT}) + body)
    from licodec.codecs import alpha_tiles

    tiled = ALPHA.write({"method": TILED}) + alpha_tiles.encode(plane)
    return Chunk("ALPH", min(predicted(plane), tiled, key=len))


def predicted(plane: Plane) -> bytes:
    """The payload of method 1, by the predictor that suits best."""
    candidates = [_bytes_of(_differences(plane, predictor)) for predictor in range(len(_AXES))]
    sizes = [len(zlib.compress(candidate, _CHOOSING)) for candidate in candidates]
    predictor = sizes.index(min(sizes))
    header = ALPHA.write({"method": PREDICTED}) + PREDICTION.write({"predictor": predictor})
    return header + zlib.compress(candidates[predictor], _BEST)


def decode(chunk: Chunk, shape: tuple[int, int], depth: int) -> Plane:
    """The plane of an ALPH chunk: `shape` rows and columns, `depth` 8 or 16 bits.

    Raises FormatError where the payload is no such plane, UnsupportedError for a method of a later version.
    Memory: three planes, whatever the payload says.
    """
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    values, start = ALPHA.read(chunk.payload, where=chunk.type)
    if values["method"] == CONSTANT:
        body = chunk.payload[start:]
        if len(body) != dtype.itemsize:
            raise _damaged(f"a constant of {len(body)} bytes, expected {dtype.itemsize} for {depth} bits")
        return np.full(shape, int.from_bytes(body, "big"), dtype)
    if values["method"] == TILED:
        from licodec.codecs import alpha_tiles

        return alpha_tiles.decode(chunk.payload[start:], shape, depth)
    values, start = PREDICTION.read(chunk.payload, start, where=chunk.type)
    size = shape[0] * shape[1] * dtype.itemsize
    plane = _samples_of(_inflated(chunk.payload[start:], size), shape, dtype)
    for axis in _AXES[values["predictor"]]:
        np.cumsum(plane, axis=axis, dtype=dtype, out=plane)
    return plane


def decode_area(chunk: Chunk, shape: tuple[int, int], depth: int, area: tuple[slice, slice]) -> Plane:
    """Some rows and columns of what `decode` gives, and its errors; what follows those rows is not looked at.

    Memory: that of the area, and of some rows of the plane.
    """
    rows, columns = area
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype)
    values, start = ALPHA.read(chunk.payload, where=chunk.type)
    if values["method"] == CONSTANT:
        out[:] = decode(chunk, (1, 1), depth)
        return out
    if values["method"] == TILED:
        from licodec.codecs import alpha_tiles

        return alpha_tiles.decode_area(chunk.payload[start:], shape, depth, area)
    values, start = PREDICTION.read(chunk.payload, start, where=chunk.type)
    axes = _AXES[values["predictor"]]
    height, width = shape
    together = max(1, _AT_ONCE // width)
    inflated = _Inflated(chunk.payload[start:])
    for shift in _shifts(dtype):
        above = np.zeros(out.shape[1], dtype)
        for top in range(0, height if shift else rows.stop, together):
            count = min(together, height - top)
            block = np.frombuffer(inflated.take(count * width), np.uint8).reshape(count, width)
            if top >= rows.stop:
                continue
            part = block[:, : columns.stop]
            if 1 in axes:
                part = np.cumsum(part, axis=1, dtype=dtype)
            part = part[:, columns].astype(dtype)
            if 0 in axes:
                part[0] += above
                np.cumsum(part, axis=0, dtype=dtype, out=part)
                above = part[-1]
            first, last = max(top, rows.start), min(top + count, rows.stop)
            if first < last:
                out[first - rows.start : last - rows.start] += part[first - top : last - top] << dtype.type(
                    shift
                )
    return out


class _Inflated:
    """A zlib stream, inflated as far as it is taken."""

    def __init__(self, stream: bytes) -> None:
        self._stream, self._position = stream, 0
        self._inflater = zlib.decompressobj()
        self._pending = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes; FormatError where there are none."""
        pieces: list[bytes] = []
        while count:
            if not self._pending:
                self._pending = self._stream[self._position : self._position + _AT_ONCE]
                self._position += len(self._pending)
            given = self._pending
            try:
                piece = self._inflater.decompress(given, count)
            except zlib.error as error:
                raise _damaged(f"the body is no zlib stream: {error}") from None
            self._pending = self._inflater.unconsumed_tail
            if not piece and (self._inflater.eof or not given):
                raise _damaged(f"the zlib stream ends {count} bytes too early for the rows wanted")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def _differences(plane: Plane, predictor: int) -> Plane:
    """Samples less their prediction, modulo 2^depth."""
    for axis in _AXES[predictor]:
        before = np.zeros_like(plane.take([0], axis))
        plane = np.diff(plane, axis=axis, prepend=before)
    return plane


def _bytes_of(plane: Plane) -> bytes:
    """All high bytes, then all low bytes."""
    return b"".join((plane >> shift).astype(np.uint8).tobytes() for shift in _shifts(plane.dtype))


def _samples_of(data: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> Plane:
    """Inverse of `_bytes_of`, in memory of its own."""
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, *shape)
    out = np.zeros(shape, dtype)
    for part, shift in zip(planes, _shifts(dtype), strict=True):
        out |= part.astype(dtype) << dtype.type(shift)
    return out


def _shifts(dtype: np.dtype[Any]) -> list[int]:
    return list(range(8 * (dtype.itemsize - 1), -1, -8))


def _inflated(stream: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stream, size + 1)
    except zlib.error as error:
        raise _damaged(f"the body is no zlib stream: {error}") from None
    if len(data) != size or not inflater.eof or inflater.unused_data:
        found = "more" if len(data) > size else f"{len(data)}"
        raise _damaged(f"the zlib stream must end with the chunk and hold {size} bytes, it holds {found}")
    return data


def _damaged(reason: str) -> FormatError:
    return FormatError(reason, chunk="ALPH")


# --- hidden colours -------------------------------------------------------------------------------


def without_hidden(planes: npt.NDArray[np.uint8], alpha: Plane) -> npt.NDArray[np.uint8]:
    """Pixels [H, W, C] whose colours under transparent ones (alpha 0) go on smoothly from the visible ones.

    What was there costs nothing and leaves no trace. Returns `planes` itself where nothing is hidden.
    """
    seen = alpha > 0
    if seen.all():
        return planes
    out = planes.copy()
    for channel in range(planes.shape[2]):
        plane = planes[:, :, channel]
        out[:, :, channel] = np.where(seen, plane, _continued(plane.astype(np.float32), seen).round())
    return out


def _continued(plane: Floats, seen: npt.NDArray[np.bool_]) -> Floats:
    """A plane [H, W] whose unseen samples are made of seen ones, near ones first: halved again and again
    until all is seen, and filled on the way back."""
    if seen.all():
        return plane
    if not seen.any():
        return np.full_like(plane, UNSEEN)
    height, width = plane.shape
    count = _halved(seen.astype(np.float32))
    coarse = _continued(_halved(np.where(seen, plane, 0)) / np.maximum(count, 1), count > 0)
    smooth = _smoothed(_smoothed(coarse.repeat(2, 0).repeat(2, 1), 0), 1)[:height, :width]
    return np.where(seen, plane, smooth)


def _halved(plane: Floats) -> Floats:
    """Sums of 2x2 samples, those outside the plane 0."""
    height, width = plane.shape
    even = np.pad(plane, ((0, height % 2), (0, width % 2)))
    summed: Floats = even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]
    return summed


def _smoothed(plane: Floats, axis: int) -> Floats:
    """Averages of neighbours, weights 1 2 1, along one axis."""
    wide = np.pad(plane, [(1, 1) if each == axis else (0, 0) for each in range(2)], mode="edge")
    left, right = (wide.take(range(start, start + plane.shape[axis]), axis) for start in (0, 2))
    return (left + right + 2 * plane) / 4

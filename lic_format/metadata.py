"""What stands between HEAD and the samples: profiles, EXIF, XMP, resolution, alpha, chunks of later versions.

    >>> unpack_metadata(pack_metadata("exif", b"MM" + bytes(40))) == b"MM" + bytes(40)
    True

A `Chunk` holds a payload as stored. Inflating is left to whoever asks for the content, so that opening a file
costs nothing and a zip bomb harms nobody.
"""

from __future__ import annotations

import zlib

from .errors import FormatError, UnsupportedError, UsageTypeError, UsageValueError
from .fields import U8, U32, EnumU8, Table, VarBytes
from .limits import MAX_METADATA
from .records import record

RAW, ZLIB = 0, 1

COMPRESSIBLE = ("iccp", "exif", "xmpd")
"""Chunks whose payload is METADATA's method byte and a body."""

METADATA = Table("metadata", (("method", EnumU8({RAW: "stored", ZLIB: "zlib"}), "how the body is packed"),))

RESOLUTION = Table(
    "dpix", (("x", U32(lo=1), "pixels a metre, across"), ("y", U32(lo=1), "pixels a metre, down"))
)

CONSTANT, PREDICTED, TILED = 0, 1, 2

ALPHA = Table(
    "ALPH",
    (
        (
            "method",
            EnumU8({CONSTANT: "constant", PREDICTED: "predicted", TILED: "tiled"}),
            "how the plane is coded",
        ),
    ),
)

PREDICTION = Table(
    "ALPH, method 1",
    (
        (
            "predictor",
            EnumU8({0: "zero", 1: "left", 2: "above", 3: "plane"}),
            "what was taken off every sample",
        ),
    ),
)

TILING = Table(
    "ALPH, method 2",
    (
        ("columns", U8(0, 24), "tiles are 2^columns samples wide"),
        ("rows", U8(0, 24), "and 2^rows samples high; those at the right and lower edge are smaller"),
        ("check", U32(), "CRC-32 of all samples, row by row"),
    ),
)

ALPHA_TILE_BYTES = 1 << 20
"""At most in the body of a tile of alpha."""

ALPHA_TILE = Table(
    "ALPH, method 2, a tile",
    (
        (
            "mode",
            EnumU8({0: "raw", 1: "constant", 2: "palette", 3: "lz", 5: "lattice0"}),
            "how the tile is coded",
        ),
        ("body", VarBytes(ALPHA_TILE_BYTES), "its samples"),
    ),
)


@record(frozen=True, slots=True)
class Chunk:
    """A chunk between HEAD and the first DATA: type (four ASCII letters) and payload as stored."""

    type: str
    payload: bytes


def pack_metadata(chunk_type: str, content: bytes) -> Chunk:
    """A chunk with `content` (bytes, 1 to 16 MiB), deflated where that is smaller.

    chunk_type: "iccp" (ICC profile), "exif" (a TIFF structure, without the prefix "Exif\\0\\0") or "xmpd"
    (UTF-8 XML).
    """
    if chunk_type not in COMPRESSIBLE:
        types = ", ".join(COMPRESSIBLE)
        raise UsageValueError(f"chunk_type must be one of {types}, got {chunk_type!r}", "chunk_type")
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise UsageTypeError(f"{chunk_type} content must be bytes, got {type(content).__name__}", "content")
    content = bytes(content)
    if not 1 <= len(content) <= MAX_METADATA:
        reason = f"{chunk_type} content must have 1..{MAX_METADATA} bytes, got {len(content)}"
        raise UsageValueError(reason, "content")
    packed = zlib.compress(content, 9)
    if len(packed) < len(content):
        return Chunk(chunk_type, METADATA.write({"method": ZLIB}) + packed)
    return Chunk(chunk_type, METADATA.write({"method": RAW}) + content)


def unpack_metadata(chunk: Chunk) -> bytes:
    """The content of an iccp, exif or xmpd chunk, at most 16 MiB.

    Raises FormatError for a body that is no zlib stream, or one of more than 16 MiB, or one that was better
    stored; UnsupportedError for a method of a later version.
    """
    if chunk.type not in COMPRESSIBLE:
        raise UsageValueError(f"chunk must be one of {', '.join(COMPRESSIBLE)}, got {chunk.type!r}", "chunk")
    values, start = METADATA.read(chunk.payload, where=chunk.type)
    body = chunk.payload[start:]
    if values["method"] == RAW:
        return body
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(body, MAX_METADATA + 1)
    except zlib.error as error:
        raise FormatError(f"the body is no zlib stream: {error}", chunk=chunk.type) from None
    if len(content) > MAX_METADATA:
        raise FormatError(f"the content inflates to more than {MAX_METADATA} bytes", chunk=chunk.type)
    if not inflater.eof or inflater.unused_data:
        raise FormatError("the zlib stream does not end where the chunk ends", chunk=chunk.type)
    if len(content) <= len(body):
        raise FormatError(
            "the content is no larger than its zlib stream: it must be stored", chunk=chunk.type
        )
    return content


def pack_resolution(x: int, y: int) -> Chunk:
    """A dpix chunk; x, y: pixels a metre, 1..2^32-1."""
    return Chunk("dpix", RESOLUTION.write({"x": x, "y": y}))


def unpack_resolution(chunk: Chunk) -> tuple[int, int]:
    """Pixels a metre along rows and columns, from a dpix chunk."""
    if chunk.type != "dpix":
        raise UsageValueError(f"chunk must be dpix, got {chunk.type!r}", "chunk")
    values = RESOLUTION.read_whole(chunk.payload, where="dpix")
    return values["x"], values["y"]


def check_payload(chunk: Chunk, base: int) -> None:
    """What a reader checks of a metadata chunk at once, without inflating anything. base: place in the file.

    A method that it does not know is no reason not to open the picture: `unpack_metadata` tells.
    """
    if chunk.type == "dpix":
        RESOLUTION.read_whole(chunk.payload, where="dpix", base=base)
    elif chunk.type in COMPRESSIBLE:
        try:
            METADATA.read(chunk.payload, where=chunk.type, base=base)
        except UnsupportedError:
            return

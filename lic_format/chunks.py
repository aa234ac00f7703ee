"""One chunk: `type[4] length payload[length] crc32[4]`, read from memory or from a stream.

    >>> write_chunk("DONE", b"").hex()
    '444f4e4500755a2c5f'

`CHUNKS` lists every chunk that this version knows, in the order in which they stand in a file.
"""

from __future__ import annotations

import zlib
from os import SEEK_CUR, SEEK_END

from .errors import FormatError, UsageTypeError, UsageValueError
from .fields import VARINT_BYTES, read_varint, write_varint
from .limits import MAX_CHUNK, MAX_HEAD, MAX_METADATA, MAX_METADATA_CHUNKS, MAX_PREVIEW
from .records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

SIGNATURE = b"\x89LIC\r\n\x1a\n"

_FIRST_READ = 1 << 16  # bytes asked of a stream at once, however long a chunk says it is


@record(frozen=True, slots=True)
class ChunkKind:
    """One row of CHUNKS: type, how many a file may have, payload length in bytes, meaning."""

    type: str
    count: str
    shortest: int
    longest: int
    meaning: str


CHUNKS = {
    kind.type: kind
    for kind in (
        ChunkKind("HEAD", "1", 1, MAX_HEAD, "what the picture is"),
        ChunkKind("iccp", "0..1", 2, MAX_METADATA + 1, "ICC profile"),
        ChunkKind("exif", "0..1", 2, MAX_METADATA + 1, "EXIF"),
        ChunkKind("xmpd", "0..1", 2, MAX_METADATA + 1, "XMP packet"),
        ChunkKind("dpix", "0..1", 8, 8, "pixels a metre"),
        ChunkKind("prev", "0..1", 2, MAX_PREVIEW, "preview"),
        ChunkKind("ALPH", "0..1", 1, MAX_CHUNK, "alpha plane"),
        ChunkKind("DATA", "1 or more", 2, MAX_CHUNK, "a unit of coded samples"),
        ChunkKind("DONE", "1", 0, 0, "the end"),
    )
}

_UNKNOWN_ANCILLARY = ChunkKind("any", f"0..{MAX_METADATA_CHUNKS}", 0, MAX_METADATA, "unknown ancillary")
_UNKNOWN_CRITICAL = ChunkKind("any", "0", 0, MAX_CHUNK, "unknown critical")


def is_critical(chunk_type: str) -> bool:
    """True where a reader that does not know the type must not go on."""
    return chunk_type[0].isupper()


def kind_of(chunk_type: str) -> ChunkKind:
    """The rules for a chunk type, known or not."""
    return CHUNKS.get(chunk_type) or (_UNKNOWN_CRITICAL if is_critical(chunk_type) else _UNKNOWN_ANCILLARY)


def valid_type(chunk_type: str) -> bool:
    """Four ASCII letters."""
    return len(chunk_type) == 4 and chunk_type.isascii() and chunk_type.isalpha()


class MemorySource:
    """Bytes in memory, taken piece by piece without copying."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self.view = memoryview(data).cast("B")
        except TypeError:
            raise UsageTypeError(
                f"data must be contiguous bytes, got {type(data).__name__}", "data"
            ) from None
        self.position = 0

    def take(self, count: int, what: str) -> bytes | memoryview:
        """The next `count` bytes; an incomplete FormatError where the data ends before."""
        piece = self.view[self.position : self.position + count]
        if len(piece) < count:
            raise _cut(what, self.position, count, len(piece))
        self.position += count
        return piece

    def skip(self, count: int, what: str) -> None:
        """Leave out the next `count` bytes; errors as of `take`."""
        self.take(count, what)

    def left(self) -> int:
        """Bytes not taken yet."""
        return len(self.view) - self.position


class StreamSource:
    """A binary file object, read exactly as far as needed, never sought."""

    def __init__(self, fp: BinaryIO) -> None:
        self.fp = fp
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes; an incomplete FormatError where the stream ends before.

        Asks for at most as much as it already has (and 64 KiB): a length is a claim, and a file object may
        allocate what it is asked for.
        """
        piece = self._read(min(count, _FIRST_READ))
        if len(piece) == count:
            self.position += count
            return piece
        whole = bytearray(piece)
        while piece and len(whole) < count:
            piece = self._read(min(count - len(whole), max(len(whole), _FIRST_READ)))
            whole += piece
        if len(whole) < count:
            raise _cut(what, self.position, count, len(whole))
        self.position += count
        return bytes(whole)

    def _read(self, count: int) -> bytes:
        piece = self.fp.read(count)
        if piece is not None and not isinstance(piece, bytes):
            raise UsageTypeError(
                f"the file object must be open in binary mode: read() gave {type(piece).__name__}", "fp"
            )
        return piece or b""


class SeekableSource(StreamSource):
    """A binary file object that can be sought: what is left out is not read."""

    def __init__(self, fp: BinaryIO) -> None:
        super().__init__(fp)
        start = fp.tell()
        fp.seek(0, SEEK_END)
        self._length = fp.tell() - start
        fp.seek(start)

    def skip(self, count: int, what: str) -> None:
        """Leave out the next `count` bytes; an incomplete FormatError where the file ends before."""
        if self.left() < count:
            raise _cut(what, self.position, count, self.left())
        self.fp.seek(count, SEEK_CUR)
        self.position += count

    def left(self) -> int:
        """Bytes neither taken nor left out yet."""
        return self._length - self.position


if TYPE_CHECKING:
    Source = MemorySource | StreamSource


def _cut(what: str, position: int, wanted: int, found: int) -> FormatError:
    reason = f"the file ends inside {what}: {wanted} bytes expected, {found} found"
    return FormatError(reason, offset=position, incomplete=True)


def read_signature(source: Source) -> None:
    """Check the eight bytes with which every file begins; a wrong one is an error even if it came alone."""
    found = b""
    try:
        for _ in SIGNATURE:
            found += source.take(1, "the signature")
            if not SIGNATURE.startswith(found):
                break
    except FormatError as error:
        if not found:
            raise FormatError("the file is empty", offset=0, incomplete=True) from None
        raise error from None
    if found != SIGNATURE:
        raise FormatError(f"not a .lic file: begins with {found!r}, expected {SIGNATURE!r}", offset=0)


def read_type(source: Source) -> str:
    """The four letters with which a chunk begins."""
    offset = source.position
    letters = bytes(source.take(4, "a chunk type"))
    if not (letters.isalpha() and letters.isascii()):
        raise FormatError(f"chunk type {letters!r} is not four ASCII letters", offset=offset)
    return letters.decode("ascii")


def read_rest(source: Source, chunk_type: str) -> tuple[bytes | memoryview, int]:
    """The payload (its CRC verified) of the chunk whose type was read last, and its place in the file."""
    try:
        length, encoded = _read_length(source, chunk_type)
        place = source.position
        payload = source.take(length, "the payload")
        stored = int.from_bytes(source.take(4, "the CRC"), "little")
    except FormatError as error:
        error.chunk = chunk_type
        raise
    computed = checksum(chunk_type, encoded, payload)
    if stored != computed:
        raise FormatError(
            f"damaged: the CRC is {stored:08x}, the bytes give {computed:08x}", offset=place, chunk=chunk_type
        )
    return payload, place


def skip_rest(source: MemorySource | SeekableSource, chunk_type: str) -> int:
    """Leave out the payload and the CRC of the chunk whose type was read last; the payload's length."""
    try:
        length, _ = _read_length(source, chunk_type)
        source.skip(length, "the payload")
        source.take(4, "the CRC")
    except FormatError as error:
        error.chunk = chunk_type
        raise
    return length


def _read_length(source: Source, chunk_type: str) -> tuple[int, bytes]:
    offset, encoded = source.position, b""
    while len(encoded) < VARINT_BYTES:
        encoded += source.take(1, "the length")
        if encoded[-1] < 0x80:
            break
    try:
        length, _ = read_varint(encoded, 0)
    except FormatError as error:
        raise FormatError(f"bad length: {error.reason}", offset=offset) from None
    kind = kind_of(chunk_type)
    if not kind.shortest <= length <= kind.longest:
        raise FormatError(f"length is {length}, expected {kind.shortest}..{kind.longest}", offset=offset)
    return length, encoded


def checksum(chunk_type: str, encoded_length: bytes, payload: bytes | memoryview) -> int:
    """CRC-32 (zlib's polynomial) over type, length bytes and payload."""
    return zlib.crc32(payload, zlib.crc32(chunk_type.encode("ascii") + encoded_length))


def write_chunk(chunk_type: str, payload: bytes) -> bytes:
    """A whole chunk. The payload's length must suit the type (UsageValueError)."""
    if not valid_type(chunk_type):
        raise UsageValueError(f"a chunk type is four ASCII letters, got {chunk_type!r}", "type")
    if not isinstance(payload, bytes):
        raise UsageTypeError(
            f"the payload of {chunk_type} must be bytes, got {type(payload).__name__}", chunk_type
        )
    kind = kind_of(chunk_type)
    if not kind.shortest <= len(payload) <= kind.longest:
        raise UsageValueError(
            f"a {chunk_type} chunk holds {kind.shortest}..{kind.longest} bytes, got {len(payload)}",
            chunk_type,
        )
    encoded = write_varint(len(payload))
    crc = checksum(chunk_type, encoded, payload).to_bytes(4, "little")
    return b"".join((chunk_type.encode("ascii"), encoded, payload, crc))


def chunk_table() -> str:
    """CHUNKS as SPEC.md prints it."""
    lines = ["| type | in a file | payload bytes | critical | meaning |", "|---|---|---|---|---|"]
    for kind in CHUNKS.values():
        size = f"{kind.shortest}..{kind.longest}" if kind.shortest < kind.longest else f"{kind.longest}"
        critical = "yes" if is_critical(kind.type) else "no"
        lines.append(f"| `{kind.type}` | {kind.count} | {size} | {critical} | {kind.meaning} |")
    return "\n".join(lines)

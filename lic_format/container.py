"""A .lic file as a value: `read` bytes into a LicFile, `write` a LicFile into bytes.

    >>> from lic_format import Head, LicFile, Unit, read, write
    >>> model = {"codec": "fhic", "tag": "s-1", "decode_digest": bytes(16), "synthesis_digest": bytes(8)}
    >>> head = Head(width=8, height=8, **model)
    >>> file = LicFile(head, units=(Unit(2, b"", b"samples"),))
    >>> read(write(file)) == file
    True

`read_head` when only the header is wanted (opening a picture), `read_stream` when more may follow the file in
the same stream. The format is specified in SPEC.md; this module follows its order: signature, HEAD, metadata,
units, end.
"""

from __future__ import annotations

from .chunks import (
    CHUNKS,
    SIGNATURE,
    MemorySource,
    StreamSource,
    is_critical,
    read_rest,
    read_signature,
    read_type,
    valid_type,
    write_chunk,
)
from .errors import FormatError, UnsupportedError, UsageTypeError, UsageValueError
from .fields import EnumU8, Table, VarBytes
from .header import Head, read_header, write_header
from .limits import MAX_CHUNK, MAX_METADATA_CHUNKS, MAX_UNIT_SIDE_INFO, check_pixels, max_units
from .metadata import Chunk, check_payload
from .records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from .chunks import Source

SEALED_ANS, LANES, CODEC_BYTES = 0, 1, 2

UNIT = Table(
    "DATA",
    (
        (
            "kind",
            EnumU8({SEALED_ANS: "sealed grouped ANS", LANES: "lanes", CODEC_BYTES: "codec's own"}),
            "what the body is",
        ),
        ("side_info", VarBytes(MAX_UNIT_SIDE_INFO), "the codec's own record for this unit"),
    ),
)

ANS_BODY = Table("ANS body", (("escapes", VarBytes(MAX_CHUNK), "values that the tables do not hold"),))

_BETWEEN = tuple(kind for kind in CHUNKS if kind not in ("HEAD", "DATA", "DONE"))


@record(frozen=True, slots=True)
class Unit:
    """One DATA chunk: what can be decoded on its own, given the units before it.

    kind: 0 sealed grouped ANS, 1 interleaved lanes, 2 bytes that the codec defines.
    side_info: the codec's own record, at most 65535 bytes. body: the coded samples.
    """

    kind: int
    side_info: bytes
    body: bytes


@record(frozen=True, slots=True)
class LicFile:
    """A whole file.

    metadata: the chunks between HEAD and the first DATA, payloads as stored.
    units: the DATA chunks in order.
    complete: False where `read(partial=True)` met a fault; then `fault` is it, and metadata and units are
    what stood complete before it.
    """

    head: Head
    metadata: tuple[Chunk, ...] = ()
    units: tuple[Unit, ...] = ()
    complete: bool = True
    fault: FormatError | None = None

    def find(self, chunk_type: str) -> Chunk | None:
        """The first metadata chunk of that type, or None."""
        return next((chunk for chunk in self.metadata if chunk.type == chunk_type), None)

    @property
    def payload_bytes(self) -> int:
        """Bytes that code samples: the side info and the bodies of all units."""
        return sum(len(unit.side_info) + len(unit.body) for unit in self.units)


def read(
    data: bytes | bytearray | memoryview, *, partial: bool = False, max_pixels: int | None = None
) -> LicFile:
    """A whole file from memory. Nothing may follow it.

    partial: where a fault comes after HEAD, return what stood complete before it (`complete` is False).
    max_pixels: refuse larger pictures; default 2^28, or the environment variable LICODEC_MAX_PIXELS.

    Raises FormatError (not a valid file; `incomplete` tells a file cut short from a broken one),
    UnsupportedError (a newer file, or a larger picture). Needs memory for one copy of the data.
    """
    source = MemorySource(data)
    return _assemble(source, max_pixels, partial)


def read_stream(fp: BinaryIO, *, max_pixels: int | None = None) -> LicFile:
    """A whole file from a binary file object, which is left right after it. Errors as in `read`."""
    return _assemble(StreamSource(fp), max_pixels, partial=False)


def read_head(
    source: bytes | bytearray | memoryview | BinaryIO, *, max_pixels: int | None = None
) -> tuple[Head, tuple[Chunk, ...]]:
    """HEAD and the chunks before ALPH or DATA: all that can be known of a picture without decoding it.

    source: bytes, or a binary file object at the start of a file, which is left behind the type of the chunk
    that was not read. Reads no further, so a prefix of a file is enough. Errors as in `read`; a FormatError
    with `incomplete` set means that the header is not all there yet.
    """
    in_memory = isinstance(source, (bytes, bytearray, memoryview)) or not hasattr(source, "read")
    reader: Source = MemorySource(source) if in_memory else StreamSource(source)  # type: ignore[arg-type]
    head = _read_head_chunk(reader, max_pixels)
    metadata: list[Chunk] = []
    _read_metadata(reader, head, metadata, header_only=True)
    return head, tuple(metadata)


def _assemble(source: Source, max_pixels: int | None, partial: bool) -> LicFile:
    head = _read_head_chunk(source, max_pixels)  # without it nothing can be said of the picture
    metadata: list[Chunk] = []
    units: list[Unit] = []
    fault = None
    try:
        _read_metadata(source, head, metadata)
        _read_units(source, head, units)
        if isinstance(source, MemorySource) and source.left():
            raise FormatError(f"{source.left()} bytes follow the end of the file", offset=source.position)
    except FormatError as error:
        if not partial:
            raise
        fault = error.with_traceback(None)  # its frames would keep the input alive
    return LicFile(head, tuple(metadata), tuple(units), fault is None, fault)


def _read_head_chunk(source: Source, max_pixels: int | None) -> Head:
    read_signature(source)
    offset = source.position
    first = read_type(source)
    if first != "HEAD":
        raise FormatError(f"the first chunk is {first}, expected HEAD", offset=offset)
    head = read_header(*read_rest(source, first))
    check_pixels(head.width, head.height, max_pixels)
    return head


def _read_metadata(source: Source, head: Head, metadata: list[Chunk], *, header_only: bool = False) -> None:
    """Append the chunks up to the first DATA, whose type is taken from the source.

    header_only: stop at ALPH too, which may be long.
    """
    last = -1  # place in _BETWEEN of the latest known chunk
    while True:
        offset = source.position
        chunk_type = read_type(source)
        if chunk_type == "DATA":
            break
        if header_only and chunk_type == "ALPH" and head.alpha:
            return
        if chunk_type in _BETWEEN:
            place = _BETWEEN.index(chunk_type)
            if place <= last:
                found = "stands twice" if place == last else f"stands after {_BETWEEN[last]}"
                order = f"the order is {' '.join(_BETWEEN)}, each at most once"
                raise FormatError(f"{chunk_type} {found}; {order}", offset=offset)
            last = place
        elif chunk_type in CHUNKS:
            raise FormatError(f"{chunk_type} where metadata or the first DATA must stand", offset=offset)
        if len(metadata) == MAX_METADATA_CHUNKS:
            raise FormatError(f"more than {MAX_METADATA_CHUNKS} chunks before the first DATA", offset=offset)
        payload, base = read_rest(source, chunk_type)
        if chunk_type not in CHUNKS and is_critical(chunk_type):
            raise _unknown_critical(chunk_type, offset)
        chunk = Chunk(chunk_type, bytes(payload))
        check_payload(chunk, base)
        metadata.append(chunk)
    if problem := _alpha_problem(head, metadata):
        raise FormatError(problem, offset=offset)


def _read_units(source: Source, head: Head, units: list[Unit]) -> None:
    """Append the units, the first of whose types was taken already, and take the end chunk."""
    most = max_units(head.width, head.height)
    chunk_type = "DATA"
    while chunk_type == "DATA":
        if len(units) == most:
            reason = f"more than {most} DATA chunks for {head.width} x {head.height} pixels"
            raise FormatError(reason, offset=source.position - 4)
        units.append(_read_unit(*read_rest(source, "DATA")))
        offset = source.position
        chunk_type = read_type(source)
    known = chunk_type in CHUNKS or not is_critical(chunk_type)
    if known and chunk_type != "DONE":
        raise FormatError(f"{chunk_type} after DATA, expected DATA or DONE", offset=offset)
    read_rest(source, chunk_type)
    if not known:
        raise _unknown_critical(chunk_type, offset)


def _read_unit(payload: bytes | memoryview, base: int) -> Unit:
    values, start = UNIT.read(payload, where="DATA", base=base)
    unit = Unit(values["kind"], values["side_info"], bytes(payload[start:]))
    if unit.kind == SEALED_ANS:
        _ans_words_start(unit.body, base + start)
    return unit


def _unknown_critical(chunk_type: str, offset: int) -> UnsupportedError:
    return UnsupportedError(
        f"chunk {chunk_type} at byte {offset} is unknown to this version and marked critical; "
        "a newer version of licodec may read this file"
    )


def _alpha_problem(head: Head, metadata: list[Chunk] | tuple[Chunk, ...]) -> str | None:
    found = any(chunk.type == "ALPH" for chunk in metadata)
    if head.alpha == found:
        return None
    return f"HEAD's alpha flag is {int(head.alpha)}, but there is {'an' if found else 'no'} ALPH chunk"


def write(file: LicFile) -> bytes:
    """The bytes of a complete file: the same bytes for the same LicFile, always.

    Known metadata chunks are put into the order of the format; unknown ones keep their places.
    Raises UsageValueError or UsageTypeError naming the part that the format cannot hold.
    """
    if not isinstance(file, LicFile):
        raise UsageTypeError(f"file must be a LicFile, got {type(file).__name__}", "file")
    if not file.complete:
        raise UsageValueError("file is not complete: writing it would hide that parts are missing", "file")
    metadata = _in_order(file.metadata)
    if problem := _alpha_problem(file.head, metadata):
        raise UsageValueError(problem, "metadata")
    most = max_units(file.head.width, file.head.height)
    if not 1 <= len(file.units) <= most:
        raise UsageValueError(f"a file of this size has 1..{most} units, got {len(file.units)}", "units")
    parts = [SIGNATURE, write_chunk("HEAD", write_header(file.head))]
    parts += [write_chunk(chunk.type, chunk.payload) for chunk in metadata]
    parts += [write_chunk("DATA", _write_unit(unit)) for unit in file.units]
    parts.append(write_chunk("DONE", b""))
    return b"".join(parts)


def _in_order(metadata: tuple[Chunk, ...]) -> list[Chunk]:
    types = [chunk.type for chunk in metadata]
    for chunk in metadata:
        if chunk.type not in _BETWEEN:
            if not valid_type(chunk.type) or is_critical(chunk.type):
                raise UsageValueError(f"{chunk.type!r} is not a metadata chunk", "metadata")
        elif types.count(chunk.type) > 1:
            raise UsageValueError(f"{chunk.type} stands twice", "metadata")
        _as_usage("metadata", check_payload, chunk, 0)
    if len(metadata) > MAX_METADATA_CHUNKS:
        reason = f"a file has at most {MAX_METADATA_CHUNKS} metadata chunks, got {len(metadata)}"
        raise UsageValueError(reason, "metadata")
    ordered = sorted((kind for kind in types if kind in _BETWEEN), key=_BETWEEN.index)
    known = iter([next(chunk for chunk in metadata if chunk.type == kind) for kind in ordered])
    return [next(known) if chunk.type in _BETWEEN else chunk for chunk in metadata]


def _write_unit(unit: Unit) -> bytes:
    if not isinstance(unit.body, bytes):
        raise UsageTypeError(f"a unit's body must be bytes, got {type(unit.body).__name__}", "units")
    start = UNIT.write({"kind": unit.kind, "side_info": unit.side_info})
    if unit.kind == SEALED_ANS:
        _as_usage("units", _ans_words_start, unit.body, 0)
    return start + unit.body


def _as_usage(argument: str, rule: object, *values: object) -> None:
    """Run a reader's rule over a writer's value: the same rule, but the fault is the caller's."""
    try:
        rule(*values)  # type: ignore[operator]
    except FormatError as error:
        raise UsageValueError(str(error), argument) from None


def _ans_words_start(body: bytes, base: int) -> int:
    """Where the coder words of a kind-0 body begin; FormatError where it is not well formed."""
    length_field = VarBytes(MAX_CHUNK).length
    try:
        escapes, start = length_field.read(body, 0)
    except FormatError as error:
        raise FormatError(f"escape length: {error.reason}", offset=base, chunk="DATA") from None
    words = len(body) - start - escapes
    if words < 8 or words % 4:
        reason = f"{escapes} escape bytes leave {words} bytes for coder words"
        raise FormatError(f"{reason}, expected 8 or more, a multiple of 4", offset=base, chunk="DATA")
    if body[-4:] == bytes(4):
        raise FormatError("the last coder word is zero", offset=base + len(body) - 4, chunk="DATA")
    return start + escapes


def split_ans_body(body: bytes) -> tuple[bytes, bytes]:
    """The escape bytes and the coder words (u32 little endian) of a kind-0 body, or FormatError."""
    words_start = _ans_words_start(body, 0)
    values, _ = ANS_BODY.read(body, where="DATA")
    return values["escapes"], body[words_start:]


def join_ans_body(escapes: bytes, words: bytes) -> bytes:
    """The kind-0 body of escape bytes and coder words (u32 little endian, two or more, the last not zero)."""
    body = ANS_BODY.write({"escapes": escapes}) + words
    _as_usage("words", _ans_words_start, body, 0)
    return body

"""Files to read: valid ones, the pieces they are made of, and a way of making broken ones.

`frame` and `pieces` know the frame of a chunk and nothing else of lic_format, so that what is wrong in a file
is what a test made wrong, with every CRC right.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import lic_format
from lic_format import Chunk, Colour, Flag, Head, LicFile, Order, Unit

SIGNATURE = bytes.fromhex("89 4c 49 43 0d 0a 1a 0a")


def leb128(value: int) -> bytes:
    """A varint."""
    head, tail = value >> 7, value & 127
    return bytes([tail]) if head == 0 else bytes([tail | 128]) + leb128(head)


def frame(name: str, payload: bytes, length: bytes | None = None) -> bytes:
    """A chunk with a right CRC; `length` replaces the bytes of its length."""
    start = name.encode("ascii") + (leb128(len(payload)) if length is None else length)
    return start + payload + zlib.crc32(start + payload).to_bytes(4, "little")


def pieces(data: bytes) -> list[tuple[str, bytes]]:
    """The (type, payload) of every chunk of a valid file."""
    found, at = [], len(SIGNATURE)
    while at < len(data):
        name, at = data[at : at + 4].decode("ascii"), at + 4
        length, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            length, shift = length | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        found.append((name, data[at : at + length]))
        at += length + 4
    return found


def join(chunks: list[tuple[str, bytes]]) -> bytes:
    """A file of these chunks."""
    return SIGNATURE + b"".join(frame(name, payload) for name, payload in chunks)


def head(**changes: object) -> Head:
    """An ordinary HEAD, changed."""
    values: dict[str, object] = {
        "width": 768,
        "height": 512,
        "codec": "fhic",
        "tag": "s-1",
        "decode_digest": bytes(range(16)),
        "synthesis_digest": bytes(range(16, 24)),
        "side_info": b"\x01\x01",
        "rate": 128,
        "order": Order.CHECKERBOARD,
    }
    return Head(**(values | changes))  # type: ignore[arg-type]


SEALED = Unit(0, b"", b"\x01\x05" + bytes.fromhex("7856341201000000"))


def plain() -> LicFile:
    """The example of SPEC.md: one sealed unit, no metadata."""
    return LicFile(head(), units=(SEALED,))


def rich() -> LicFile:
    """One of everything: all metadata, unknown ancillary chunks, alpha, three kinds of units."""
    metadata = (
        lic_format.pack_metadata("iccp", bytes(range(40))),
        Chunk("zzzz", b"kept"),
        lic_format.pack_metadata("exif", b"II*\0" + bytes(60)),
        lic_format.pack_metadata("xmpd", b"<x/>"),
        lic_format.pack_resolution(11811, 11811),
        Chunk("prev", b"\x00preview"),
        Chunk("aLPH", b""),
        Chunk("ALPH", b"\x00\xff"),
    )
    units = (SEALED, Unit(1, b"\x07", b"lanes"), Unit(2, b"", b""))
    return LicFile(head(flags=Flag.ALPHA, width=300, height=200), metadata, units)


def weightless() -> LicFile:
    """Grey, 1 x 1, without weights, without side info."""
    small = head(
        width=1,
        height=1,
        colour=Colour.GREY,
        flags=Flag.LOSSLESS,
        codec="p",
        tag="",
        decode_digest=bytes(16),
        synthesis_digest=bytes(8),
        side_info=b"",
        rate=0,
        order=Order.ONE_STEP,
        orientation=8,
    )
    return LicFile(small, units=(Unit(2, b"", b"\x80"),))


def valid_files() -> list[bytes]:
    """The bytes of the files above."""
    return [lic_format.write(file) for file in (plain(), rich(), weightless())]


def mutant(seed: int, files: Sequence[bytes] = ()) -> bytes:
    """A valid file, of these or of those above, with one to three random changes. Most keep every CRC right,
    so that they are not caught by the first check that comes."""
    rng = random.Random(seed)
    data = rng.choice(files or valid_files())
    for _ in range(rng.randint(1, 3)):
        data = rng.choice((_mutate_payload, _mutate_payload, _mutate_chunks, _mutate_bytes))(rng, data)
    return data


def _mutate_payload(rng: random.Random, data: bytes) -> bytes:
    chunks = _pieces_or_none(data)
    if not chunks:
        return data
    index = rng.randrange(len(chunks))
    name, payload = chunks[index]
    chunks[index] = (name, _mutate_bytes(rng, payload))
    return join(chunks)


def _mutate_chunks(rng: random.Random, data: bytes) -> bytes:
    chunks = _pieces_or_none(data)
    if not chunks:
        return data
    index, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    name, payload = chunks[index]
    names = ("HEAD", "iccp", "dpix", "prev", "ALPH", "DATA", "DONE", "ABCD", "abcd", "aBCD")
    change = rng.randrange(5)
    if change == 0:
        chunks[index], chunks[other] = chunks[other], chunks[index]
    elif change == 1:
        chunks.insert(other, chunks[index])
    elif change == 2:
        del chunks[index]
    elif change == 3:
        chunks[index] = (rng.choice(names), payload)
    else:
        whole = [frame(*chunk) for chunk in chunks]
        size = leb128(rng.choice((0, 1, 7, 127, 128, 65536, 1 << 24, (1 << 32) - 1, 1 << 32, 1 << 34)))
        whole[index] = frame(name, payload, length=size + rng.choice((b"", b"\x80\x00", b"\x00")))
        return SIGNATURE + b"".join(whole)
    return join(chunks)


def _mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    change = rng.randrange(5)
    at = rng.randrange(len(out) + 1)
    if change == 0 and out:
        out[at % len(out)] ^= 1 << rng.randrange(8)
    elif change == 1 and out:
        out[at % len(out)] = rng.choice((0, 1, 2, 3, 8, 16, 127, 128, 129, 255))
    elif change == 2:
        out[at:at] = rng.randbytes(rng.randint(1, 6))
    elif change == 3:
        del out[at : at + rng.randint(1, 6)]
    else:
        out[at:at] = rng.choice((b"\x80", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff", bytes(9)))
    return bytes(out)


def _pieces_or_none(data: bytes) -> list[tuple[str, bytes]] | None:
    try:
        return pieces(data)
    except (IndexError, UnicodeDecodeError):
        return None

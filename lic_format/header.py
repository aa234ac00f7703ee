"""HEAD, the first chunk: all that is said of a picture before anything is decoded.

>>> model = {"codec": "fhic", "tag": "s-1", "decode_digest": bytes(16), "synthesis_digest": bytes(8)}
>>> head = Head(width=768, height=512, **model)
>>> read_header(write_header(head)) == head
True
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from .errors import FormatError, UsageValueError
from .fields import U8, Bytes, EnumU8, FlagsU8, Table, Token, VarBytes, Varint
from .limits import MAX_SIDE, MAX_SIDE_INFO
from .records import record

VERSION = 1


class Colour(IntEnum):
    """What the samples of a pixel are."""

    GREY = 0
    RGB = 1

    @property
    def planes(self) -> int:
        """Number of colour planes (alpha not counted)."""
        return 3 if self is Colour.RGB else 1


class Depth(IntEnum):
    """Bits a sample as coded; the value is the number of bits."""

    BITS_8 = 8
    BITS_16 = 16


class Order(IntEnum):
    """In which order the latents of a lossy codec are decoded, where the codec has a choice."""

    ONE_STEP = 0
    CHECKERBOARD = 1
    SERIAL = 2


class Flag(IntFlag):
    """Bits of HEAD's flags."""

    ALPHA = 1 << 0
    LOSSLESS = 1 << 1


HEAD = Table(
    "HEAD",
    (
        ("version", EnumU8({VERSION: "this version"}), "version of the container"),
        ("width", Varint(1, MAX_SIDE), "stored pixels a row, before orientation"),
        ("height", Varint(1, MAX_SIDE), "stored rows, before orientation"),
        ("colour", EnumU8(Colour), "what the samples of a pixel are"),
        ("depth", EnumU8(Depth, "bits", "bits"), "bits a sample as coded"),
        (
            "flags",
            FlagsU8(Flag),
            "an ALPH chunk follows; decoding gives the samples encoded",
        ),
        ("rate", U8(), "rate index of the codec; 0 where it has none"),
        ("order", EnumU8(Order), "decode order of the latents; 0 where the codec has no choice"),
        ("orientation", U8(1, 8), "how to turn the stored pixels for display, as EXIF numbers it"),
        ("codec", Token(1, 16), "which codec decodes the DATA chunks"),
        ("tag", Token(0, 16), "name of the weights; empty where the codec needs none"),
        ("decode_digest", Bytes(16), "names all that fixes the latents; zeros where tag is empty"),
        ("synthesis_digest", Bytes(8), "names the synthesis networks; zeros where tag is empty"),
        ("side_info", VarBytes(MAX_SIDE_INFO), "the codec's own record; its first byte is a layout id"),
    ),
)


@record(frozen=True, slots=True)
class Head:
    """The values of HEAD, field by field (ranges and meanings: the table `HEAD`).

    width, height: stored pixels. decode_digest: 16 bytes. synthesis_digest: 8 bytes. rate: 0..255.
    orientation: 1..8 as in EXIF. side_info: the codec's own bytes, 0..4096 of them.
    """

    width: int
    height: int
    codec: str
    tag: str
    decode_digest: bytes
    synthesis_digest: bytes
    side_info: bytes = b""
    colour: Colour = Colour.RGB
    depth: Depth = Depth.BITS_8
    flags: Flag = Flag(0)
    rate: int = 0
    order: Order = Order.ONE_STEP
    orientation: int = 1
    version: int = VERSION

    @property
    def alpha(self) -> bool:
        """True where the file has an ALPH chunk."""
        return bool(self.flags & Flag.ALPHA)

    @property
    def lossless(self) -> bool:
        """True where the decoded samples are those that were encoded."""
        return bool(self.flags & Flag.LOSSLESS)


def read_header(payload: bytes | memoryview, base: int = 0) -> Head:
    """HEAD's payload as a Head. base: place of the payload in the file, for errors.

    Raises FormatError, or UnsupportedError for a version, colour, depth, flag or order of a later version.
    """
    head = Head(**HEAD.read_whole(payload, where="HEAD", base=base))
    if problem := _weightless_problem(head):
        raise FormatError(problem, offset=base, chunk="HEAD")
    return head


def write_header(head: Head) -> bytes:
    """HEAD's payload; UsageValueError or UsageTypeError names the field that cannot be stored."""
    payload = HEAD.write({name: getattr(head, name) for name in HEAD.names})
    if problem := _weightless_problem(head):
        raise UsageValueError(problem, "tag")
    return payload


def _weightless_problem(head: Head) -> str | None:
    """One way of saying 'no weights': empty tag and zero digests together."""
    if not head.tag and any(head.decode_digest + head.synthesis_digest):
        return "tag is empty (no weights), so both digests must be zero"
    return None

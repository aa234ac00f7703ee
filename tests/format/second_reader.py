"""A second reader of the container, written from SPEC.md alone.

It shares no line with lic_format. Where the two disagree about any bytes, SPEC.md or lic_format is wrong.
`read_file` gives plain dictionaries and lists; the errors are SPEC.md's words.
"""

from __future__ import annotations

from typing import Any


class InvalidFile(Exception):
    """The bytes break a rule of SPEC.md."""


class IncompleteFile(InvalidFile):
    """The bytes end before the file does, and nothing before the end is wrong."""


class NewerFile(Exception):
    """The file uses what version 1 reserves."""


def crc32(data: bytes) -> int:
    """SPEC.md, Conventions: reflected polynomial EDB88320, start and final exclusive-or FFFFFFFF."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


class Cursor:
    """A place in bytes. Running off the end is IncompleteFile for a file, InvalidFile inside a chunk."""

    def __init__(self, data: bytes, ends: type[InvalidFile]) -> None:
        self.data, self.at, self.ends = data, 0, ends

    def octets(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise self.ends(f"{count} bytes wanted at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.octets(len(self.data) - self.at)

    def fixed(self, count: int) -> int:
        return sum(byte << 8 * place for place, byte in enumerate(self.octets(count)))

    def varint(self, low: int = 0, high: int = 2**32 - 1) -> int:
        groups = []
        while True:
            byte = self.fixed(1)
            groups.append(byte % 128)
            if byte < 128:
                break
            if len(groups) == 5:
                raise InvalidFile("varint of more than 5 bytes")
        if len(groups) > 1 and groups[-1] == 0:
            raise InvalidFile("varint is not minimal")
        return within(sum(group << 7 * place for place, group in enumerate(groups)), low, high)

    def token(self, low: int, high: int) -> str:
        text = self.octets(within(self.fixed(1), low, high))
        if any(chr(letter) not in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in text):
            raise InvalidFile("token with a letter that is not allowed")
        return text.decode("ascii")

    def listed(self, values: tuple[int, ...]) -> int:
        value = self.fixed(1)
        if value not in values:
            raise NewerFile(f"{value} is not one of {values}")
        return value


def within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidFile(f"{value} is not in {low}..{high}")
    return value


PAYLOAD = {
    "HEAD": (1, 65535),
    "iccp": (2, 16777217),
    "exif": (2, 16777217),
    "xmpd": (2, 16777217),
    "dpix": (8, 8),
    "prev": (2, 262144),
    "ALPH": (1, 4294967295),
    "DATA": (2, 4294967295),
    "DONE": (0, 0),
}
ONCE = ["iccp", "exif", "xmpd", "dpix", "prev", "ALPH"]


def read_file(data: bytes) -> dict[str, Any]:
    """A whole file: {"head": {...}, "metadata": [(type, payload)], "units": [(kind, side info, body)]}."""
    cursor = Cursor(data, IncompleteFile)
    for expected in (0x89, 0x4C, 0x49, 0x43, 0x0D, 0x0A, 0x1A, 0x0A):
        if cursor.fixed(1) != expected:
            raise InvalidFile("signature")
    if chunk_type(cursor) != "HEAD":
        raise InvalidFile("HEAD is not the first chunk")
    head = read_head(chunk_rest(cursor, "HEAD"))
    if head["width"] * head["height"] > 2**28:
        raise NewerFile("beyond the pixel limit")  # not SPEC.md's word, but refused in the same way
    metadata = read_metadata(cursor, head)
    units = read_units(cursor, head["width"] * head["height"])
    if cursor.at != len(data):
        raise InvalidFile("bytes after DONE")
    return {"head": head, "metadata": metadata, "units": units}


def chunk_type(cursor: Cursor) -> str:
    letters = cursor.octets(4)
    if not all(65 <= letter <= 90 or 97 <= letter <= 122 for letter in letters):
        raise InvalidFile("a chunk type is four letters")
    return letters.decode("ascii")


def chunk_rest(cursor: Cursor, name: str) -> bytes:
    """Payload of the chunk whose type was taken just before."""
    start = cursor.at
    unknown = (0, 2**32 - 1) if name[0].isupper() else (0, 2**24)
    length = cursor.varint(*PAYLOAD.get(name, unknown))
    encoded = cursor.data[start : cursor.at]
    payload = cursor.octets(length)
    if cursor.fixed(4) != crc32(name.encode("ascii") + encoded + payload):
        raise InvalidFile(f"CRC of {name}")
    return payload


def read_head(payload: bytes) -> dict[str, Any]:
    cursor = Cursor(payload, InvalidFile)
    head: dict[str, Any] = {"version": cursor.listed((1,))}
    head["width"] = cursor.varint(1, 16777216)
    head["height"] = cursor.varint(1, 16777216)
    head["colour"] = cursor.listed((0, 1))
    head["depth"] = cursor.listed((8, 16))
    head["flags"] = cursor.listed((0, 1, 2, 3))
    head["rate"] = cursor.fixed(1)
    head["order"] = cursor.listed((0, 1, 2))
    head["orientation"] = within(cursor.fixed(1), 1, 8)
    head["codec"] = cursor.token(1, 16)
    head["tag"] = cursor.token(0, 16)
    head["decode_digest"] = cursor.octets(16)
    head["synthesis_digest"] = cursor.octets(8)
    head["side_info"] = cursor.octets(cursor.varint(0, 4096))
    if cursor.rest():
        raise InvalidFile("HEAD is longer than its fields")
    if head["tag"] == "" and any(head["decode_digest"] + head["synthesis_digest"]):
        raise InvalidFile("digests without a tag")
    return head


def read_metadata(cursor: Cursor, head: dict[str, Any]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    allowed = list(ONCE)
    while (name := chunk_type(cursor)) != "DATA":
        if name in ONCE:
            if name not in allowed:
                raise InvalidFile(f"{name} out of order or twice")
            del allowed[: allowed.index(name) + 1]
        elif name in PAYLOAD:
            raise InvalidFile(f"{name} before DATA")
        if len(found) == 64:
            raise InvalidFile("too many chunks before DATA")
        payload = chunk_rest(cursor, name)
        if name not in PAYLOAD and name[0].isupper():
            raise NewerFile(f"critical chunk {name}")
        if name == "dpix":
            fields = Cursor(payload, InvalidFile)
            within(fields.fixed(4), 1, 2**32 - 1)
            within(fields.fixed(4), 1, 2**32 - 1)
        found.append((name, payload))
    if ("ALPH" in [name for name, _ in found]) != (head["flags"] % 2 == 1):
        raise InvalidFile("alpha flag and ALPH chunk disagree")
    return found


def read_units(cursor: Cursor, pixels: int) -> list[tuple[int, bytes, bytes]]:
    """The units; the type of the first DATA was taken just before."""
    units: list[tuple[int, bytes, bytes]] = []
    name = "DATA"
    while name == "DATA":
        if len(units) == 1024 + pixels // 32768:
            raise InvalidFile("too many units")
        fields = Cursor(chunk_rest(cursor, "DATA"), InvalidFile)
        kind = fields.listed((0, 1, 2))
        side_info = fields.octets(fields.varint(0, 65535))
        body = fields.rest()
        if kind == 0:
            check_coder_words(body)
        units.append((kind, side_info, body))
        name = chunk_type(cursor)
    if name in PAYLOAD or name[0].islower():
        if name != "DONE":
            raise InvalidFile(f"{name} after DATA")
        chunk_rest(cursor, name)
        return units
    chunk_rest(cursor, name)
    raise NewerFile(f"critical chunk {name}")


def check_coder_words(body: bytes) -> None:
    fields = Cursor(body, InvalidFile)
    fields.octets(fields.varint())
    words = fields.rest()
    if len(words) % 4 or len(words) < 8 or words[-4:] == b"\0\0\0\0":
        raise InvalidFile("coder words")

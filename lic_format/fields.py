"""Records as declared tables: one declaration that is read, written, bounded, printed and tested.

    >>> SIZE = Table("SIZE", (("width", Varint(1, 100), "pixels a row"), ("deep", U8(), "bits")))
    >>> SIZE.write({"width": 80, "deep": 8})
    b'P\\x08'
    >>> SIZE.read(b"P\\x08", where="SIZE")
    ({'width': 80, 'deep': 8}, 2)

HEAD, the start of every DATA chunk and every codec's side info are such tables. Reading is total: bytes give
values or a FormatError (UnsupportedError for values that a later version may define). Writing is canonical,
and a value out of its range is the caller's mistake (UsageValueError, UsageTypeError). All integers are
little endian. A codec that needs another kind of value derives its own `Field`.
"""

from __future__ import annotations

import operator

from .errors import FormatError, UnsupportedError, UsageTypeError, UsageValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from enum import IntEnum, IntFlag
    from typing import Any

VARINT_BYTES = 5
"""Longest varint: 35 bits, of which the format uses 32."""

TOKEN_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")


def read_varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Minimal unsigned LEB128, low seven bits first: (value, offset after it), or FormatError."""
    value = 0
    for count in range(VARINT_BYTES):
        byte = _take(data, offset + count, 1)[0]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count:
                raise FormatError("varint is not minimal: its last byte is zero", offset=offset)
            return value, offset + count + 1
    raise FormatError(f"varint is longer than {VARINT_BYTES} bytes", offset=offset)


def write_varint(value: int) -> bytes:
    """The minimal LEB128 bytes of an integer >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _take(data: bytes | memoryview, offset: int, count: int) -> bytes:
    piece = bytes(data[offset : offset + count])
    if len(piece) < count:
        raise FormatError(f"needs {count} bytes, {len(piece)} are left", offset=offset)
    return piece


class Field:
    """One value of a record. Subclasses give `read`, `check`, `encode` and the words of the printed table."""

    type_name = ""
    max_size = 0

    def read(self, data: bytes | memoryview, offset: int) -> tuple[Any, int]:
        """The value at `offset` and the offset after it."""
        raise NotImplementedError

    def check(self, value: Any, name: str) -> Any:
        """`value` as it is stored; UsageValueError or UsageTypeError naming `name` where it cannot be."""
        raise NotImplementedError

    def encode(self, value: Any) -> bytes:
        """The bytes of a checked value."""
        raise NotImplementedError

    def range_text(self) -> str:
        """The allowed values, as the printed table says them."""
        raise NotImplementedError

    def write(self, value: Any, name: str = "value") -> bytes:
        """The bytes of `value`, checked."""
        return self.encode(self.check(value, name))


class _Integer(Field):
    """An integer in lo..hi; a value outside is an error, not a future meaning."""

    def __init__(self, lo: int, hi: int) -> None:
        self.lo, self.hi = lo, hi

    def accept(self, value: int, offset: int) -> int:
        if not self.lo <= value <= self.hi:
            raise FormatError(f"is {value}, expected {self.range_text()}", offset=offset)
        return value

    def check(self, value: Any, name: str) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise UsageTypeError(f"{name} must be an integer, got {type(value).__name__}", name)
        number = operator.index(value)
        if not self.lo <= number <= self.hi:
            raise UsageValueError(f"{name} must be in {self.range_text()}, got {number}", name)
        return number

    def range_text(self) -> str:
        return f"{self.lo}..{self.hi}" if self.lo < self.hi else f"{self.lo}"


class _FixedInteger(_Integer):
    """Little endian, `max_size` bytes."""

    def __init__(self, lo: int = 0, hi: int | None = None) -> None:
        super().__init__(lo, (1 << 8 * self.max_size) - 1 if hi is None else hi)

    def read(self, data: bytes | memoryview, offset: int) -> tuple[int, int]:
        value = int.from_bytes(_take(data, offset, self.max_size), "little")
        return self.accept(value, offset), offset + self.max_size

    def encode(self, value: int) -> bytes:
        return value.to_bytes(self.max_size, "little")


class U8(_FixedInteger):
    """Integer of one byte."""

    type_name, max_size = "u8", 1


class U16(_FixedInteger):
    """Integer of two bytes."""

    type_name, max_size = "u16", 2


class U32(_FixedInteger):
    """Integer of four bytes."""

    type_name, max_size = "u32", 4


class Varint(_Integer):
    """Integer as minimal LEB128, at most 5 bytes and 32 bits."""

    type_name = "varint"

    def __init__(self, lo: int = 0, hi: int = (1 << 32) - 1) -> None:
        super().__init__(lo, hi)
        self.max_size = len(write_varint(hi))

    def read(self, data: bytes | memoryview, offset: int) -> tuple[int, int]:
        value, end = read_varint(data, offset)
        return self.accept(value, offset), end

    def encode(self, value: int) -> bytes:
        return write_varint(value)


class EnumU8(Field):
    """One byte out of a list; other values are reserved and an UnsupportedError when read.

    choices: an IntEnum (the value read is its member) or a mapping of values to words.
    words: what to call the members of an IntEnum, in order; default their names.
    """

    type_name, max_size = "u8", 1

    def __init__(self, choices: type[IntEnum] | Mapping[int, str], *words: str) -> None:
        if isinstance(choices, type):
            self.members: dict[int, int] = {int(member): member for member in choices}
            words = words or tuple(member.name.lower().replace("_", "-") for member in choices)
            self.words = dict(zip(self.members, words, strict=True))
        else:
            self.members = {value: value for value in choices}
            self.words = dict(choices)

    def read(self, data: bytes | memoryview, offset: int) -> tuple[int, int]:
        value = _take(data, offset, 1)[0]
        if value not in self.members:
            raise UnsupportedError(f"is {value}, this version knows {self.range_text()}")
        return self.members[value], offset + 1

    def check(self, value: Any, name: str) -> int:
        number: int = U8().check(value, name)
        if number not in self.members:
            raise UsageValueError(f"{name} must be one of {self.range_text()}, got {number}", name)
        return number

    def encode(self, value: int) -> bytes:
        return bytes((value,))

    def range_text(self) -> str:
        return ", ".join(f"{value} {word}" for value, word in self.words.items())


class FlagsU8(Field):
    """Eight bits named by an IntFlag; an unnamed bit that is set is an UnsupportedError when read."""

    type_name, max_size = "u8", 1

    def __init__(self, flags: type[IntFlag]) -> None:
        self.flags = flags
        self.mask = sum(flags)

    def read(self, data: bytes | memoryview, offset: int) -> tuple[IntFlag, int]:
        value = _take(data, offset, 1)[0]
        if value & ~self.mask:
            raise UnsupportedError(f"is {value:#04x}, this version knows {self.range_text()}")
        return self.flags(value), offset + 1

    def check(self, value: Any, name: str) -> int:
        number: int = U8().check(value, name)
        if number & ~self.mask:
            raise UsageValueError(f"{name} has only {self.range_text()}, got {number:#04x}", name)
        return number

    def encode(self, value: int) -> bytes:
        return bytes((value,))

    def range_text(self) -> str:
        bits = (f"bit {flag.bit_length() - 1} {str(flag.name).lower()}" for flag in self.flags)
        return ", ".join(bits) + "; others 0"


class _Octets(Field):
    """Bytes whose number lies in shortest..longest."""

    shortest = longest = 0

    def check(self, value: Any, name: str) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise UsageTypeError(f"{name} must be bytes, got {type(value).__name__}", name)
        octets = bytes(value)
        if not self.shortest <= len(octets) <= self.longest:
            raise UsageValueError(f"{name} must have {self.range_text()}, got {len(octets)}", name)
        return octets

    def range_text(self) -> str:
        least = f"{self.shortest}.." if self.shortest < self.longest else ""
        return f"{least}{self.longest} bytes"


class Bytes(_Octets):
    """Exactly n bytes."""

    type_name = "bytes"

    def __init__(self, n: int) -> None:
        self.shortest = self.longest = self.max_size = n

    def read(self, data: bytes | memoryview, offset: int) -> tuple[bytes, int]:
        return _take(data, offset, self.max_size), offset + self.max_size

    def encode(self, value: bytes) -> bytes:
        return value


class VarBytes(_Octets):
    """Bytes after their number (a varint), at most `longest`."""

    type_name = "varint length, bytes"

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.length = Varint(0, longest)
        self.max_size = self.length.max_size + longest

    def read(self, data: bytes | memoryview, offset: int) -> tuple[bytes, int]:
        count, start = self.length.read(data, offset)
        return _take(data, start, count), start + count

    def encode(self, value: bytes) -> bytes:
        return self.length.encode(len(value)) + value


class Rest(_Octets):
    """All bytes up to the end of the record, at most `longest`; the last field of one."""

    type_name = "bytes, to the end"

    def __init__(self, longest: int) -> None:
        self.longest = self.max_size = longest

    def read(self, data: bytes | memoryview, offset: int) -> tuple[bytes, int]:
        octets = bytes(data[offset:])
        if len(octets) > self.longest:
            raise FormatError(f"has {len(octets)} bytes, expected {self.range_text()}", offset=offset)
        return octets, offset + len(octets)

    def encode(self, value: bytes) -> bytes:
        return value


class Token(Field):
    """A short name after its length (one byte): ASCII letters a-z, digits and the hyphen."""

    type_name = "u8 length, ASCII"

    def __init__(self, shortest: int = 1, longest: int = 16) -> None:
        self.length = U8(shortest, longest)
        self.max_size = 1 + longest

    def read(self, data: bytes | memoryview, offset: int) -> tuple[str, int]:
        count, start = self.length.read(data, offset)
        octets = _take(data, start, count)
        if not TOKEN_LETTERS.issuperset(octets):
            raise FormatError(f"is {octets!r}, expected {self.range_text()}", offset=start)
        return octets.decode("ascii"), start + count

    def check(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise UsageTypeError(f"{name} must be text, got {type(value).__name__}", name)
        octets = value.encode("utf-8", "surrogatepass")
        if not (self.length.lo <= len(octets) <= self.length.hi and TOKEN_LETTERS.issuperset(octets)):
            raise UsageValueError(f"{name} must be {self.range_text()}, got {value[:40]!r}", name)
        return value

    def encode(self, value: str) -> bytes:
        return self.length.encode(len(value)) + value.encode("ascii")

    def range_text(self) -> str:
        return f"{self.length.range_text()} of a-z 0-9 -"


class Table:
    """A record: rows of (name, field, meaning), stored one after the other without padding.

    name: says in errors which record it is.
    """

    def __init__(self, name: str, fields: Sequence[tuple[str, Field, str]]) -> None:
        self.name = name
        self.rows = tuple(fields)
        self.names = tuple(row[0] for row in self.rows)
        self.max_size = sum(field.max_size for _, field, _ in self.rows)

    def read(
        self, data: bytes | memoryview, offset: int = 0, *, where: str, base: int = 0
    ) -> tuple[dict[str, Any], int]:
        """The values of the record at `data[offset:]`, and the offset after it.

        where: chunk type, for errors. base: place of data[0] in the file, for errors.
        Raises FormatError, or UnsupportedError for values that a later version may define.
        """
        values: dict[str, Any] = {}
        for name, field, _ in self.rows:
            try:
                values[name], offset = field.read(data, offset)
            except FormatError as error:
                place = base + (offset if error.offset is None else error.offset)
                reason = f"{self.name} field {name} {error.reason}"
                raise FormatError(reason, offset=place, chunk=where) from None
            except UnsupportedError as error:
                raise UnsupportedError(
                    f"{self.name} field {name} {error} (chunk {where}, at byte {base + offset}); "
                    "a newer version of licodec may read this file"
                ) from None
        return values, offset

    def read_whole(self, data: bytes | memoryview, *, where: str, base: int = 0) -> dict[str, Any]:
        """As `read`, for data that holds the record and nothing else."""
        values, end = self.read(data, where=where, base=base)
        if end != len(data):
            reason = f"{self.name} has {len(data) - end} bytes too many"
            raise FormatError(reason, offset=base + end, chunk=where)
        return values

    def write(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a record; every field must be given, and nothing else."""
        if wrong := set(values) ^ set(self.names):
            names = ", ".join(sorted(wrong))
            fields = ", ".join(self.names)
            raise UsageValueError(f"{self.name} has the fields {fields}; missing or unknown: {names}", names)
        return b"".join(field.write(values[name], name) for name, field, _ in self.rows)

    def markdown(self) -> str:
        """The table as SPEC.md prints it."""
        lines = ["| field | type | values | meaning |", "|---|---|---|---|"]
        for name, field, meaning in self.rows:
            lines.append(f"| {name} | {field.type_name} | {field.range_text()} | {meaning} |")
        return "\n".join(lines)

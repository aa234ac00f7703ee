"""Fields: every value survives, every other one is refused, and reading is total."""

from __future__ import annotations

import io
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic_format.errors import FormatError, UnsupportedError, UsageError, UsageTypeError, UsageValueError
from lic_format.fields import (
    U8,
    U16,
    U32,
    Bytes,
    EnumU8,
    Field,
    FlagsU8,
    Rest,
    Table,
    Token,
    VarBytes,
    Varint,
    read_varint,
    write_varint,
)
from tests.format.strategies import values_of


class Fruit(IntEnum):
    APPLE = 1
    BLUE_BERRY = 7


class Bits(IntFlag):
    LOW = 1
    HIGH = 128


FIELDS: list[Field] = [
    U8(),
    U8(1, 8),
    U16(),
    U16(3, 1000),
    U32(),
    Varint(),
    Varint(1, 1 << 24),
    Varint(5, 5),
    Bytes(1),
    Bytes(16),
    VarBytes(0),
    VarBytes(300),
    Token(),
    Token(0, 3),
    EnumU8(Fruit),
    EnumU8({0: "none", 255: "all"}),
    FlagsU8(Bits),
]
fields = pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.type_name} {field.range_text()}")


def test_the_rest_of_a_record_is_all_that_is_left_of_it() -> None:
    table = Table("T", (("a", U8(), ""), ("rest", Rest(3), "")))
    assert "| rest | bytes, to the end | 0..3 bytes |" in table.markdown()
    for rest in (b"", b"x", b"xyz"):
        octets = table.write({"a": 7, "rest": rest})
        assert len(octets) == 1 + len(rest) <= table.max_size
        assert table.read_whole(octets, where="TEST") == {"a": 7, "rest": rest}
        assert table.read_whole(memoryview(octets), where="TEST")["rest"] == rest
    with pytest.raises(FormatError, match=r"rest has 4 bytes, expected 0\.\.3"):
        table.read_whole(b"\x07wxyz", where="TEST")


@fields
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_value_survives_writing_and_reading(field: Field, data: st.DataObject) -> None:
    value = data.draw(values_of(field))
    octets = field.write(value)
    assert len(octets) <= field.max_size
    assert field.read(b"??" + octets + b"??", 2) == (value, 2 + len(octets))


@fields
@given(octets=st.binary(max_size=20))
@settings(max_examples=60, deadline=None)
def test_reading_is_total_and_what_is_read_is_canonical(field: Field, octets: bytes) -> None:
    try:
        value, end = field.read(octets, 0)
    except (FormatError, UnsupportedError):
        return
    assert field.write(value) == octets[:end]


@fields
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_value_cut_short_is_refused_at_every_byte(field: Field, data: st.DataObject) -> None:
    octets = field.write(data.draw(values_of(field)))
    for count in {0, 1, 2, 3, len(octets) // 2, len(octets) - 1} & set(range(len(octets))):
        with pytest.raises((FormatError, UnsupportedError)):
            field.read(octets[:count], 0)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, (1 << 21) - 1, 1 << 21, (1 << 32) - 1])
def test_varint_is_the_minimal_leb128(value: int) -> None:
    octets = write_varint(value)
    assert len(octets) == max(1, -(-value.bit_length() // 7))
    assert read_varint(octets, 0) == (value, len(octets))


@pytest.mark.parametrize(
    "octets", [b"\x80\x00", b"\xff\x80\x00", b"\x80\x80\x80\x80\x00", b"\x81\x80\x80\x00"]
)
def test_varint_with_an_idle_byte_is_refused(octets: bytes) -> None:
    with pytest.raises(FormatError, match="not minimal"):
        read_varint(octets, 0)


def test_varint_beyond_its_bounds_is_refused() -> None:
    with pytest.raises(FormatError, match="longer than 5"):
        read_varint(b"\x80\x80\x80\x80\x80\x01", 0)
    with pytest.raises(FormatError, match=r"expected 0\.\.4294967295"):
        Varint().read(write_varint(1 << 32), 0)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (U8(1, 8), 0, UsageValueError),
        (U8(1, 8), 9, UsageValueError),
        (U8(), True, UsageTypeError),
        (U8(), 1.0, UsageTypeError),
        (U8(), "1", UsageTypeError),
        (U8(), None, UsageTypeError),
        (Varint(0, 5), -1, UsageValueError),
        (Bytes(2), b"abc", UsageValueError),
        (Bytes(2), "ab", UsageTypeError),
        (VarBytes(2), b"abc", UsageValueError),
        (Rest(2), b"abc", UsageValueError),
        (Token(), "", UsageValueError),
        (Token(), "a" * 17, UsageValueError),
        (Token(), "Upper", UsageValueError),
        (Token(), "é", UsageValueError),
        (Token(), "\ud800", UsageValueError),
        (Token(), b"abc", UsageTypeError),
        (EnumU8(Fruit), 2, UsageValueError),
        (FlagsU8(Bits), 2, UsageValueError),
    ],
)
def test_writing_a_value_that_does_not_fit_names_the_field(
    field: Field, value: Any, error: type[UsageError]
) -> None:
    with pytest.raises(error, match="the-name") as caught:
        field.write(value, "the-name")
    assert caught.value.argument == "the-name"


def test_numpy_integers_are_integers() -> None:
    assert U16().write(np.uint8(7)) == b"\x07\x00"


def test_unlisted_values_are_newer_not_broken() -> None:
    for field, octets in ((EnumU8(Fruit), b"\x02"), (FlagsU8(Bits), b"\x02")):
        with pytest.raises(UnsupportedError):
            field.read(octets, 0)


PAIR = Table("PAIR", (("first", U8(1, 3), "one to three"), ("second", Token(0, 4), "a word")))


def test_a_table_says_which_field_is_wrong_and_where() -> None:
    with pytest.raises(
        FormatError, match=r"PAIR field first is 4, expected 1\.\.3 \(chunk ABCD, at byte 102\)"
    ) as caught:
        PAIR.read(b"??\x04\x00", 2, where="ABCD", base=100)
    assert (caught.value.offset, caught.value.chunk) == (102, "ABCD")


def test_a_whole_record_has_nothing_behind_it() -> None:
    assert PAIR.read_whole(b"\x01\x02ab", where="ABCD") == {"first": 1, "second": "ab"}
    with pytest.raises(FormatError, match="1 bytes too many"):
        PAIR.read_whole(b"\x01\x02abc", where="ABCD")


@pytest.mark.parametrize("values", [{}, {"first": 1}, {"first": 1, "second": "", "third": 0}])
def test_a_record_is_written_with_all_its_fields_and_no_others(values: dict[str, Any]) -> None:
    with pytest.raises(UsageValueError, match="fields first, second"):
        PAIR.write(values)


def test_the_printed_table_says_what_the_declaration_says() -> None:
    assert PAIR.markdown().splitlines() == [
        "| field | type | values | meaning |",
        "|---|---|---|---|",
        "| first | u8 | 1..3 | one to three |",
        "| second | u8 length, ASCII | 0..4 of a-z 0-9 - | a word |",
    ]


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_any_kind_of_buffer_is_read(wrap: Callable[[bytes], Any]) -> None:
    assert PAIR.read(wrap(b"\x01\x02ab"), where="ABCD") == ({"first": 1, "second": "ab"}, 4)
    assert io.BytesIO(PAIR.write({"first": 1, "second": "ab"})).read() == b"\x01\x02ab"

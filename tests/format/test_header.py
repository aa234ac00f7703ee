"""HEAD: every field over its range, and what each refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings

from lic_format import (
    HEAD,
    Colour,
    Depth,
    Flag,
    FormatError,
    Head,
    Order,
    UnsupportedError,
    UsageError,
    UsageValueError,
)
from lic_format.header import read_header, write_header
from tests.format import corpus
from tests.format.strategies import head_values


@given(values=head_values)
@settings(max_examples=300, deadline=None)
def test_every_field_survives_over_its_range(values: dict[str, Any]) -> None:
    head = Head(**values)
    assert read_header(write_header(head)) == head


def test_the_record_has_the_fields_of_the_table() -> None:
    assert {field.name for field in dataclasses.fields(Head)} == set(HEAD.names)


def test_enumerations_come_back_as_their_members() -> None:
    head = read_header(write_header(corpus.head(depth=16, flags=2)))
    assert (head.colour, head.depth, head.order) == (Colour.RGB, Depth.BITS_16, Order.CHECKERBOARD)
    assert isinstance(head.order, Order)
    assert isinstance(head.flags, Flag)
    assert (head.alpha, head.lossless, head.colour.planes, Colour.GREY.planes) == (False, True, 3, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("width", 0),
        ("width", (1 << 24) + 1),
        ("height", 1 << 31),
        ("height", -1),
        ("colour", 2),
        ("depth", 10),
        ("flags", 4),
        ("rate", 256),
        ("rate", "fast"),
        ("order", 3),
        ("orientation", 0),
        ("orientation", 9),
        ("codec", ""),
        ("codec", "FHIC"),
        ("codec", "x" * 17),
        ("tag", "s_1"),
        ("tag", None),
        ("decode_digest", bytes(15)),
        ("synthesis_digest", "00" * 8),
        ("side_info", bytes(4097)),
    ],
)
def test_writing_refuses_a_value_out_of_range_and_names_its_field(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        write_header(corpus.head(**{name: value}))
    assert caught.value.argument == name


def _stored(name: str, octets: bytes) -> bytes:
    """HEAD's payload with the bytes of one field replaced."""
    head = corpus.head()
    return b"".join(octets if row == name else field.write(getattr(head, row)) for row, field, _ in HEAD.rows)


@pytest.mark.parametrize(
    ("name", "octets"),
    [("version", b"\x02"), ("colour", b"\x02"), ("depth", b"\x0a"), ("flags", b"\x80"), ("order", b"\x03")],
)
def test_reserved_values_read_as_newer(name: str, octets: bytes) -> None:
    with pytest.raises(UnsupportedError, match=name):
        read_header(_stored(name, octets))


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("width", b"\x00"),
        ("width", b"\x81\x80\x80\x08"),
        ("height", b"\x80\x80\x80\x80\x08"),  # 2^31
        ("height", b"\x81\x00"),
        ("orientation", b"\x00"),
        ("orientation", b"\x09"),
        ("codec", b"\x00"),
        ("codec", b"\x04FHIC"),
        ("tag", b"\x11" + b"a" * 17),
        ("side_info", b"\x81\x20" + bytes(4097)),
        ("side_info", b"\x03\x00"),
        ("side_info", b"\x00\x00"),
    ],
)
def test_values_that_break_a_rule_read_as_broken(name: str, octets: bytes) -> None:
    with pytest.raises(FormatError):
        read_header(_stored(name, octets))


def test_a_head_of_a_later_version_is_newer_whatever_follows() -> None:
    with pytest.raises(UnsupportedError, match="version"):
        read_header(b"\x02" + b"\xff" * 9000)


def test_without_a_tag_there_are_no_digests() -> None:
    with pytest.raises(UsageValueError, match="tag is empty"):
        write_header(corpus.head(tag=""))
    with pytest.raises(FormatError, match="tag is empty"):
        read_header(_stored("tag", b"\x00"))

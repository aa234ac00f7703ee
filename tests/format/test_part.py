"""Files read in part: what `read` gives of the units that are wanted, and the same refusals."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from lic_format import FormatError, Head, LicFile, Unit, read, read_part, write
from tests.format import corpus

UNITS = (
    Unit(2, b"one", b"first"),
    Unit(1, b"", b"second" * 200),
    Unit(2, b"x" * 300, b""),
    Unit(2, b"", b"4"),
)


@pytest.fixture(scope="module")
def file() -> LicFile:
    return replace(corpus.plain(), units=UNITS)


@pytest.mark.parametrize("wanted", [(), (0,), (1, 3), (3,), (0, 1, 2, 3), (7,)])
def test_wanted_units_come_with_their_numbers_and_all_are_counted(
    file: LicFile, wanted: tuple[int, ...]
) -> None:
    data = write(file)
    for source in (data, memoryview(data), io.BytesIO(data)):
        part = read_part(source, lambda head: wanted)
        assert (part.head, part.metadata, part.count) == (file.head, file.metadata, 4)
        assert part.units == tuple((number, UNITS[number]) for number in wanted if number < 4)
        assert (
            part.payload_bytes
            == read(data).payload_bytes
            == sum(
                1 + (1 if len(unit.side_info) < 128 else 2) + len(unit.side_info) + len(unit.body)
                for unit in UNITS
            )
        )


def test_what_asks_for_units_sees_the_head_and_may_refuse_it(file: LicFile) -> None:
    def refuse(head: Head) -> tuple[int, ...]:
        raise KeyError(head.width)

    with pytest.raises(KeyError, match=str(file.head.width)):
        read_part(write(file), refuse)


@pytest.mark.parametrize("wanted", [(), (1,), (3,)])
def test_a_file_cut_at_any_byte_is_incomplete_as_for_the_whole_reader(
    file: LicFile, wanted: tuple[int, ...]
) -> None:
    data = write(file)
    for length in range(len(data)):
        for source in (data[:length], io.BytesIO(data[:length])):
            with pytest.raises(FormatError) as caught:
                read_part(source, lambda head: wanted)
            assert caught.value.incomplete


def test_damage_is_seen_in_what_is_read(file: LicFile) -> None:
    data = bytearray(write(file))
    data[data.index(b"first")] ^= 1
    assert read_part(bytes(data), lambda head: (1,)).units == ((1, UNITS[1]),)
    with pytest.raises(FormatError, match="CRC"):
        read_part(bytes(data), lambda head: (0, 1))
    with pytest.raises(FormatError, match="3 bytes follow the end"):
        read_part(io.BytesIO(write(file) + b"end"), lambda head: ())

"""Files: what was written is what is read, whole, header only, from a stream, or in part."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings

import lic_format
from lic_format import (
    Chunk,
    Flag,
    FormatError,
    LicFile,
    Unit,
    UnsupportedError,
    UsageError,
    UsageTypeError,
    UsageValueError,
    join_ans_body,
    read,
    read_head,
    read_stream,
    split_ans_body,
    write,
)
from lic_format.limits import check_density
from tests.format import corpus
from tests.format.strategies import files, sealed_bodies


@given(file=files())
@settings(max_examples=150, deadline=None)
def test_a_file_survives_writing_and_reading(file: LicFile) -> None:
    data = write(file)
    again = read(data)
    assert (again.head, again.units, again.complete, again.fault) == (file.head, file.units, True, None)
    assert sorted(again.metadata, key=repr) == sorted(file.metadata, key=repr)
    assert write(again) == data
    assert read_stream(io.BytesIO(data)) == again
    types = [chunk.type for chunk in again.metadata]
    stop = types.index("ALPH") if "ALPH" in types else len(types)
    assert read_head(data) == read_head(io.BytesIO(data)) == (again.head, again.metadata[:stop])


def test_metadata_are_put_in_order_and_unknown_chunks_keep_their_places() -> None:
    file = corpus.rich()
    shuffled = dataclasses.replace(file, metadata=tuple(reversed(file.metadata)))
    order = [chunk.type for chunk in read(write(shuffled)).metadata]
    assert order == ["iccp", "aLPH", "exif", "xmpd", "dpix", "prev", "zzzz", "ALPH"]


def test_a_plain_photograph_pays_at_most_100_bytes_for_the_container() -> None:
    words = (b"\x01" * 4) * 10_000
    head = corpus.head(width=1 << 14, height=1 << 14, tag="checkers")  # eight characters
    size = len(write(LicFile(head, units=(Unit(0, b"", join_ans_body(b"", words)),))))
    seal = 5  # 33 bits of the words
    assert size - len(words) + seal <= 100


def test_the_first_chunk_lies_in_the_first_64_bytes() -> None:
    data = write(corpus.plain())
    assert len(corpus.SIGNATURE) + len(corpus.frame(*corpus.pieces(data)[0])) <= 64


@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, np.frombuffer], ids=lambda kind: kind.__name__
)
def test_any_contiguous_buffer_is_read(wrap: Any) -> None:
    data = write(corpus.rich())
    buffer: Any = wrap(data, np.uint8) if wrap is np.frombuffer else wrap(data)
    assert read(buffer).units == corpus.rich().units
    assert read_head(buffer)[0] == corpus.rich().head


@pytest.mark.parametrize("data", [None, 3, "text", 1.5, memoryview(b"abcdef")[::2]], ids=str)
def test_what_is_no_buffer_is_a_usage_error(data: Any) -> None:
    with pytest.raises(UsageTypeError):
        read(data)
    with pytest.raises(UsageTypeError):
        read_head(data)


def test_a_text_file_object_is_a_usage_error() -> None:
    with pytest.raises(UsageTypeError, match="binary mode"):
        read_stream(cast(BinaryIO, io.StringIO("text")))


# --- header only --------------------------------------------------------------------------------------------


class Watched(io.BytesIO):
    """Counts what was read, gives at most `most` bytes a call, and cannot be sought."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        super().__init__(data)
        self.most, self.taken = most, 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        piece = super().read(min(size, self.most))
        self.taken += len(piece)
        return piece

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")


def test_opening_reads_the_header_and_nothing_of_the_picture() -> None:
    head, unit = corpus.plain().head, Unit(2, b"", bytes(1 << 20))
    data = write(LicFile(head, units=(unit,)))
    stream = Watched(data)
    assert read_head(stream)[0] == head
    assert stream.taken == data.index(b"DATA") + 4


@pytest.mark.parametrize("most", [1, 7, 100])
def test_streams_that_give_little_at_a_time_are_read(most: int) -> None:
    data = write(corpus.rich())
    assert read_stream(Watched(data, most)) == read(data)
    assert read_head(Watched(data, most)) == read_head(data)


def test_files_can_stand_one_after_the_other_in_a_stream() -> None:
    stream = io.BytesIO(write(corpus.plain()) + write(corpus.rich()) + b"and more")
    assert read_stream(stream).head == corpus.plain().head
    assert read_stream(stream).head == corpus.rich().head
    assert stream.read() == b"and more"


def test_a_header_that_is_still_arriving_is_told_from_a_broken_one() -> None:
    data = write(corpus.rich())
    enough = data.index(b"ALPH") + 4  # which may be long
    for count in range(len(data)):
        if count >= enough:
            assert read_head(data[:count])[0].width == 300
            continue
        with pytest.raises(FormatError) as caught:
            read_head(data[:count])
        assert caught.value.incomplete, count
    for broken in (
        b"\x89PNG\r\n\x1a\n",
        b"GIF",
        b"\x89LIC\r\n\x1a\x0b",
        corpus.SIGNATURE + b"DATA",
        data[:8] + b"HEA\0",
    ):
        with pytest.raises(FormatError) as caught:
            read_head(broken)
        assert not caught.value.incomplete, broken


# --- in part ------------------------------------------------------------------------------------------------


def test_a_partial_read_gives_what_stood_complete_before_the_fault() -> None:
    data = write(corpus.rich())
    whole = read(data)
    sizes = set()
    for count in range(len(data)):
        try:
            part = read(data[:count], partial=True)
        except FormatError as error:
            assert error.incomplete
            continue
        assert not part.complete
        assert part.fault is not None and part.fault.incomplete
        assert part.metadata == whole.metadata[: len(part.metadata)]
        assert part.units == whole.units[: len(part.units)]
        sizes.add((len(part.metadata), len(part.units)))
    # The file ends with DONE: all three units are there before it is.
    assert {count for _, count in sizes} == {0, 1, 2, 3}
    assert {count for count, _ in sizes} == set(range(len(whole.metadata) + 1))


def test_a_partial_read_of_a_sound_file_is_complete() -> None:
    assert read(write(corpus.plain()), partial=True) == corpus.plain()


def test_a_partial_read_keeps_what_precedes_damage_and_says_where_it_is() -> None:
    data = bytearray(write(corpus.rich()))
    at = data.index(b"lanes")
    data[at] ^= 1
    part = read(data, partial=True)
    assert [unit.kind for unit in part.units] == [0]
    assert part.fault is not None
    assert (part.fault.chunk, part.fault.incomplete) == ("DATA", False)
    with pytest.raises(FormatError, match="damaged"):
        read(data)


def test_a_partial_read_does_not_hide_that_a_file_is_newer() -> None:
    chunks = corpus.pieces(write(corpus.plain()))
    with pytest.raises(UnsupportedError, match="ZZZZ"):
        read(corpus.join([chunks[0], ("ZZZZ", b""), *chunks[1:]]), partial=True)


def test_a_partial_file_is_not_written_as_if_it_were_whole() -> None:
    part = read(write(corpus.plain())[:-1], partial=True)
    with pytest.raises(UsageValueError, match="complete"):
        write(part)


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"units": ()},
        {"units": (Unit(3, b"", b""),)},
        {"units": (Unit(0, b"", b""),)},
        {"units": (Unit(0, b"", b"\x00" + bytes(8)),)},
        {"units": (Unit(2, b"", "text"),)},  # type: ignore[arg-type]
        {"units": (Unit(2, bytes(65536), b""),)},
        {"units": (corpus.SEALED,) * 1037},  # 1024 + 12 for 768 x 512
        {"metadata": (Chunk("ABCD", b""),)},
        {"metadata": (Chunk("HEAD", b""),)},
        {"metadata": (Chunk("DATA", b"\x02\x00"),)},
        {"metadata": (Chunk("ab1d", b""),)},
        {"metadata": (Chunk("", b""),)},
        {"metadata": (Chunk("äbcd", b""),)},
        {"metadata": (Chunk("exif", b"\x00a"), Chunk("exif", b"\x00a"))},
        {"metadata": (Chunk("exif", b""),)},
        {"metadata": (Chunk("dpix", bytes(8)),)},
        {"metadata": (Chunk("ALPH", b"\x00"),)},  # without the flag
        {"metadata": (Chunk("abcd", b""),) * 65},
        {"metadata": (Chunk("abcd", bytes((1 << 24) + 1)),)},
        {"metadata": (Chunk("abcd", "text"),)},  # type: ignore[arg-type]
        {"head": corpus.head(flags=Flag.ALPHA)},  # without the chunk
    ],
    ids=str,
)
def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        write(dataclasses.replace(corpus.plain(), **changes))


def test_only_a_file_is_written() -> None:
    with pytest.raises(UsageTypeError, match="LicFile"):
        write(cast(LicFile, b"bytes"))


def test_as_many_units_as_the_picture_has_room_for_are_taken() -> None:
    file = dataclasses.replace(corpus.plain(), units=(corpus.SEALED,) * 1036)
    assert len(read(write(file)).units) == 1036


@given(body=sealed_bodies)
@settings(max_examples=50, deadline=None)
def test_a_sealed_body_splits_into_what_it_was_joined_from(body: bytes) -> None:
    escapes, words = split_ans_body(body)
    assert join_ans_body(escapes, words) == body
    assert len(words) % 4 == 0


@pytest.mark.parametrize(
    "words", [b"", b"\x01" * 4, b"\x01" * 9, bytes(8)], ids=["none", "one", "odd", "zero"]
)
def test_a_sealed_body_needs_two_words_and_the_last_not_zero(words: bytes) -> None:
    with pytest.raises(UsageValueError):
        join_ans_body(b"", words)
    with pytest.raises(FormatError):
        split_ans_body(b"\x00" + words)


# --- limits -------------------------------------------------------------------------------------------------


def _claims(width: int, height: int) -> bytes:
    return write(LicFile(corpus.head(width=width, height=height), units=(corpus.SEALED,)))


def test_a_picture_beyond_the_pixel_limit_is_refused_with_the_way_to_raise_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = _claims((1 << 14) + 1, 1 << 14)
    for reading in (read, read_head):
        with pytest.raises(UnsupportedError, match="LICODEC_MAX_PIXELS"):
            reading(data)
    assert read(data, max_pixels=1 << 29).head.width == (1 << 14) + 1
    monkeypatch.setenv("LICODEC_MAX_PIXELS", str(1 << 29))
    assert read(data).head.width == (1 << 14) + 1
    with pytest.raises(UnsupportedError):
        read(_claims(11, 10), max_pixels=109)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "many"])
def test_a_pixel_limit_is_a_positive_integer(limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageValueError, match="max_pixels"):
        read(write(corpus.plain()), max_pixels=limit)
    monkeypatch.setenv("LICODEC_MAX_PIXELS", str(limit))
    with pytest.raises(UsageValueError, match="LICODEC_MAX_PIXELS"):
        read(write(corpus.plain()))


def test_a_hundred_bytes_cannot_ask_for_a_hundred_million_pixels() -> None:
    file = read(_claims(1 << 14, 1 << 13))
    with pytest.raises(UnsupportedError, match="max_pixels_per_byte"):
        check_density(file.head.width, file.head.height, file.payload_bytes)
    check_density(file.head.width, file.head.height, file.payload_bytes, max_pixels_per_byte=1 << 27)
    check_density(768, 512, file.payload_bytes)


# --- records ------------------------------------------------------------------------------------------------


def test_records_are_values() -> None:
    file = corpus.rich()
    assert pickle.loads(pickle.dumps(file)) == file
    assert hash(corpus.plain()) == hash(corpus.plain())
    assert corpus.plain() != corpus.rich()
    assert dataclasses.replace(file.head, rate=3).rate == 3
    assert dataclasses.asdict(file)["head"]["codec"] == "fhic"
    assert file.find("dpix") == lic_format.pack_resolution(11811, 11811)
    assert file.find("none") is None
    assert "<1000 bytes>" in repr(Unit(2, b"", bytes(1000)))


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        corpus.head().rate = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del corpus.head().rate


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((0,), {}),
        ((0, b"", b"", b""), {}),
        ((0, b""), {"body": b"", "kind": 1}),
        ((0, b"", b""), {"other": 1}),
    ],
)
def test_records_take_their_fields_and_no_others(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Unit(*values, **named)


def test_errors_survive_being_sent_to_another_process() -> None:
    error = FormatError("what", offset=3, chunk="DATA", incomplete=True)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.offset, again.chunk, again.incomplete) == (str(error), 3, "DATA", True)
    usage = pickle.loads(pickle.dumps(UsageValueError("what", "quality")))
    assert (str(usage), usage.argument) == ("what", "quality")

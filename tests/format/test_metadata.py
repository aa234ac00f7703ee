"""Metadata: content comes back as given, small where it can be, and bounded whatever a file says."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings

from lic_format import (
    Chunk,
    FormatError,
    UnsupportedError,
    UsageError,
    pack_metadata,
    pack_resolution,
    unpack_metadata,
    unpack_resolution,
)
from lic_format.limits import MAX_METADATA
from tests import memory
from tests.format.strategies import content


@given(body=content)
@settings(max_examples=100, deadline=None)
def test_content_comes_back_as_given_and_never_costs_more_than_a_byte(body: bytes) -> None:
    chunk = pack_metadata("xmpd", body)
    assert unpack_metadata(chunk) == body
    assert len(chunk.payload) <= len(body) + 1


def test_compressible_content_is_compressed_and_other_content_is_not() -> None:
    assert len(pack_metadata("exif", bytes(10_000)).payload) < 100
    assert pack_metadata("exif", b"MM\0*").payload == b"\x00MM\0*"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x01",
        b"\x01no zlib",
        b"\x01" + zlib.compress(bytes(100))[:-1],
        b"\x01" + zlib.compress(bytes(100)) + b"\x00",
        b"\x01" + zlib.compress(b"ab"),  # stored, it would be smaller
        b"\x01" + zlib.compress(bytes(MAX_METADATA + 1)),
    ],
    ids=["empty", "other", "cut", "longer", "pointless", "bomb"],
)
def test_bodies_that_are_not_one_sensible_zlib_stream_are_refused(payload: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        unpack_metadata(Chunk("iccp", payload))
    assert caught.value.chunk == "iccp"


def test_a_zip_bomb_is_cut_off_at_the_limit() -> None:
    bomb = Chunk("iccp", b"\x01" + zlib.compress(bytes(64 << 20), 9))
    with memory.bounded(2.5 * MAX_METADATA), pytest.raises(FormatError, match="inflates to more"):
        unpack_metadata(bomb)


def test_an_unknown_method_is_newer() -> None:
    with pytest.raises(UnsupportedError):
        unpack_metadata(Chunk("exif", b"\x02abc"))


def test_the_largest_content_is_taken_and_a_byte_more_is_not() -> None:
    largest = random.Random(1).randbytes(1 << 10) * (MAX_METADATA >> 10)
    assert unpack_metadata(pack_metadata("exif", largest)) == largest
    with pytest.raises(UsageError, match="content"):
        pack_metadata("exif", largest + b"\0")


def test_resolution_comes_back_as_given() -> None:
    assert unpack_resolution(pack_resolution(11811, 2**32 - 1)) == (11811, 2**32 - 1)


@pytest.mark.parametrize("wrong", [("iccp", b""), ("dpix", b"abc"), ("exif", "text"), ("nope", b"abc")])
def test_wrong_arguments_are_usage_errors(wrong: tuple[str, bytes]) -> None:
    with pytest.raises(UsageError):
        pack_metadata(*wrong)


def test_resolution_has_two_positive_numbers() -> None:
    with pytest.raises(UsageError, match="x"):
        pack_resolution(0, 1)
    with pytest.raises(FormatError):
        unpack_resolution(Chunk("dpix", bytes(8)))
    with pytest.raises(FormatError):
        unpack_resolution(Chunk("dpix", b"\x01" * 9))
    with pytest.raises(UsageError):
        unpack_resolution(Chunk("exif", b"\x01" * 8))
    with pytest.raises(UsageError):
        unpack_metadata(Chunk("dpix", b"\x01" * 8))

"""The alpha plane: coded without loss, read by a second reader, cheap where it is flat; hidden colours."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lic_format.chunks import write_chunk
from lic_format.errors import FormatError, UnsupportedError
from lic_format.metadata import Chunk
from licodec.alpha import decode, encode, without_hidden
from tests import memory

Plane = npt.NDArray[Any]
SIDES = st.integers(1, 40)
WALKS = np.random.default_rng(1).integers(-1, 2, (90, 256)).cumsum(1).astype(np.uint8)
"""Neighbours in a row are alike, rows are not."""


def read_alph(payload: bytes, height: int, width: int, depth: int) -> list[list[int]]:
    """ALPH as SPEC.md has it, sample by sample."""
    size, top = depth // 8, 2**depth
    method, body = payload[0], payload[1:]
    if method == 0:
        assert len(body) == size
        return [[int.from_bytes(body, "big")] * width for _ in range(height)]
    assert method == 1
    predictor, data = body[0], zlib.decompress(body[1:])
    assert len(data) == height * width * size
    count = height * width
    d = list(data) if size == 1 else [256 * data[i] + data[count + i] for i in range(count)]
    s = [[0] * width for _ in range(height)]

    def at(y: int, x: int) -> int:
        return s[y][x] if y >= 0 and x >= 0 else 0

    for y in range(height):
        for x in range(width):
            left, above, corner = at(y, x - 1), at(y - 1, x), at(y - 1, x - 1)
            predicted = (0, left, above, left + above - corner)[predictor]
            s[y][x] = (d[y * width + x] + predicted) % top
    return s


def planes(dtype: type) -> st.SearchStrategy[Plane]:
    """Noise, and planes with few values, as alpha is."""
    shapes = st.tuples(SIDES, SIDES)
    few = st.sampled_from([0, 1, 128, np.iinfo(dtype).max])
    return hnp.arrays(dtype, shapes) | hnp.arrays(dtype, shapes, elements=few)


@settings(max_examples=60, deadline=None)
@given(plane=planes(np.uint8) | planes(np.uint16))
def test_planes_come_back_exactly_and_as_the_specification_reads_them(plane: Plane) -> None:
    chunk, depth = encode(plane), 8 * plane.itemsize
    back = decode(chunk, plane.shape, depth)
    assert back.dtype == plane.dtype and back.flags.writeable
    np.testing.assert_array_equal(back, plane)
    assert read_alph(chunk.payload, plane.shape[0], plane.shape[1], depth) == plane.tolist()


@pytest.mark.parametrize(
    ("plane", "predictor"),
    [
        (np.indices((200, 256)).sum(0).astype(np.uint8), 3),
        (WALKS.T.copy(), 2),
        (WALKS, 1),
        (np.random.default_rng(1).choice([7, 90, 200], (90, 90)).astype(np.uint8), 0),
    ],
    ids=["plane", "above", "left", "zero"],
)
def test_the_predictor_that_suits_is_chosen(plane: Plane, predictor: int) -> None:
    assert encode(plane).payload[:2] == bytes([1, predictor])
    np.testing.assert_array_equal(decode(encode(plane), plane.shape, 8), plane)


@pytest.mark.parametrize(("value", "dtype"), [(0, np.uint8), (255, np.uint8), (300, np.uint16)])
def test_a_constant_plane_costs_next_to_nothing(value: int, dtype: type) -> None:
    chunk = encode(np.full((3000, 4000), value, dtype))
    assert len(write_chunk("ALPH", chunk.payload)) == 10 + np.dtype(dtype).itemsize
    assert (decode(chunk, (5, 7), 8 * np.dtype(dtype).itemsize) == value).all()


def test_a_soft_cut_out_costs_no_more_than_in_a_png() -> None:
    image = PIL.Image.new("L", (3072, 2048))
    PIL.ImageDraw.Draw(image).ellipse((300, 200, 2700, 1900), fill=255)
    image = image.resize((768, 512), PIL.Image.Resampling.BOX)
    sink = io.BytesIO()
    image.save(sink, "PNG", optimize=True)
    assert len(encode(np.asarray(image)).payload) <= sink.tell()


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"\x00", "constant of 0 bytes"),
        (b"\x00\x01\x02", "constant of 2 bytes"),
        (b"\x01", "predictor"),
        (b"\x01\x00", "holds 0"),
        (b"\x01\x00noise", "no zlib stream"),
        (b"\x01\x00" + zlib.compress(bytes(19)), "holds 19"),
        (b"\x01\x00" + zlib.compress(bytes(21)), "holds more"),
        (b"\x01\x00" + zlib.compress(bytes(1 << 26)), "holds more"),
        (b"\x01\x00" + zlib.compress(bytes(20))[:-1], "must end with the chunk"),
        (b"\x01\x00" + zlib.compress(bytes(20)) + b"!", "must end with the chunk"),
    ],
)
def test_a_payload_that_is_no_plane_is_refused(payload: bytes, found: str) -> None:
    with memory.bounded(1 << 18), pytest.raises(FormatError, match=found) as caught:
        decode(Chunk("ALPH", payload), (4, 5), 8)
    assert caught.value.chunk == "ALPH"


@pytest.mark.parametrize("payload", [b"\x02", b"\x01\x04", b"\xff" * 9])
def test_a_method_of_a_later_version_is_called_newer(payload: bytes) -> None:
    with pytest.raises(UnsupportedError, match="newer"):
        decode(Chunk("ALPH", payload), (4, 5), 8)


@settings(max_examples=60, deadline=None)
@given(
    alpha=hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.sampled_from([0, 0, 0, 7, 255])),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_hidden_colours_leave_no_trace_and_seen_ones_stay(alpha: Plane, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, 256, (*alpha.shape, channels), dtype=np.uint8)
    other = np.where((alpha > 0)[..., None], seen, rng.integers(0, 256, seen.shape, dtype=np.uint8))
    filled = without_hidden(seen, alpha)
    np.testing.assert_array_equal(filled, without_hidden(other, alpha))
    np.testing.assert_array_equal(filled[alpha > 0], seen[alpha > 0])
    if (alpha > 0).any():
        assert filled.min() >= seen[alpha > 0].min() and filled.max() <= seen[alpha > 0].max()


def test_colours_go_on_smoothly_where_nobody_sees_them() -> None:
    slope = (np.indices((64, 64)).sum(0) * 2).astype(np.uint8)[:, :, None]
    alpha = np.zeros((64, 64), np.uint8)
    alpha[16:48, 16:48] = 255
    noise = np.random.default_rng(1).integers(0, 256, slope.shape, dtype=np.uint8)
    filled = without_hidden(np.where((alpha > 0)[..., None], slope, noise), alpha).astype(int)[:, :, 0]
    assert max(np.abs(np.diff(filled, axis=axis)).max() for axis in (0, 1)) <= 32


def test_pictures_without_hidden_pixels_are_not_copied() -> None:
    planes = np.zeros((4, 4, 3), np.uint8)
    assert without_hidden(planes, np.ones((4, 4), np.uint8)) is planes

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
from licodec.alpha import decode, encode, predicted, without_hidden
from licodec.codecs import alpha_tiles, linear_lattice
from tests import memory
from tests.codecs import second_screen_decoder
from tests.codecs.second_lossless import decode_tile, numbers_of

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
    if method == 2:
        return read_tiles(body, height, width, size)
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


def read_tiles(body: bytes, height: int, width: int, size: int) -> list[list[int]]:
    """Method 2 as SPEC.md has it."""
    columns, rows, check, at = 2 ** body[0], 2 ** body[1], int.from_bytes(body[2:6], "little"), 6
    s = [[0] * width for _ in range(height)]
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            mode, length, shift = body[at], 0, 0
            while True:
                at += 1
                length |= (body[at] & 127) << shift
                shift += 7
                if body[at] < 128:
                    break
            coded, at = body[at + 1 : at + 1 + length], at + 1 + length
            h, w = min(rows, height - top), min(columns, width - left)
            if mode == 5:
                tile = decode_tile(coded, h, w, 1, 0, numbers_of(linear_lattice.PATH.read_bytes()), mode=5)
            else:
                tile = second_screen_decoder.decode(mode, coded, (h, w, 1), size)
            for y, row in enumerate(tile):
                s[top + y][left : left + w] = [sample for (sample,) in row]
    assert at == len(body)
    assert zlib.crc32(b"".join(sample.to_bytes(size, "big") for row in s for sample in row)) == check
    return s


def soft(height: int, width: int) -> Plane:
    """A shadow: slopes with a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    slope = (
        128 + 90 * np.sin(x / 23) * np.cos(y / 31) + np.random.default_rng(4).normal(0, 1.5, (height, width))
    )
    out: Plane = slope.clip(0, 255).astype(np.uint8)
    return out


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
    assert predicted(plane)[:2] == bytes([1, predictor])
    assert len(encode(plane).payload) <= len(predicted(plane))
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


def test_soft_alpha_takes_less_as_tiles() -> None:
    plane = soft(300, 350)
    chunk = encode(plane)
    assert chunk.payload[0] == 2
    assert len(chunk.payload) < 0.9 * len(predicted(plane))
    np.testing.assert_array_equal(decode(chunk, plane.shape, 8), plane)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiles_are_those_of_the_specification(dtype: type) -> None:
    plane: Plane = soft(37, 29).astype(dtype)
    if dtype is np.uint16:
        plane = plane * 257 - 3
    body = alpha_tiles.encode(plane)
    assert read_alph(b"\x02" + body, 37, 29, 8 * plane.itemsize) == plane.tolist()
    np.testing.assert_array_equal(alpha_tiles.decode(body, (37, 29), 8 * plane.itemsize), plane)


CONSTANT_TILE = b"\x01\x01\x07"
SEVENS = zlib.crc32(b"\x07" * 20).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "columns"),
        (b"\x09\x09" + SEVENS, "mode"),
        (b"\x09\x09" + SEVENS + CONSTANT_TILE + b"\x00", "1 bytes behind the last tile"),
        (b"\x09\x09" + bytes(4) + CONSTANT_TILE, "samples of CRC-32"),
        (b"\x02\x02" + SEVENS + CONSTANT_TILE, "mode"),
        (b"\x18\x18" + SEVENS + CONSTANT_TILE, "at most 2\\^18"),
        (b"\x09\x19" + SEVENS + CONSTANT_TILE, "rows"),
        (b"\x09\x09" + SEVENS + b"\x01\x02\x07\x07", "a constant pixel"),
        (b"\x09\x09" + SEVENS + b"\x05\x01\x00", "lanes|states|bytes"),
        (b"\x09\x09" + SEVENS + b"\x00\xff\xff\x7f", "body"),
    ],
)
def test_tiles_that_are_no_plane_are_refused(body: bytes, found: str) -> None:
    good = alpha_tiles.decode(b"\x09\x09" + SEVENS + CONSTANT_TILE, (4, 5), 8)
    assert (good == 7).all()
    with memory.bounded(1 << 19), pytest.raises(FormatError, match=found) as caught:
        decode(Chunk("ALPH", b"\x02" + body), (4, 5), 8)
    assert caught.value.chunk == "ALPH"


def test_a_tile_a_pixel_is_refused_before_any_is_made() -> None:
    with memory.bounded(1 << 16), pytest.raises(FormatError, match="16777216 tiles"):
        alpha_tiles.decode(bytes(6), (4096, 4096), 8)


def test_lattices_of_16_bits_are_refused() -> None:
    body = alpha_tiles.encode(soft(64, 64))
    assert body[6] == 5
    with pytest.raises(FormatError, match="mode 5 in a plane of 16 bits"):
        alpha_tiles.decode(body, (64, 64), 16)


def test_damaged_tiles_never_pass_for_a_plane() -> None:
    body = alpha_tiles.encode(soft(40, 50))
    for at in (*range(12), *range(12, len(body), 50)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        with pytest.raises((FormatError, UnsupportedError)):
            same = alpha_tiles.decode(bytes(damaged), (40, 50), 8)
            # Fewer, larger or smaller tiles than the plane has are the same one.
            assert at < 2 and np.array_equal(same, soft(40, 50))
            raise FormatError("the same")
    for length in range(0, len(body), 90):
        with pytest.raises(FormatError):
            alpha_tiles.decode(body[:length], (40, 50), 8)


@pytest.mark.parametrize("payload", [b"\x03", b"\x01\x04", b"\xff" * 9])
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

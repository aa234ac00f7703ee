"""Tile modes without networks: what was encoded comes back, and no bytes do harm."""

from __future__ import annotations

import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lic_format.errors import FormatError, UnsupportedError, UsageValueError
from licodec.codecs import screen_content as sc
from licodec.codecs.screen_content import Filter, Mode, Order, Packing, Tile, best, decode
from tests.codecs.second_screen_decoder import decode as second_decode
from tests.memory import bounded

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "photo.png"


def back(mode: Mode, body: bytes, tile: Tile) -> Tile:
    return decode(mode, body, tile.shape, tile.dtype)


def assert_same(found: Tile, expected: Tile) -> None:
    assert found.dtype == expected.dtype and found.flags.writeable and found.dtype.isnative
    np.testing.assert_array_equal(found, expected)


# --- pictures -------------------------------------------------------------------------------------


def page(height: int = 200, width: int = 300) -> Tile:
    """Black text on white with a coloured, anti-aliased disc."""
    picture = Image.new("RGB", (4 * width, 4 * height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((4 * width // 2, 40, 4 * width - 40, 4 * height - 40), fill=(200, 30, 60))
    picture = picture.resize((width, height), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for line in range(0, height - 12, 14):
        draw.text((4, line), f"{line} lines of text, words and {line * 7919 % 1000}", fill=(0, 0, 0))
    return np.array(picture)


def photo() -> Tile:
    with Image.open(PHOTO) as picture:
        return np.array(picture.convert("RGB"))[:256, :256]


def noise(*shape: int, dtype: type[Any] = np.uint8, values: int | None = None) -> Tile:
    top = values or 1 << 8 * np.dtype(dtype).itemsize
    return np.random.default_rng(3).integers(0, top, shape).astype(dtype)


def ramp(height: int, width: int, dtype: type = np.uint8) -> Tile:
    rows, columns = np.indices((height, width))
    return np.stack([3 * rows + columns, rows, 1000 - 2 * columns], axis=-1).astype(dtype)


# --- everything comes back ------------------------------------------------------------------------


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    shape = draw(st.integers(1, 20)), draw(st.integers(1, 40)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from((np.uint8, np.uint16)))
    top = (1 << 8 * np.dtype(dtype).itemsize) - 1
    colours = draw(st.lists(st.tuples(*[st.integers(0, top)] * shape[2]), min_size=1, max_size=40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        return np.array(colours, dtype)[rng.integers(0, len(colours), shape[:2])]
    steps = rng.integers(0, draw(st.sampled_from((2, 9, top + 1))), shape)
    return np.cumsum(steps, axis=draw(st.integers(0, 1))).astype(dtype)


@settings(max_examples=80, deadline=None)
@given(tiles(), st.integers(0, 1))
def test_every_tile_comes_back_from_the_best_mode(tile: Tile, effort: int) -> None:
    mode, body = best(tile, effort)
    assert len(body) <= tile.nbytes
    assert_same(back(mode, body, tile), tile)


@settings(max_examples=60, deadline=None)
@given(tiles())
def test_every_tile_comes_back_from_every_mode_that_takes_it(tile: Tile) -> None:
    assert_same(back(Mode.RAW, sc.encode_raw(tile), tile), tile)
    assert_same(back(Mode.LZ, sc.encode_lz(tile, 0), tile), tile)
    palette = sc.encode_palette(tile, 0)
    colours = len({pixel.tobytes() for pixel in tile.reshape(-1, tile.shape[2])})
    assert (palette is None) == (not 2 <= colours <= 256)
    if palette is not None:
        assert_same(back(Mode.PALETTE, palette, tile), tile)


def every_layout(
    tile: Tile, encode: Callable[..., bytes | None], monkeypatch: pytest.MonkeyPatch
) -> list[bytes]:
    """The bodies of all layouts in all packings."""
    bodies: list[bytes] = []

    def collect(layouts: Iterator[sc.Layout], _: int) -> bytes:
        for layout in layouts:
            bodies.append(layout.body(Packing.STORED, layout.data))
            bodies.append(layout.body(Packing.DEFLATE, sc._deflated(layout.data)))
            bodies.append(layout.body(Packing.LZMA2, sc._lzma2(layout.data, sc.Literals(1, 2, 1))))
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(sc, "_smallest", collect)
        encode(tile, sc.EFFORT_MAX)
    return bodies


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("channels", (1, 2, 3, 4))
@pytest.mark.parametrize("size", ((1, 1), (1, 9), (9, 1), (13, 21)))
def test_every_layout_and_packing_comes_back(
    size: tuple[int, int], channels: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = noise(*size, channels, dtype=dtype)
    tile[size[0] // 2 :] = tile[0, 0]
    bodies = every_layout(tile, sc.encode_lz, monkeypatch)
    assert len(bodies) == 3 * len(Filter) * (2 if channels > 2 else 1) * (2 if tile[0, 0].nbytes > 1 else 1)
    for body in bodies:
        assert_same(back(Mode.LZ, body, tile), tile)
    for body in every_layout(tile, sc.encode_palette, monkeypatch):
        assert_same(back(Mode.PALETTE, body, tile), tile)


@pytest.mark.parametrize("colours", (2, 3, 4, 5, 16, 17, 255, 256))
@pytest.mark.parametrize("channels", (1, 3, 4))
def test_palettes_of_all_sizes_come_back_in_all_bits(
    colours: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = np.uint16 if channels == 1 else np.uint8
    chosen = np.unique(noise(4 * colours, channels, dtype=dtype), axis=0)[:colours]
    tile = chosen[np.arange(19 * 31).reshape(19, 31) % colours]
    bodies = every_layout(tile, sc.encode_palette, monkeypatch)
    assert len(bodies) == 3 * len(Filter) * sum(colours <= 1 << bits for bits in (1, 2, 4, 8))
    for body in bodies:
        assert_same(back(Mode.PALETTE, body, tile), tile)


@pytest.mark.parametrize(
    "tile", [page(90, 140), photo(), ramp(40, 50, np.uint16)], ids=["page", "photo", "ramp"]
)
@pytest.mark.parametrize("effort", (0, 1))
def test_pictures_come_back(tile: Tile, effort: int) -> None:
    mode, body = best(tile, effort)
    assert_same(back(mode, body, tile), tile)


def test_views_are_taken_as_they_are() -> None:
    wide = page(60, 90)
    for tile in (wide[:, ::-1], wide.swapaxes(0, 1), wide[::2, 3:40, :2], wide.astype(">u2") * 200):
        mode, body = best(tile, 0)
        np.testing.assert_array_equal(decode(mode, body, tile.shape, tile.dtype.newbyteorder("=")), tile)


def test_sizes_up_to_a_whole_tile() -> None:
    for size in ((1, 512), (512, 1), (511, 512), (512, 512)):
        tile = ramp(*size)
        mode, body = best(tile, 0)
        assert_same(back(mode, body, tile), tile)


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "mode"),
    [
        (np.full((40, 50, 3), 7, np.uint8), Mode.CONSTANT),
        (np.full((1, 1, 1), 60000, np.uint16), Mode.CONSTANT),
        (noise(100, 100, 3), Mode.RAW),
        (noise(100, 100, 1), Mode.RAW),
        (noise(100, 100, 1, values=2) * 255, Mode.PALETTE),
        (noise(150, 150, 1, dtype=np.uint16, values=7) * 9000, Mode.PALETTE),
        (ramp(60, 60, np.uint16), Mode.LZ),
        (np.tile(noise(32, 32, 3), (3, 3, 1)), Mode.LZ),
    ],
    ids=["flat", "pixel", "noise", "grey noise", "bits", "7 values", "ramp", "tiled noise"],
)
@pytest.mark.parametrize("effort", (0, 1))
def test_the_mode_that_suits_is_chosen(tile: Tile, mode: Mode, effort: int) -> None:
    assert best(tile, effort)[0] == mode


def test_what_looks_drawn() -> None:
    assert sc.looks_drawn(page()) and sc.looks_drawn(page()[:1]) and sc.looks_drawn(page()[:, :1])
    assert sc.looks_drawn(ramp(80, 80, np.uint16))
    assert sc.looks_drawn(np.tile(noise(32, 40, 3), (3, 1, 1))) and sc.looks_drawn(
        np.tile(noise(32, 40, 3), (1, 3, 1))
    )
    for tile in (photo(), noise(64, 64, 3), noise(1, 64, 3), noise(1, 1, 1)):
        assert not sc.looks_drawn(tile)


def test_what_has_few_colours() -> None:
    few = noise(64, 64, 3)[:16, :16].reshape(1, -1, 3)[0, :40][noise(300, 300, values=40)]
    assert (
        sc.has_few_colours(few)
        and not sc.has_few_colours(photo())
        and not sc.has_few_colours(noise(99, 99, 1))
    )
    assert sc.has_few_colours(noise(99, 99, 1, values=100))


def test_photographs_cost_no_packing_before_the_highest_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*_: Any) -> bytes:
        raise AssertionError("a photograph was packed")

    monkeypatch.setattr(sc, "_smallest", packed)
    for effort in (0, 1):
        assert best(photo(), effort) == (Mode.RAW, photo().tobytes())
    with pytest.raises(AssertionError):
        best(photo(), 2)


def test_more_effort_is_never_larger() -> None:
    for tile in (page(30, 40), ramp(30, 20), noise(20, 20, 1, values=3)):
        sizes = [len(best(tile, effort)[1]) for effort in range(3)]
        assert sizes == sorted(sizes, reverse=True), sizes
    for effort in (-1, 3):
        with pytest.raises(UsageValueError):
            best(tile, effort)


@pytest.mark.parametrize("effort", (0, 1))
def test_drawn_tiles_are_smaller_than_optimised_png(effort: int, tmp_path: Path) -> None:
    art = page(100, 150)
    bilevel = np.where(art[:, :, :1] > 99, np.uint8(255), np.uint8(0))
    rows, columns = np.indices(art.shape[:2])
    lines = ((columns + 2 * rows) % 9 == 0).astype(np.uint8)[:, :, None] * 255
    for tile in (art, bilevel, lines, ramp(100, 150), np.dstack([art, bilevel])):
        picture = Image.fromarray(tile[:, :, 0] if tile.shape[2] == 1 else tile)
        if tile is bilevel or tile is lines:
            picture = picture.convert("1")
        picture.save(tmp_path / "it.png", optimize=True)
        assert len(best(tile, effort)[1]) < (tmp_path / "it.png").stat().st_size


# --- palettes -------------------------------------------------------------------------------------


def test_a_palette_goes_from_dark_to_light_whatever_the_place_of_its_colours() -> None:
    colours = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0], [9, 9, 9], [2, 0, 0], [0, 0, 4]], np.uint8)
    tile = colours[noise(30, 30, values=6)]
    expected = [[0, 0, 4], [2, 0, 0], [9, 9, 9], [0, 0, 255], [255, 0, 0], [0, 255, 0]]
    for turned in (tile, tile[::-1], np.roll(tile, 7, axis=1)):
        found = sc.palette_of(turned)
        assert found is not None and found[0].tolist() == expected
        np.testing.assert_array_equal(found[0][found[1]], turned)


def test_the_same_tile_gives_the_same_bytes() -> None:
    tile = page(60, 60)
    for effort in (0, 1):
        assert best(tile, effort) == best(np.asfortranarray(tile), effort) == best(tile.copy(), effort)


def test_257_colours_are_no_palette() -> None:
    tile = np.arange(257, dtype=np.uint16).reshape(1, 257, 1)
    assert sc.palette_of(tile) is None and sc.encode_palette(tile) is None
    assert sc.palette_of(tile[:, 1:]) is not None and sc.palette_of(tile[:, :1]) is None


# --- the bytes ------------------------------------------------------------------------------------

DOTS = np.array([[[9], [9], [7]], [[9], [7], [7]]], np.uint8)
LIGHTS = np.array([[[1, 2, 3], [1, 2, 4]], [[1, 2, 3], [0, 1, 1]]], np.uint8)
DEEP = np.array([[[256, 1], [257, 3]], [[258, 1], [260, 0]]], np.uint16)
GOLDEN: dict[str, tuple[Mode, Tile, str]] = {
    "raw": (Mode.RAW, DEEP, "01 00 00 01 01 01 00 03 01 02 00 01 01 04 00 00"),
    "constant": (Mode.CONSTANT, DEEP[:1, :1].repeat(5, 1), "01 00 00 01"),
    "palette": (Mode.PALETTE, DOTS, "01 00 02 07 02 01 00 00 c0 80"),
    "palette above": (Mode.PALETTE, DOTS, "01 00 02 07 02 01 02 00 c0 c0"),
    "palette 4 bits": (Mode.PALETTE, DOTS, "01 00 02 07 02 04 00 00 11 00 10 00"),
    "palette rows": (Mode.PALETTE, DOTS, "01 00 02 07 02 08 04 00 01 03 01 00 ff 00 ff 01"),
    "lz": (Mode.LZ, LIGHTS, "00 00 00 00 01 02 03 01 02 04 01 02 03 00 01 01"),
    "lz less green, planes": (Mode.LZ, LIGHTS, "01 01 00 00 ff ff ff ff 02 02 02 01 01 02 01 00"),
    "lz plane": (Mode.LZ, LIGHTS, "00 00 03 00 01 02 03 00 00 01 00 00 00 ff ff fd"),
    "lz rows, 16 bits, planes": (
        Mode.LZ,
        DEEP,
        "00 01 04 00 01 02 01 00 00 00 00 01 02 03 00 00 00 ff 01 02 00 fd",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bodies(name: str) -> None:
    mode, tile, digits = GOLDEN[name]
    assert_same(back(mode, bytes.fromhex(digits), tile), tile)


def test_golden_packings() -> None:
    """Streams of another day: the packers may change, what they packed may not."""
    rows, columns = np.indices((12, 16))
    tile = np.dstack([rows * 7 + columns, rows * columns, 255 - rows]).astype(np.uint8)
    for digits in GOLDEN_PACKED:
        assert_same(back(Mode.LZ, bytes.fromhex(digits), tile), tile)


GOLDEN_PACKED = (
    "0101030163604405ecff51c160e733a00334ff0c763eba07fe0f310000",
    "01000402e0024b0020380000e00bdbc4628367f1e4af1a6680807cb474537a7517728d545575af39832e0000",
)


def test_what_needs_no_search_has_golden_bytes() -> None:
    assert sc.encode_raw(DEEP).hex(" ") == GOLDEN["raw"][2]
    assert sc.encode_constant(DEEP).hex(" ") == GOLDEN["constant"][2]
    assert sc.encode_palette(DOTS, 0) == bytes.fromhex(GOLDEN["palette"][2])


def test_a_decoder_written_from_the_specification_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[Tile] = [LIGHTS, DEEP, page(24, 31), noise(4, 9, 1, values=3)]
    tiles += [noise(5, 7, 4, dtype=np.uint16), noise(300, 3)[noise(6, 50, values=255)]]
    for tile in tiles:
        bodies = [(Mode.RAW, sc.encode_raw(tile))]
        bodies += [(Mode.LZ, body) for body in every_layout(tile, sc.encode_lz, monkeypatch)]
        bodies += [(Mode.PALETTE, body) for body in every_layout(tile, sc.encode_palette, monkeypatch)]
        for mode, body in bodies:
            assert second_decode(mode, body, tile.shape, tile.itemsize) == tile.tolist()
    assert second_decode(1, sc.encode_constant(DEEP), (2, 3, 2), 2) == [[[256, 1]] * 3] * 2


def test_lzma2_looks_back_over_the_whole_tile() -> None:
    half = noise(100, 40, 3)
    tile = np.concatenate([half, half])
    chain = [{"id": lzma.FILTER_LZMA2, "dict_size": tile.nbytes}]
    packed = lzma.compress(tile.tobytes(), lzma.FORMAT_RAW, filters=chain)
    head = sc.LZ.write({"colour": 0, "order": 0, "filter": 0, "packing": Packing.LZMA2})
    for body in (head + packed, sc.encode_lz(tile, 0)):
        assert len(body) < 0.6 * tile.nbytes
        assert_same(back(Mode.LZ, body, tile), tile)
    assert second_decode(3, sc.encode_lz(tile, 0), tile.shape, 1) == tile.tolist()


# --- hostile bytes --------------------------------------------------------------------------------


def bodies_to_break() -> list[tuple[Mode, bytes, Tile]]:
    art = page(24, 60)
    four = noise(1, 4, 3)[0][noise(10, 13, values=4)]
    out = [(Mode.RAW, sc.encode_raw(four), four), (Mode.CONSTANT, sc.encode_constant(four), four[:1, :1])]
    for tile in (art, four):
        for rows in (False, True):
            how = Filter.ROWS if rows else Filter.PLANE
            data = sc._filtered(tile, how, Order.PLANES)
            layout = sc.Layout(sc.LZ, {"colour": 1, "order": Order.PLANES, "filter": how}, data)
            out += [
                (Mode.LZ, layout.body(Packing.STORED, data), tile),
                (Mode.LZ, layout.body(Packing.DEFLATE, sc._deflated(data)), tile),
                (Mode.LZ, layout.body(Packing.LZMA2, sc._lzma2(data, sc.Literals(3, 0, 0))), tile),
            ]
    palette = sc.encode_palette(four, 0)
    assert palette is not None
    return [*out, (Mode.PALETTE, palette, four)]


@pytest.mark.parametrize("number", range(15))
def test_truncated_bodies_are_refused_at_every_byte(number: int) -> None:
    mode, body, tile = bodies_to_break()[number]
    for end in range(0, len(body), 1 if len(body) < 2000 else 17):
        with pytest.raises(FormatError):
            back(mode, body[:end], tile)
    for more in (b"\0", b"\1\0\0", body):
        with pytest.raises(FormatError):
            back(mode, body + more, tile)


@pytest.mark.parametrize("number", range(15))
def test_flipped_bits_give_a_tile_or_an_error(number: int) -> None:
    mode, body, tile = bodies_to_break()[number]
    for bit in range(0, 8 * len(body), 1 if len(body) < 300 else 61):
        broken = bytearray(body)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            found = back(mode, bytes(broken), tile)
        except (FormatError, UnsupportedError):
            continue
        assert found.shape == tile.shape and found.dtype == tile.dtype


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 5),
    st.binary(max_size=60),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    st.sampled_from((np.uint8, np.uint16)),
)
def test_any_bytes_give_a_tile_or_an_error(
    mode: int, body: bytes, shape: tuple[int, int, int], dtype: type
) -> None:
    try:
        found = decode(mode, body, shape, dtype)
    except (FormatError, UnsupportedError):
        return
    assert found.shape == shape and found.dtype == dtype


@pytest.mark.parametrize("packing", (Packing.DEFLATE, Packing.LZMA2))
def test_bombs_stop_at_the_size_of_the_tile(packing: Packing) -> None:
    zeros = bytes(50_000_000)
    packed = (
        sc._deflated(zeros)
        if packing == Packing.DEFLATE
        else lzma.compress(zeros, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    )
    del zeros
    tile = np.zeros((64, 64, 3), np.uint8)
    with (
        bounded(20 * tile.nbytes + 4 * len(packed)),
        pytest.raises(FormatError, match="more than 12288 bytes"),
    ):
        back(Mode.LZ, sc.LZ.write({"colour": 0, "order": 0, "filter": 0, "packing": packing}) + packed, tile)
    head = {
        "last": 1,
        "palette_packing": packing,
        "palette": packed[:2048],
        "bits": 1,
        "filter": 0,
        "packing": 0,
    }
    with bounded(20 * tile.nbytes + 4 * len(packed)), pytest.raises(FormatError, match="more than 6 bytes"):
        back(Mode.PALETTE, sc.PALETTE.write(head) + bytes(64 * 8), tile)


@pytest.mark.parametrize(
    ("mode", "tile", "digits", "message"),
    [
        (Mode.RAW, DOTS, "09", "1 bytes of raw samples, expected 6"),
        (Mode.CONSTANT, DEEP, "09", "1 bytes of a constant pixel, expected 4"),
        (Mode.PALETTE, DOTS, "02 00 03 07 01 01 01 00 00 c0 80", "3 colours, at most 2"),
        (Mode.PALETTE, DOTS, "02 00 03 07 01 01 02 00 00 f0 00", "index 3 in a palette of 3"),
        (Mode.PALETTE, DOTS, "01 00 02 07 00 01 00 00 c0 80", "one twice"),
        (Mode.PALETTE, DOTS, "02 00 03 07 01 ff 02 00 00 00 00", "one twice"),
        (Mode.PALETTE, DOTS, "01 00 02 07 02 01 00 00 c0 81", "beyond the 3 indices"),
        (Mode.PALETTE, DOTS, "01 00 02 07 02 01 04 00 00 04 c0 80", "row filter 4, expected 0..3"),
        (Mode.PALETTE, DOTS, "00 00 01 07 01 00 00 00 00", "1..255"),
        (Mode.PALETTE, DOTS, "01 00 ff 7f", "0..2048"),
        (Mode.LZ, DOTS, "01 00 00 00 09 09 07 09 07 07", "green taken off"),
        (Mode.LZ, DOTS, "00 00 00 01 ff ff", "no DEFLATE stream"),
        (Mode.LZ, DOTS, "00 00 00 02 7f 00", "no LZMA2 stream"),
        (Mode.LZ, DOTS, "00 00 00 02 00", "0 bytes of the samples"),
        (Mode.LZ, DOTS, "00 00 00 02", "0 bytes of the samples"),
        (Mode.LZ, DOTS, "00 00", "needs 1 bytes"),
    ],
)
def test_every_lie_has_its_message(mode: Mode, tile: Tile, digits: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        back(mode, bytes.fromhex(digits), tile)


@pytest.mark.parametrize("digits", ("02 00 00 00", "00 02 00 00", "00 00 05 00", "00 00 00 03"))
def test_what_a_later_version_may_define_is_newer(digits: str) -> None:
    with pytest.raises(UnsupportedError):
        back(Mode.LZ, bytes.fromhex(digits) + DOTS.tobytes(), DOTS)
    with pytest.raises(UnsupportedError):
        decode(4, b"", (1, 1, 1), np.uint8)


def test_a_stream_that_ends_exactly_with_its_tile_is_taken_and_one_without_its_end_is_not() -> None:
    data = page(32, 64)
    for packing, packed in (
        (Packing.DEFLATE, sc._deflated(data.tobytes())),
        (Packing.LZMA2, sc._lzma2(data.tobytes(), sc.Literals(0, 0, 0))),
    ):
        head = sc.LZ.write({"colour": 0, "order": 0, "filter": 0, "packing": packing})
        assert_same(back(Mode.LZ, head + packed, data), data)
    unfinished = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = unfinished.compress(data.tobytes()) + unfinished.flush(zlib.Z_SYNC_FLUSH)
    head = sc.LZ.write({"colour": 0, "order": 0, "filter": 0, "packing": Packing.DEFLATE})
    with pytest.raises(FormatError, match="cut off"):
        back(Mode.LZ, head + packed, data)


# --- the specification ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chapter() -> str:
    return (ROOT / "SPEC.md").read_text().split("## Tile modes without networks")[1].split("\n## ")[0]


def test_the_chapter_prints_the_tables(chapter: str) -> None:
    for table in (sc.PALETTE, sc.LZ):
        for name, field, meaning in table.rows:
            assert f"| {name} | {field.type_name} | {field.range_text()} | {meaning} |" in chapter
    for mode in Mode:
        assert f"| {int(mode)} | {mode.name.lower()} |" in chapter


def test_the_chapter_has_the_golden_bodies(chapter: str) -> None:
    listed = {bytes.fromhex(x) for x in re.findall(r"`((?:[0-9a-f]{2} ?)+)`", chapter)}
    for name in ("constant", "palette", "palette rows", "lz plane", "lz less green, planes"):
        assert bytes.fromhex(GOLDEN[name][2]) in listed

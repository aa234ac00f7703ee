"""The golden files of pilc: each mode of a tile and each kind of picture as its encoder codes them, and files
put together by hand of what an encoder seldom takes or another one may take.

    for name, make in files(photo, weights):
        data = make()

`files` says which there are; tools/make_golden.py writes them.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

import lic_format
import licodec
from lic_format import Head, LicFile
from lic_format.container import CODEC_BYTES, LANES, Unit
from lic_format.fields import write_varint
from lic_format.header import Colour, Depth, Flag
from lic_format.metadata import ALPHA, ALPHA_TILE, PREDICTED, PREDICTION, TILED, TILING, Chunk
from licodec import alpha, store
from licodec.codecs import alpha_tiles, deep, linear_lattice, lossless, screen_content
from licodec.codecs.lossless_adaptation import write as write_adaptation
from licodec.codecs.registry import (
    DEEP,
    DEEP_LAYOUT,
    LANE_MODES,
    LATTICE,
    LATTICE0,
    PILC_DEEP_SIDE_INFO,
    PILC_SIDE_INFO,
    PILC_TILE,
    THREEWAY,
    tiles,
)
from licodec.codecs.screen_content import LZ, PALETTE, Filter, Layout, Mode, Order, Packing
from licodec.entropy import lanes
from licodec.entropy.lanes_reference import LANES_MAX

Samples = npt.NDArray[Any]
"""[H, W, C], uint8 or uint16."""
Make = Callable[[], bytes]
Coded = tuple[int, int, bytes]
"""Mode, flips and body of a tile."""

PLACE = (160, 384, 63, 95)
"""Top, left, height and width of the crop that most files show."""
SIDE = 16
"""Pixels each way of a tile in files that have one tile for each way of coding it; half of that for drawn
ones."""


def crop(photo: PIL.Image.Image, place: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Pixels [H, W, C] at (top, left, height, width)."""
    top, left, height, width = place
    pixels = np.asarray(photo.crop((left, top, left + width, top + height)))
    return np.ascontiguousarray(pixels.reshape(height, width, -1))


def files(photo: PIL.Image.Image, weights: store.Weights) -> Iterator[tuple[str, Make]]:
    """(name, what makes the file) of every golden file of weights of pilc; `photo` has the mode RGB."""
    for name, samples, options in encoded_cases(photo):
        yield name, partial(licodec.encode, samples, codec="pilc", weights=weights.path, **options)
    yield from composed_cases(photo, weights)


# --- As the encoder codes them ------------------------------------------------------------------------------


def encoded_cases(photo: PIL.Image.Image) -> Iterator[tuple[str, Samples, dict[str, Any]]]:
    """(name, samples, options of `licodec.encode`)."""
    for name, pixels in _drawn_and_photographed(photo):
        yield name, pixels, {}
    colours, grey = crop(photo, PLACE), crop(photo.convert("L"), PLACE)
    for mode in ("lattice0", "threeway"):
        yield mode, colours, {"tile_modes": mode}
        yield f"grey-{mode}", grey, {"tile_modes": mode}
    yield "adapted", half_colour(crop(photo, (80, 200, 120, 100))), {"digest": True}
    yield "wide-tiles", _in_a_corner(colours, 280, 600), {}
    yield "high-tiles", _in_a_corner(colours, 600, 280), {}
    yield "strip", crop(photo, (100, 20, 2, 700)), {"digest": True}
    yield from ((name, samples, {}) for name, samples in _of_16_bits(colours, grey))


def _drawn_and_photographed(photo: PIL.Image.Image) -> Iterator[tuple[str, Samples]]:
    colours = crop(photo, PLACE)
    yield "photo", colours
    yield "grey", crop(photo.convert("L"), PLACE)
    yield "pixel", crop(photo, (10, 10, 1, 1))
    y, x = np.indices(colours.shape[:2])
    disc = np.clip(400 - 8 * np.hypot(y - 30, x - 40), 0, 255).astype(np.uint8)
    yield "alpha", np.dstack([colours, disc])
    yield "grey-alpha", np.dstack([crop(photo.convert("L"), PLACE), disc])
    yield "upside-down", np.ascontiguousarray(half_colour(crop(photo, (100, 100, 64, 80)))[::-1])
    yield (
        "palette",
        np.stack([255 * ((x // 3 + y // 7) % 2), 0 * x, 90 * (x // 30 % 2)], axis=2).astype(np.uint8),
    )
    yield "lz", np.stack([x, 2 * y, x + y], axis=2).astype(np.uint8)
    yield "noise", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    large = np.zeros((520, 516, 3), np.uint8)
    large[500:, 480:] = crop(photo, (200, 200, 20, 36))
    yield "tiles", large


def _of_16_bits(colours: Samples, grey: Samples) -> Iterator[tuple[str, Samples]]:
    noise = np.random.default_rng(1)
    plain = grey[:, :, 0].astype(np.uint16)
    yield "deep", plain * 200 + noise.integers(0, 90, plain.shape).astype(np.uint16)
    yield "eight-in-sixteen", plain * 257
    small = colours[:32, :40].astype(np.uint16) * 200
    small += noise.integers(0, 90, small.shape).astype(np.uint16)
    fade = np.linspace(0, 65535, small[:, :, 0].size).astype(np.uint16).reshape(small.shape[:2])
    yield "deep-colour", small
    yield "deep-alpha", np.dstack([small, fade])
    yield "deep-grey-alpha", np.dstack([small[:, :, 0], np.full_like(fade, 999)])
    yield "deep-noise", noise.integers(0, 65536, (12, 15, 3)).astype(np.uint16)
    yield "deep-pixel", small[:1, :1]
    twelve = small >> np.uint16(4)
    yield "twelve-bits", twelve
    yield "twelve-bits-above", twelve << np.uint16(4)
    ten = small >> np.uint16(6)
    yield "ten-bits-repeated", ten << np.uint16(6) | ten >> np.uint16(4)


def _in_a_corner(pixels: Samples, height: int, width: int) -> Samples:
    """Pixels in the lower right corner of a black picture."""
    out = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    out[height - pixels.shape[0] :, width - pixels.shape[1] :] = pixels
    return out


def half_colour(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Colour at even rows and columns as it is, between them its mean: even sides."""
    green = pixels[:, :, 1:2].astype(np.int16)
    colour = pixels[:, :, ::2] - green
    for axis in (0, 1):
        lines = np.moveaxis(colour, axis, 0)
        lines[1:-1:2] = (lines[:-2:2] + lines[2::2]) // 2
    red, blue = np.moveaxis((colour + green).clip(0, 255), 2, 0)
    return np.stack([red, green[:, :, 0], blue], axis=2).astype(np.uint8)


# --- Put together by hand -----------------------------------------------------------------------------------


def composed_cases(photo: PIL.Image.Image, weights: store.Weights) -> Iterator[tuple[str, Make]]:
    """One tile for every way of coding it, and a plane of alpha for every way of that."""
    show = partial(composed, weights.ref)
    model = lossless.build(weights, "cpu")
    steps = np.random.default_rng(2).integers(0, 4, (SIDE // 2, SIDE // 2, 1), dtype=np.uint8)
    for (kind, tile), of_two in zip(drawn(steps).items(), drawn(steps // 2).values(), strict=True):
        yield f"{kind}lz-layouts", partial(show, tile, lz_layouts(tile))
        yield f"{kind}palette-layouts", partial(show, of_two, palette_layouts(of_two))
    seen = crop(photo, (200, 200, SIDE, SIDE))
    deep_seen = seen.astype(np.uint16) * 250 + seen[::-1]
    yield "flips", partial(show, seen, flipped(seen, model))
    yield "deep-flips", partial(show, deep_seen, deeply_flipped(deep_seen))
    yield "lanes", partial(show, seen, in_many_lanes(seen, model))
    y, x = np.indices(steps.shape[:2])
    slope: Samples = np.asarray(9 * y + 11 * x, np.uint8)
    slope[:2, 2:4] = 3
    planes: dict[str, Samples] = {"": slope, "deep-": slope.astype(np.uint16) * 250}
    for kind, plane in planes.items():
        tile = drawn(steps)[kind]
        for predictor in range(len(alpha._AXES)):
            chunk = predicted(plane, predictor)
            yield f"{kind}alpha-predictor{predictor}", partial(show, tile, [raw(tile)], chunk)
        yield f"{kind}alpha-tiles", partial(show, tile, [raw(tile)], tiled(plane))


def drawn(steps: Samples) -> dict[str, Samples]:
    """Tiles of a few colours, of every number of channels and of bits."""
    art = steps * np.array([50, 60, 70], np.uint8)
    deeper = art.astype(np.uint16) * 301 + 7
    return {"": art, "grey-": art[:, :, :1], "deep-": deeper, "deep-grey-": deeper[:, :, :1]}


def composed(
    ref: store.WeightsRef, tile: Samples, ways: Iterable[Coded], plane: Chunk | None = None
) -> bytes:
    """The file of a picture that shows one square tile again and again from left to right, each time
    coded in another way; with a chunk of alpha for all of it, where there is one."""
    units = tuple(_unit(tile, number, *way) for number, way in enumerate(ways))
    side = len(tile)
    exponent = side.bit_length() - 1
    fields = {"layout": 1, "columns": exponent, "rows": exponent, "digest": b""}
    side_info = PILC_SIDE_INFO
    if tile.dtype == np.uint16:
        side_info = PILC_DEEP_SIDE_INFO
        fields |= {"layout": DEEP_LAYOUT} | dataclasses.asdict(deep.Stored())
    head = Head(
        width=side * len(units),
        height=side,
        colour=Colour.GREY if tile.shape[2] == 1 else Colour.RGB,
        depth=Depth(8 * tile.itemsize),
        flags=Flag.LOSSLESS if plane is None else Flag.LOSSLESS | Flag.ALPHA,
        codec=ref.codec,
        tag=ref.tag,
        decode_digest=ref.decode_digest,
        synthesis_digest=ref.synthesis_digest,
        side_info=side_info.write(fields),
    )
    return lic_format.write(LicFile(head, metadata=() if plane is None else (plane,), units=units))


def _unit(tile: Samples, number: int, mode: int, flips: int, body: bytes) -> Unit:
    check = (deep if tile.dtype == np.uint16 else lossless).check_of(tile, number)
    record = PILC_TILE.write({"mode": mode, "flips": flips, "check": check})
    return Unit(LANES if mode in LANE_MODES else CODEC_BYTES, record, body)


def raw(tile: Samples) -> Coded:
    """A tile in mode 0."""
    return Mode.RAW, 0, screen_content.encode_raw(tile)


def lz_layouts(tile: Samples) -> Iterator[Coded]:
    """Every layout of mode 3 that the tile can have."""
    for colour, order, each, packing in itertools.product(screen_content.Colour, Order, Filter, Packing):
        if colour == screen_content.Colour.LESS_GREEN and tile.shape[2] < 3:
            continue
        samples = screen_content._less_green(tile) if colour else tile
        data = screen_content._filtered(samples, each, order)
        layout = Layout(LZ, {"colour": colour, "order": order, "filter": each}, data)
        yield Mode.LZ, 0, layout.body(packing, packed(packing, data))


def palette_layouts(tile: Samples) -> Iterator[Coded]:
    """Every layout of mode 2; the packings of the palette take turns."""
    found = screen_content.palette_of(tile)
    assert found is not None, "a tile of few colours"
    palette, indices = found
    colours = screen_content._ordered(
        screen_content._differences(palette[:, None], Filter.ABOVE), Order.PLANES
    )
    ways = itertools.product((bits for bits in (1, 2, 4, 8) if len(palette) <= 1 << bits), Filter, Packing)
    for turn, (bits, each, packing) in enumerate(ways):
        other = Packing((packing + turn // len(Packing)) % len(Packing))
        rows = screen_content._filtered(
            screen_content._packed_bits(indices, bits)[:, :, None], each, Order.PIXELS
        )
        head: dict[str, Any] = {"last": len(palette) - 1, "bits": bits, "filter": each}
        head |= {"palette_packing": other, "palette": packed(other, colours)}
        yield Mode.PALETTE, 0, Layout(PALETTE, head, rows).body(packing, packed(packing, rows))


def packed(packing: Packing, data: bytes) -> bytes:
    """Bytes in one of the packings of drawn tiles."""
    if packing == Packing.STORED:
        return data
    if packing == Packing.DEFLATE:
        return screen_content._deflated(data)
    return screen_content._lzma2(data, screen_content._USUAL)


def _turns(tile: Samples) -> Iterator[tuple[int, Samples]]:
    for flips in range(4):
        yield flips, np.ascontiguousarray(tile[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1])


def flipped(tile: Samples, model: lossless.Lossless) -> Iterator[Coded]:
    """Every mode for bytes that may be coded upside down and left to right, in all four ways."""
    for flips, turned in _turns(tile):
        yield LATTICE, flips, model.encode_lattices([turned])[0]
        yield LATTICE0, flips, linear_lattice.encode_many([turned])[0]
        yield THREEWAY, flips, model.encode_threeway([turned])[0]


def deeply_flipped(tile: Samples) -> Iterator[Coded]:
    """The same of the mode for samples of 16 bits."""
    for flips, turned in _turns(tile):
        yield DEEP, flips, deep.encode([turned])[0]


def in_many_lanes(tile: Samples, model: lossless.Lossless) -> Iterator[Coded]:
    """A tile in mode 4, in every number of lanes that there may be."""
    ((adaptation, stream),) = model.streams([tile])
    said = write_adaptation(adaptation, tile.shape[2])
    stages = [(symbols, tables) for _, symbols, tables in stream]
    for exponent in range(LANES_MAX.bit_length()):
        (body,) = lanes.encode_many([stages], model.tables, [1 << exponent])
        yield LATTICE, 0, write_varint(len(said)) + said + body


def predicted(plane: Samples, predictor: int) -> Chunk:
    """ALPH's method 1 with one predictor."""
    head = ALPHA.write({"method": PREDICTED}) + PREDICTION.write({"predictor": predictor})
    return Chunk("ALPH", head + zlib.compress(alpha._bytes_of(alpha._differences(plane, predictor)), 9))


TILE_OF_ALPHA = 1
"""Exponent of the sides of tiles of alpha."""


def tiled(plane: Samples) -> Chunk:
    """ALPH's method 2; what a tile's mode can be takes turns."""
    coders: list[tuple[int, Callable[[Samples], bytes | None]]] = [
        (Mode.RAW, screen_content.encode_raw),
        (Mode.PALETTE, screen_content.encode_palette),
        (Mode.LZ, screen_content.encode_lz),
    ]
    if plane.dtype == np.uint8:
        coders.append((LATTICE0, lambda tile: linear_lattice.encode_many([tile])[0]))
    body = TILING.write(
        {"columns": TILE_OF_ALPHA, "rows": TILE_OF_ALPHA, "check": alpha_tiles.check_of(plane)}
    )
    height, width = plane.shape
    for number, place in enumerate(tiles(width, height, TILE_OF_ALPHA, TILE_OF_ALPHA)):
        tile = np.ascontiguousarray(plane[place])[:, :, None]
        mode, coder = coders[number % len(coders)]
        if (tile == tile[0, 0]).all():
            mode, coder = Mode.CONSTANT, screen_content.encode_constant
        body += ALPHA_TILE.write({"mode": mode, "body": coder(tile)})
    return Chunk("ALPH", ALPHA.write({"method": TILED}) + body)

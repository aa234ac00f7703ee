"""Write the golden files of a codec: small crops coded with the installed weights, and what they decode to.

    python tools/make_golden.py [--codec fhic] [--tag s-1] [--replace]

tests/golden/CODEC/ holds, for each file NAME.lic, NAME.png (the decoded pixels) and NAME.json (digest of the
weights, for fhic CRC-32 of the symbols). Every later version must read them: run this once for a tag that is
released, never again. Existing files are left alone unless --replace is given, which is for weights not
released yet.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

import lic_format
import licodec
from lic_format import Head, LicFile
from lic_format.header import Colour, Flag, Order
from licodec import alpha, store
from licodec.codecs import checkerboard as cb
from licodec.images import Picture
from licodec.options import rate_index

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
PHOTO = ROOT / "examples" / "photo.png"
QUALITIES = (5.0, 50.0, 95.0)
CROPS = {5.0: (224, 96, 80, 96), 50.0: (192, 416, 75, 90), 95.0: (256, 128, 49, 65)}
"""Top, left, height and width of the crop at each quality; sizes that no 16 divides among them."""
GREY_QUALITY = 70.0
GREY_CROP = (160, 384, 63, 95)
COARSE_QUALITY = 3.0
COARSE_CROP = (0, 160, 240, 304)
"""At a quality and of a size at which channels are left out."""

Pixels = npt.NDArray[np.uint8]
Deep = npt.NDArray[np.uint16]


def serial_cases(photo: PIL.Image.Image) -> Iterator[tuple[str, Pixels, float, Order]]:
    """As `cases`, for weights of which order 2 is what they have beside others."""
    for quality in QUALITIES:
        yield f"q{quality:g}-order2", crop(photo, CROPS[quality]), quality, Order.SERIAL
    yield "grey-order2", crop(photo.convert("L"), GREY_CROP), GREY_QUALITY, Order.SERIAL
    yield "pixel-order2", crop(photo, (10, 10, 1, 1)), 50.0, Order.SERIAL


def cases(photo: PIL.Image.Image) -> Iterator[tuple[str, Pixels, float, Order]]:
    """(name, pixels H x W x C, quality, order) of every golden file."""
    for quality in QUALITIES:
        for order in (Order.ONE_STEP, Order.CHECKERBOARD):
            yield f"q{quality:g}-order{int(order)}", crop(photo, CROPS[quality]), quality, order
    grey = crop(photo.convert("L"), GREY_CROP)
    yield "grey-order1", grey, GREY_QUALITY, Order.CHECKERBOARD
    yield "pixel-order1", crop(photo, (10, 10, 1, 1)), 50.0, Order.CHECKERBOARD
    colours = crop(photo, CROPS[50.0])
    y, x = np.indices(colours.shape[:2])
    disc = np.clip(400 - 8 * np.hypot(y - 40, x - 40), 0, 255).astype(np.uint8)
    yield "alpha-order1", np.dstack([colours, disc]), 50.0, Order.CHECKERBOARD
    coarse = crop(photo.convert("L"), COARSE_CROP)
    yield "coarse-order1", coarse, COARSE_QUALITY, Order.CHECKERBOARD
    yield "grey-alpha-order1", np.dstack([grey, np.full_like(grey, 77)]), GREY_QUALITY, Order.CHECKERBOARD


def lossless_cases(photo: PIL.Image.Image) -> Iterator[tuple[str, Pixels | Deep, dict[str, Any]]]:
    """(name, pixels H x W x C, options) of every golden file of pilc: each mode of a tile, each kind of
    picture."""
    for name, pixels in _drawn_and_photographed(photo):
        yield name, pixels, {}
    colours = crop(photo, (160, 384, 63, 95))
    yield "lattice0", colours, {"tile_modes": "lattice0"}
    yield "threeway", colours, {"tile_modes": "threeway"}
    yield "adapted", half_colour(crop(photo, (80, 200, 120, 100))), {"digest": True}
    grey = crop(photo.convert("L"), (160, 384, 63, 95))[:, :, 0].astype(np.uint16)
    yield "deep", grey * 200 + np.random.default_rng(1).integers(0, 90, grey.shape).astype(np.uint16), {}
    yield "eight-in-sixteen", grey * 257, {}


def _drawn_and_photographed(photo: PIL.Image.Image) -> Iterator[tuple[str, Pixels]]:
    colours = crop(photo, (160, 384, 63, 95))
    yield "photo", colours
    yield "grey", crop(photo.convert("L"), (160, 384, 63, 95))
    yield "pixel", crop(photo, (10, 10, 1, 1))
    y, x = np.indices(colours.shape[:2])
    disc = np.clip(400 - 8 * np.hypot(y - 30, x - 40), 0, 255).astype(np.uint8)
    yield "alpha", np.dstack([colours, disc])
    yield "upside-down", np.ascontiguousarray(half_colour(crop(photo, (100, 100, 64, 80)))[::-1])
    yield (
        "palette",
        np.stack([255 * ((x // 3 + y // 7) % 2), 0 * x, 90 * (x // 30 % 2)], axis=2).astype(np.uint8),
    )
    yield "lz", np.stack([x, 2 * y, x + y], axis=2).astype(np.uint8)
    yield "noise", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    tiles = np.zeros((520, 516, 3), np.uint8)
    tiles[500:, 480:] = crop(photo, (200, 200, 20, 36))
    yield "tiles", tiles


def half_colour(pixels: Pixels) -> Pixels:
    """Colour at even rows and columns as it is, between them its mean: even sides."""
    green = pixels[:, :, 1:2].astype(np.int16)
    colour = pixels[:, :, ::2] - green
    for axis in (0, 1):
        lines = np.moveaxis(colour, axis, 0)
        lines[1:-1:2] = (lines[:-2:2] + lines[2::2]) // 2
    red, blue = np.moveaxis((colour + green).clip(0, 255), 2, 0)
    return np.stack([red, green[:, :, 0], blue], axis=2).astype(np.uint8)


def crop(photo: PIL.Image.Image, place: tuple[int, int, int, int]) -> Pixels:
    top, left, height, width = place
    pixels = np.asarray(photo.crop((left, top, left + width, top + height)))
    return np.ascontiguousarray(pixels.reshape(height, width, -1))


def symbols_crc(model: cb.Checkerboard, file: LicFile) -> str:
    """CRC-32 over z, then q, as little-endian int16 in channel, row, column order."""
    crc = 0
    for symbols in model.read_symbols(file):
        crc = zlib.crc32(symbols.astype("<i2").tobytes(), crc)
    return f"{crc:08x}"


def coded(
    model: cb.Checkerboard, ref: store.WeightsRef, pixels: Pixels, quality: float, order: Order
) -> bytes:
    opaque = pixels.shape[2] in (1, 3)
    planes, plane = (pixels, pixels[:, :, 0]) if opaque else (pixels[:, :, :-1], pixels[:, :, -1])
    planes = np.ascontiguousarray(planes if opaque else alpha.without_hidden(planes, plane))
    made = model.encode(Picture(planes), rate=rate_index(quality), order=order)
    head = Head(
        width=pixels.shape[1],
        height=pixels.shape[0],
        colour=Colour.GREY if planes.shape[2] == 1 else Colour.RGB,
        flags=Flag(0) if opaque else Flag.ALPHA,
        codec=ref.codec,
        tag=ref.tag,
        decode_digest=ref.decode_digest,
        synthesis_digest=ref.synthesis_digest,
        **made.head_fields,
    )
    chunks = () if opaque else (alpha.encode(plane),)
    return lic_format.write(LicFile(head, metadata=chunks, units=made.units))


def write_case(folder: Path, name: str, data: bytes, model: cb.Checkerboard) -> None:
    file = lic_format.read(data)
    decoded = licodec.decode(data, device="cpu")
    facts = {"decode_digest": file.head.decode_digest.hex(), "symbols": symbols_crc(model, file)}
    (folder / f"{name}.lic").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    decoded.save(folder / f"{name}.png", optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--codec", default="fhic", choices=("fhic", "pilc"))
    parser.add_argument("--tag", help="s-1 of fhic, l-1 of pilc")
    parser.add_argument("--replace", action="store_true", help="write over files of weights not released yet")
    given = parser.parse_args(arguments)
    folder = GOLDEN / given.codec
    folder.mkdir(parents=True, exist_ok=True)
    with PIL.Image.open(PHOTO) as opened:
        photo = opened.convert("RGB")

    def wanted(name: str) -> bool:
        there = (folder / f"{name}.lic").exists() and not given.replace
        if there:
            print(f"{name}: there already")
        return not there

    if given.codec == "pilc":
        for case, samples, options in lossless_cases(photo):
            if wanted(name := f"{given.tag or 'l-1'}-{case}"):
                data = licodec.encode(samples, codec="pilc", **options)
                facts = {"decode_digest": licodec.inspect(data).decode_digest}
                (folder / f"{name}.lic").write_bytes(data)
                (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
                licodec.decode(data).save(folder / f"{name}.png", optimize=True)
                print(f"{name}: {len(data)} bytes")
        return
    weights = store.load("fhic", given.tag or "s-1")
    model = cb.build(weights, "cpu")
    wished = serial_cases if Order.SERIAL in model.orders else cases
    for case, pixels, quality, order in wished(photo):
        if wanted(name := f"{weights.ref.tag}-{case}"):
            data = coded(model, weights.ref, pixels, quality, order)
            write_case(folder, name, data, model)
            print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()

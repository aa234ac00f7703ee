"""Write golden files: small pictures coded with the weights of weights/, and what they decode to.

    python tools/make_golden.py                                      # those that are missing, of every tag
    python tools/make_golden.py --codec fhic --tag s-1 --replace     # all of a tag, after its weights changed

tests/golden/CODEC/ holds, for each file TAG-CASE.lic, TAG-CASE.png (the decoded pixels, where Pillow has a
mode for them) and TAG-CASE.json: the decode digest of the weights; for fhic the CRC-32 of the symbols; for
pilc shape and CRC-32 of the samples; CRC-32 of what metadata chunks hold, by type. An alternate decoder of
the tag adds TAG-CASE.DECODER.png to some of them. Every later version must read them, so --replace is for
weights that no release has (tools/release.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

import lic_format
import licodec
from lic_format import Head, LicFile
from lic_format.header import Colour, Depth, Flag, Order
from lic_format.metadata import COMPRESSIBLE
from licodec import alpha, store
from licodec.codecs import checkerboard as cb
from licodec.codecs.channel_skip import Channels
from licodec.codecs.checkerboard_layout import written
from licodec.codecs.contract import Timer
from licodec.codecs.registry import CODECS
from licodec.images import Picture
from licodec.options import rate_index
from licodec.store.digests import FAST
from licodec.store.table import FILE_NAME, TABLE, Entry, read_table
from tools import frozen, golden_lossless
from tools.golden_lossless import Make, crop

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "examples" / "photo.png"
CROPS = {5.0: (224, 96, 80, 96), 50.0: (192, 416, 75, 90), 95.0: (256, 128, 49, 65)}
"""By quality: top, left, height and width of the crop that is coded at it in each order; sizes that no 16
divides among them."""
MIDDLE = 50.0
GREY_QUALITY, GREY_CROP = 70.0, (160, 384, 63, 95)
COARSE = {Order.CHECKERBOARD: (3.0, (0, 160, 240, 304)), Order.ONE_STEP: (0.0, (0, 160, 200, 208))}
"""Qualities and sizes at which channels are left out."""
SHOWN_BY_ALTERNATES = ("q50", "grey", "alpha")
"""Cases that alternate decoders decode too."""

Pixels = npt.NDArray[np.uint8]


# --- fhic ---------------------------------------------------------------------------------------------------


def lossy_files(photo: PIL.Image.Image, weights: store.Weights) -> Iterator[tuple[str, Make]]:
    """(name, what makes the file) of every golden file of weights of fhic; `photo` has the mode RGB.

    Most are in the order that the weights are for: serial where they know it, else checkerboard.
    """
    model = cb.build(weights, "cpu")
    show = partial(coded, model, weights.ref)
    serial = Order.SERIAL in model.orders
    own = Order.SERIAL if serial else Order.CHECKERBOARD
    for order in model.orders:
        for quality, place in CROPS.items():
            if order == own or not serial or quality == MIDDLE:
                yield (
                    f"q{quality:g}-order{int(order)}",
                    partial(show, crop(photo, place), quality, order),
                )
    for case, pixels, quality in pictures(photo):
        yield f"{case}-order{int(own)}", partial(show, pixels, quality, own)
    if serial:  # which leaves out no channels
        return
    for order, (quality, place) in COARSE.items():
        yield (
            f"coarse-order{int(order)}",
            partial(show, crop(photo.convert("L"), place), quality, order),
        )
    for case, skipped in channel_lists(model.preset.latents).items():
        pixels = crop(photo, CROPS[MIDDLE])
        yield f"{case}-order{int(own)}", partial(show, pixels, MIDDLE, own, skipped)
    yield "metadata-order1", partial(with_metadata, photo, weights)


def pictures(photo: PIL.Image.Image) -> Iterator[tuple[str, Pixels, float]]:
    """(case, pixels H x W x C, quality): kinds of pictures, and the ends of the range of qualities."""
    grey, colours = crop(photo.convert("L"), GREY_CROP), crop(photo, CROPS[MIDDLE])
    y, x = np.indices(colours.shape[:2])
    disc = np.clip(400 - 8 * np.hypot(y - 40, x - 40), 0, 255).astype(np.uint8)
    yield "grey", grey, GREY_QUALITY
    yield "grey-alpha", np.dstack([grey, np.full_like(grey, 77)]), GREY_QUALITY
    yield "alpha", np.dstack([colours, disc]), MIDDLE
    yield "pixel", crop(photo, (10, 10, 1, 1)), MIDDLE
    yield "strip", crop(photo, (100, 20, 2, 300)), MIDDLE
    yield "q0", crop(photo, (96, 96, 64, 70)), 0.0
    yield "q100", crop(photo, (96, 96, 40, 33)), 100.0
    # Symbols that tables do not hold: escapes.
    yield "glaring", 255 * np.random.default_rng(3).integers(0, 2, (24, 32, 3), dtype=np.uint8), 100.0


def channel_lists(count: int) -> dict[str, Channels]:
    """Sets of channels to leave out for which the side info has other lists than encoders write."""
    number = np.arange(count)
    return {
        "skipped-channels": (number >= count * 5 // 8) | np.isin(number, (3, 7)),
        "kept-channels": (number >= count // 5) & ~np.isin(number, (count // 5 + 6, count // 5 + 26)),
        "bitmap-channels": number % 2 == 1,
    }


def coded(
    model: cb.Checkerboard,
    ref: store.WeightsRef,
    pixels: Pixels,
    quality: float,
    order: Order,
    skipped: Channels | None = None,
) -> bytes:
    """The file of pixels H x W x C; `skipped` are channels to leave out instead of those that do not pay."""
    opaque = pixels.shape[2] in (1, 3)
    planes, plane = (pixels, pixels[:, :, 0]) if opaque else (pixels[:, :, :-1], pixels[:, :, -1])
    planes = np.ascontiguousarray(planes if opaque else alpha.without_hidden(planes, plane))
    rate = rate_index(quality)
    if skipped is None:
        made = model.encode(Picture(planes), rate=rate, order=order)
    else:
        timer = Timer(None)
        proposal = model.proposed(model._to_input(planes), rate, order, timer)
        found = model.walked(replace(proposal, skipped=skipped), timer)
        made = written(found.symbols, found.passes, rate, order, model.tables, timer)
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


def with_metadata(photo: PIL.Image.Image, weights: store.Weights) -> bytes:
    """A file with every kind of metadata, stored and deflated, of a picture that is to be turned."""
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a golden file"
    return licodec.encode(
        crop(photo, (192, 416, 40, 52)),
        quality=MIDDLE,
        weights=weights.path,
        device="cpu",
        exif=exif,
        icc_profile=bytes(range(80)),
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b"<rdf:Description/>" * 8 + b"</x:xmpmeta>",
        dpi=(300, 150),
    )


def symbols_crc(model: cb.Checkerboard, file: LicFile) -> str:
    """CRC-32 over z, then q, as little-endian int16 in channel, row, column order."""
    crc = 0
    for symbols in model.read_symbols(file):
        crc = zlib.crc32(symbols.astype("<i2").tobytes(), crc)
    return f"{crc:08x}"


FILES: dict[str, Callable[[PIL.Image.Image, store.Weights], Iterator[tuple[str, Make]]]] = {
    "fhic": lossy_files,
    "pilc": golden_lossless.files,
}
"""By codec: the names of its golden files, and what makes them."""


# --- Files and what is known of them ------------------------------------------------------------------------


def facts_of(file: LicFile, data: bytes, weights: store.Weights) -> dict[str, Any]:
    """What TAG-CASE.json says."""
    facts: dict[str, Any] = {"decode_digest": file.head.decode_digest.hex()}
    if file.head.lossless:
        samples = licodec.decode(data, output="numpy")
        facts["shape"] = samples.shape
        facts["samples"] = f"{zlib.crc32(samples.astype(samples.dtype.newbyteorder('<')).tobytes()):08x}"
    else:
        facts["symbols"] = symbols_crc(cb.build(weights, "cpu"), file)
    contents = {
        chunk.type: lic_format.unpack_metadata(chunk) if chunk.type in COMPRESSIBLE else chunk.payload
        for chunk in file.metadata
        if chunk.type != "ALPH"
    }
    if contents:
        facts["metadata"] = {kind: f"{zlib.crc32(content):08x}" for kind, content in contents.items()}
    return facts


def save_pixels(data: bytes, path: Path, decoder: str = FAST) -> None:
    """The pixels of a file as PNG, without its metadata; nothing where Pillow has no mode for them."""
    head = lic_format.read(data).head
    if head.depth == Depth.BITS_16 and (head.alpha or head.colour != Colour.GREY):
        return
    decoded = licodec.decode(data, device="cpu", decoder=decoder)
    decoded.info.clear()
    decoded.save(path, optimize=True)


def write_case(folder: Path, name: str, data: bytes, weights: store.Weights) -> None:
    """TAG-CASE.lic and all that stands beside it, but for what alternates make of it."""
    file = lic_format.read(data)
    for old in (folder / f"{name}.png", *folder.glob(f"{name}.*.png")):
        old.unlink(missing_ok=True)
    (folder / f"{name}.lic").write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps(facts_of(file, data, weights), indent=1) + "\n")
    save_pixels(data, folder / f"{name}.png")


def path_of(entry: Entry) -> Path:
    """Where the weights of a tag lie."""
    return ROOT / "weights" / entry.name / FILE_NAME


def make(entry: Entry, decoders: list[str], photo: PIL.Image.Image, again: bool) -> None:
    """Write the golden files of a tag that are missing; all of them `again`, and take away those that no
    case makes any more. `decoders` are its alternates."""
    folder = frozen.GOLDEN / entry.ref.codec
    folder.mkdir(parents=True, exist_ok=True)
    weights = store.load(entry.ref.codec, entry.ref.tag, path=path_of(entry))
    names = set()
    for case, made in FILES[entry.ref.codec](photo, weights):
        names.add(name := f"{entry.ref.tag}-{case}")
        if again or not (folder / f"{name}.lic").exists():
            data = made()
            write_case(folder, name, data, weights)
            print(f"{entry.ref.codec}/{name}: {len(data)} bytes")
        for decoder in decoders if case.partition("-order")[0] in SHOWN_BY_ALTERNATES else ():
            if not (picture := folder / f"{name}.{decoder}.png").exists():
                save_pixels((folder / f"{name}.lic").read_bytes(), picture, decoder)
                print(f"{entry.ref.codec}/{picture.name}")
    for path in sorted(folder.glob(f"{entry.ref.tag}-*")) if again else ():
        if path.name.partition(".")[0] not in names and _is_of(path, entry):
            path.unlink()
            print(f"{entry.ref.codec}/{path.name}: taken away")


def _is_of(path: Path, entry: Entry) -> bool:
    """Whether a file that is left over is of a tag, and not of one whose name begins alike."""
    data = path.with_name(path.name.partition(".")[0] + ".lic")
    return not data.exists() or lic_format.read(data.read_bytes()).head.tag == entry.ref.tag


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--codec", choices=FILES, help="only of this codec")
    parser.add_argument("--tag", help="only of this tag")
    parser.add_argument("--replace", action="store_true", help="write over files of weights not released yet")
    given = parser.parse_args(arguments)
    table = read_table(TABLE)
    chosen = [
        entry
        for entry in table
        if entry.decoder == FAST
        and path_of(entry).exists()  # it may be on the Hub alone, with its golden files long written
        and entry.ref.codec in CODECS
        and given.codec in (None, entry.ref.codec)
        and given.tag in (None, entry.ref.tag)
    ]
    if not chosen:
        sys.exit(f"{TABLE.name} has no such tag: run tools/index_weights.py after an export")
    released = frozen.read().tags
    for entry in chosen:
        if given.replace and entry.name in released:
            sys.exit(f"{entry.name} is released: its golden files never change; a new tag gets new ones")
    with PIL.Image.open(PHOTO) as opened:
        photo = opened.convert("RGB")
    for entry in chosen:
        decoders = [
            other.decoder
            for other in table
            if other.decoder != FAST and other.ref.decode_digest == entry.ref.decode_digest
        ]
        make(entry, decoders, photo, given.replace)


if __name__ == "__main__":
    main()

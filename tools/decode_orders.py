"""What fhic's decode orders cost and save, of one picture and one weights file: a table in markdown.

    python tools/decode_orders.py --weights weights/fhic/s-serial-1 [--image PNG] [--quality Q] [--threads N]
    python tools/decode_orders.py --weights weights/fhic/s-serial-1 --images FOLDER|ZIP

The second form prints mean bits a pixel and PSNR of whole files in orders 1 and 2, at some qualities.

`naive` is order 2 with one position at a time in raster order: the same nets, with fronts of one position
each. It is no order of a file: the symbols of the file in order 2 are coded again in this order, and their
tables compared. Times are those of the processor, so that other load counts less, divided by the threads: the
least of some runs, for the naive order of one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

import lic_format
from lic_format import Head, LicFile
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import serial
from licodec.codecs.contract import Coded, Timer
from licodec.entropy.coder import StreamEncoder
from licodec.evaluation.pictures import Source, open_pictures
from licodec.images import Picture, psnr
from licodec.options import rate_index

ROOT = Path(__file__).resolve().parent.parent
RUNS = 4
QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One order, measured; steps are passes of the latents, times in ms."""

    name: str
    size: int
    psnr: float
    steps: int
    encode: float
    symbols: float
    decode: float


@contextlib.contextmanager
def one_position_at_a_time() -> Iterator[None]:
    """Order 2 without its wavefronts."""
    with patch.object(serial, "wavefronts", serial.raster):
        yield


def timed(work: Callable[[], T], runs: int) -> tuple[T, float]:
    """What the work gives, and its processor time in ms on one thread or divided among several."""
    least = float("inf")
    for _ in range(runs):
        start = time.process_time()
        result = work()
        least = min(least, time.process_time() - start)
    return result, 1000 * least / torch.get_num_threads()


def file_of(ref: store.WeightsRef, pixels: npt.NDArray[np.uint8], made: Coded) -> LicFile:
    """A picture's file as readers find it."""
    head = Head(
        width=pixels.shape[1],
        height=pixels.shape[0],
        codec=ref.codec,
        tag=ref.tag,
        decode_digest=ref.decode_digest,
        synthesis_digest=ref.synthesis_digest,
        **made.head_fields,
    )
    return lic_format.read(lic_format.write(LicFile(head, units=made.units)))


def measured(
    name: str,
    model: cb.Checkerboard,
    file: LicFile,
    pixels: npt.NDArray[np.uint8],
    steps: int,
    encode: float,
    runs: int,
) -> Row:
    """A row of a file that was coded."""
    _, symbols = timed(lambda: model.read_symbols(file), runs)
    picture, decode = timed(lambda: model.decode(file), runs)
    size = len(lic_format.write(file))
    return Row(name, size, psnr(pixels, picture.planes), steps, encode, symbols, decode)


def recoded(
    model: cb.Checkerboard, file: LicFile, order: serial.Fronts
) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """The symbols of a file in order 2 as a stream front by front, and their tables [M, h w]."""
    z, q = model.read_symbols(file)
    assert model._serial is not None
    rate = file.head.rate
    indices = serial.SerialIndices(model._serial, z, order, rate, model.exact.path, Timer(None))
    hyper, flat = model._hyper_pass(z, rate), q.reshape(len(q), -1)
    tables = np.empty(flat.shape, np.uint8)
    stream = StreamEncoder(model.tables)
    stream.put(hyper.symbols.reshape(-1), hyper.index.reshape(-1))
    for step, front in serial.passes(model.preset, order):
        cells = order.cells[front].numpy()
        index, symbols = indices.index(step, front), flat[step.first : step.last, cells]
        indices.settle(step, front, symbols)
        stream.put(symbols.reshape(-1), index.reshape(-1))
        tables[step.first : step.last, cells] = index
    return stream.finish(), tables


def rows(
    model: cb.Checkerboard, ref: store.WeightsRef, pixels: npt.NDArray[np.uint8], rate: int
) -> tuple[list[Row], int]:
    """All orders, and how many symbols or tables differ between wavefronts and one position at a time."""
    h, w = layout.grid(*pixels.shape[:2])
    groups = len(model.preset.groups)
    found = []
    for order, name, steps in (
        (Order.ONE_STEP, "0, one step", 1),
        (Order.CHECKERBOARD, "1, checkerboard", len(model.preset.passes)),
        (Order.SERIAL, "2, serial: wavefronts", groups * len(serial.wavefronts(h, w).ends)),
    ):
        code = functools.partial(model.encode, Picture(pixels), rate=rate, order=order)
        made, encode = timed(code, RUNS)
        file = file_of(ref, pixels, made)
        found.append(measured(name, model, file, pixels, steps, encode, RUNS))
    _, q = model.read_symbols(file)
    _, tables = recoded(model, file, serial.wavefronts(h, w))
    fronts = serial.raster(h, w)
    body, naive_tables = recoded(model, file, fronts)
    naive = LicFile(file.head, units=(dataclasses.replace(file.units[0], body=body),))
    with one_position_at_a_time():
        _, encode = timed(code, 1)
        steps = groups * len(fronts.ends)
        found.append(measured("naive: position by position", model, naive, pixels, steps, encode, 1))
        _, naive_q = model.read_symbols(naive)
    return found, int(np.count_nonzero((tables != naive_tables) | (q != naive_q).reshape(len(q), -1)))


def sizes(model: cb.Checkerboard, ref: store.WeightsRef, sources: Sequence[Source]) -> Iterator[str]:
    """Lines of a table: whole files in orders 1 and 2, means over the pictures."""
    yield "| quality | order 1 bpp | order 2 bpp | bits | order 1 dB | order 2 dB |"
    yield "|---|---|---|---|---|---|"
    for quality in QUALITIES:
        rate, found = rate_index(quality), []
        for source in sources:
            pixels, of_picture = source.pixels(), []
            for order in (Order.CHECKERBOARD, Order.SERIAL):
                file = file_of(ref, pixels, model.encode(Picture(pixels), rate=rate, order=order))
                bits = 8 * len(lic_format.write(file)) * pixels.shape[2] / pixels.size
                of_picture += [bits, psnr(pixels, model.decode(file).planes)]
            found.append(of_picture)
        bpp1, psnr1, bpp2, psnr2 = np.mean(found, axis=0).tolist()
        change = 100 * (bpp2 / bpp1 - 1)
        yield f"| {quality:g} | {bpp1:.4f} | {bpp2:.4f} | {change:+.2f} % | {psnr1:.3f} | {psnr2:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "fhic" / "s-serial-1")
    parser.add_argument("--image", type=Path, default=ROOT / "examples" / "photo.png")
    parser.add_argument("--images", type=Path, help="a folder or zip archive, for the table of sizes")
    parser.add_argument("--quality", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = store.load("fhic", given.weights.name, path=given.weights / "model.safetensors")
    model = cb.build(weights, "cpu")
    if given.images is not None:
        for line in sizes(model, weights.ref, open_pictures(given.images)):
            print(line, flush=True)
        return
    with PIL.Image.open(given.image) as opened:
        pixels = np.array(opened.convert("RGB"))
    found, differing = rows(model, weights.ref, pixels, rate_index(given.quality))
    what = f"{weights.ref.codec}/{weights.ref.tag} of digest {weights.decode_digest.hex()}"
    print(
        f"{what}, {given.image.name} of {pixels.shape[1]} x {pixels.shape[0]} pixels, quality "
        f"{given.quality:g}, {given.threads} threads, integers on {model.exact.path}, floats in "
        f"{str(model.precision).removeprefix('torch.')}\n\n"
        "| order | bytes | PSNR | steps | encode ms | symbols ms | decode ms |\n"
        "|---|---|---|---|---|---|---|"
    )
    for row in found:
        numbers = (f"{row.steps}", *(f"{ms:.0f}" for ms in (row.encode, row.symbols, row.decode)))
        print(f"| {row.name} | {row.size} | {row.psnr:.2f} | {' | '.join(numbers)} |")
    wave, naive = found[-2:]
    print(
        f"\nWavefronts encode {naive.encode / wave.encode:.1f} times as fast as one position at a time, "
        f"decode {naive.decode / wave.decode:.1f} times; {differing} symbols or tables differ."
    )


if __name__ == "__main__":
    main()

"""Memory and random access of a large lossless picture: 100 megapixels, coded whole, then read in part.

    python tools/lossless_large.py PHOTO [--megapixels 100]

The picture is made of the photograph, shifted and turned from copy to copy. Peaks are those of the process
(RSS), with the picture itself in it; a region is one tile in the middle.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import PIL.Image

import licodec

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def peak() -> float:
    """GB that the process has held at most."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photo")
    parser.add_argument("--megapixels", type=float, default=100)
    given = parser.parse_args()
    with PIL.Image.open(given.photo) as image:
        photo = np.asarray(image.convert("RGB"))
    side = round((given.megapixels * 1e6) ** 0.5)
    height, width = photo.shape[:2]
    picture = np.empty((side, side, 3), np.uint8)
    rng = np.random.default_rng(0)
    for top in range(0, side, height):
        for left in range(0, side, width):
            room = picture[top : top + height, left : left + width]
            shift = tuple(int(n) for n in rng.integers(0, (height, width)))
            turned = np.roll(photo, shift, (0, 1))[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
            room[:] = turned[: room.shape[0], : room.shape[1]]
    encoder, decoder = licodec.Encoder("pilc"), licodec.Decoder()
    encoder.warm_up()
    before = peak()
    seconds, data = timed(lambda: encoder(picture))
    print(f"{side} x {side}: {len(data) / 1e6:.1f} MB, {8 * len(data) / picture.size:.3f} bits a sample")
    print(f"encode {seconds:.1f} s, {picture.size / seconds / 1e6:.1f} MB/s; peak {peak():.2f} GB")
    print(f"(before it {before:.2f} GB, of which the picture is {picture.nbytes / 1e9:.2f})")
    whole, found = timed(lambda: decoder(data, output="numpy"))
    if not np.array_equal(found, picture):
        raise SystemExit("other samples came back")
    del found
    print(f"decode {whole:.1f} s, {picture.size / whole / 1e6:.1f} MB/s; peak {peak():.2f} GB")
    left = side // 2 // 512 * 512
    region = (left, left, left + 512, left + 512)
    parts = [timed(lambda: decoder(data, output="numpy", region=region)) for _ in range(5)]
    if not np.array_equal(parts[0][1], picture[left : left + 512, left : left + 512]):
        raise SystemExit("other samples came back of the region")
    part = statistics.median(took for took, _ in parts)
    print(f"one tile {1000 * part:.0f} ms, {100 * part / whole:.2f} % of the whole")


if __name__ == "__main__":
    main()

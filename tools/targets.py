"""How near files come to the sizes and the quality that were asked for.

    python tools/targets.py ../data/kodak --size 12000 30000 80000 --psnr 30 34 38

For every picture and target: one file through the public API, its whole length against the target, or the
PSNR of what it decodes to. A target out of the codec's range for a picture is counted and named, and so is a
size that the codec's best quality does not fill.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import licodec
from licodec.images import psnr

BEST_QUALITY = 100.0
Pictures = dict[str, Any]


def report(what: str, unit: str, pictures: Pictures, miss: Callable[[Any], float | None]) -> None:
    """`miss` gives by how much a picture's file misses the target; None where that is out of range."""
    misses = {name: miss(picture) for name, picture in pictures.items()}
    found = [(each, name) for name, each in misses.items() if each is not None]
    beyond = [name for name, each in misses.items() if each is None]
    if found:
        low, high = min(found), max(found)
        middle = float(np.median([each for each, _ in found]))
        print(
            f"{what}: {len(found)} pictures, {low[0]:+.2f} ({low[1]}) to {high[0]:+.2f} {unit} ({high[1]}), "
            f"median {middle:+.2f}"
        )
    if beyond:
        print(f"{what}: out of range for {len(beyond)}: {', '.join(beyond)}")


def by_size(encode: licodec.Encoder, size: int, picture: Any) -> float | None:
    try:
        data = encode(picture, target_size=size)
    except licodec.UsageError:
        return None
    quality = licodec.inspect(data).quality
    filled = quality is not None and quality < BEST_QUALITY
    return 100 * (len(data) / size - 1) if filled else None


def by_psnr(encode: licodec.Encoder, level: float, picture: Any) -> float | None:
    try:
        data = encode(picture, target_psnr=level)
    except licodec.UsageError:
        return None
    return psnr(licodec.decode(data, output="numpy"), picture) - level


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, nargs="*", default=[12000, 30000, 80000], help="bytes")
    parser.add_argument("--psnr", type=float, nargs="*", default=[30.0, 34.0, 38.0], help="dB")
    wish = parser.parse_args()
    pictures = {
        path.stem: np.asarray(Image.open(path).convert("RGB")) for path in sorted(wish.images.glob("*.png"))
    }
    encode = licodec.Encoder()
    for size in wish.size:
        report(f"target_size {size}", "%", pictures, partial(by_size, encode, size))
    for level in wish.psnr:
        report(f"target_psnr {level:g}", "dB", pictures, partial(by_psnr, encode, level))


if __name__ == "__main__":
    main()

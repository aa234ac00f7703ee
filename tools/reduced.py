"""How long decoding takes at parts of a picture's size.

    python tools/reduced.py examples/photo.png --side 4000

Medians of whole calls through the public API, by turns, for each picture as it is and enlarged.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import licodec

THUMBNAIL = 128


def thumbnail(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))


def medians(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Milliseconds of each call; the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(each[1:])) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument(
        "--side", type=int, default=4000, help="the enlarged picture's longer side, in pixels"
    )
    parser.add_argument("--turns", type=int, default=7)
    wish = parser.parse_args()
    for path in wish.images:
        with Image.open(path) as file:
            original = file.convert("RGB")
        factor = wish.side / max(original.size)
        for picture in (original, original.resize([round(factor * side) for side in original.size])):
            data = licodec.encode(picture, quality=75)
            calls: dict[str, Callable[[], Any]] = {
                f"1/{part}": partial(licodec.decode, data, reduce=part) for part in (1, 4, 8, 16)
            }
            calls[f"thumbnail({THUMBNAIL})"] = partial(thumbnail, data)
            found = ", ".join(f"{name} {ms:.0f} ms" for name, ms in medians(calls, wish.turns).items())
            print(f"{path.name}, {picture.width} x {picture.height}: {found}")


if __name__ == "__main__":
    main()

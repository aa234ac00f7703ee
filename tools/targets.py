"""How near files come to the sizes and the quality that were asked for.

    python tools/targets.py ../data/kodak --size 12000 30000 80000 --psnr 30 34 38

For every picture and target: one file through the public API, its whole length against the target, or the
PSNR of what it decodes to. A target out of the codec's range for a picture is counted and named.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import licodec
from licodec.images import psnr


def report(what: str, unit: str, pictures: dict[str, Any], measure: Callable[[Any], float]) -> None:
    found: list[tuple[float, str]] = []
    beyond: list[str] = []
    for name, picture in pictures.items():
        try:
            found.append((measure(picture), name))
        except licodec.UsageError:
            beyond.append(name)
    if found:
        low, high = min(found), max(found)
        middle = float(np.median([each for each, _ in found]))
        print(
            f"{what}: {len(found)} pictures, {low[0]:+.2f} ({low[1]}) to {high[0]:+.2f} {unit} ({high[1]}), "
            f"median {middle:+.2f}"
        )
    if beyond:
        print(f"{what}: out of range for {len(beyond)}: {', '.join(beyond)}")


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

        def over(picture: Any, size: int = size) -> float:
            return 100 * (len(encode(picture, target_size=size)) / size - 1)

        report(f"target_size {size}", "%", pictures, over)
    for level in wish.psnr:

        def above(picture: Any, level: float = level) -> float:
            decoded = licodec.decode(encode(picture, target_psnr=level), output="numpy")
            return float(psnr(decoded, picture)) - level

        report(f"target_psnr {level:g}", "dB", pictures, above)


if __name__ == "__main__":
    main()

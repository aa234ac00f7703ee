"""One photograph through the codec at three qualities: sizes, PSNR, and the results side by side in a PNG.

python examples/demo.py photo.png --out out/demo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import licodec

QUALITIES = (20, 50, 80)
CAPTION = 20  # pixels of height above each picture


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all samples of two 8-bit pictures."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    error = float(np.mean(difference**2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def side_by_side(pictures: list[tuple[str, Image.Image]]) -> Image.Image:
    """The pictures in two columns, each under its caption."""
    width, height = pictures[0][1].size
    rows = -(-len(pictures) // 2)
    sheet = Image.new("RGB", (2 * width, rows * (height + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, picture) in enumerate(pictures):
        x, y = number % 2 * width, number // 2 * (height + CAPTION)
        draw.text((x + 4, y + 4), caption, fill="black")
        sheet.paste(picture, (x, y + CAPTION))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description="Encode and decode a photograph, show sizes and PSNR.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    arguments = parser.parse_args()
    if not arguments.picture.is_file():
        print(f"{arguments.picture} is not there; try: make demo DEMO=photo.png", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)

    original = Image.open(arguments.picture).convert("RGB")
    pixels = original.width * original.height
    encoder, decoder = licodec.Encoder(), licodec.Decoder()
    size = arguments.picture.stat().st_size
    pictures = [(f"original, {size:,} bytes", original)]
    print(f"{arguments.picture}: {original.width} x {original.height}, {size:,} bytes")
    for quality in QUALITIES:
        data = encoder(original, quality=quality)
        (arguments.out / f"{arguments.picture.stem}-q{quality}.lic").write_bytes(data)
        decoded = decoder(data)
        caption = (
            f"quality {quality}: {len(data):,} bytes, {8 * len(data) / pixels:.3f} bpp, "
            f"{psnr(original, decoded):.2f} dB"
        )
        print(caption)
        pictures.append((caption, decoded))
    sheet = arguments.out / "side-by-side.png"
    side_by_side(pictures).save(sheet)
    print(f"files and {sheet.name} are in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

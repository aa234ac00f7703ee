"""A sheet of crops to look at: the original, ours, and peers at the same number of bytes.

The crop is the middle of each picture, not chosen by eye. Peers get the largest file that is not larger than
ours; where a codec's smallest file is still larger, its caption shows by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .bench import AT_EFFORT, TUNED, BenchOptions, BenchResult, CodecResult, Learned, Subject
from .metrics import Pixels, bits_per_pixel, psnr
from .peers import PEERS
from .pictures import Source, open_pictures

CROP = 256
PEER_NAMES = ("jpeg", "webp", "avif")
TARGET_BPP = 0.3
PICTURES = 3

_CAPTION = 34
_MARGIN = 8


@dataclass(frozen=True)
class Panel:
    """One crop of the sheet: uint8 pixels H x W x 3 and two lines under it."""

    pixels: Pixels
    title: str
    figures: str


def setting_near(codec: CodecResult, rate: float) -> float:
    """Return the setting of a measured codec whose mean bpp is nearest to `rate`."""
    return min(zip(codec.curve.bpp, codec.settings, strict=True), key=lambda point: abs(point[0] - rate))[1]


def spread(pictures: Sequence[Source], count: int = PICTURES) -> list[Source]:
    """Return `count` pictures spread evenly over the set, by position alone."""
    if len(pictures) <= count:
        return list(pictures)
    return [pictures[(2 * i + 1) * len(pictures) // (2 * count)] for i in range(count)]


def equal_bytes(
    picture: Source, subject: Subject, setting: float, peers: Sequence[str] = PEER_NAMES
) -> list[Panel]:
    """Return one picture's panels: original, `subject` at `setting`, each installed peer at that size."""
    pixels = picture.pixels()
    data = subject.encode(pixels, setting, {})
    panels = [
        Panel(_middle(pixels), f"{picture.name}, original", f"{pixels.shape[1]}x{pixels.shape[0]}"),
        _panel(pixels, subject.decode(data, {}), f"{subject.title}, {setting:g}", len(data)),
    ]
    for name in peers:
        peer = PEERS[name]
        if peer.missing() is None:
            chosen, file = peer.nearest_size(pixels, len(data))
            title = f"{peer.title.split(' (')[0]}, {chosen:g}"
            panels.append(_panel(pixels, peer.decode(file), title, len(file)))
    return panels


def write_sheet(result: BenchResult, options: BenchOptions, path: Path) -> bool:
    """Write the sheet for a run's first learned codec near `TARGET_BPP`; False where the run has none."""
    learned = [codec for codec in result.codecs if codec.kind == "learned"]
    if not learned:
        return False
    codec = learned[0]
    token, _, effort = codec.name.partition(AT_EFFORT)
    token, _, tune = token.partition(TUNED)
    subject = Learned(
        token,
        codec.settings,
        device=options.device,
        threads=options.threads,
        weights=options.weights,
        tune=tune or None,
        effort=int(effort) if effort else None,
    )
    setting = setting_near(learned[0], TARGET_BPP)
    pictures = [picture for picture in open_pictures(options.images) if picture.name in result.shapes]
    crop_sheet([equal_bytes(picture, subject, setting) for picture in spread(pictures)], path)
    return True


def crop_sheet(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Write the panels as one PNG, a picture a row."""
    columns = max(len(row) for row in rows)
    width = columns * (CROP + _MARGIN) + _MARGIN
    height = len(rows) * (CROP + _CAPTION + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            left = _MARGIN + x * (CROP + _MARGIN)
            top = _MARGIN + y * (CROP + _CAPTION + _MARGIN)
            sheet.paste(Image.fromarray(panel.pixels), (left, top))
            draw.text((left, top + CROP + 1), panel.title, fill="black", font=font)
            draw.text((left, top + CROP + 16), panel.figures, fill="black", font=font)
    sheet.save(path, optimize=True)


def _panel(original: Pixels, decoded: Pixels, title: str, size: int) -> Panel:
    rate = bits_per_pixel(size, original.shape[0] * original.shape[1])
    return Panel(_middle(decoded), title, f"{size} bytes, {rate:.3f} bpp, {psnr(original, decoded):.2f} dB")


def _middle(pixels: Pixels) -> Pixels:
    top, left = (max(0, side - CROP) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + CROP, left : left + CROP])

"""Stretch the contrast of `.lic` files with NumPy, through imageio, into new `.lic` files.

python examples/imageio_pipeline.py out/samples/lic out/stretched --quality 80

The header alone says whether a picture is worth decoding; profile, EXIF (and with it the orientation), XMP
and resolution go along.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt

import licodec  # imageio reads and writes .lic from here on

MOST_PIXELS = 50_000_000
METADATA = ("icc_profile", "exif", "xmp", "dpi")


def stretch(picture: npt.NDArray[np.uint8], percent: float) -> npt.NDArray[np.uint8]:
    """Let `percent` of the samples become black and as many white; alpha stays as it is."""
    alpha = picture.ndim == 3 and picture.shape[2] in (2, 4)
    colours = picture[..., :-1] if alpha else picture
    low, high = np.percentile(colours, [percent, 100 - percent])
    table = np.clip((np.arange(256) - low) / max(high - low, 1) * 255, 0, 255).round().astype(np.uint8)
    stretched = picture.copy()
    stretched[..., : -1 if alpha else None] = table[colours]
    return stretched


def improve(source: Path, target: Path, *, quality: float, percent: float) -> str:
    """Write one stretched picture; return what there is to say of it.

    Raises OSError for a damaged file, as imageio does; licodec.LicError for one that licodec doesn't take.
    """
    with iio.imopen(source, "r") as file:
        height, width = file.properties().shape[:2]  # the header alone
        if height * width > MOST_PIXELS:
            return f"left alone, {width} x {height} pixels are too many"
        info: dict[str, Any] = file.metadata()
        picture = file.read()
    kept = {name: info[name] for name in METADATA if name in info}
    result = stretch(picture, percent)
    iio.imwrite(target, result, quality=quality, **kept)
    before, after = (f"{float(each.std()):.1f}" for each in (picture, result))
    return f"{width} x {height} {info['mode']}, standard deviation {before} -> {after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Stretch the contrast of .lic files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quality", type=float, default=80)
    parser.add_argument("--percent", type=float, default=1, help="of the samples that become black, or white")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for source in sorted(given.folder.glob("*.lic")):
        try:
            said = improve(source, given.out / source.name, quality=given.quality, percent=given.percent)
        except (OSError, licodec.LicError) as error:
            failed, said = True, f"failed: {error}"
        print(f"{source.name}: {said}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

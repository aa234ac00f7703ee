"""Cut photo.png into pieces for the other examples: pictures to encode and files to decode, one of each
damaged.

python examples/samples.py out/samples
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

import licodec

PHOTO = Path(__file__).with_name("photo.png")
SIDE = 256


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the samples that the other examples work on.")
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args(arguments).out
    pictures, files = out / "pictures", out / "lic"
    (pictures / "more").mkdir(parents=True, exist_ok=True)
    files.mkdir(exist_ok=True)

    photo = Image.open(PHOTO).convert("RGB")
    encoder = licodec.Encoder(quality=60)
    corners = [(x, y) for y in range(0, photo.height, SIDE) for x in range(0, photo.width, SIDE)]
    for number, (x, y) in enumerate(corners, start=1):
        crop = photo.crop((x, y, x + SIDE, y + SIDE))
        crop.save(pictures / f"crop-{number}.png" if number % 2 else pictures / "more" / f"crop-{number}.jpg")
        (files / f"crop-{number}.lic").write_bytes(encoder(crop))

    round_one = photo.crop((0, 0, SIDE, SIDE))
    round_one.putalpha(Image.radial_gradient("L").point(lambda distance: 255 if distance < 128 else 0))
    (files / "round.lic").write_bytes(encoder(round_one))

    picture = (pictures / "crop-1.png").read_bytes()
    (pictures / "damaged.png").write_bytes(picture[: len(picture) // 2])
    file = bytearray((files / "crop-1.lic").read_bytes())
    file[len(file) // 2] ^= 1
    (files / "damaged.lic").write_bytes(file)
    for folder in (pictures, files):
        count = sum(path.is_file() for path in folder.rglob("*"))
        print(f"{folder.as_posix()}: {count} files, one of them damaged")
    return 0


if __name__ == "__main__":
    sys.exit(main())

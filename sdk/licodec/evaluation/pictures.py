"""The pictures a bench runs on: a file, a folder, or a zip archive, in the order of their names.

Pictures are read one at a time and as 8-bit RGB; what they carry beside their pixels (metadata, orientation)
plays no part in the measurements.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lic_format.errors import UsageValueError

from .metrics import Pixels

KODAK = tuple(f"kodim{number:02d}" for number in range(1, 25))
_SUFFIXES = frozenset([".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True)
class Source:
    """A picture that can be read: `name` is the file's name without its suffix."""

    name: str
    read: Callable[[], bytes]

    def pixels(self) -> Pixels:
        """Return the picture as uint8, H x W x 3. Raises OSError, naming it, where Pillow can't read it."""
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, zipfile.BadZipFile) as error:
            raise OSError(f"{self.name}: {error}") from error


def open_pictures(path: str | Path, limit: int | None = None) -> list[Source]:
    """Return the pictures of a folder, a zip archive or a single file, sorted by name.

    `limit` keeps the first so many. Raises UsageValueError, naming the path, where there is no picture.
    """
    path = Path(path)
    if path.is_dir():
        found = [Source(file.stem, file.read_bytes) for file in sorted(path.iterdir()) if _is_picture(file)]
    elif zipfile.is_zipfile(path):
        found = _in_archive(path)
    elif path.is_file():
        found = [Source(path.stem, path.read_bytes)]
    else:
        raise UsageValueError(f"images: {path}: there is no such file or folder", argument="images")
    if not found:
        known = ", ".join(sorted(_SUFFIXES))
        raise UsageValueError(f"images: {path} has no pictures; looked for {known}", argument="images")
    return found[:limit]


def halved(picture: Pixels) -> Pixels:
    """Half size by averaging 2x2: sharper, and without most of the traces of a picture's own coding. A last
    odd row or column is left out."""
    h, w = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    cells = picture[:h, :w].astype(np.uint16).reshape(h // 2, 2, w // 2, 2, 3).sum(axis=(1, 3))
    out: Pixels = ((cells + 2) // 4).astype(np.uint8)
    return out


def is_kodak(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Say whether these are the 24 Kodak pictures, for which published curves hold.

    `shapes` are the arrays' shapes. Scaled copies and parts of the set are not Kodak.
    """
    return tuple(names) == KODAK and all(sorted(shape[:2]) == [512, 768] for shape in shapes)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES


def _in_archive(path: Path) -> list[Source]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if _is_picture(Path(name)))
    return [Source(Path(member).stem, _member_reader(path, member)) for member in members]


def _member_reader(path: Path, member: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)

    return read

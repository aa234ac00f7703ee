"""A plugin as it comes out of a first afternoon: it saves and opens photographs, and keeps no other promise.

The probes are run on it to see that each of them can tell.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import PIL.Image
import PIL.ImageFile

from tests.peers.formats import Format

SIGNATURE = b"CARELESS"
KEPT: list[mmap.mmap] = []
"""What every save leaves behind; no memory that was freed before is used again for it."""

CARELESS = Format(
    "careless", "CARELESS", ".careless", "tests.peers.careless",
    lossless={"quality": 100}, wrong={"fail": True},
)  # fmt: skip


class CarelessFile(PIL.ImageFile.ImageFile):
    format = "CARELESS"

    def _open(self) -> None:
        assert self.fp is not None
        content = self.fp.read()
        if len(content) < 16:
            raise RuntimeError("short read")
        self._size = struct.unpack(">II", content[8:16])
        self._mode = "RGB"

    def load(self) -> Any:
        if self._im is None:
            assert self.fp is not None
            self.fp.seek(0)
            time.sleep(0.001)  # the other threads come by
            content = self.fp.read()
            pixels = zlib.decompressobj().decompress(content[16:])
            if len(pixels) < 3 * self.width * self.height:
                pixels = bytes(3 * self.width * self.height)
            self.im = PIL.Image.frombytes("RGB", self.size, pixels).im
        return super().load()


def _save(image: PIL.Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    fp.seek(0)
    fp.write(SIGNATURE + struct.pack(">II", *image.size))
    if image.encoderinfo.get("fail") or image.encoderinfo.get("exif", b"") is None:
        raise RuntimeError("failed")
    KEPT.append(mmap.mmap(-1, 2**22))
    KEPT[-1].write(b"x" * 2**22)
    pixels = image.convert("RGB").point(lambda level: level & 0xF8).tobytes()
    fp.write(zlib.compress(pixels))


@contextmanager
def registered() -> Iterator[Format]:
    """Pillow knows the format for a while."""
    PIL.Image.init()
    name = CARELESS.name
    PIL.Image.register_open(name, CarelessFile, lambda prefix: prefix[:8] == SIGNATURE)
    PIL.Image.register_save(name, _save)
    PIL.Image.register_save_all(name, _save)
    PIL.Image.register_extension(name, CARELESS.suffix)
    try:
        yield CARELESS
    finally:
        for registry in (PIL.Image.OPEN, PIL.Image.SAVE, PIL.Image.SAVE_ALL):
            registry.pop(name, None)
        PIL.Image.ID.remove(name)
        PIL.Image.EXTENSION.pop(CARELESS.suffix)
        KEPT.clear()

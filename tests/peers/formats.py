"""The formats that the table of peers compares: who brings each, how it is registered, how it loses least.

One process knows one of them: two plugins for AVIF would take each other's place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image


@dataclass(frozen=True)
class Format:
    """A format as Pillow knows it.

    Attributes:
        title: heading of its column.
        name: Pillow's id.
        module: where its class of opened images must come from.
        distribution: which package brings it.
        register: makes Pillow know it, beyond `PIL.Image.init()`.
        best: options that lose least.
        lossless: options that should lose nothing; None where the format has no such way.
        wrong: options that make every save fail.
        save_safely: a way of saving, besides Pillow's, that replaces a file only by a whole one; its name
            and the function.
    """

    title: str
    name: str
    suffix: str
    module: str
    distribution: str = "pillow"
    register: Callable[[], object] = lambda: None
    best: Mapping[str, Any] = field(default_factory=dict)
    lossless: Mapping[str, Any] | None = None
    wrong: Mapping[str, Any] = field(default_factory=lambda: {"exif": 3})
    save_safely: tuple[str, Callable[..., None]] | None = None

    def prepare(self) -> None:
        """Register the format in this process; raises where somebody else answers for it."""
        PIL.Image.init()
        self.register()
        found = PIL.Image.OPEN[self.name][0]
        if not (getattr(found, "__module__", "") or "").startswith(self.module):
            raise RuntimeError(f"{self.name} is opened by {found!r}, expected one of {self.module}")


def _importing(module: str, function: str | None = None) -> Callable[[], object]:
    def register() -> None:
        found = importlib.import_module(module)
        if function is not None:
            getattr(found, function)()

    return register


def _save_with_licodec(image: PIL.Image.Image, path: Path, **options: Any) -> None:
    importlib.import_module("licodec").save(image, path, **options)


_AVIF_BEST = {"quality": 100, "subsampling": "4:4:4"}

FORMATS: Mapping[str, Format] = {
    "png": Format("PNG", "PNG", ".png", "PIL.PngImagePlugin", lossless={}),
    "jpeg": Format(
        "JPEG", "JPEG", ".jpg", "PIL.JpegImagePlugin", best={"quality": 100, "subsampling": "4:4:4"}
    ),
    "jpeg2000": Format(
        "JPEG 2000", "JPEG2000", ".jp2", "PIL.Jpeg2KImagePlugin",
        lossless={}, wrong={"quality_layers": "high"},
    ),
    "webp": Format(
        "WebP", "WEBP", ".webp", "PIL.WebPImagePlugin",
        best={"lossless": True, "exact": True}, lossless={"lossless": True, "exact": True},
    ),
    "avif": Format(
        "AVIF", "AVIF", ".avif", "PIL.AvifImagePlugin", best=_AVIF_BEST, lossless=_AVIF_BEST
    ),
    "pillow-avif": Format(
        "pillow-avif", "AVIF", ".avif", "pillow_avif.", "pillow-avif-plugin", _importing("pillow_avif"),
        best=_AVIF_BEST, lossless=_AVIF_BEST,
    ),
    "pillow-heif": Format(
        "pillow-heif", "HEIF", ".heic", "pillow_heif.", "pillow-heif",
        _importing("pillow_heif", "register_heif_opener"),
        best={"quality": -1, "chroma": 444, "matrix_coefficients": 0},
        lossless={"quality": -1, "chroma": 444, "matrix_coefficients": 0},
    ),
    "pillow-jxl": Format(
        "pillow-jxl", "JXL", ".jxl", "pillow_jxl.", "pillow-jxl-plugin", _importing("pillow_jxl"),
        best={"lossless": True}, lossless={"lossless": True},
    ),
    "lic": Format(
        "LIC", "LIC", ".lic", "licodec.", "licodec", _importing("licodec", "register_pillow"),
        best={"quality": 100}, lossless={"lossless": True},
        save_safely=("licodec.save", _save_with_licodec),
    ),
}  # fmt: skip

"""Classical codecs, through Pillow, as opponents.

A peer is a row of `PEERS`: Pillow's format, the save options for one setting, and the settings to run. The
settings are those of the measured curves in `anchors.json`, so a run on Kodak can be held against them. They
go from small files to large ones.

AVIF appears twice: with Pillow's defaults (4:2:0 and a perceptual tune), which is what people get, and as
4:4:4 tuned for PSNR, which is the honest opponent in a table of PSNR. JPEG XL tunes for a perceptual
distance: look at its MS-SSIM too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from .metrics import Pixels


@dataclass(frozen=True)
class Peer:
    """One classical codec with fixed options but one.

    `save_options(setting, threads)` gives Pillow's save options. `settings` go from low to high rate.
    `search` are the settings that `nearest_size` may use, in the same order. `feature` is Pillow's name of
    the library it needs, or None for a plugin.
    """

    name: str
    title: str
    format: str
    save_options: Callable[[float, int], Mapping[str, Any]]
    settings: tuple[float, ...]
    search: tuple[float, ...]
    feature: str | None
    kind: str = "classical"

    def missing(self) -> str | None:
        """Return what has to be installed before this peer can run, or None."""
        if self.feature is not None:
            return None if features.check(self.feature) else f"a Pillow built with {self.feature}"
        try:
            import pillow_jxl  # noqa: F401  (importing it registers the format)
        except ImportError:
            return "pillow-jxl-plugin"
        return None

    def encode(self, pixels: Pixels, setting: float, *, threads: int = 1) -> bytes:
        """Return the file for a uint8 H x W x 3 picture. Only AVIF and JPEG XL use more than one thread."""
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, self.format, **self.save_options(setting, threads))
        return sink.getvalue()

    def decode(self, data: bytes) -> Pixels:
        """Return the pixels, uint8 H x W x 3, of a file that `encode` wrote."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("RGB"))

    def nearest_size(self, pixels: Pixels, size: int) -> tuple[float, bytes]:
        """Return the setting and the file that is the largest of at most `size` bytes, else the smallest.

        Bisection over `search`: sizes rise with the setting but for rare steps back, which cost at most a
        setting.
        """
        low, high = 0, len(self.search) - 1
        best = self.search[0], self.encode(pixels, self.search[0])
        while low < high:
            middle = (low + high + 1) // 2
            data = self.encode(pixels, self.search[middle])
            if len(data) <= size:
                best, low = (self.search[middle], data), middle
            else:
                high = middle - 1
        return best


_QUALITIES = tuple(float(quality) for quality in range(0, 101))
# Compression ratios from 400 down to 2 in steps of 4 %.
_RATIOS = tuple(round(400 / 1.04**step, 2) for step in range(136))
_JPEG = (5, 10, 20, 30, 50, 70, 80, 90, 95)
_AVIF = (15, 30, 45, 58, 70, 82, 92)

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "jpeg",
            "JPEG 4:2:0 optimize",
            "JPEG",
            lambda setting, _: {"quality": int(setting), "subsampling": "4:2:0", "optimize": True},
            _JPEG,
            _QUALITIES[1:],
            "jpg",
        ),
        Peer(
            "jpeg444",
            "JPEG 4:4:4 optimize",
            "JPEG",
            lambda setting, _: {"quality": int(setting), "subsampling": "4:4:4", "optimize": True},
            _JPEG,
            _QUALITIES[1:],
            "jpg",
        ),
        Peer(
            "jpeg2000",
            "JPEG 2000 9/7",
            "JPEG2000",
            lambda setting, _: {"quality_mode": "rates", "quality_layers": [setting], "irreversible": True},
            (160, 100, 60, 36, 24, 16, 10, 6),
            _RATIOS,
            "jpg_2000",
        ),
        Peer(
            "webp",
            "WebP m6",
            "WEBP",
            lambda setting, _: {"quality": int(setting), "method": 6},
            (1, 10, 25, 40, 60, 75, 85, 92, 97),
            _QUALITIES,
            "webp",
        ),
        Peer(
            "avif",
            "AVIF default (speed 6, 4:2:0)",
            "AVIF",
            lambda setting, threads: {"quality": int(setting), "max_threads": threads},
            _AVIF,
            _QUALITIES,
            "avif",
        ),
        Peer(
            "avif444",
            "AVIF 4:4:4 tune=psnr",
            "AVIF",
            lambda setting, threads: {
                "quality": int(setting),
                "subsampling": "4:4:4",
                "advanced": {"tune": "psnr"},
                "max_threads": threads,
            },
            _AVIF,
            _QUALITIES,
            "avif",
        ),
        Peer(
            "jxl",
            "JPEG XL e7",
            "JXL",
            # -1 lets the library choose; 0 threads beside the caller's is what "one thread" means to it.
            lambda setting, threads: {
                "quality": int(setting),
                "effort": 7,
                "num_threads": threads if threads > 1 else 0,
            },
            (8, 20, 35, 50, 65, 78, 88, 94),
            _QUALITIES[1:100],
            None,
        ),
    )
}
"""The peers by the names that `licodec bench --codecs` takes."""

"""Fixtures of tests/sdk and tests/plugins: pictures, and the stand-in codec with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import licodec
from licodec.codecs.registry import CODECS
from tests.sdk import stand_in as codec


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Registers the stand-in codec; the value is the folder that LICODEC_WEIGHTS names."""
    folder = tmp_path / "weights"
    codec.write_weights(folder)
    monkeypatch.setitem(CODECS, codec.ENTRY.token, codec.ENTRY)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(folder))
    licodec.clear_cache()
    yield folder
    licodec.clear_cache()


def pixels(height: int = 40, width: int = 56, channels: int = 3) -> Any:
    """A smooth uint8 picture H x W x C with a little texture, the same on every call."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [120 + 60 * np.sin((x + 9 * c) / 11) + 50 * np.cos(y / (7 + c)) for c in range(channels)]
    noise = np.random.default_rng(7).normal(0, 3, (height, width, channels))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def image() -> PIL.Image.Image:
    return PIL.Image.fromarray(pixels())


@pytest.fixture
def lic(stand_in: Path, image: PIL.Image.Image) -> bytes:
    """A `.lic` file of the stand-in codec."""
    return licodec.encode(image, codec="stand-in", quality=100)

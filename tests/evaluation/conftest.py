"""Pictures without files: smooth ground, edges and some grain; codecs behave on them as on photographs."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from licodec.evaluation.metrics import Pixels
from licodec.evaluation.pictures import Source


def synthetic(height: int, width: int, seed: int = 1) -> Pixels:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    generator = np.random.default_rng(seed)
    waves = [
        np.sin((x * generator.uniform(0.5, 1.5) + y * generator.uniform(0.5, 1.5)) / s) for s in (90, 23, 7)
    ]
    ground = 120 + 50 * waves[0] + 25 * waves[1] + 8 * waves[2]
    edges = 40 * ((x // 37 + y // 29) % 3 == 0)
    colour = np.stack([ground + edges, ground * 0.8 + 20, 200 - ground * 0.5 + edges], axis=2)
    grain = generator.normal(0, 3, colour.shape)
    return np.clip(np.rint(colour + grain), 0, 255).astype(np.uint8)


def png(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def make_source() -> Callable[..., Source]:
    def make(name: str, height: int = 192, width: int = 256, seed: int = 1) -> Source:
        data = png(synthetic(height, width, seed))
        return Source(name, lambda: data)

    return make


@pytest.fixture
def pixels() -> Pixels:
    return synthetic(192, 256)

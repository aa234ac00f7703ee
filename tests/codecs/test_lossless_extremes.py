"""Lossless through the public API: pictures at the edge of what there is, and every small size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import lic_format
import licodec

Samples = npt.NDArray[np.uint8]
Numbers = npt.NDArray[Any]
"""Samples before they are cut to 8 bits."""
Rng = np.random.Generator
CHANNELS = (1, 3, 2, 4)
SLACK = 64
"""Bytes by which a file may exceed its samples, beside its container."""


@pytest.fixture(scope="module")
def encoder() -> licodec.Encoder:
    return licodec.Encoder("pilc", device="cpu")


@pytest.fixture(scope="module")
def decoder() -> licodec.Decoder:
    return licodec.Decoder(device="cpu")


def comes_back(encoder: licodec.Encoder, decoder: licodec.Decoder, samples: Samples) -> None:
    """Exactly, from a file that is hardly larger than the samples."""
    data = encoder(samples)
    found = decoder(data, output="numpy").reshape(samples.shape)
    assert np.array_equal(found, samples)
    file = lic_format.read(data)
    alpha = file.find("ALPH")
    coded = sum(len(unit.body) for unit in file.units) + (len(alpha.payload) if alpha else 0)
    assert coded <= samples.size + SLACK
    assert len(data) - coded <= 90 + 16 * len(file.units) + (16 if alpha else 0), "the container"


# --- extremes -------------------------------------------------------------------------------------


def noise(rng: Rng, h: int, w: int, c: int) -> Numbers:
    spread = int(rng.choice([1, 2, 5, 20, 80, 255]))
    return rng.integers(0, 256 - spread) + rng.integers(0, spread + 1, (h, w, c))


def two_levels(rng: Rng, h: int, w: int, c: int) -> Numbers:
    return 255 * rng.integers(0, 2, (h, w, c))


def constant(rng: Rng, h: int, w: int, c: int) -> Numbers:
    return np.full((h, w, c), rng.integers(0, 256, c))


def gradient(rng: Rng, h: int, w: int, c: int) -> Numbers:
    y, x = np.mgrid[0:h, 0:w]
    steps = rng.integers(-9, 10, (2, c))
    ramp: Numbers = y[:, :, None] * steps[0] + x[:, :, None] * steps[1] + rng.integers(0, 256, c)
    return ramp


def checkers(rng: Rng, h: int, w: int, c: int) -> Numbers:
    y, x = np.mgrid[0:h, 0:w]
    side = int(rng.integers(1, 5))
    colours = rng.integers(0, 256, (2, c)) if rng.integers(2) else np.array([[0] * c, [255] * c])
    chosen: Numbers = colours[(y // side + x // side) % 2]
    return chosen


def line(rng: Rng, h: int, w: int, c: int) -> Numbers:
    out = np.full((h, w, c), rng.integers(0, 256, c))
    if rng.integers(2):
        out[rng.integers(h)] = rng.integers(0, 256, c)
    else:
        out[:, rng.integers(w)] = rng.integers(0, 256, c)
    return out


def one_line_high_or_wide(rng: Rng, h: int, w: int, c: int) -> Numbers:
    shape = (1, 5 * w, c) if rng.integers(2) else (5 * h, 1, c)
    return noise(rng, *shape)


def palette(rng: Rng, h: int, w: int, c: int) -> Numbers:
    colours = rng.integers(0, 256, (int(rng.choice([2, 3, 16, 17, 200, 256, 257])), c))
    return colours[rng.integers(0, len(colours), (h, w))]


def halves(rng: Rng, h: int, w: int, c: int) -> Numbers:
    kinds = rng.permutation(len(MIXED))[:2]
    first, second = (MIXED[kind](rng, h, w, c) for kind in kinds)
    at = int(rng.integers(w + 1))
    return np.concatenate([first[:, :at], second[:, at:]], axis=1)


def border(rng: Rng, h: int, w: int, c: int) -> Numbers:
    out = np.array(noise(rng, h, w, c))
    wide = int(rng.integers(1, 4))
    out[:wide] = out[-wide:] = rng.integers(0, 256, c)
    out[:, :wide] = out[:, -wide:] = rng.integers(0, 256, c)
    return out


MIXED: tuple[Callable[[Rng, int, int, int], Numbers], ...] = (noise, constant, gradient, checkers, palette)
KINDS = (*MIXED, two_levels, line, one_line_high_or_wide, halves, border)


def extremes(kind: Callable[[Rng, int, int, int], Numbers]) -> Iterator[Samples]:
    """Twenty pictures of a kind, five of each number of channels."""
    for number in range(20):
        rng = np.random.default_rng([number, KINDS.index(kind)])
        h, w = (int(side) for side in rng.integers(1, 28, 2))
        yield np.asarray(kind(rng, h, w, CHANNELS[number % 4])).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_extremes_come_back(
    encoder: licodec.Encoder, decoder: licodec.Decoder, kind: Callable[[Rng, int, int, int], Numbers]
) -> None:
    for samples in extremes(kind):
        comes_back(encoder, decoder, samples)


def test_large_flat_pictures_come_back() -> None:
    """A byte for 2^18 pixels, and nobody takes that for an attack."""
    for shape in ((1024, 1024), (600, 900, 4)):
        samples = np.full(shape, 7, np.uint8)
        data = licodec.encode(samples, lossless=True)
        assert len(data) < 250
        assert np.array_equal(licodec.decode(data, output="numpy"), samples)


# --- sizes ----------------------------------------------------------------------------------------


SIZES = [(height, width) for height in range(1, 41) for width in range(1, 41)]
EVERY = 79
"""A prime: the sample meets every height and every width, or nearly."""


@pytest.mark.fuzz
@pytest.mark.parametrize("channels", [1, 3])
def test_all_sizes_to_40_come_back(encoder: licodec.Encoder, decoder: licodec.Decoder, channels: int) -> None:
    """All of them in `make fuzz`, which sets a time; elsewhere a fixed sample."""
    chosen = SIZES if "LICODEC_FUZZ_SECONDS" in os.environ else SIZES[channels::EVERY]
    for height, width in chosen:
        rng = np.random.default_rng([height, width, channels])
        y, x = np.mgrid[0:height, 0:width, 0:channels][:2]
        wave = 120 + 70 * np.sin(x / 5 + y / 9) + rng.normal(0, 3, (height, width, channels))
        comes_back(encoder, decoder, wave.clip(0, 255).astype(np.uint8))

"""Inputs on which integer layers prove themselves, and what their sums are told apart by.

A weights file holds a CRC-32 of each layer's sums on three inputs: a map of mixed numbers, one of the largest
activation alone and one of the smallest.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
import numpy.typing as npt

from licodec.exact.specs import ACTIVATION_MAX

KNOWN_ANSWER_RATE = 137
KNOWN_CHANNELS = 256
"""Nearly all layers have as many inputs or fewer."""


@functools.lru_cache(maxsize=32)  # many layers have the same number of channels
def known_map(channels: int, signed: bool, kernel: int) -> npt.NDArray[np.int8]:
    """The inputs of `known_inputs` on one map [h, w, in], so far from each other that between them lies
    what lies beyond a map's border: one convolution instead of three gives the same sums."""
    inputs = known_inputs(channels, signed)
    places = known_places(kernel)
    height, width = (max(place[axis].stop for place in places) for axis in (0, 1))
    together = np.zeros((height, width, channels), np.int8)
    for (rows, columns), values in zip(places, inputs, strict=True):
        together[rows, columns] = values.transpose(1, 2, 0)
    return together


def known_places(kernel: int) -> list[tuple[slice, slice]]:
    """Rows and columns of each known input on the map of all."""
    down, right = 24 + kernel // 2, 6 + kernel // 2
    return [
        (slice(0, 24), slice(0, 16)),
        (slice(down, down + 6), slice(0, 6)),
        (slice(down, down + 6), slice(right, right + 6)),
    ]


def known_inputs(channels: int, signed: bool) -> list[npt.NDArray[np.int8]]:
    """Inputs [in, h, w] over a layer's whole legal range: a 24 x 16 map from a fixed generator, and the
    extremes."""
    low = -ACTIVATION_MAX if signed else 0
    count = channels * 24 * 16
    numbers = _many_numbers(signed)[:count] if channels <= KNOWN_CHANNELS else _mixed(count, signed)
    extremes = (np.full((channels, 6, 6), value, np.int8) for value in (ACTIVATION_MAX, low))
    return [numbers.reshape(channels, 24, 16), *extremes]


def answer(sums: npt.NDArray[np.integer], kernel: int) -> int:
    """CRC-32 over the sums of a layer [h, w, out] on `known_map`, as little-endian int32."""
    by_channel = sums.transpose(2, 0, 1)
    crc = 0
    for rows, columns in known_places(kernel):
        crc = zlib.crc32(np.ascontiguousarray(by_channel[:, rows, columns], "<i4").data, crc)
    return crc


@functools.cache
def _many_numbers(signed: bool) -> npt.NDArray[np.int8]:
    return _mixed(KNOWN_CHANNELS * 24 * 16, signed)


def _mixed(count: int, signed: bool) -> npt.NDArray[np.int8]:
    low = -ACTIVATION_MAX if signed else 0
    return (low + lcg(count) % (ACTIVATION_MAX - low + 1)).astype(np.int8)


def lcg(count: int, seed: int = 2026) -> npt.NDArray[np.int64]:
    """High 31 bits of x -> 6364136223846793005 x + 1442695040888963407 mod 2^64, int64 [count]; the same
    everywhere."""
    a, c = np.uint64(6364136223846793005), np.uint64(1442695040888963407)
    with np.errstate(over="ignore"):
        state = np.array([seed], np.uint64) * a + c
        while state.size < count:  # doubling: a jump of n steps is itself such a map
            state = np.concatenate([state, state * a + c])
            a, c = a * a, c * (a + np.uint64(1))
    return (state[:count] >> np.uint64(33)).astype(np.int64)

"""The default codec through the whole SDK: round trips, qualities, and damaged or lying files."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lic_format
import licodec
from lic_format import FormatError, UnsupportedError
from licodec.models import CACHE
from tests.sdk.fixtures import pixels
from tests.sdk.test_fuzz import mended


@pytest.fixture(scope="module")
def coder() -> tuple[licodec.Encoder, licodec.Decoder]:
    return licodec.Encoder(device="cpu"), licodec.Decoder(device="cpu")


@pytest.fixture(scope="module")
def small(coder: tuple[licodec.Encoder, licodec.Decoder]) -> bytes:
    data: bytes = coder[0](pixels(17, 23), quality=50)
    return data


def psnr(first: Any, second: Any) -> float:
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (65, 1), (17, 23), (64, 64), (129, 80)])
def test_a_picture_of_any_size_comes_back_like_itself(
    coder: tuple[licodec.Encoder, licodec.Decoder], size: tuple[int, int], channels: int
) -> None:
    encode, decode = coder
    planes = pixels(*size, channels)
    decoded = decode(encode(planes, quality=90), output="numpy")
    expected = planes if channels == 3 else planes[:, :, 0]
    assert decoded.shape == expected.shape
    assert psnr(decoded, expected) > 25


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_exact_and_a_constant_one_costs_next_to_nothing(
    coder: tuple[licodec.Encoder, licodec.Decoder], channels: int
) -> None:
    encode, decode = coder
    planes = pixels(65, 96, channels)
    plain = encode(planes, quality=50)
    for alpha in (255, 77):
        opaque = np.dstack([planes, np.full((65, 96), alpha, np.uint8)])
        data = encode(opaque, quality=50)
        assert len(data) - len(plain) <= 40
        decoded = decode(data, output="numpy")
        assert (decoded[:, :, -1] == alpha).all()
        assert np.array_equal(decoded[:, :, :-1].squeeze(), decode(plain, output="numpy"))


def test_noise_under_transparent_pixels_changes_nothing(
    coder: tuple[licodec.Encoder, licodec.Decoder],
) -> None:
    encode, _ = coder
    samples = np.dstack([pixels(96, 96), np.full((96, 96), 255, np.uint8)])
    samples[20:60, 30:80, 3] = 0
    noisy = samples.copy()
    noisy[20:60, 30:80, :3] = np.random.default_rng(1).integers(0, 256, (40, 50, 3))
    assert encode(samples, quality=70) == encode(noisy, quality=70)


def test_bytes_and_likeness_rise_with_quality(coder: tuple[licodec.Encoder, licodec.Decoder]) -> None:
    encode, decode = coder
    planes = pixels(192, 256)
    files = [encode(planes, quality=quality) for quality in range(0, 101, 20)]
    sizes = [len(file) for file in files]
    likeness = [psnr(decode(file, output="numpy"), planes) for file in files]
    assert sizes == sorted(set(sizes))
    assert likeness == sorted(likeness)


def test_lists_give_the_bytes_of_single_calls(coder: tuple[licodec.Encoder, licodec.Decoder]) -> None:
    pictures = [pixels(40, 56), pixels(17, 23), pixels(40, 56, 1)]
    assert coder[0](pictures, quality=30) == [
        licodec.encode(one, quality=30, device="cpu") for one in pictures
    ]


def test_a_file_pays_at_most_100_bytes_beside_its_payload(small: bytes) -> None:
    file = lic_format.read(small)
    escapes, words = lic_format.split_ans_body(file.units[0].body)
    seal = 5  # the coder's start state carries it: 33 bits
    assert len(small) - len(words) - len(escapes) + seal <= 100


def test_stages_are_timed_and_named(coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes) -> None:
    for call in (
        lambda stages: coder[0](pixels(), stages=stages),
        lambda stages: coder[1](small, stages=stages),
    ):
        stages: dict[str, float] = {}
        call(stages)
        assert set(stages) >= {"pixels", "network", "exact", "entropy", "container"}


# --- damaged and lying files ---------------------------------------------------------------


def refused(data: bytes, decode: licodec.Decoder) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        decode(data)


def test_every_truncation_is_detected(coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes) -> None:
    for length in range(len(small)):
        refused(small[:length], coder[1])
    refused(small + b"\0", coder[1])
    refused(small + small, coder[1])


def test_every_bit_flip_in_the_header_and_500_in_the_payload_are_detected(
    coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes
) -> None:
    payload = small.index(b"DATA")
    rng = random.Random(11)
    bits = [*range(8 * payload), *(rng.randrange(8 * payload, 8 * len(small)) for _ in range(500))]
    for bit in bits:
        damaged = bytearray(small)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(bytes(damaged), coder[1])


def test_damage_with_a_right_checksum_is_caught_by_the_seal(
    coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes
) -> None:
    payload = small.index(b"DATA") + 8
    rng = random.Random(12)
    for _ in range(60):
        damaged = bytearray(small)
        bit = rng.randrange(8 * payload, 8 * (len(small) - 13))
        damaged[bit // 8] ^= 1 << bit % 8
        refused(mended(bytes(damaged)), coder[1])


def test_another_rate_than_the_encoders_is_caught_by_the_seal(
    coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes
) -> None:
    file = lic_format.read(small)
    for rate in (0, file.head.rate + 40, 255):
        refused(lic_format.write(replace(file, head=replace(file.head, rate=rate))), coder[1])


@pytest.mark.parametrize("side", [(1 << 14, 1 << 13), (1 << 24, 16), (16, 1 << 24)])
def test_a_100_byte_file_can_not_ask_for_millions_of_pixels(small: bytes, side: tuple[int, int]) -> None:
    file = lic_format.read(small)
    body = file.units[0].body[:9]
    unit = lic_format.Unit(0, b"", b"\0" + body[1:] if body[-1] else b"\0" + body[1:8] + b"\1")
    bomb = lic_format.write(
        replace(file, head=replace(file.head, width=side[0], height=side[1]), units=(unit,))
    )
    assert len(bomb) < 120
    licodec.clear_cache()
    times = []
    for _ in range(5):
        start = time.process_time()
        with pytest.raises((FormatError, UnsupportedError)):
            licodec.decode(bomb, device="cpu")
        times.append(time.process_time() - start)
    assert min(times) < 0.010
    assert len(CACHE) == 0


def test_dimensions_beyond_the_format_are_refused(small: bytes) -> None:
    start = small.index(b"HEAD")
    for width in (b"\x80\x80\x80\x80\x08", b"\xff\xff\xff\xff\x0f"):
        head = small[start + 5 : small.index(b"DATA") - 4]
        lying = head[:1] + width + head[2:]
        data = (
            small[:start]
            + b"HEAD"
            + bytes([len(lying)])
            + lying
            + b"\0\0\0\0"
            + small[small.index(b"DATA") :]
        )
        with pytest.raises(FormatError, match="width"):
            licodec.decode(mended(data))


def test_chunks_in_another_order_or_twice_are_refused(
    coder: tuple[licodec.Encoder, licodec.Decoder], small: bytes
) -> None:
    head = small.index(b"HEAD")
    data, done = small.index(b"DATA"), len(small) - 9
    signature, parts = small[:head], [small[head:data], small[data:done], small[done:]]
    for order in ([1, 0, 2], [0, 2, 1], [0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2], [0, 1], [1, 2], [0, 2], []):
        refused(signature + b"".join(parts[index] for index in order), coder[1])

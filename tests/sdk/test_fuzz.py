"""Mutated files against the whole reader: any bytes give a picture or a LicError.

Runs for LICODEC_FUZZ_SECONDS (2 by default, `make fuzz` for minutes) with a seed that is printed, so a find
can be repeated with LICODEC_FUZZ_SEED.
"""

from __future__ import annotations

import os
import random
import time
import warnings
import zlib

import pytest

import lic_format
import licodec
from lic_format import LicError
from tests.sdk.fixtures import pixels

SECONDS = float(os.environ.get("LICODEC_FUZZ_SECONDS", "2"))
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x08",
    b"HEAD",
    b"DATA",
    b"DONE",
)


def mended(data: bytes) -> bytes:
    """The same chunks with right checksums, so that mutations reach what lies behind them."""
    out, position = bytearray(data[:8]), 8
    while position + 5 <= len(data):
        start = position
        position += 4
        length, shift = 0, 0
        while position < len(data) and shift < 35:
            byte = data[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                break
        position += length
        out += data[start:position] + zlib.crc32(data[start:position]).to_bytes(4, "little")
        position += 4
    return bytes(out)


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 90))
        kind = rng.randrange(5)
        if kind == 0:
            out[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[place] = rng.randrange(256)
        elif kind == 2:
            piece = rng.choice(INTERESTING)
            out[place : place + len(piece)] = piece
        elif kind == 3:
            del out[place : place + rng.randrange(1, 9)]
        else:
            out[place:place] = out[rng.randrange(len(out)) :][: rng.randrange(1, 40)]
        if not out:
            return b""
    return mended(bytes(out)) if rng.random() < 0.8 else bytes(out)


@pytest.mark.fuzz
@pytest.mark.usefixtures("stand_in")
def test_any_bytes_give_a_picture_or_an_error_of_ours() -> None:
    seed = int(os.environ.get("LICODEC_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"LICODEC_FUZZ_SEED={seed}")
    rng = random.Random(seed)
    decoder = licodec.Decoder(device="cpu")
    files = [licodec.encode(pixels(*size), codec="stand-in", quality=90) for size in ((3, 2, 1), (17, 9, 3))]
    end = time.monotonic() + SECONDS
    outcomes = {"picture": 0, "error": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", licodec.LicWarning)
        while time.monotonic() < end:
            data = mutated(rng.choice(files), rng)
            start = time.process_time()
            for call in (licodec.inspect, lambda data: decoder(data, max_pixels=1 << 20), lic_format.read):
                try:
                    call(data)
                    outcomes["picture"] += 1
                except LicError:
                    outcomes["error"] += 1
                except BaseException:
                    print(f"found by seed {seed}: {data.hex()}")
                    raise
            assert time.process_time() - start < 2.0, f"slow: {data.hex()}"
    assert min(outcomes.values()) > 0, outcomes

"""Large pictures: what decoding 12 megapixels takes, measured in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

import licodec

ROOT = Path(__file__).parents[2]
PEAK_GB = 1.5
PROGRAM = """
import sys, time
from pathlib import Path
import licodec
start = time.perf_counter()
picture = licodec.load(sys.argv[1], device="cpu")
seconds = time.perf_counter() - start
assert picture.size == (4000, 3000)
# Not ru_maxrss, in which a program that was started inherits from the one that started it.
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1e6, seconds)
"""

AGAIN = """
import resource, sys
import licodec, PIL.Image
picture = PIL.Image.open(sys.argv[1]).convert("RGB").resize((768, 512))
encode, decode = licodec.Encoder(device="cpu"), licodec.Decoder(device="cpu")
for _ in range(3):
    decode(encode(picture))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    decode(encode(picture))
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 5)
"""
FRESH = 8e6
"""Bytes; activations of such a picture come to hundreds of millions."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what other C libraries keep is their business")
def test_a_second_picture_uses_the_memory_of_the_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(ROOT / "examples" / "photo.png")],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))},
    )
    fresh = float(done.stdout)
    print(f"{fresh / 1e6:.1f} MB of memory taken anew from the system by encoding and decoding a picture")
    assert fresh < FRESH


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_twelve_megapixels_decode_within_the_stated_memory(tmp_path: Path) -> None:
    photograph = PIL.Image.open(ROOT / "examples" / "photo.png").convert("RGB")
    path = tmp_path / "large.lic"
    licodec.save(photograph.resize((4000, 3000), PIL.Image.Resampling.BICUBIC), path, quality=75)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    peak, seconds = map(float, done.stdout.split())
    print(f"decoding 4000 x 3000 took {peak:.2f} GB at its peak and {seconds:.1f} s, imports included")
    assert peak <= PEAK_GB

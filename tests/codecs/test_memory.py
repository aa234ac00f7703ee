"""Large pictures: what decoding 12 megapixels takes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

import licodec

ROOT = Path(__file__).parents[2]
PEAK_GB = 1.5
PROGRAM = """
import resource, sys, time
import licodec
start = time.perf_counter()
picture = licodec.load(sys.argv[1], device="cpu")
seconds = time.perf_counter() - start
assert picture.size == (4000, 3000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, seconds)  # kilobytes on Linux
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
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

"""How long `licodec decode` of one picture takes in a fresh process, beside what importing PyTorch takes.

    python tools/cold_start.py PICTURE [--runs 5]

The picture is encoded once. Every run is two processes on a warm disk: one that imports torch first, notes
how long that took, and decodes; and one that only decodes, as the command line does, which imports torch if
it needs it. Wall time is the parent's, from start to exit. Prints every run and the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DECODE = """
import sys, time
start = time.perf_counter()
if sys.argv.pop(1) == "torch":
    import torch
print(time.perf_counter() - start)
from licodec.cli import main
sys.argv = ["licodec", "decode", sys.argv[1], "-o", sys.argv[2], "--quiet"]
main()
"""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The first run compiles a checkout, as pip does what it installs."""


def measured(source: Path, target: Path, first: str = "") -> tuple[float, float]:
    """Seconds of the whole process, and those of what it imports first."""
    start = time.perf_counter()
    command = [sys.executable, "-c", DECODE, first, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return time.perf_counter() - start, float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time `licodec decode` from a cold start.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    wish = parser.parse_args()
    from PIL import Image

    import licodec

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.lic"), Path(folder, "x.png")
        with Image.open(wish.picture) as image:
            licodec.save(image, source)
        measured(source, target, "torch")  # warms the disk
        runs = [(measured(source, target, "torch"), measured(source, target)) for _ in range(wish.runs)]
    for (total, torch), (alone, _) in runs:
        print(
            f"alone {alone:.3f} s; after torch {total:.3f} s, of which import torch {torch:.3f} s, "
            f"the rest {total - torch:.3f} s"
        )
    median = statistics.median
    alone, total = median(alone for _, (alone, _) in runs), median(total for (total, _), _ in runs)
    less = median(alone - torch for (_, torch), (alone, _) in runs)
    rest = median(total - torch for (total, torch), _ in runs)
    print(f"median: alone {alone:.3f} s, less import torch {less:.3f} s;", end=" ")
    print(f"after torch {total:.3f} s, the rest {rest:.3f} s")


if __name__ == "__main__":
    main()

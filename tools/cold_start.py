"""How long `licodec decode` of one picture takes in a fresh process, and how much of that PyTorch's import.

    python tools/cold_start.py PICTURE [--runs 5]

The picture is encoded once. Every run is a process of its own on a warm disk; wall time is the parent's, from
start to exit. Prints the median of all runs and every run.
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
import torch
print(time.perf_counter() - start)
from licodec.cli import main
sys.argv = ["licodec", "decode", sys.argv[1], "-o", sys.argv[2], "--quiet"]
main()
"""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The first run compiles a checkout, as pip does what it installs."""


def measured(source: Path, target: Path) -> tuple[float, float]:
    """Seconds of the whole process, and those of `import torch` in it."""
    start = time.perf_counter()
    command = [sys.executable, "-c", DECODE, str(source), str(target)]
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
        measured(source, target)  # warms the disk
        runs = [measured(source, target) for _ in range(wish.runs)]
    for total, torch in runs:
        print(f"total {total:.3f} s, import torch {torch:.3f} s, the rest {total - torch:.3f} s")
    rest = statistics.median(total - torch for total, torch in runs)
    print(f"median: total {statistics.median(total for total, _ in runs):.3f} s, the rest {rest:.3f} s")


if __name__ == "__main__":
    main()

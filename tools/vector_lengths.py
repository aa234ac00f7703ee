"""What longer vectors are worth: fhic in compiled integers with eight and sixteen products at once, by turns.

    python tools/vector_lengths.py DIR --threads 2

Every sixth picture of DIR at quality 20, 50 and 75, encoded and decoded in this process; medians and means of
the least of each, in milliseconds. Needs a processor with AVX512-VNNI. Fails where bytes or pixels differ.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

import licodec
from licodec.exact import fixed_point

QUALITIES = (20, 50, 75)
ROUNDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--effort", type=int, default=1)
    given = parser.parse_args()
    if fixed_point.kind_here() != fixed_point.SIXTEEN_PAIRS:
        sys.exit("this processor has no AVX512-VNNI: there is nothing to compare")
    kinds = {"eight": fixed_point.EIGHT_PAIRS, "sixteen": fixed_point.SIXTEEN_PAIRS}
    pictures = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted(given.folder.glob("*.png"))[::6]
    ]
    spent: dict[tuple[str, str], dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    known: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    for turn in range(ROUNDS):
        for name, kind in kinds.items():
            setattr(fixed_point, "kind_here", functools.partial(lambda kind: kind, kind))  # noqa: B010
            fixed_point.compiled_loops.cache_clear()
            for number, picture in enumerate(pictures):
                for quality in QUALITIES:
                    times = [time.perf_counter()]
                    options = {"effort": given.effort, "threads": given.threads}
                    file = licodec.encode(picture, quality=quality, **options)
                    times.append(time.perf_counter())
                    shown = licodec.decode(file, threads=given.threads)
                    times.append(time.perf_counter())
                    case = number, quality
                    if known.setdefault(case, (file, np.asarray(shown).tobytes())) != (
                        file,
                        np.asarray(shown).tobytes(),
                    ):
                        sys.exit(
                            f"picture {number} at quality {quality} differs with {name} products at once"
                        )
                    if turn:
                        for what, took in zip(("encode", "decode"), np.diff(times), strict=True):
                            spent[name, what][case].append(1e3 * took)
    for (name, what), cases in spent.items():
        median = statistics.median(each for took in cases.values() for each in took)
        least = statistics.mean(min(took) for took in cases.values())
        print(f"{name} products at once, {what}: {median:.1f} ({least:.1f}) ms")


if __name__ == "__main__":
    main()

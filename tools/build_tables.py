"""Makes the committed table set 1. Offline: run once, needs scipy; nothing at run time calls it.

    python tools/build_tables.py            writes sdk/licodec/entropy/tables/set1.bin, prints its digest
    python tools/build_tables.py --check    builds in memory and compares with the committed file

Each table integrates a density of zero mean and the standard deviation of its grid step over
[q - 0.5, q + 0.5]. L is the smallest limit (1..255) whose two-sided tail is below 2**-16, half of what the
smallest frequency can express; the tail is the escape's probability. Another scipy may round a density
differently in its last bit and so move a unit between two frequencies: the committed file is the
authority, not this script.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from licodec.entropy.tables import FAMILIES, LIMIT_MAX, TOTAL, TableSet, quantise, scale_grid

SET_ID = 1
TARGET = Path(__file__).parents[1] / "sdk" / "licodec" / "entropy" / "tables" / f"set{SET_ID}.bin"

Floats = npt.NDArray[np.float64]
Survival = Callable[[Floats], Floats]  # P(X > x) for unit standard deviation

# Student's t with 8 degrees of freedom has variance 8/6, a Laplace of width b has 2 b**2.
SURVIVAL: dict[str, Survival] = {
    "gauss": lambda x: stats.norm.sf(x),
    "student-t8": lambda x: stats.t.sf(x * math.sqrt(8 / 6), 8),
    "laplace": lambda x: stats.laplace.sf(x, scale=math.sqrt(0.5)),
}


def table(survival: Survival, scale: float) -> npt.NDArray[np.uint32]:
    """Frequencies of -L..L and the escape for one standard deviation."""
    edges = np.arange(LIMIT_MAX + 1, dtype=np.float64) + 0.5
    above = survival(edges / scale)  # P(X > q + 0.5), q = 0..255
    small = np.flatnonzero(2 * above[1:] < 1 / TOTAL)
    limit = 1 + int(small[0]) if small.size else LIMIT_MAX
    half = above[:limit] - above[1 : limit + 1]  # q = 1..L; from the tail, where differences are exact
    centre = 1 - 2 * above[0]
    return quantise(np.concatenate((half[::-1], [centre], half, [2 * above[limit]])))


def build() -> TableSet:
    """Set 1: every family at every scale, in the order of the table index."""
    tables = [table(SURVIVAL[family], scale) for family in FAMILIES for scale in scale_grid()]
    return TableSet.from_tables(SET_ID, tables)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build or check the committed probability tables.")
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    arguments = parser.parse_args()
    built = build()
    entries = [sum(2 * built.limit(64 * f + s) + 2 for s in range(64)) for f in range(len(FAMILIES))]
    print(f"set {SET_ID}: {built.count} tables, entries {entries}, sha256 {built.digest.hex()}")
    if arguments.check:
        same = TARGET.read_bytes() == built.to_bytes()
        print("the committed file is the same" if same else "the committed file DIFFERS")
        return 0 if same else 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(built.to_bytes())
    print(f"wrote {TARGET} ({TARGET.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Speed of the interleaved lanes: million symbols a second, by lanes a tile and tiles in lockstep.

    python tools/lane_speed.py             the table
    python tools/lane_speed.py --threads   also two threads, each with tiles of its own

Made-up symbols of about three bits, drawn from 48 tables; twelve stages. Times are the processor's, the best
of many runs, so that other work on the machine counts for little; for threads they are the clock's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from licodec.entropy.lanes import LaneDecoder, LaneTables, Stage, encode_many

STAGES = 12
ROWS = 128  # of a stage: 1536 symbols for each lane, as in a tile of the format
SCALES = range(8, 28)  # of the tables below; 3.0 bits on average


def logistic_tables() -> LaneTables:
    """48 tables of ever wider residuals, of which each has those within about seven scales of 0."""
    residual = (np.arange(256) + 128) % 256 - 128
    rows = np.zeros((48, 256), np.int64)
    for t, row in enumerate(rows):
        scale = 0.12 * 1.145**t
        used = np.abs(residual) <= min(127, int(7 * scale) + 2)
        mass = np.where(used, np.exp(-np.abs(residual) / scale), 0)
        used[128] = True
        row[used] = np.maximum(1, np.floor(4000 * mass / mass.sum())[used]).astype(np.int64)
        row[0] += 4096 - row.sum()
    return LaneTables(rows)


def made_up_tile(rng: np.random.Generator, tables: LaneTables, lanes: int) -> list[Stage]:
    symbols = tables.slots >> np.uint32(24)
    stages = []
    for _ in range(STAGES):
        index = rng.choice(SCALES, ROWS * lanes).astype(np.uint8)
        stages.append((symbols[index, rng.integers(0, 4096, index.size)].astype(np.uint8), index))
    return stages


def best(call: Callable[[], object], clock: Callable[[], float], seconds: float) -> float:
    """Least time that a call took, of as many as fit into so many seconds."""
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = clock()
        call()
        least = min(least, clock() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", action="store_true", help="measure two threads too; needs two cores")
    parser.add_argument("--seconds", type=float, default=2, help="for each figure")
    wish = parser.parse_args()
    rng, tables = np.random.default_rng(0), logistic_tables()

    shapes = [[lanes] * tiles for tiles in (1, 2, 8) for lanes in (64, 128, 256, 512)]
    print(f"{'lanes':>16}{'bits/symbol':>13}{'decode':>9}{'encode':>9}   M symbols/s")
    for lanes in (*shapes, [512, 256]):
        tiles = [made_up_tile(rng, tables, of_tile) for of_tile in lanes]
        bodies = encode_many(tiles, tables, lanes)

        def decode(tiles: list[list[Stage]] = tiles, bodies: list[bytes] = bodies) -> None:
            decoder = LaneDecoder(bodies, tables)
            for stage in range(STAGES):
                decoder.get([of_tile[stage][1] for of_tile in tiles])
            decoder.close()

        def encode(tiles: list[list[Stage]] = tiles, lanes: list[int] = lanes) -> None:
            encode_many(tiles, tables, lanes)

        count = sum(symbols.size for of_tile in tiles for symbols, _ in of_tile)
        figures = [count / best(call, time.thread_time, wish.seconds) / 1e6 for call in (decode, encode)]
        name = f"{len(lanes)} x {lanes[0]}" if len(set(lanes)) == 1 else " + ".join(map(str, lanes))
        bits = 8 * sum(map(len, bodies)) / count
        print(f"{name:>16}{bits:13.2f}{figures[0]:9.1f}{figures[1]:9.1f}", flush=True)
        if wish.threads:
            with ThreadPoolExecutor(2) as pool:
                for calls in (decode, encode):
                    alone = best(calls, time.perf_counter, wish.seconds)
                    both = best(
                        lambda call=calls: list(pool.map(lambda _: call(), range(2))),  # type: ignore[misc]
                        time.perf_counter,
                        wish.seconds,
                    )
                    print(f"{'':>18}{calls.__name__}: two threads give {2 * alone / both:.2f} times one")


if __name__ == "__main__":
    main()

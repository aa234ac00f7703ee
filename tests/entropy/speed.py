"""Speed of the entropy coder: symbols per second in the coder, and whole (sort, coder, seal, scatter).

    python tests/entropy/speed.py            prints a table; the best of several runs, one core

"small" draws mostly small scales, as latents have; "wide" draws all 192 tables equally.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from licodec.entropy import coder as coder_module
from licodec.entropy import coder_compiled
from licodec.entropy.coder import StreamDecoder, StreamEncoder
from licodec.entropy.tables import SCALES, load_set, scale_grid

Sample = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]


def sample(count: int, mix: str) -> Sample:
    """Gaussian symbols (int16) and their table indices (uint8)."""
    rng = np.random.default_rng(0)
    if mix == "small":
        scales = np.minimum(SCALES - 1, np.abs(rng.normal(0, 20, count))).astype(np.uint8)
        families = np.zeros(count, np.uint8)
    else:
        scales = rng.integers(0, SCALES, count, dtype=np.uint8)
        families = rng.integers(0, 3, count, dtype=np.uint8)
    symbols = np.rint(rng.normal(size=count) * scale_grid()[scales]).astype(np.int16)
    return symbols, (families * SCALES + scales).astype(np.uint8)


def best_seconds(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(count: int, mix: str, runs: int = 9) -> dict[str, float]:
    """Million symbols a second of each step, and bits a symbol."""
    tables = load_set()
    symbols, index = sample(count, mix)

    def encode() -> bytes:
        encoder = StreamEncoder(tables)
        encoder.put(symbols, index)
        return encoder.finish()

    body = encode()

    def decode() -> None:
        decoder = StreamDecoder(body, tables)
        decoder.get(index)
        decoder.close()

    def decode_in_the_coder() -> None:
        StreamDecoder(body, tables)._coder.pop(begins, tables)

    begins = coder_module._grouping(index, tables.count).begins
    return {
        "bits": len(body) * 8 / count,
        "encode": count / best_seconds(encode, runs) / 1e6,
        "decode": count / best_seconds(decode, runs) / 1e6,
        "coder": count / best_seconds(decode_in_the_coder, runs) / 1e6,
    }


def main() -> None:
    print(f"{'':28}{'bits/symbol':>12}{'encode':>9}{'decode':>9}{'decode, coder alone':>21}   (M symbols/s)")
    usual = coder_module._kind()
    print(usual.__name__)
    for mix in ("small", "wide"):
        for count in (100_000, 400_000, 4_000_000):
            report(f"{mix}, {count / 1e6:g} M", measure(count, mix))
    vars(coder_compiled)["here"] = lambda: False  # as where llvmlite is not installed
    for kind in (coder_module._NativeCoder, coder_module._ReferenceCoder):
        vars(coder_module)["_kind"] = lambda kind=kind: kind
        for mix in ("small", "wide"):
            report(f"{mix}, 0.1 M, {kind.__name__}", measure(100_000, mix, runs=3))


def report(name: str, m: dict[str, float]) -> None:
    print(f"{name:28}{m['bits']:12.2f}{m['encode']:9.1f}{m['decode']:9.1f}{m['coder']:21.1f}", flush=True)


if __name__ == "__main__":
    main()

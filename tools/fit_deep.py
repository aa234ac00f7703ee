"""Fit the numbers of pilc's mode 7 (16 bits a sample), or measure what they give beside PNG.

    python tools/fit_deep.py fit train_00.zip ... --out sdk/licodec/codecs/deep.json
    python tools/fit_deep.py measure val.zip

The pictures are 8-bit ones brought to 16 in floating point: made linear (sRGB's curve undone), reduced by 2
in each direction as averages, given noise as a sensor has it (variance a v + b, a and b drawn for each
picture), and written linear or with sRGB's curve, in 10 to 16 bits.

Fitting takes turns: weights of the prediction by least squares, reweighted so that magnitudes count and not
squares, each sample in units of its expected error; weights of the activity, not negative, so that it is the
expected magnitude of the error. Then tables are counted by context.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
from PIL import Image

from licodec.codecs import deep
from licodec.codecs.deep import Floats, Numbers, Request
from licodec.codecs.lattices import PASSES, Lattice, Pass, inputs, places, walked

Key = tuple[int, int, str]
DEPTHS = (10, 12, 12, 14, 14, 16, 16, 16)
SAMPLES = 60_000
"""Of each pass, for fitting."""
TURNS = 10
KEPT = {"A": 8, "B0": 10, "B1": 12}
"""Samples of its own plane that a pass looks at; 5 more for each earlier plane."""
PRIOR = 40.0
"""Symbols that a Laplace distribution counts for in each table."""


def brought_to_16_bits(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> tuple[deep.Deep, str]:
    """A picture of half the size, and how it was made."""
    value = picture.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    h, w = (side // 2 for side in linear.shape[:2])
    light = linear[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean(axis=(1, 3))
    shot, read = 10 ** rng.uniform(-6, -3), 10 ** rng.uniform(-5, -2.7)
    light += rng.standard_normal(light.shape) * np.sqrt(shot * light + read**2)
    light = np.clip(light, 0, 1)
    curve = rng.random() < 0.5
    if curve:
        light = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    bits = int(rng.choice(DEPTHS))
    samples = np.round(light * ((1 << bits) - 1)).astype(np.uint16)
    if rng.random() < 0.15:
        samples = samples[:, :, 1:2]
    how = f"{bits} bits, {'sRGB' if curve else 'linear'}, {'grey' if samples.shape[2] == 1 else 'RGB'}"
    return np.ascontiguousarray(samples), how


def pictures(paths: Sequence[Path], count: int, seed: int) -> Iterator[tuple[deep.Deep, str]]:
    """So many pictures out of zip files, evenly over each."""
    rng = np.random.default_rng(seed)
    for path in paths:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            for name in names[:: max(1, len(names) * len(paths) // count)]:
                with Image.open(io.BytesIO(file.read(name))) as image:
                    yield brought_to_16_bits(np.asarray(image.convert("RGB")), rng)


class Gathering:
    """A `Look` that predicts nothing, and keeps what each pass sees at some samples."""

    def __init__(self, share: float, rng: np.random.Generator) -> None:
        self.seen: dict[Key, list[Floats]] = defaultdict(list)
        self.wanted: dict[Key, list[Floats]] = defaultdict(list)
        self._share, self._rng = share, rng

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Floats,
        table: deep.Bytes,
    ) -> None:
        h, w = prediction.shape
        x, mean = np.empty((inputs(len(earlier), step), h, w)), np.empty((h, w))
        wanted = list(places(step.seen)), [list(places(step.around))] * len(earlier)
        deep.fill_inputs(x, mean, step, (own, *earlier), wanted, slice(0, h))
        share = self._share if level == 0 else min(1.0, 4 * self._share)
        at = (self._rng.random(h * w) < share).nonzero()[0]
        key = min(level, 1), len(earlier), step.name
        self.seen[key].append(x.reshape(len(x), -1)[:, at].astype(np.float32))
        self._next = key, at, mean, earlier[0].values(step.target) if earlier else np.zeros((h, w))
        prediction[:] = 0
        table[:] = 0

    def walk(self, tile: deep.Deep) -> None:
        channels = [tile[:, :, c] for c in ((1, 0, 2) if tile.shape[2] == 3 else (0,))]

        def answer(asked: Sequence[Request | None]) -> Sequence[deep.Deep]:
            (request,) = asked
            assert request is not None
            samples = request.samples_of(channels)
            if request.phase is not None:
                key, at, mean, midst = self._next
                self.wanted[key].append((samples - midst - mean).reshape(-1)[at])
            return [samples]

        walked([deep.passes(tile.shape, self)], answer)


def fitted(seen: Floats, wanted: Floats, kept: int) -> tuple[Floats, Floats]:
    """Weights of the prediction and of the activity, [k] each, in units of 1; at most `kept` are not 0."""
    whole, all_of_them = np.arange(len(seen)), len(seen)
    magnitudes = np.abs(seen)
    scale = magnitudes.mean(0) + 1
    for turn in range(TURNS):
        ridge = 1e-4 * np.eye(len(seen))
        if not turn:
            weights = np.zeros(len(seen))
        error = np.abs(wanted - weights @ seen)
        each = 1 / (scale * np.maximum(error, 0.1 * scale))
        gram = (seen * each) @ seen.T
        weights = np.linalg.solve(gram + ridge * np.trace(gram) / len(seen), (seen * each) @ wanted)
        error = np.abs(wanted - weights @ seen)
        small = magnitudes / scale
        activity, _ = scipy.optimize.nnls(small @ small.T, small @ (error / scale))
        scale = activity @ magnitudes + 0.3
        # What matters least is given up step by step, so that a decoder has less to look at.
        size = max(kept, len(seen) - max(1, (all_of_them - kept) // (TURNS - 4)))
        if size < len(seen):
            worth = (np.abs(weights) + activity) * (magnitudes / scale).mean(1)
            some = np.sort(np.argsort(worth)[-size:])
            seen, magnitudes, whole = seen[some], magnitudes[some], whole[some]
            weights, activity = weights[some], activity[some]
    out = np.zeros((2, all_of_them))
    out[:, whole] = weights, activity
    return out[0], out[1]


def laplace(scale: float) -> Floats:
    """Probabilities of tokens of differences with this mean magnitude."""
    z = np.arange(1 << 16)
    p: Floats = np.exp(-((z + 1) // 2) / max(scale, 0.05))
    return np.bincount(deep.TOKEN_OF, p / p.sum(), deep.TOKENS).astype(np.float64)


def frequencies_of(counts: Floats, scale: float) -> list[int]:
    """A table's frequencies, 4095 in all (the escape has one), each at least 1."""
    p = counts + PRIOR * laplace(scale)
    total = lanes_total() - 1
    out = np.maximum(1, np.round(p / p.sum() * total)).astype(int)
    while (over := int(out.sum()) - total) != 0:
        # The step that costs least: where the frequency is furthest on this side of what it should be.
        gain = p * np.log(np.maximum(out - np.sign(over), 1) / out)
        gain[(out - np.sign(over)) < 1] = -np.inf
        out[int(gain.argmax())] -= np.sign(over)
    return [int(each) for each in out]


def lanes_total() -> int:
    from licodec.entropy.lanes_reference import TOTAL

    return TOTAL


def fit(paths: Sequence[Path], count: int, out: Path) -> None:
    rng = np.random.default_rng(1)
    gathering = Gathering(0.15, rng)
    for samples, _ in pictures(paths, count, 1):
        gathering.walk(samples)
    stored: dict[str, Any] = {"prediction": {}, "activity": {}, "tables": []}
    for which in range(deep.CLASSES):
        for plane in range(3):
            for step in PASSES:
                key = which, plane, step.name
                seen = np.concatenate(gathering.seen.pop(key), axis=1)
                wanted = np.concatenate(gathering.wanted.pop(key))
                kept = rng.permutation(len(wanted))[:SAMPLES]
                size = KEPT[step.name] + 5 * plane
                weights, activity = fitted(seen[:, kept].astype(np.float64), wanted[kept], size)
                name = f"{which}.{plane}.{step.name}"
                stored["prediction"][name] = np.round(weights * deep.UNIT).astype(int).tolist()
                stored["activity"][name] = np.round(activity * deep.UNIT).astype(int).tolist()
                print(name, len(kept), "activity", round(float(activity.sum()), 3))
    flat = [lanes_total() - deep.TOKENS] + [1] * (deep.TOKENS - 1)
    trial = Numbers.of(stored | {"tables": [flat] * deep.TABLES})
    counts = np.zeros((deep.TABLES, deep.TOKENS))
    for samples, _ in pictures(paths, count, 2):
        for found, table in deep.streams_of([samples], deep.Looking(trial))[0]:
            np.add.at(counts, (table, deep.TOKEN_OF[found]), 1)
    for number, mine in enumerate(counts):
        # The middle of a context's quarter of an octave, in levels.
        quarter = number + deep.FIRST_ACTIVITY
        scale = float(2 ** (quarter // 4) * (1 + (quarter % 4 + 0.5) / 4) / deep.UNIT)
        stored["tables"].append(frequencies_of(mine, scale if number < deep.CONTEXTS else 2000.0))
    print("symbols of each table", counts.sum(1).astype(int).tolist())
    p = np.array(stored["tables"]) / lanes_total()
    print("tokens", round(float(-(counts * np.log2(p)).sum() / counts.sum()), 4), "bits")
    out.write_text(_document(stored), "ascii")


def _document(stored: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    parts = []
    for kind in ("prediction", "activity"):
        rows = ",\n".join(f'  "{name}": {json.dumps(each)}' for name, each in stored[kind].items())
        parts.append(f'"{kind}": {{\n{rows}\n}}')
    rows = ",\n".join(f"  {json.dumps(each)}" for each in stored["tables"])
    parts.append(f'"tables": [\n{rows}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def png_of(samples: deep.Deep) -> bytes:
    """A PNG file of 16 bits, each row's filter by least sum of magnitudes, deflated as well as zlib can."""
    h, w, channels = samples.shape
    rows = np.ascontiguousarray(samples, ">u2").view(np.uint8).reshape(h, -1).astype(np.int16)
    pixel = 2 * channels
    left = np.pad(rows, ((0, 0), (pixel, 0)))[:, : rows.shape[1]]
    above = np.pad(rows, ((1, 0), (0, 0)))[:h]
    corner = np.pad(above, ((0, 0), (pixel, 0)))[:, : rows.shape[1]]
    guess = left + above - corner
    far = np.stack([np.abs(guess - each) for each in (left, above, corner)])
    paeth = np.choose(far.argmin(0), [left, above, corner])
    filtered = np.stack([rows, rows - left, rows - above, rows - (left + above) // 2, rows - paeth]).astype(
        np.uint8
    )
    costs = np.abs(filtered.view(np.int8).astype(np.int32)).sum(axis=2)
    chosen = costs.argmin(0)
    best = filtered[chosen, np.arange(h)]
    data = zlib.compress(np.column_stack([chosen.astype(np.uint8), best]).tobytes(), 9)
    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def measure(paths: Sequence[Path], count: int) -> None:
    import licodec

    print(
        "| picture | PNG, bits a sample | pilc | of PNG | encode MB/s | decode MB/s |\n"
        "|---|---|---|---|---|---|"
    )
    ratios, taken = [], np.zeros(3)
    for samples, how in pictures(paths, count, 3):
        start = time.process_time()
        data = licodec.encode(samples, lossless=True)
        encoded = time.process_time()
        back = licodec.decode(data, output="numpy")
        decoded = time.process_time()
        assert np.array_equal(back.reshape(samples.shape), samples)
        png = png_of(samples)
        bits = [8 * len(each) / samples.size for each in (png, data)]
        ratios.append(bits[1] / bits[0])
        spent = np.array([samples.nbytes / 1e6, encoded - start, decoded - encoded])
        taken += spent
        print(f"| {how} | {bits[0]:.3f} | {bits[1]:.3f} | {ratios[-1]:.3f} "
              f"| {spent[0] / spent[1]:.1f} | {spent[0] / spent[2]:.1f} |")  # fmt: skip
    print(f"of PNG {np.mean(ratios):.3f}, encode {taken[0] / taken[1]:.1f}, decode {taken[0] / taken[2]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("fit", "measure"))
    parser.add_argument("pictures", type=Path, nargs="+", help="zip files of pictures of 8 bits")
    parser.add_argument("--count", type=int, help="of pictures: 120 to fit, 12 to measure")
    parser.add_argument("--out", type=Path, default=Path("sdk/licodec/codecs") / deep.NUMBERS)
    wish = parser.parse_args()
    if wish.what == "fit":
        fit(wish.pictures, wish.count or 120, wish.out)
    else:
        measure(wish.pictures, wish.count or 12)


if __name__ == "__main__":
    main()

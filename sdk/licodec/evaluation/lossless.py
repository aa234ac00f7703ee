"""Lossless codecs side by side: bits a sample of whole files, and megabytes a second of whole calls.

    result = compare(open_pictures("kodak"))
    print(markdown(result))

A megabyte is 10^6 bytes of 8-bit samples. Every file is decoded, and every sample compared. Peers run through
Pillow, which gives PNG, WebP and JPEG XL one thread; licodec runs on as many as the caller allows.
"""

from __future__ import annotations

import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

import licodec
from licodec.codecs.contract import Stages
from licodec.evaluation.metrics import Pixels
from licodec.evaluation.peers import PEERS
from licodec.evaluation.pictures import Source, halved


@dataclass(frozen=True)
class Row:
    """One codec over all pictures.

    bits: a sample, the mean over pictures; least, most: of a picture. encode, decode: MB/s, the median.
    stages: of licodec's codecs, nanoseconds a sample by stage, of all threads together and over all pictures:
    `encode`, `decode`.
    """

    title: str
    bits: float
    least: float
    most: float
    encode: float
    decode: float
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Subject:
    title: str
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]
    stages: Mapping[str, Stages] = field(default_factory=dict)
    """Milliseconds, filled by every call."""


def compare(
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    weights: str | None = None,
    repeat: int = 3,
    halve: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Every codec on every picture, `repeat` times, the quickest of which counts. `halve`: at half the size.

    Raises ValueError where a codec gives other samples than it was given.
    """
    rows = []
    for subject in _subjects(threads, weights):
        bits, encode, decode, samples = [], [], [], 0
        for number, source in enumerate(sources):
            pixels = halved(source.pixels()) if halve else source.pixels()
            samples += pixels.size
            to_code, data = _quickest(repeat, subject.encode, pixels)
            to_read, back = _quickest(repeat, subject.decode, data)
            if not np.array_equal(back, pixels):
                raise ValueError(f"{subject.title}: {source.name} came back with other samples")
            bits.append(8 * len(data) / pixels.size)
            encode.append(pixels.size / to_code / 1e6)
            decode.append(pixels.size / to_read / 1e6)
            if progress:
                progress(subject.title, number + 1, len(sources))
        medians = statistics.median(encode), statistics.median(decode)
        stages = {
            way: {name: ms * 1e6 / repeat / samples for name, ms in of_way.items()}
            for way, of_way in subject.stages.items()
        }
        rows.append(Row(subject.title, statistics.fmean(bits), min(bits), max(bits), *medians, stages))
    return rows


def _quickest(repeat: int, call: Callable[..., Any], given: Any) -> tuple[float, Any]:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call(given)
        times.append(time.perf_counter() - start)
    return min(times), result


def _subjects(threads: int | None, weights: str | None) -> list[_Subject]:
    encoder = licodec.Encoder("pilc", threads=threads, weights=weights)
    decoder = licodec.Decoder(threads=threads, weights=weights)
    encoder.warm_up()
    decoder.warm_up("pilc")

    def ours(title: str, **options: Any) -> _Subject:
        stages: dict[str, Stages] = {"encode": {}, "decode": {}}
        return _Subject(
            title,
            lambda pixels: encoder(pixels, stages=stages["encode"], **options),
            lambda data: np.asarray(decoder(data, stages=stages["decode"])),
            stages,
        )

    found = [
        ours("pilc l-1"),
        ours("pilc l-1, lattice0", tile_modes="lattice0"),
        ours("pilc l-1, threeway", tile_modes="threeway"),
    ]
    if importlib.util.find_spec("qoi") is not None:
        import qoi

        found.append(_Subject("QOI", qoi.encode, qoi.decode))
    found += [_peer("PNG optimize", "PNG", {"optimize": True}), _peer("PNG", "PNG", {})]
    found += [_peer(f"WebP m{method}", "WEBP", {"lossless": True, "method": method}) for method in (0, 4)]
    if PEERS["jxl"].missing() is None:
        found += [
            _peer(f"JPEG XL e{effort}", "JXL", {"lossless": True, "effort": effort}) for effort in (3, 7)
        ]
    return found


def _peer(title: str, kind: str, options: Mapping[str, Any]) -> _Subject:
    def encode(pixels: Pixels) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, kind, **options)
        return sink.getvalue()

    def decode(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            return np.asarray(image.convert("RGB"))

    return _Subject(title, encode, decode)


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "| codec | bits a sample | least, most | encode MB/s | decode MB/s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        span = f"{row.least:.2f}, {row.most:.2f}"
        lines.append(f"| {row.title} | {row.bits:.3f} | {span} | {row.encode:.1f} | {row.decode:.1f} |")
    for row in rows:
        for way, of_way in row.stages.items():
            parts = ", ".join(f"{name} {ns:.1f}" for name, ns in sorted(of_way.items(), key=lambda s: -s[1]))
            lines.append(f"\n{row.title}, {way}, nanoseconds a sample of all threads: {parts}.")
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]

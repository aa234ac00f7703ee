"""The program that tests/codecs/test_environments.py runs in processes of their own.

    python -m tests.codecs.environment FOLDER NAME     with libraries set up by environment variables

It decodes the files of the reference in FOLDER/job.npz, codes the pictures there itself, and writes what it
found to FOLDER/NAME.npz. `observe` does the work for fhic and `lossless` for pilc, and the reference uses
them too.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lic_format
import licodec
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.contract import Timer
from tests.codecs.fixtures import Pixels, built, encoded

RATES = (20, 140, 250)
ORDERS = (1, 0, 1)


def code(model: cb.Checkerboard, ref: store.WeightsRef, pictures: list[Pixels]) -> list[bytes]:
    """One file of each picture, at a rate and in an order of its own."""
    return [
        lic_format.write(encoded(model, ref, planes, rate=rate, order=order))
        for planes, rate, order in zip(pictures, RATES, ORDERS, strict=True)
    ]


def observe(model: cb.Checkerboard, files: list[bytes]) -> dict[str, Any]:
    """Symbols and pixels of files, and a digest of what the codec's own float nets make of the symbols."""
    seen: dict[str, Any] = {}
    floats = 0
    for number, data in enumerate(files):
        file = lic_format.read(data)
        z, q = model.read_symbols(file)
        seen[f"z{number}"], seen[f"q{number}"] = z, q
        seen[f"pixels{number}"] = model.decode(file).planes
        with torch.inference_mode():
            latents = model._decoded(model._read(file, Timer(None)), file.head.rate)[0]
        floats = zlib.crc32(latents.float().contiguous().numpy().tobytes(), floats)
    seen["floats"] = np.array(floats)
    return seen


def lossless(pictures: list[Pixels]) -> list[bytes]:
    """One file of each picture by pilc, of weights that are loaded here."""
    encoder = licodec.Encoder("pilc", device="cpu")
    return [encoder(planes) for planes in pictures]


def both_ways(
    model: cb.Checkerboard,
    ref: store.WeightsRef,
    pictures: list[Pixels],
    files: list[bytes],
    lossless_files: list[bytes],
) -> dict[str, Any]:
    """What this environment sees in the reference's files, the files it makes, and what it sees in those."""
    own = code(model, ref, pictures)
    found = {f"there-{name}": value for name, value in observe(model, files).items()}
    found |= {f"back-{name}": value for name, value in observe(model, own).items()}
    found |= {f"file{number}": np.frombuffer(data, np.uint8) for number, data in enumerate(own)}
    for number, (data, theirs) in enumerate(zip(lossless(pictures), lossless_files, strict=True)):
        found[f"lossless-file{number}"] = np.frombuffer(data, np.uint8)
        found[f"lossless-pixels{number}"] = licodec.decode(theirs, output="numpy", device="cpu")
    return found


def read_job(archive: Mapping[str, Any]) -> tuple[list[Pixels], list[bytes], list[bytes]]:
    """The pictures, and their files by fhic and by pilc."""
    pictures, files, lossless_files = (
        [archive[f"{name}{number}"] for number in range(len(RATES))]
        for name in ("picture", "file", "lossless-file")
    )
    return pictures, [file.tobytes() for file in files], [file.tobytes() for file in lossless_files]


def main(folder: Path, name: str) -> None:
    if "nodnn" in name:
        torch._C._set_mkldnn_enabled(False)
    weights = store.load("fhic", "s-1")
    with np.load(folder / "job.npz") as archive:
        job = read_job(archive)
    np.savez(folder / name, **both_ways(built(weights), weights.ref, *job))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

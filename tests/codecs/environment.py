"""The program that tests/codecs/test_environments.py runs in processes of their own.

    python -m tests.codecs.environment FOLDER NAME     with libraries set up by environment variables

It decodes FOLDER/reference-*.npz (files of the reference), codes FOLDER/pictures.npz itself, and writes what
it found to FOLDER/NAME.npz. `observe` does the work, and the reference uses it too.
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


def both_ways(
    model: cb.Checkerboard, ref: store.WeightsRef, pictures: list[Pixels], files: list[bytes]
) -> dict[str, Any]:
    """What this environment sees in the reference's files, the files it makes, and what it sees in those."""
    own = code(model, ref, pictures)
    found = {f"there-{name}": value for name, value in observe(model, files).items()}
    found |= {f"back-{name}": value for name, value in observe(model, own).items()}
    found |= {f"file{number}": np.frombuffer(data, np.uint8) for number, data in enumerate(own)}
    return found


def read_job(archive: Mapping[str, Any]) -> tuple[list[Pixels], list[bytes]]:
    count = len(RATES)
    return [archive[f"picture{i}"] for i in range(count)], [
        archive[f"file{i}"].tobytes() for i in range(count)
    ]


def main(folder: Path, name: str) -> None:
    if "nodnn" in name:
        torch._C._set_mkldnn_enabled(False)
    weights = store.load("fhic", "s-1")
    with np.load(folder / "job.npz") as archive:
        pictures, files = read_job(archive)
    np.savez(folder / name, **both_ways(built(weights), weights.ref, pictures, files))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

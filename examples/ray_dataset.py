"""Make a Parquet dataset of `.lic` files from a folder of pictures with Ray Data, and check it by decoding.

python examples/ray_dataset.py out/samples/pictures out/ray --actors 2
RAY_ADDRESS=ray://head:10001 python examples/ray_dataset.py s3://bucket/pictures s3://bucket/lic --actors 64

Each actor loads the weights once and keeps them. On a cluster every machine needs licodec, and pictures and
dataset lie where all of them reach them.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Any

import numpy as np
from PIL import Image

import licodec

Batch = dict[str, Any]
"""Columns by name."""

SUFFIXES = ["png", "jpg", "jpeg", "webp", "tif", "tiff"]
PICTURE_ERRORS = (licodec.LicError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class Encode:
    """Pictures, as the bytes of their files, to `.lic`; `error` says why there is none."""

    def __init__(self, quality: float, device: str) -> None:
        self._encoder = licodec.Encoder(quality=quality, device=device)

    def __call__(self, batch: Batch) -> Batch:
        coded = [self._encode(data) for data in batch["bytes"]]
        return {
            "path": batch["path"],
            "lic": np.array([lic for lic, _ in coded], object),
            "error": np.array([error for _, error in coded], object),
        }

    def _encode(self, data: bytes) -> tuple[bytes, str]:
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return self._encoder(picture), ""
        except PICTURE_ERRORS as error:
            return b"", str(error)


class Decode:
    """`.lic` files to arrays; what becomes of those here is their size and mean."""

    def __init__(self, device: str) -> None:
        self._decoder = licodec.Decoder(device=device)

    def __call__(self, batch: Batch) -> Batch:
        arrays = [self._decoder(lic, output="numpy") if lic else np.empty(0) for lic in batch["lic"]]
        return {
            "path": batch["path"],
            "error": batch["error"],
            "bytes": np.array([len(lic) for lic in batch["lic"]]),
            "shape": np.array([" x ".join(map(str, array.shape)) for array in arrays], object),
            "mean": np.array([array.mean() if array.size else 0.0 for array in arrays]),
        }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a Parquet dataset of .lic files with Ray Data.")
    parser.add_argument("pictures", help="a folder, here or in a store that all machines reach")
    parser.add_argument("out", help="a folder for the Parquet files, likewise")
    parser.add_argument("--quality", type=float, default=75)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor, such as 0.25")
    given = parser.parse_args(arguments)

    here = "RAY_ADDRESS" not in os.environ
    if (
        here
    ):  # read when ray is imported; its name notwithstanding, a cluster here listens to this machine alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray
    import ray.data

    if here:  # with a CPU an actor and one to read and write
        ray.init("local", num_cpus=given.actors + 1, include_dashboard=False, log_to_driver=False)
    else:
        ray.init()
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = {"concurrency": given.actors, "num_cpus": 1, "num_gpus": given.gpus, "batch_size": 16}
    device = "cuda" if given.gpus else "cpu"

    pictures = ray.data.read_binary_files(given.pictures, include_paths=True, file_extensions=SUFFIXES)
    coded = pictures.map_batches(
        Encode, fn_constructor_kwargs={"quality": given.quality, "device": device}, **actors
    )
    coded.write_parquet(given.out, mode="overwrite")

    files = ray.data.read_parquet(given.out)
    checked = files.map_batches(Decode, fn_constructor_kwargs={"device": device}, **actors).take_all()
    for row in sorted(checked, key=lambda row: str(row["path"])):
        said = row["error"] or f"{row['bytes']:,} bytes, {row['shape']}, mean {row['mean']:.1f}"
        print(f"{os.path.basename(row['path'])}: {said}")
    failed = sum(bool(row["error"]) for row in checked)
    print(f"{len(checked) - failed} of {len(checked)} pictures encoded")
    ray.shutdown()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

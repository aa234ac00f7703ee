"""Encode a folder of pictures on a Dask cluster: one of this machine's processes, or one that you name.

python examples/dask_dataset.py out/samples/pictures out/dask --workers 2
python examples/dask_dataset.py /shared/pictures /shared/lic --address tcp://scheduler:8786

Every machine must see both folders and have licodec installed; the program itself is sent to them. Weights
are loaded once a process and kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import dask.bag
from dask.distributed import Client
from PIL import Image

import licodec

Outcome = tuple[str, int, str]
"""A picture's path, the bytes of its file, and why there is none."""


def encode_all(paths: Iterable[str], folder: str, out: str, quality: float) -> list[Outcome]:
    """One partition, on a worker. A picture that can't be encoded stops no other."""
    outcomes = []
    for path in paths:
        target = (Path(out) / Path(path).relative_to(folder)).with_suffix(".lic")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as picture:
                licodec.save(picture, target, quality=quality, device="cpu")
            outcomes.append((path, target.stat().st_size, ""))
        except (licodec.LicError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            outcomes.append((path, 0, str(error)))
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Encode a folder of pictures on a Dask cluster.")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quality", type=float, default=75)
    parser.add_argument("--address", help="of a scheduler; without it a cluster is started here")
    parser.add_argument("--workers", type=int, default=2, help="processes of a cluster started here")
    parser.add_argument("--partition", type=int, default=16, help="pictures a task")
    given = parser.parse_args(arguments)
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
    folder, out = given.pictures.resolve(), given.out.resolve()
    paths = [str(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes]
    if not paths:
        parser.error(f"there is no picture in {given.pictures}")

    # A thread a worker: torch uses the cores by itself.
    local = {"n_workers": given.workers, "threads_per_worker": 1, "dashboard_address": None}
    with Client(given.address) if given.address else Client(host="127.0.0.1", **local):
        pictures = dask.bag.from_sequence(paths, partition_size=given.partition)
        outcomes = pictures.map_partitions(
            encode_all, folder=str(folder), out=str(out), quality=given.quality
        ).compute()
    for path, _, reason in outcomes:
        if reason:
            print(f"{Path(path).name}: {reason}")
    failed = sum(bool(reason) for *_, reason in outcomes)
    size = sum(size for _, size, _ in outcomes)
    print(f"{len(paths) - failed} of {len(paths)} pictures encoded, {size:,} bytes")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Train from `.lic` files: a torch DataLoader whose workers decode.

python examples/torch_dataloader.py out/samples/lic --batch 2 --workers 2 --epochs 2

The dataset holds a `Decoder`, which is sent to the workers as its configuration; each loads the weights for
itself. Workers are started by spawn: a process that was forked after torch ran can use one thread only.
A dataset that opens its files with Pillow needs no `Decoder` but `worker_init_fn=start_worker`: a worker
knows `.lic` only once licodec was imported there.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import licodec

Batch = tuple[torch.Tensor, list[str]]
"""Crops, B x 3 x side x side, and who decoded them."""


@dataclass(frozen=True)
class Sample:
    """A crop, 3 x side x side in 0..1, and which worker decoded it."""

    crop: torch.Tensor
    worker: str


class LicCrops(Dataset[Sample | None]):
    """A random crop of every file; None for one that can't be decoded or is too small."""

    def __init__(self, files: Sequence[Path], side: int, decoder: licodec.Decoder) -> None:
        self._files = files
        self._side = side
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample | None:
        try:
            picture = self._decoder(self._files[index], output="torch", max_pixels=1 << 26)
        except (licodec.FormatError, licodec.UnsupportedError) as error:
            warnings.warn(f"{self._files[index].name} is left out: {error}", stacklevel=2)
            return None
        channels, height, width = picture.shape
        if min(height, width) < self._side:
            warnings.warn(f"{self._files[index].name} is left out: {width} x {height} pixels", stacklevel=2)
            return None
        top = int(torch.randint(height - self._side + 1, ()))
        left = int(torch.randint(width - self._side + 1, ()))
        crop = picture[:, top : top + self._side, left : left + self._side]
        colours = crop[: 1 if channels < 3 else 3]  # alpha is left out, grey becomes RGB
        worker = get_worker_info()
        return Sample(colours.expand(3, -1, -1) / 255, f"worker {worker.id}" if worker else "this process")


def collate(samples: Sequence[Sample | None]) -> Batch:
    """One batch of the samples that there are."""
    there = [sample for sample in samples if sample is not None]
    crops = torch.stack([sample.crop for sample in there]) if there else torch.empty(0, 3, 0, 0)
    return crops, [sample.worker for sample in there]


def start_worker(number: int) -> None:
    """For `worker_init_fn`: Pillow and imageio read `.lic` in this worker from now on."""
    licodec.register()


def loader(dataset: Dataset[Sample | None], *, batch: int, workers: int) -> DataLoader[Batch]:
    """Batches in random order; the workers live as long as the loader."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # what comes out is what `collate` gives
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Load .lic files as batches of crops.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args(arguments)
    files = sorted(given.folder.rglob("*.lic"))
    if not files:
        parser.error(f"there is no .lic file in {given.folder}")

    # On the CPU: workers that share a GPU with the training would take its memory.
    batches = loader(
        LicCrops(files, given.side, licodec.Decoder(device="cpu")), batch=given.batch, workers=given.workers
    )
    for epoch in range(1, given.epochs + 1):
        crops, decoded_by = 0, Counter[str]()
        for batch, workers in batches:  # here the training would be
            crops += len(batch)
            decoded_by.update(workers)
        shares = ", ".join(f"{worker}: {count}" for worker, count in sorted(decoded_by.items()))
        print(f"epoch {epoch}: {crops} of {len(files)} files in {len(batches)} batches ({shares})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

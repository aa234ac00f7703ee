"""A dataset as others write them: it opens files with Pillow and has never heard of licodec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset


def register_in_the_first(worker: int) -> None:
    """For `worker_init_fn`: what the example does, in worker 0 alone."""
    if worker == 0:
        from examples.torch_dataloader import start_worker

        start_worker(worker)


class PillowDataset(Dataset[str]):
    """Size and mode of every file, or the name of the error."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> str:
        try:
            with Image.open(self._files[index]) as picture:
                picture.load()
                return f"{picture.mode} {picture.size}"
        except UnidentifiedImageError as error:
            return type(error).__name__

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from licodec.training import loop
from licodec.training.klt import block_klt
from licodec.training.loop import Trainer, TrainOptions
from tests.codecs.fixtures import pixels

SIDE = 136
Start = Callable[..., Trainer]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder as real ones are: two zip shards of PNG crops, and one of validation."""
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder, "index.jsonl", {"train-0.zip": range(5), "train-1.zip": range(5, 8)})
    write_shard(folder, "val.jsonl", {"val.zip": range(20, 24)})
    return folder


def write_shard(folder: Path, index: str, shards: dict[str, range]) -> None:
    rows: list[dict[str, Any]] = []
    for shard, seeds in shards.items():
        with zipfile.ZipFile(folder / shard, "w") as archive:
            for seed in seeds:
                name, file = f"{seed:03d}.png", BytesIO()
                PIL.Image.fromarray(crop(seed)).save(file, "PNG")
                archive.writestr(name, file.getvalue())
                rows.append({"shard": shard, "name": name, "width": SIDE + seed, "height": SIDE})
    (folder / index).write_text("".join(json.dumps(row) + "\n" for row in rows))


def crop(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return pixels(SIDE, SIDE + seed, seed=seed)


@pytest.fixture
def start(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Makes a trainer on the shards with small batches; the KLT is fitted on few blocks."""
    monkeypatch.setattr(loop, "block_klt", functools.partial(block_klt, blocks=1500))

    def make(**given: Any) -> Trainer:
        options = {
            "out": tmp_path / "run",
            "data": shards,
            "cache": tmp_path / "cache",
            "minutes": 1000.0,
            "stages": ((0.5, 64, 2), (1.01, 64, 1)),
            "limit": 6,
        }
        return Trainer(TrainOptions(**{**options, **given}))

    return make

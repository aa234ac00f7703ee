"""Training pictures: zip shards of crops, decoded once to uint8 and drawn from as random crops.

A data folder holds `index.jsonl` (one line a crop: shard, name, width, height, ...), the zip shards it names
and, for validation, `val.zip` with `val.jsonl`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lic_format.errors import UsageValueError
from licodec.codecs.checkerboard import to_blocks
from licodec.evaluation.pictures import halved

Pixels = NDArray[np.uint8]


def read_crops(folder: Path, index: str, most: int | None = None) -> list[Pixels]:
    """Decode all crops of one index file, or `most` that are spread over it, each uint8 [H, W, 3]."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / index).read_text().splitlines()]
    rows = rows if most is None else rows[:: max(1, len(rows) // most)][:most]
    shards = {name: zipfile.ZipFile(folder / name) for name in sorted({row["shard"] for row in rows})}
    try:
        return [
            np.asarray(Image.open(io.BytesIO(shards[row["shard"]].read(row["name"]))).convert("RGB"))
            for row in rows
        ]
    finally:
        for shard in shards.values():
            shard.close()


DRAWN_SHARE = 0.02
"""Training pictures that are drawn: a codec that knows photographs only is off in colour on flat ones."""


def drawn(rng: np.random.Generator, size: int) -> Pixels:
    """A flat colour, often with rectangles or a gradient on it: uint8 [size, size, 3]."""
    out = np.empty((size, size, 3), np.float64)
    out[:] = rng.integers(0, 256, 3)
    kind = rng.integers(4)
    if kind == 1:
        slope = np.linspace(0, 1, size)[:, None, None]
        out += slope * (rng.integers(0, 256, 3) - out)
    elif kind > 1:
        for _ in range(int(rng.integers(1, 12))):
            (top, bottom), (left, right) = (np.sort(rng.integers(0, size + 1, 2)) for _ in range(2))
            out[top:bottom, left:right] = rng.integers(0, 256, 3)
    pixels: Pixels = np.rint(np.rot90(out, int(rng.integers(4)))).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class Crops:
    """All crops of a folder in memory: as stored, and at half size."""

    full: list[Pixels]
    half: list[Pixels]

    @classmethod
    def load(cls, folder: Path, cache: Path, limit: int | None = None) -> Crops:
        """Decode the folder's training crops, or read them back from `cache`, a folder that may be deleted
        any time."""
        key = hashlib.sha256((folder / "index.jsonl").read_bytes()).hexdigest()[:16]
        stored = cache / f"crops-{key}.npz"
        if stored.exists():
            with np.load(stored) as archive:
                flat, shapes = archive["pixels"], archive["shapes"]
            ends = np.cumsum(shapes.prod(axis=1))
            full = [
                flat[end - shape.prod() : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)
            ]
        else:
            full = read_crops(folder, "index.jsonl")
            cache.mkdir(parents=True, exist_ok=True)
            partial = stored.with_suffix(".partial.npz")
            np.savez(
                partial,
                pixels=np.concatenate([c.reshape(-1) for c in full]),
                shapes=np.array([c.shape for c in full]),
            )
            partial.replace(stored)
        full = full[:limit]
        return cls(full, [halved(c) for c in full])

    def draw(
        self, rng: np.random.Generator, size: int, half: NDArray[np.bool_], drawn_share: float = 0.0
    ) -> Pixels:
        """Random crops, flips and quarter turns: uint8 [B, size, size, 3]; `half[i]` says from which set.
        `drawn_share` of them are `drawn` instead.

        Raises:
            UsageValueError: no picture of a set asked for is large enough.
        """
        out = np.empty((len(half), size, size, 3), np.uint8)
        for i, small in enumerate(half):
            pool = self.half if small else self.full
            if not any(min(picture.shape[:2]) >= size for picture in pool):
                raise UsageValueError(
                    f"data: none of the {len(pool)} training pictures{' at half size' if small else ''} "
                    f"has the {size} x {size} pixels of a crop",
                    argument="data",
                )
            while True:
                picture = pool[int(rng.integers(len(pool)))]
                if min(picture.shape[:2]) >= size:
                    break
            top = int(rng.integers(picture.shape[0] - size + 1))
            left = int(rng.integers(picture.shape[1] - size + 1))
            if drawn_share and rng.random() < drawn_share:
                out[i] = drawn(rng, size)
                continue
            crop = np.rot90(picture[top : top + size, left : left + size], int(rng.integers(4)))
            out[i] = crop[:, ::-1] if rng.integers(2) else crop
        return out


def to_input(pixels: Pixels, device: str) -> Tensor:
    """uint8 [B, H, W, 3] -> blocks, see `to_blocks`."""
    return to_blocks(torch.from_numpy(pixels).to(device))

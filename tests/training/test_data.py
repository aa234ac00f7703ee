"""Shards are read as they lie in the folder, and crops are drawn from all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lic_format.errors import UsageValueError
from licodec.evaluation.pictures import halved
from licodec.training.data import Crops, read_crops
from tests.training.conftest import SIDE, crop


def test_crops_come_in_the_order_of_the_index_from_all_shards(shards: Path) -> None:
    crops = read_crops(shards, "index.jsonl")
    assert len(crops) == 8
    assert all(np.array_equal(found, crop(seed)) for seed, found in enumerate(crops))


def test_the_cache_holds_what_the_shards_hold_and_a_limit_takes_the_first(
    shards: Path, tmp_path: Path
) -> None:
    first = Crops.load(shards, tmp_path)
    (stored,) = tmp_path.glob("*.npz")
    again = Crops.load(shards, tmp_path, limit=3)
    assert stored.exists() and len(first.full) == 8 and len(again.full) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first.full, again.full, strict=False))
    assert first.half[0].shape == (SIDE // 2, SIDE // 2, 3)


def test_half_size_is_the_rounded_mean_of_four() -> None:
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    cells = picture[:4].reshape(2, 2, 2, 2, 3).astype(float)
    assert np.array_equal(halved(picture), np.floor(cells.mean(axis=(1, 3)) + 0.5))


def test_pictures_that_are_all_too_small_are_an_error(shards: Path, tmp_path: Path) -> None:
    crops = Crops.load(shards, tmp_path, limit=2)
    for size, half in ((SIDE + 9, False), (SIDE // 2 + 9, True)):
        with pytest.raises(UsageValueError, match=f"{size} x {size}"):
            crops.draw(np.random.default_rng(1), size, np.array([half]))


def test_drawn_crops_are_turned_and_mirrored_parts_of_the_pool(shards: Path, tmp_path: Path) -> None:
    crops = Crops.load(shards, tmp_path, limit=1)
    drawn = crops.draw(np.random.default_rng(1), SIDE, np.zeros(40, bool))
    whole = crops.full[0]
    possible = {np.rot90(whole, k)[:, ::step].tobytes() for k in range(4) for step in (1, -1)}
    found = {one.tobytes() for one in drawn}
    assert found <= possible and len(found) >= 6

"""Decoders that learn from latents found by a search: crops are coded once, a run learns, stops and goes on,
and what it writes can be exported."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from licodec import store
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.exact import fixed_point
from licodec.training import averaged
from licodec.training import searched as module
from licodec.training.export import load_average, trained_model
from licodec.training.searched import Run, Searched, searched, searched_crops
from tests.codecs.fixtures import pixels

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


@pytest.fixture(scope="module")
def weights() -> store.Weights:
    return store.load("fhic", "s-1")


@pytest.fixture(scope="module")
def codec(weights: store.Weights) -> FixedCheckerboard:
    made = build(weights)
    assert made is not None
    return made


def test_latents_are_those_that_a_file_decodes_to(codec: FixedCheckerboard) -> None:
    picture, rates = pixels(64, 64), (20, 150)
    once, twice = (searched(codec, [picture] * 2, rates, effort) for effort in (1, 2))
    assert once.latents.shape == (2, 4, 4, 320) and once.hyper.shape[2:] == (1, 1)
    assert not np.array_equal(once.latents, twice.latents)
    assert np.array_equal(once.hyper, twice.hyper)


def test_crops_are_coded_once(
    codec: FixedCheckerboard, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIDE", 64)

    def crops(seed: int) -> Searched:
        return searched_crops(codec, shards, tmp_path, tmp_path / "kept", count=16, effort=2, seed=seed)

    first = crops(3)
    written = (tmp_path / "kept" / "latents.npy").stat().st_mtime_ns
    again = crops(3)
    assert (tmp_path / "kept" / "latents.npy").stat().st_mtime_ns == written
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays, again.arrays, strict=True))
    before = first.pixels.copy()
    assert not np.array_equal(before, crops(4).pixels)
    batch = next(first.batches(np.random.default_rng(1), 4))
    assert batch.latents.shape == (4, 4, 4, 320) and sorted(batch.rate) == list(batch.rate)


def test_a_run_learns_stops_and_goes_on(
    codec: FixedCheckerboard, weights: store.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(averaged, "time", SimpleNamespace(process_time=lambda: float(next(seconds))))
    monkeypatch.setattr(module, "BATCH", 2)
    torch.manual_seed(2)
    crops = searched(codec, [pixels(64, 64), pixels(64, 64)], (60, 190), 2)
    held = [crops.of(np.array([i])) for i in range(2)]
    before = {name: tensor.clone() for name, tensor in trained_model(weights).state_dict().items()}
    run = Run(trained_model(weights), tmp_path, minutes=0.1, learning_rate=1e-3, seed=1)
    run.learn(crops, held)
    steps = run.step
    assert steps > 2
    again = Run(trained_model(weights), tmp_path, minutes=0.2, learning_rate=1e-3, seed=1)
    again.restore()
    assert again.step == steps
    again.learn(crops, held)
    assert again.step > steps
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[0]["start"] and rows[-1]["end"] and len(rows[-1]["rate_change"]) == 2
    learnt = {
        name for name, tensor in again.net.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert learnt and all(
        name.startswith(("twins.", "synthesis.")) and "direct" not in name and "preview" not in name
        for name in learnt
    )
    found = load_average(tmp_path / "last.pt", "s").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in again.average.state_dict().items())

"""Ways for an encoder to go on learning: what decodes stands still, and ways are compared at equal PSNR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from licodec.codecs.deformable import DeformableBlock
from licodec.training import encoders
from licodec.training.data import Crops
from licodec.training.encoders import Way
from licodec.training.export import trained_model
from tests.codecs.fixtures import pixels
from tests.codecs.tiny import without_serial

WAYS = {"as-it-is": Way(), "deformable": Way(blocks=(DeformableBlock,))}


def test_encoders_learn_by_turns_and_nothing_else_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "SIDE", 64)
    base, _ = without_serial(tmp_path)
    crops = Crops([pixels(64, 64, seed=k) for k in range(3)], [pixels(64, 64, seed=9)])
    held = [pixels(64, 64, seed=20)]
    fresh = trained_model(base)
    encoders.compare(
        fresh,
        crops,
        held,
        tmp_path / "run",
        ways=WAYS,
        minutes=0.002,
        learning_rate=3e-3,
        seed=1,
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    start, *found = [row for row in rows if "way" in row]
    ends = found[-2:]
    assert [row["way"] for row in ends] == list(WAYS)
    for row in ends:
        assert row["steps"] > 0
        assert row["objective"] != start["objective"]
        state = torch.load(tmp_path / "run" / f"{row['way']}.pt", weights_only=True)
        assert all(name.startswith(encoders.ENCODER) for name in state)
    model = encoders.Contender(WAYS["deformable"], fresh, 1, 3e-3)
    assert model.validate(held)["objective"] == start["objective"]
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    model.step(crops)
    after = model.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(encoders.ENCODER) for name in moved)
    assert np.isfinite([float(value.double().abs().max()) for value in after.values()]).all()


def test_the_change_of_rate_is_taken_at_equal_psnr() -> None:
    start = {"bpp": [0.1, 0.2, 0.4], "psnr": [30.0, 33.0, 36.0]}
    along = {"bpp": [0.2, 0.4, 0.8], "psnr": [33.0, 36.0, 39.0]}
    fewer = {"bpp": [0.09, 0.18, 0.36], "psnr": start["psnr"]}
    assert encoders.rate_change(along, start) == pytest.approx([0, 0, 0], abs=1e-3)
    assert encoders.rate_change(fewer, start) == pytest.approx([-10, -10, -10], abs=1e-3)

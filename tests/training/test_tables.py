"""Shifts of scale indices by pass: those that symbols came from are found, and weights with them code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import licodec
from licodec import store
from licodec.codecs.checkerboard_fixed import build
from licodec.exact import fixed_point
from licodec.training.export import INDEX_SHIFTS
from licodec.training.tables import cheapest_shifts, note, shift_costs, shifted
from tests.codecs.fixtures import pixels

needs_loops = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


def test_a_knot_follows_its_own_costs_and_its_neighbours() -> None:
    costs = np.full((17, len(INDEX_SHIFTS), 3), 9.0)
    costs[:, INDEX_SHIFTS.index(2), 0] = 5
    costs[4, INDEX_SHIFTS.index(-1), 1] = 5
    costs[5:, INDEX_SHIFTS.index(3), 1] = 8
    found = cheapest_shifts(costs)
    assert (found[:, 0] == 2).all()
    assert found[4, 1] == found[0, 1] == -1 and found[16, 1] == 3
    assert (found[:, 2] == 0).all()


@needs_loops
def test_costs_without_a_shift_are_those_of_the_files() -> None:
    codec = build(store.load("fhic", "s-1"))
    assert codec is not None
    picture = pixels(96, 128)
    none = INDEX_SHIFTS.index(0)
    bits = sum(cost[none].sum() for _, cost in shift_costs(codec, [picture], 191, 3))
    size = 8 * len(licodec.encode(picture, quality=75, effort=3, device="cpu"))
    assert 0.85 * size < bits < size


@needs_loops
def test_weights_with_shifts_code_and_cost_less(tmp_path: Path) -> None:
    weights = store.load("fhic", "s-1")
    codec = build(weights)
    assert codec is not None
    picture = pixels(64, 96)
    folder = tmp_path / "fhic" / "s-1"
    saved = shifted(weights, [picture], 2, folder)
    assert 0 < saved < 0.2
    note(folder, json.loads(weights.path.with_name("export.json").read_text()), saved, 2)
    facts = json.loads((folder / "export.json").read_text())
    assert facts["decode_digest"] != weights.decode_digest.hex()
    assert facts["shifts_by_pass"]["effort"] == 2 and "parameters" in facts
    after = licodec.encode(picture, quality=60, effort=2, weights=folder, device="cpu")
    assert len(after) < len(licodec.encode(picture, quality=60, effort=2, device="cpu"))
    decoded = licodec.decode(after, output="numpy", weights=folder, device="cpu")
    assert decoded.shape == picture.shape
    with pytest.raises(licodec.WeightsError):
        licodec.decode(after, device="cpu", weights=weights.path)

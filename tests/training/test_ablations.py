"""Ablations compare what they say: ways differ in their wiring alone, families in what symbols cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.entropy.tables import load_set
from licodec.training import ablations
from licodec.training.ablations import Way, family_bits, fresh
from licodec.training.data import Crops
from licodec.training.export import INDEX_SHIFTS, KNOT_RATES, MAGNITUDES
from licodec.training.objective import TrainingModel
from licodec.training.serial import collect, kept
from tests.codecs.fixtures import built, pixels
from tests.codecs.tiny import TINY, without_serial

SIDE = 64
SHARED = Way(TINY.groups, TINY.depths, shared=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[store.Weights, TrainingModel]:
    return without_serial(tmp_path_factory.mktemp("base"))


def test_passes_that_share_nets_are_passes_with_equal_nets(
    base: tuple[store.Weights, TrainingModel],
) -> None:
    """A first pass sees what the last one would of a group of which nothing is known."""
    _, trained = base
    torch.manual_seed(3)
    shared = fresh(trained, SHARED)
    apart = fresh(trained, Way(TINY.groups, TINY.depths))
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in apart.parameters())
    with torch.no_grad():
        for name, parameter in shared.named_parameters():
            if name.startswith(("means.", "twins.")) and name.endswith("weight"):
                parameter.uniform_(-0.2, 0.2)
        for step in apart.preset.passes:
            last = apart.preset.depths[step.group]
            ours, theirs = shared.means.heads, apart.means.heads
            first, _, end = theirs[f"{step.group}_{step.number}"].children()
            whole, _, shared_end = ours[f"{step.group}_{last}"].children()
            assert isinstance(first, cb.Conv) and isinstance(whole, cb.Conv)
            first.weight.copy_(whole.weight[:, : first.in_channels])
            first.bias.copy_(whole.bias)
            end.load_state_dict(shared_end.state_dict())
            for part in ("0", "1"):
                name = f"scale.{step.group}.{step.number}.{part}"
                twin, of = apart.twin(name), shared.twin(name)
                twin.weight.copy_(of.weight[:, : twin.weight.shape[1]])
                twin.bias.copy_(of.bias)
            if step.number:
                name = f"taps.{step.group}.{step.number}"
                twin, of = apart.twin(name), shared.twin(name)
                cut = (of.weight.shape[2] - twin.weight.shape[2]) // 2
                if cut:  # a smaller kernel in its own place: what lies around it must not count
                    of.weight[:, :, :cut] = of.weight[:, :, -cut:] = 0
                    of.weight[:, :, :, :cut] = of.weight[:, :, :, -cut:] = 0
                twin.weight.copy_(
                    of.weight[:, :, cut : of.weight.shape[2] - cut, cut : of.weight.shape[3] - cut]
                )
                twin.bias.copy_(of.bias)
                look, wide = (
                    apart.means.taps[f"{step.group}_{step.number}"],
                    shared.means.taps[f"{step.group}_{last}"],
                )
                assert isinstance(look, cb.Conv) and isinstance(wide, cb.Conv)
                cut = (wide.kernel_size[0] - look.kernel_size[0]) // 2
                if cut:
                    wide.weight[:, :, :cut] = wide.weight[:, :, -cut:] = 0
                    wide.weight[:, :, :, :cut] = wide.weight[:, :, :, -cut:] = 0
                look.weight.copy_(
                    wide.weight[:, :, cut : wide.weight.shape[2] - cut, cut : wide.weight.shape[3] - cut]
                )
                look.bias.copy_(wide.bias)
        state = shared.state_dict()
        for name, value in apart.state_dict().items():
            if name in state and not any(part in name for part in ("heads", "taps", "scale_")):
                value.copy_(state[name])
        torch.manual_seed(4)
        v, z = torch.randn(2, TINY.latents, 6, 9), torch.randn(2, TINY.hyper, 2, 3).mul(3).round()
        rate = torch.tensor([40, 200])
        found, expected = (ablations.bits(model, v, z, rate) for model in (shared, apart))
    assert expected.min() > 0.01
    assert torch.allclose(found, expected, rtol=1e-4)


def test_ways_learn_and_their_transforms_stand_still(
    base: tuple[store.Weights, TrainingModel], tmp_path: Path
) -> None:
    weights, trained = base
    codec = built(weights)
    crops = Crops([pixels(SIDE, SIDE, seed=k) for k in range(3)], [pixels(SIDE, SIDE, seed=9)])
    data = collect(codec, crops, np.random.default_rng(0), 8, SIDE)
    held = [kept(codec, [pixels(SIDE, SIDE, seed=20)], [rate]) for rate in (32, 224)]
    learner = ablations.Learner(trained, SHARED, 1, 3e-2)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    first = learner.validate(held)
    for number in range(12):
        learner.step(data, number / 12)
    assert sum(learner.validate(held)) < 0.98 * sum(first)
    after = learner.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("means.", "twins.")) for name in moved)


def test_every_way_is_logged_with_its_steps(
    base: tuple[store.Weights, TrainingModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, trained = base
    ways = {"shared": SHARED, "one": Way((TINY.latents,), (1,))}
    monkeypatch.setattr(ablations, "WAYS", ways)
    data = kept(built(weights), [pixels(SIDE, SIDE, seed=k) for k in range(2)], [60, 180])
    ablations.learn(
        trained, data, [data], tmp_path, ways=list(ways), minutes=1e-3, learning_rate=1e-3, seed=1
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    ends = [row for row in rows if "way" in row]
    assert [row["way"] for row in ends] == list(ways)
    assert all(row["steps"] > 0 and row["bpp"][0] > 0 for row in ends)
    assert ends[0]["parameters"] != ends[1]["parameters"]


def test_families_cost_what_the_tables_say() -> None:
    """One channel of t8's symbols, one of Laplace's, in one pass each; each with a scale index that is two
    too low."""
    bits = load_set(1).bits().reshape(3, layout.SCALES, 511)
    assert 2 in INDEX_SHIFTS
    true = np.zeros((2, MAGNITUDES))
    for channel, family in enumerate((1, 2)):
        true[channel] = np.rint(2.0 ** -bits[family, 30, 255:] * 1e6)
        true[channel, 1:] *= 2
    train = np.zeros((len(KNOT_RATES), 2, 2, layout.SCALES, MAGNITUDES), np.int32)
    train[:, 0, 0, 28], train[:, 1, 1, 28] = true
    knots = [2, 14]
    found = family_bits(train, train[knots], knots)
    expected = sum(float(true[c] @ bits[c + 1, 30, 255:]) for c in range(2))
    for name in ("a family a channel", "a family a channel and pass", "a family a channel, shifts by pass"):
        assert found[name] == pytest.approx([expected, expected])
    for name in ("gauss for all", "t8 for all", "laplace for all"):
        assert all(value > expected * 1.001 for value in found[name])

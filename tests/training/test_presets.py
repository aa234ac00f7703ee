"""The presets beside s train, stop, go on, and become weights that code what training priced."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import licodec
from lic_format import UsageValueError
from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.store.weights import load_file
from licodec.training import export as exporting
from licodec.training.klt import block_klt
from licodec.training.loop import Trainer, parameter_groups
from licodec.training.objective import TrainingModel
from tests.codecs import tiny
from tests.codecs.fixtures import built, encoded, pixels
from tests.training.conftest import Start

KINDS = {"m": dataclasses.replace(tiny.UNSHUFFLED, groups=(3, 5), depths=(2, 1)), "paper": tiny.GLLMM}


@pytest.fixture(params=["m", "paper"])
def small(request: pytest.FixtureRequest, start: Start, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A trainer of a preset with a few channels."""
    monkeypatch.setitem(layout.PRESETS, request.param, KINDS[request.param])
    return start(preset=request.param)


def test_a_few_steps_move_every_net(small: Trainer) -> None:
    before = {name: value.clone() for name, value in small.model.named_parameters()}
    losses = [small.train_step() for _ in range(3)]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    moved = {
        name.partition(".")[0]
        for name, value in small.model.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved >= {"analysis", "synthesis", "hyper_analysis", "means", "twins", "gain", "inverse_gain"}


def test_every_parameter_but_the_previews_has_a_gradient(small: Trainer) -> None:
    small.model.quantise_twins(True)
    x, rate = small.draw(small.schedule)
    small.model(x, torch.tensor([40, 200])).loss(rate).backward()
    without = {name.partition(".")[0] for name, p in small.model.named_parameters() if p.grad is None}
    assert without == ({"preview"} if small.model.preset.straight else set())
    assert hasattr(small.model, "preview") == small.model.preset.straight
    assert not hasattr(small.model, "refinement")


def test_training_starts_near_the_klt_or_near_grey(small: Trainer) -> None:
    """What nets add is little: the first steps have something to improve."""
    model, preset = small.model, small.model.preset
    x, _ = small.draw(small.schedule)
    rate = torch.tensor([200, 200])
    klt = block_klt(small.crops, preset.latents, blocks=1500)
    deviation = klt.deviation.view(1, -1, 1, 1)
    with torch.inference_mode():
        y = model.analysis(x, rate)
        back = model.synthesis(y, deviation.expand(2, -1, 1, 1), rate)
        if preset.straight:
            basis = klt.components
            known = cb.shuffle(torch.einsum("mc,bmhw->bchw", basis, y * deviation), 4)
            assert float((back - known).square().mean().sqrt()) < 0.02
        else:
            assert 0.5 < float(y.std()) < 2 and float(back.abs().mean()) < 0.2


def test_a_resumed_run_goes_on_where_it_stopped(small: Trainer, start: Start) -> None:
    small.train_step()
    small.save()
    expected = [small.train_step() for _ in range(2)]
    resumed = start(resume=True, preset=small.options.preset)
    assert [resumed.train_step() for _ in range(2)] == expected


def test_an_unknown_preset_is_named(start: Start) -> None:
    with pytest.raises(UsageValueError, match="preset: 'xl', expected one of s, m, paper"):
        start(preset="xl")


def test_layers_that_add_to_strong_latents_learn_slowly(start: Start) -> None:
    """Only those of m, which have 2304 inputs."""
    for preset, factor in (("s", 1.0), ("m", 0.1)):
        with torch.device("meta"):
            model = TrainingModel(layout.PRESETS[preset])
        names = {id(p): name for name, p in model.named_parameters()}
        factors = {names[id(p)]: g["factor"] for g in parameter_groups(model) for p in g["params"]}
        assert factors["analysis.to_latents.weight"] == factor
        assert factors["synthesis.klt.weight"] == 0.01


def exported(trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch, side: int = 64) -> Path:
    """The weights of a trainer's run in folder/fhic/t-1, written by the command."""
    monkeypatch.setattr(exporting, "CROP", side)
    monkeypatch.setattr(exporting, "CROPS_MEASURED", 1)
    trainer.save()
    trainer.log(loss=1.0)
    tag = folder / "fhic" / "t-1"
    options = trainer.options
    arguments = [options.out, tag, options.data, "--preset", options.preset, "--cache", options.cache]
    exporting.main([str(argument) for argument in arguments])
    return tag


def check_files(tag: Path, trainer: Trainer, side: int) -> None:
    """Files of exported weights hold the symbols that their encoder chose and decode to the same pixels
    through the public functions; nets are those that were trained."""
    planes = pixels(side, side + 6, seed=3)
    weights = load_file(tag / exporting.TAG_FILE, "fhic", "t-1", as_named=True)
    model = built(weights)
    assert model.preset == trainer.model.preset
    for order in (Order.ONE_STEP, Order.CHECKERBOARD):
        coded, _ = model._symbols(model._to_input(planes), 150, order, Timer(None))
        file = encoded(model, weights.ref, planes, rate=150, order=int(order))
        z, q = model.read_symbols(file)
        assert np.array_equal(z, coded.z) and np.array_equal(q, coded.q)
    data = licodec.encode(planes, weights=weights.path, quality=60, device="cpu")
    first, second = (
        licodec.decode(data, output="numpy", weights=path, device="cpu")
        for path in (weights.path, tag.parents[1])
    )
    assert first.shape == planes.shape and np.array_equal(first, second)


def test_a_run_is_exported_and_its_weights_code(
    small: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small.train_step()
    tag = exported(small, tmp_path, monkeypatch)
    assert json.loads(capsys.readouterr().out)["preset"] == small.options.preset
    assert f"preset `{small.options.preset}`" in (tag / "card.md").read_text()
    check_files(tag, small, 70)
    restored = TrainingModel(small.model.preset).requires_grad_(False)
    exporting.restore(restored, "fhic", "t-1", path=tag / exporting.TAG_FILE)
    for prefix, net in restored.nets.items():
        for name, value in small.average.nets[prefix].state_dict().items():
            found, scale = net.state_dict()[name], float(value.abs().max())
            assert float((found - value).abs().max()) <= scale / 127, prefix + name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["m", "paper"])
def test_the_presets_themselves_train_and_code(
    preset: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = start(preset=preset)
    assert math.isfinite(trainer.train_step())
    check_files(exported(trainer, tmp_path, monkeypatch), trainer, 64)
    assert dataclasses.asdict(trainer.model.preset) == dataclasses.asdict(layout.PRESETS[preset])

"""Training runs, stops and goes on as if it had not stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lic_format import UsageValueError
from licodec.training import loop
from licodec.training.loop import Schedule, TrainOptions
from tests.training.conftest import Start


def test_a_few_steps_give_finite_losses_and_move_every_net(start: Start) -> None:
    trainer = start()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.train_step() for _ in range(3)]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    moved = {
        name.partition(".")[0]
        for name, value in trainer.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved >= {"analysis", "refinement", "synthesis", "hyper_analysis", "means", "twins"}
    assert moved >= {"gain", "prior_scale"}
    assert trainer.step == 3 and trainer.pixels == 3 * 2 * 64 * 64


def test_what_is_held_stays_as_it_is(start: Start) -> None:
    held = ("gain", "refinement.step", "synthesis")
    trainer = start(hold=held)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train_step()
    still = {name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])}
    assert {"gain", "refinement.step", "synthesis.klt.weight", "synthesis.enter.bias"} <= still
    assert not {"inverse_gain", "refinement.adjoint.weight", "analysis.klt.weight"} & still
    with pytest.raises(UsageValueError, match=r"hold: .* 'gains'"):
        start(hold=("gains",))


def test_a_resumed_run_goes_on_where_it_stopped(start: Start) -> None:
    whole = start()
    for _ in range(2):
        whole.train_step()
    whole.elapsed = 12.5
    whole.save()
    expected = [whole.train_step() for _ in range(3)]

    resumed = start(resume=True, seed=99)
    assert (resumed.step, resumed.elapsed, resumed.pixels) == (2, 12.5, 2 * 2 * 64 * 64)
    assert [resumed.train_step() for _ in range(3)] == expected
    for a, b in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_ends_with_its_time_and_leaves_a_checkpoint_and_a_log(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = start(minutes=1e-6)
    monkeypatch.setattr(trainer, "validate", lambda pictures: {"val_loss": len(pictures)})
    trainer.run()
    assert trainer.last.exists() and trainer.step >= 1
    (row,) = [json.loads(line) for line in (trainer.options.out / "log.jsonl").read_text().splitlines()]
    assert row["end"] is True and row["step"] == trainer.step and math.isfinite(row["loss"])


def test_an_interrupted_run_saves_what_it_has(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = start()

    def interrupted() -> float:
        trainer.step += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert torch.load(trainer.last, weights_only=True)["step"] == 1


def test_a_step_that_diverges_goes_back_to_the_checkpoint_at_half_the_rate(start: Start) -> None:
    trainer = start()
    trainer.train_step()
    trainer.save()
    with torch.no_grad():
        trainer.model.gain.fill_(float("nan"))
    with pytest.raises(FloatingPointError) as caught:
        trainer.train_step()
    trainer.back_off(str(caught.value))
    assert trainer.halvings == 1 and trainer.step == 1
    assert bool(torch.isfinite(trainer.model.gain).all())
    assert math.isfinite(trainer.train_step())


def test_divergence_without_a_checkpoint_is_an_error(start: Start) -> None:
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        start().back_off("loss nan")


def test_validation_measures_every_rate(start: Start) -> None:
    trainer = start()
    rows = trainer.validate([trainer.crops.full[0][:64, :64]])
    assert math.isfinite(rows["val_loss"])
    assert all(set(rows[f"r{rate}"]) == {"bpp0", "bpp1", "z", "psnr"} for rate in loop.VALIDATION_RATES)


def test_crops_are_of_several_sizes_so_that_they_end_inside_cells(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "take_half", lambda rng, rate: np.zeros(len(rate), np.bool_))
    trainer = start(stages=((1.01, 128, 1),))
    sides = [tuple(trainer.draw(trainer.schedule)[0].shape[2:]) for _ in range(40)]
    assert set(sides) == {(side // 4, side // 4) for side in (128, 112, 96)}


def test_validation_crops_need_not_be_of_one_size() -> None:
    crops = [
        np.zeros((height, width, 3), np.uint8)
        for height, width in ((200, 300), (130, 140), (128, 190), (50, 90))
    ]
    assert [crop.shape for crop in loop.validation_pictures(crops)] == [(128, 128, 3)] * 3
    assert loop.validation_pictures([]) == []


def test_a_run_without_validation_crops_logs_without_them(start: Start) -> None:
    assert start().validate([]) == {}


def test_what_the_plateau_reached_is_kept(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = start(minutes=1.0)

    def half_a_minute() -> float:
        trainer.step += 1
        trainer.elapsed += 30
        return 1.0

    monkeypatch.setattr(trainer, "train_step", half_a_minute)
    monkeypatch.setattr(trainer, "validate", lambda pictures: {})
    trainer.run()
    assert trainer.step == 2
    assert torch.load(trainer.plateau, weights_only=True)["step"] == 1


@pytest.mark.parametrize("step", [0, 299, 10_000])
def test_the_learning_rate_warms_up_and_ends_low(step: int) -> None:
    options = TrainOptions()
    rates = [Schedule(progress / 10, options).learning_rate(step) for progress in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(options.learning_rate * min(1, (step + 1) / 300), rel=1e-6)
    assert rates[-1] <= 1e-5


def test_the_schedule_ends_with_quantised_twins() -> None:
    assert not Schedule(0.0, TrainOptions()).quantise_twins
    assert Schedule(1.0, TrainOptions()).quantise_twins


def test_options_of_the_command_reach_the_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from licodec.cli.train import train

    seen: list[Any] = []
    monkeypatch.setattr(loop, "train", seen.append)
    arguments = ["fhic", "--preset", "s", "--minutes", "3", "--out", str(tmp_path), "--resume"]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, result.output
    (options,) = seen
    assert (options.codec, options.preset, options.minutes, options.out, options.resume) == (
        "fhic",
        "s",
        3.0,
        tmp_path,
        True,
    )


def test_a_run_goes_on_by_the_error_it_began_with(start: Start) -> None:
    trainer = start()
    trainer.save()
    with pytest.raises(UsageValueError, match=r"distortion: .* was trained for mse, asked for ms-ssim"):
        start(resume=True, distortion="ms-ssim")

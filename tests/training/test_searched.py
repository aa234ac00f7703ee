"""Decoders that learn from latents found by a search, while these move on: crops are coded once, a run
learns, stops and goes on, and what it writes can be exported."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

import licodec
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import latent_descent
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.codecs.checkerboard_look import FARTHEST
from licodec.codecs.contract import Timer
from licodec.evaluation.metrics import psnr
from licodec.exact import fixed_point
from licodec.options import rate_index
from licodec.training import averaged
from licodec.training import searched as module
from licodec.training.export import load_average, trained_model
from licodec.training.objective import index_bits
from licodec.training.searched import (
    REACH,
    SHARPNESS,
    Pricing,
    Run,
    Searched,
    _loss,
    _moved,
    expected_slope,
    searched,
    searched_crops,
    settled,
    share_above,
    validate,
)
from tests.codecs.fixtures import pixels

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


@pytest.fixture(scope="module")
def weights() -> store.Weights:
    return store.load("fhic", "s-1")


@pytest.fixture(scope="module")
def codec(weights: store.Weights) -> FixedCheckerboard:
    made = build(weights)
    assert made is not None
    return made


def test_what_a_search_finds_costs_less_by_the_cost_that_nets_learn_by(
    codec: FixedCheckerboard, weights: store.Weights
) -> None:
    picture, rates = pixels(64, 64), (20, 150)
    once, twice = (searched(codec, [picture] * 2, rates, effort) for effort in (1, 3))
    assert once.latents.shape == (2, 4, 4, 320) and once.hyper.shape[2:] == (1, 1)
    assert np.array_equal(once.hyper, twice.hyper)
    model = trained_model(weights)
    costs = [
        validate(Pricing(), model, [of.of(np.array([i])) for i in (0, 1)])["cost"] for of in (once, twice)
    ]
    assert all(after < 0.99 * before for before, after in zip(*costs, strict=True))


def test_bits_and_errors_are_about_those_of_files(codec: FixedCheckerboard, weights: store.Weights) -> None:
    picture = pixels(192, 128)
    for quality in (30, 70):
        of = searched(codec, [picture], [rate_index(quality)], 3)
        found = validate(Pricing(), trained_model(weights), [of])
        data = licodec.encode(picture, quality=quality, effort=3, device="cpu")
        assert abs(found["bpp"][0] / (8 * (len(data) - 95) / (192 * 128)) - 1) < 0.05
        assert abs(found["psnr"][0] - psnr(picture, licodec.decode(data, output="numpy", device="cpu"))) < 0.2


def test_latents_move_down_the_gradient_of_the_search_in_pytorch(
    codec: FixedCheckerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways to the same: there tables, and distortion at expectations; here a likelihood, and distortion
    at symbols, less what their rounding adds."""
    monkeypatch.setenv("LICODEC_PRECISION", "float32")
    with PIL.Image.open(PHOTO) as image:
        planes = np.asarray(image.convert("RGB"))[96:224, 32:160].copy()
    rate, timer = 130, Timer(None)
    of = searched(codec, [planes], [rate], 3)
    built = cb.build(weights, "cpu")
    blocks = built._to_input(planes)
    y = torch.from_numpy(of.latents).permute(0, 3, 1, 2).contiguous()
    proposal = replace(
        built.proposed(blocks, rate, Order.CHECKERBOARD, timer),
        y=y,
        z=of.hyper[0],
        features=built._mean_features(of.hyper[0], 8, 8).clone(),
    )
    walked = built.walked(proposal, timer, latent_descent.CHOICE, whole=True)
    descent = latent_descent.Descent(
        built, latent_descent.Aim.of(planes.shape, blocks), proposal, walked, timer
    )
    descent._relaxed.follow(walked)
    gradient = descent._gradient(descent._relaxed.flat(y).clone(), SHARPNESS)
    way = (gradient / descent._relaxed.curvature).clamp(-FARTHEST, FARTHEST)
    model = trained_model(weights)
    model.mixed = False
    _, leaf = (loss := _loss(Pricing(), model, of))
    (leaf.grad,) = torch.autograd.grad(loss[0], leaf)
    moved = torch.from_numpy(_moved(model, of, leaf)).permute(0, 3, 1, 2)
    found = descent._relaxed.flat((y - moved) / REACH)
    far = way.abs() > 0.02
    slope = float((way[far] * found[far]).sum() / way[far].square().sum())
    alike = float(torch.corrcoef(torch.stack([way[far], found[far]]))[0, 1])
    assert int(far.sum()) > 100 and alike > 0.65 and 0.7 < slope < 1.3


def test_latents_alone_go_down_the_cost(codec: FixedCheckerboard, weights: store.Weights) -> None:
    model, of = trained_model(weights), searched(codec, [pixels(64, 64)], [150], 1)
    after = settled(Pricing(), model, of, 6)
    assert np.array_equal(of.hyper, after.hyper) and not np.array_equal(of.latents, after.latents)
    before, now = (validate(Pricing(), model, [each])["cost"][0] for each in (of, after))
    assert now < 0.97 * before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_slope_is_that_of_expected_bits_and_variance() -> None:
    value = torch.linspace(-3.2, 3.3, 41, dtype=torch.float64).view(1, 1, 1, -1).requires_grad_(True)
    index, variance = torch.full_like(value, 20.0), torch.full_like(value, 3.0)
    low = value.detach().floor()
    p = share_above(value - low)
    bits = (1 - p) * index_bits(low, index) + p * index_bits(low + 1, index)
    (expected,) = torch.autograd.grad((bits + 3 * p * (1 - p)).sum(), value)
    found = expected_slope(value.detach(), index, variance)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert float(share_above(torch.tensor(0.0))) == 0.0 and float(share_above(torch.tensor(1.0))) == 1.0


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
    batch = first.of(next(first.drawn(np.random.default_rng(1), 4)))
    assert batch.latents.shape == (4, 4, 4, 320) and sorted(batch.rate) == list(batch.rate)


def test_a_run_learns_stops_and_goes_on(
    codec: FixedCheckerboard, weights: store.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(averaged, "time", SimpleNamespace(process_time=lambda: float(next(seconds))))
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "SETTLING", 2)
    monkeypatch.setattr(module, "SETTLING_AGAIN", 1)
    torch.manual_seed(2)
    crops = searched(codec, [pixels(64, 64), pixels(64, 64)], (60, 190), 2)
    held = [crops.of(np.array([i])) for i in range(2)]
    before = {name: tensor.clone() for name, tensor in trained_model(weights).state_dict().items()}
    found_first = crops.latents.copy()
    run = Run(trained_model(weights), crops, tmp_path, minutes=0.1, learning_rate=1e-3, seed=1)
    run.learn(held)
    assert not np.array_equal(crops.latents, found_first)
    steps = run.step
    assert steps > 2
    again = Run(trained_model(weights), crops, tmp_path, minutes=0.2, learning_rate=1e-3, seed=1)
    again.restore()
    assert again.step == steps
    again.learn(held)
    assert again.step > steps
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[0]["start"] and rows[-1]["end"] and len(rows[-1]["rate_change"]) == 2
    assert rows[0]["rate_change"] == [0.0, 0.0] != rows[-1]["rate_change"]
    (resumed,) = [row for row in rows[1:] if "start" in row]
    assert resumed["rate_change"] != [0.0, 0.0]  # against what the whole run began with
    learnt = {
        name for name, tensor in again.net.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert learnt and all(
        name.startswith(("twins.", "synthesis.", "means.")) and "direct" not in name and "preview" not in name
        for name in learnt
    )
    found = load_average(tmp_path / "last.pt", "s").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in again.average.state_dict().items())

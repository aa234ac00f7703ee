"""Float nets of fhic in integers of 16 bits: close to float32, and the same on any number of threads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from lic_format.errors import LicWarning, WeightsError
from licodec import store, threads
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard import FloatTransforms
from licodec.codecs.checkerboard_compiled import CompiledTransforms, asinh
from licodec.evaluation.metrics import psnr
from licodec.exact import fixed_point
from tests.codecs.fixtures import built, encoded, pixels

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


@pytest.fixture(scope="module")
def fixed(weights: store.Weights) -> cb.Checkerboard:
    return built(weights, "fixed16")


def test_it_is_what_runs(fixed: cb.Checkerboard, model: cb.Checkerboard) -> None:
    assert fixed.exact.path == "int16" and not isinstance(fixed.transforms, FloatTransforms)
    assert model.exact.path != "int16" and isinstance(model.transforms, FloatTransforms)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 23), (64, 200), (129, 70)])
@pytest.mark.parametrize("rate", [0, 90, 255])
def test_files_travel_both_ways_and_pixels_are_near(
    fixed: cb.Checkerboard, model: cb.Checkerboard, weights: store.Weights, height: int, width: int, rate: int
) -> None:
    picture = pixels(height, width)
    for encoder in (fixed, model):
        file = encoded(encoder, weights.ref, picture, rate=rate)
        for first, second in zip(fixed.read_symbols(file), model.read_symbols(file), strict=True):
            assert np.array_equal(first, second)
        here, there = fixed.decode(file).planes, model.decode(file).planes
        assert psnr(here, there) > 52
        assert psnr(here, picture) > psnr(there, picture) - 0.05


@pytest.mark.parametrize(("h", "w"), [(4, 4), (8, 20)])
def test_hyper_latents_are_near(fixed: cb.Checkerboard, model: cb.Checkerboard, h: int, w: int) -> None:
    rng = np.random.default_rng(h)
    transforms = fixed.transforms
    assert isinstance(transforms, CompiledTransforms)
    scale = np.exp(rng.normal(0, 2, model.preset.latents) - np.linspace(-2, 4, model.preset.latents))
    y = (rng.normal(size=(h, w, model.preset.latents)) * scale).astype(np.float32)
    with torch.inference_mode():
        wanted = model.hyper_analysis(torch.from_numpy(y)[None].permute(0, 3, 1, 2))[0].permute(1, 2, 0)
    found = transforms.hyper_analysis(y)
    assert found.dtype == np.float32 and found.shape == (h // 4, w // 4, model.preset.hyper)
    off = found - wanted.numpy()
    assert np.sqrt(np.mean(off**2)) < 0.01 and np.abs(off).max() < 0.1
    assert np.abs(wanted.numpy()).max() > 20


def test_asinh_is_that_of_numpy_from_the_smallest_to_the_largest() -> None:
    powers = np.exp2(np.arange(-149.0, 60.0))
    values = np.concatenate([-powers, [-0.0, 0.0], powers]).astype(np.float32)
    assert np.abs(asinh(values[None, None])[0, 0] - np.arcsinh(values.astype(np.float64))).max() < 4e-6


@pytest.mark.parametrize("extreme", ["noise", "saturated"])
def test_pictures_that_no_photograph_is_like_are_no_worse(
    fixed: cb.Checkerboard, model: cb.Checkerboard, weights: store.Weights, extreme: str
) -> None:
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (96, 96, 3), np.uint8)
    if extreme == "saturated":
        picture = np.kron(rng.integers(0, 2, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8) * 255
    for rate in (60, 255):
        file = encoded(model, weights.ref, picture, rate=rate)
        there = psnr(model.decode(file).planes, picture)
        assert psnr(fixed.decode(file).planes, picture) > there - 0.1


def test_bytes_and_pixels_are_the_same_on_any_number_of_threads(
    fixed: cb.Checkerboard, weights: store.Weights
) -> None:
    picture, found = pixels(150, 210), []
    for count in (1, 2, 3):
        with threads.limited(count):
            file = encoded(fixed, weights.ref, picture, rate=150)
            found.append((file.units[0].body, fixed.decode(file).planes.tobytes()))
    assert found[0] == found[1] == found[2]


def test_higher_effort_and_reduced_pictures_work_on_it(
    fixed: cb.Checkerboard, model: cb.Checkerboard, weights: store.Weights
) -> None:
    from licodec.codecs.contract import LossyWish

    picture = pixels(64, 80)
    small = encoded(fixed, weights.ref, picture, rate=120, wish=LossyWish(effort=3))
    float_small = encoded(model, weights.ref, picture, rate=120, wish=LossyWish(effort=3))
    assert 0.95 < len(small.units[0].body) / len(float_small.units[0].body) < 1.05
    assert psnr(fixed.decode(small).planes, model.decode(small).planes) > 52
    assert psnr(fixed.decode(small, reduce=4).planes, model.decode(small, reduce=4).planes) > 46


@pytest.mark.parametrize(
    "damage", ["no json", "a net less", "a map less", "a channel less", "a fraction", "too large"]
)
def test_steps_that_do_not_fit_are_refused(weights: store.Weights, damage: str) -> None:
    steps = json.loads(weights.metadata[layout.STEPS])
    if damage == "a map less":
        del steps["synthesis"]["render"]
    elif damage == "a channel less":
        steps["means"]["features"].pop()
    elif damage == "a fraction":
        steps["analysis"]["pixels"][3] = 0.5
    elif damage == "a net less":
        del steps["hyper"]
    elif damage == "too large":
        steps["refinement"]["missing"][0] = 99
    text = "{" if damage == "no json" else json.dumps(steps)
    broken = replace(weights, metadata={**weights.metadata, layout.STEPS: text})
    with pytest.raises(WeightsError, match=r"metadata 'steps'.*licodec\.training\.steps"):
        built(broken, "fixed16")
    assert isinstance(built(broken).transforms, FloatTransforms), "float32 has no use for them"


def test_weights_without_steps_run_in_float32(weights: store.Weights) -> None:
    metadata = {name: value for name, value in weights.metadata.items() if name != layout.STEPS}
    with pytest.warns(LicWarning, match="runs in float32 here.*weights with steps"):
        model = built(replace(weights, metadata=metadata), "fixed16")
    assert isinstance(model.transforms, FloatTransforms)


def test_what_torch_does_keeps_its_threads(
    fixed: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from licodec.codecs.contract import LossyWish

    entered: list[int] = []

    @contextlib.contextmanager
    def helped() -> Iterator[None]:
        entered.append(1)
        yield

    monkeypatch.setattr(fixed_point, "helped", helped)
    picture = pixels(32, 32)
    file = encoded(fixed, weights.ref, picture, rate=120)
    fixed.decode(file)
    assert len(entered) == 2
    encoded(fixed, weights.ref, picture, rate=120, wish=LossyWish(effort=2))
    monkeypatch.setattr(fixed, "shown_by", fixed.synthesis)
    fixed.decode(file)
    assert len(entered) == 2

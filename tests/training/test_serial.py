"""Training of order 2: what learns side by side is what is coded front by front, and it gets better."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.codecs.serial import PROJECTED, SerialScales, at_taps, wavefronts
from licodec.entropy.schedule import Pass
from licodec.exact.paths import exact_section
from licodec.training import serial as training
from licodec.training.data import Crops
from licodec.training.export import TAG_FILE
from licodec.training.objective import TwinLayers
from tests.codecs.fixtures import built, pixels
from tests.codecs.tiny import TINY, with_serial, without_serial

SIDE = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> store.Weights:
    return without_serial(tmp_path_factory.mktemp("base"))[0]


def test_means_front_by_front_are_those_of_whole_maps(tmp_path: Path) -> None:
    nets = built(with_serial(tmp_path))._serial
    assert nets is not None
    h, w = 6, 9
    features, means = torch.randn(1, TINY.mean, h, w), torch.empty(1, TINY.latents, h * w)
    order = wavefronts(h, w)
    values = torch.randn(1, h * w, TINY.latents)[:, order.cells]

    def settle(step: Pass, front: slice, mean: Tensor) -> Tensor:
        means[:, step.first : step.last, order.cells[front]] = mean.mT
        return mean + values[:, front, step.first : step.last]

    with torch.inference_mode():
        decoded = nets.means.walk(features, order, settle)
        parts = list(torch.split(decoded, list(TINY.groups), 1))
        for group, part in enumerate(parts):
            rows = nets.means.base(group, features, parts[:group])
            found = nets.means.at(group, rows, at_taps(nets.means.squeeze[group](part)))
            first = sum(TINY.groups[:group])
            expected = means[:, first : first + TINY.groups[group]].mT
            assert (found - expected).abs().max() < 1e-4 < expected.std()


def test_twins_give_the_indices_of_the_integer_layers(tmp_path: Path) -> None:
    base, trained = without_serial(tmp_path)
    trained.quantise_twins(True)
    model = training.SerialModel(trained)
    model.start_from_checkerboard()
    training.export(base, model.requires_grad_(False), [], tmp_path / "fhic" / "both")
    codec = built(store.load("fhic", "both", path=tmp_path / "fhic" / "both" / TAG_FILE))
    h, w, rate = 8, 12, 90
    generator = np.random.default_rng(1)
    z = torch.from_numpy(generator.integers(-9, 10, (1, TINY.hyper, 2, 3))).float()
    q = np.rint(generator.laplace(0, 3, (1, TINY.latents, h, w))).astype(np.int16)
    levels = torch.from_numpy(codec.magnitudes.take(np.abs(q), mode="clip"))

    def scales(nets: SerialScales, hyper: Tensor, unit: float) -> Tensor:
        projected: list[Tensor] = []
        found = []
        features = nets.hyper(hyper)[:, :, :h, :w]
        for group, part in enumerate(torch.split(levels, list(TINY.groups), 1)):
            rows = cb.rows_of(part).contiguous()
            feature = nets.project(group, rows.float() * unit if unit != 1 else rows)
            feature = feature.view(1, h, w, PROJECTED).permute(0, 3, 1, 2)
            found.append(nets.at(group, nets.base(group, features, projected), at_taps(feature)))
            projected.append(feature)
        return torch.cat(found, 2).float()

    with exact_section(codec.exact.path):
        exact = scales(SerialScales(cb.IntegerLayers(codec.exact, rate, codec.exact.path)), z, 1)
    with torch.no_grad():
        twins = SerialScales(TwinLayers(model.twin, torch.tensor([rate])))
        real = scales(twins, z * layout.HYPER_UNIT, layout.MAGNITUDE_UNIT)
    assert exact.std() > 5
    assert ((real.clamp(0, 63) - exact).abs() < 1).float().mean() > 0.99


def test_training_makes_fewer_bits_of_the_same_latents(
    base: store.Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    seconds = itertools.count(step=torch.get_num_threads())  # a clock that counts steps
    monkeypatch.setattr(training, "time", SimpleNamespace(process_time=lambda: float(next(seconds))))
    model, codec = training.prepared(base)
    crops = Crops([pixels(SIDE, SIDE, seed=k) for k in range(4)], [pixels(SIDE, SIDE, seed=9)])
    generator = np.random.default_rng(0)
    data = training.collected(tmp_path, lambda: training.collect(codec, crops, generator, 8, SIDE))
    again = training.collected(tmp_path, lambda: pytest.fail("it was collected before"))
    for name in training.PARTS:
        assert torch.equal(getattr(data, name), getattr(again, name))
    trainer = training.SerialTrainer(model, codec, [pixels(SIDE, SIDE, seed=20)])
    before = {name: value.clone() for name, value in model.trained.state_dict().items()}
    first = trainer.bits(order=Order.SERIAL)
    trainer.train(data, tmp_path, minutes=0.8, learning_rate=1e-2, seed=1)
    assert sum(trainer.bits(order=Order.SERIAL)) < 0.98 * sum(first)
    assert all(torch.equal(value, before[name]) for name, value in model.trained.state_dict().items())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["bpp2"] == trainer.bits(order=Order.SERIAL)
    kept = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())

    folder = tmp_path / "fhic" / "next"
    facts = training.export(base, model.requires_grad_(False), [pixels(64, 64)], folder)
    found = store.load("fhic", "next", path=folder / TAG_FILE)
    assert facts["decode_digest"] == found.decode_digest.hex() != base.decode_digest.hex()
    assert found.synthesis_digest == base.synthesis_digest
    assert facts["bytes"] == (folder / TAG_FILE).stat().st_size
    for name, tensor in base.tensors.items():
        assert torch.equal(tensor, found.tensors[name])
    coded = built(found)
    _, passes = coded._symbols(coded._to_input(pixels(40, 40)), 120, Order.SERIAL, Timer(None))
    assert len({int(t) for part in passes[1:] for t in np.unique(part.index)}) > 5

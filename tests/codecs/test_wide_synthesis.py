"""The synthesis of decoder "best": it starts as the fast one, sees what its halo says, and is read with
care."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lic_format import WeightsError
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.wide_synthesis import WideSynthesis, Widths, alternate, grown
from tests.codecs.fixtures import Pixels, built, encoded, pixels
from tests.codecs.test_tiles import cut

TINY = Widths(
    sixteenth=8, sixteenth_blocks=1, eighth=8, eighth_blocks=1, features=4, quarter=8, quarter_layers=1
)


def alternate_of(weights: store.Weights, widths: Widths = TINY, **changed: Any) -> store.Weights:
    """A synthesis of noise for whole weights, as the store would read it."""
    torch.manual_seed(1)
    tensors = {f"synthesis.{name}": value for name, value in WideSynthesis(widths).state_dict().items()}
    tensors["synthesis.inverse_gain"] = weights.tensors["synthesis.inverse_gain"]
    metadata = {"architecture": json.dumps(dataclasses.asdict(widths))}
    found = dataclasses.replace(weights, tensors=store.Tensors.of(tensors), metadata=metadata)
    return dataclasses.replace(found, **changed)


@torch.no_grad()
def test_a_grown_synthesis_gives_what_it_grew_from(model: cb.Checkerboard) -> None:
    torch.manual_seed(2)
    wide = grown(model.lapped, Widths(features=5, quarter_layers=2, sixteenth=130, eighth=97))
    latents, scale = torch.randn(3, 320, 5, 6), torch.rand(3, 320, 1, 1)
    rate = torch.tensor([0, 101, 255])
    expected, found = (net(latents, scale, rate) for net in (model.lapped, wide))
    assert float((found - expected).abs().max()) < 1e-5 < float(expected.abs().max())
    for layer in wide.again:
        assert isinstance(layer, cb.Conv)
        layer.weight.normal_(0, 0.1)
    assert float((wide(latents, scale, rate) - expected).abs().max()) > 1e-3


def test_every_weight_of_a_grown_synthesis_learns(model: cb.Checkerboard) -> None:
    """What adds nothing at first does so after a step, and what feeds it follows."""
    torch.manual_seed(3)
    widths = Widths(sixteenth=130, eighth=98, features=4, quarter=50)
    wide = grown(model.lapped, widths).requires_grad_(True)
    optimiser = torch.optim.Adam(wide.parameters(), lr=1e-3)
    latents, scale, rate = torch.randn(2, 320, 2, 2), torch.rand(2, 320, 1, 1), torch.tensor([9, 200])
    for _ in range(3):
        optimiser.zero_grad()
        wide(latents, scale, rate).square().mean().backward()
        optimiser.step()
    still = [name for name, p in wide.named_parameters() if p.grad is None or not float(p.grad.abs().max())]
    assert still == []


@pytest.mark.parametrize("name", ["sixteenth", "sixteenth_blocks", "eighth", "eighth_blocks", "quarter"])
def test_a_synthesis_does_not_grow_smaller(name: str, model: cb.Checkerboard) -> None:
    size = {"sixteenth": 127, "sixteenth_blocks": 0, "eighth": 95, "eighth_blocks": 2, "quarter": 47}[name]
    with pytest.raises(ValueError, match=f"{name} is {size}, the synthesis has {size + 1}"):
        grown(model.lapped, dataclasses.replace(Widths(), **{name: size}))


@pytest.mark.parametrize("widths", [TINY, dataclasses.replace(TINY, eighth_blocks=4, quarter_layers=3)])
@torch.no_grad()
def test_the_halo_is_what_the_net_sees(widths: Widths) -> None:
    torch.manual_seed(0)
    widths, side, centre = dataclasses.replace(widths, latents=6), 17, 8
    net, rate = WideSynthesis(widths).double(), torch.tensor([100])
    for parameter in net.parameters():
        parameter.normal_(0, 0.3)
    scale = torch.ones(1, 6, 1, 1, dtype=torch.float64)
    latents = torch.randn(1, 6, side, side, dtype=torch.float64)
    changed = latents.clone()
    changed[:, :, centre, centre] += 1
    moved = (net(latents, scale, rate) != net(changed, scale, rate)).any(0).any(0).any(1).nonzero()
    reach = max(4 * centre - int(moved.min()), int(moved.max()) - (4 * centre + 3))
    assert widths.halo == -(-reach // 4)


def shown(model: cb.Checkerboard, planes: Pixels, ref: store.WeightsRef) -> Pixels:
    return model.decode(encoded(model, ref, planes, rate=120)).planes


def test_tiles_of_a_large_picture_have_no_seam(
    weights: store.Weights, model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = dataclasses.replace(TINY, eighth_blocks=3)
    best = alternate(model, alternate_of(weights, widths))
    planes = pixels(180, 200)
    file = encoded(model, weights.ref, planes, rate=120)
    whole = best.decode(file).planes
    halos = []

    def tiles(h: int, w: int, halo: int, _: int) -> Any:
        halos.append(halo)
        return cut(h, w, 5, 4, halo)

    monkeypatch.setattr(cb, "tiles", tiles)
    assert np.abs(best.decode(file).planes.astype(int) - whole).max() <= 1
    assert set(halos) == {widths.halo} != {model.preset.halo}


def test_symbols_are_the_same_and_pixels_are_not(weights: store.Weights, model: cb.Checkerboard) -> None:
    best = alternate(model, alternate_of(weights))
    file = encoded(model, weights.ref, pixels(70, 90), rate=90)
    for first, second in zip(model.read_symbols(file), best.read_symbols(file), strict=True):
        assert np.array_equal(first, second)
    fast = model.decode(file).planes
    assert not np.array_equal(fast, best.decode(file).planes)
    assert np.array_equal(fast, model.decode(file).planes), "the model it came from is as it was"
    assert np.array_equal(model.decode(file, reduce=4).planes, best.decode(file, reduce=4).planes)


def test_it_runs_in_the_type_that_its_model_has(weights: store.Weights) -> None:
    best = alternate(built(weights, "bfloat16"), alternate_of(weights))
    assert isinstance(best.shown_by, WideSynthesis)
    types = {name: p.dtype for name, p in best.shown_by.named_parameters()}
    assert types["klt.weight"] == torch.float32 and types["render.weight"] == torch.bfloat16
    assert shown(best, pixels(64, 64), weights.ref).shape == (64, 64, 3)


def test_an_alternate_of_other_tensors_is_refused(weights: store.Weights, model: cb.Checkerboard) -> None:
    right = alternate_of(weights)
    tensors: dict[str, Tensor] = dict(right.tensors)
    wrong: list[tuple[str, dict[str, Tensor]]] = [
        ("no tensor 'synthesis.leave.bias'", {k: v for k, v in tensors.items() if "leave.bias" not in k}),
        ("'synthesis.klt.bias' has shape", tensors | {"synthesis.klt.bias": torch.zeros(3)}),
        ("expected floats", tensors | {"synthesis.klt.bias": torch.zeros(768, dtype=torch.int16)}),
    ]
    for says, found in wrong:
        with pytest.raises(WeightsError, match=says):
            alternate(model, alternate_of(weights, tensors=store.Tensors.of(found)))


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("{", "does not describe"),
        ("[]", "does not describe"),
        ('{"eighth": 0}', "0 is no size"),
        ('{"eighth": true}', "True is no size"),
        ('{"eighth": 5000}', "5000 is no size"),
        ('{"other": 5}', "does not describe"),
        ('{"latents": 319}', "319 latents, the picture has 320"),
    ],
)
def test_an_alternate_that_describes_no_synthesis_is_refused(
    architecture: str, says: str, weights: store.Weights, model: cb.Checkerboard
) -> None:
    with pytest.raises(WeightsError, match=says):
        alternate(model, alternate_of(weights, metadata={"architecture": architecture}))

"""A trained float twin becomes the integer layer that does what the twin, quantised, did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from licodec.exact.layers import check_bounds
from licodec.exact.paths import ExactNet
from licodec.exact.specs import KNOTS, LayerSpec
from licodec.exact.trainable import TrainableConv, convert, round_through
from tests.exact.layers import random_input, run

SPECS = [
    LayerSpec("hidden", 24, 16, 3),
    LayerSpec("wide", 32, 24, 5),
    LayerSpec("pointwise", 64, 48, 1),
    LayerSpec("signed", 12, 32, 3, in_unit=1 / 4, signed=True),
    LayerSpec("index", 96, 40, 1, last=True),
]


def trained(spec: LayerSpec, seed: int = 0) -> TrainableConv:
    """A twin with weights and biases of the size that training gives them."""
    torch.manual_seed(seed)
    twin = TrainableConv(spec)
    with torch.no_grad():
        twin.bias.uniform_(-1, 1)
        twin.bias.add_(torch.linspace(0, 2, KNOTS).view(-1, 1))
        if spec.last:
            twin.weight.mul_(8)
            twin.bias.add_(20)
    return twin.requires_grad_(False)


def outputs(twin: TrainableConv, rate: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...]:
    """(twin's output in integer units before rounding of a last layer, integer layer's output) on the same
    integers."""
    layer = convert(twin)
    x = random_input(3, layer, 12, 10)
    real = torch.from_numpy(x).float().unsqueeze(0) * twin.spec.in_unit
    unit = 1.0 if twin.spec.last else twin.spec.out_unit
    ours = (twin(real, torch.tensor([rate])) / unit)[0].double().numpy()
    return ours, run(ExactNet([layer], None), layer, x, rate).astype(np.float64)


@pytest.mark.parametrize("rate", [0, 100, 255])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_integer_layer_gives_the_quantised_twins_output_within_rounding(
    spec: LayerSpec, rate: int
) -> None:
    twin = trained(spec)
    twin.quantise = True
    ours, integers = outputs(twin, rate)
    if spec.last:
        ours = np.floor(ours + 0.5).clip(0, 63)
    assert len(np.unique(integers)) > 20  # the comparison is about something
    assert np.abs(ours - integers).max() <= 1
    assert (np.round(ours) == integers).mean() > 0.98


def test_without_quantisation_the_twin_is_an_ordinary_convolution_with_a_clipped_output() -> None:
    twin = trained(SPECS[0])
    x = torch.rand(2, 24, 9, 9) * 8
    rate = torch.tensor([0, 16])
    expected = torch.nn.functional.conv2d(x, twin.weight, padding=1) + twin.bias[:2, :, None, None]
    assert torch.allclose(twin(x, rate), expected.clamp(0, 127 / 16), atol=1e-5)


def test_converted_layers_keep_one_bit_of_margin_below_the_bound() -> None:
    spec = LayerSpec("full", 1100, 2, 1)  # every weight at its largest: 1100 * 127 * 127 > 2^24
    twin = trained(spec)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor([0.02, 0.01]).view(2, 1, 1, 1) * torch.ones_like(twin.weight).sign())
        twin.weight[:, ::2] *= -1
    assert 1100 * 127 * 127 >= 2**24
    layer = convert(twin)
    check_bounds(layer)
    bound = 127 * layer.weight.long().abs().sum((1, 2, 3)) + layer.bias.long().abs().amax(0)
    assert int(bound.max()) < 2**23
    assert int(layer.weight.abs().max()) < 127  # a coarser step
    twin.quantise = False
    ours, integers = outputs(twin, 90)
    assert np.abs(ours.clip(0, 127) - integers).max() <= 6  # of 127; the sum of 1100 terms of a coarse step


def test_only_the_channels_that_need_it_get_a_coarser_step() -> None:
    spec = LayerSpec("mixed", 1100, 2, 1)
    twin = trained(spec)
    with torch.no_grad():
        twin.weight[0] = 0.02
        twin.weight[1, :] = 0.0001
        twin.weight[1, 0] = 0.02
    assert convert(twin).weight.abs().amax((1, 2, 3)).tolist()[1] == 127


def test_a_channel_that_died_converts_too() -> None:
    twin = trained(SPECS[0])
    with torch.no_grad():
        twin.weight[3] = 0
    layer = convert(twin)
    check_bounds(layer)
    assert not layer.weight[3].any()


def test_rounding_goes_half_up_and_lets_the_gradient_through() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.4], requires_grad=True)
    y = round_through(x)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert y.tolist() == [-1, 0, 1, 2, 2]
    assert x.grad is not None and x.grad.tolist() == [1] * 5

"""The optimiser against Adam on its own ground, and what it promises about resuming."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from licodec.training.soap import SIDE_MAX, Soap, _out_of


def tilted_target() -> tuple[Tensor, Tensor, Tensor]:
    """A matrix to find, and curvatures of its rows and columns along directions that are no coordinates."""
    torch.manual_seed(3)
    sides = [torch.linalg.qr(torch.randn(n, n)).Q for n in (24, 40)]
    rows, columns = (q * torch.logspace(0, -2, len(q)) @ q.T for q in sides)
    return torch.randn(24, 40), rows, columns


def distance_after(steps: int, kind: str) -> float:
    target, rows, columns = tilted_target()
    weight = nn.Parameter(torch.zeros(24, 40, 1, 1))
    rate = 0.05
    optimiser: torch.optim.Optimizer = (
        Soap([{"params": [weight]}], lr=rate)
        if kind == "soap"
        else torch.optim.Adam([weight], lr=rate, betas=(0.95, 0.95))
    )
    for _ in range(steps):
        loss = (rows @ (weight[:, :, 0, 0] - target) @ columns).square().sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float((weight.detach()[:, :, 0, 0] - target).norm() / target.norm())


def test_directions_that_are_no_coordinates_are_found_sooner_than_by_adam() -> None:
    assert distance_after(300, "soap") < 0.5 * distance_after(300, "adam")


@pytest.mark.parametrize("shape", [(7,), (17, 12), (20, 1, 3, 3), (SIDE_MAX + 1, SIDE_MAX + 2, 1, 1)])
def test_what_has_no_basis_moves_as_with_adam(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    pairs = (
        (ours, Soap([{"params": [ours]}], lr=0.01)),
        (theirs, torch.optim.Adam([theirs], lr=0.01, betas=(0.95, 0.95))),
    )
    for step in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for parameter, optimiser in pairs:
            parameter.grad = gradient.clone()
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def gradients(shape: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(shape, generator=generator)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened() -> None:
    weight = nn.Parameter(torch.zeros(12, 6, 3, 3))
    optimiser, source = Soap([{"params": [weight]}], lr=0.01), gradients(weight.shape)
    for _ in range(30):
        weight.grad = next(source)
        optimiser.step()
    again = nn.Parameter(weight.detach().clone())
    other = Soap([{"params": [again]}], lr=0.5)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for _ in range(30):
        weight.grad = next(source)
        again.grad = weight.grad.clone()
        optimiser.step()
        other.step()
    assert torch.equal(weight, again)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(12, 16, 1, 1))
    optimiser = Soap([{"params": [weight]}], lr=0.01)
    for _ in range(25):
        weight.grad = torch.zeros_like(weight)
        optimiser.step()
    assert torch.equal(weight, torch.ones(12, 16, 1, 1))


def test_a_group_can_be_left_to_adam() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(12, 16, 1, 1))
    optimiser = Soap([{"params": [weight], "rotated": False}], lr=0.01)
    weight.grad = torch.randn_like(weight)
    before = weight.detach().clone()
    optimiser.step()
    assert torch.allclose(before - weight, 0.01 * weight.grad.sign(), atol=1e-6)


def test_the_mean_gradient_is_the_same_in_whatever_bases_it_is_kept() -> None:
    weight = nn.Parameter(torch.zeros(12, 6, 3, 3))
    optimiser, source = Soap([{"params": [weight]}], lr=0.01), gradients(weight.shape)
    mean = torch.zeros(12, 54)
    for _ in range(45):  # two turns of the bases
        weight.grad = next(source)
        optimiser.step()
        mean.lerp_(weight.grad.flatten(1), 0.05)
        state = optimiser.state[weight]
        assert torch.allclose(_out_of(state, state["mean"]), mean, atol=1e-5)

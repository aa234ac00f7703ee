"""Deformable blocks: what they sample, that they start as nothing, and that they learn where to look."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from licodec.codecs.deformable import GROUPS, SAMPLES, DeformableBlock, bilinear


def by_grid_sample(x: Tensor, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
    """The same with torch's own sampler, a sample and a group at a time."""
    c, h, w = x.shape[1:]
    groups, samples = rows.shape[3:]
    out = []
    for g, part in enumerate(torch.split(x, c // groups, 1)):
        total = torch.zeros_like(part)
        for k in range(samples):
            at = torch.stack([columns[:, :, :, g, k] * 2 / (w - 1), rows[:, :, :, g, k] * 2 / (h - 1)], 3) - 1
            found = F.grid_sample(part, at, padding_mode="border", align_corners=True)
            total = total + found * factor[:, None, :, :, g, k]
        out.append(total)
    return torch.cat(out, 1)


def test_samples_and_their_gradients_are_those_of_grid_sample() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 6, 5, 7, dtype=torch.double, requires_grad=True)
    rows, columns, factor = (
        (torch.randn(2, 5, 7, 3, 2, dtype=torch.double) * 4 + middle).requires_grad_() for middle in (2, 3, 0)
    )
    inputs = (x, rows, columns, factor)
    weight = torch.randn(2, 6, 5, 7, dtype=torch.double)
    found, expected = bilinear(*inputs), by_grid_sample(*inputs)
    assert torch.allclose(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        assert theirs.abs().max() > 0.1
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_a_map_of_one_row_or_column_is_sampled_too(size: tuple[int, int]) -> None:
    h, w = size
    rows = torch.full((1, h, w, 1, 1), 2.5)
    found = bilinear(torch.full((1, 4, h, w), 3.0), rows, rows, torch.ones_like(rows))
    assert torch.allclose(found, torch.tensor(3.0))


def test_a_block_starts_as_nothing_and_learns_where_to_look() -> None:
    """What stands three columns further right can only be had by moving samples there."""
    torch.manual_seed(2)
    block = DeformableBlock(8)
    x, rate = torch.randn(2, 8, 10, 10), torch.tensor([10, 200])
    assert torch.equal(block(x, rate), x)
    x = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 5, 1)
    wanted = x.roll(-3, 3)
    inside = slice(2, -4)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(block(x, rate)[..., inside], wanted[..., inside])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    moved = block.place(block.around(x)).detach()
    assert moved[:, : 2 * GROUPS * SAMPLES].abs().max() > 0.5
    assert losses[-1] < 0.5 * losses[0]

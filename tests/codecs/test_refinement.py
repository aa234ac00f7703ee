"""The encoder's look at what it would decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.exact.layers import interpolate_knots
from licodec.training.objective import rate_lambda
from tests.codecs.fixtures import built, encoded

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"


@torch.no_grad()
def test_latents_go_a_step_towards_what_decodes_to_the_picture() -> None:
    """With an orthonormal synthesis whose answer is known exactly, whatever becomes zero."""
    torch.manual_seed(0)
    preset = layout.PRESETS["s"]
    net, refinement = cb.Synthesis(preset), cb.Refinement(preset)
    for layer in (net.to_quarter, net.leave, net.klt, refinement.adjoint):
        layer.weight.zero_()
        layer.bias.zero_()
    basis = torch.linalg.qr(torch.randn(768, 768)).Q[:, : preset.latents]
    net.klt.weight.copy_(basis[:, :, None, None])
    refinement.adjoint.weight.copy_(basis.T[:, :, None, None])
    refinement.step.uniform_(0, 1)
    rate, s, x = torch.tensor([3, 200]), torch.randn(2, preset.latents, 5, 6), torch.rand(2, 48, 20, 24) - 0.5
    gain, inverse = torch.rand(2, 2, preset.latents, 1, 1).add(0.5).unbind()
    found = refinement(s, x, gain, inverse, rate, net)
    best = F.conv2d(cb.unshuffle(x, 4), refinement.adjoint.weight) / inverse
    step = interpolate_knots(refinement.step, rate)[:, :, None, None]
    assert torch.allclose(found, s + step * (best - s), atol=1e-4)


@pytest.mark.parametrize("rate", [40, 130, 230])
def test_a_look_at_the_decoded_picture_pays(rate: int, weights: store.Weights) -> None:
    planes = np.asarray(Image.open(PHOTO).convert("RGB"))[:256, :256].copy()
    model, blind = built(weights), built(weights)
    blind.refinement.step.data = torch.zeros_like(blind.refinement.step)

    def cost(encoder: cb.Checkerboard) -> float:
        file = encoded(encoder, weights.ref, planes, rate=rate)
        bits = 8 * len(file.units[0].body) / planes[..., 0].size
        error = np.square(encoder.decode(file).planes.astype(float) - planes).mean()
        return float(bits + rate_lambda(torch.tensor(rate)) * error)

    assert cost(model) < 0.995 * cost(blind)

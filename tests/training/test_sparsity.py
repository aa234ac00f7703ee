"""The L1 term on latents: what it costs, that it silences channels, and that the files stay files of the same
weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from licodec.codecs import checkerboard as cb
from licodec.training import encoders, sparsity
from licodec.training.data import to_input
from licodec.training.encoders import Contender, Way
from licodec.training.export import trained_model
from licodec.training.objective import rate_lambda
from tests.codecs.fixtures import pixels
from tests.codecs.tiny import without_serial


def test_the_term_is_in_bits_per_pixel_and_rises_with_channels() -> None:
    y = torch.zeros(2, 4, 3, 5)
    y[0, 3], y[1, 1] = -2.0, 2.0
    found = sparsity.magnitudes(y, 8.0)
    assert found.tolist() == pytest.approx([8 * 2 / 256, 8 * 2 / 256 * 0.5**sparsity.RISE])
    y.requires_grad_(True)
    sparsity.magnitudes(y, 8.0)[1].backward()  # type: ignore[no-untyped-call]
    assert y.grad is not None and float(y.grad[1, 3].abs().max()) == 0
    assert y.grad[1, 1].sum().item() == pytest.approx(8 / 256 * 0.5**sparsity.RISE)


def test_an_encoder_learns_by_the_term_beside_its_bits(tmp_path: Path) -> None:
    base, _ = without_serial(tmp_path)
    start = trained_model(base)
    start.mixed = False
    batch, rate = pixels(64, 64, seed=20)[None], torch.tensor([40])
    terms = [functools.partial(sparsity.magnitudes, weight=weight) for weight in (0.0, 3.0)]
    without, beside = (Contender(Way(term=term), start, 1, 3e-3) for term in terms)
    for each in (without, beside):
        each.gradient(batch, rate)
    y, _ = beside.model.latents(to_input(batch, "cpu"), rate)
    loss = terms[1](y).sum() * (0.016 / rate_lambda(rate)).sqrt()
    layer = "analysis.to_latents.weight"
    (expected,) = torch.autograd.grad(loss, [beside.model.get_parameter(layer)])
    with_term, bare = (each.model.get_parameter(layer).grad for each in (beside, without))
    assert with_term is not None and bare is not None and expected.abs().max() > 0
    assert torch.allclose(with_term - bare, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


def test_what_a_way_learnt_is_measured_in_files_of_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsity, "RATES", (0, 120, 240))
    base, _ = without_serial(tmp_path)
    run, held = tmp_path / "run", [pixels(96, 64, seed=30), pixels(64, 96, seed=31)]
    run.mkdir()
    model = trained_model(base)
    learnt_by = dict(model.named_parameters())
    with torch.no_grad():  # an encoder with nothing to say in its last channels
        for name in ("klt.weight", "to_latents.weight", "to_latents.bias"):
            learnt_by[f"analysis.{name}"][40:] = 0
    state = {name: x for name, x in model.state_dict().items() if name.startswith(encoders.ENCODER)}
    torch.save(state, run / "quiet.pt")
    sparsity.measure(base, run, ["quiet"], held)
    start, quiet, told = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    assert start["rates"] == [0, 120, 240]
    for before, learnt, also in zip(start["left_out"], quiet["left_out"], told["left_out"], strict=True):
        assert also == pytest.approx(max(before, learnt), abs=1e-6)
    made = sparsity.with_encoder(base, model, tmp_path / "made" / "fhic" / "tiny")
    assert made.decode_digest == base.decode_digest
    assert sparsity.coded(cb.build(made, "cpu"), held).row()["bpp"] == quiet["bpp"]

"""Teacher and student: crops are decoded once, a run learns from them, stops and goes on, and what it exports
is what decoders find."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import licodec
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.checkerboard_fixed import build
from licodec.codecs.checkerboard_look import USUAL_EFFORT
from licodec.codecs.wide_synthesis import WideSynthesis, Widths, alternate, grown
from licodec.evaluation.metrics import psnr
from licodec.exact import fixed_point
from licodec.training import averaged, distil
from licodec.training.card import alternate_card
from licodec.training.data import Crops, read_crops
from licodec.training.decoded import Decoded, coefficient_scale, decoded_crops, decoded_latents
from licodec.training.loop import validation_pictures
from tests.codecs.fixtures import pixels

WIDTHS = Widths(sixteenth=129, sixteenth_blocks=1, eighth=97, eighth_blocks=3, features=1, quarter=49)


@pytest.fixture(scope="module")
def codec() -> Iterator[cb.Checkerboard]:
    """In float32 everywhere, as the commands ask for."""
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICODEC_PRECISION", "float32")
        yield cb.build(store.load("fhic", "s-1"), "cpu")


@pytest.fixture(scope="module")
def decoded(codec: cb.Checkerboard, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    return decoded_crops(codec, *_crops(shards, tmp_path_factory), count=16, side=64, seed=3)


def _crops(shards: Path, folders: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = folders.mktemp("decoded")
    return (lambda: Crops.load(shards, folder)), folder / "kept"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that a busy machine doesn't slow down: a second a look."""
    seconds = itertools.count()
    monkeypatch.setattr(averaged, "time", SimpleNamespace(process_time=lambda: float(next(seconds))))


def test_crops_are_decoded_once_and_their_errors_are_those_of_the_codec(
    codec: cb.Checkerboard, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    crops, folder = _crops(shards, tmp_path_factory)
    first = decoded_crops(codec, crops, folder, count=3, side=64, seed=1)

    def refuse() -> Crops:
        raise AssertionError("decoded again")

    again = decoded_crops(codec, refuse, folder, count=3, side=64, seed=1)
    for name in ("rate", "latents", "pixels", "error"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    with pytest.raises(AssertionError, match="decoded again"):
        decoded_crops(codec, refuse, folder, count=4, side=64, seed=1)
    batch = first.batch(np.arange(3))
    with torch.no_grad():
        shown = codec.lapped(batch.latents, coefficient_scale(codec, batch.rate), batch.rate)
    assert torch.allclose((shown - batch.blocks).square().mean((1, 2, 3)), batch.error, rtol=1e-3)
    latents = decoded_latents(codec, first.pixels[1], int(first.rate[1]))
    assert torch.equal(latents.half().float(), batch.latents[1:2])


@pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")
def test_a_search_decodes_to_what_files_of_the_usual_effort_do(
    codec: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = build(store.load("fhic", "s-1"))
    picture, rate = pixels(80, 64), 140
    found, plain = (decoded_latents(codec, picture, rate, way) for way in (looks, None))
    assert found.shape == plain.shape and float((found - plain).abs().max()) > 0.1
    at = torch.tensor([rate])
    with torch.no_grad():
        blocks = codec.lapped(found, coefficient_scale(codec, at), at)
    shown = cb.shuffle(blocks, 4)[0].permute(1, 2, 0).mul(255).add(127.5)[:80, :64].clamp(0, 255).numpy()
    monkeypatch.setenv("LICODEC_PRECISION", "fixed16")
    licodec.clear_cache()
    data = licodec.encode(picture, quality=rate / 2.55, effort=USUAL_EFFORT, device="cpu")
    decoded = licodec.decode(data, output="numpy", device="cpu")
    licodec.clear_cache()
    assert psnr(np.round(shown).astype(np.uint8), decoded) > 50


def test_batches_see_all_rates(decoded: Decoded) -> None:
    batches = decoded.batches(np.random.default_rng(0), 4)
    ranks = np.argsort(np.argsort(decoded.rate, kind="stable"))
    for batch in itertools.islice(batches, 5):
        assert batch.latents.shape == (4, 320, 4, 4) and batch.blocks.shape == (4, 48, 16, 16)
        assert (batch.rate.diff() >= 0).all()
    assert len(set(ranks)) == 16


def run_of(codec: cb.Checkerboard, folder: Path, **more: Any) -> distil.Run:
    torch.manual_seed(1)
    net = more.pop("net", None) or grown(codec.lapped, WIDTHS)
    return distil.Run(codec, net, folder, **{"minutes": 0.1, "learning_rate": 1e-3} | more)


def test_a_teacher_learns_stops_and_goes_on(
    codec: cb.Checkerboard, decoded: Decoded, tmp_path: Path, clock: None
) -> None:
    held = distil.held_pictures(codec, [pixels(64, 64, seed=80)])
    before = distil.quality(codec, codec.lapped, held)
    run = run_of(codec, tmp_path)

    def validate(net: distil.Synthesis) -> dict[str, Any]:
        return distil.gains(distil.quality(codec, net, held), before)

    start = validate(run.net)
    assert start["mean"] == pytest.approx(0, abs=1e-3)
    run.train(decoded.batches(run.rng, 2), validate)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["end"] and rows[-1]["step"] == run.step == 6
    assert rows[-1]["mean"] > 0.001  # the shipped net has not seen such pictures
    again = run_of(codec, tmp_path, minutes=0.12)
    again.restore()
    assert (again.step, again.elapsed) == (6, 6.0)
    for name, value in run.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])
    again.train(decoded.batches(again.rng, 2), validate)
    assert again.step == 8


def test_a_loss_that_is_no_number_stops_a_run(
    codec: cb.Checkerboard, decoded: Decoded, tmp_path: Path
) -> None:
    run = run_of(codec, tmp_path)
    with torch.no_grad():
        run.net.leave.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0: loss nan"):
        run.train_step(decoded.batch(np.arange(2)))


@torch.no_grad()
def test_a_student_follows_its_teacher_less_and_less(
    codec: cb.Checkerboard, decoded: Decoded, tmp_path: Path
) -> None:
    teacher = grown(codec.lapped, WIDTHS).requires_grad_(False)
    assert isinstance(teacher, WideSynthesis)
    batch = decoded.batch(np.arange(2))
    alone, taught = (
        run_of(codec, tmp_path, net=copy.deepcopy(codec.lapped), teacher=each) for each in (None, teacher)
    )
    expected = float(alone.loss(batch))
    # A teacher that is what the student is teaches nothing.
    assert float(taught.loss(batch)) == pytest.approx(expected, rel=1e-4)
    teacher.to_quarter.bias.add_(0.02)
    teacher.enter.bias.add_(0.5)
    losses = []
    for progress in (0.0, 0.35, 0.7, 0.9):
        taught.elapsed = progress * 60 * taught.minutes
        losses.append(float(taught.loss(batch)))
    assert losses[0] > losses[1] > losses[2] == losses[3] == pytest.approx(expected)
    assert losses[0] - expected == pytest.approx(2 * (losses[1] - expected), rel=1e-3)


def test_what_is_exported_is_what_the_store_finds(
    codec: cb.Checkerboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store.load("fhic", "s-1")
    monkeypatch.setattr(distil, "Widths", lambda latents: WIDTHS)
    run = run_of(codec, tmp_path / "run")
    with torch.no_grad():
        for block in run.average.eighth_blocks:
            assert isinstance(block, cb.Block)
            block.narrow.weight += 0.01 * torch.randn_like(block.narrow.weight)
    run.save()
    run.log(mean=0.0)
    held = distil.held_pictures(codec, [pixels(64, 64, seed=81)])
    folder = tmp_path / "weights" / "fhic" / "s-1-best"
    facts = distil.export(codec, whole, tmp_path / "run", folder, held)
    found = store.load("fhic", "s-1", whole.decode_digest, decoder="best", path=tmp_path / "weights")
    assert facts["synthesis_digest"] == found.synthesis_digest.hex() != whole.synthesis_digest.hex()
    with torch.no_grad():
        each = held[3]
        arguments = each.latents.float(), coefficient_scale(codec, torch.tensor([136])), torch.tensor([136])
        expected, exact = run.average(*arguments), alternate(codec, found).shown_by(*arguments)
    moved = float((expected - codec.lapped(*arguments)).std())
    assert float((expected - exact).std()) < 0.15 * moved  # steps of int8
    (tmp_path / "index.jsonl").write_text('{"source": "cameras"}\n')
    card = alternate_card(folder, "s-1", tmp_path)
    assert "metrics: [" in card and 'datasets: ["cameras"]' in card
    assert found.synthesis_digest.hex() in card and "s-1-best" in card and "rate index" in card


def test_an_exported_student_is_its_tag_with_another_synthesis(
    codec: cb.Checkerboard, tmp_path: Path
) -> None:
    whole = store.load("fhic", "s-1")
    run = run_of(codec, tmp_path / "run", net=copy.deepcopy(codec.lapped))
    with torch.no_grad():
        run.average.leave.bias.add_(0.25)
    run.save()
    run.log(mean=0.0)
    folder = tmp_path / "fhic" / "s-2"
    held = distil.held_pictures(codec, [pixels(64, 64, seed=82)])
    distil.export(codec, whole, tmp_path / "run", folder, held, student=True)
    found = store.load("fhic", "s-2", path=folder)
    assert found.decode_digest == whole.decode_digest
    assert set(found.tensors) == set(whole.tensors)
    other = {name for name, tensor in whole.tensors.items() if not torch.equal(tensor, found.tensors[name])}
    assert other == {"synthesis.leave.bias"}


def test_validation_crops_are_decoded_once(codec: cb.Checkerboard, shards: Path, tmp_path: Path) -> None:
    kept = tmp_path / "some" / "held.pt"
    first = distil.held_crops(codec, shards, kept)
    again = distil.held_crops(codec, tmp_path / "nowhere", kept)
    assert [each.rate for each in first] == list(distil.RATES) * len(
        validation_pictures(read_crops(shards, "val.jsonl")[::4])
    )
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.latents, other.latents) and torch.equal(one.pixels, other.pixels)

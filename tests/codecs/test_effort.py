"""How hard fhic's encoder tries: more is never worse, nothing around it changes, and any decoder reads it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import licodec
from lic_format import LicFile
from lic_format.errors import UsageError
from lic_format.header import Order
from licodec import store
from licodec.cli.program import run
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_fixed, checkerboard_look, fhic
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import latent_descent as ld
from licodec.codecs.checkerboard_look import USUAL_EFFORT, worth
from licodec.codecs.contract import LossyWish, Timer
from licodec.exact import fixed_point
from tests.codecs.fixtures import Pixels, encoded, pixels

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
SHORT = (ld.Round(2), ld.Round(3), *[ld.Round(1)] * 6)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    with PIL.Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB"))[96:250, 40:170].copy()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ld, "ROUNDS", SHORT)


def file_of(
    model: cb.Checkerboard, weights: store.Weights, planes: Pixels, effort: int, **options: Any
) -> tuple[LicFile, float]:
    """A file, and what it costs as a decoder finds it."""
    stages: dict[str, float] = {}
    file = encoded(model, weights.ref, planes, stages=stages, wish=LossyWish(effort), **options)
    error = np.square(model.decode(file).planes.astype(float) - planes).sum()
    return file, stages["estimated_bits"] + 3 * worth(options["rate"]) * error / planes.shape[2]


@pytest.mark.parametrize("rate", [50, 190])
def test_four_steps_pay(rate: int, photo: Pixels, model: cb.Checkerboard, weights: store.Weights) -> None:
    first, second = (file_of(model, weights, photo, effort, rate=rate)[1] for effort in (1, 2))
    assert second < 0.975 * first


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("order", [0, 1])
def test_more_effort_is_never_worse(
    order: int, photo: Pixels, model: cb.Checkerboard, weights: store.Weights
) -> None:
    efforts = (1, 2, 3, 9) if order else (1, 9)
    costs = [file_of(model, weights, photo[:64, :80], each, rate=120, order=order)[1] for each in efforts]
    assert all(more <= less * 1.00001 for less, more in itertools.pairwise(costs)), costs
    assert costs[-1] < 0.995 * costs[0]


@pytest.mark.usefixtures("short")
def test_where_steps_go_wrong_the_first_coding_is_kept(
    photo: Pixels, model: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ld, "ROUNDS", [ld.Round(2, 50.0)] * 2)
    usual, _ = file_of(model, weights, photo, 1, rate=120)
    assert file_of(model, weights, photo, 3, rate=120)[0].units == usual.units


@pytest.mark.parametrize("shape", [(64, 80, 3), (37, 83, 3), (37, 83, 1), (1, 1, 3)])
def test_what_is_minimised_is_what_a_decoder_finds(
    shape: tuple[int, int, int], model: cb.Checkerboard, weights: store.Weights
) -> None:
    """Rows and columns that only fill the last blocks don't count, and grey pictures are one channel."""
    planes, timer = pixels(*shape), Timer(None)
    blocks = model._to_input(planes)
    proposal = model.proposed(blocks, 120, Order.CHECKERBOARD, timer)
    price = ld.Price(model, ld.Aim.of(shape, blocks), proposal, timer)
    _, cost = file_of(model, weights, planes, 1, rate=120)
    assert price(model.walked(proposal, timer)) == pytest.approx(cost, rel=1e-4)


def test_the_gradient_is_that_of_the_smooth_cost(photo: Pixels, model: cb.Checkerboard) -> None:
    timer, planes = Timer(None), photo[:70, :80]
    blocks = model._to_input(planes)
    proposal = model.proposed(blocks, 150, Order.CHECKERBOARD, timer)
    first = model.walked(proposal, timer)
    descent = ld.Descent(model, ld.Aim.of(planes.shape, blocks), proposal, first, timer)
    relaxed, price = descent._relaxed, descent._price
    relaxed.follow(first)
    y = relaxed.flat(proposal.y).clone()
    assert torch.equal(relaxed.map(y), proposal.y)
    found = descent._gradient(y, 3.0)

    def cost(at: torch.Tensor) -> float:
        with torch.no_grad():
            decoded, bits = relaxed(at, 3.0)
            (tile,) = price.tiles
            return float(bits) + price.worth * float(price.error(decoded, tile, rounded=False))

    way = found * 2e-3 / found.abs().max()
    expected = float((found.double() * way.double()).sum()) * 2
    assert cost(y + way) - cost(y - way) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("short")
def test_large_pictures_are_searched_in_pieces(
    photo: Pixels, model: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photo[:128, :90]
    _, first = file_of(model, weights, photo, 1, rate=120)
    _, whole = file_of(model, weights, photo, 2, rate=120)
    monkeypatch.setattr(ld, "PIECE", 4)
    _, second = file_of(model, weights, photo, 2, rate=120)
    _, third = file_of(model, weights, photo, 3, rate=120)
    assert third <= second < first
    assert first - third > 0.6 * (first - whole)


def test_pieces_see_as_far_as_the_synthesis() -> None:
    found = {name: ld.overlap_of(preset) for name, preset in layout.PRESETS.items()}
    assert found == {"s": 4, "m": 8, "paper": 20}


@pytest.mark.parametrize("overlap", [4, 8])
def test_pieces_cover_a_grid_once_and_begin_with_hyper_latents(overlap: int) -> None:
    for h, w in ((1, 1), (96, 97), (250, 188), (4, 2300), (700, 100)):
        seen = np.zeros((h, w), np.int8)
        for area in ld.pieces(h, w, overlap):
            seen[area.rows, area.columns] += 1
            for own, outer, side in ((area.rows, area.outer_rows, h), (area.columns, area.outer_columns, w)):
                assert own.stop - own.start <= ld.PIECE
                assert own.start % layout.HYPER == outer.start % layout.HYPER == 0
                assert outer == slice(max(0, own.start - overlap), min(side, own.stop + overlap))
        assert (seen == 1).all()


@pytest.mark.usefixtures("short")
def test_same_bytes_whatever_is_around(photo: Pixels) -> None:
    def coded() -> bytes:
        return licodec.encode(photo, effort=3, threads=1)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    expected = coded()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode():
        licodec.clear_cache()  # loads weights that can't be part of a graph
        assert coded() == expected
    licodec.clear_cache()
    with torch.no_grad():
        assert coded() == expected
        assert not torch.is_grad_enabled()
    with ThreadPoolExecutor(3) as pool:
        assert {future.result() for future in [pool.submit(coded) for _ in range(3)]} == {expected}
    encoder = licodec.Encoder(threads=1)
    assert encoder(photo, effort=3) == expected
    nets: Any = fhic.in_torch(encoder._loaded.model)
    for net in (nets.synthesis, nets.means):
        assert all(weight.grad is None and not weight.requires_grad for weight in net.parameters())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 23, 3), (17, 23), (20, 33, 2), (20, 33, 4)])
def test_pictures_of_every_kind(shape: tuple[int, ...]) -> None:
    planes = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    if shape[-1] in (2, 4):
        planes[:5, ..., -1] = 0
    found = licodec.decode(licodec.encode(planes, effort=9), output="numpy")
    assert found.shape == shape
    if shape[-1] in (2, 4):
        np.testing.assert_array_equal(found[..., -1], planes[..., -1])


def test_a_search_is_usual_where_it_is_compiled(photo: Pixels) -> None:
    usual = licodec.encode(photo)
    assert licodec.encode(photo, effort=None) == usual
    assert licodec.encode(photo, effort=USUAL_EFFORT if fixed_point.has_pairs() else 1) == usual
    assert licodec.Encoder()(photo) == usual


@pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")
def test_large_pictures_are_searched_less_unless_told(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    less = licodec.encode(photo, effort=USUAL_EFFORT - 1)
    monkeypatch.setattr(checkerboard_fixed, "LARGE", photo.shape[0] * photo.shape[1] - 1)
    assert licodec.encode(photo) == less != licodec.encode(photo, effort=USUAL_EFFORT)
    monkeypatch.setattr(checkerboard_fixed, "LARGE", photo.shape[0] * photo.shape[1])
    assert licodec.encode(photo) == licodec.encode(photo, effort=USUAL_EFFORT)


@pytest.mark.usefixtures("short")
def test_torch_does_not_search_unless_told_to(
    photo: Pixels, model: cb.Checkerboard, weights: store.Weights
) -> None:
    usual = encoded(model, weights.ref, photo, rate=120)
    for effort, same in ((None, True), (1, True), (2, False)):
        found = encoded(model, weights.ref, photo, rate=120, wish=LossyWish(effort))
        assert (found.units == usual.units) == same


@pytest.mark.usefixtures("short")
def test_every_host_takes_it(photo: Pixels, tmp_path: Path) -> None:
    import imageio.v3 as iio

    expected = licodec.encode(photo, effort=2)
    assert expected != licodec.encode(photo)
    sink = io.BytesIO()
    PIL.Image.fromarray(photo).save(sink, "LIC", effort=2)
    assert sink.getvalue() == expected
    iio.imwrite(tmp_path / "a.lic", photo, effort=2)
    assert (tmp_path / "a.lic").read_bytes() == expected
    PIL.Image.fromarray(photo).save(tmp_path / "b.png")
    assert run(["encode", str(tmp_path / "b.png"), "--effort", "2", "--quiet"]) == 0
    assert (tmp_path / "b.lic").read_bytes() == expected


@pytest.mark.parametrize("effort", [0, 10, -1, "5", 2.5, True])
def test_other_values_are_refused_before_anything_is_written(
    effort: Any, photo: Pixels, tmp_path: Path
) -> None:
    import imageio.v3 as iio

    target = tmp_path / "a.lic"
    image, encoder = PIL.Image.fromarray(photo), licodec.Encoder()
    calls: list[Callable[[], object]] = [
        lambda: licodec.save(image, target, effort=effort),
        lambda: encoder(image, effort=effort),
        lambda: image.save(target, effort=effort),
        lambda: iio.imwrite(target, photo, effort=effort),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="effort: expected a whole number from 1 to 9"):
            call()
    if effort != "5":  # which is a number there
        PIL.Image.fromarray(photo).save(tmp_path / "b.png")
        assert run(["encode", str(tmp_path / "b.png"), f"--effort={effort}", "-o", str(target)]) == 2
    assert not target.exists()


@pytest.mark.parametrize(
    ("search", "part", "effort"), [(ld.Descent, "_gradient", 6), (checkerboard_look.Looks, "_move", 2)]
)
def test_an_interrupted_search_leaves_nothing(
    photo: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    search: type,
    part: str,
    effort: int,
) -> None:
    if effort == 2 and not fixed_point.has_pairs():
        pytest.skip("processor without products of pairs")
    usual = licodec.encode(photo)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(search, part, interrupted)
        with pytest.raises(KeyboardInterrupt):
            licodec.save(photo, tmp_path / "a.lic", effort=effort)
    assert not list(tmp_path.iterdir())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert licodec.encode(photo) == usual


@pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")
@pytest.mark.parametrize("order", ["one-step", "checkerboard"])
def test_longer_searches_begin_where_compiled_ones_end(
    order: str, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(effort: int) -> float:
        data = licodec.encode(photo, quality=50, effort=effort, order=order)
        error = np.square(licodec.decode(data, output="numpy").astype(float) - photo).sum()
        return float(8 * len(data) + worth(128) * error)

    first, fifth, longer = (cost(effort) for effort in (1, 5, 6))
    assert longer < 0.996 * fifth and fifth < 0.97 * first
    monkeypatch.setattr(ld, "ROUNDS", [ld.Round(50)] * 4 + [ld.Round(0)] * 4)
    assert cost(9) == pytest.approx(fifth, rel=5e-3)


def test_ladder_stays_within_three_hundred_steps() -> None:
    assert len(ld.ROUNDS) == 8
    assert sum(each.steps for each in ld.ROUNDS) <= 300
    assert replace(ld.ROUNDS[0], steps=1).reach == ld.ROUNDS[0].reach

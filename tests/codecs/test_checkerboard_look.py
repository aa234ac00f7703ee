"""Efforts 2 to 5 in compiled integers: what comes back is torch's gradient, and files get better."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch

from lic_format import LicFile
from licodec import store, threads
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_compiled as nets
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs import checkerboard_fixed, checkerboard_look, fhic
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_compiled import Values
from licodec.codecs.checkerboard_elementwise import Rows
from licodec.codecs.checkerboard_fixed import FixedCheckerboard
from licodec.codecs.checkerboard_look import worth
from licodec.codecs.checkerboard_means import Goal, Trail
from licodec.codecs.checkerboard_means_back import MeansBack
from licodec.codecs.contract import LossyWish, Timer
from licodec.entropy.schedule import Pass
from licodec.exact import fixed_point
from licodec.exact.neighbours import Positions
from tests.codecs.fixtures import Pixels, encoded, pixels

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")
PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"


@pytest.fixture(scope="module")
def photo() -> Pixels:
    with PIL.Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB"))[64:256, 32:208].copy()


@pytest.fixture(scope="module")
def fixed(weights: store.Weights) -> FixedCheckerboard:
    made = fhic.build(weights, "cpu")
    assert isinstance(made, FixedCheckerboard)
    return made


def searched(
    model: FixedCheckerboard, weights: store.Weights, planes: Pixels, rate: int, effort: int
) -> LicFile:
    return encoded(model, weights.ref, planes, rate=rate, wish=LossyWish(effort))


def price(model: FixedCheckerboard, file: LicFile, planes: Pixels, rate: int) -> float:
    error = np.square(model.decode(file).planes.astype(float) - planes).sum()
    return 8 * len(file.units[0].body) + worth(rate) * float(error)


@pytest.mark.parametrize("rate", [30, 200])
def test_what_comes_back_is_the_gradient(
    fixed: FixedCheckerboard, model: cb.Checkerboard, photo: Pixels, rate: int
) -> None:
    rng = np.random.default_rng(rate)
    gain, inverse = fixed._gains(rate)
    per = checkerboard_fixed.density(gain)
    planes = checkerboard_fixed._padded(photo)
    s = fixed._latents(planes, rate, gain, inverse, None)
    symbols = np.rint(s.inner + rng.uniform(-0.3, 0.3, s.inner.shape)).astype(np.float32)
    h, w, m = symbols.shape

    coefficients, latents = (nets.empty_steps(h, w, m) for _ in range(2))
    scaled = symbols * inverse * fixed.synthesis.per_coefficient, symbols / per * fixed.synthesis.per_latent
    for of, values in zip((coefficients, latents), scaled, strict=True):
        of.inner[...] = np.rint(values).clip(-fixed_point.LARGEST, fixed_point.LARGEST)
    shown, passed = fixed.synthesis.passed(coefficients.whole, latents.whole, rate)
    again = fixed.synthesis(coefficients.whole, latents.whole, rate)
    assert np.array_equal(shown.memory[1:-1, 1 : 1 + shown.width], again.memory[1:-1, 1 : 1 + shown.width])
    missing = fixed_point.Map(4 * h, 4 * w, layout.QUARTER, 4)
    to = missing.address, missing.row, missing.step
    elementwise.missing(planes, (shown.address, shown.row, shown.step), fixed.pull.per_pixel, to)
    found = fixed.pull(missing, passed, rate, inverse * per)[:, :w]

    leaf = torch.from_numpy(symbols.transpose(2, 0, 1)[None].copy()).requires_grad_(True)
    factors = [torch.from_numpy(each)[None, :, None, None] for each in (1 / per, per * inverse)]
    decoded = model.synthesis(leaf * factors[0], factors[1], torch.tensor([rate]))
    (decoded - cb.to_blocks(torch.from_numpy(planes[None]))).square().sum().div(-2).backward()
    assert leaf.grad is not None
    wanted = leaf.grad[0].permute(1, 2, 0).numpy() / inverse
    inner = slice(2, -2), slice(2, -2)
    for first, last, alike in ((0, 16, 0.99), (16, 160, 0.97), (160, 320, 0.93)):  # small ones in few steps
        a, b = found[inner][..., first:last].ravel(), wanted[inner][..., first:last].ravel()
        assert np.corrcoef(a, b)[0, 1] > alike
        assert 0.95 < float(a @ b) / float(b @ b) < 1.05


@pytest.mark.parametrize("rate", [30, 200])
@pytest.mark.parametrize("size", [(12, 11), (4, 9), (4, 4)])
def test_what_comes_back_through_means_is_the_gradient(
    fixed: FixedCheckerboard, model: cb.Checkerboard, photo: Pixels, rate: int, size: tuple[int, int]
) -> None:
    """Values are those of random symbols; a mean moves the rest of a value (1 - rise), and its price."""
    (h, w), rng, p = size, np.random.default_rng(rate), fixed.preset
    gain, inverse = fixed._gains(rate)
    per = checkerboard_fixed.density(gain)
    z = fixed._hyper_latents(
        fixed._latents(checkerboard_fixed._padded(photo), rate, gain, inverse, None), rate
    )[:, : -(-h // 4), : -(-w // 4)]
    lacking, rise, slope = (
        Values(w, rng.normal(size=(h, w + nets.ROOM, p.latents)).astype(np.float32) * spread)
        for spread in (0.3 * inverse, 0.2, 0.2)
    )
    latents, trail, before = nets.empty_steps(h, w, p.latents), Trail(), lacking.memory.copy()
    symbols = {step: rng.integers(-1, 2, (step.last - step.first, h * w), np.int16) for step in p.passes}

    def settle(step: Pass, cells: Positions, means: Rows, goals: Sequence[Goal]) -> None:
        part, q = per[step.first : step.last], np.ascontiguousarray(symbols[step][:, : len(cells)])
        elementwise.settle(means, q, part, [goal.of(step, cells) for goal in goals], len(cells))

    goal = Goal(*nets.strided(latents.memory), fixed.synthesis.per_latent)
    seen = fixed.means.hyper(np.ascontiguousarray(z))
    fixed.means.walk(seen, (h, w), settle, p.passes, Timer(None), [goal], trail)
    fixed.means_back(lacking, rise.memory, slope.memory, trail, rate, per)

    def torch_of(values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float32).copy())

    leaf = torch_of(latents.inner / fixed.synthesis.per_latent).requires_grad_(True)
    rest, push = torch_of(1 - rise.inner), torch_of(slope.inner * inverse * inverse * per)
    cost = (leaf * torch_of(before[:, :w] * inverse * per)).sum()
    costs = [cost]

    def settled(step: Pass, mean: torch.Tensor) -> torch.Tensor:
        cells = cb.places(h, w, p.depths[step.group], "cpu")[step.number].cells
        own, share, price = (
            cb.rows_of(each)[:, :, step.first : step.last].index_select(1, cells)
            for each in (leaf, rest, push)
        )
        added = share * (mean - mean.detach())
        lacks = cb.rows_of(torch_of(before[:, :w] * inverse * per))[:, :, step.first : step.last]
        costs.append((lacks.index_select(1, cells) * added).sum() + (price * mean).sum())
        return own + added

    features = model.means.hyper(torch.from_numpy(z[None].astype(np.float32)))[:, :, :h, :w]
    model.means.walk(features, settled)
    torch.stack(costs).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    wanted = leaf.grad[0].permute(1, 2, 0).numpy() / (inverse * per)
    added, wanted = lacking.inner - before[:, :w], wanted - before[:, :w]
    for first, last in ((0, 4), (4, 16), (16, 64), (64, 160), (160, 320)):
        a, b = added[..., first:last].ravel(), wanted[..., first:last].ravel()
        assert np.square(a - b).mean() <= 0.02 * np.square(b).mean() + (1e-3 * inverse.mean()) ** 2


@pytest.mark.parametrize("rate", [60, 130, 200])
def test_looks_pay(fixed: FixedCheckerboard, weights: store.Weights, photo: Pixels, rate: int) -> None:
    costs = [price(fixed, searched(fixed, weights, photo, rate, e), photo, rate) for e in range(1, 6)]
    shares = [after / before for before, after in itertools.pairwise(costs)]
    assert all(share < least for share, least in zip(shares, (0.98, 0.995, 1, 1.003), strict=True)), shares


@pytest.mark.parametrize("rate", [60, 130, 200])
def test_what_means_lack_pays(
    fixed: FixedCheckerboard,
    weights: store.Weights,
    photo: Pixels,
    rate: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = price(fixed, searched(fixed, weights, photo, rate, 3), photo, rate)
    with monkeypatch.context() as patched:
        patched.setattr(MeansBack, "__call__", lambda *_: None)
        without = price(fixed, searched(fixed, weights, photo, rate, 3), photo, rate)
    assert whole < 0.998 * without, whole / without


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 23), (70, 5), (3, 300)])
@pytest.mark.parametrize("rate", [0, 255])
def test_pictures_of_any_size_have_looks(
    fixed: FixedCheckerboard, weights: store.Weights, height: int, width: int, rate: int
) -> None:
    planes = pixels(height, width)
    costs = [price(fixed, searched(fixed, weights, planes, rate, e), planes, rate) for e in (1, 2)]
    assert costs[1] < 1.05 * costs[0] + 80


def test_grey_pictures_have_looks(fixed: FixedCheckerboard, weights: store.Weights, photo: Pixels) -> None:
    grey = photo.mean(axis=2, keepdims=True).astype(np.uint8)
    costs = [price(fixed, searched(fixed, weights, grey, 130, e), grey, 130) for e in (1, 2)]
    assert costs[1] < costs[0]


def test_bytes_are_the_same_on_any_number_of_threads(
    fixed: FixedCheckerboard, weights: store.Weights, photo: Pixels
) -> None:
    found = []
    for count in (1, 2, 3):
        with threads.limited(count):
            found.append(searched(fixed, weights, photo, 150, 2).units[0].body)
    assert found[0] == found[1] == found[2]


def test_pictures_in_tiles_get_what_whole_ones_do(
    fixed: FixedCheckerboard, weights: store.Weights, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.tile(photo, (4, 4, 1))[:640, :704]
    whole = searched(fixed, weights, large, 130, 2)
    tiles, counts = layout.tiles, []

    def small(h: int, w: int, halo: int) -> list[layout.Tile]:
        parts = list(tiles(h, w, halo, 1))
        counts.append(len(parts))
        return parts

    for module in (checkerboard_fixed, checkerboard_look):
        monkeypatch.setattr(module, "tiles", small)
    parted = searched(fixed, weights, large, 130, 2)
    assert min(counts) > 1
    assert abs(price(fixed, parted, large, 130) / price(fixed, whole, large, 130) - 1) < 0.003


def test_a_part_of_a_map_has_memory_of_its_own() -> None:
    whole = Values(5, np.arange(4 * (5 + nets.ROOM) * 2, dtype=np.float32).reshape(4, -1, 2))
    part = whole.copied(slice(1, 3), slice(2, 5))
    assert np.array_equal(part.inner, whole.inner[1:3, 2:5])
    part.memory[...] = 0
    assert whole.inner.any()

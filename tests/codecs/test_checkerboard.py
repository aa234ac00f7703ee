"""fhic by itself: round trips in both orders, the same bytes every time, bits as estimated, retries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lic_format
import licodec
from lic_format.errors import FormatError, UsageValueError
from lic_format.header import Colour, Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.codecs.registry import fhic_symbols
from licodec.entropy.coder import StreamEncoder
from licodec.entropy.schedule import Pass, checkerboard, one_step, positions
from licodec.entropy.tables import NOT_CODED, load_set
from licodec.exact import paths
from licodec.exact.paths import SAFE_PATH
from tests.codecs.fixtures import ORDERS, encoded, pixels, psnr

SIZES = [(1, 1), (1, 40), (17, 23), (65, 64)]


# --- round trips


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_any_size_comes_back_in_both_orders(
    size: tuple[int, int], channels: int, order: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    planes = pixels(*size, channels)
    file = encoded(model, weights.ref, planes, rate=250, order=order)
    assert file.head.order == order
    found = model.decode(file).planes
    assert found.shape == planes.shape and found.dtype == np.uint8
    assert psnr(found, planes) > 24


def test_hyper_latents_are_rounded_towards_what_is_cheap() -> None:
    x = torch.tensor([2.0, 2.65, 2.67, 3.3, 1.4, 1.33, -0.3])
    found = cb.round_towards(x, torch.tensor(2.0))
    assert found.tolist() == [2.0, 2.0, 3.0, 3.0, 2.0, 1.0, 0.0]


def test_film_in_the_weights_is_film_on_the_values() -> None:
    torch.manual_seed(0)
    layer, x, film = cb.Conv(6, 4, 3, "replicate"), torch.randn(2, 6, 5, 7), torch.rand(2, 6)
    together = cb.modulated(layer, x, film)
    for k in range(2):
        alone = cb.modulated(layer, x[k : k + 1], film[k : k + 1])
        assert torch.allclose(alone, together[k : k + 1], atol=1e-5)


def test_the_straight_path_keeps_strong_components_in_float32() -> None:
    torch.manual_seed(0)
    net = cb.Synthesis(layout.PRESETS["s"]).requires_grad_(False)
    coefficients = (
        torch.randn(1, 320, 6, 5) * torch.where(torch.arange(320) < cb.STRONG, 4.0, 0.02)[None, :, None, None]
    )
    with torch.inference_mode():
        exact = cb.straight_blocks(net.klt, coefficients, net.look.weight.dtype)
        for name, child in net.named_children():
            if name != "klt":
                child.to(torch.bfloat16)
        mixed = cb.straight_blocks(net.klt, coefficients, net.look.weight.dtype)
        coarse = cb.shuffle(net.klt(coefficients.bfloat16().float()).bfloat16().float(), 4)
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).abs().max() < 1e-3 < (coarse - exact).abs().max() / 4


def test_symbols_read_are_the_symbols_written(model: cb.Checkerboard, weights: store.Weights) -> None:
    planes = pixels(50, 70)
    for order in ORDERS:
        coded, _ = model._symbols(model._to_input(planes), 180, Order(order), Timer(None))
        found_z, found_q = model.read_symbols(encoded(model, weights.ref, planes, rate=180, order=order))
        assert np.array_equal(found_z, coded.z) and np.array_equal(found_q, coded.q)
        assert coded.z.size == fhic_symbols(70, 50)


@pytest.mark.parametrize("in_tiles", [False, True])
def test_codings_of_a_picture_share_what_the_rate_does_not_touch(
    in_tiles: bool, model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = licodec.images.Picture(pixels(50, 70))
    if in_tiles:
        whole = layout.tiles
        monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: [*whole(h, w, halo), *whole(h, w, halo)])
    alone = [model.encode(picture, rate=rate) for rate in (200, 40, 120)]
    blocks, begun = Mock(wraps=model._to_input), Mock(wraps=model.analysis.begun)
    monkeypatch.setattr(model, "_to_input", blocks)
    monkeypatch.setattr(model.analysis, "begun", begun)
    shared: dict[str, Any] = {}
    assert [model.encode(picture, rate=rate, shared=shared) for rate in (200, 40, 120)] == alone
    assert blocks.call_count == 1
    assert begun.call_count == (6 if in_tiles else 1), "a large picture's would take too much memory"


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_not_coded_is_zero_and_known_before_anything_is_predicted_from_it(
    order: int, model: cb.Checkerboard
) -> None:
    x = model._to_input(pixels(96, 80))
    symbols, passes = model._symbols(x, 60, Order(order), Timer(None))
    free = sum(int((part.index == NOT_CODED).sum()) for part in passes[1:])
    assert 0.1 < free / symbols.q.size < 1, "at a low rate much costs nothing, but not everything"
    for part in passes[1:]:
        assert not part.symbols[part.index == NOT_CODED].any()
    assert sum(part.symbols.size for part in passes[1:]) == symbols.q.size


def test_both_orders_give_equally_good_pictures(model: cb.Checkerboard, weights: store.Weights) -> None:
    """Their tables differ, and with them what the encoder finds worth its bits."""
    planes = pixels(50, 70)
    first, second = (
        model.decode(encoded(model, weights.ref, planes, rate=120, order=order)).planes for order in ORDERS
    )
    assert abs(psnr(first, planes) - psnr(second, planes)) < 0.5


def test_without_an_order_the_weights_say_which(model: cb.Checkerboard, weights: store.Weights) -> None:
    file = encoded(model, weights.ref, pixels(20, 20), rate=99)
    assert file.head.order == model.default_order == Order(int(weights.tensors["order"][0]))


@pytest.mark.parametrize("order", [2, 3, -1])
def test_an_order_that_is_reserved_is_refused(order: int, model: cb.Checkerboard) -> None:
    with pytest.raises(UsageValueError, match="order") as caught:
        model.encode(licodec.images.Picture(pixels(8, 8)), rate=3, order=order)
    assert caught.value.argument == "order"


def test_a_grey_picture_is_the_rounded_mean_of_the_three_colours(
    model: cb.Checkerboard, weights: store.Weights
) -> None:
    file = encoded(model, weights.ref, pixels(33, 20, 1), rate=128)
    grey = model.decode(file).planes
    colours = model.decode(replace(file, head=replace(file.head, colour=Colour.RGB))).planes
    assert np.array_equal(grey[:, :, 0], np.floor(colours.mean(axis=2) + 0.5).astype(np.uint8))


def test_the_callers_array_is_left_as_it_was(model: cb.Checkerboard, weights: store.Weights) -> None:
    planes = pixels(32, 32)
    before = planes.copy()
    planes.setflags(write=False)
    encoded(model, weights.ref, planes, rate=128)
    assert np.array_equal(planes, before)


# --- the same bytes


@pytest.mark.parametrize("order", ORDERS)
def test_a_picture_gives_the_same_bytes_every_time_and_in_every_python_thread(
    order: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    planes = [pixels(40, 56, seed=seed) for seed in range(3)]
    first = [encoded(model, weights.ref, p, rate=140, order=order).units for p in planes]
    pictures = [model.decode(encoded(model, weights.ref, p, rate=140, order=order)).planes for p in planes]
    same: list[bool] = []

    def work(i: int) -> None:
        for _ in range(3):
            file = encoded(model, weights.ref, planes[i], rate=140, order=order)
            same.append(file.units == first[i] and np.array_equal(model.decode(file).planes, pictures[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1, 2, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert same == [True] * 12


def test_lists_give_the_bytes_and_pictures_of_single_calls() -> None:
    encode, decode = licodec.Encoder(device="cpu"), licodec.Decoder(device="cpu")
    pictures = [pixels(40, 56), pixels(17, 23, 1), pixels(40, 56, seed=9)]
    files = encode(pictures, quality=60)
    assert files == [encode(picture, quality=60) for picture in pictures]
    found = decode(files, output="numpy")
    assert all(np.array_equal(a, decode(b, output="numpy")) for a, b in zip(found, files, strict=True))


def test_what_the_caller_switched_on_does_not_matter(model: cb.Checkerboard, weights: store.Weights) -> None:
    planes = pixels(40, 56)
    file = encoded(model, weights.ref, planes, rate=140)
    picture = model.decode(file).planes
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
            assert encoded(model, weights.ref, planes, rate=140) == file
            assert np.array_equal(model.decode(file).planes, picture)
    finally:
        torch.set_default_dtype(torch.float32)


# --- bits


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rate", [0, 128, 255])
def test_real_bits_are_the_models_own_estimate(
    rate: int, order: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    stages: dict[str, float] = {}
    file = encoded(model, weights.ref, pixels(96, 96, seed=4), rate=rate, order=order, stages=stages)
    estimate = stages["estimated_bits"] / 8
    size = len(lic_format.write(file))
    assert estimate - 1 <= size <= estimate * 1.003 + 100


def test_the_estimate_changes_no_byte(model: cb.Checkerboard, weights: store.Weights) -> None:
    planes = pixels(40, 56)
    assert encoded(model, weights.ref, planes, rate=140, stages={}) == encoded(
        model, weights.ref, planes, rate=140
    )


# --- schedule


@given(
    groups=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=4),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
)
def test_the_passes_of_a_schedule_partition_the_latent(groups: list[tuple[int, int]], h: int, w: int) -> None:
    widths, depths = zip(*groups, strict=True)
    for schedule in (one_step(sum(widths)), checkerboard(widths, depths)):
        seen = np.zeros((sum(widths), h * w), int)
        for step in schedule:
            seen[step.first : step.last, positions(step, h, w)] += 1
        assert (seen == 1).all()


def test_a_checkerboard_codes_ever_denser_lattices_of_each_group() -> None:
    schedule = checkerboard((2, 3), (1, 3))
    assert [(step.group, step.first, step.last, step.level) for step in schedule] == [
        (0, 0, 2, 1),
        (0, 0, 2, 0),
        (1, 2, 5, 3),
        (1, 2, 5, 2),
        (1, 2, 5, 1),
        (1, 2, 5, 0),
    ]
    drawn = np.zeros((5, 5), int)
    for step in schedule[2:]:
        drawn.reshape(-1)[positions(step, 5, 5)] = step.number
    assert drawn.tolist() == [
        [0, 3, 1, 3, 0],
        [3, 2, 3, 2, 3],
        [1, 3, 0, 3, 1],
        [3, 2, 3, 2, 3],
        [0, 3, 1, 3, 0],
    ]


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (32, 48)])
@pytest.mark.parametrize("depth", range(layout.DEPTH_MAX + 1))
def test_a_pass_sees_what_was_decoded_before_it_where_it_stands(size: tuple[int, int], depth: int) -> None:
    h, w = size
    here = torch.arange(1, h * w + 1).float()
    parts: list[torch.Tensor] = []
    found = cb.places(h, w, depth)
    for place, level in zip(found, [*range(depth, -1, -1), 0], strict=True):
        stride = 2 ** (level // 2)
        unknown = torch.zeros(1, place.unknown, 1)
        seen = cb.spread([*parts, unknown], place)[0, 0]
        truth = here.view(h, w)[::stride, ::stride]
        decoded = torch.cat(parts, 1).flatten() if parts else torch.zeros(0)
        assert torch.equal(seen, torch.where(torch.isin(truth, decoded), truth, 0))
        assert torch.equal(truth.flatten()[place.seen], here[place.cells])
        assert len(place.cells) > 0 or place is found[-1], "a pass without positions"
        parts.append(here[place.cells][None, :, None])
    assert torch.equal(seen, truth)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (12, 20)])
def test_means_in_coding_are_those_of_training(size: tuple[int, int]) -> None:
    """Training convolves whole maps; coding reads what is known around the cells of a pass."""
    torch.manual_seed(3)
    nets = cb.MeanNets(layout.PRESETS["s"])
    for parameter in nets.parameters():
        parameter.uniform_(-0.1, 0.1)
    nets.double()
    features = torch.randn(1, nets.preset.mean, *size, dtype=torch.float64)
    values = torch.randn(1, size[0] * size[1], nets.preset.latents, dtype=torch.float64)

    def settle(step: Pass, mean: Tensor) -> Tensor:
        place = cb.places(*size, nets.preset.depths[step.group])[step.number]
        return mean.double() + values[:, place.cells, step.first : step.last]

    trained = nets.train().walk(features, settle)
    coded = nets.eval().walk(features, settle)
    assert trained.std() > 1
    assert (coded - trained).abs().max() < 1e-4  # means pass through float32
    first = nets.walk(features, settle, nets.preset.passes[:11])
    assert torch.equal(first, coded[:, : sum(nets.preset.groups[:3])])


# --- a machine that leaves the integers


@pytest.fixture
def paths_read(model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exact paths on which streams are read from here on."""
    used: list[str] = []
    read: Callable[..., Any] = cb.Checkerboard._read_symbols

    def spy(self: cb.Checkerboard, file: Any, path: str, timer: Any, groups: int | None) -> Any:
        used.append(path)
        return read(self, file, path, timer, groups)

    monkeypatch.setattr(cb.Checkerboard, "_read_symbols", spy)
    return used


@pytest.mark.parametrize("order", ORDERS)
def test_wrong_integers_at_one_shape_are_caught_by_the_seal_and_read_again_on_the_safe_path(
    order: int,
    model: cb.Checkerboard,
    weights: store.Weights,
    paths_read: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = encoded(model, weights.ref, pixels(80, 64), rate=200, order=order)
    expected = model.read_symbols(file)
    floats = cb.build(weights, "cpu", exact="float32")
    for module, name, size in ((torch.nn.functional, "conv2d", (5, 4)), (paths, "_product", (20,))):
        right: Callable[..., Tensor] = getattr(module, name)

        def wrong_at_5_by_4(
            x: Tensor, *args: Any, right: Any = right, size: Any = size, **named: Any
        ) -> Tensor:
            y: Tensor = right(x, *args, **named)
            here = x.shape[2:] if x.ndim == 4 else x.shape[:1]
            return y + 50_000 if y.dtype == torch.float32 and here == size else y

        monkeypatch.setattr(module, name, wrong_at_5_by_4)
    found = floats.read_symbols(file)
    assert paths_read == [model.exact.path, "float32", SAFE_PATH]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_fractions_at_one_shape_are_left_for_the_safe_path_at_once(
    weights: store.Weights, model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = pixels(80, 64)
    file = encoded(model, weights.ref, planes, rate=200)
    fresh = cb.build(weights, "cpu", exact="float32")
    right: Callable[..., Tensor] = torch.nn.functional.conv2d

    def winograd_at_5_by_4(x: Tensor, *args: Any, **named: Any) -> Tensor:
        y = right(x, *args, **named)
        return y + 0.25 if y.dtype == torch.float32 and x.shape[1:] == (32, 5, 4) else y

    monkeypatch.setattr(torch.nn.functional, "conv2d", winograd_at_5_by_4)
    found = fresh.read_symbols(file)
    assert fresh.exact.path == SAFE_PATH
    assert all(np.array_equal(a, b) for a, b in zip(found, model.read_symbols(file), strict=True))


def test_a_damaged_stream_is_tried_on_the_safe_path_before_it_is_called_damaged(
    model: cb.Checkerboard, weights: store.Weights, paths_read: list[str]
) -> None:
    file = encoded(model, weights.ref, pixels(20, 20), rate=200)
    with pytest.raises(FormatError, match=r"do not verify|escapes"):
        model.read_symbols(replace(file, head=replace(file.head, rate=60)))
    assert paths_read == [model.exact.path, SAFE_PATH]


# --- the encoder's choice


def test_each_symbol_is_the_cheaper_of_two_neighbours() -> None:
    rng = np.random.default_rng(9)
    tables = load_set(1)
    savings, bits = layout.symbol_savings(tables), tables.bits()
    value = rng.laplace(0, 3, (5, 400)).astype(np.float32)
    index = rng.integers(0, 192, value.shape).astype(np.uint8)
    index[0, ::7] = NOT_CODED
    worth = np.array([0.5, 2, 8, 20, 1e9], np.float32)
    found = layout.choose_symbols(value, index, worth, savings)

    def cost(channel: int, at: int, symbol: int) -> float:
        error = float(symbol - value[channel, at]) ** 2
        return float(bits[index[channel, at], 255 + symbol]) + float(worth[channel]) * error

    for channel, at in np.ndindex(value.shape):
        nearest = int(np.rint(value[channel, at]))
        below = nearest - int(np.sign(nearest))
        if index[channel, at] == NOT_CODED:
            assert found[channel, at] == 0
        else:
            best = min((nearest, below), key=lambda symbol: cost(channel, at, symbol))
            assert cost(channel, at, int(found[channel, at])) <= cost(channel, at, best) * 1.0001 + 1e-4
    assert (
        np.array_equal(found[4], np.rint(value[4])) and (np.abs(found[0]) < np.abs(np.rint(value[0]))).any()
    )


def test_the_estimate_knows_what_escapes_cost() -> None:
    rng = np.random.default_rng(4)
    tables = load_set(1)
    symbols = rng.integers(-20_000, 20_001, 4000).astype(np.int16)
    symbols[::2] //= 100
    index = rng.integers(0, 192, symbols.shape).astype(np.uint8)
    stream = StreamEncoder(tables)
    stream.put(symbols, index)
    assert abs(8 * len(stream.finish()) - layout.estimated_bits(symbols, index, tables)) < 120

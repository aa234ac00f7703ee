"""Order 2 of fhic: wavefronts give what one position at a time gives, and one masked pass over everything.

The model is the small one of `tiny`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import lic_format
import licodec
from lic_format.errors import FormatError, UsageValueError
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.codecs.registry import CODECS, FHIC_CELL, FHIC_FRONTS_MAX, fhic_fronts
from licodec.codecs.serial import (
    PROJECTED,
    TAPS,
    Fronts,
    SerialIndices,
    SerialScales,
    at_taps,
    passes,
    raster,
    serial_layers,
    wavefronts,
)
from licodec.entropy.coder import StreamEncoder
from licodec.entropy.tables import NOT_CODED
from licodec.exact.layers import interpolate_knots
from licodec.exact.paths import PATHS, exact_section, usable
from licodec.images import Picture
from tests.codecs.fixtures import TABLES, Symbols, built, encoded, pixels, with_body
from tests.codecs.second_decoder import Decoder, decode_digest
from tests.codecs.tiny import TINY, with_serial

SIZES = [(1, 1), (16, 400), (400, 16), (17, 23), (100, 130)]
GRIDS = [(4, 4), (4, 25), (25, 4), (5, 7), (12, 9)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> store.Weights:
    """Weights of a small preset that know all orders, with random numbers in every net."""
    return with_serial(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(weights: store.Weights) -> cb.Checkerboard:
    return built(weights)


@pytest.fixture(scope="module")
def second(weights: store.Weights) -> Decoder:
    return Decoder(weights.path.read_bytes(), TABLES.read_bytes())


def indices(model: cb.Checkerboard, z: Symbols, order: Fronts, path: str | None = None) -> SerialIndices:
    assert model._serial is not None
    return SerialIndices(model._serial, z, order, 120, path or model.exact.path, Timer(None))


def some_symbols(model: cb.Checkerboard, h: int, w: int, seed: int = 0) -> tuple[Symbols, Symbols]:
    """Hyper-latents and symbols [M, h, w]; those that are not coded are zero."""
    rng = np.random.default_rng(seed)
    z = rng.integers(-9, 10, (TINY.hyper, -(-h // 4), -(-w // 4))).astype(np.int16)
    q = np.rint(rng.laplace(0, 3, (TINY.latents, h, w))).astype(np.int16)
    table_of(model, z, q, wavefronts(h, w), clear=True)
    return z, q


def table_of(
    model: cb.Checkerboard,
    z: Symbols,
    q: Symbols,
    order: Fronts,
    *,
    clear: bool = False,
    path: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Table indices [M, h, w] front by front; `clear` puts zeros into q where nothing is coded."""
    found = np.empty((len(q), q[0].size), np.uint8)
    flat, fronts = q.reshape(len(q), -1), indices(model, z, order, path)
    for step, front in passes(TINY, order):
        cells = order.cells[front].numpy()
        index = fronts.index(step, front)
        symbols = flat[step.first : step.last, cells]
        if clear:
            symbols = np.where(index == NOT_CODED, 0, symbols).astype(np.int16)
            flat[step.first : step.last, cells] = symbols
        fronts.settle(step, front, symbols)
        found[step.first : step.last, cells] = index
    return found.reshape(q.shape)


# --- wavefronts


@pytest.mark.parametrize("grid", GRIDS)
def test_every_tap_of_a_position_is_settled_before_its_front(grid: tuple[int, int]) -> None:
    for order in (wavefronts(*grid), raster(*grid)):
        h, w = grid
        front_of = np.empty(h * w, int)
        for number, front in enumerate(order.slices()):
            front_of[order.cells[front].numpy()] = number
        assert sorted(order.cells.tolist()) == list(range(h * w))
        drawn = front_of.reshape(h, w)
        for row in range(h):
            for column in range(w):
                for dy, dx in TAPS:
                    if row + dy >= 0 and 0 <= column + dx < w:
                        assert drawn[row + dy, column + dx] < drawn[row, column]
    assert len(wavefronts(*grid).ends) == w + 3 * (h - 1)
    assert (np.array([drawn[0, 1], drawn[1, 0]]) == [1, w]).all()


def test_a_front_sees_its_taps_and_zeros_beyond_the_border() -> None:
    h, w = 5, 7
    order = wavefronts(h, w)
    values = torch.arange(1, h * w + 1).float()
    known = order.bordered(1, torch.float32)
    known[order.own, 0] = values[order.cells]
    padded = torch.nn.functional.pad(values.view(h, w), (2, 2, 2, 0))
    for front in order.slices():
        seen = order.at_taps(known, front)
        for cell, row in zip(order.cells[front].tolist(), seen[0].tolist(), strict=True):
            y, x = divmod(cell, w)
            assert row == [float(padded[y + 2 + dy, x + 2 + dx]) for dy, dx in TAPS]
    rows = torch.arange(h * w)[None, :, None]
    assert torch.equal(order.as_map(rows)[0, 0].flatten()[order.cells], rows[0, :, 0])


# --- the same tables and symbols, however they are found


@pytest.mark.parametrize("grid", GRIDS)
def test_tables_are_those_of_one_position_at_a_time(grid: tuple[int, int], model: cb.Checkerboard) -> None:
    z, q = some_symbols(model, *grid)
    found = table_of(model, z, q, wavefronts(*grid))
    assert np.array_equal(found, table_of(model, z, q, raster(*grid)))
    coded = found != NOT_CODED
    assert coded.any() and len(np.unique(found[coded])) > 9


@pytest.mark.parametrize("grid", GRIDS)
def test_tables_are_those_of_one_masked_pass_over_all_symbols(
    grid: tuple[int, int], model: cb.Checkerboard
) -> None:
    z, q = some_symbols(model, *grid, seed=4)
    h, w = grid
    assert model._serial is not None
    nets = SerialScales(cb.IntegerLayers(model.exact, 120, model.exact.path))
    levels = model.magnitudes.take(np.abs(q), mode="clip")
    projected: list[torch.Tensor] = []
    scales: list[torch.Tensor] = []
    with exact_section(model.exact.path):
        features = nets.hyper(torch.from_numpy(np.clip(z, -127, 127)[None]).float())[:, :, :h, :w]
        for group, part in enumerate(torch.split(torch.from_numpy(levels), list(TINY.groups))):
            seen = nets.project(group, cb.rows_of(part[None]).contiguous())
            seen = seen.view(1, h, w, PROJECTED).permute(0, 3, 1, 2)
            base = nets.base(group, features, projected)
            scales.append(nets.at(group, base, at_taps(seen)))
            projected.append(seen)
    expected = torch.cat(scales, 2)[0].t().reshape(q.shape).numpy().astype(np.uint8)
    found = table_of(model, z, q, wavefronts(h, w))
    tables = expected + model._serial.family[:, :, None]
    assert np.array_equal(found, np.where(expected == 0, NOT_CODED, tables))


@pytest.mark.parametrize("path", [path for path in PATHS if usable(path)])
def test_tables_are_the_same_on_every_exact_path(
    path: str, weights: store.Weights, model: cb.Checkerboard
) -> None:
    z, q = some_symbols(model, 6, 9, seed=2)
    other = cb.build(weights, "cpu", exact=path)
    assert np.array_equal(
        table_of(other, z, q, wavefronts(6, 9), path=path), table_of(model, z, q, wavefronts(6, 9))
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_decoder_that_takes_one_position_at_a_time_reads_the_same_symbols(
    size: tuple[int, int], model: cb.Checkerboard, weights: store.Weights, second: Decoder
) -> None:
    planes = pixels(*size)
    file = encoded(model, weights.ref, planes, rate=150, order=2)
    assert file.head.order == Order.SERIAL
    z, q = model.read_symbols(file)
    other_z, other_q = second.decode(lic_format.write(file))
    assert np.array_equal(z, other_z) and np.array_equal(q, other_q)
    chosen, _ = model._symbols(model._to_input(planes), 150, Order.SERIAL, Timer(None))
    assert np.array_equal(z, chosen.z) and np.array_equal(q, chosen.q)
    assert q.any()
    assert model.decode(file).planes.shape == planes.shape


def test_the_second_decoder_finds_the_digest_and_the_known_answers(
    second: Decoder, weights: store.Weights
) -> None:
    assert decode_digest(second.tensors, second.metadata) == weights.decode_digest
    second.check_known_answers()


def test_decoded_latents_are_those_that_the_encoder_saw(model: cb.Checkerboard) -> None:
    """Encoder and decoder walk alike, so that their floats are the same on one machine."""
    x = model._to_input(pixels(70, 90))
    gain, inverse = (
        torch.exp(interpolate_knots(knots, torch.tensor([150])))[:, :, None, None]
        for knots in (model.gain, model.inverse_gain)
    )
    symbols, _ = model._symbols(x, 150, Order.SERIAL, Timer(None))
    with torch.inference_mode():
        y = model._latents(x, gain, inverse, torch.tensor([150]), None)
        decoded, _ = model._decoded(symbols, 150, Order.SERIAL)
        error = (decoded * cb.density(gain) - y).abs()
    coded = torch.from_numpy(symbols.q[None]) != 0
    assert float(error[coded].max()) < 1.01, "a symbol is at most one step from its value"


def test_a_smaller_picture_needs_the_first_groups_alone(
    model: cb.Checkerboard, weights: store.Weights
) -> None:
    file = encoded(model, weights.ref, pixels(80, 64), rate=200, order=2)
    some = model._read(file, Timer(None), 2)
    assert np.array_equal(some.q, model.read_symbols(file)[1][:8])
    assert model.decode(file, reduce=8).planes.shape == (10, 8, 3)


# --- the same bytes


def test_thread_counts_change_no_byte(model: cb.Checkerboard, weights: store.Weights) -> None:
    planes, before = pixels(50, 70), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            file = encoded(model, weights.ref, planes, rate=150, order=2)
            found.append((file.units[0].body, model.decode(file).planes.tobytes()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_floats_of_half_the_bits_read_the_same_symbols(
    model: cb.Checkerboard, weights: store.Weights
) -> None:
    half = built(weights, "bfloat16")
    planes = pixels(40, 56)
    file = encoded(half, weights.ref, planes, rate=150, order=2)
    assert file.units != encoded(model, weights.ref, planes, rate=150, order=2).units
    for found, expected in zip(half.read_symbols(file), model.read_symbols(file), strict=True):
        assert np.array_equal(found, expected)
    assert half.decode(file).planes.shape == planes.shape


def test_the_stream_is_sorted_by_front_table_channel_and_row(
    model: cb.Checkerboard, weights: store.Weights
) -> None:
    file = encoded(model, weights.ref, pixels(100, 130), rate=150, order=2)
    z, q = model.read_symbols(file)
    h, w = q.shape[1:]
    assert model._serial is not None
    order = wavefronts(h, w)
    fronts = SerialIndices(model._serial, z, order, 150, model.exact.path, Timer(None))
    stream = StreamEncoder(model.tables)
    hyper = model._hyper_pass(z, 150)
    stream.put(hyper.symbols.reshape(-1), hyper.index.reshape(-1))
    for step, front in passes(TINY, order):
        rows = np.arange(h)
        d = step.number - 3 * rows
        here = [(row, d[row]) for row in rows if 0 <= d[row] < w]
        assert [row * w + column for row, column in here] == order.cells[front].tolist()
        index = fronts.index(step, front)
        symbols = q[step.first : step.last][:, [r for r, _ in here], [c for _, c in here]]
        fronts.settle(step, front, symbols)
        stream.put(symbols.reshape(-1), index.reshape(-1))
    assert stream.finish() == file.units[0].body


def test_real_bits_are_the_models_own_estimate(model: cb.Checkerboard, weights: store.Weights) -> None:
    stages: dict[str, float] = {}
    file = encoded(model, weights.ref, pixels(96, 96, seed=4), rate=150, order=2, stages=stages)
    estimate, size = stages["estimated_bits"] / 8, len(file.units[0].body)
    assert estimate - 1 <= size <= estimate * 1.003 + 30


# --- what is not in order


def test_damage_is_detected(model: cb.Checkerboard, weights: store.Weights) -> None:
    file = encoded(model, weights.ref, pixels(17, 23), rate=150, order=2)
    body = file.units[0].body
    rng = np.random.default_rng(0)
    for cut in [*rng.integers(0, len(body), 6).tolist(), len(body) - 1]:
        with pytest.raises(FormatError):
            model.read_symbols(with_body(file, body[:cut]))
    for at in [0, len(body) - 1, *rng.integers(0, len(body), 10).tolist()]:
        flipped = bytearray(body)
        flipped[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(FormatError):
            model.read_symbols(with_body(file, bytes(flipped)))


@pytest.mark.parametrize("declared", [0, 1, 2])
@pytest.mark.parametrize("coded", [0, 1, 2])
def test_a_stream_of_one_order_declared_as_another_is_refused(
    coded: int, declared: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    file = encoded(model, weights.ref, pixels(40, 40), rate=150, order=coded)
    lying = replace(file, head=replace(file.head, order=Order(declared)))
    if coded == declared:
        assert model.read_symbols(lying)[1].any()
        return
    with pytest.raises(FormatError, match=r"verify|escapes"):
        model.read_symbols(lying)


def test_strips_of_too_many_wavefronts_are_refused_before_anything_is_computed(
    model: cb.Checkerboard,
) -> None:
    for size in ((16, FHIC_CELL * (FHIC_FRONTS_MAX - 8)), (FHIC_CELL * FHIC_FRONTS_MAX // 3 + 17, 8)):
        strip = np.broadcast_to(np.zeros(3, np.uint8), (*size, 3))
        with pytest.raises(UsageValueError, match="wavefronts") as caught:
            model.encode(Picture(strip), rate=3, order=2)
        assert caught.value.argument == "order"
    for h, w in GRIDS:
        assert fhic_fronts(w * 16, h * 16) == len(wavefronts(h, w).ends)


def test_weights_without_the_nets_say_so() -> None:
    weights = store.load("fhic", "s-1")
    model = built(weights)
    assert model.orders == (Order.ONE_STEP, Order.CHECKERBOARD)
    with pytest.raises(UsageValueError, match="fhic/s-1 code in order 0") as caught:
        model.encode(Picture(pixels(8, 8)), rate=3, order=2)
    assert caught.value.argument == "order"
    file = encoded(model, weights.ref, pixels(8, 8), rate=3, order=1)
    lying = replace(file, head=replace(file.head, order=Order.SERIAL))
    with pytest.raises(FormatError, match="order 2, for which the weights fhic/s-1 have no nets"):
        model.decode(lying)


def test_a_weights_file_with_a_part_of_the_nets_is_refused(weights: store.Weights) -> None:
    for name in ("exact.serial.taps.1.weight", "serial.means.taps.2.bias"):
        tensors = {key: value for key, value in weights.tensors.items() if key != name}
        with pytest.raises(licodec.WeightsError, match=name):
            built(replace(weights, tensors=store.Tensors.of(tensors)))
    large = dict(weights.tensors)
    large["exact.serial.taps.1.weight"] = torch.full_like(large["exact.serial.taps.1.weight"], 127)
    large["exact.serial.taps.1.bias"] = torch.full_like(large["exact.serial.taps.1.bias"], 2**24)
    with pytest.raises(licodec.WeightsError, match="2\\^24"):
        built(replace(weights, tensors=store.Tensors.of(large)))
    changed = dict(weights.tensors)
    changed["exact.serial.project.0.weight"] = changed["exact.serial.project.0.weight"].flip(0)
    with pytest.raises(licodec.ExactnessError, match=r"serial\.project\.0"):
        built(replace(weights, tensors=store.Tensors.of(changed)))


def test_layers_are_within_the_bound_by_their_shape() -> None:
    """Enough room for weights of ordinary size: the largest layer takes 12 x 32 inputs."""
    assert max(spec.inp * spec.kernel**2 for spec in serial_layers(layout.PRESETS["s"])) <= 1152


# --- through the SDK


def test_the_sdk_picks_the_weights_that_know_the_order(
    weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CODECS["fhic"]
    tags = {**entry.order_tags, Order.SERIAL: "tiny-serial"}
    monkeypatch.setitem(CODECS, "fhic", replace(entry, order_tags=tags))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(weights.path.parents[2]))
    picture = pixels(40, 50)
    data = licodec.encode(picture, order="serial", device="cpu")
    info = licodec.inspect(data)
    assert (info.order, info.tag, info.decode_digest) == (2, "tiny-serial", weights.decode_digest.hex())
    assert licodec.decode(data, output="numpy", device="cpu").shape == picture.shape
    encoder = licodec.Encoder(order="serial", device="cpu")
    assert encoder(picture) == data
    assert licodec.inspect(encoder(picture, order="one-step")).order == 0
    assert licodec.inspect(licodec.encode(picture, order="checkerboard")).tag == "s-1"
    with pytest.raises(UsageValueError, match=r'Encoder\(order="serial"\)'):
        licodec.Encoder(device="cpu")(picture, order="serial")


def test_orders_are_refused_where_there_is_no_choice_and_where_nothing_knows_them() -> None:
    with pytest.raises(UsageValueError, match="order: pilc has one decode order"):
        licodec.encode(pixels(8, 8), codec="pilc", order="serial")
    with pytest.raises(UsageValueError, match="order: expected one-step, checkerboard or serial"):
        licodec.encode(pixels(8, 8), order="raster")


def test_a_tag_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CODECS["fhic"]
    monkeypatch.setitem(
        CODECS, "fhic", replace(entry, order_tags={**entry.order_tags, Order.SERIAL: "no-such"})
    )
    with pytest.raises(licodec.WeightsError, match=r"no weights fhic/no-such.*LICODEC_WEIGHTS"):
        licodec.encode(pixels(8, 8), order="serial")

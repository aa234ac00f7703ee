"""Which path runs: known answers, stepping down, and backends that are shut out and put back."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lic_format.errors import ExactnessError
from licodec.exact import paths
from licodec.exact.known_answers import known_inputs, lcg
from licodec.exact.neighbours import neighbours
from licodec.exact.paths import PATHS, SAFE_PATH, ExactNet, exact_section, usable
from licodec.exact.tensor_neighbours import TensorNeighbours
from tests.exact.layers import HERE, expected_output, expected_sums, random_input, random_layer, run

LAYERS = [
    random_layer(1, 6, 8, 3, name="first", signed=True),
    random_layer(2, 8, 5, 5, name="middle"),
    random_layer(3, 5, 7, 1, name="last", last=True),
]
ANSWERS = {name: ExactNet(LAYERS, None).known_answer(name, "int64") for name in ("first", "middle", "last")}

Wrong = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def break_convolutions(monkeypatch: pytest.MonkeyPatch) -> Callable[[Wrong], None]:
    """Replace the library's convolutions by ones that pass their (input, result) through a function first, on
    a machine without fast 8-bit products."""
    right, right_product = torch.nn.functional.conv2d, paths._product

    def install(wrong: Wrong) -> None:
        def conv2d(x: Tensor, *args: Any, **named: Any) -> Tensor:
            return wrong(x, right(x, *args, **named))

        def product(rows: Tensor, weight: Tensor) -> Tensor:
            return wrong(rows, right_product(rows, weight))

        monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
        monkeypatch.setattr(paths, "_product", product)
        monkeypatch.setattr(paths, "usable", lambda path: path != "int8")

    return install


# --- known answers


def scalar_lcg(count: int, seed: int) -> list[int]:
    """SPEC.md, "Known answers", one value at a time."""
    values, x = [], seed
    for _ in range(count):
        x = (6364136223846793005 * x + 1442695040888963407) % 2**64
        values.append(x // 2**33)
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000])
def test_the_generator_gives_the_numbers_of_the_specification(count: int) -> None:
    assert lcg(count).tolist() == scalar_lcg(count, 2026)
    assert lcg(count, seed=7).tolist() == scalar_lcg(count, 7)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.spec.name)
def test_known_answers_are_the_crc_of_the_sums_of_an_independent_reference(layer: Any) -> None:
    low = -127 if layer.spec.signed else 0
    mixed = low + np.array(scalar_lcg(layer.spec.inp * 24 * 16, 2026)) % (128 - low)
    maps = [
        mixed.reshape(layer.spec.inp, 24, 16),
        np.full((layer.spec.inp, 6, 6), 127),
        np.full((layer.spec.inp, 6, 6), low),
    ]
    inputs = known_inputs(layer.spec.inp, layer.spec.signed)
    assert all(np.array_equal(a, b) for a, b in zip(maps, inputs, strict=True))
    crc = 0
    for x in maps:
        crc = zlib.crc32(expected_sums(layer, x, 137).astype("<i4").tobytes(), crc)
    assert crc == ANSWERS[layer.spec.name]


def test_the_fast_path_is_kept_where_it_gives_the_known_answers() -> None:
    assert ExactNet(LAYERS, ANSWERS).path == ("int8" if usable("int8") else "float32")


def test_bytes_that_are_wrong_are_left_for_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: right(a, b).clamp(max=32767))  # 16-bit sums on the way
    assert ExactNet(LAYERS, ANSWERS).path == "float32"


@pytest.mark.parametrize("vnni", [None, lambda: False])
def test_bytes_are_not_tried_without_instructions_that_cannot_saturate(
    vnni: Callable[[], bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", vnni)
    assert ExactNet(LAYERS, ANSWERS).path == "float32"


@pytest.mark.parametrize("path", HERE)
def test_every_path_gives_the_known_answers(path: str) -> None:
    assert ExactNet(LAYERS, ANSWERS, (path,)).path == path


@pytest.mark.parametrize("path", HERE)
@pytest.mark.parametrize("size", [(4, 4), (5, 9), (16, 3), (12, 20)])
@pytest.mark.parametrize("level", [1, 2])
def test_outputs_around_a_lattice_are_those_of_the_whole_map(
    path: str, size: tuple[int, int], level: int
) -> None:
    """Where nothing is known a value of its own stands, and beyond the border zeros."""
    net, (h, w) = ExactNet(LAYERS, ANSWERS, (path,)), size
    row, column = np.arange(h)[:, None], np.arange(w)[None]
    among = (row + column) % 2 == 0 if level == 1 else (row % 2 == 0) & (column % 2 == 0)
    cells = np.flatnonzero(~among if level == 1 else (row % 2 == 1) & (column % 2 == 1))
    known = np.random.default_rng(1).permutation(np.flatnonzero(among))
    with exact_section(path):
        for layer in (each for each in LAYERS if each.spec.kernel > 1):
            x = torch.from_numpy(random_input(3, layer, h, w)).unsqueeze(0)
            unknown = torch.from_numpy(random_input(4, layer, 1, 1)).unsqueeze(0)
            whole = torch.where(torch.from_numpy(among), x, unknown)
            expected = net(layer.spec.name, whole, 77, path)
            parts = [x.flatten(2).mT[:, some] for some in (known[:3], known[3:])]
            near = TensorNeighbours(neighbours(known, cells, h, w, layer.spec.kernel))
            found = net.around(layer.spec.name, parts, unknown, near, 77, path)
            assert found.shape == (1, len(cells), layer.spec.out) and found.dtype == expected.dtype
            assert torch.equal(found[0].t(), expected[0].flatten(1)[:, cells])


def test_bytes_give_what_floats_give_even_where_they_are_too_slow_to_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "usable", lambda path: True)
    try:
        bytewise = ExactNet(LAYERS, ANSWERS, ("int8",))
    except ExactnessError:
        pytest.skip("8-bit products saturate on this machine")
    floats = ExactNet(LAYERS, ANSWERS, ("float32",))
    row, column = np.arange(6)[:, None], np.arange(9)[None]
    known, cells = (np.flatnonzero((row + column) % 2 == odd) for odd in (0, 1))
    for layer in LAYERS:
        name, kernel = layer.spec.name, layer.spec.kernel
        x = torch.from_numpy(random_input(6, layer, 6, 9)).unsqueeze(0)
        rows, unknown = x.flatten(2).mT, x[:, :, :1, :1].flatten(2).mT
        found = []
        for net in (bytewise, floats):
            with exact_section(net.path):
                results = [net(name, x, 33)]
                if kernel == 1:
                    results.append(net.pointwise(name, rows, 33))
                else:
                    near = TensorNeighbours(neighbours(known, cells, 6, 9, kernel))
                    results.append(net.around(name, [rows[:, known]], unknown, near, 33))
                found.append([each.double() for each in results])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), name


@pytest.mark.parametrize("around", [False, True])
def test_fractions_in_products_of_rows_are_left_for_the_safe_path(
    around: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, right = ExactNet(LAYERS, ANSWERS, ("float32",)), paths._product
    layer = LAYERS[1 if around else 2]
    x = torch.from_numpy(random_input(8, layer, 4, 6)).unsqueeze(0)
    rows, cells = x.flatten(2).mT, np.arange(24)
    known, rest = cells[(cells // 6 + cells) % 2 == 0], cells[(cells // 6 + cells) % 2 == 1]
    near = TensorNeighbours(neighbours(known, rest, 4, 6, layer.spec.kernel))

    def found() -> Tensor:
        with exact_section(net.path):
            if around:
                return net.around(layer.spec.name, [rows[:, known]], rows[:, :1], near, 9).double()
            return net.pointwise(layer.spec.name, rows, 9).double()

    expected = found()
    net._shapes.clear()
    monkeypatch.setattr(paths, "_product", lambda rows, weight: right(rows, weight) + 0.25)
    assert torch.equal(found(), expected) and net.path == SAFE_PATH


def test_cells_that_know_different_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        neighbours(np.array([0, 1, 4]), np.array([5, 10]), 4, 4, 3)


def test_a_layer_without_known_answer_is_refused() -> None:
    with pytest.raises(ExactnessError, match="middle"):
        ExactNet(LAYERS, {name: crc for name, crc in ANSWERS.items() if name != "middle"})


# --- stepping down


@pytest.mark.parametrize("error", [0.25, 1.0])
def test_float32_that_is_wrong_everywhere_is_left_for_rounded_float64(
    error: float, break_convolutions: Callable[[Wrong], None]
) -> None:
    break_convolutions(lambda x, y: y + error if y.dtype == torch.float32 else y)
    net = ExactNet(LAYERS, ANSWERS)
    assert net.path == SAFE_PATH
    x = random_input(4, LAYERS[1], 7, 9)
    assert np.array_equal(run(net, LAYERS[1], x, 50), expected_output(LAYERS[1], x, 50))


def test_an_error_of_onednn_alone_is_left_for_float32_without_it(
    break_convolutions: Callable[[Wrong], None],
) -> None:
    def wrong(x: Tensor, y: Tensor) -> Tensor:
        return y + 1 if torch._C._get_mkldnn_enabled() else y

    break_convolutions(wrong)
    net = ExactNet(LAYERS, ANSWERS)
    assert net.path == "float32-plain"
    x = random_input(4, LAYERS[0], 7, 9)
    assert np.array_equal(run(net, LAYERS[0], x, 50), expected_output(LAYERS[0], x, 50))


def test_rounded_float64_survives_a_convolution_with_fractions(
    break_convolutions: Callable[[Wrong], None],
) -> None:
    break_convolutions(lambda x, y: y + 0.25 if y.is_floating_point() else y)
    assert ExactNet(LAYERS, ANSWERS).path == SAFE_PATH


def test_integers_are_the_last_resort(break_convolutions: Callable[[Wrong], None]) -> None:
    break_convolutions(lambda x, y: y + 1 if y.is_floating_point() else y)
    assert ExactNet(LAYERS, ANSWERS).path == "int64"


def test_where_every_path_is_wrong_the_error_names_them_all(
    break_convolutions: Callable[[Wrong], None],
) -> None:
    break_convolutions(lambda x, y: y + 1)
    with pytest.raises(ExactnessError) as caught:
        ExactNet(LAYERS, ANSWERS)
    assert all(path in str(caught.value) for path in PATHS[1:])
    assert "layer first" in str(caught.value)


def test_fractions_at_one_shape_only_are_seen_there_and_the_result_is_right(
    break_convolutions: Callable[[Wrong], None],
) -> None:
    def winograd_at_one_shape(x: Tensor, y: Tensor) -> Tensor:
        return y + 0.25 if y.dtype == torch.float32 and x.shape[2:] == (7, 9) else y

    break_convolutions(winograd_at_one_shape)
    net = ExactNet(LAYERS, ANSWERS)
    assert net.path == "float32"
    for size, path in (((8, 8), "float32"), ((7, 9), SAFE_PATH), ((7, 9), SAFE_PATH), ((8, 8), SAFE_PATH)):
        x = random_input(4, LAYERS[1], *size)
        assert np.array_equal(run(net, LAYERS[1], x, 50), expected_output(LAYERS[1], x, 50))
        assert net.path == path


def test_a_caller_that_insists_on_the_fast_path_is_given_right_numbers_all_the_same(
    break_convolutions: Callable[[Wrong], None],
) -> None:
    break_convolutions(
        lambda x, y: y + 0.25 if y.dtype == torch.float32 and 7 in (*x.shape[2:3], len(x) / 9) else y
    )
    net = ExactNet(LAYERS, ANSWERS)
    x = random_input(4, LAYERS[1], 7, 9)
    for _ in range(3):
        assert np.array_equal(run(net, LAYERS[1], x, 50, "float32"), expected_output(LAYERS[1], x, 50))


# --- sections


def nnpack() -> bool:
    return bool(torch._C._get_nnpack_enabled())


def onednn() -> bool:
    return bool(torch._C._get_mkldnn_enabled())


@pytest.fixture(params=[True, False], ids=["on-before", "off-before"])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both switches as the caller has them, put back after the test."""
    had = nnpack(), onednn()
    torch._C._set_nnpack_enabled(request.param)
    torch._C._set_mkldnn_enabled(request.param)
    yield request.param
    torch._C._set_nnpack_enabled(had[0])
    torch._C._set_mkldnn_enabled(had[1])


def test_nnpack_is_off_inside_nested_sections_and_put_back_after_the_last(before: bool) -> None:
    with exact_section("float32"):
        assert not nnpack()
        with exact_section("float32-plain"):
            assert not nnpack() and not onednn()
        assert not nnpack() and onednn() is before
    assert nnpack() is before


def test_the_switch_is_put_back_after_an_error(before: bool) -> None:
    with pytest.raises(ZeroDivisionError), exact_section("float32-plain"):
        _ = 1 // 0
    assert nnpack() is before and onednn() is before


def test_a_section_that_ends_does_not_switch_nnpack_on_in_another_threads_section(before: bool) -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        with exact_section("float32"):
            entered.set()
            leave.wait(30)
            seen.append(nnpack())

    thread = threading.Thread(target=other)
    with exact_section("float32"):
        thread.start()
        assert entered.wait(30)
    assert not nnpack()  # the other thread is inside still
    leave.set()
    thread.join(30)
    assert seen == [False]
    assert nnpack() is before


def test_a_section_has_neither_autocast_nor_gradients() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad(), exact_section("float32"):
        assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()


def test_many_threads_share_one_net() -> None:
    net = ExactNet(LAYERS, ANSWERS)
    inputs = [random_input(seed, LAYERS[1], 5 + seed % 4, 6) for seed in range(8)]
    wanted = [expected_output(LAYERS[1], x, 16 * i) for i, x in enumerate(inputs)]
    right: list[bool] = []

    def work(i: int) -> None:
        for _ in range(5):
            right.append(np.array_equal(run(net, LAYERS[1], inputs[i], 16 * i), wanted[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 40


def test_a_section_inside_one_of_its_kind_undoes_what_was_switched_on_in_between(before: bool) -> None:
    with exact_section("float32"):
        with torch.autocast("cpu", torch.bfloat16), exact_section("float32"):
            assert not torch.is_autocast_enabled("cpu")
        with torch.inference_mode(False), exact_section("float32"):
            assert torch.is_inference_mode_enabled()
        with pytest.raises(ZeroDivisionError), exact_section("float32"):
            _ = 1 // 0
        assert not nnpack() and torch.is_inference_mode_enabled()
    assert nnpack() is before and not torch.is_inference_mode_enabled()

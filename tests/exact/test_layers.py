"""Integer layers give the integers of SPEC.md, on every path and whatever the caller has switched on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lic_format.errors import WeightsError
from licodec.exact.layers import StoredLayer, check_bounds, dyadic, integer_knots
from licodec.exact.paths import FAST_PATHS, ExactNet, exact_section
from licodec.exact.specs import ACCUMULATOR_LIMIT, KNOTS, LayerSpec
from tests.exact.layers import (
    HERE,
    expected_output,
    expected_sums,
    random_input,
    random_layer,
    requantised,
    run,
    stored,
)

MULTIPLIERS = (2**14, 2**14 + 1, 16419, 23170, 2**15 - 1)


def requantise(
    multiplier: list[int], shift: list[int], sums: np.ndarray[tuple[int], np.dtype[np.int64]], path: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """What a path makes of sums, one row for each (m, s)."""
    spec = LayerSpec("copy", 1, len(multiplier), 1)
    layer = stored(spec, np.ones((spec.out, 1, 1, 1)), np.zeros((KNOTS, spec.out)), multiplier, shift)
    net = ExactNet([layer], None)
    if path in FAST_PATHS:
        dtype = torch.int32 if path == "int8" else torch.float32
        products = torch.from_numpy(sums).to(dtype)[:, None].expand(-1, spec.out)
        found = net._requantise_products(layer, products, net._offset(layer, 0, path), path).t()
    else:
        dtype = torch.int64 if path == "int64" else torch.float64
        found = net._requantise(layer, torch.from_numpy(sums).to(dtype).expand(1, spec.out, 1, -1), path)[
            0, :, 0
        ]
    return found.to(torch.int64).numpy()


# --- requantisation


def around_the_steps(m: int, s: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Sums on both sides of every place where the output of (m, s) changes, and beyond both ends."""
    steps = [((2 * k - 1) * 2**s) // (2 * m) for k in range(-3, 131)]
    near = np.array([step + d for step in steps for d in range(-3, 4)], np.int64)
    ends = np.array([0, 1, -1, 89409, -89409, ACCUMULATOR_LIMIT - 1, 1 - ACCUMULATOR_LIMIT])
    return np.unique(np.concatenate([near[np.abs(near) < ACCUMULATOR_LIMIT], ends]))


@pytest.mark.parametrize("path", HERE)
def test_requantisation_is_the_integer_rule_at_every_step_of_every_shift(path: str) -> None:
    pairs = [(m, s) for m in MULTIPLIERS for s in range(31)]
    sums = np.unique(np.concatenate([around_the_steps(m, s) for m, s in pairs]))
    found = requantise([m for m, _ in pairs], [s for _, s in pairs], sums, path)
    for channel, (m, s) in enumerate(pairs):
        assert np.array_equal(found[channel], requantised(sums, m, s).clip(0, 127)), (m, s)


@pytest.mark.parametrize("path", HERE)
def test_requantisation_is_the_integer_rule_on_a_dense_sweep(path: str) -> None:
    sums = np.arange(-4000, 200_000, dtype=np.int64)
    found = requantise([16419, 32767, 16384], [24, 22, 21], sums, path)
    for channel, (m, s) in enumerate(((16419, 24), (32767, 22), (16384, 21))):
        assert np.array_equal(found[channel], requantised(sums, m, s).clip(0, 127))


def test_a_multiplication_in_float32_would_be_wrong() -> None:
    m, s, acc = 16419, 24, 89409
    assert requantised(np.array([acc]), m, s) == 87
    assert np.floor(np.float32(acc) * np.float32(m * 2.0**-s) + np.float32(0.5)) == 88
    assert all(requantise([m], [s], np.array([acc]), path).item() == 87 for path in HERE)


@given(st.floats(min_value=2.0**-15, max_value=2.0**14))
def test_a_dyadic_multiplier_is_legal_and_the_nearest(real: float) -> None:
    m, s = (int(part) for part in dyadic(torch.tensor([real], dtype=torch.float64)))
    assert 2**14 <= m < 2**15 and 0 <= s <= 30
    assert abs(m * 2.0**-s - real) <= 2.0 ** -(s + 1)


@pytest.mark.parametrize("rate", [0, 1, 15, 16, 137, 240, 255])
def test_the_bias_between_knots_is_floored_and_stays_between_them(rate: int) -> None:
    rng = np.random.default_rng(rate)
    table = rng.integers(-(2**23), 2**23, (KNOTS, 50))
    found = integer_knots(torch.from_numpy(table).to(torch.int32), rate).numpy()
    low, high = table[rate // 16], table[rate // 16 + 1]
    exact = (low * (16 - rate % 16) + high * (rate % 16)) / 16
    assert np.array_equal(found, np.floor(exact))
    assert (found >= np.minimum(low, high)).all() and (found <= np.maximum(low, high)).all()


# --- bounds


def layer_reaching(bound: int) -> StoredLayer:
    """One output channel whose sums can reach exactly `bound` (127 * 132104 at least)."""
    weight = [127] * 1040 + [24]
    bias = bound - 127 * sum(weight)
    spec = LayerSpec("wide", len(weight), 1, 1)
    return stored(spec, np.array(weight).reshape(1, -1, 1, 1), np.full((KNOTS, 1), bias), [2**14], [30])


def test_sums_of_exactly_2_to_the_24_are_refused_and_one_less_is_not() -> None:
    with pytest.raises(WeightsError, match=r"'wide'.*can reach 16777216"):
        check_bounds(layer_reaching(2**24))
    check_bounds(layer_reaching(2**24 - 1))


def test_a_net_refuses_what_nobody_has_checked() -> None:
    with pytest.raises(WeightsError, match=r"'wide'.*can reach 16777216"):
        ExactNet([layer_reaching(2**24)], None)


def test_the_bound_counts_the_largest_bias_of_all_knots_and_its_sign_does_not_matter() -> None:
    layer = layer_reaching(2**24 - 1)
    layer.bias[7, 0] = -9
    with pytest.raises(WeightsError, match="16777217"):
        check_bounds(layer)


def test_sums_at_the_bound_are_exact_on_every_path() -> None:
    layer = layer_reaching(2**24 - 1)
    net = ExactNet([layer], None)
    assert {net.known_answer("wide", path) for path in HERE} == {net.known_answer("wide", "int64")}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("weight", -128, "-128"),
        ("multiplier", 2**14 - 1, "16383"),
        ("multiplier", 2**15, "32768"),
        ("shift", -1, "-1"),
        ("shift", 31, "31"),
        ("bias", -(2**31), "2147"),
    ],
)
def test_integers_out_of_range_are_refused_by_name(part: str, value: int, message: str) -> None:
    layer = random_layer(1, 3, 4, 3)
    getattr(layer, part).view(-1)[2] = value
    with pytest.raises(WeightsError, match=message) as caught:
        StoredLayer.from_tensors(layer.spec, "exact.", layer.tensors("exact."))
    assert "layer" in str(caught.value)


@pytest.mark.parametrize("part", ["weight", "bias", "multiplier", "shift"])
def test_a_tensor_that_is_missing_or_of_another_type_or_shape_is_named(part: str) -> None:
    layer = random_layer(1, 3, 4, 3)
    good, name = layer.tensors("exact."), f"exact.layer.{part}"
    for tensors in (
        {key: value for key, value in good.items() if key != name},
        {**good, name: good[name].float()},
        {**good, name: good[name][..., :-1]},
    ):
        with pytest.raises(WeightsError, match=name):
            StoredLayer.from_tensors(layer.spec, "exact.", tensors)


def test_stored_tensors_come_back_as_the_layer_they_were() -> None:
    layer = random_layer(1, 3, 4, 3)
    again = StoredLayer.from_tensors(layer.spec, "p.", layer.tensors("p."))
    assert all(
        torch.equal(a, b) for a, b in zip(again.tensors("").values(), layer.tensors("").values(), strict=True)
    )


# --- against the independent reference


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel=st.sampled_from([1, 3, 5]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rate=st.integers(0, 255),
    last=st.booleans(),
    signed=st.booleans(),
)
@example(seed=0, channels=(1, 2), kernel=1, size=(1, 1), rate=0, last=False, signed=False)
@example(seed=1, channels=(20, 20), kernel=1, size=(1, 1), rate=0, last=False, signed=False)
def test_all_paths_give_the_integers_of_an_independent_reference(
    seed: int,
    channels: tuple[int, int],
    kernel: int,
    size: tuple[int, int],
    rate: int,
    last: bool,
    signed: bool,
) -> None:
    layer = random_layer(seed, *channels, kernel, last=last, signed=signed)
    net = ExactNet([layer], None)
    x = random_input(seed, layer, *size)
    expected = expected_output(layer, x, rate)
    for path in HERE:
        assert np.array_equal(run(net, layer, x, rate, path), expected), path


@pytest.mark.parametrize("value", [-127, 0, 127])
@pytest.mark.parametrize("path", HERE)
def test_extreme_maps_are_exact_on_layers_of_full_size(path: str, value: int) -> None:
    layer = random_layer(5, 64, 64, 5, signed=True)
    x = np.full((64, 9, 7), value)
    assert np.array_equal(run(ExactNet([layer], None), layer, x, 200, path), expected_output(layer, x, 200))


def test_the_random_layers_use_their_whole_output_range() -> None:
    layer = random_layer(9, 12, 16, 3)
    out = expected_output(layer, random_input(9, layer, 12, 12), 100)
    assert out.min() == 0 and out.max() == 127 and len(np.unique(out)) > 120
    assert np.abs(expected_sums(layer, random_input(9, layer, 12, 12), 100)).max() > 2**15


# --- whatever the caller has switched on

LAYER = random_layer(11, 24, 24, 3)
X = random_input(11, LAYER, 16, 17)


@pytest.fixture
def expected() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """What a layer must give; threads and default dtype are put back afterwards."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield expected_output(LAYER, X, 77)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("path", HERE)
def test_autocast_in_the_caller_does_no_harm(
    path: str, expected: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        one = torch.nn.functional.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
        assert one.dtype == torch.bfloat16  # it is really on
        assert np.array_equal(run(ExactNet([LAYER], None), LAYER, X, 77, path), expected)


@pytest.mark.parametrize("path", HERE)
def test_another_default_dtype_does_no_harm(
    path: str, expected: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> None:
    torch.set_default_dtype(torch.float64)
    net = ExactNet([LAYER], None)
    assert np.array_equal(run(net, LAYER, X, 77, path), expected)
    torch.set_default_dtype(torch.bfloat16)
    assert np.array_equal(run(ExactNet([LAYER], None), LAYER, X, 77, path), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(
    threads: int, expected: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> None:
    net = ExactNet([LAYER], None)
    torch.set_num_threads(threads)
    assert all(np.array_equal(run(net, LAYER, X, 77, path), expected) for path in HERE)


@pytest.mark.parametrize("path", HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_memory_format_and_dtype_of_the_input_do_not_matter(
    path: str, dtype: torch.dtype, expected: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> None:
    net = ExactNet([LAYER], None)
    x = torch.from_numpy(X).to(dtype).unsqueeze(0)
    strided = torch.stack([x, x], -1)[..., 0]
    for form in (x.contiguous(memory_format=torch.channels_last), strided):
        with exact_section(path):
            assert np.array_equal(net(LAYER.spec.name, form, 77, path)[0].long().numpy(), expected)

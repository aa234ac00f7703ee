from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lic_format import UsageError
from licodec import options
from licodec.options import OPTIONS, rate_index


@pytest.mark.parametrize(
    "quality", [0, 100, 75.5, np.int64(50), np.float32(12.5), np.uint8(3), Fraction(1, 3)]
)
def test_quality_takes_every_real_number_in_range(quality: Any) -> None:
    assert options.check("quality", quality) == float(quality)


@pytest.mark.parametrize(
    "quality",
    [
        "x",
        "75",
        -1,
        101,
        100.001,
        math.nan,
        math.inf,
        True,
        False,
        np.bool_(True),
        [75],
        1j,
        np.array([3]),
    ],
)
def test_quality_refuses_everything_else_and_names_itself(quality: Any) -> None:
    with pytest.raises(ValueError, match=r"quality: expected a number from 0 to 100, or None, got") as caught:
        options.check("quality", quality)
    assert isinstance(caught.value, UsageError)
    assert caught.value.argument == "quality"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("codec", "JPEG"),
        ("codec", 7),
        ("codec", ""),
        ("codec", "../../etc"),
        ("device", "gpu"),
        ("device", 0),
        ("device", "cuda:x"),
        ("threads", 0),
        ("threads", 1025),
        ("threads", 1.0),
        ("threads", "2"),
        ("output", "PIL"),
        ("output", "jax"),
        ("weights", 3),
        ("weights", ""),
        ("weights", b"path"),
        ("max_pixels", 0),
        ("max_pixels", 1.5),
        ("max_pixels", True),
        ("max_pixels_per_byte", -1),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name}: expected ") as caught:
        options.check(name, value)
    assert caught.value.argument == name
    assert isinstance(caught.value, ValueError | TypeError)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_every_default_is_a_value_in_normal_form(option: options.Option) -> None:
    checked = option.check(option.name, option.default)
    assert checked == option.default
    assert type(checked) is type(option.default)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_errors_and_help_use_the_same_words(option: options.Option) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        option.check(option.name, object())
    assert option.expects in str(caught.value)


def test_rate_index_rises_with_quality_and_reaches_both_ends() -> None:
    indices = [rate_index(step / 10) for step in range(1001)]
    assert indices[0] == 0
    assert indices[-1] == 255
    assert indices == sorted(indices)
    assert set(indices) == set(range(256))


def test_quality_of_is_the_inverse_of_rate_index() -> None:
    assert [rate_index(options.quality_of(rate)) for rate in range(256)] == list(range(256))
    assert [options.quality_of(rate_index(quality)) for quality in range(101)] == list(range(101))


def test_a_typing_error_finds_the_option_that_was_meant() -> None:
    assert options.nearest("qualty", "pillow", "encode") == "quality"
    assert options.nearest("something", "pillow", "encode") is None

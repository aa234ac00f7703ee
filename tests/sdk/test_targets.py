"""Files of a wanted size or likeness are found by coding, in few codings, and never beyond the target."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import licodec
from lic_format import UsageValueError
from licodec.codecs import checkerboard, checkerboard_compiled
from licodec.images import psnr
from licodec.targets import Goal, chosen
from tests.sdk.fixtures import pixels


class Fake:
    """Files whose sizes follow a list; their likeness in dB is the rate index over 5."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.asked = sizes, []  # type: tuple[list[int], list[int]]

    def code(self, rate: int) -> bytes:
        self.asked.append(rate)
        return bytes([rate]) * self.sizes[rate]

    def likeness(self, data: bytes) -> float:
        return data[0] / 5


def curve(start: float, slope: float) -> list[int]:
    return [round(start * math.exp(slope * rate)) for rate in range(256)]


@settings(max_examples=300, deadline=None)
@given(start=st.floats(10, 20_000), slope=st.floats(0, 0.04), place=st.floats(-0.2, 1.2))
def test_the_largest_file_that_fits_is_found_in_few_codings(start: float, slope: float, place: float) -> None:
    fake = Fake(curve(start, slope))
    most = max(1, round(start * math.exp(slope * 255 * place)))
    fitting = [rate for rate in range(256) if fake.sizes[rate] <= most]
    file = Goal(target="target_size", value=most, strict=False).met(fake.code, fake.likeness, 1000)
    assert len(file) == fake.sizes[fitting[-1] if fitting else 0]
    assert len(set(fake.asked)) == len(fake.asked) <= 24


@pytest.mark.parametrize("most", [700, 3000, 20_000])
def test_a_usual_curve_takes_five_codings(most: int) -> None:
    fake = Fake(curve(500, 0.0155))
    Goal(target="target_size", value=most).met(fake.code, fake.likeness, 1000)
    assert len(fake.asked) <= 5


def test_sizes_that_do_not_always_rise_are_never_beyond_the_target() -> None:
    rng = np.random.default_rng(1)
    sizes = [size + int(rng.integers(0, 40)) for size in curve(800, 0.012)]
    for most in range(900, 16_000, 333):
        fake = Fake(sizes)
        file = Goal(target="target_size", value=most).met(fake.code, fake.likeness, 1000)
        assert 0.95 * most < len(file) <= most


def test_a_file_that_decodes_exactly_ends_no_search() -> None:
    fake = Fake(curve(500, 0.0155))
    file = Goal(target="target_psnr", value=40.0).met(
        fake.code, lambda data: math.inf if data[0] >= 100 else data[0] / 5, 1
    )
    assert file[0] == 100
    flat = licodec.encode(np.full((8, 8), 255, np.uint8), target_psnr=40, device="cpu")
    assert psnr(licodec.decode(flat, output="numpy"), np.full((8, 8), 255, np.uint8)) >= 40


def test_bits_a_pixel_are_a_size() -> None:
    fake = Fake(curve(500, 0.0155))
    file = Goal(target="target_bpp", value=1.0).met(fake.code, fake.likeness, 16_004)
    assert 1950 < len(file) <= 2000
    for count in (7919, 8 * len(file)):
        again = Goal(target="target_bpp", value=8 * len(file) / count).met(fake.code, fake.likeness, count)
        assert again == file, "what it has, not less"
        most = len(file) - 0.3
        less = Goal(target="target_bpp", value=8 * most / count).met(fake.code, fake.likeness, count)
        assert len(less) <= most


@pytest.mark.parametrize("wanted", [1.0, 20.0, 33.33, 50.9])
def test_the_first_file_of_a_psnr_is_found(wanted: float) -> None:
    fake = Fake(curve(500, 0.0155))
    file = Goal(target="target_psnr", value=wanted).met(fake.code, fake.likeness, 1)
    assert file[0] == math.ceil(5 * wanted), "also where a file has exactly what is wanted"
    assert len(fake.asked) <= 8


@pytest.mark.parametrize(
    ("target", "value", "found", "nearest"),
    [
        ("target_size", 499, "the smallest file has 500 bytes", 500),
        ("target_bpp", 0.01, r"500 bytes \(4.0000 bpp\)", 500),
        ("target_psnr", 52.0, "the best is 51.00 dB", 26_033),
    ],
)
def test_what_is_out_of_reach_is_an_error_that_says_what_is_not(
    target: str, value: float, found: str, nearest: int
) -> None:
    fake = Fake(curve(500, 0.0155))
    with pytest.raises(UsageValueError, match=f"^{target}: {value:g} is out of reach .*{found}") as caught:
        Goal(target=target, value=value).met(fake.code, fake.likeness, 1000)
    assert caught.value.argument == target
    file = Goal(target=target, value=value, strict=False).met(fake.code, fake.likeness, 1000)
    assert len(file) == nearest


@pytest.mark.parametrize(
    "given",
    [
        {"quality": 50, "target_size": 1000},
        {"quality": 75, "target_psnr": 30},
        {"target_size": 1000, "target_bpp": 1},
        {"target_bpp": 1, "target_psnr": 30},
    ],
)
def test_two_goals_contradict_each_other(given: dict[str, Any], tmp_path: Path) -> None:
    first, second = given
    with pytest.raises(UsageValueError, match=f"{first} and {second} are both given"):
        licodec.encode(pixels(), **given)
    with pytest.raises(UsageValueError, match="both given"):
        PIL.Image.fromarray(pixels()).save(tmp_path / "x.lic", **given)
    assert not (tmp_path / "x.lic").exists()


def test_no_goal_is_quality_75_and_none_is_not_given() -> None:
    assert chosen({}) == chosen({"quality": None, "target_size": None}) == Goal(75.0)
    assert chosen({}, 30.0) == Goal(30.0)
    assert chosen({"target_size": 9, "strict": False}) == Goal(75.0, "target_size", 9.0, False)


def test_a_search_analyses_once_and_finds_the_file_of_its_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    array = pixels(192, 256)
    analyses = Mock()

    def noted(of: Any) -> Any:
        return lambda *given: (analyses(), of(*given))[1]

    for net in (checkerboard.Analysis, checkerboard_compiled.Analysis):
        monkeypatch.setattr(net, "begun", noted(net.begun))
    for target in ({"target_size": 3000}, {"target_psnr": 33.0}):
        analyses.reset_mock()
        data = licodec.encode(array, device="cpu", **target)
        assert analyses.call_count == 1
        quality = licodec.inspect(data).quality
        assert licodec.encode(array, quality=quality, device="cpu") == data


def test_targets_are_met_by_the_default_codec_in_every_host(tmp_path: Path) -> None:
    array = pixels(192, 256)
    image = PIL.Image.fromarray(array)
    for most in (900, 4000):
        data = licodec.encode(image, target_size=most, device="cpu")
        assert 0.97 * most <= len(data) <= most
        again = licodec.Encoder(device="cpu")(image, target_bpp=8 * most / (192 * 256))
        assert again == data
    sink = io.BytesIO()
    image.save(sink, "LIC", target_size=4000, device="cpu")
    assert sink.getvalue() == data
    licodec.save(image, tmp_path / "x.lic", target_psnr=34, device="cpu")
    likeness = psnr(licodec.load(tmp_path / "x.lic", output="numpy"), array)
    assert 34 <= likeness <= 34.1

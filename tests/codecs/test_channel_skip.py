"""Channels that a file leaves out: how they are listed, decoded and chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lic_format
import licodec
from lic_format import LicFile
from lic_format.errors import FormatError, LicError
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.channel_skip import (
    BITMAP,
    KEPT,
    NONE,
    SKIPPED,
    SUFFIX,
    Channels,
    coded_channels,
    first_skipped,
    read_skipped,
    write_skipped,
)
from licodec.codecs.registry import FHIC_SIDE_INFO
from tests.codecs.fixtures import ORDERS, TABLES, coded, encoded, pixels, psnr
from tests.codecs.second_decoder import Decoder, skipped_channels
from tests.format.second_reader import InvalidFile

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
M = 320


def channels(count: int, *parts: int | slice) -> Channels:
    out = np.zeros(count, np.bool_)
    for part in parts:
        out[part] = True
    return out


def without(skipped: Channels, *kept: int) -> Channels:
    out = skipped.copy()
    out[list(kept)] = False
    return out


SETS = {
    "none": channels(M),
    "suffix": channels(M, slice(150, M)),
    "all": channels(M, slice(0, M)),
    "last group": channels(M, slice(160, M)),
    "some": channels(M, 3, 7, slice(200, M)),
    "a group between": channels(M, slice(16, 64)),
    "all but some": without(channels(M, slice(64, M)), 70, 90),
    "every other": channels(M, slice(1, M, 2)),
}
MODES = {"none": NONE, "suffix": SUFFIX, "all": SUFFIX, "last group": SUFFIX, "some": SKIPPED}
MODES |= {"a group between": BITMAP, "all but some": KEPT, "every other": BITMAP}


# --- lists


def test_sets_are_listed_in_the_shortest_way() -> None:
    assert {name: write_skipped(skipped)[0] for name, skipped in SETS.items()} == MODES


def test_the_examples_of_the_specification() -> None:
    rows = SPEC.split("side info from channel_skip on,")[1].split("\n\n")[0].splitlines()[2:]
    found = [row.split("|")[3].strip() for row in rows]
    sets = [SETS["suffix"], SETS["all"], SETS["some"], channels(M, 300), SETS["all but some"]]
    listed = [write_skipped(skipped) for skipped in (*sets, channels(10, slice(0, 10, 2)))]
    assert found == [f"{mode}, `{octets.hex(' ')}`" for mode, octets in listed]


@given(st.lists(st.booleans(), min_size=1, max_size=400))
@example([True] * 129 + [False])
@example([False] * 128 + [True] * 3 + [False] * 2)
def test_every_set_comes_back(flags: list[bool]) -> None:
    skipped = np.array(flags)
    mode, listed = write_skipped(skipped)
    assert np.array_equal(read_skipped(mode, listed, len(flags)), skipped)
    assert skipped_channels(mode, listed, len(flags)) == set(np.flatnonzero(skipped).tolist())
    assert len(listed) <= -(-len(flags) // 8)


@given(mode=st.integers(0, 4), listed=st.binary(max_size=44), count=st.sampled_from([1, 8, 10, 200, M]))
@example(mode=4, listed=b"\xff", count=8)
def test_any_bytes_are_a_set_or_refused_by_both_readers_alike(mode: int, listed: bytes, count: int) -> None:
    try:
        found = set(np.flatnonzero(read_skipped(mode, listed, count)).tolist())
    except FormatError:
        with pytest.raises(InvalidFile):
            skipped_channels(mode, listed, count)
    else:
        assert skipped_channels(mode, listed, count) == found
        assert write_skipped(channels(count, *found)) == (mode, listed)


BAD = {
    "nothing skipped by a suffix": (SUFFIX, "c0 02"),
    "a suffix past the end": (SUFFIX, "c1 02"),
    "a far suffix": (SUFFIX, "ff ff ff ff 0f"),
    "no suffix": (SUFFIX, "80"),
    "two suffixes": (SUFFIX, "96 01 00"),
    "not minimal": (SUFFIX, "96 81 00"),
    "a list where a suffix would do": (SKIPPED, "97 01 96 01"),
    "a list in the tail": (SKIPPED, "96 01 96 01"),
    "a list past the end": (SKIPPED, "c0 02 c0 02"),
    "a gap past the end": (SKIPPED, "c8 01 03 c4 01"),
    "a gap beyond 32 bits": (SKIPPED, "c8 01 ff ff ff ff 1f"),
    "skipped ones listed where kept ones would do": (SKIPPED, "c0 02 " + "00 " * 40),
    "kept ones listed where skipped ones would do": (KEPT, "03 " + "01 00 00 " + "00 " * 192),
    "kept ones past the end": (KEPT, "40 06 ff 01"),
    "kept ones listed too early": (KEPT, "3f 00 06 13"),
    "a bitmap where a suffix would do": (BITMAP, "00 " * 38 + "00 80"),
    "a short bitmap": (BITMAP, "aa " * 39),
    "a long bitmap": (BITMAP, "aa " * 41),
    "an empty bitmap": (BITMAP, "00 " * 40),
}


@pytest.mark.parametrize("name", BAD)
def test_lists_that_lie_are_refused_through_the_public_api(name: str, skipping: LicFile) -> None:
    mode, listed = BAD[name]
    with pytest.raises(FormatError):
        read_skipped(mode, bytes.fromhex(listed), M)
    lying = with_side_info(skipping, mode, bytes.fromhex(listed))
    with pytest.raises(FormatError, match=r"side info|varint|needs"):
        licodec.decode(lic_format.write(lying), device="cpu")


def test_bits_behind_the_last_channel_of_a_bitmap_are_refused() -> None:
    mode, listed = write_skipped(channels(10, slice(0, 10, 2)))
    assert (mode, listed) == (BITMAP, b"\x55\x01")
    for byte in range(2, 256):
        if byte & 0xFC:
            with pytest.raises(FormatError):
                read_skipped(BITMAP, bytes([0x55, byte]), 10)


def test_a_list_of_4096_bytes_takes_no_time_and_no_memory() -> None:
    start = time.process_time()
    for mode in (SUFFIX, SKIPPED, KEPT, BITMAP):
        for byte in (b"\x00", b"\x01", b"\xff", b"\x7f"):
            with pytest.raises(FormatError):
                read_skipped(mode, byte * 4091, M)
    assert time.process_time() - start < 1


# --- decoding


def with_side_info(file: LicFile, mode: int, listed: bytes) -> LicFile:
    values = (1, 1, mode, 0, 0, listed)
    side_info = FHIC_SIDE_INFO.write(dict(zip(FHIC_SIDE_INFO.names, values, strict=True)))
    return replace(file, head=replace(file.head, side_info=side_info))


@pytest.fixture(scope="module")
def skipping(model: cb.Checkerboard, weights: store.Weights) -> Iterator[LicFile]:
    """A file that leaves out the last group."""
    yield made(model, weights, SETS["last group"], 1)[0]


@pytest.fixture(scope="module")
def second(weights: store.Weights) -> Decoder:
    return Decoder(weights.path.read_bytes(), TABLES.read_bytes())


def made(model: cb.Checkerboard, weights: store.Weights, skipped: Channels, order: int) -> tuple[Any, ...]:
    """(file, z, q) of random symbols without those of some channels, on a grid of 5 x 7."""
    rng = np.random.default_rng(5)
    z = np.rint(rng.normal(0, 3, (model.preset.hyper, 2, 2))).astype(np.int16)
    q = np.rint(rng.laplace(0, 1, (M, 5, 7))).astype(np.int16)
    q[skipped] = 0
    return coded(model, weights.ref, z, q, rate=200, order=order, skipped=skipped), z, q


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SETS)
def test_both_decoders_read_files_without_some_channels(
    name: str, order: int, model: cb.Checkerboard, second: Decoder, weights: store.Weights
) -> None:
    file, z, q = made(model, weights, SETS[name], order)
    for found_z, found_q in (model.read_symbols(file), second.decode(lic_format.write(file))):
        assert np.array_equal(found_z, z) and np.array_equal(found_q, q)
    assert q.any() == (name != "all")
    planes = model.decode(file).planes
    assert planes.shape == (80, 112, 3)
    for reduce in (4, 16):
        assert model.decode(file, reduce=reduce).planes.shape == (80 // reduce, 112 // reduce, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_leaving_out_channels_of_zeros_changes_nothing_but_bytes(
    order: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    """Tables of the other channels and means are those of a file that codes the zeros."""
    for name in ("last group", "some", "a group between"):
        skipped = SETS[name]
        file, z, q = made(model, weights, skipped, order)
        whole = coded(model, weights.ref, z, q.copy(), rate=200, order=order)
        assert np.array_equal(model.read_symbols(whole)[1], model.read_symbols(file)[1]), name
        assert np.array_equal(model.decode(whole).planes, model.decode(file).planes), name
        assert len(file.units[0].body) < len(whole.units[0].body), name


@pytest.mark.parametrize("exact", ["float32-plain", "float64-rounded"])
def test_every_exact_path_reads_them(exact: str, model: cb.Checkerboard, weights: store.Weights) -> None:
    other = cb.build(weights, "cpu", exact=exact)
    for name, order in (("suffix", 0), ("all but some", 1)):
        file, z, q = made(model, weights, SETS[name], order)
        found_z, found_q = other.read_symbols(file)
        assert np.array_equal(found_z, z) and np.array_equal(found_q, q)


def test_nets_of_a_group_left_out_do_not_run(
    model: cb.Checkerboard, skipping: LicFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []
    for method in ("__call__", "pointwise", "around"):
        right = getattr(type(model.exact), method)

        def spy(self: Any, name: str, *args: Any, right: Any = right, **named: Any) -> Any:
            run.append(name)
            return right(self, name, *args, **named)

        monkeypatch.setattr(type(model.exact), method, spy)
    model.read_symbols(skipping)
    assert "scale.3.1.1" in run and "context.3" in run
    assert not {name for name in run if name.startswith(("scale.4", "taps.4", "context.4", "project.3"))} - {
        "project.3"
    }
    assert run.count("project.3") == 2  # pass 0, and what is unknown to pass 1


@pytest.mark.parametrize("order", ORDERS)
def test_another_set_than_the_encoders_does_not_verify(
    order: int, model: cb.Checkerboard, weights: store.Weights
) -> None:
    """HEAD with right checksums that says more, fewer or other channels: the seal, or escapes."""
    file, _, _ = made(model, weights, SETS["last group"], order)
    for first in (0, 100, 159, 161, 319):
        lying = with_side_info(file, *write_skipped(channels(M, slice(first, M))))
        with pytest.raises(LicError):
            licodec.decode(lic_format.write(lying), device="cpu")
    with pytest.raises(LicError):
        licodec.decode(lic_format.write(with_side_info(file, NONE, b"")), device="cpu")


# --- what an encoder leaves out


def test_the_first_channel_left_out_is_the_first_from_which_on_none_pays() -> None:
    rng = np.random.default_rng(1)
    n = 1024
    values = rng.uniform(-0.5, 0.5, (n, M)).astype(np.float32)
    step_value = np.full(M, 4, np.float32)
    assert first_skipped(values, step_value) == 0
    values[7, 100] = -2.2  # 4 (2.2^2 - 0.2^2) = 19.2 bits, less 10
    assert first_skipped(values, step_value) == 101
    assert first_skipped(values, np.full(M, 2, np.float32)) == 0  # 9.6 bits do not pay for a symbol
    assert first_skipped(np.tile(values, (4, 1)), step_value) == 101
    values[7, 100] = -1.9  # 14.4 bits, less 10: within what all channels together may be worth
    assert first_skipped(values, step_value) == 0
    values[9, 31] = 1.9  # but two are not
    assert first_skipped(values, step_value) == 32
    values[:, 319] = 3
    assert first_skipped(values, step_value) == M


def test_what_is_not_worth_two_bytes_is_not_said() -> None:
    step_value = np.full(M, 4, np.float32)
    assert first_skipped(np.zeros((16, M), np.float32), step_value) == M
    assert first_skipped(np.zeros((1024, M), np.float32), step_value) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_the_encoder_leaves_out_channels_at_low_qualities_and_the_picture_stays_as_it_is(
    order: int, model: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = pixels(320, 336, seed=5)
    file = encoded(model, weights.ref, planes, rate=8, order=order)
    side = FHIC_SIDE_INFO.read_whole(file.head.side_info, where="HEAD")
    assert side["channel_skip"] == SUFFIX
    skipped = read_skipped(SUFFIX, side["channels"], M)
    assert coded_channels(skipped) < 160
    q = model.read_symbols(file)[1]
    assert not q[skipped].any() and q[~skipped].any()

    monkeypatch.setattr(cb, "first_skipped", lambda values, step_value: len(step_value))
    plain = encoded(model, weights.ref, planes, rate=8, order=order)
    assert plain.head.side_info == bytes([1, 1, 0, 0, 0])
    sizes = [len(lic_format.write(each)) for each in (file, plain)]
    assert sizes[0] <= sizes[1] + 2
    quality = [psnr(planes, model.decode(each).planes) for each in (file, plain)]
    assert abs(quality[0] - quality[1]) < 0.05


def test_all_channels_may_be_left_out(model: cb.Checkerboard, weights: store.Weights) -> None:
    """A picture of one colour has none that pays: it is built from means alone."""
    planes = np.full((256, 256, 3), 77, np.uint8)
    file = encoded(model, weights.ref, planes, rate=0)
    _, q = model.read_symbols(file)
    side = FHIC_SIDE_INFO.read_whole(file.head.side_info, where="HEAD")
    assert side["channel_skip"] == SUFFIX
    assert psnr(planes, model.decode(file).planes) > 30
    empty = coded(
        model, weights.ref, *(np.zeros_like(part) for part in model.read_symbols(file)), rate=0, order=1,
        skipped=SETS["all"],
    )  # fmt: skip
    assert not model.read_symbols(empty)[1].any()
    assert model.decode(empty).planes.shape == (q.shape[1] * 16, q.shape[2] * 16, 3)


def test_inspect_shows_what_is_left_out(skipping: LicFile) -> None:
    info = licodec.inspect(lic_format.write(skipping))
    assert info.side_info is not None
    assert (info.side_info["channel_skip"], info.side_info["channels"]) == (SUFFIX, "a001")

"""SPEC.md's chapter on fhic: its tables are the declared ones, and a decoder written from it reads our
files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lic_format
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.registry import FHIC_SIDE_INFO
from licodec.codecs.serial import serial_layers
from licodec.exact.specs import TABLE_INDEX_MAX
from tests.codecs.fixtures import ORDERS, TABLES, coded, encoded, pixels
from tests.codecs.second_decoder import LEVELS, Decoder, decode_digest
from tests.format.second_reader import InvalidFile

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
CHAPTER = SPEC.split("\n## Codec fhic\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def second(weights: store.Weights) -> Decoder:
    return Decoder(weights.path.read_bytes(), TABLES.read_bytes())


def test_the_printed_side_info_is_the_declared_one() -> None:
    assert f"\n\n{FHIC_SIDE_INFO.markdown()}\n\n" in CHAPTER, (
        "print the table again with markdown() and put it into SPEC.md"
    )


def test_every_integer_layer_stands_in_the_table_of_networks() -> None:
    for spec in layout.exact_layers(layout.PRESETS["s"]):
        parts = spec.name.split(".")
        size = f"({spec.kernel}x{spec.kernel})"
        if parts[0] == "taps":
            group, number = int(parts[1]), int(parts[2])
            level = layout.PRESETS["s"].depths[group] - number
            assert "`taps.g.n` (5x5 for g < 2 and even l, else 3x3)" in CHAPTER
            assert spec.kernel == (5 if group < 2 and level % 2 == 0 else 3)
        elif parts[0] == "scale":
            assert f"`scale.g.{'n' if int(parts[2]) else 0}.{parts[3]}` {size}" in CHAPTER, spec.name
        else:
            name = spec.name if parts[0] in ("hyper", "direct") else ".".join([parts[0], "g", *parts[2:]])
            assert f"`{name}` {size}" in CHAPTER, spec.name
        assert spec.last == (spec.name == "direct.1" or (parts[0] == "scale" and parts[3] == "1"))
    for spec in serial_layers(layout.PRESETS["s"]):
        parts = spec.name.split(".")
        assert f"`{'.'.join([*parts[:2], 'g', *parts[3:]])}` ({spec.kernel}x{spec.kernel})" in CHAPTER, (
            spec.name
        )
        assert spec.last == (parts[1] == "scale" and parts[3] == "1")
    assert f"top {TABLE_INDEX_MAX} in layers whose output is a scale index" in CHAPTER


def test_levels_of_symbols_are_those_of_the_specification() -> None:
    assert np.array_equal(layout.magnitude_table(), LEVELS)
    assert LEVELS[[0, 1, 2, 3, 255]].tolist() == [0, 16, 25, 32, 127]


def test_the_second_decoder_finds_the_digest_and_the_known_answers(
    second: Decoder, weights: store.Weights
) -> None:
    assert decode_digest(second.tensors, second.metadata) == weights.decode_digest
    second.check_known_answers()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("size", "channels", "rate"),
    [
        ((1, 1), 3, 255),
        ((17, 23), 3, 0),
        ((50, 70), 1, 137),
        ((70, 50), 3, 200),
        ((9, 130), 3, 248),
    ],
)
def test_a_decoder_written_from_the_specification_reads_the_same_symbols(
    size: tuple[int, int],
    channels: int,
    rate: int,
    order: int,
    model: cb.Checkerboard,
    second: Decoder,
    weights: store.Weights,
) -> None:
    file = encoded(model, weights.ref, pixels(*size, channels), rate=rate, order=order)
    z, q = model.read_symbols(file)
    other_z, other_q = second.decode(lic_format.write(file))
    assert np.array_equal(z, other_z)
    assert np.array_equal(q, other_q)
    assert rate == 0 or q.any()


@pytest.mark.parametrize("order", ORDERS)
def test_both_decoders_refuse_a_file_with_another_rate(
    order: int, model: cb.Checkerboard, second: Decoder, weights: store.Weights
) -> None:
    file = encoded(model, weights.ref, pixels(40, 40), rate=150, order=order)
    lying = replace(file, head=replace(file.head, rate=90))
    with pytest.raises(lic_format.FormatError, match=r"verify|escapes"):
        model.read_symbols(lying)
    with pytest.raises(InvalidFile):
        second.decode(lic_format.write(lying))


@pytest.mark.parametrize("order", ORDERS)
def test_symbols_of_any_size_come_back_from_both_decoders(
    order: int, model: cb.Checkerboard, second: Decoder, weights: store.Weights
) -> None:
    """Symbols that no picture would give: nearly all escape."""
    rng = np.random.default_rng(3)
    z = rng.integers(-30000, 30001, (96, 1, 2)).astype(np.int16)
    q = rng.integers(-32767, 32768, (320, 4, 5)).astype(np.int16)
    q[::3] //= 200
    file = coded(model, weights.ref, z, q, rate=255, order=order)
    escapes, _ = lic_format.split_ans_body(file.units[0].body)
    assert len(escapes) > np.count_nonzero(q) > q.size / 8
    for found_z, found_q in (model.read_symbols(file), second.decode(lic_format.write(file))):
        assert np.array_equal(found_z, z) and np.array_equal(found_q, q)

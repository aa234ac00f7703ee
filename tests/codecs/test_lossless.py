"""pilc: every sample comes back, from every file, by two decoders; damage is seen; nets stay integers."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lic_format
import licodec
from lic_format import FormatError, LicError, WeightsError
from licodec import store, threads
from licodec.codecs import lossless as pilc
from licodec.codecs import lossless_adaptation
from licodec.codecs.lossless_adaptation import Adaptation
from licodec.codecs.registry import (
    LATTICE,
    PILC_SIDE_INFO,
    PILC_TILE,
    PILC_TILE_EXPONENT,
    tile_exponents,
    tiles,
)
from licodec.entropy import lanes
from licodec.images import Picture
from tests.codecs.second_lossless import Weights, decode_tile

SPEC = (Path(__file__).parents[2] / "SPEC.md").read_text(encoding="utf-8")
CHAPTER = SPEC.split("\n## Codec pilc\n")[1].split("\n## ")[0]
PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
Samples = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def loaded() -> store.Weights:
    return store.load("pilc", "l-1")


@pytest.fixture(scope="module")
def codec(loaded: store.Weights) -> pilc.Lossless:
    return pilc.build(loaded, "cpu")


@pytest.fixture(scope="module")
def plain(loaded: store.Weights) -> Weights:
    return {name: tensor.tolist() for name, tensor in loaded.tensors.items()}


def photograph(height: int, width: int, channels: int = 3, seed: int = 5) -> Samples:
    """Smooth shapes with texture and colour, and noise: nothing that the modes for drawn tiles would take."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    shapes = [
        110 + 70 * np.sin((x + 11 * c) / 17 + y / 29) + 40 * np.cos(y / (7 + 2 * c)) for c in range(channels)
    ]
    grain = rng.normal(0, 2, (height, width, 1)) + rng.normal(0, 1, (height, width, channels))
    return np.clip(np.stack(shapes, axis=2) + grain, 0, 255).astype(np.uint8)


def file_of(codec: pilc.Lossless, samples: Samples) -> lic_format.LicFile:
    coded = codec.encode(Picture(samples), rate=0)
    head = lic_format.Head(
        width=samples.shape[1],
        height=samples.shape[0],
        colour=lic_format.Colour(1 if samples.shape[2] == 3 else 0),
        flags=lic_format.Flag.LOSSLESS,
        codec="pilc",
        tag="l-1",
        decode_digest=bytes(16),
        synthesis_digest=bytes(8),
        **coded.head_fields,
    )
    return lic_format.LicFile(head, units=coded.units)


def modes(file: lic_format.LicFile) -> list[int]:
    return [PILC_TILE.read_whole(unit.side_info, where="DATA")["mode"] for unit in file.units]


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (16, 16), (17, 16), (16, 17), (2, 33), (77, 131), (511, 513)],
)
def test_every_size_comes_back(codec: pilc.Lossless, height: int, width: int, channels: int) -> None:
    samples = photograph(height, width, channels)
    assert np.array_equal(codec.decode(file_of(codec, samples)).planes, samples)


@pytest.mark.parametrize("height", range(1, 41, 3))
def test_small_sizes_come_back(codec: pilc.Lossless, height: int) -> None:
    for width in range(1 + height % 3, 41, 5):
        samples = photograph(height, width, seed=height * 41 + width)
        assert np.array_equal(codec.decode(file_of(codec, samples)).planes, samples), (height, width)


def extremes() -> Mapping[str, Samples]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:70, 0:90]
    pictures = {
        "noise": rng.integers(0, 256, (70, 90, 3)),
        "black and white noise": 255 * rng.integers(0, 2, (70, 90, 3)),
        "checkers": np.stack([255 * ((x + y) % 2)] * 3, axis=2),
        "rows": np.stack([255 * (y % 2)] * 3, axis=2),
        "columns of red": np.stack([255 * (x % 2), 0 * x, 255 - 255 * (x % 2)], axis=2),
        "gradient": np.stack([x * 2, y * 3, (x + y) % 256], axis=2),
        "one pixel": np.stack([255 * ((x == 33) & (y == 21))] * 3, axis=2),
        "opposite colours": np.stack([0 * x, 255 + 0 * x, 0 * x], axis=2)
        * ((x // 3 + y // 5) % 2)[:, :, None],
    }
    return {name: picture.astype(np.uint8) for name, picture in pictures.items()}


@pytest.mark.parametrize("name", list(extremes()))
def test_extremes_come_back_by_lattices_too(codec: pilc.Lossless, name: str) -> None:
    samples = extremes()[name]
    assert np.array_equal(codec.decode(file_of(codec, samples)).planes, samples)
    bodies = codec.encode_lattices([samples, samples[::-1], samples[:9, :5]])
    found = codec.decode_lattices(bodies, [samples.shape, samples.shape, (9, 5, 3)])
    assert np.array_equal(found[0], samples)
    assert np.array_equal(found[1], samples[::-1])
    assert np.array_equal(found[2], samples[:9, :5])
    assert len(bodies[0]) < samples.size * 1.3 + 600


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32),
    st.integers(0, 255),
)
def test_whatever_the_samples_are(
    codec: pilc.Lossless, height: int, width: int, channels: int, seed: int, spread: int
) -> None:
    rng = np.random.default_rng(seed)
    samples = (rng.integers(0, 256) + rng.integers(0, spread + 1, (height, width, channels))).astype(np.uint8)
    assert np.array_equal(codec.decode(file_of(codec, samples)).planes, samples)


def test_several_tiles_and_threads_give_the_same_bytes(codec: pilc.Lossless) -> None:
    samples = photograph(700, 1100)
    with threads.limited(1):
        file = file_of(codec, samples)
    assert modes(file) == [LATTICE] * 6
    with threads.limited(3):
        assert file_of(codec, samples) == file
        assert np.array_equal(codec.decode(file).planes, samples)
    torch.set_flush_denormal(True)
    try:
        assert file_of(codec, samples[:300, :300]) == file_of(
            codec, np.ascontiguousarray(samples[:300, :300])
        )
    finally:
        torch.set_flush_denormal(False)


def test_photographs_take_less_than_as_png_or_webp() -> None:
    with PIL.Image.open(PHOTO) as image:
        small = image.convert("RGB").resize((image.width // 2, image.height // 2), PIL.Image.Resampling.BOX)
    size = len(licodec.encode(small, lossless=True))
    for kind, best in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "method": 4})):
        peer = io.BytesIO()
        small.save(peer, kind, **best)
        assert size < len(peer.getvalue()), kind


# --- the specification ----------------------------------------------------------------------------


def test_the_printed_records_are_the_declared_ones() -> None:
    for table in (PILC_SIDE_INFO, PILC_TILE):
        assert f"\n\n{table.markdown()}\n\n" in CHAPTER, (
            "print it again with markdown() and put it into SPEC.md"
        )


@pytest.mark.parametrize(("height", "width", "channels"), [(37, 29, 3), (18, 51, 1), (1, 37, 3), (9, 8, 3)])
def test_a_decoder_written_from_the_specification_reads_tiles(
    codec: pilc.Lossless, plain: Weights, height: int, width: int, channels: int
) -> None:
    samples = photograph(height, width, channels)
    samples[height // 2 :, width // 3 :] = np.random.default_rng(1).integers(
        0, 256, samples[height // 2 :, width // 3 :].shape
    )
    (body,) = codec.encode_lattices([samples[:, ::-1]])
    assert decode_tile(body, height, width, channels, 2, plain) == samples.tolist()


def test_that_decoder_reads_corrections(codec: pilc.Lossless, plain: Weights) -> None:
    half = np.repeat(photograph(128, 40), 2, axis=1)  # of one kernel all over, and unlike any other
    samples = photograph(128, 80)
    samples[:, :, ::2] = samples[:, :, 1:2] + half[:, :, ::2] // 8
    ((adaptation, _),) = codec.streams([samples])
    assert adaptation.corrections and any(adaptation.offsets.values())
    (body,) = codec.encode_lattices([samples])
    assert decode_tile(body, 128, 80, 3, 0, plain) == samples.tolist()
    (without,) = encoded_without(codec, samples)
    assert len(body) < 0.97 * len(without)


def encoded_without(codec: pilc.Lossless, samples: Samples) -> list[bytes]:
    """Bodies of mode 4 that say nothing of themselves."""
    look = codec.look(codec.tables_of(Adaptation()), Adaptation(), pilc.Scratch())
    (stream,) = pilc.streams_of([samples], [look], codec.dtype)
    stages = [(symbols, tables) for _, symbols, tables in stream]
    return [b"\0" + lanes.encode(stages, codec.tables, lanes.lanes_for(samples.size))]


def test_a_tile_that_says_nothing_of_itself_is_read(codec: pilc.Lossless) -> None:
    samples = photograph(70, 60)
    (found,) = codec.decode_lattices(encoded_without(codec, samples), [samples.shape])
    np.testing.assert_array_equal(found, samples)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.data(),
)
def test_adaptations_come_back(planes: int, data: st.DataObject) -> None:
    offsets, corrections = {}, {}
    for group in lossless_adaptation.groups(planes):
        offsets[group] = data.draw(st.integers(-3, 3))
        if group[0] == 0 and data.draw(st.booleans()):
            size = lossless_adaptation.near(*group[1:]).size
            corrections[group] = np.array(
                data.draw(st.lists(st.integers(-128, 127), min_size=size, max_size=size)), np.int8
            )
    written = lossless_adaptation.write(Adaptation(offsets, corrections), planes)
    found = lossless_adaptation.read(written, planes)
    assert lossless_adaptation.write(found, planes) == written
    if written:
        assert found.offsets == offsets
        assert {group: c.tolist() for group, c in found.corrections.items()} == {
            group: c.tolist() for group, c in corrections.items()
        }
    for damaged in (written[:-1], written + b"\0", b"\7" + written[1:]):
        if damaged:
            with pytest.raises(FormatError, match="adaptation"):
                lossless_adaptation.read(damaged, planes)


def test_what_tiles_say_of_themselves_is_checked(codec: pilc.Lossless) -> None:
    (body,) = encoded_without(codec, photograph(40, 40))
    eighteen = bytes([3] * 18)
    for said, message in (
        (b"\x13" + bytes([3] * 9 + [11] + [3] * 8) + b"\0", "11 for"),
        (b"\x12" + bytes([7]) + eighteen[1:], "7 for"),
        (b"\x11" + eighteen[1:], "17 bytes, expected 18 or more"),
        (b"\x13" + eighteen + b"\0", "its marks ask for 18"),
        (b"\xff\x7f", "16383 bytes are announced"),
    ):
        with pytest.raises(FormatError, match=message):
            codec.decode_lattices([said + body[1:]], [(40, 40, 3)])
    correction = bytes([127] * lossless_adaptation.near(2, "B1").size)
    marks = bytes([3] * 8 + [11] + [3] * 9)
    said = bytes([len(marks) + len(correction)]) + marks + correction
    changed = dataclasses.replace(codec.nets[0, 2, "B1"])
    largest = pilc.SUM_LIMIT // pilc.INPUT_MAX - 1
    row = changed.first.copy()
    row[0] = 0
    row[0, 0] = largest
    tight = copy.copy(codec)
    tight.nets = {**codec.nets, (0, 2, "B1"): dataclasses.replace(changed, first=row)}
    with pytest.raises(FormatError, match="past 2\\^24"):
        tight.decode_lattices([said + body[1:]], [(40, 40, 3)])


def test_sizes_of_tables_are_those_of_the_specification(loaded: store.Weights) -> None:
    assert loaded.metadata["architecture"] == "lattice"
    assert loaded.metadata["tables"] == "lanes"
    assert (pilc.TABLES, pilc.BASE_TABLE, pilc.HIDDEN_MAX, pilc.INPUT_MAX) == (123, 120, 32767, 510)
    for name in loaded.tensors:
        assert "float" not in loaded.tensors.dtype(name), name


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1, 1, (9, 9)),
        (512, 512, (9, 9)),
        (768, 512, (10, 8)),
        (512, 768, (8, 10)),
        (1024, 1024, (9, 9)),
        (600, 200, (10, 8)),
        (5000, 200, (10, 8)),
        (65500, 1, (16, 2)),
        (1, 2**24, (0, 18)),
    ],
)
def test_tiles_of_long_pictures_are_long(width: int, height: int, expected: tuple[int, int]) -> None:
    columns, rows = tile_exponents(width, height)
    assert (columns, rows) == expected
    grid = tiles(width, height, columns, rows)
    assert columns + rows == PILC_TILE_EXPONENT
    assert len(grid) <= lic_format.limits.max_units(width, height)
    area = sum((each[0].stop - each[0].start) * (each[1].stop - each[1].start) for each in grid)
    assert area == width * height


# --- bad files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> bytes:
    return licodec.encode(photograph(40, 30), codec="pilc")


def test_every_flipped_bit_and_every_truncation_is_seen(small: bytes) -> None:
    for at in range(0, len(small), 3):
        damaged = bytearray(small)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(LicError):
            licodec.decode(bytes(damaged))
    for length in range(0, len(small), 7):
        with pytest.raises(LicError):
            licodec.decode(small[:length])


def changed(codec: pilc.Lossless, file: lic_format.LicFile, number: int, **fields: Any) -> lic_format.LicFile:
    """A file one unit of which differs, with every checksum of the container right."""
    units = list(file.units)
    units[number] = dataclasses.replace(units[number], **fields)
    return lic_format.read(lic_format.write(dataclasses.replace(file, units=tuple(units))))


def test_tiles_that_are_damaged_behind_right_checksums_give_no_samples(codec: pilc.Lossless) -> None:
    file = file_of(codec, photograph(40, 30))
    (unit,) = file.units
    rng = np.random.default_rng(0)
    for _ in range(60):
        body = bytearray(unit.body)
        body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(FormatError):
            codec.decode(changed(codec, file, 0, body=bytes(body)))
    for length in (0, 1, 5, len(unit.body) // 2, len(unit.body) - 1):
        with pytest.raises(FormatError):
            codec.decode(changed(codec, file, 0, body=unit.body[:length]))
    record = PILC_TILE.read_whole(unit.side_info, where="DATA")
    for field, value in (("check", record["check"] ^ 1), ("flips", record["flips"] ^ 2)):
        with pytest.raises(FormatError, match="tile 0 decodes to samples"):
            codec.decode(changed(codec, file, 0, side_info=PILC_TILE.write(record | {field: value})))


def test_tiles_out_of_order_missing_or_too_many_are_seen() -> None:
    data = licodec.encode(photograph(600, 520), codec="pilc")
    file = lic_format.read(data)
    first, second, third, fourth = file.units
    for units in (
        (second, first, third, fourth),
        (first, second, third),
        (*file.units, fourth),
        (first,) * 4,
    ):
        damaged = lic_format.write(dataclasses.replace(file, units=units))
        with pytest.raises(FormatError):
            licodec.decode(damaged)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("columns", 10, r"tiles of 2\^10 x 2\^9"), ("digest", b"short", "digest of 5 bytes")],
)
def test_side_info_that_cannot_be_is_refused_by_name(field: str, value: Any, message: str) -> None:
    file = lic_format.read(licodec.encode(photograph(20, 20), codec="pilc"))
    side = PILC_SIDE_INFO.read_whole(file.head.side_info, where="HEAD") | {field: value}
    head = dataclasses.replace(file.head, side_info=PILC_SIDE_INFO.write(side))
    with pytest.raises(FormatError, match=message):
        licodec.decode(lic_format.write(dataclasses.replace(file, head=head)))


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "0.2.B1.first",
            lambda t: t.index_fill(1, torch.tensor([3, 4]), 2**14),
            "sums of '0.2.B1.first' can reach",
        ),
        (
            "0.2.B1.first",
            lambda t: t.index_fill(1, torch.tensor([3]), 2**15),
            "a weight of magnitude 32768",
        ),
        ("0.2.B1.first", lambda t: t.repeat(5, 1), "rows, expected 2..65"),
        ("1.0.A.second", lambda t: t * 0 + 40, "sums of '1.0.A.second' can reach"),
        ("1.1.B0.third", lambda t: t[:, :-1], "expected integers"),
        ("0.0.A.first", lambda t: t.float(), "expected integers"),
        ("scales", lambda t: t + 1, "holds 1..48"),
        ("frequencies", lambda t: t.clamp(min=1), "4096"),
        ("0.1.B1.third", None, "no tensor"),
    ],
)
def test_weights_that_could_leave_the_integers_are_refused(
    loaded: store.Weights, name: str, change: Any, message: str
) -> None:
    tensors = dict(loaded.tensors)
    tensor = tensors.pop(name)
    if change is not None:
        tensors[name] = change(tensor)
    with pytest.raises(WeightsError, match=message):
        pilc.build(dataclasses.replace(loaded, tensors=store.Tensors.of(tensors)), "cpu")

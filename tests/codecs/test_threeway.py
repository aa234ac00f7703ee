"""Tile mode 6: what is coded comes back, by two decoders; damage is seen; weights stay integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
from lic_format import FormatError, WeightsError
from lic_format.container import LANES, Unit
from licodec import store
from licodec.codecs import lossless as pilc
from licodec.codecs import threeway as tw
from licodec.codecs.registry import CODECS, PILC_SIDE_INFO, PILC_TILE, THREEWAY
from licodec.entropy import lanes
from tests.codecs.second_threeway import decode_tile

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
Samples = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[np.int32]]
LENGTH, HIDDEN, CODES = 3, 6, 200


def frequencies(tables: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Tables of all widths, some of them full."""
    distance = np.minimum(np.arange(256), 256 - np.arange(256))
    out = np.zeros((tables, 256), np.int32)
    for number, row in enumerate(out):
        share = np.exp(-distance / (0.3 + 2 * number if number > tw.CONTEXTS else 40))
        row[:] = np.floor(share / share.sum() * 3700) * (rng.random(256) < 0.95)
        if number % 5 == 0:
            row[:] = np.maximum(row, 1)
        row[128] = max(1, row[128])
        row[0] += 4096 - row.sum()
    return out


def small(kind: tw.Predictor, seed: int = 4) -> Arrays:
    """Weights that were never trained, small enough for plain Python."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, npt.NDArray[Any]] = {
        "predictor": np.array([kind]),
        "weights": np.array([[200, 164, -108], [205, 197, -146], [300, -20, 9000]]),
        "codes": rng.integers(-127, 128, (CODES, LENGTH)),
        "first": rng.integers(-60, 61, (HIDDEN, 9 * LENGTH + 1)),
        "second": rng.integers(-500, 501, (2 * tw.OUTPUTS, HIDDEN + 1)),
        "features": rng.integers(0, 256, (CODES, 2)),
        "thresholds": np.sort(rng.integers(500, 2500, (2, 7)), axis=1),
        "tables": rng.integers(0, 100, (3, tw.SCALES)),
        "frequencies": frequencies(100, rng),
        "prices": rng.integers(0, 1000, CODES),
        "encoder.0": rng.integers(-900, 901, (7, tw.INPUTS + 1)),
        "encoder.1": rng.integers(-900, 901, (5, 8)),
        "encoder.2": rng.integers(-900, 901, (LENGTH, 6)),
    }
    arrays["second"][:, -1] = rng.integers(0, 47 * 4096, 2 * tw.OUTPUTS)
    arrays["second"][tw.OUTPUTS :, -1] = 0
    return {f"{tw.PREFIX}{name}": values.astype(np.int32) for name, values in arrays.items()}


@pytest.fixture(scope="module")
def loaded() -> store.Weights:
    return store.load("pilc", "l-1")


def codec_of(loaded: store.Weights, arrays: Arrays) -> pilc.Lossless:
    """pilc with these tensors instead of any that it may have of this mode."""
    others = {name: tensor for name, tensor in loaded.tensors.items() if not name.startswith(tw.PREFIX)}
    mine = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return pilc.build(dataclasses.replace(loaded, tensors=store.Tensors.of(others | mine)), "cpu")


@pytest.fixture(scope="module", params=list(tw.Predictor), ids=lambda kind: kind.name.lower())
def kind(request: pytest.FixtureRequest) -> tw.Predictor:
    return tw.Predictor(request.param)


@pytest.fixture(scope="module")
def arrays(kind: tw.Predictor) -> Arrays:
    return small(kind)


@pytest.fixture(scope="module")
def codec(loaded: store.Weights, arrays: Arrays) -> pilc.Lossless:
    return codec_of(loaded, arrays)


@pytest.fixture(scope="module")
def photo() -> Samples:
    with PIL.Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB"))


def file_of(codec: pilc.Lossless, samples: Samples) -> lic_format.LicFile:
    """A file of one tile in mode 6."""
    height, width, channels = samples.shape
    (body,) = codec.encode_threeway([samples])
    record = PILC_TILE.write({"mode": THREEWAY, "flips": 0, "check": pilc.check_of(samples, 0)})
    side = PILC_SIDE_INFO.write({"layout": 1, "columns": 9, "rows": 9, "digest": b""})
    head = lic_format.Head(
        width=width,
        height=height,
        colour=lic_format.Colour(1 if channels == 3 else 0),
        flags=lic_format.Flag.LOSSLESS,
        codec="pilc",
        tag="l-1",
        decode_digest=bytes(16),
        synthesis_digest=bytes(8),
        rate=0,
        order=lic_format.Order.ONE_STEP,
        side_info=side,
    )
    return lic_format.LicFile(head, units=(Unit(LANES, record, body),))


# --- what comes back ------------------------------------------------------------------------------


def test_every_size_comes_back_alone_and_beside_others(codec: pilc.Lossless, photo: Samples) -> None:
    sizes = [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (8, 8), (9, 8), (31, 33), (64, 65), (65, 129), (90, 3)]
    tiles = [photo[:h, :w, :c] for h, w in sizes for c in (1, 3)]
    bodies = codec.encode_threeway(tiles)
    for tile, found in zip(tiles, codec.decode_threeway(bodies, [t.shape for t in tiles]), strict=True):
        assert np.array_equal(tile, found), tile.shape
    for tile, body in zip(tiles, bodies, strict=True):
        assert codec.encode_threeway([tile]) == [body]
        assert np.array_equal(codec.decode_threeway([body], [tile.shape])[0], tile)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(0, 2**32), st.data())
def test_whatever_the_samples_are(
    codec: pilc.Lossless, height: int, width: int, channels: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    spread = data.draw(st.sampled_from([0, 1, 9, 255]))
    samples = (rng.integers(0, 256) + rng.integers(0, spread + 1, (height, width, channels))).astype(np.uint8)
    if spread == 1:
        samples = np.where(samples & 1, 255, 0).astype(np.uint8)
    (body,) = codec.encode_threeway([samples])
    assert np.array_equal(codec.decode_threeway([body], [samples.shape])[0], samples)


def test_files_come_back(codec: pilc.Lossless, photo: Samples) -> None:
    for samples in (photo[:130, :90], photo[:77, :200, 1:2]):
        file = lic_format.read(lic_format.write(file_of(codec, samples)))
        assert np.array_equal(codec.decode(file).planes, samples)


def test_prediction_is_undone_whatever_planes_hold(codec: pilc.Lossless) -> None:
    assert codec.threeway is not None
    rng = np.random.default_rng(2)
    for shape in ((1, 1, 3), (1, 9, 6), (9, 1, 3), (13, 7, 3), (7, 13, 12), (20, 20, 1), (5, 6, 2)):
        planes = rng.integers(-128, 128, shape).astype(np.int8)
        residuals = codec.threeway.prediction.residuals(planes)
        assert np.array_equal(codec.threeway.prediction.planes(residuals), planes), shape


def test_colours_are_differences_mod_256() -> None:
    every = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=2).astype(np.uint8)
    tile = np.concatenate([every, every[:, :, :1]], axis=2)
    planes = tw.planes_of(tile)
    assert np.array_equal(planes[:, :, 0], tile[:, :, 1].astype(int) - 128)
    assert np.array_equal(planes[:, :, 1].view(np.uint8), tile[:, :, 0] - tile[:, :, 1])
    assert np.array_equal(tw.tile_of(planes), tile)


# --- the specification ----------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "channels"), [(35, 43, 3), (9, 70, 1), (1, 37, 3), (50, 8, 3)])
def test_a_decoder_written_from_the_specification_reads_tiles(
    codec: pilc.Lossless, arrays: Arrays, photo: Samples, height: int, width: int, channels: int
) -> None:
    samples = photo[100 : 100 + height, 60 : 60 + width, :channels].copy()
    samples[height // 2 :, width // 3 :] = np.random.default_rng(1).integers(
        0, 256, samples[height // 2 :, width // 3 :].shape
    )
    plain = {name.removeprefix(tw.PREFIX): values.tolist() for name, values in arrays.items()}
    (body,) = codec.encode_threeway([samples])
    assert decode_tile(body, height, width, channels, plain) == samples.tolist()


def test_any_indices_decode(codec: pilc.Lossless, arrays: Arrays, photo: Samples) -> None:
    """Also those that no encoder would choose, so that more numbers and contexts are met."""
    assert codec.threeway is not None
    rng = np.random.default_rng(9)
    samples = photo[:70, :50]
    residuals = codec.threeway.prediction.residuals(tw.planes_of(samples))
    indices = rng.integers(0, CODES, (9, 7))
    stream = codec.threeway.stream_of(residuals, indices)
    body = lanes.encode(stream, codec.threeway.lane_tables, 4)
    assert np.array_equal(codec.decode_threeway([body], [samples.shape])[0], samples)
    plain = {name.removeprefix(tw.PREFIX): values.tolist() for name, values in arrays.items()}
    assert decode_tile(body, 70, 50, 3, plain) == samples.tolist()


# --- bad files ------------------------------------------------------------------------------------


def test_damaged_bodies_give_no_samples(codec: pilc.Lossless, photo: Samples) -> None:
    file = file_of(codec, photo[:24, :20])
    (unit,) = file.units
    rng = np.random.default_rng(0)
    damaged = [unit.body[:length] for length in (0, 1, 5, len(unit.body) // 2, len(unit.body) - 1)]
    damaged += [unit.body + b"\0\0", rng.bytes(len(unit.body)), b"\0\0" + bytes(4), bytes(9)]
    for _ in range(12):
        flipped = bytearray(unit.body)
        flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for body in damaged:
        units = (dataclasses.replace(unit, body=body),)
        with pytest.raises(FormatError):
            codec.decode(lic_format.read(lic_format.write(dataclasses.replace(file, units=units))))


def test_indices_beyond_the_codes_are_refused(codec: pilc.Lossless) -> None:
    assert codec.threeway is not None
    stages = [(np.array([CODES], np.uint8), np.array([tw.CONTEXTS], np.uint8))]
    body = lanes.encode(stages, codec.threeway.lane_tables, 1)
    with pytest.raises(FormatError, match=f"index {CODES} of a cell, there are codes 0..{CODES - 1}"):
        codec.decode_threeway([body], [(1, 1, 3)])


def test_a_unit_of_another_kind_is_refused(codec: pilc.Lossless, photo: Samples) -> None:
    file = file_of(codec, photo[:9, :9])
    units = (dataclasses.replace(file.units[0], kind=lic_format.container.CODEC_BYTES),)
    with pytest.raises(FormatError, match="mode 6 in DATA of kind 2, expected 1"):
        CODECS["pilc"].precheck(file.head, units)


# --- weights --------------------------------------------------------------------------------------


def test_weights_without_this_mode_decode_all_others_and_name_what_is_missing(
    codec: pilc.Lossless, loaded: store.Weights, photo: Samples
) -> None:
    without = codec_of(loaded, {})
    assert without.threeway is None
    (body,) = without.encode_lattices([photo[:20, :20]])
    assert np.array_equal(without.decode_lattices([body], [(20, 20, 3)])[0], photo[:20, :20])
    with pytest.raises(WeightsError, match=r"no tensors 'threeway\.'"):
        without.decode(file_of(codec, photo[:20, :20]))
    with pytest.raises(WeightsError, match="mode 6"):
        without.encode_threeway([photo[:20, :20]])


def changed(name: str, change: Callable[[npt.NDArray[np.int32]], Any] | None) -> Arrays:
    arrays = small(tw.Predictor.MEDIAN)
    values = arrays.pop(f"{tw.PREFIX}{name}")
    if change is not None:
        arrays[f"{tw.PREFIX}{name}"] = np.ascontiguousarray(change(values))
    return arrays


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("first", lambda a: a * 0 + 5000, "sums of 'threeway.first' can reach"),
        ("second", lambda a: a * 0 + 700, "sums of 'threeway.second' can reach"),
        ("second", lambda a: a[:-1], "expected integers"),
        ("first", lambda a: a[:, 1:], "expected integers"),
        ("first", lambda a: a.repeat(50, axis=0), "has 300 rows, expected 1..256"),
        ("codes", lambda a: a.repeat(2, axis=0), "has 400 codes, expected 1..256"),
        ("codes", lambda a: a[:0], "has 0 codes"),
        ("codes", lambda a: a + 1, "holds .* expected -127..127"),
        ("codes", lambda a: a.astype(np.float32), "expected integers"),
        ("predictor", lambda a: a + 9, "holds 11"),
        ("thresholds", lambda a: a[:, ::-1], "do not ascend"),
        ("features", lambda a: a[1:], "expected integers"),
        ("tables", lambda a: a + 50, "expected 0..99"),
        ("frequencies", lambda a: a[:60], "has 60 tables, expected more than 65"),
        ("frequencies", lambda a: np.maximum(a, 1), "4096"),
        ("encoder.2", lambda a: a[1:], "has 2 rows, expected 3"),
        ("codes", None, "no tensor 'threeway.codes'"),
        ("encoder.1", None, "no tensor 'threeway.encoder.1'"),
    ],
)
def test_weights_that_could_leave_the_integers_are_refused(
    loaded: store.Weights, name: str, change: Callable[[npt.NDArray[np.int32]], Any] | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        codec_of(loaded, changed(name, change))


def test_sums_at_their_bounds_are_exact() -> None:
    """The largest sums that weights may have, beside the same in Python's integers."""
    rng = np.random.default_rng(6)
    codes = rng.choice([-127, 127], (40, 4))
    first = rng.integers(-3000, 3001, (8, 37))
    first[:, :-1] = first[:, :-1] * (130000 / np.abs(first[:, :-1]).sum(axis=1, keepdims=True))
    second = rng.integers(-3000, 3001, (2 * tw.OUTPUTS, 9))
    second[:, :-1] = second[:, :-1] * (4090 / np.abs(second[:, :-1]).sum(axis=1, keepdims=True))
    decoder = tw.Decoder(*(each.astype(np.float32) for each in (codes, first, second)))
    indices = rng.integers(0, 40, (5, 6))
    scales, offsets = decoder(indices)
    around = np.pad(codes[indices], ((1, 1), (1, 1), (0, 0)), mode="edge")
    for y in range(5):
        for x in range(6):
            seen = np.append(around[y : y + 3, x : x + 3].reshape(-1), 1)
            hidden = np.append(np.clip((first @ seen) >> 5, 0, 4095), 1)
            out = (second @ hidden) >> 12
            cell = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            assert np.array_equal(scales[cell].reshape(-1), np.clip(out[:48], 0, 47))
            assert np.array_equal(offsets[cell].reshape(-1), np.clip(out[48:], -8, 7))

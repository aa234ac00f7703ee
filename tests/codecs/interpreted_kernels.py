"""The program that tests/codecs/test_lossless_cuda.py runs with Triton's interpreter in place of a device.

    TRITON_INTERPRET=1 python -m tests.codecs.interpreted_kernels [NAME...]

Prints, as JSON, what went wrong in each check, or nothing; all but slow ones where none is named. The
interpreter also sees sums of 32 bits that overflow; that is switched on for nets at their limits only, since
it takes half of the time.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from triton.runtime import interpreter

from lic_format import FormatError, LicWarning, UsageError
from lic_format.fields import write_varint
from licodec import store
from licodec.codecs import lossless, lossless_cuda
from licodec.codecs.lattices import PASSES, Bytes, Request, inputs, passes, walked
from licodec.codecs.lossless import (
    HIDDEN_MAX,
    INPUT_MAX,
    SUM_LIMIT,
    Looking,
    Nets,
    Scratch,
    corrected,
    net_of,
)
from licodec.codecs.lossless_adaptation import CORRECTED, NONE, Adaptation, Correction, groups, near, write
from licodec.codecs.lossless_cuda import DeviceLattices, LosslessOnDevice
from licodec.entropy import lanes as lane_coder
from licodec.images import Picture

Samples = npt.NDArray[np.uint8]


@cache
def weights() -> store.Weights:
    return store.load("pilc", "l-1")


@cache
def model() -> LosslessOnDevice:
    return LosslessOnDevice(weights(), "cpu")


@contextmanager
def overflow_is_seen(wanted: bool) -> Iterator[None]:
    builder = interpreter.interpreter_builder
    before = builder.options
    builder.options = dataclasses.replace(before, sanitize_overflow=wanted)
    try:
        yield
    finally:
        builder.options = before


def smooth(height: int, width: int, channels: int) -> Samples:
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(height).integers(0, 4, (height, width, channels))
    return (np.stack([3 * x + 2 * y + 40 * c for c in range(channels)], axis=2) + grain).astype(np.uint8)


def noise(height: int, width: int, channels: int) -> Samples:
    return np.random.default_rng(width).integers(0, 256, (height, width, channels)).astype(np.uint8)


def half_coloured(height: int, width: int) -> Samples:
    """Colour at half the resolution, as JPEG stores it, beside a grain that has all of it."""
    rng = np.random.default_rng(5)
    grain = rng.integers(60, 190, (height, width, 1))
    few = rng.integers(-30, 30, (height // 2, width // 2, 2)).repeat(2, axis=0).repeat(2, axis=1)
    out: Samples = np.concatenate([grain + few[:, :, :1], grain, grain + few[:, :, 1:]], axis=2).astype(
        np.uint8
    )
    return out


def wild(seed: int) -> Adaptation:
    """Offsets of all groups, corrections of half of those that can have one."""
    rng = np.random.default_rng(seed)
    offsets = {group: int(rng.integers(-3, 4)) for group in groups(3)}
    corrections: dict[Any, Correction] = {
        group: rng.integers(-4, 5, near(*group[1:]).size).astype(np.int8)
        for group in groups(3)[seed % 2 : 9 : 2]
    }
    return Adaptation(offsets, corrections)


def cpu_bodies(
    tiles: list[Samples], lanes: int | None = None, adaptations: Sequence[Adaptation] | None = None
) -> list[bytes]:
    said = adaptations or [NONE] * len(tiles)
    return lossless_cuda.bodies_of(model(), tiles, said, lanes or lane_coder.lanes_for(tiles[0].size))


# --- predictions ----------------------------------------------------------------------------------


def looked(tile: Samples, nets: Nets, adaptation: Adaptation) -> list[tuple[Bytes, Bytes]]:
    """Prediction and table of each pass of a tile, by NumPy."""
    channels = [np.ascontiguousarray(tile[:, :, c]) for c in ((1, 0, 2) if tile.shape[2] == 3 else (0,))]
    out = []

    def answer(asked: Any) -> list[Bytes]:
        (request,) = asked
        assert isinstance(request, Request)
        if request.phase is not None:
            out.append((request.prediction.astype(np.uint8), request.table.copy()))
        return [request.samples_of(channels)]

    changed = {
        group: corrected(nets[group], group, correction)
        for group, correction in adaptation.corrections.items()
    }
    look = Looking({**nets, **changed}, model().tables_of(adaptation), Scratch())
    walked([passes(tile.shape, look, lossless.BASE_TABLE)], answer)
    return out


def same_predictions(tiles: list[Samples], nets: Nets, adaptations: list[Adaptation]) -> None:
    shape = tiles[0].shape
    device = DeviceLattices(nets, model().scales, model().tables, "cpu")
    changes = device._changes(adaptations)
    planes = lossless_cuda._planes_of(torch.from_numpy(np.stack(tiles)))
    expected = [iter(looked(*each)) for each in zip(tiles, [nets] * len(tiles), adaptations, strict=True)]
    seen = set()
    for stage in lossless_cuda.stages_of(shape, device.device):
        if stage.step is None:
            continue
        values = torch.full((len(tiles), stage.count), 7, dtype=torch.uint8)
        indices = torch.full_like(values, 200)
        device._predict(stage, stage.step, changes, shape, planes, values, indices, code=False)
        for tile, of_tile in enumerate(expected):
            prediction, table = next(of_tile)
            where = f"tile {tile}, plane {stage.plane}, level {stage.level}, pass {stage.step.name}"
            assert np.array_equal(values[tile].numpy(), prediction.reshape(-1)), f"predictions: {where}"
            assert np.array_equal(indices[tile].numpy(), table.reshape(-1)), f"tables: {where}"
        seen.add((min(stage.level, 1), stage.plane, stage.step.name))
    assert all(next(each, None) is None for each in expected)
    assert len(seen) == len(PASSES) * shape[2] * (2 if max(shape) > 32 else 1)


def every_pass_predicts_as_on_the_cpu() -> None:
    same_predictions([smooth(19, 18, 3), noise(19, 18, 3)], model().nets, [wild(1), NONE])
    same_predictions([noise(33, 5, 1)], model().nets, [wild(2)])
    same_predictions([noise(35, 3, 3)] * 2, model().nets, [wild(3), wild(4)])


def rows_at_the_limit(rng: np.random.Generator, rows: int, columns: int, largest: int) -> Any:
    """Weights of rows whose sums just stay below 2^24, few of them large; the last column is added."""
    out = rng.integers(-3, 4, (rows, columns + 1))
    heavy = rng.integers(0, columns, rows)
    left = (SUM_LIMIT - 1) // largest - np.abs(out[:, :-1]).sum(axis=1) - 3
    out[np.arange(rows), heavy] = np.minimum(left, 32600) * rng.choice([-1, 1], rows)
    room = SUM_LIMIT - 1 - np.abs(out[:, :-1]).sum(axis=1) * largest
    out[:, -1] = rng.choice([-1, 1], rows) * room
    return out


def nets_at_their_limits_predict_as_on_the_cpu() -> None:
    rng = np.random.default_rng(4)
    nets = {}
    for number, (which, plane, step) in enumerate(
        (w, p, s) for w in (0, 1) for p in (0, 1, 2) for s in PASSES
    ):
        a, b = ((48, 32), (64, 64), (33, 1), (1, 17))[number % 4]
        first = rows_at_the_limit(rng, 1 + a, inputs(plane, step), INPUT_MAX)
        first[0] = rng.integers(-80, 81, first.shape[1])
        second = rows_at_the_limit(rng, b, a, HIDDEN_MAX)
        third = rows_at_the_limit(rng, 2, b, HIDDEN_MAX)
        nets[which, plane, step.name] = net_of(first, second, third)
    with overflow_is_seen(True):
        extreme = (255 * (noise(34, 4, 3) & 1)).astype(np.uint8)
        same_predictions([noise(34, 4, 3), extreme], nets, [wild(5), wild(6)])


# --- bodies ---------------------------------------------------------------------------------------


def same_bodies(tiles: list[Samples], lanes: int | None) -> None:
    adaptations = [*(wild(number) for number in range(len(tiles) - 1)), NONE]
    expected = cpu_bodies(tiles, lanes, adaptations)
    found = model().batches.decode_batch(expected, tiles[0].shape)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.stack(tiles)), (tiles[0].shape, "samples")
    bodies = model().batches.encode_batch(found, adaptations, lanes=lanes)
    assert bodies == expected, (tiles[0].shape, "bodies")


def bodies_of_colour_are_those_of_the_cpu() -> None:
    tiles = [smooth(19, 14, 3), noise(19, 14, 3)]
    assert cpu_bodies(tiles, 64)[1][2], "no escapes: nothing is said about them"
    same_bodies(tiles, 64)


def bodies_of_grey_are_those_of_the_cpu() -> None:
    same_bodies([noise(33, 9, 1), smooth(33, 9, 1)], 32)


def bodies_of_small_and_narrow_tiles_are_those_of_the_cpu() -> None:
    for shape in ((1, 1, 1), (1, 5, 3), (1, 35, 1)):
        same_bodies([noise(*shape)], None)
    same_bodies([smooth(2, 17, 3)], 512)


def tiles_of_a_batch_may_have_other_lanes() -> None:
    tile = smooth(2, 18, 1)
    bodies = [cpu_bodies([tile], lanes)[0] for lanes in (1, 64, 8)]
    found = model().batches.decode_batch(bodies, tile.shape).numpy()
    assert all(np.array_equal(each, tile) for each in found)


def batches_are_taken_in_parts() -> None:
    tiles = np.stack([noise(3, 4, 3)] * 3)
    before = lossless_cuda.AT_ONCE
    lossless_cuda.AT_ONCE = 80  # type: ignore[misc]
    try:
        bodies = model().batches.encode_batch(torch.from_numpy(tiles), lanes=64)
        assert bodies == cpu_bodies(list(tiles), 64)
        assert np.array_equal(model().batches.decode_batch(bodies, (3, 4, 3)).numpy(), tiles)
        try:
            model().batches.decode_batch([*bodies[:2], bodies[2][:-2]], (3, 4, 3))
        except FormatError as error:
            assert "tile 2 of 3: words" in str(error), error
        else:
            raise AssertionError("a word is missing")
    finally:
        lossless_cuda.AT_ONCE = before  # type: ignore[misc]
    assert model().batches.encode_batch(torch.empty((0, 3, 4, 3), dtype=torch.uint8)) == []
    assert model().batches.decode_batch([], (3, 4, 3)).shape == (0, 3, 4, 3)


def files_are_those_of_the_cpu() -> None:
    plain = lossless.build(weights(), "cpu")
    samples = smooth(2, 17, 1)
    assert plain.encode(Picture(samples), rate=0) == model().encode(Picture(samples), rate=0)
    group = [samples, noise(3, 2, 1)]
    bodies = plain.encode_lattices(group)
    assert model().encode_lattices(group) == bodies
    found = model().decode_lattices(bodies, [tile.shape for tile in group])
    assert all(np.array_equal(a, b) for a, b in zip(found, group, strict=True))
    assert any(body[0] for body in bodies), "no offsets: nothing is said about them"
    model().compile()
    assert not model().compiled


@contextmanager
def fitted(samples: int) -> Iterator[None]:
    """To so many samples, where small tiles are to be fitted to, and to a part of them."""
    before = lossless.FITTED
    lossless.FITTED = lossless_cuda.FITTED = samples  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        lossless.FITTED = lossless_cuda.FITTED = before  # type: ignore[attr-defined, misc]


def what_suits_tiles_is_found_as_on_the_cpu() -> None:
    tiles = [half_coloured(26, 30), smooth(26, 30, 3)]
    with fitted(80):
        said = [adaptation for adaptation, _ in lossless.build(weights(), "cpu").streams(tiles)]
        batch = torch.from_numpy(np.stack(tiles))
        found = model().batches.encode_suited(batch, [each.corrections for each in said], lanes=512)
    assert found == cpu_bodies(tiles, 512, said)
    assert said[0].corrections, "no correction pays: nothing is said about them"
    offsets = {offset for each in said for offset in each.offsets.values()}
    assert len(offsets) > 3, offsets


# --- hostile bytes --------------------------------------------------------------------------------


def verdict(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except FormatError:
        return None


def damaged_bodies_are_refused_as_on_the_cpu() -> None:
    tile = np.concatenate([noise(13, 1, 3), smooth(4, 1, 3)])
    (whole,) = cpu_bodies([tile], 16)
    assert whole[0] == 0
    body = whole[1:]
    count = body[1]
    assert 0 < count < 128
    hostile = [body[:-2], body + b"\0\0", body[: 2 + count + 64], bytes([9, 0]) + b"\xff" * 2048]
    hostile += [bytes([3]) + body[1:], body[:1] + bytes([count - 2]) + body[2:]]
    hostile += [body[:1] + bytes([count + 2]) + body[2:]]
    rng = np.random.default_rng(6)
    for at in (2, 3 + count, 2 + count + 64, int(rng.integers(2 + count, len(body)))):
        changed = bytearray(body)
        changed[at] ^= 1 << int(rng.integers(8))
        hostile.append(bytes(changed))
    assert refused_as_on_the_cpu([b"\0" + each for each in hostile], tile) > len(hostile) // 2


def damaged_adaptations_are_refused_as_on_the_cpu() -> None:
    tile = smooth(4, 2, 3)
    adaptation = wild(7)
    (body,) = cpu_bodies([tile], 4, [adaptation])
    head = write(adaptation, 3)
    start = len(write_varint(len(head)))
    rest = body[start + len(head) :]

    def with_head(changed: bytes) -> bytes:
        return write_varint(len(changed)) + changed + rest

    marks = len(groups(3))
    uncorrected = head.index(next(mark for mark in head[:9] if not mark & CORRECTED))
    hostile = [
        *(b"", b"\x80", b"\x80" * 11, b"\xff" * 9 + b"\x01" + body, write_varint(len(body)) + body),
        *(with_head(head[:-1]), with_head(head + b"\0"), with_head(head[:marks]), with_head(head[:5])),
        with_head(bytes([7]) + head[1:]),
        with_head(bytes([255]) + head[1:]),
        with_head(head[: marks - 1] + bytes([3 | CORRECTED]) + head[marks:]),
        with_head(head[:uncorrected] + bytes([head[uncorrected] | CORRECTED]) + head[uncorrected + 1 :]),
        with_head(head[:marks] + b"\x80" * (len(head) - marks)),
        with_head(bytes([head[0] ^ 1]) + head[1:]),
    ]
    assert refused_as_on_the_cpu(hostile[:-2], tile) == len(hostile) - 2
    refused_as_on_the_cpu(hostile[-2:], tile)


def corrections_past_the_limit_are_refused() -> None:
    tile, group = smooth(4, 2, 3), (0, 2, "B1")
    row = np.abs(model().nets[group].first[0])
    heavy = dict(model().nets)
    heavy[group] = dataclasses.replace(heavy[group], first=heavy[group].first.copy())
    place = near(2, "B1")[0]
    heavy[group].first[0, place] = (SUM_LIMIT - 1 - row[-1]) // INPUT_MAX - (row[:-1].sum() - row[place])
    batches = DeviceLattices(heavy, model().scales, model().tables, "cpu")
    (body,) = cpu_bodies([tile], 4)
    one = np.zeros(near(2, "B1").size, np.int8)
    one[0] = 1
    for correction, refused in ((-one, False), (one, True)):
        head = write(Adaptation({}, {group: correction}), 3)
        found = message(batches.decode_batch, [write_varint(len(head)) + head + body[1:]], tile.shape)
        assert ("past 2^24" in found) == refused, found


def refused_as_on_the_cpu(hostile: list[bytes], tile: Samples) -> int:
    plain = lossless.build(weights(), "cpu")
    refused = 0
    for each in hostile:
        found = verdict(lambda each=each: model().batches.decode_batch([each], tile.shape)[0].numpy())  # type: ignore[misc]
        expected = verdict(lambda each=each: plain.decode_lattices([each], [tile.shape])[0])  # type: ignore[misc]
        assert (found is None) == (expected is None), each.hex()
        assert found is None or np.array_equal(found, expected), each.hex()
        refused += found is None
    return refused


def needless_escapes_are_refused() -> None:
    tile = noise(17, 3, 3)
    (body,) = cpu_bodies([tile], 16)
    count = body[2]
    assert 0 < count < 128
    plain = lossless.build(weights(), "cpu")
    for value in range(0, 256, 5):
        changed = body[: 2 + count] + bytes([value]) + body[3 + count :]
        if "is escaped" in message(plain.decode_lattices, [changed], [tile.shape]):
            found = message(model().batches.decode_batch, [changed], tile.shape)
            assert "a symbol is escaped that its table has" in found, found
            return
    raise AssertionError("every escape is one")


def message(decode: Callable[..., Any], *arguments: Any) -> str:
    try:
        decode(*arguments)
    except FormatError as error:
        return str(error)
    return ""


def callers_are_told_what_is_wrong() -> None:
    batches = model().batches
    black = torch.zeros((1, 2, 2, 3), dtype=torch.uint8)
    group = (0, 1, "A")
    short = np.zeros(near(*group[1:]).size - 1, np.int8)
    for call in (
        lambda: batches.encode_batch(black, []),
        lambda: batches.encode_batch(black, [Adaptation({group: 4})]),
        lambda: batches.encode_batch(black, [Adaptation({}, {group: short})]),
        lambda: batches.encode_batch(black, [Adaptation({}, {(1, 1, "A"): near(1, "A").astype(np.int8)})]),
        lambda: batches.encode_suited(black, [{}, {}]),
        lambda: batches.encode_batch(torch.zeros((1, 2, 2, 3))),
        lambda: batches.encode_batch(torch.zeros((2, 2, 3), dtype=torch.uint8)),
        lambda: batches.encode_batch(torch.zeros((1, 2, 2, 4), dtype=torch.uint8)),
        lambda: batches.encode_batch(black, lanes=3),
        lambda: batches.decode_batch([], (1024, 1024, 3)),
        lambda: batches.decode_batch([], (0, 5, 1)),
    ):
        try:
            call()
        except UsageError:
            continue
        raise AssertionError("a UsageError is expected")


# --- the trial ------------------------------------------------------------------------------------


def a_device_that_differs_is_not_used() -> None:
    real = lossless_cuda.trial_tile
    assert real().shape == (64, 64, 3)
    lossless_cuda.trial_tile = lambda: np.concatenate([smooth(9, 2, 3), noise(9, 2, 3)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(lossless_cuda.on_device(weights(), "cpu"), LosslessOnDevice)
        broken = LosslessOnDevice(weights(), "cpu")
        tables = broken.batches._tables_of
        broken.batches._tables_of = tables[3:4].repeat(len(tables), 1)
        reason = lossless_cuda.differs(broken)
        assert reason, "offsets that do nothing went unseen"
        broken.batches._tables_of = tables
        changes = broken.batches._changes
        broken.batches._changes = lambda said, **how: changes(  # type: ignore[method-assign]
            [dataclasses.replace(each, corrections={}) for each in said], **how
        )
        assert lossless_cuda.differs(broken), "corrections that do nothing went unseen"
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            lossless_cuda.differs = lambda model: reason
            fallen = lossless_cuda.on_device(weights(), "cpu")
        assert not isinstance(fallen, LosslessOnDevice)
        assert [each.category for each in warned] == [LicWarning]
        assert reason in str(warned[0].message)
    finally:
        lossless_cuda.trial_tile = real


def the_trial_itself_passes() -> None:
    assert lossless_cuda.differs(model()) is None


CHECKS = {
    check.__name__: check
    for check in (
        every_pass_predicts_as_on_the_cpu,
        nets_at_their_limits_predict_as_on_the_cpu,
        bodies_of_colour_are_those_of_the_cpu,
        bodies_of_grey_are_those_of_the_cpu,
        bodies_of_small_and_narrow_tiles_are_those_of_the_cpu,
        tiles_of_a_batch_may_have_other_lanes,
        batches_are_taken_in_parts,
        files_are_those_of_the_cpu,
        what_suits_tiles_is_found_as_on_the_cpu,
        damaged_bodies_are_refused_as_on_the_cpu,
        damaged_adaptations_are_refused_as_on_the_cpu,
        corrections_past_the_limit_are_refused,
        needless_escapes_are_refused,
        callers_are_told_what_is_wrong,
        a_device_that_differs_is_not_used,
    )
}
SLOW = {"the_trial_itself_passes": the_trial_itself_passes}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    found = {}
    for name in names or CHECKS:
        try:
            with overflow_is_seen(False):
                (CHECKS | SLOW)[name]()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

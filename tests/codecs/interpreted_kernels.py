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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from triton.runtime import interpreter

from lic_format import FormatError, LicWarning, UsageError
from licodec import store
from licodec.codecs import lossless, lossless_cuda
from licodec.codecs.lattices import PASSES, Bytes, Request, inputs, passes, walked
from licodec.codecs.lossless import HIDDEN_MAX, INPUT_MAX, SUM_LIMIT, Looking, Nets, Scratch, net_of
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


def cpu_bodies(tiles: list[Samples], lanes: int | None = None) -> list[bytes]:
    streams = lossless.streams_of(tiles, model().nets, model().table_of)
    counts = [lanes or lane_coder.lanes_for(tile.size) for tile in tiles]
    return lane_coder.encode_many(streams, model().tables, counts)


# --- predictions ----------------------------------------------------------------------------------


def looked(tile: Samples, nets: Nets) -> list[tuple[Bytes, Bytes]]:
    """Prediction and table of each pass of a tile, by NumPy."""
    channels = [np.ascontiguousarray(tile[:, :, c]) for c in ((1, 0, 2) if tile.shape[2] == 3 else (0,))]
    out = []

    def answer(asked: Any) -> list[Bytes]:
        (request,) = asked
        assert isinstance(request, Request)
        if request.phase is not None:
            out.append((request.prediction.astype(np.uint8), request.table.copy()))
        return [request.samples_of(channels)]

    look = Looking(nets, model().table_of, Scratch())
    walked([passes(tile.shape, look, lossless.BASE_TABLE)], answer)
    return out


def same_predictions(tiles: list[Samples], nets: Nets) -> None:
    shape = tiles[0].shape
    device = DeviceLattices(nets, model().table_of, model().tables, "cpu")
    planes = lossless_cuda._planes_of(torch.from_numpy(np.stack(tiles)))
    expected = [iter(looked(tile, nets)) for tile in tiles]
    seen = set()
    for stage in lossless_cuda.stages_of(shape, device.device):
        if stage.step is None:
            continue
        values = torch.full((len(tiles), stage.count), 7, dtype=torch.uint8)
        indices = torch.full_like(values, 200)
        device._predict(stage, stage.step, shape, planes, values, indices, code=False)
        for tile, of_tile in enumerate(expected):
            prediction, table = next(of_tile)
            where = f"tile {tile}, plane {stage.plane}, level {stage.level}, pass {stage.step.name}"
            assert np.array_equal(values[tile].numpy(), prediction.reshape(-1)), f"predictions: {where}"
            assert np.array_equal(indices[tile].numpy(), table.reshape(-1)), f"tables: {where}"
        seen.add((min(stage.level, 1), stage.plane, stage.step.name))
    assert all(next(each, None) is None for each in expected)
    assert len(seen) == len(PASSES) * shape[2] * (2 if max(shape) > 32 else 1)


def every_pass_predicts_as_on_the_cpu() -> None:
    same_predictions([smooth(24, 20, 3), noise(24, 20, 3)], model().nets)
    same_predictions([noise(33, 18, 1)], model().nets)
    same_predictions([noise(35, 4, 3)], model().nets)


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
        same_predictions([noise(34, 4, 3), (255 * (noise(34, 4, 3) & 1)).astype(np.uint8)], nets)


# --- bodies ---------------------------------------------------------------------------------------


def same_bodies(tiles: list[Samples], lanes: int | None) -> None:
    expected = cpu_bodies(tiles, lanes)
    found = model().batches.decode_batch(expected, tiles[0].shape)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.stack(tiles)), (tiles[0].shape, "samples")
    assert model().batches.encode_batch(found, lanes=lanes) == expected, (tiles[0].shape, "bodies")


def bodies_of_colour_are_those_of_the_cpu() -> None:
    tiles = [smooth(24, 20, 3), noise(24, 20, 3)]
    assert cpu_bodies(tiles, 64)[1][1], "no escapes: nothing is said about them"
    same_bodies(tiles, 64)


def bodies_of_grey_are_those_of_the_cpu() -> None:
    same_bodies([noise(33, 18, 1), smooth(33, 18, 1)], 32)


def bodies_of_small_and_narrow_tiles_are_those_of_the_cpu() -> None:
    for shape in ((1, 1, 1), (1, 5, 3), (1, 35, 1), (2, 17, 3)):
        same_bodies([noise(*shape)], None)
    same_bodies([smooth(3, 19, 3)], 512)


def tiles_of_a_batch_may_have_other_lanes() -> None:
    tile = smooth(2, 18, 3)
    bodies = [cpu_bodies([tile], lanes)[0] for lanes in (1, 64, 8)]
    found = model().batches.decode_batch(bodies, tile.shape).numpy()
    assert all(np.array_equal(each, tile) for each in found)


def batches_are_taken_in_parts() -> None:
    tiles = np.stack([noise(3, 4, 3)] * 3)
    before = lossless_cuda.AT_ONCE
    lossless_cuda.AT_ONCE = 80  # type: ignore[misc]
    try:
        bodies = model().batches.encode_batch(torch.from_numpy(tiles))
        assert bodies == cpu_bodies(list(tiles))
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
    samples = smooth(2, 17, 3)
    assert plain.encode(Picture(samples), rate=0) == model().encode(Picture(samples), rate=0)
    group = [samples, noise(3, 2, 1)]
    bodies = plain.encode_lattices(group)
    assert model().encode_lattices(group) == bodies
    found = model().decode_lattices(bodies, [tile.shape for tile in group])
    assert all(np.array_equal(a, b) for a, b in zip(found, group, strict=True))


# --- hostile bytes --------------------------------------------------------------------------------


def verdict(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except FormatError:
        return None


def damaged_bodies_are_refused_as_on_the_cpu() -> None:
    tile = np.concatenate([noise(9, 2, 3), smooth(8, 2, 3)])
    (body,) = cpu_bodies([tile], 16)
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
    plain = lossless.build(weights(), "cpu")
    refused = 0
    for each in hostile:
        found = verdict(lambda each=each: model().batches.decode_batch([each], tile.shape)[0].numpy())  # type: ignore[misc]
        expected = verdict(lambda each=each: plain.decode_lattices([each], [tile.shape])[0])  # type: ignore[misc]
        assert (found is None) == (expected is None), each.hex()
        assert found is None or np.array_equal(found, expected), each.hex()
        refused += found is None
    assert refused > len(hostile) // 2


def needless_escapes_are_refused() -> None:
    tile = noise(17, 3, 3)
    (body,) = cpu_bodies([tile], 16)
    count = body[1]
    assert 0 < count < 128
    plain = lossless.build(weights(), "cpu")
    for value in range(0, 256, 5):
        changed = body[: 1 + count] + bytes([value]) + body[2 + count :]
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
    for call in (
        lambda: batches.encode_batch(torch.zeros((1, 2, 2, 3))),
        lambda: batches.encode_batch(torch.zeros((2, 2, 3), dtype=torch.uint8)),
        lambda: batches.encode_batch(torch.zeros((1, 2, 2, 4), dtype=torch.uint8)),
        lambda: batches.encode_batch(torch.zeros((1, 2, 2, 3), dtype=torch.uint8), lanes=3),
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
    lossless_cuda.trial_tile = lambda: np.concatenate([smooth(17, 3, 3), noise(17, 3, 3)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(lossless_cuda.on_device(weights(), "cpu"), LosslessOnDevice)
        broken = LosslessOnDevice(weights(), "cpu")
        broken.batches._table_of = torch.full_like(broken.batches._table_of, 60)
        reason = lossless_cuda.differs(broken)
        assert reason, "tables of another kind went unseen"
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
        damaged_bodies_are_refused_as_on_the_cpu,
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

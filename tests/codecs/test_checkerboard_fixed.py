"""fhic in compiled integers: symbols and tables are torch's, pixels near float32's and the same on any number
of threads; torch stays unloaded for what is usual."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lic_format
import licodec
from lic_format.errors import ExactnessError, FormatError, LicWarning, WeightsError
from licodec import store, threads
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_compiled as nets
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs import checkerboard_fixed, fhic
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_fixed import FixedCheckerboard
from licodec.codecs.contract import LossyModel, LossyWish
from licodec.evaluation.metrics import psnr
from licodec.exact import compiled_layer, fixed_point
from tests.codecs import tiny
from tests.codecs.fixtures import built, coded, encoded, pixels, precision

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")


@pytest.fixture(scope="module")
def fixed(weights: store.Weights) -> FixedCheckerboard:
    made = fhic.build(weights, "cpu")
    assert isinstance(made, FixedCheckerboard), "it is what runs where it can"
    return made


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 23), (64, 200), (129, 70)])
@pytest.mark.parametrize("rate", [0, 90, 255])
@pytest.mark.parametrize("order", [0, 1])
def test_files_travel_both_ways_and_pixels_are_near(
    fixed: FixedCheckerboard,
    model: cb.Checkerboard,
    weights: store.Weights,
    height: int,
    width: int,
    rate: int,
    order: int,
) -> None:
    picture = pixels(height, width)
    efforts: list[tuple[LossyModel, int]] = [(fixed, 1), (model, 1)]
    if height > 1:  # one level of a single pixel is much
        efforts.append((fixed, 3))
    for encoder, effort in efforts:
        wish = LossyWish(effort)
        file = encoded(encoder, weights.ref, picture, rate=rate, order=order, wish=wish)
        for first, second in zip(fixed.read_symbols(file), model.read_symbols(file), strict=True):
            assert np.array_equal(first, second)
        here, there = fixed.decode(file).planes, model.decode(file).planes
        assert here.shape == there.shape and psnr(here, there) > 52
        assert psnr(here, picture) > psnr(there, picture) - 0.06


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), h=st.integers(4, 20), w=st.integers(4, 20), order=st.integers(0, 1))
def test_symbols_that_no_picture_gives_have_the_same_tables(
    fixed: FixedCheckerboard,
    model: cb.Checkerboard,
    weights: store.Weights,
    seed: int,
    h: int,
    w: int,
    order: int,
) -> None:
    """A stream opens only where every table is the encoder's."""
    rng, m = np.random.default_rng(seed), model.preset.latents
    spread = np.exp(rng.uniform(-3, 6))
    q = np.clip(np.rint(rng.standard_cauchy((m, h, w)) * spread), -32767, 32767).astype(np.int16)
    z = rng.integers(-140, 141, (model.preset.hyper, -(-h // 4), -(-w // 4))).astype(np.int16)
    skipped = rng.random(m) < rng.choice([0, 0.2, 0.9, 1])
    q[skipped] = 0
    rate = int(rng.integers(256))
    file = coded(model, weights.ref, z, q.copy(), rate=rate, order=order, skipped=skipped)
    for found, wanted in zip(fixed.read_symbols(file), model.read_symbols(file), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 70)])
def test_symbols_chosen_are_nearly_those_of_float32(
    fixed: FixedCheckerboard, model: cb.Checkerboard, weights: store.Weights, height: int, width: int
) -> None:
    picture = pixels(height, width)
    for rate in (40, 160, 250):
        own, other = (
            model.read_symbols(encoded(of, weights.ref, picture, rate=rate, wish=LossyWish(1)))
            for of in (fixed, model)
        )
        for found, wanted in zip(own, other, strict=True):
            differing = found.astype(int) - wanted
            assert np.abs(differing).max() <= 3 and np.count_nonzero(differing) < 0.03 * found.size


@pytest.mark.parametrize("extreme", ["noise", "saturated"])
def test_pictures_that_no_photograph_is_like_are_no_worse(
    fixed: FixedCheckerboard, model: cb.Checkerboard, weights: store.Weights, extreme: str
) -> None:
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (96, 96, 3), np.uint8)
    if extreme == "saturated":
        picture = np.kron(rng.integers(0, 2, (12, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8) * 255
    for rate in (60, 255):
        file = encoded(model, weights.ref, picture, rate=rate)
        there = psnr(model.decode(file).planes, picture)
        assert psnr(fixed.decode(file).planes, picture) > there - 0.1


def test_bytes_and_pixels_are_the_same_on_any_number_of_threads(
    fixed: FixedCheckerboard, weights: store.Weights
) -> None:
    picture, found = pixels(150, 210), []
    for count in (1, 2, 3):
        with threads.limited(count):
            file = encoded(fixed, weights.ref, picture, rate=150)
            found.append((file.units[0].body, fixed.decode(file).planes.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.skipif(fixed_point.kind_here().lanes == 8, reason="processor without longer vectors")
@pytest.mark.parametrize("width", [1, 100, 208])
def test_bytes_and_pixels_are_the_same_with_vectors_of_any_length(
    weights: store.Weights, fixed: FixedCheckerboard, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    picture = pixels(72, width)
    file = encoded(fixed, weights.ref, picture, rate=130)
    shown = fixed.decode(file).planes
    eight = fixed_point.Compiled(fixed_point.EIGHT_PAIRS)
    for module in (fixed_point, compiled_layer):
        monkeypatch.setattr(module, "compiled_loops", lambda: eight)
    assert encoded(fixed, weights.ref, picture, rate=130) == file
    assert np.array_equal(fixed.decode(file).planes, shown)


def test_tiles_of_a_large_picture_leave_no_seam(
    fixed: FixedCheckerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = pixels(16 * 70, 16 * 34)
    whole = encoded(fixed, weights.ref, picture, rate=150)
    at_once = fixed.decode(whole).planes
    monkeypatch.setattr(checkerboard_fixed, "tiles", lambda h, w, halo: layout.tiles(h, w, halo, 1))
    assert len(list(layout.tiles(70, 34, 3, 1))) > 1
    assert np.array_equal(fixed.decode(whole).planes, at_once)
    assert encoded(fixed, weights.ref, picture, rate=150).units == whole.units
    small = fixed.decode(whole, reduce=4).planes
    monkeypatch.undo()
    assert psnr(small, fixed.decode(whole, reduce=4).planes) > 60


@pytest.mark.parametrize("reduce", [4, 8, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (17, 23), (1, 1)])
def test_reduced_pictures_are_near(
    fixed: FixedCheckerboard,
    model: cb.Checkerboard,
    weights: store.Weights,
    height: int,
    width: int,
    reduce: int,
) -> None:
    file = encoded(model, weights.ref, pixels(height, width), rate=150)
    small, wanted = (of.decode(file, reduce=reduce).planes for of in (fixed, model))
    assert small.shape == wanted.shape == (-(-height // reduce), -(-width // reduce), 3)
    assert psnr(small, wanted) > 46


def test_grey_pictures_stay_grey(
    fixed: FixedCheckerboard, model: cb.Checkerboard, weights: store.Weights
) -> None:
    picture = pixels(40, 56, 1)
    file = encoded(fixed, weights.ref, picture, rate=150)
    here = fixed.decode(file).planes
    assert here.shape == picture.shape
    assert np.mean((here.astype(float) - model.decode(file).planes) ** 2) < 255**2 / 10**5.2


@pytest.mark.parametrize(("h", "w"), [(4, 4), (8, 20)])
def test_hyper_latents_are_near(fixed: FixedCheckerboard, model: cb.Checkerboard, h: int, w: int) -> None:
    rng = np.random.default_rng(h)
    m = model.preset.latents
    scale = np.exp(rng.normal(0, 2, m) - np.linspace(-2, 4, m))
    y = (rng.normal(size=(h, w, m)) * scale).astype(np.float32)
    with torch.inference_mode():
        wanted = model.hyper_analysis(torch.from_numpy(y)[None].permute(0, 3, 1, 2))[0].permute(1, 2, 0)
    level = nets.empty_steps(h, w, m)
    y = np.pad(y, ((0, 0), (0, nets.ROOM), (0, 0)))
    elementwise.asinh_in_steps(y.reshape(-1, m), fixed.hyper_analysis.per_level, level.rows)
    found = fixed.hyper_analysis(level.whole)
    assert found.dtype == np.float32 and found.shape == (h // 4, w // 4, model.preset.hyper)
    off = found - wanted.numpy()
    assert np.sqrt(np.mean(off**2)) < 0.01 and np.abs(off).max() < 0.1
    assert np.abs(wanted.numpy()).max() > 20


def test_what_is_rare_is_left_to_torch(
    fixed: FixedCheckerboard, model: cb.Checkerboard, weights: store.Weights
) -> None:
    picture = pixels(64, 80)
    wish = LossyWish(effort=4)
    small, same = (encoded(of, weights.ref, picture, rate=120, wish=wish) for of in (fixed, model))
    assert 0.95 < len(small.units[0].body) / len(same.units[0].body) < 1.05
    assert psnr(fixed.decode(small).planes, model.decode(small).planes) > 52
    with pytest.raises(ValueError, match="order: the weights fhic/s-1 code in order"):
        encoded(fixed, weights.ref, picture, rate=120, order=2)
    serial = replace(small, head=replace(small.head, order=lic_format.Order(2)))
    with pytest.raises(FormatError, match="decode order 2, for which the weights fhic/s-1 have no nets"):
        fixed.decode(serial)


def test_damaged_streams_are_refused_without_torch(fixed: FixedCheckerboard, weights: store.Weights) -> None:
    file = encoded(fixed, weights.ref, pixels(64, 64), rate=150)
    unit = file.units[0]
    rng = np.random.default_rng(2)
    for _ in range(60):
        body = bytearray(unit.body)
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        broken = replace(file, units=(replace(unit, body=bytes(body)),))
        with pytest.raises(FormatError):
            fixed.decode(broken)


USUAL = """
import sys, io
import numpy as np
import licodec
picture = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
data = licodec.encode(picture, quality=50)
assert licodec.decode(data, output="numpy").shape == picture.shape
from PIL import Image
with Image.open(io.BytesIO(data)) as image:
    image.load()
    image.save(io.BytesIO(), "LIC", quality=30)
with Image.open(io.BytesIO(data)) as image:
    image.draft("RGB", (12, 16))
    image.load()
licodec.encode(picture, target_size=600)
licodec.encode(picture, effort=2)
print("torch" in sys.modules)
"""


def test_what_is_usual_loads_no_torch() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LICODEC_PRECISION"}
    environment["PYTHONPATH"] = os.pathsep.join((str(Path(licodec.__file__).parents[1]), str(Path.cwd())))
    done = subprocess.run(
        [sys.executable, "-c", USUAL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


# --- nets of other sizes

SMALL = layout.Preset(
    groups=(4, 12, 80),
    depths=(3, 3, 1),
    eighth=16,
    encoder_sixteenth=16,
    decoder_sixteenth=16,
    hyper=16,
    mean=32,
    exact=16,
)


def small_weights(folder: Path, preset: layout.Preset) -> store.Weights:
    """Random numbers in every net, and steps."""
    made, _ = tiny.without_serial(folder, preset)
    rng = np.random.default_rng(1)
    steps = {
        net: {name: rng.integers(-9, -4, count).tolist() for name, count in maps.items()}
        for net, maps in nets.step_counts(preset).items()
    }
    return replace(made, metadata={**made.metadata, layout.STEPS: json.dumps(steps)})


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"depths": (0, 0, 0)},
        {"depths": (0, 4, 0)},
        {"groups": (68, 12, 64), "depths": (4, 0, 3)},
        {"groups": (16,), "depths": (2,)},
        {"groups": (4,) * 16, "depths": (0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 1, 1, 1, 1, 1, 1)},
    ],
)
def test_nets_of_other_sizes_read_what_torch_reads(sizes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    preset = replace(SMALL, **sizes)  # type: ignore[arg-type]
    made = small_weights(tmp_path, preset)
    fixed, model = checkerboard_fixed.build(made), built(made)
    assert fixed is not None
    rng, m = np.random.default_rng(3), preset.latents
    for h, w in ((4, 4), (4, 5), (7, 11), (13, 4)):
        for order in (0, 1):
            q = np.clip(np.rint(rng.standard_cauchy((m, h, w)) * 40), -32767, 32767).astype(np.int16)
            z = rng.integers(-30000, 30001, (preset.hyper, -(-h // 4), -(-w // 4))).astype(np.int16)
            skipped = rng.random(m) < rng.choice([0, 0.3, 1])
            q[skipped] = 0
            file = coded(model, made.ref, z, q, rate=int(rng.integers(256)), order=order, skipped=skipped)
            for found, wanted in zip(fixed.read_symbols(file), model.read_symbols(file), strict=True):
                assert np.array_equal(found, wanted)
            assert fixed.decode(file).planes.shape == (16 * h, 16 * w, 3)
            assert fixed.decode(file, reduce=4).planes.shape == (4 * h, 4 * w, 3)
    picture = pixels(61, 77)
    file = encoded(fixed, made.ref, picture, rate=100, order=1)
    for found, wanted in zip(fixed.read_symbols(file), model.read_symbols(file), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("sizes", [{"mean": 33}, {"mean": 48}, {"eighth": 24}, {"groups": (3, 13, 80)}])
def test_nets_of_sizes_that_do_not_suit_run_in_torch(sizes: dict[str, Any], tmp_path: Path) -> None:
    made = small_weights(tmp_path, replace(SMALL, **sizes))
    assert isinstance(fhic.build(made, "cpu"), cb.Checkerboard)


# --- weights, machines and settings that don't suit


@pytest.mark.parametrize(
    "damage", ["no json", "a net less", "a map less", "a channel less", "a fraction", "too large"]
)
def test_steps_that_do_not_fit_are_refused(weights: store.Weights, damage: str) -> None:
    steps = json.loads(weights.metadata[layout.STEPS])
    if damage == "a map less":
        del steps["synthesis"]["render"]
    elif damage == "a channel less":
        steps["means"]["features"].pop()
    elif damage == "a fraction":
        steps["analysis"]["pixels"][3] = 0.5
    elif damage == "a net less":
        del steps["hyper"]
    elif damage == "too large":
        steps["refinement"]["missing"][0] = 99
    text = "{" if damage == "no json" else json.dumps(steps)
    broken = replace(weights, metadata={**weights.metadata, layout.STEPS: text})
    with pytest.raises(WeightsError, match=r"metadata 'steps'.*licodec\.training\.steps"):
        fhic.build(broken, "cpu")
    with precision("float32"):
        assert isinstance(fhic.build(broken, "cpu"), cb.Checkerboard), "float32 has no use for them"


def without_steps(weights: store.Weights) -> store.Weights:
    metadata = {name: value for name, value in weights.metadata.items() if name != layout.STEPS}
    return replace(weights, metadata=metadata)


def test_weights_without_steps_run_in_torch(weights: store.Weights) -> None:
    assert isinstance(fhic.build(without_steps(weights), "cpu"), cb.Checkerboard)
    with precision("fixed16"), pytest.warns(LicWarning, match="runs in floats here.*weights with steps"):
        assert isinstance(fhic.build(without_steps(weights), "cpu"), cb.Checkerboard)


def test_a_machine_without_the_instruction_runs_torch(
    weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_point, "has_pairs", lambda: False)
    assert isinstance(fhic.build(weights, "cpu"), cb.Checkerboard)


def test_loops_that_give_wrong_sums_are_left_for_torch(
    weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ExactnessError("compiled loops give wrong sums on this machine (layer hyper.0)")

    monkeypatch.setattr(checkerboard_fixed, "refuse_wrong_sums", wrong)
    with pytest.warns(LicWarning, match=r"wrong sums.*hyper\.0.*torch's nets are used"):
        assert isinstance(fhic.build(weights, "cpu"), cb.Checkerboard)


def test_another_precision_is_asked_for(weights: store.Weights) -> None:
    with precision("bfloat16"):
        asked = fhic.build(weights, "cpu")
    assert isinstance(asked, cb.Checkerboard) and asked.precision == torch.bfloat16
    with precision("float16"), pytest.raises(ValueError, match=r"LICODEC_PRECISION.*float16"):
        fhic.build(weights, "cpu")


def test_weights_that_nobody_knows_are_read_whole(weights: store.Weights) -> None:
    stored = {name: array for name, array in weights.tensors.stored.items() if name != "encoder.refine.step"}
    lacking = replace(weights, tensors=store.Tensors(stored, weights.tensors.bfloat16), known=False)
    with pytest.raises(WeightsError, match=r"no tensor 'encoder\.refine\.step'"):
        fhic.build(lacking, "cpu")


@pytest.mark.parametrize("tensor", ["gain", "means.context.1.weight", "exact.context.1.bias", "prior.index"])
@pytest.mark.parametrize("damage", ["missing", "shape", "dtype"])
def test_tensors_are_checked(weights: store.Weights, tensor: str, damage: str) -> None:
    stored = dict(weights.tensors.stored)
    if damage == "missing":
        del stored[tensor]
    else:
        stored[tensor] = stored[tensor][1:] if damage == "shape" else stored[tensor].astype(np.int64)
    broken = replace(weights, tensors=store.Tensors(stored, weights.tensors.bfloat16))
    with pytest.raises(WeightsError, match=tensor.replace(".", r"\.")):
        checkerboard_fixed.build(broken)

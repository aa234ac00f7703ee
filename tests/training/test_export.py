"""From training to a weights file and back: same integers, small enough, tables that suit what was
counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import lic_format
import licodec
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.entropy.tables import load_set
from licodec.exact.layers import StoredLayer
from licodec.exact.paths import ExactNet
from licodec.exact.trainable import convert
from licodec.training import export as exporting
from licodec.training.data import Crops
from licodec.training.objective import TrainingModel
from tests.codecs.fixtures import encoded, pixels
from tests.exact.layers import random_input, random_layer, run
from tests.training.conftest import Start
from tests.training.test_objective import twins

BYTES_MAX = 9_500_000  # what the repository and the wheel have room for


@pytest.fixture(scope="module")
def exported(
    shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TrainingModel, store.Weights, dict[str, object]]]:
    """A model, its weights file in a folder as LICODEC_WEIGHTS names one, and what export measured."""
    folder = tmp_path_factory.mktemp("weights")
    crops = Crops.load(shards, folder / "cache", limit=2)
    model = twins()
    with torch.no_grad():
        for spec in layout.exact_layers(model.preset):  # like trained ones: few are large, no bound in reach
            weight = model.twin(spec.name).weight
            weight.mul_(weight.abs() / weight.abs().amax())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "CROP", 64)
        facts = exporting.export(model, crops, folder / "fhic" / "t-1", "t-1", Order.ONE_STEP)
        patch.setenv(store.ENVIRONMENT, str(folder))
        yield model, store.load("fhic", "t-1"), facts


def test_an_exported_file_is_small_enough_and_says_what_it_is(
    exported: tuple[TrainingModel, store.Weights, dict[str, object]],
) -> None:
    _, weights, facts = exported
    assert weights.path.stat().st_size == facts["bytes"]
    assert weights.path.stat().st_size <= BYTES_MAX
    assert (weights.ref.codec, weights.ref.tag) == ("fhic", "t-1")
    assert weights.decode_digest.hex() == facts["decode_digest"]


def test_an_exported_file_codes(exported: tuple[TrainingModel, store.Weights, dict[str, object]]) -> None:
    _, weights, _ = exported
    model = cb.build(weights, "cpu")
    assert model.default_order == Order.ONE_STEP
    for order in (0, 1):
        file = encoded(model, weights.ref, pixels(40, 30), rate=100, order=order)
        assert licodec.decode(lic_format.write(file), output="numpy", device="cpu").shape == (40, 30, 3)


def test_restored_weights_convert_to_the_same_integers(
    exported: tuple[TrainingModel, store.Weights, dict[str, object]],
) -> None:
    _, weights, _ = exported
    restored = TrainingModel(layout.PRESETS["s"]).requires_grad_(False)
    exporting.restore(restored, "fhic", "t-1")
    for spec in layout.exact_layers(restored.preset):
        stored = StoredLayer.from_tensors(spec, "exact.", weights.tensors)
        again = convert(restored.twin(spec.name))
        x = random_input(1, stored, 8, 9)
        first, second = (run(ExactNet([layer], None), layer, x, 150) for layer in (stored, again))
        assert np.array_equal(first, second), spec.name


def test_restored_float_nets_are_the_stored_ones(
    exported: tuple[TrainingModel, store.Weights, dict[str, object]],
) -> None:
    model, weights, _ = exported
    restored = TrainingModel(layout.PRESETS["s"]).requires_grad_(False)
    exporting.restore(restored, "fhic", "t-1", path=weights.path)
    built = cb.build(weights, "cpu")
    for name, value in built.means.state_dict().items():
        assert torch.equal(restored.means.state_dict()[name].to(value.dtype), value)
    for name, value in model.synthesis.state_dict().items():
        other = restored.synthesis.state_dict()[name]
        assert float((other - value).abs().max()) <= float(value.abs().max()) / 127
    assert torch.equal(restored.gain, built.gain)


def test_a_run_starts_from_exported_weights(
    start: Start, exported: tuple[TrainingModel, store.Weights, dict[str, object]]
) -> None:
    _, weights, _ = exported
    trainer = start(init="t-1")
    stored = StoredLayer.from_tensors(layout.exact_layers(trainer.model.preset)[0], "exact.", weights.tensors)
    assert torch.equal(convert(trainer.model.twin("hyper.0")).weight, stored.weight)
    assert trainer.step == 0 and np.isfinite(trainer.train_step())


# --- choices


def test_the_prior_chosen_is_as_cheap_as_the_one_that_symbols_came_from() -> None:
    tables = load_set(1)
    truth = [(10, 0), (64 + 30, 5), (128 + 45, -12), (50, 2)]
    counts = np.zeros((2, len(truth), 2 * exporting.Z_SPAN + 1))
    bits = tables.bits()
    for channel, (table, offset) in enumerate(truth):
        mass = 2.0 ** -bits[table].astype(np.float64)
        for k in (0, 1):
            start = 255 - exporting.Z_SPAN - offset
            counts[k, channel] = 5000 * mass[start : start + counts.shape[2]]
    index, offset_found = exporting.choose_priors(counts)
    for k in (0, 1):
        for channel, (table, offset) in enumerate(truth):
            best = _cost(counts[k, channel], bits[table], offset)
            chosen = _cost(counts[k, channel], bits[int(index[k, channel])], int(offset_found[k, channel]))
            assert chosen <= best * 1.001 + 30  # pseudo-counts weigh a little
            assert offset_found[k, channel] == offset


def _cost(counts: np.ndarray[tuple[int], np.dtype[np.float64]], bits: object, offset: int) -> float:
    start = 255 - exporting.Z_SPAN - offset
    return float(counts @ np.asarray(bits)[start : start + len(counts)].astype(np.float64))


def test_a_channel_that_never_moved_does_not_get_a_table_in_which_moving_is_ruinous() -> None:
    counts = np.zeros((1, 1, 2 * exporting.Z_SPAN + 1))
    counts[0, 0, exporting.Z_SPAN] = 200
    index, offset = exporting.choose_priors(counts)
    bits = load_set(1).bits()[int(index[0, 0])]
    assert int(offset[0, 0]) == 0 and bits[255] < 0.1 and max(bits[254], bits[256]) < 16


@pytest.mark.parametrize("shift", [-4, -1, 0, 3])
@pytest.mark.parametrize("family", [0, 1, 2])
def test_the_family_and_shifts_chosen_are_those_that_symbols_came_from(family: int, shift: int) -> None:
    mass = 2.0 ** -load_set(1).bits().reshape(3, 64, 511)[:, :, 255:].astype(np.float64)
    mass[:, :, 1:] *= 2
    counts = np.zeros((17, 2, 64, 256), np.int32)
    for index in range(15, 50):
        counts[:, 0, index] = 100_000 * mass[family, index + shift]
        counts[:9, 1, index] = 100_000 * mass[family, index + shift]
        counts[9:, 1, index] = 100_000 * mass[family, index - shift]
    families, shifts, saved = exporting.choose_families(counts)
    assert families[0] == family  # the other changes at a knot, where neither shift fits
    assert (shifts[:, 0] == shift).all()
    assert shifts[[0, 16], 1].tolist() == [shift, -shift]
    assert (saved > 0) == ((family, shift) != (0, 0))


@pytest.mark.parametrize("shift", [-4, 2])
def test_a_shifted_layer_gives_indices_that_are_shifted(shift: int) -> None:
    layer = random_layer(3, 20, 6, 1, last=True)
    shifted = exporting.shift_index(layer, np.full((17, 6), shift))
    x = random_input(4, layer, 20, 20)
    before, after = run(ExactNet([layer], None), layer, x, 99), run(ExactNet([shifted], None), shifted, x, 99)
    inner = (before > 4) & (before < 59)
    assert inner.sum() > 100
    assert np.abs(after[inner] - before[inner] - shift).max() <= 1
    assert (after[inner] - before[inner] == shift).mean() > 0.97

"""Integer layers in compiled loops against SPEC.md's formulas in int64, and the answers by which they prove
themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lic_format.errors import ExactnessError, WeightsError
from licodec import threads
from licodec.exact import fixed_point
from licodec.exact.compiled_layer import CompiledLayer, Offsets, refuse_wrong_sums
from licodec.exact.fixed_point import Board, blocks_of
from licodec.exact.layers import StoredLayer
from licodec.exact.neighbours import Positions, neighbours
from licodec.exact.paths import ExactNet
from tests.exact.layers import Integers, expected_output, random_input, random_layer

pytestmark = pytest.mark.skipif(not fixed_point.has_pairs(), reason="processor without products of pairs")

LAYERS = [
    random_layer(1, 6, 20, 3, name="few"),
    random_layer(2, 48, 64, 1, name="wide", last=True),
    random_layer(3, 12, 16, 5, name="around", signed=True),
]


def of(layer: StoredLayer) -> CompiledLayer:
    parts = (layer.weight, layer.bias, layer.multiplier, layer.shift)
    return CompiledLayer(layer.spec, *(part.numpy() for part in parts))


@pytest.fixture(params=[1, 2])
def helped(request: pytest.FixtureRequest) -> Iterator[None]:
    with threads.limited(request.param), fixed_point.helped():
        yield


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (30, 41)])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer.spec.name))
def test_a_map_is_that_of_the_formulas(layer: StoredLayer, size: tuple[int, int], helped: None) -> None:
    compiled, (h, w), spec = of(layer), size, layer.spec
    x = random_input(4, layer, h, w)
    for rate in (0, 77, 255):
        found = on_map(compiled, x, rate)
        assert np.array_equal(found, expected_output(layer, x, rate))
    assert (found.max(), found.min()) == (spec.high, 0) or h < 5, "the whole range is used"


def on_map(compiled: CompiledLayer, x: Integers, rate: int) -> Integers:
    spec, (_, h, w) = compiled.spec, x.shape
    source = Board(h, w, spec.inp, spec.kernel // 2)
    edge = spec.kernel // 2
    source.memory[edge : edge + h, edge : edge + w] = x.transpose(1, 2, 0)
    target = Board(h, w, len(compiled.weights) * 16)
    every = fixed_point.all_positions(h, w)
    compiled.run(
        compiled.weights,
        source.window(spec.kernel),
        blocks_of(spec.out),
        source.at(every),
        target.at(every),
        compiled.offsets(rate),
    )
    out: Integers = target.memory[..., : spec.out].transpose(2, 0, 1).astype(np.int64)
    return out


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (16, 3), (12, 20)])
@pytest.mark.parametrize("level", [1, 2])
def test_outputs_around_a_lattice_are_those_of_the_whole_map(
    size: tuple[int, int], level: int, helped: None
) -> None:
    """Where nothing is known a value of its own stands, and beyond the border zeros."""
    h, w = size
    row, column = np.arange(h)[:, None], np.arange(w)[None]
    among = (row + column) % 2 == 0 if level == 1 else (row % 2 == 0) & (column % 2 == 0)
    cells = np.flatnonzero(~among if level == 1 else (row % 2 == 1) & (column % 2 == 1))
    known = np.flatnonzero(among)
    for layer in (each for each in LAYERS if each.spec.kernel > 1):
        compiled, spec = of(layer), layer.spec
        x, unknown = random_input(3, layer, h, w), random_input(4, layer, 1, 1)
        near = neighbours(known, cells, h, w, spec.kernel)
        source = Board(h, w, spec.inp, spec.kernel // 2)
        inner = source.memory[spec.kernel // 2 :, spec.kernel // 2 :][:h, :w]
        inner[among] = x.transpose(1, 2, 0)[among]
        inner[~among] = 99  # which nobody may read
        out = np.empty((len(cells) + 6, len(compiled.weights) * 16), np.int16)
        compiled.run(
            compiled.weights_near(near),
            source.window(spec.kernel, 1, near),
            blocks_of(spec.out),
            source.at(Positions(cells, w)),
            fixed_point.rows_of(out, len(cells)),
            Offsets(compiled.offsets_near(near, unknown[:, 0, 0], 77), fixed_point.listed(near.kind)),
        )
        whole = expected_output(layer, np.where(among, x, unknown), 77).reshape(spec.out, -1)[:, cells]
        assert np.array_equal(out[: len(cells), : spec.out].T, whole)


def test_of_zeros_is_what_a_layer_gives_of_zeros() -> None:
    for layer in LAYERS:
        nothing = np.zeros((layer.spec.inp, 1, 1), np.int64)
        for rate in (0, 40, 255):
            assert np.array_equal(of(layer).of_zeros(rate), expected_output(layer, nothing, rate)[:, 0, 0])


def test_known_answers_are_those_of_every_path_and_wrong_ones_are_refused() -> None:
    net = ExactNet(LAYERS, None, ("int64",))
    answers = {layer.spec.name: net.known_answer(layer.spec.name, "int64") for layer in LAYERS}
    layers = {layer.spec.name: of(layer) for layer in LAYERS}
    refuse_wrong_sums(layers, answers)
    with pytest.raises(ExactnessError, match="layer wide"):
        refuse_wrong_sums(layers, {**answers, "wide": answers["wide"] ^ 1})
    with pytest.raises(ExactnessError, match=r"no known answers.*few"):
        refuse_wrong_sums(layers, {name: crc for name, crc in answers.items() if name != "few"})


def test_sums_that_could_leave_their_range_are_refused() -> None:
    layer = LAYERS[0]
    parts = [part.numpy() for part in (layer.weight, layer.bias, layer.multiplier, layer.shift)]
    parts[1] = np.full_like(parts[1], 2**24)
    with pytest.raises(WeightsError, match="the limit is 16777216"):
        CompiledLayer(layer.spec, *parts)

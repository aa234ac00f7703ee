"""A weights file that says anything else than it should gives a WeightsError before anything is coded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lic_format.errors import ExactnessError, LicError, WeightsError
from licodec import store
from licodec.codecs import checkerboard as cb

Change = Callable[[Tensor], Tensor]


def filled(value: float) -> Change:
    """The first sample replaced."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def build(weights: store.Weights, tensors: Mapping[str, Tensor], **metadata: str) -> cb.Checkerboard:
    other = replace(
        weights, known=False, tensors=store.Tensors.of(tensors), metadata={**weights.metadata, **metadata}
    )
    return cb.build(other, "cpu")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("prior.index", filled(192), "0..191"),
        ("prior.index", lambda t: t.short(), "uint8"),
        ("prior.index", lambda t: t[:16], "shape"),
        ("prior.offset", filled(1025), "-1024..1024"),
        ("prior.offset", filled(-32768), "-1024..1024"),
        ("family.direct", filled(3), "0..2"),
        ("family.context", filled(255), "0..2"),
        ("order", filled(2), "0..1"),
        ("gain", lambda t: t.to(torch.int32), "floats"),
        ("exact.hyper.0.weight", filled(-128), "-128"),
        ("exact.hyper.0.bias", filled(2**24), "can reach"),
        ("exact.hyper.0.bias", filled(-(2**31)), "can reach"),
        ("exact.direct.1.multiplier", filled(0), "multipliers"),
        ("exact.direct.1.multiplier", filled(-20000), "multipliers"),
        ("exact.scale.1.1.1.shift", filled(31), "shifts"),
        ("exact.scale.1.1.1.shift", filled(-1), "shifts"),
        ("exact.taps.0.1.weight", lambda t: t.float(), "int8"),
        ("synthesis.render.weight", lambda t: t[1:], "shape"),
    ],
)
def test_a_tensor_out_of_its_range_is_refused_by_name(
    name: str, change: Change, message: str, weights: store.Weights
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        build(weights, {**weights.tensors, name: change(weights.tensors[name])})
    layer = name.removeprefix("exact.").rpartition(".")[0]
    assert name in str(caught.value) or layer in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "prior.index",
        "prior.offset",
        "family.direct",
        "family.context",
        "order",
        "gain",
        "synthesis.inverse_gain",
        "exact.scale.1.0.0.bias",
        "encoder.analysis.first.weight",
        "encoder.hyper.layers.3.bias",
        "encoder.refine.step",
        "encoder.refine.adjoint.weight_step",
        "means.taps.1_1.weight",
        "synthesis.eighth_blocks.0.wide.weight",
        "synthesis.eighth_blocks.0.wide.weight_step",
    ],
)
def test_a_missing_tensor_is_named(name: str, weights: store.Weights) -> None:
    assert name in weights.tensors
    with pytest.raises(WeightsError, match=f"no tensor '{name}'"):
        build(weights, {key: value for key, value in weights.tensors.items() if key != name})


@pytest.mark.parametrize(
    "architecture",
    [
        "",
        "[]",
        "7",
        "{}",
        '{"groups": 320}',
        '{"groups": [48, 272]}',
        '{"groups": [48, "272"], "depths": [1, 1]}',
        '{"groups": [48, 272], "depths": [1]}',
        '{"groups": [48, 272], "depths": [1, 5]}',
        '{"groups": [48, 272], "depths": [1, -1]}',
        '{"groups": [48, 272], "depths": 1}',
        '{"groups": [48, 272], "depths": [1, 1], "hyper": -1}',
        '{"groups": [48, 272], "depths": [1, 1], "hyper": 96.5}',
        '{"groups": [48, 272], "depths": [1, 1], "hyper": 1000000000}',
        '{"groups": [48, 272], "depths": [1, 1], "eighth": "wide"}',
        '{"groups": [48, 272], "depths": [1, 1], "unknown": 1}',
        '{"groups": [], "depths": []}',
    ],
)
def test_an_architecture_that_describes_no_preset_is_refused(
    architecture: str, weights: store.Weights
) -> None:
    with pytest.raises(WeightsError):
        build(weights, weights.tensors, architecture=architecture)


def test_weights_for_other_tables_are_refused(weights: store.Weights) -> None:
    with pytest.raises(WeightsError, match="table set"):
        build(weights, weights.tensors, tables="00" * 32)


@pytest.mark.parametrize("answers", ["", "[]", "7", '{"hyper.0": "x"}'])
def test_known_answers_that_can_not_be_read_are_refused(answers: str, weights: store.Weights) -> None:
    with pytest.raises(LicError):
        build(weights, weights.tensors, known_answers=answers)


def test_other_known_answers_than_this_machine_gives_are_refused(weights: store.Weights) -> None:
    answers = json.loads(weights.metadata["known_answers"])
    answers["taps.1.1"] ^= 1
    with pytest.raises(ExactnessError, match=r"float32 \(layer taps.1.1\).*int64 \(layer taps.1.1\)"):
        build(weights, weights.tensors, known_answers=json.dumps(answers))


@pytest.mark.parametrize("name", ["gain", "means.hyper_layers.0.weight", "synthesis.render.bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_seen_when_the_file_is_read(
    name: str, value: float, weights: store.Weights, tmp_path: Path
) -> None:
    tensors = {**weights.tensors, name: filled(value)(weights.tensors[name])}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, dict(weights.metadata))
    with pytest.raises(WeightsError, match=f"{name}.*not finite"):
        store.load("fhic", "s-1", path=path)

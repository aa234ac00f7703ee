"""A small model of fhic that has every part and all orders. Its weights mean nothing; its sums, orders and
streams are those of the large ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from licodec import store
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import gllmm, unshuffled
from licodec.exact.trainable import TrainableConv, convert
from licodec.training import export as exporting
from licodec.training.objective import TrainingModel
from licodec.training.serial import SerialModel, export

TINY = layout.Preset(
    groups=(3, 5, 70),
    depths=(2, 1, 1),
    eighth=8,
    encoder_sixteenth=8,
    decoder_sixteenth=8,
    hyper=8,
    mean=8,
    exact=8,
)


UNSHUFFLED = dataclasses.replace(
    TINY, transforms="unshuffled", encoder_eighth_blocks=1, decoder_eighth_blocks=2
)
GLLMM = dataclasses.replace(TINY, groups=(8,), depths=(1,), transforms="gllmm", mean_heads=(8, 16))
"""The same with the other transforms."""


def without_serial(
    folder: Path, preset: layout.Preset = TINY, tag: str = "tiny"
) -> tuple[store.Weights, TrainingModel]:
    """Weights fhic/TAG below a folder, with random numbers in every net, and what they are the export of."""
    torch.manual_seed(11)
    model = TrainingModel(preset).requires_grad_(False)
    model.gain.fill_(2.5)
    synthesis = model.synthesis
    if isinstance(synthesis, unshuffled.Synthesis):  # whose nets say next to nothing otherwise
        synthesis.film.fill_(5)
        for block in synthesis.modules():
            if isinstance(block, unshuffled.Block):
                block.last.weight.mul_(10)
                block.narrow.weight.mul_(10)
        model.inverse_gain.fill_(-3)
    if isinstance(synthesis, gllmm.Synthesis):
        synthesis.leave.weight.mul_(0.1)
    for module in model.twins.values():
        assert isinstance(module, TrainableConv)
        module.bias.uniform_(1, 40) if module.spec.last else module.bias.uniform_(0, 2)
    layers = [convert(model.twin(spec.name)) for spec in layout.exact_layers(preset)]
    tensors = exporting.float_tensors(model)
    for layer in layers:
        tensors.update(layer.tensors("exact."))
    tensors["order"] = torch.ones(1, dtype=torch.uint8)
    tensors["prior.index"] = torch.full((17, preset.hyper), 50, dtype=torch.uint8)
    tensors["prior.offset"] = torch.zeros(17, preset.hyper, dtype=torch.int16)
    for name in ("direct", "context"):
        tensors[f"family.{name}"] = torch.arange(preset.latents, dtype=torch.uint8) % 3
    metadata = exporting.weights_metadata(preset, tag, layers)
    return exporting.write_weights(tensors, metadata, folder / "fhic" / tag), model


def with_serial(folder: Path) -> store.Weights:
    """Weights fhic/tiny-serial below a folder, which know order 2 too."""
    base, model = without_serial(folder)
    serial = SerialModel(model)
    serial.start_from_checkerboard()
    for name, parameter in serial.requires_grad_(False).named_parameters():
        if name.endswith("weight"):
            parameter.add_(0.05 * torch.randn_like(parameter))
    export(base, serial, [], folder / "fhic" / "tiny-serial")
    path = folder / "fhic" / "tiny-serial" / exporting.TAG_FILE
    return store.load("fhic", "tiny-serial", path=path)

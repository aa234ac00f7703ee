"""From a training folder to weights/<codec>/<tag>/: integer nets, table choices, storage types, model card;
and back.

    python -m licodec.training.export checkpoints/fhic-s weights/fhic/s-1 DATA/train

What only measuring can decide is measured here on training crops, with the exported nets themselves: the
table of every hyper-latent channel at each rate knot, and the table family of every latent channel (with the
shift of the scale index that suits that family best, folded into the last layer's bias).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Shared, Timer
from licodec.entropy.tables import NOT_CODED, load_set
from licodec.exact.layers import StoredLayer
from licodec.exact.paths import ExactNet
from licodec.exact.specs import KNOTS
from licodec.exact.trainable import convert
from licodec.store import Weights, load
from licodec.store.weights import load_file as read_file
from licodec.training.data import Crops, Pixels
from licodec.training.objective import Distortion, TrainingModel, rate_lambda

KNOT_RATES = tuple(min(255, 16 * k) for k in range(KNOTS))
CROPS_MEASURED = 16
"""As stored, and as many again at half size, which hold a fifth of all symbols."""
CROP = 512
INDEX_SHIFTS = range(-4, 7)
ROUNDS = 2
MAGNITUDES = 256
OFFSETS = range(-2, 3)
Z_SPAN = 64
TAG_FILE = "model.safetensors"
STEP_VALUE = 1.2
"""Best of 0.9, 1.2, 1.6 and 2.1 on validation crops (docs/training.md). Above 1, as what is decoded depends
on it too."""
STEP_WORTH = 20.0
"""Bits that the squared error of one symbol is worth where training goes by another error than the squares of
pixels: about what it is where it does, as steps follow from what errors are worth."""
DEFAULT_ORDER = Order.CHECKERBOARD
"""What encoders write unless told otherwise; docs/training.md has the comparison that chose it."""


# --- Storage ------------------------------------------------------------------------------------------------


def float_tensors(model: TrainingModel) -> dict[str, Tensor]:
    """Float nets in storage types: bfloat16, but int8 with a step per output channel for the 1x1 convolutions
    of blocks and of the refinement, which only add corrections, and float32 for small vectors."""
    out: dict[str, Tensor] = {}
    for prefix, net in model.nets.items():
        for name, tensor in net.state_dict().items():
            corrects = "_blocks." in name or prefix == "encoder.refine."
            out |= stored_tensor(prefix + name, tensor, corrects)
    out["gain"] = model.gain.detach().float()
    out["synthesis.inverse_gain"] = model.inverse_gain.detach().float()
    inverse = model.inverse_gain.detach().float()
    by_squares = model.distortion == "mse"
    out["encoder.step_value"] = step_value(inverse) if by_squares else torch.full_like(inverse, STEP_WORTH)
    return out


def stored_tensor(name: str, tensor: Tensor, corrects: bool) -> dict[str, Tensor]:
    """A tensor of a float net in its storage type; `corrects`: of a layer that only adds corrections."""
    value = tensor.detach().float().contiguous()
    if value.ndim == 4 and corrects and value.shape[1] > 1:
        step = (value.abs().amax(dim=(1, 2, 3)) / 127).clamp_min(1e-12)
        return {name: torch.round(value / step.view(-1, 1, 1, 1)).to(torch.int8), f"{name}_step": step}
    return {name: value.to(torch.bfloat16) if value.ndim == 4 else value}


def step_value(inverse_gain: Tensor) -> Tensor:
    """Bits that the squared error of one symbol is worth, [17, M]: lambda 255^2 step^2 / 3 for an orthonormal
    transform; `STEP_VALUE` of that measured best."""
    weight = rate_lambda(torch.arange(KNOTS) * 16).unsqueeze(1)
    return STEP_VALUE * weight * 255**2 / 3 * torch.exp(2 * inverse_gain)


def weights_metadata(
    preset: layout.Preset, tag: str, layers: list[StoredLayer], distortion: Distortion = "mse"
) -> dict[str, str]:
    net = ExactNet(layers, None, paths=("int64",))
    answers = {name: net.known_answer(name, "int64") for name in net.layers}
    by_squares = distortion == "mse"
    return ({} if by_squares else {layout.DISTORTION: distortion}) | {
        "codec": "fhic",
        "tag": tag,
        "architecture": layout.write_preset(preset),
        "tables": load_set(1).digest.hex(),
        "known_answers": json.dumps(answers, sort_keys=True, separators=(",", ":")),
        "format": "pt",
    }


def write_weights(tensors: Mapping[str, Tensor], metadata: dict[str, str], folder: Path) -> Weights:
    """Write `folder`/model.safetensors whole or not at all, and read it back through the store."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (TAG_FILE + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}, partial, metadata)
    partial.replace(folder / TAG_FILE)
    return read_file(folder / TAG_FILE, "fhic", metadata["tag"], as_named=True)


# --- Measuring ----------------------------------------------------------------------------------------------


class Counts:
    """Histograms of what passes between codec and stream: z [17, Z, hyper-latent], q of each order
    [17, M, scale index, magnitude]."""

    def __init__(self, preset: layout.Preset) -> None:
        self.z = np.zeros((KNOTS, preset.hyper, 2 * Z_SPAN + 1))
        self.q = {
            order: np.zeros((KNOTS, preset.latents, layout.SCALES, MAGNITUDES), np.int32)
            for order in (Order.ONE_STEP, Order.CHECKERBOARD)
        }


def count(counts: npt.NDArray[np.int32], part: layout.CodedPass) -> None:
    """Add a pass to counts by (channel, scale index, magnitude); what isn't coded has scale index 0."""
    scale = np.where(part.index == NOT_CODED, 0, part.index % layout.SCALES).astype(np.int64)
    channel = np.arange(part.step.first, part.step.last)[:, None]
    magnitude = np.minimum(np.abs(part.symbols.astype(np.int64)), MAGNITUDES - 1)
    np.add.at(counts.reshape(-1), (channel * layout.SCALES + scale) * MAGNITUDES + magnitude, 1)


def measured_crops(crops: Crops, seed: int, count: int = CROPS_MEASURED) -> list[Pixels]:
    """So many random crops as stored, and as many again at half size."""
    rng = np.random.default_rng(seed)
    found = []
    for pool, side in ((crops.full, CROP), (crops.half, CROP // 2)):
        large = [k for k, crop in enumerate(pool) if min(crop.shape[:2]) >= side]
        chosen = rng.choice(large, min(count, len(large)), replace=False)
        found += [pool[i][:side, :side].copy() for i in chosen.tolist()]
    return found


def measure(weights: Weights, crops: Crops, seed: int) -> Counts:
    """Code training crops at every rate knot under both orders and count."""
    model = cb.build(weights, "cpu")
    counts = Counts(model.preset)
    timer = Timer(None)
    for picture in measured_crops(crops, seed):
        x = model._to_input(picture)
        shared: Shared = {}
        for knot, rate in enumerate(KNOT_RATES):
            for order, table in counts.q.items():
                symbols, passes = model._symbols(x, rate, order, timer, shared)
                for part in passes[1:]:
                    count(table[knot], part)
            value = np.clip(symbols.z.astype(np.int64), -Z_SPAN, Z_SPAN) + Z_SPAN
            np.add.at(counts.z[knot], (np.arange(model.preset.hyper)[:, None, None], value), 1)
    return counts


def choose_priors(counts: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Cheapest (table, offset) for each knot and hyper-latent channel: uint8 [17, Z], int16 [17, Z].

    A few pseudo-counts keep a channel that never moved in the sample from a table in which moving is ruinous.
    """
    bits = load_set(1).bits()[:, 255 - Z_SPAN - 2 - Z_SPAN : 255 + Z_SPAN + 3 + Z_SPAN]
    knots, channels, width = counts.shape
    index = np.zeros((knots, channels), np.uint8)
    offset = np.zeros((knots, channels), np.int16)
    for k in range(knots):
        for c in range(channels):
            h = counts[k, c].copy()
            mode = int(h.argmax())
            for distance, pseudo in ((1, 0.5), (2, 0.1), (3, 0.05)):
                for at in (mode - distance, mode + distance):
                    if 0 <= at < width:
                        h[at] += pseudo
            centre = round(float((h * np.arange(width)).sum() / h.sum()))
            best = math.inf
            for middle in sorted({mode, *(centre + d for d in OFFSETS)}):
                if not 0 <= middle < width:
                    continue
                start = bits.shape[1] // 2 - middle
                cost = bits[:, start : start + width] @ h
                if cost.min() < best:
                    best = float(cost.min())
                    index[k, c], offset[k, c] = int(cost.argmin()), middle - Z_SPAN
    return torch.from_numpy(index), torch.from_numpy(offset)


def choose_families(counts: npt.NDArray[np.int32]) -> tuple[Tensor, npt.NDArray[np.int64], float]:
    """Cheapest family of each channel and shift of its scale index at each rate knot.

    Returns:
        families uint8 [M], shifts int64 [17, M], and the share of bits saved against Gaussian tables
        without a shift.
    Args:
        counts: [17, M, scale index, magnitude]. A knot's neighbours count for it too, the less the further.
    """
    bits = load_set(1).bits().reshape(3, layout.SCALES, 511)[:, :, 255:].astype(np.float64)
    knots, channels = counts.shape[:2]
    rows = [np.clip(np.arange(layout.SCALES) + shift, 0, layout.SCALES - 1) for shift in INDEX_SHIFTS]
    prices = np.stack([bits[family][row].reshape(-1) for family in range(3) for row in rows], 1)
    flat = counts.reshape(knots * channels, -1).astype(np.float32) @ prices.astype(np.float32)
    costs = flat.astype(np.float64).T.reshape(3, len(rows), knots, channels)
    distance = np.abs(np.arange(knots)[:, None] - np.arange(knots)[None])
    costs = np.einsum("fskc,kl->fslc", costs, 0.5**distance)
    best_shift = costs.argmin(axis=1)
    families = costs.min(axis=1).sum(axis=1).argmin(axis=0)
    shifts = np.array(INDEX_SHIFTS)[best_shift[families, :, np.arange(channels)].T]
    plain = costs[0, list(INDEX_SHIFTS).index(0)].sum()
    saved = 1 - costs.min(axis=1).sum(axis=1).min(axis=0).sum() / plain
    return torch.from_numpy(families.astype(np.uint8)), shifts, float(saved)


def shift_index(layer: StoredLayer, shifts: npt.NDArray[np.int64]) -> StoredLayer:
    """Add whole table indices [17, out] to a last layer's outputs through its bias."""
    unit = torch.pow(2.0, layer.shift.double()) / layer.multiplier.double()
    added = torch.floor(torch.from_numpy(shifts).double() * unit + 0.5).to(torch.int64)
    bias = (layer.bias.to(torch.int64) + added).to(torch.int32)
    return StoredLayer(layer.spec, layer.weight, bias, layer.multiplier, layer.shift)


# --- Export and restore -------------------------------------------------------------------------------------


def export(
    model: TrainingModel, crops: Crops, folder: Path, tag: str, order: Order, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Write the weights of a trained model; returns what was measured on the way, for the model card."""
    preset = model.preset
    layers = {spec.name: convert(model.twin(spec.name)) for spec in layout.exact_layers(preset)}
    tensors = float_tensors(model)
    tensors["order"] = torch.tensor([int(order)], dtype=torch.uint8)
    tensors["prior.index"] = torch.zeros(KNOTS, preset.hyper, dtype=torch.uint8)
    tensors["prior.offset"] = torch.zeros(KNOTS, preset.hyper, dtype=torch.int16)
    for name in ("direct", "context"):
        tensors[f"family.{name}"] = torch.zeros(preset.latents, dtype=torch.uint8)

    def write() -> Weights:
        exact = {k: v for layer in layers.values() for k, v in layer.tensors("exact.").items()}
        metadata = weights_metadata(preset, tag, list(layers.values()), model.distortion)
        return write_weights({**tensors, **exact}, metadata, folder)

    facts: dict[str, Any] = {}
    for seed in range(rounds):  # what an encoder chooses depends on the tables it finds
        counts = measure(write(), crops, seed)
        tensors["prior.index"], tensors["prior.offset"] = choose_priors(counts.z)
        for name, each in (("direct", Order.ONE_STEP), ("context", Order.CHECKERBOARD)):
            family, shifts, saved = choose_families(counts.q[each])
            tensors[f"family.{name}"] = family
            facts[f"families_{name}"] = {
                "gauss_t8_laplace": np.bincount(family.numpy(), minlength=3).tolist(),
                "bits_saved": round(saved, 5),
            }
            if each == Order.ONE_STEP:
                layers["direct.1"] = shift_index(layers["direct.1"], shifts)
                continue
            for step in preset.passes:
                last = f"scale.{step.group}.{step.number}.1"
                layers[last] = shift_index(layers[last], shifts[:, step.first : step.last])
    weights = write()
    facts["distortion"] = model.distortion
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    facts["exact_parameters"] = sum(p.numel() for p in model.twins.parameters())
    facts["decode_digest"] = weights.decode_digest.hex()
    facts["synthesis_digest"] = weights.synthesis_digest.hex()
    facts["bytes"] = (folder / TAG_FILE).stat().st_size
    return facts


@torch.no_grad()
def restore(model: TrainingModel, codec: str, tag: str, path: Path | None = None) -> None:
    """Load exported weights into a training model: the start of a further run (`licodec train --init TAG`).

    Integer layers come back as the real numbers they stand for; the hyper prior as the spread of its tables.
    """
    weights = load(codec, tag, path=path)
    read = cb._Tensors(weights)
    for prefix, net in model.nets.items():
        net.load_state_dict({k: read.floats(prefix + k, tuple(t.shape)) for k, t in net.state_dict().items()})
    model.gain.copy_(read.floats("gain", tuple(model.gain.shape)))
    model.inverse_gain.copy_(read.floats("synthesis.inverse_gain", tuple(model.gain.shape)))
    for spec in layout.exact_layers(model.preset):
        layer = StoredLayer.from_tensors(spec, "exact.", weights.tensors)
        twin = model.twin(spec.name)
        unit = 1.0 if spec.last else spec.out_unit
        step = layer.multiplier.double() * torch.pow(2.0, -layer.shift.double()) * unit / spec.in_unit
        twin.weight.copy_(layer.weight.double() * step.view(-1, 1, 1, 1))
        twin.bias.copy_(layer.bias.double() * step * spec.in_unit)
    index = weights.tensors["prior.index"].long() % 64
    spread = layout.SCALE_MIN * torch.exp(
        index * (math.log(layout.SCALE_MAX / layout.SCALE_MIN) / (layout.SCALES - 1))
    )
    model.prior_scale.copy_(torch.log(spread * math.sqrt(3) / math.pi))
    model.prior_mean.copy_(weights.tensors["prior.offset"].float())


def trained_model(base: Weights) -> TrainingModel:
    """The training model of exported weights, integer nets rounded as they code."""
    model = TrainingModel(cb.build(base, "cpu").preset)
    restore(model, "fhic", base.ref.tag, base.path)
    model.quantise_twins(True)
    model.mixed = cb.precision_of("cpu") == "bfloat16"
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_average(checkpoint: Path, preset: str) -> TrainingModel:
    """The averaged weights of a training folder's `last.pt`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = TrainingModel(layout.PRESETS[preset], state.get("distortion", "mse"))
    model.load_state_dict(state["average"])
    model.quantise_twins(True)
    return model.requires_grad_(False)


def export_run(
    run: Path, folder: Path, crops: Crops, preset: str, order: Order, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Export a training folder's averaged weights into `folder` (.../CODEC/TAG), with log, facts and card."""
    from licodec.training.card import card

    facts = {"preset": preset}
    facts |= export(load_average(run / "last.pt", preset), crops, folder, folder.name, order, rounds)
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "training.jsonl").write_text((run / "log.jsonl").read_text())
    (folder / "card.md").write_text(card(folder, ()))
    return facts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Export a training folder's averaged weights.")
    parser.add_argument("run", type=Path, help="folder of the run: RUN/last.pt")
    parser.add_argument("folder", type=Path, help="weights/fhic/TAG")
    parser.add_argument("data", type=Path, help="training crops, on which tables are measured")
    parser.add_argument("--preset", choices=tuple(layout.PRESETS), default="s")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="of measuring; 1 does for nets that were exported before"
    )
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    wish = parser.parse_args(arguments)
    crops = Crops.load(wish.data, wish.cache)
    facts = export_run(wish.run, wish.folder, crops, wish.preset, DEFAULT_ORDER, wish.rounds)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()

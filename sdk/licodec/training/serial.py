"""Nets of decode order 2 for weights whose transforms are trained: `s-serial-1` from `s-1`.

    python -m licodec.training.serial train weights/fhic/s-1 RUN DATA/train --minutes 40
    python -m licodec.training.serial export weights/fhic/s-1 RUN DATA/train --out weights/fhic/s-serial-1

Latents and hyper-latents of training crops are computed once, with the encoder that the weights are. Then all
positions learn side by side: what a mean net should see at its taps, q + mu of earlier positions, depends on
its own means, so it sees those that it gave when the crop was met before, at first those of order 1.

Everything starts from order 1's nets: those of a group's last pass, at the taps that they know.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.codecs.serial import TAPS, SerialMeans, SerialScales, at_taps, serial_layers
from licodec.exact.layers import StoredLayer, interpolate_knots
from licodec.exact.paths import ExactNet
from licodec.exact.specs import KNOTS
from licodec.exact.trainable import TrainableConv, convert
from licodec.store import Weights, load
from licodec.store.weights import FACTS
from licodec.training.data import Crops, Pixels, read_crops
from licodec.training.export import (
    KNOT_RATES,
    MAGNITUDES,
    TAG_FILE,
    choose_families,
    count,
    restore,
    shift_index,
    write_weights,
)
from licodec.training.loop import VALIDATION_RATES, take_half, validation_pictures
from licodec.training.objective import (
    Prices,
    TrainingModel,
    TwinLayers,
    dead_zone_round,
    rate_lambda,
    round_log,
    scale_features,
)
from licodec.training.soap import Soap

BATCH, SIDE = 8, 240
WARM_STEPS = 100
LOG_MINUTES = 2.5
MEASURED, MEASURED_SIDE = 24, 256
"""Crops on which export chooses table families, every second of them at half size."""
PASSES = 3
"""Of whole maps until what the mean nets see at their taps is what they give."""


class SerialModel(nn.Module):
    """Nets of order 2 with the twins of their integer layers, beside a model whose order 1 is trained; only
    features of its hyper-latents are used."""

    def __init__(self, trained: TrainingModel) -> None:
        super().__init__()
        self.preset = trained.preset
        self.means = SerialMeans(self.preset)
        self.twins = nn.ModuleDict(
            {spec.name.replace(".", "_"): TrainableConv(spec) for spec in serial_layers(self.preset)}
        )
        self.prices = Prices()
        self.mixed = cb.precision_of("cpu") == "bfloat16"
        self._trained = [trained]  # no part of this model's state
        for module in self.twins.values():
            assert isinstance(module, TrainableConv)
            module.quantise = True

    @property
    def trained(self) -> TrainingModel:
        return self._trained[0]

    def twin(self, name: str) -> TrainableConv:
        if not name.startswith(SerialScales.prefix):
            return self.trained.twin(name)
        module = self.twins[name.replace(".", "_")]
        assert isinstance(module, TrainableConv)
        return module

    @torch.no_grad()
    def start_from_checkerboard(self) -> None:
        """Every net from order 1's last pass in its group; taps that this doesn't know begin at zero."""
        trained, means = self.trained, self.trained.means
        for name in ("digest", "context", "squeeze"):
            getattr(self.means, name).load_state_dict(getattr(means, name).state_dict())
        for group in range(len(self.preset.groups)):
            last = [step for step in self.preset.passes if step.group == group][-1]
            name, old = means._name(last), f"{group}.{last.number}"
            look, first, end = (
                layers[group] for layers in (self.means.taps, self.means.first, self.means.last)
            )
            _take_taps(look, means.taps[name])
            head = means.heads[name]
            assert isinstance(head, nn.Sequential)
            first.load_state_dict(head[0].state_dict())
            end.load_state_dict(head[2].state_dict())
            _take_taps(self.twin(f"serial.taps.{group}"), trained.twin(f"taps.{old}"))
            for part in (f"project.{group}", *([f"context.{group}"] if group else ())):
                self.twin(f"serial.{part}").load_state_dict(trained.twin(part).state_dict())
            for part in ("0", "1"):
                taken = trained.twin(f"scale.{old}.{part}")
                self.twin(f"serial.scale.{group}.{part}").load_state_dict(taken.state_dict())

    def forward(self, v: Tensor, seen: Tensor, z: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of the latents under order 2, each picture [B], and the values that they decode to.

        Args:
            v: latents in bounded units, [B, M, h, w]. seen: the same as the taps of the mean nets see them.
            z: rounded hyper-latents. rate: int64 [B].
        """
        h, w = v.shape[2:]
        gain = torch.exp(interpolate_knots(self.trained.gain, rate))
        per_units = torch.split(cb.density(gain)[:, None], list(self.preset.groups), 2)
        values, known = (torch.split(x, list(self.preset.groups), 1) for x in (v, seen))
        nets = SerialScales(TwinLayers(self.twin, rate))
        total = v.new_zeros(len(v))
        decoded: list[Tensor] = []
        projected: list[Tensor] = []
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            with torch.no_grad():
                features = self.trained.means.hyper(z)[:, :, :h, :w]
                scale_base = scale_features(nets, z, h, w)
            for group, per in enumerate(per_units):
                base = self.means.base(group, features, decoded)
                taps = at_taps(self.means.squeeze[group](known[group]))
                mean = self.means.at(group, base, taps)
                value = (cb.rows_of(values[group]) - mean) * per
                with torch.no_grad():
                    q = dead_zone_round(value)
                    decoded.append(_map(q / per + mean, h, w))
                level = (round_log(q) * layout.MAGNITUDE_UNIT).clamp(max=127 * layout.MAGNITUDE_UNIT)
                feature = _map(nets.project(group, level), h, w)
                index = nets.at(group, nets.base(group, scale_base, projected), at_taps(feature))
                projected.append(feature)
                total = total + self.prices.both(*(_map(x, h, w) for x in (q, index.float(), value)))
        return total, torch.cat(decoded, 1)


def _take_taps(new: nn.Module, old: nn.Module) -> None:
    """Weights at the taps that the last pass of a lattice knows, which are those with an odd sum of row and
    column."""
    assert isinstance(new.weight, Tensor) and isinstance(old.weight, Tensor)
    channels, edge = old.weight.shape[1], old.weight.shape[2] // 2
    new.weight.zero_()
    for number, (dy, dx) in enumerate(TAPS):
        if (dy + dx) % 2 and max(abs(dy), abs(dx)) <= edge:
            part = old.weight[:, :, edge + dy, edge + dx] * 1.5  # of the four nearest two are known here
            new.weight[:, number * channels : (number + 1) * channels, 0, 0] = part
    assert isinstance(new.bias, Tensor) and isinstance(old.bias, Tensor)
    new.bias.copy_(old.bias)


def _map(rows: Tensor, h: int, w: int) -> Tensor:
    """Rows [B, h w, C] -> a map."""
    return rows.view(len(rows), h, w, -1).permute(0, 3, 1, 2)


# --- What stands still --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """Crops with what the transforms make of them: rates [N], latents and values decoded in order 1, both in
    bounded units, float16 [N, M, h, w] in channels_last memory, and hyper-latents int16 [N, Z, h', w']."""

    rate: Tensor
    latents: Tensor
    seen: Tensor
    z: Tensor


PARTS = ("rate", "latents", "seen", "z")


def kept(codec: cb.Checkerboard, pictures: Sequence[Pixels], rates: Sequence[int]) -> Kept:
    """Pictures of one size, coded as the encoder does it."""
    latents, seen, z = [], [], []
    for picture, rate in zip(pictures, rates, strict=True):
        at = torch.tensor([rate])
        gain, inverse = (
            torch.exp(interpolate_knots(knots, at))[:, :, None, None]
            for knots in (codec.gain, codec.inverse_gain)
        )
        blocks = codec._to_input(np.ascontiguousarray(picture))
        symbols, _ = codec._symbols(blocks, rate, Order.CHECKERBOARD, Timer(None))
        with torch.inference_mode():
            y = codec._latents(blocks, gain, inverse, at, None)
            latents.append((y / cb.density(gain)).half().permute(0, 2, 3, 1).contiguous())
            seen.append(codec._decoded(symbols, rate)[0].half().permute(0, 2, 3, 1).contiguous())
        z.append(torch.from_numpy(symbols.z))
    v, decoded = (torch.cat(parts).permute(0, 3, 1, 2).clone() for parts in (latents, seen))
    return Kept(torch.tensor(list(rates)), v, decoded, torch.stack(z))


def collect(codec: cb.Checkerboard, crops: Crops, rng: np.random.Generator, count: int, side: int) -> Kept:
    """`count` random crops at rates that are spread evenly."""
    found = []
    for _ in range(count // BATCH):
        rate = (256 * (rng.permutation(BATCH) + rng.random(BATCH)) / BATCH).astype(np.int64)
        found.append(kept(codec, list(crops.draw(rng, side, take_half(rng, rate))), rate.tolist()))
    rates, latents, seen, z = (torch.cat([getattr(each, part) for each in found]) for part in PARTS)
    return Kept(rates, latents, seen, z)


def collected(run: Path, collecting: Callable[[], Kept]) -> Kept:
    """What RUN/kept.pt has, or what is collected, which it then has."""
    path = run / "kept.pt"
    if path.exists():
        return Kept(**torch.load(path, map_location="cpu", weights_only=True))
    found = collecting()
    partial = path.with_suffix(".partial")
    torch.save({name: getattr(found, name) for name in PARTS}, partial)
    partial.replace(path)
    return found


# --- Training -----------------------------------------------------------------------------------------------


def parameter_groups(model: SerialModel) -> list[dict[str, object]]:
    """Learning-rate factors as in `loop.parameter_groups`."""
    factors: dict[float, list[nn.Parameter]] = {}
    for module in model.twins.values():
        assert isinstance(module, TrainableConv)
        factors.setdefault(2.0 if module.spec.last else 1.0, []).append(module.weight)
        factors.setdefault(10.0 if module.spec.last else 3.0, []).append(module.bias)
    factors.setdefault(1.0, []).extend(model.means.parameters())
    return [{"params": params, "factor": factor, "rotated": True} for factor, params in factors.items()]


class SerialTrainer:
    """Nets of order 2 and what they learn from."""

    def __init__(self, model: SerialModel, codec: cb.Checkerboard, held: Sequence[Pixels]) -> None:
        self.model, self.codec = model, codec
        self.held = [kept(codec, held, [rate] * len(held)) for rate in VALIDATION_RATES]

    @torch.no_grad()
    def bits(self, *, order: Order) -> list[float]:
        """Bits per pixel of the latents at each validation rate, by the likelihood of training."""
        found = []
        for each in self.held:
            total = 0.0
            for i in range(len(each.rate)):
                rate, v, z = each.rate[i : i + 1], each.latents[i : i + 1].float(), each.z[i : i + 1].float()
                if order == Order.SERIAL:
                    seen = each.seen[i : i + 1].float()
                    for _ in range(PASSES):
                        bits, seen = self.model(v, seen, z, rate)
                else:
                    trained = self.model.trained
                    _, bits, _ = trained.code(v * cb.density(trained.gains(rate)[0]), z, rate)
                total += float(bits) / (v.shape[2] * v.shape[3] * layout.CELL**2)
            found.append(round(total / len(each.rate), 5))
        return found

    def train(self, data: Kept, out: Path, *, minutes: float, learning_rate: float, seed: int) -> None:
        """Train until the minutes of processor time, a thread's, are used up; writes OUT/last.pt and
        OUT/log.jsonl."""
        rng = np.random.default_rng(seed)
        model, optimiser = self.model, Soap(parameter_groups(self.model), lr=learning_rate)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        order, step, losses = np.empty(0, np.int64), 0, [0.0]
        whole = 60 * minutes * torch.get_num_threads()
        began = logged = time.process_time()
        while (progress := (time.process_time() - began) / whole) < 1:
            if len(order) < BATCH:
                order = rng.permutation(len(data.rate))
            chosen, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
            rate = data.rate[chosen]
            v, seen = (each[chosen].float() for each in (data.latents, data.seen))
            bits, decoded = model(v, seen, data.z[chosen].float(), rate)
            data.seen[chosen] = decoded.half()
            area = v.shape[2] * v.shape[3] * layout.CELL**2
            loss = (bits / area * (0.016 / rate_lambda(rate)).sqrt()).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            warm = min(1.0, (step + 1) / WARM_STEPS)
            now = warm * (1e-5 + (learning_rate - 1e-5) * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in optimiser.param_groups:
                group["lr"] = now * group["factor"]
            optimiser.step()
            losses.append(float(loss.detach()))
            step += 1
            if time.process_time() - logged > 60 * LOG_MINUTES:
                logged = time.process_time()
                self.log(out, step, minutes * (logged - began) / whole, losses)
                losses = []
        self.log(out, step, minutes, losses)

    def log(self, out: Path, step: int, minutes: float, losses: Sequence[float]) -> None:
        found = {"loss": round(float(np.mean(losses or [0.0])), 5), "bpp2": self.bits(order=Order.SERIAL)}
        with (out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, "minutes": round(minutes, 2), **found}) + "\n")
        partial = out / "last.partial"
        torch.save(self.model.state_dict(), partial)
        partial.replace(out / "last.pt")


def prepared(base: Weights) -> tuple[SerialModel, cb.Checkerboard]:
    """Fresh nets beside those of a weights file, and the codec that this is."""
    codec = cb.build(base, "cpu")
    trained = TrainingModel(codec.preset)
    restore(trained, "fhic", base.ref.tag, base.path)
    trained.quantise_twins(True)
    trained.requires_grad_(False)
    trained.mixed = cb.precision_of("cpu") == "bfloat16"
    model = SerialModel(trained)
    model.start_from_checkerboard()
    return model.to(memory_format=torch.channels_last), codec  # type: ignore[call-overload]


# --- Export -------------------------------------------------------------------------------------------------


def serial_tensors(
    model: SerialModel, layers: Mapping[str, StoredLayer], family: Tensor
) -> dict[str, Tensor]:
    """What weights have more for order 2: float nets in bfloat16, integer layers, table families."""
    found = {
        f"serial.means.{name}": value.detach().to(torch.bfloat16 if value.ndim == 4 else torch.float32)
        for name, value in model.means.state_dict().items()
    }
    for layer in layers.values():
        found.update(layer.tensors("exact."))
    return {**found, layout.SERIAL: family}


def written(
    base: Weights, model: SerialModel, layers: Mapping[str, StoredLayer], family: Tensor, folder: Path
) -> Weights:
    """Write the weights `base` with order 2 beside its other orders into `folder` (.../CODEC/TAG)."""
    net = ExactNet(list(layers.values()), None, paths=("int64",))
    answers = json.loads(base.metadata["known_answers"])
    answers.update({name: net.known_answer(name, "int64") for name in net.layers})
    metadata = {
        **base.metadata,
        "tag": folder.name,
        "known_answers": json.dumps(answers, sort_keys=True, separators=(",", ":")),
    }
    return write_weights({**base.tensors, **serial_tensors(model, layers, family)}, metadata, folder)


def export(base: Weights, model: SerialModel, pictures: Sequence[Pixels], folder: Path) -> dict[str, Any]:
    """Write the weights with table families measured on `pictures`; returns what was found."""
    preset = model.preset
    layers = {spec.name: convert(model.twin(spec.name)) for spec in serial_layers(preset)}
    family = base.tensors["family.context"].clone()
    facts: dict[str, Any] = {"base": base.decode_digest.hex()}
    if pictures:
        codec = cb.build(written(base, model, layers, family, folder), "cpu")
        counts = np.zeros((KNOTS, preset.latents, layout.SCALES, MAGNITUDES), np.int32)
        for knot, rate in enumerate(KNOT_RATES):
            for picture in pictures:
                _, passes = codec._symbols(codec._to_input(picture), rate, Order.SERIAL, Timer(None))
                for part in passes[1:]:
                    count(counts[knot], part)
        family, shifts, saved = choose_families(counts)
        for group in range(len(preset.groups)):
            first = sum(preset.groups[:group])
            name = f"serial.scale.{group}.1"
            layers[name] = shift_index(layers[name], shifts[:, first : first + preset.groups[group]])
        facts["families_serial"] = {
            "gauss_t8_laplace": np.bincount(family.numpy(), minlength=3).tolist(),
            "bits_saved": round(saved, 5),
        }
    weights = written(base, model, layers, family, folder)
    facts["parameters"] = sum(p.numel() for p in model.means.parameters())
    facts["exact_parameters"] = sum(p.numel() for p in model.twins.parameters())
    facts["decode_digest"] = weights.decode_digest.hex()
    facts["synthesis_digest"] = weights.synthesis_digest.hex()
    facts["bytes"] = (folder / TAG_FILE).stat().st_size
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("train", "export"))
    parser.add_argument("base", type=Path, help="folder of the weights whose transforms stand still")
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, help="for export: the folder .../fhic/TAG")
    parser.add_argument("--minutes", type=float, default=40.0, help="of processor time")
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--pictures", type=int, default=2400, help="crops of 240 x 240 to learn from")
    parser.add_argument("--resume", action="store_true", help="go on from RUN/last.pt, the schedule anew")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    parser.add_argument("--seed", type=int, default=5)
    wish = parser.parse_args()
    torch.manual_seed(wish.seed)
    base = load("fhic", wish.base.name, path=wish.base / TAG_FILE)
    model, codec = prepared(base)
    rng = np.random.default_rng(wish.seed)
    if wish.part == "export":
        if wish.out is None:
            parser.error("export needs --out, the folder of the new weights")
        model.load_state_dict(torch.load(wish.run / "last.pt", map_location="cpu", weights_only=True))
        crops = Crops.load(wish.data, wish.cache)
        pictures = list(crops.draw(rng, MEASURED_SIDE, np.arange(MEASURED) % 2 > 0))
        print(json.dumps(export(base, model.requires_grad_(False), pictures, wish.out), indent=1))
        shutil.copy(wish.run / "log.jsonl", wish.out / "training.jsonl")
        return
    model.prices.compile("cpu")
    model.trained.prices.compile("cpu")
    wish.run.mkdir(parents=True, exist_ok=True)
    if wish.resume:
        model.load_state_dict(torch.load(wish.run / "last.pt", map_location="cpu", weights_only=True))
    trainer = SerialTrainer(model, codec, validation_pictures(read_crops(wish.data, "val.jsonl")[::8]))
    began = time.monotonic()
    data = collected(
        wish.run, lambda: collect(codec, Crops.load(wish.data, wish.cache), rng, wish.pictures, SIDE)
    )
    row = {
        "base": base.decode_digest.hex(),
        "pictures": len(data.rate),
        "collected_s": round(time.monotonic() - began),
        "rates": VALIDATION_RATES,
        "bpp1": trainer.bits(order=Order.CHECKERBOARD),
    }
    with (wish.run / "log.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    trainer.train(data, wish.run, minutes=wish.minutes, learning_rate=wish.learning_rate, seed=wish.seed)


if __name__ == "__main__":
    main()

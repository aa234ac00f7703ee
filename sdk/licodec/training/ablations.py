"""What parts of the context model are worth: fresh nets on latents that stand still, and tables on counts.

    python -m licodec.training.ablations nets weights/fhic/s-1 RUN DATA/train --minutes 6
    python -m licodec.training.ablations families weights/fhic/s-1 RUN DATA/train

nets         Mean nets and scale nets of order 1, wired in several ways. All start fresh, see the same batches
             of latents that the encoder of the weights made, and take turns on one core until each has had
             its minutes of processor time (`--ways` names some of `WAYS`).
families     Table families of the weights' own symbols: one for all channels, one a channel, one a channel
             and pass. Fitted on training crops, priced on validation crops; nothing is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.entropy.tables import load_set
from licodec.exact.specs import KNOTS
from licodec.exact.trainable import TrainableConv
from licodec.store import Weights, load
from licodec.training.data import Crops, Pixels, read_crops
from licodec.training.export import INDEX_SHIFTS, KNOT_RATES, MAGNITUDES, TAG_FILE, count, trained_model
from licodec.training.loop import VALIDATION_RATES, parameter_groups, validation_pictures
from licodec.training.objective import (
    TrainingModel,
    TwinLayers,
    context_indices,
    dead_zone_round,
    rate_lambda,
    scale_features,
)
from licodec.training.serial import SIDE, Kept, collect, collected, kept
from licodec.training.turns import by_turns, log

BATCH = 8
WARM_STEPS = 100
QUANTISED_FROM = 0.6
"""Share of the time after which the integer nets' fake quantisation is on."""
MEASURED, MEASURED_SIDE = 24, 256
"""Training crops on which families are chosen, every second of them at half size."""


# --- Nets ---------------------------------------------------------------------------------------------------


class SharedLayers(TwinLayers):
    """Layers where the passes of a group have the same nets: a first pass sees zeros for what it doesn't
    know."""

    def pointwise(self, name: str, rows: Tensor) -> Tensor:
        missing = self.twin(name).weight.shape[1] - rows.shape[2]
        return super().pointwise(name, F.pad(rows, (0, missing)) if missing else rows)


class FewerInputs(nn.Module):
    """The 1x1 convolution that another one is where the last of its inputs are zero."""

    def __init__(self, whole: cb.Conv, inputs: int) -> None:
        super().__init__()
        self.whole, self.inputs = whole, inputs

    @property
    def weight(self) -> Tensor:
        return self.whole.weight[:, : self.inputs]

    @property
    def bias(self) -> Tensor:
        return self.whole.bias


class SharedModel(TrainingModel):
    """All passes of a group predict with the nets of its last one."""

    def __init__(self, preset: layout.Preset) -> None:
        super().__init__(preset)
        self.passes = {step.group: step.number for step in preset.passes}
        heads, taps = self.means.heads, self.means.taps
        for step in preset.passes:
            name, last = (f"{step.group}_{number}" for number in (step.number, self.passes[step.group]))
            if step.number:
                heads[name], taps[name] = heads[last], taps[last]
                continue
            own, (first, between, end) = next(heads[name].children()), heads[last].children()
            assert isinstance(first, cb.Conv) and isinstance(own, cb.Conv)
            heads[name] = nn.Sequential(FewerInputs(first, own.in_channels), between, end)
        for name in [name for name in self.twins if self._own(name.replace("_", ".")) != name]:
            del self.twins[name]

    def _own(self, name: str) -> str:
        """Under which name the layers of a pass are kept."""
        part, *rest = name.split(".")
        if part in ("taps", "scale"):
            rest[1] = str(self.passes[int(rest[0])])
        return "_".join([part, *rest])

    def twin(self, name: str) -> TrainableConv:
        module = self.twins[self._own(name)]
        assert isinstance(module, TrainableConv)
        return module

    def scale_nets(self, rate: Tensor) -> cb.ScaleNets:
        return cb.ScaleNets(SharedLayers(self.twin, rate))


@dataclasses.dataclass(frozen=True)
class Way:
    """Groups of channels, their depths, and whether the passes of a group share their nets."""

    groups: tuple[int, ...]
    depths: tuple[int, ...]
    shared: bool = False


WAYS = {
    "as-it-is": Way((4, 12, 48, 96, 160), (3, 3, 2, 1, 1)),
    "shared": Way((4, 12, 48, 96, 160), (3, 3, 2, 1, 1), shared=True),
    "five-in-two": Way((4, 12, 48, 96, 160), (1, 1, 1, 1, 1)),
    "five-in-two-shared": Way((4, 12, 48, 96, 160), (1, 1, 1, 1, 1), shared=True),
    "three": Way((16, 64, 240), (1, 1, 1)),
    "two": Way((64, 256), (1, 1)),
    "one": Way((320,), (1,)),
}


def fresh(trained: TrainingModel, way: Way) -> TrainingModel:
    """A model with untrained context nets and the gains of a trained one; its last biases start at the
    spread that order 0 tells of each channel."""
    preset = dataclasses.replace(trained.preset, groups=way.groups, depths=way.depths, preview_groups=1)
    model = (SharedModel if way.shared else TrainingModel)(preset)
    start = trained.twin("direct.1").bias.detach()
    with torch.no_grad():
        model.gain.copy_(trained.gain)
        model.inverse_gain.copy_(trained.inverse_gain)
        for step in preset.passes:
            last = model.twin(f"scale.{step.group}.{step.number}.1")
            last.bias.copy_(start[:, step.first : step.last])
        for module in model.twins.values():
            assert isinstance(module, TrainableConv)
            if module.spec.last:
                module.weight.mul_(0.5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("means.", "twins.")) and ".direct_" not in name)
    model.mixed = cb.precision_of("cpu") == "bfloat16"
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def bits(model: TrainingModel, v: Tensor, z: Tensor, rate: Tensor) -> Tensor:
    """Bits per pixel of the latents in order 1, each picture [B].

    Args:
        v: latents in bounded units, [B, M, h, w]. z: rounded hyper-latents.
    """
    h, w = v.shape[2:]
    per_unit = cb.density(model.gains(rate)[0])
    y = v * per_unit
    mean, _ = model.walk_means(y, z, per_unit)
    residual = y - mean
    q = dead_zone_round(residual.detach())
    nets = model.scale_nets(rate)
    with model.autocast(v):
        index = context_indices(nets, model.preset, scale_features(nets, z, h, w), q).float()
    return model.prices.both(q, index, residual) / (h * w * layout.CELL**2)


class Learner:
    """A way and its optimiser."""

    def __init__(self, trained: TrainingModel, way: Way, seed: int, learning_rate: float) -> None:
        torch.manual_seed(seed)
        self.model, self.learning_rate = fresh(trained, way), learning_rate
        groups = parameter_groups(self.model)
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
            del group["rotated"]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=learning_rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        )
        self.learning = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.rng, self.steps = np.random.default_rng(seed), 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.learning)

    def step(self, data: Kept, progress: float) -> None:
        self.model.quantise_twins(progress > QUANTISED_FROM)
        chosen = torch.from_numpy(self.rng.integers(0, len(data.rate), BATCH))
        rate = data.rate[chosen]
        found = bits(self.model, data.latents[chosen].float(), data.z[chosen].float(), rate)
        loss = (found * (0.016 / rate_lambda(rate)).sqrt()).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        now = 1e-5 + (self.learning_rate - 1e-5) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = min(1.0, (self.steps + 1) / WARM_STEPS) * now * group["factor"]
        self.optimiser.step()
        self.steps += 1

    @torch.no_grad()
    def validate(self, held: Sequence[Kept]) -> list[float]:
        """Bits per pixel at each validation rate, with integer nets rounded as they code."""
        self.model.quantise_twins(True)
        found = []
        for each in held:
            rows = [
                float(bits(self.model, v[None].float(), z[None].float(), rate[None]))
                for v, z, rate in zip(each.latents, each.z, each.rate, strict=True)
            ]
            found.append(round(float(np.mean(rows)), 5))
        return found


def learn(
    trained: TrainingModel,
    data: Kept,
    held: Sequence[Kept],
    out: Path,
    *,
    ways: Sequence[str],
    minutes: float,
    learning_rate: float,
    seed: int,
) -> None:
    """Train the ways; appends to OUT/log.jsonl."""
    learners = {name: Learner(trained, WAYS[name], seed, learning_rate) for name in ways}
    for learner in learners.values():
        learner.model.prices = trained.prices
    row = {"minutes": minutes, "learning_rate": learning_rate, "pictures": len(data.rate), "seed": seed}
    log(out, {**row, "rates": VALIDATION_RATES})
    spent = by_turns(
        {name: functools.partial(each.step, data) for name, each in learners.items()},
        60 * minutes,
        told=lambda spent: log(out, {name: [had.steps, round(had.seconds)] for name, had in spent.items()}),
    )
    for name, learner in learners.items():
        facts = {"way": name, "steps": spent[name].steps, "parameters": learner.parameters}
        log(out, {**facts, "bpp": learner.validate(held)})


# --- Families -----------------------------------------------------------------------------------------------

Counts = npt.NDArray[np.int32]
"""Symbols by rate, pass number, channel, scale index and magnitude."""


def counted(codec: cb.Checkerboard, pictures: Sequence[Pixels], rates: Sequence[int]) -> Counts:
    """What order 1 codes of pictures at each rate."""
    numbers = max(codec.preset.depths) + 1
    found = np.zeros((len(rates), numbers, codec.preset.latents, layout.SCALES, MAGNITUDES), np.int32)
    for at, rate in enumerate(rates):
        for picture in pictures:
            blocks = codec._to_input(picture)
            for part in codec._symbols(blocks, rate, Order.CHECKERBOARD, Timer(None))[1][1:]:
                count(found[at, part.step.number], part)
    return found


def prices(counts: Counts) -> npt.NDArray[np.float64]:
    """Bits of counts under each family and shift of the scale index: [3, shifts, rates, passes, channels]."""
    bits_of = load_set(1).bits().reshape(3, layout.SCALES, 511)[:, :, 255:].astype(np.float64)
    rows = [np.clip(np.arange(layout.SCALES) + shift, 0, layout.SCALES - 1) for shift in INDEX_SHIFTS]
    table = np.stack([bits_of[family][row].reshape(-1) for family in range(3) for row in rows], 1)
    flat = counts.reshape(-1, layout.SCALES * MAGNITUDES)
    found = np.concatenate([part @ table for part in np.array_split(flat.astype(np.float64), len(counts))])
    return found.T.reshape(3, len(rows), *counts.shape[:3])


def family_bits(train: Counts, held: Counts, knots: Sequence[int]) -> dict[str, list[float]]:
    """Bits of held symbols at each of their rates under families and shifts that are fitted on training
    symbols at all knots; `knots` says at which the held ones are. In every way shifts go by channel and
    knot, or by channel, pass and knot."""
    near = 0.5 ** np.abs(np.arange(KNOTS)[:, None] - np.arange(KNOTS)[None])
    fitted = np.einsum("fskpc,kl->fslpc", prices(train), near)
    known = prices(held)
    by_channel, held_by_channel = fitted.sum(3), known.sum(3)
    found = {}
    for number, name in enumerate(("gauss", "t8", "laplace")):
        chosen = np.full(by_channel.shape[3:], number)
        found[f"{name} for all"] = _priced(by_channel, held_by_channel, chosen, knots)
    cheapest = by_channel.min(1).sum(1).argmin(0)
    found["a family a channel"] = _priced(by_channel, held_by_channel, cheapest, knots)
    both = cheapest[None].repeat(fitted.shape[3], 0)
    found["a family a channel, shifts by pass"] = _priced(fitted, known, both, knots)
    found["a family a channel and pass"] = _priced(fitted, known, fitted.min(1).sum(1).argmin(0), knots)
    return found


def _priced(
    fitted: npt.NDArray[np.float64],
    held: npt.NDArray[np.float64],
    family: npt.NDArray[np.intp],
    knots: Sequence[int],
) -> list[float]:
    """Bits at each held rate with each part's family and the shift that is its cheapest on what was fitted;
    arrays [3, shifts, rates, parts..]."""
    at = np.indices(family.shape)
    total = []
    for row, knot in enumerate(knots):
        shift = fitted[:, :, knot].argmin(1)[(family, *at)]
        total.append(float(held[:, :, row][(family, shift, *at)].sum()))
    return total


def families(base: Weights, crops: Crops, held: Sequence[Pixels], seed: int) -> dict[str, list[float]]:
    """Bits per pixel of the latents at each validation rate."""
    codec = cb.build(base, "cpu")
    pictures = list(crops.draw(np.random.default_rng(seed), MEASURED_SIDE, np.arange(MEASURED) % 2 > 0))
    train = counted(codec, pictures, KNOT_RATES)
    knots = [KNOT_RATES.index(rate) for rate in VALIDATION_RATES]
    found = family_bits(train, counted(codec, held, VALIDATION_RATES), knots)
    area = sum(picture.shape[0] * picture.shape[1] for picture in held)
    return {name: [round(value / area, 6) for value in values] for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("nets", "families"))
    parser.add_argument("base", type=Path, help="folder of the weights whose transforms stand still")
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--minutes", type=float, default=6.0, help="of processor time, for each way")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--pictures", type=int, default=2400, help="crops of 240 x 240 to learn from")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    parser.add_argument("--seed", type=int, default=5)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    wish.run.mkdir(parents=True, exist_ok=True)
    base = load("fhic", wish.base.name, path=wish.base / TAG_FILE)
    pictures = validation_pictures(read_crops(wish.data, "val.jsonl")[::4])
    if wish.part == "families":
        crops = Crops.load(wish.data, wish.cache)
        log(wish.run, {"part": "families", **families(base, crops, pictures, wish.seed)})
        return
    codec, rng = cb.build(base, "cpu"), np.random.default_rng(wish.seed)
    trained = trained_model(base)
    trained.prices.compile("cpu")

    def collecting() -> Kept:
        return collect(codec, Crops.load(wish.data, wish.cache), rng, wish.pictures, SIDE)

    learn(
        trained,
        collected(wish.run, collecting),
        [kept(codec, pictures, [rate] * len(pictures)) for rate in VALIDATION_RATES],
        wish.run,
        ways=wish.ways,
        minutes=wish.minutes,
        learning_rate=wish.learning_rate,
        seed=wish.seed,
    )


if __name__ == "__main__":
    main()

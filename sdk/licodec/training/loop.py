"""The training loop: time-driven, resumable at any second, the same on a CPU and on a GPU.

Progress is elapsed / minutes, over all the runs that a folder has seen; it drives learning rate, crop size
and the quantisation stages, so every run that reaches its end is annealed. The folder holds `last.pt`
(everything needed to go on) and `log.jsonl` (one object a line).
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lic_format.errors import UsageValueError
from licodec.codecs.checkerboard_layout import PRESETS
from licodec.exact.trainable import TrainableConv
from licodec.training.data import DRAWN_SHARE, Crops, Pixels, read_crops, to_input
from licodec.training.klt import block_klt
from licodec.training.objective import CORRECTION_UNIT, INPUT_SCALE, MS_SSIM_UNIT, Distortion, TrainingModel
from licodec.training.soap import Soap

CHECKPOINT_MINUTES = 5.0
START_CROPS, START_SIDE = 8, 128
"""Number and pixels of crops on which transforms that start as noise are brought to a scale."""
VALIDATION_RATES = (32, 96, 160, 224)
SHORTER = (0, 0, 16, 32)
"""What is taken off a crop's side, by chance: of 208, three in four end inside a cell of hyper-latents, as
most pictures do; of 256, one in two."""
PLATEAU = 0.3
"""Share of the schedule before the learning rate goes down; what it reached is kept as `plateau.pt`."""


@dataclass
class TrainOptions:
    """What `licodec train` takes. `minutes` is the length of the whole schedule, earlier runs of a resumed
    folder included; `hold` names parameters, or modules, that stay as they are."""

    codec: str = "fhic"
    preset: str = "s"
    minutes: float = 60.0
    out: Path = Path("checkpoints/fhic-s")
    data: Path = Path("data/train")
    resume: bool = False
    init: str | None = None
    tag: str | None = None
    device: str = "cpu"
    threads: int | None = None
    seed: int = 1
    learning_rate: float = 1.0e-3
    hold: tuple[str, ...] = ()
    distortion: Distortion = "mse"
    limit: int | None = None
    cache: Path = Path("checkpoints/cache")
    stages: tuple[tuple[float, int, int], ...] = field(default=((0.8, 208, 8), (1.01, 256, 5)))


@dataclass(frozen=True)
class Schedule:
    """What progress in 0..1 decides."""

    progress: float
    options: TrainOptions

    @property
    def crop(self) -> tuple[int, int]:
        """(side in pixels, batch)."""
        for until, side, batch in self.options.stages:
            if self.progress < until:
                return side, batch
        return self.options.stages[-1][1:]

    def learning_rate(self, step: int) -> float:
        """Warm-up, a plateau that a later run can go on from, and a cosine down to 1e-5 in the last part."""
        top = self.options.learning_rate
        warm = min(1.0, (step + 1) / 300)
        down = max(0.0, (min(1.0, self.progress) - PLATEAU) / (1 - PLATEAU))
        return warm * (1e-5 + (top - 1e-5) * 0.5 * (1 + math.cos(math.pi * down)))

    @property
    def quantise_twins(self) -> bool:
        return self.progress >= 0.5

    @staticmethod
    def ema_decay(step: int) -> float:
        """An average over the last twentieth of the steps, 5000 at most: before that, weights were worse."""
        return 1 - 1 / (10 + min(5000.0, step / 20))


def take_half(rng: np.random.Generator, rate: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which pictures of a batch come at half size: two in five, so that small sharp ones are learnt too, and
    most of those of high rates, as stored crops are coded themselves."""
    return (rng.random(len(rate)) < 0.4) | ((rate > 190) & (rng.random(len(rate)) < 0.7))


KLT_FACTOR = 0.01
MANY_INPUTS = 0.1
"""Of the layer of unshuffled transforms that takes 2304 numbers and adds to the strongest latents too."""


def parameter_groups(model: TrainingModel) -> list[dict[str, Any]]:
    """Learning-rate factors: straight paths hold the KLT and move slowly, other layers in units of their
    own."""
    factors: dict[float, list[nn.Parameter]] = {}
    unshuffled = model.preset.transforms == "unshuffled"
    indices = {id(p) for p in model.twins.parameters()}
    last_weights, last_biases = set(), set()
    for module in model.twins.values():
        assert isinstance(module, TrainableConv)
        if module.spec.last:
            last_weights.add(id(module.weight))
            last_biases.add(id(module.bias))
    for name, parameter in model.named_parameters():
        factor = 1.0
        if ".klt." in name:
            factor = KLT_FACTOR
        elif any(part in name for part in (".leave.", ".to_quarter.", ".from_eighth.", ".adjoint.")):
            factor = CORRECTION_UNIT
        elif name.startswith("analysis.to_latents.") and unshuffled:
            factor = MANY_INPUTS
        elif name.endswith((".look.weight", "synthesis.render.weight")):
            factor = INPUT_SCALE
        elif id(parameter) in last_biases:
            factor = 10.0
        elif id(parameter) in last_weights:
            factor = 2.0
        elif name.startswith("prior_") or (id(parameter) in indices and parameter.ndim == 2):
            factor = 3.0
        factors.setdefault(factor, []).append(parameter)
    return [
        {"params": params, "factor": factor, "rotated": factor != KLT_FACTOR}
        for factor, params in factors.items()
    ]


class Trainer:
    """Model, optimiser, average and clock of one run."""

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.crops = Crops.load(options.data, options.cache, options.limit)
        if options.preset not in PRESETS:
            raise UsageValueError(
                f"preset: {options.preset!r}, expected one of {', '.join(PRESETS)}", argument="preset"
            )
        self.model = TrainingModel(PRESETS[options.preset], options.distortion)
        self.step, self.elapsed, self.pixels = 0, 0.0, 0
        options.out.mkdir(parents=True, exist_ok=True)
        self.last, self.plateau = options.out / "last.pt", options.out / "plateau.pt"
        resuming = options.resume and self.last.exists()
        if options.init and not resuming:
            from licodec.training.export import restore

            restore(self.model, options.codec, options.init)
        elif not resuming:
            preset = self.model.preset
            klt = block_klt(self.crops, preset.latents)
            some = self.crops.draw(
                np.random.default_rng(options.seed), START_SIDE, np.zeros(START_CROPS, np.bool_)
            )
            self.model.start_from_klt(klt, to_input(some, "cpu"))
        self.model.to(device=options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = Soap(parameter_groups(self.model), lr=options.learning_rate)
        self.halvings = 0
        parts: dict[str, list[nn.Parameter]] = {"klt": [], "direct": [], "": []}
        for name, parameter in self.model.named_parameters():
            parts[next(part for part in parts if part in name)].append(parameter)
        self.clipped = list(parts.values())
        self.norms: list[list[float]] = []
        if resuming:
            self.restore()
        for held in options.hold:
            found = [p for name, p in self.model.named_parameters() if f"{name}.".startswith(f"{held}.")]
            if not found:
                raise UsageValueError(f"hold: the model has no parameter or module {held!r}", argument="hold")
            for parameter in found:
                parameter.requires_grad_(False)

    @property
    def schedule(self) -> Schedule:
        return Schedule(min(1.0, self.elapsed / (60 * self.options.minutes)), self.options)

    def save(self, target: Path | None = None) -> None:
        target = target or self.last
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "pixels": self.pixels,
            "halvings": self.halvings,
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "distortion": self.options.distortion,
        }
        partial = target.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(target)

    def restore(self) -> None:
        state = torch.load(self.last, map_location=self.options.device, weights_only=True)
        before = state.get("distortion", "mse")
        if before != self.options.distortion:
            raise UsageValueError(
                f"distortion: {self.last} was trained for {before}, asked for {self.options.distortion}; "
                "start from its exported weights (init) instead",
                argument="distortion",
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed, self.pixels = state["step"], state["elapsed"], state["pixels"]
        self.halvings = state["halvings"]
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"].cpu())

    def log(self, **row: Any) -> None:
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 2), **row}
        with (self.options.out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        if sys.stderr.isatty() or self.step == 0:
            print(row, file=sys.stderr)

    def draw(self, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """A batch: blocks [B, 48, s/4, s/4], s the schedule's side less one of `SHORTER`, at least 64,
        and rate indices [B], the two ends drawn more often."""
        side, batch = schedule.crop
        side = max(64, side - int(self.rng.choice(SHORTER)))
        spread = (self.rng.permutation(batch) + self.rng.random(batch)) / batch  # every batch sees all rates
        rate = (256 * spread).astype(np.int64)
        end = self.rng.random(batch)
        rate = np.where(end < 0.05, 0, np.where(end > 0.95, 255, rate))
        half = take_half(self.rng, rate)
        pixels = self.crops.draw(self.rng, side, half if side <= 256 else np.zeros_like(half), DRAWN_SHARE)
        return to_input(pixels, self.options.device), torch.from_numpy(rate).to(self.options.device)

    def train_step(self) -> float:
        schedule = self.schedule
        self.model.quantise_twins(schedule.quantise_twins)
        x, rate = self.draw(schedule)
        loss = self.model(x, rate).loss(rate)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.clip()
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(f"loss {value}, gradient norm {norm}")
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate(self.step) * group["factor"] * 0.5**self.halvings
        self.optimiser.step()
        self.step += 1
        self.pixels += x.numel() // 3
        if self.step % 4 == 0:
            decay = schedule.ema_decay(self.step) ** 4
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.average.parameters()), list(self.model.parameters()), 1 - decay
                )
        return value

    def clip(self) -> float:
        """Clip gradient norms at 1; those of straight paths and of order 0's nets apart, which would drown
        the rest."""
        norms = [float(torch.nn.utils.clip_grad_norm_(part, 1.0)) for part in self.clipped]
        self.norms.append(norms)
        return sum(norms)

    def run(self) -> None:
        """Train until the schedule's end; raises KeyboardInterrupt through after saving."""
        validation = validation_pictures(read_crops(self.options.data, "val.jsonl")[::4])
        saved, clock, losses = time.monotonic(), time.monotonic(), [0.0]
        window = (self.elapsed, self.pixels)
        on_plateau = self.schedule.progress < PLATEAU
        try:
            while self.elapsed < 60 * self.options.minutes:
                if on_plateau and self.schedule.progress >= PLATEAU:
                    on_plateau = False
                    self.save(self.plateau)
                try:
                    losses.append(self.train_step())
                except FloatingPointError as error:
                    self.back_off(str(error))
                now = time.monotonic()
                self.elapsed, clock = self.elapsed + now - clock, now
                if now - saved > 60 * CHECKPOINT_MINUTES:
                    rate = (self.pixels - window[1]) / max(1e-9, self.elapsed - window[0]) / 1e6
                    self.log(
                        loss=round(float(np.mean(losses)), 5),
                        mpix_s=round(rate, 3),
                        norms=[round(float(n), 3) for n in np.median(self.norms, axis=0)],
                        **self.validate(validation),
                    )
                    self.save()
                    saved = clock = time.monotonic()
                    losses, window, self.norms = [], (self.elapsed, self.pixels), []
        finally:
            self.save()
        self.log(loss=round(float(np.mean(losses or [0.0])), 5), end=True, **self.validate(validation))

    def back_off(self, why: str) -> None:
        """Step back to the last checkpoint with half the learning rate."""
        if not self.last.exists() or self.halvings >= 6:
            raise FloatingPointError(f"training diverged at step {self.step}: {why}")
        elapsed, halvings = self.elapsed, self.halvings
        self.restore()
        self.elapsed, self.halvings = elapsed, halvings + 1
        self.log(diverged=why, halvings=self.halvings)

    @torch.no_grad()
    def validate(self, pictures: list[Pixels]) -> dict[str, Any]:
        """Averaged weights on fixed validation crops with rounded symbols: bpp of both orders, hyper bpp,
        PSNR, loss."""
        if not pictures:
            return {}
        model = self.average
        model.quantise_twins(self.schedule.quantise_twins)
        rows: dict[str, Any] = {}
        total = 0.0
        for value in VALIDATION_RATES:
            sums = np.zeros(6)
            for first in range(0, len(pictures), 4):
                x = to_input(np.stack(pictures[first : first + 4]), self.options.device)
                rate = torch.full((len(x),), value, device=self.options.device)
                terms = model(x, rate)
                psnr = -10 * torch.log10(terms.mse)
                loss = terms.loss(rate).expand(len(x))
                parts = (terms.direct, terms.context, terms.hyper, psnr, terms.error, loss)
                sums += np.array([float(part.sum()) for part in parts])
            direct, context, hyper, psnr_mean, error, loss_mean = (sums / len(pictures)).tolist()
            rows[f"r{value}"] = {
                "bpp0": round(direct + hyper, 4),
                "bpp1": round(context + hyper, 4),
                "z": round(hyper, 4),
                "psnr": round(psnr_mean, 3),
            }
            if self.options.distortion == "ms-ssim":
                rows[f"r{value}"]["ms_ssim"] = round(1 - error / MS_SSIM_UNIT, 5)
            total += loss_mean
        return {"val_loss": round(total / len(VALIDATION_RATES), 5), **rows}


def validation_pictures(crops: list[Pixels]) -> list[Pixels]:
    """Crops cut to the commonest of their sizes in multiples of 64, 512 at most; without those that are
    smaller."""
    sizes = Counter(tuple(min(512, side // 64 * 64) for side in crop.shape[:2]) for crop in crops)
    height, width = sizes.most_common(1)[0][0] if sizes else (0, 0)
    cut = [crop[:height, :width] for crop in crops]
    return [crop for crop in cut if crop.size and crop.shape == (height, width, 3)]


def train(options: TrainOptions) -> None:
    """Train until `options.minutes` are used up, then stop; export is a separate step
    (`licodec.training.export`)."""
    trainer = Trainer(options)
    trainer.model.prices.compile(options.device)
    trainer.run()

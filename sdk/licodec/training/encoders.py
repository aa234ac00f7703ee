"""Ways for the encoder of trained weights to go on learning while all that decodes stands still: whatever one
gains is had with the same decoder, and its files stay valid.

The ways take turns on one processor core, see the same batches, and each ends when it has used its minutes of
processor time, so that a busy machine is as busy for all. The learning rate stays, and what counts are
averages over the last steps, validated after 1/8, 1/4, 1/2 and all of the time: a run that is cut off tells
something too.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from licodec.store import Weights, load
from licodec.training.data import DRAWN_SHARE, Crops, Pixels, read_crops, to_input
from licodec.training.export import TAG_FILE, trained_model
from licodec.training.loop import VALIDATION_RATES, parameter_groups, take_half, validation_pictures
from licodec.training.objective import Terms, TrainingModel, rate_lambda
from licodec.training.soap import Soap
from licodec.training.turns import Spent, by_turns, log

ENCODER = ("analysis.", "refinement.", "hyper_analysis.")
BATCH, SIDE = 6, 208
WARM_STEPS = 50
VALIDATED = (1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the time after which the ways are compared."""
AVERAGED = 0.2
"""Share of the steps, the last ones, that the average is about."""


@dataclass(frozen=True)
class Way:
    """What an encoder learns with.

    Attributes:
        blocks: stand at the end of the analysis' 1/8 grid, each made for its width.
        term: bits per pixel that latents [B, M, h, w] in units of symbols cost beside what they take, each
            picture [B].
    """

    blocks: tuple[Callable[[int], nn.Module], ...] = ()
    term: Callable[[Tensor], Tensor] = lambda y: y.new_zeros(len(y))


def objective(terms: Terms) -> tuple[Tensor, Tensor]:
    """Bits per pixel in order 1 and 255^2 MSE, each picture [B]."""
    return terms.context + terms.hyper, 255**2 * terms.error


class Contender:
    """A way to go on: its encoder learns, what decodes stands still."""

    def __init__(self, way: Way, start: TrainingModel, seed: int, learning_rate: float) -> None:
        self.way, self.learning_rate = way, learning_rate
        self.model = copy.deepcopy(start)
        self.steps = 0
        torch.manual_seed(seed)
        blocks = self.model.analysis.eighth_blocks
        assert isinstance(blocks, nn.ModuleList)
        for make in way.blocks:
            block = make(self.model.preset.eighth)
            blocks.append(block.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        for parameter_name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter_name.startswith(ENCODER))
        groups = parameter_groups(self.model)
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        self.optimiser = Soap([group for group in groups if group["params"]], lr=learning_rate)
        self.learning = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.rng = np.random.default_rng(seed)

    def step(self, crops: Crops, progress: float = 0.0) -> None:
        """One step, the same at any progress."""
        self.learn(*self.drawn(crops))

    def drawn(self, crops: Crops) -> tuple[Pixels, Tensor]:
        """A batch of its own, and the rates of its pictures."""
        spread = (self.rng.permutation(BATCH) + self.rng.random(BATCH)) / BATCH
        rate = (256 * spread).astype(np.int64)
        pixels = crops.draw(self.rng, SIDE, take_half(self.rng, rate), DRAWN_SHARE)
        return pixels, torch.from_numpy(rate)

    def gradient(self, pixels: Pixels, rate: Tensor) -> None:
        blocks, weight = to_input(pixels, "cpu"), rate_lambda(rate)
        y, z = self.model.latents(blocks, rate)
        bits, error = objective(self.model.priced(blocks, y, z, rate))
        loss = ((bits + self.way.term(y) + weight * error) * (0.016 / weight).sqrt()).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]

    def learn(self, pixels: Pixels, rate: Tensor) -> None:
        self.gradient(pixels, rate)
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.steps += 1
        for group in self.optimiser.param_groups:
            group["lr"] = min(1.0, self.steps / WARM_STEPS) * self.learning_rate * group["factor"]
        self.optimiser.step()
        with torch.no_grad():
            for (name, learnt), averaged in zip(
                self.model.named_parameters(), self.average.parameters(), strict=True
            ):
                if name.startswith(ENCODER):
                    averaged.lerp_(learnt, 1 / (1 + AVERAGED * self.steps))

    @torch.no_grad()
    def validate(self, held: Sequence[Pixels]) -> dict[str, list[float]]:
        """Means over pictures at each validation rate: bits per pixel, PSNR, and the objective."""
        found: dict[str, list[float]] = {"bpp": [], "psnr": [], "objective": []}
        for value in VALIDATION_RATES:
            rate = torch.tensor([value])
            rows = [objective(self.average(to_input(x[None], "cpu"), rate)) for x in held]
            bits, error = (np.array([float(row[part]) for row in rows]) for part in (0, 1))
            found["bpp"].append(round(float(bits.mean()), 6))
            found["psnr"].append(round(float(np.mean(10 * np.log10(255**2 / error))), 4))
            found["objective"].append(round(float((bits + float(rate_lambda(rate)) * error).mean()), 6))
        return found


def rate_change(row: Mapping[str, Sequence[float]], start: Mapping[str, Sequence[float]]) -> list[float]:
    """Bits at equal PSNR against the start, in percent at each rate, by the local slope of its curve; both as
    `Contender.validate` has them."""
    bits, psnr = np.log(start["bpp"]), np.array(start["psnr"])
    with np.errstate(divide="ignore", invalid="ignore"):  # where rates don't differ there is no slope
        slope = np.gradient(bits, psnr)
        change = np.log(row["bpp"]) - bits - (np.array(row["psnr"]) - psnr) * slope
    return [round(100 * float(value), 3) for value in np.expm1(change)]


def compare(
    start: TrainingModel,
    crops: Crops,
    held: Sequence[Pixels],
    out: Path,
    *,
    ways: Mapping[str, Way],
    minutes: float,
    learning_rate: float,
    seed: int,
) -> None:
    """Writes OUT/log.jsonl, and OUT/WAY.pt with what each way's encoder became."""
    out.mkdir(parents=True, exist_ok=True)
    contenders = {name: Contender(way, start, seed, learning_rate) for name, way in ways.items()}

    log(out, {"minutes": minutes, "learning_rate": learning_rate, "seed": seed})
    before = next(iter(contenders.values())).validate(held)
    log(out, {"way": "start", "rates": VALIDATION_RATES, **before})
    due = [60 * minutes * share for share in VALIDATED]

    def told(spent: Mapping[str, Spent]) -> None:
        log(out, {name: [had.steps, round(had.seconds)] for name, had in spent.items()})
        least = min(had.seconds for had in spent.values())
        if not any(at <= least for at in due):
            return
        due[:] = [at for at in due if at > least]
        for name, each in contenders.items():
            state = {n: x for n, x in each.average.state_dict().items() if n.startswith(ENCODER)}
            torch.save(state, out / f"{name}.pt")
            facts = {"way": name, "steps": each.steps, "seconds": round(spent[name].seconds)}
            now = each.validate(held)
            log(out, {**facts, **now, "rate_change": rate_change(now, before)})

    for each in contenders.values():  # what is compiled is compiled before anybody's time counts
        each.gradient(*each.drawn(crops))
    steps = {name: functools.partial(each.step, crops) for name, each in contenders.items()}
    by_turns(steps, 60 * minutes, told=told)


def arguments(about: str | None, minutes: float) -> argparse.ArgumentParser:
    """What commands that compare ways understand."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of the weights that the encoder goes on from")
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=minutes, help="of processor time, for each way")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    parser.add_argument("--seed", type=int, default=7)
    return parser


def compared(wish: argparse.Namespace, ways: Mapping[str, Way]) -> Weights:
    """Do what `arguments` understood, on one thread; returns the weights it started from."""
    torch.set_num_threads(1)
    base = load("fhic", wish.base.name, path=wish.base / TAG_FILE)
    start = trained_model(base)
    start.prices.compile("cpu")
    compare(
        start,
        Crops.load(wish.data, wish.cache),
        validation_pictures(read_crops(wish.data, "val.jsonl")[::8]),
        wish.run,
        ways=ways,
        minutes=wish.minutes,
        learning_rate=wish.learning_rate,
        seed=wish.seed,
    )
    return base

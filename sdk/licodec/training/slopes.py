"""Does the gradient say what the loss does?

    python -m licodec.training.slopes RUN DATA/train

Rounding has no gradient, so training uses a substitute, and a biased one shows in no curve: the loss falls
for a while, and then everything stands still in the wrong place. Here some of the model's numbers are moved
by a per cent, all together, and the slope of the objective on validation crops is put beside the one
that the gradient promises.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from licodec.training.data import Pixels, read_crops, to_input
from licodec.training.export import load_average
from licodec.training.loop import VALIDATION_RATES, validation_pictures
from licodec.training.objective import Terms, TrainingModel

STEP = 0.01
"""Nearer is truer where the objective is smooth, and noisier where symbols flip."""
Direction = dict[str, Tensor]
"""Parameters by name, and how each moves for one unit of the direction."""


def directions(model: TrainingModel) -> dict[str, Direction]:
    """Finer quantisation at every rate; larger decoded values alone, where the gradient is exact but
    for what the refinement sees of them; larger means; larger corrections by the analysis."""
    ones = torch.ones_like(model.gain)
    found: dict[str, Direction] = {
        "finer steps": {"gain": ones, "inverse_gain": -ones},
        "decoded scale": {"inverse_gain": ones},
    }
    for title, pattern in {
        "means": "means.heads.*.2.*",
        "analysis, 1/4": "analysis.to_quarter.*",
        "analysis, 1/8": "analysis.from_eighth.*",
    }.items():
        named = model.named_parameters()
        found[title] = {name: p.detach().clone() for name, p in named if fnmatchcase(name, pattern)}
    return found


def slopes(model: TrainingModel, pictures: Sequence[Pixels], rate: int) -> dict[str, tuple[float, float]]:
    """By direction: slope of the objective (order 1) by central differences, and by the gradient."""
    model.mixed = False  # in bfloat16 differences this small are a quarter off
    found = directions(model)
    named = dict(model.named_parameters())

    def loss(picture: Pixels) -> Tensor:
        at = torch.tensor([rate])
        terms: Terms = model(to_input(picture[None], "cpu"), at)
        terms.direct = torch.zeros(1)
        return terms.loss(at)

    def mean_loss() -> float:
        return float(np.mean([float(loss(picture)) for picture in pictures]))

    model.requires_grad_(True).zero_grad(set_to_none=True)
    for picture in pictures:
        loss(picture).backward()  # type: ignore[no-untyped-call]
    out = {}
    for title, direction in found.items():
        along = [float((_gradient(named[name]) * step).sum()) for name, step in direction.items()]
        with torch.no_grad():
            ends = [_moved(named, direction, side * STEP, mean_loss) for side in (1, -1)]
        out[title] = ((ends[0] - ends[1]) / (2 * STEP), sum(along) / len(pictures))
    return out


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _moved(
    named: dict[str, torch.nn.Parameter], direction: Direction, by: float, loss: Callable[[], float]
) -> float:
    kept = {name: named[name].detach().clone() for name in direction}
    for name, step in direction.items():
        named[name].add_(step, alpha=by)
    value = loss()
    for name, before in kept.items():
        named[name].copy_(before)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--preset", default="s")
    wish = parser.parse_args()
    model = load_average(wish.run / "last.pt", wish.preset)
    model.quantise_twins(True)
    pictures = validation_pictures(read_crops(wish.data, "val.jsonl")[::4])[: wish.pictures]
    for rate in VALIDATION_RATES:
        for title, (true, promised) in slopes(model, pictures, rate).items():
            print(
                json.dumps(
                    {"rate": rate, "moved": title, "true": round(true, 4), "gradient": round(promised, 4)}
                )
            )


if __name__ == "__main__":
    main()

"""A run whose average counts: nets that learn, for so many minutes of processor time, from what stands still.

The folder of a run has last.pt, which holds what it takes to go on, and log.jsonl, an object a line.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from licodec.training.loop import CHECKPOINT_MINUTES, PLATEAU
from licodec.training.soap import Soap

WARM_STEPS = 100
Net = TypeVar("Net", bound=nn.Module)
BatchT = TypeVar("BatchT")


class AveragedRun(Generic[Net, BatchT]):
    """Net, optimiser, average and clock of a folder. What learns of the net has gradients.

    Args:
        groups: of the parameters that learn, as `Soap` takes them, each with its `factor` of the learning
            rate.
    """

    VALIDATED_EVERY: ClassVar = 1
    """Checkpoints from one validation to the next."""

    def __init__(
        self,
        net: Net,
        groups: list[dict[str, Any]],
        out: Path,
        *,
        minutes: float,
        learning_rate: float,
        seed: int = 1,
    ) -> None:
        self.net, self.out, self.minutes, self.top = net, out, minutes, learning_rate
        self.optimiser = Soap(groups, lr=learning_rate)
        self.learning = [p for p in net.parameters() if p.requires_grad]
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.rng = np.random.default_rng(seed)
        self.step, self.elapsed = 0, 0.0
        self.last = out / "last.pt"

    def loss(self, batch: BatchT) -> Tensor:
        """To be lowered."""
        raise NotImplementedError

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / (60 * self.minutes))

    def save(self, **more: Any) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "rng": self.rng.bit_generator.state,
            **more,
        }
        partial = self.last.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.last)

    def restore(self) -> None:
        state = torch.load(self.last, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.rng.bit_generator.state = state["rng"]

    def log(self, **row: Any) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 2), **row}
        with (self.out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)

    def train_step(self, batch: BatchT) -> float:
        loss = self.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise FloatingPointError(f"step {self.step}: loss {value}, gradient norm {float(norm)}")
        down = max(0.0, (self.progress - PLATEAU) / (1 - PLATEAU))
        now = self.top * min(1.0, (self.step + 1) / WARM_STEPS)
        now *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * down))
        for group in self.optimiser.param_groups:
            group["lr"] = now * group["factor"]
        self.optimiser.step()
        self.step += 1
        share = 1 / (10 + min(2000.0, self.step / 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), share)
        return value

    def train(self, batches: Iterator[BatchT], validate: Callable[[Net], dict[str, Any]]) -> None:
        """Until the minutes are used up; the average is what counts."""
        saved = clock = time.process_time()
        losses: list[float] = []
        checkpoints = 0
        try:
            while self.elapsed < 60 * self.minutes:
                losses.append(self.train_step(next(batches)))
                now = time.process_time()
                self.elapsed, clock = self.elapsed + now - clock, now
                if now - saved > 60 * CHECKPOINT_MINUTES:
                    self.save()
                    checkpoints += 1
                    found = {} if checkpoints % self.VALIDATED_EVERY else validate(self.average)
                    self.log(loss=round(float(np.mean(losses)), 5), **found)
                    saved = clock = time.process_time()
                    losses = []
        finally:
            self.save()
        self.log(end=True, loss=round(float(np.mean(losses or [0.0])), 5), **validate(self.average))

"""Ways to train that are compared: they take turns on one core until each has had its processor time.

A machine that is shared or that changes its speed from minute to minute is then the same for all of them, and
a pause counts for none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

TURN_SECONDS = 20.0


@dataclass
class Spent:
    """What a way has had: steps, and seconds of the process' processor time."""

    steps: int = 0
    seconds: float = 0.0


def by_turns(
    ways: Mapping[str, Callable[[float], object]],
    whole: float,
    turn: float = TURN_SECONDS,
    told: Callable[[Mapping[str, Spent]], object] = lambda spent: None,
) -> dict[str, Spent]:
    """Run the ways' steps, `whole` seconds of processor time each, `turn` seconds at a time.

    Args:
        ways: a step of each, which gets the share 0..1 of its time that is used up. told: is called after
            each round.
    """
    spent = {name: Spent() for name in ways}
    while any(each.seconds < whole for each in spent.values()):
        for name, step in ways.items():
            had = spent[name]
            end = min(whole, had.seconds + turn)
            before, began = had.seconds, time.process_time()
            while had.seconds < end:
                step(had.seconds / whole)
                had.steps += 1
                had.seconds = before + time.process_time() - began
        told(spent)
    return spent


def log(run: Path, row: Mapping[str, object]) -> None:
    """Append a row to RUN/log.jsonl."""
    with (run / "log.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")

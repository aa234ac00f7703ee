"""examples/README.md as data: which commands it shows, and what it says that they print."""

from __future__ import annotations

import glob
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "examples" / "README.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A command and the lines that the page shows below it."""

    command: str
    lines: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """What stands behind the program's name, patterns expanded in the current folder."""
        words = shlex.split(self.command.removesuffix(" &"))[2:]
        return [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]


def shown(start: str) -> list[Shown]:
    """The page's commands that begin so."""
    found: list[Shown] = []
    for block in CONSOLE.findall(PAGE.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            found.append(Shown(command, tuple(line for line in lines if line)))
    return [each for each in found if each.command.startswith(start)]


def masked(lines: list[str] | tuple[str, ...]) -> list[str]:
    """Lines without the numbers, which other weights or another machine may change."""
    return [re.sub(r"\d[\d.,]*", "#", line) for line in lines if line]

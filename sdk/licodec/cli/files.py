"""Inputs and outputs by name: `-`, folders, suffixes, and what must not be overwritten by accident.

All outputs are decided before any work begins, so that a clash is a usage error and nothing is half done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from licodec.atomic import write_atomic

STREAM = "-"


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; `-` is stdin or stdout. `target` None: there is no output."""

    source: str
    target: str | None = None
    overwrite: bool = True

    def read(self) -> bytes:
        """Return the whole input. Raises OSError."""
        return sys.stdin.buffer.read() if self.source == STREAM else Path(self.source).read_bytes()

    def check_target(self) -> None:
        """Raise OSError where the target exists and must not be overwritten; call it before the work."""
        if self.target not in (None, STREAM) and not self.overwrite and os.path.lexists(str(self.target)):
            raise FileExistsError(f"{self.target} exists already and --no-overwrite is given")

    def write(self, data: bytes) -> None:
        """Write the result: a file whole or not at all, or stdout. Raises OSError."""
        if self.target == STREAM:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        elif self.target is not None:
            write_atomic(self.target, data)


def plan(
    sources: Sequence[str], output: str | None, suffix: str, *, overwrite: bool = True, reads: str = ""
) -> list[Job]:
    """Return a job for every input; `reads`: the suffix that inputs have, where it is one.

    Without `output` a result lies beside its input, with `suffix`; stdin's goes to stdout. `output` may be a
    folder (made where needed; the only choice for several inputs), a file, or `-`. Raises click.UsageError
    where two names clash.
    """
    check_sources(sources)
    if output is None:
        targets = [STREAM if name == STREAM else str(Path(name).with_suffix(suffix)) for name in sources]
    elif output == STREAM or (len(sources) == 1 and not _is_folder(output)):
        if len(sources) > 1:
            raise click.UsageError(f"-o -: takes one input, got {len(sources)}")
        targets = [output]
    else:
        targets = [str(_folder(output) / (_stem(name) + suffix)) for name in sources]
    _refuse_clashes(sources, targets, reads)
    if STREAM in targets and sys.stdout.isatty():
        raise click.UsageError("stdout is a terminal; name a file with -o, or send the data into a pipe")
    return [Job(source, target, overwrite) for source, target in zip(sources, targets, strict=True)]


def check_sources(sources: Sequence[str]) -> None:
    """Raise click.UsageError where stdin is named twice or would be typed by hand, or a name is none."""
    for name in sources:
        if not Path(name).name:  # "", which an unset variable of a shell leaves, "." and "/"
            raise click.UsageError(f"{name!r} names no file")
    if list(sources).count(STREAM) > 1:
        raise click.UsageError("-: stdin can be named once")
    if STREAM in sources and sys.stdin.isatty():
        raise click.UsageError("-: stdin is a terminal; name a file, or send the data through a pipe")


def _stem(name: str) -> str:
    return "stdin" if name == STREAM else Path(name).stem


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def _folder(output: str) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise click.UsageError(f"-o {output}: must be a folder for several inputs, but is a file") from error
    return folder


def _refuse_clashes(sources: Sequence[str], targets: Sequence[str], reads: str) -> None:
    inputs = {os.path.realpath(source) for source in sources if source != STREAM}
    taken: dict[str, str] = {}
    for source, target in zip(sources, targets, strict=True):
        if target == STREAM:
            continue
        path = os.path.realpath(target)
        if path in inputs:
            other = (
                f"; what is read are {reads} files" if reads and Path(target).suffix.lower() != reads else ""
            )
            raise click.UsageError(
                f"{source}: the result would overwrite the input {target}; name another with -o{other}"
            )
        if path in taken:
            raise click.UsageError(f"{source} and {taken[path]} would both be written to {target}")
        taken[path] = source

"""One piece of work for each of many files: in several threads if asked, and one bad file stops no other."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from PIL import Image, UnidentifiedImageError

from lic_format.errors import LicError
from licodec.cli.files import STREAM, Job

FILE_ERRORS = (
    LicError,
    OSError,
    MemoryError,
    # What Pillow raises for pictures that are damaged or far too large, beside OSError.
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)
Advance = Callable[[], None]


@dataclass(frozen=True)
class Batch:
    """How a command over many files runs and prints.

    `line` makes a report readable. `jobs` is the number of threads; reports come in the order of the inputs
    whatever it is.
    """

    line: Callable[[dict[str, Any]], str]
    jobs: int = 1
    as_json: bool = False
    quiet: bool = False

    def run(self, plan: Sequence[Job], work: Callable[[Job], dict[str, Any]]) -> int:
        """Do `work` for every job and print its report; return the exit status: 1 where a file failed."""
        data_on_stdout = any(job.target == STREAM for job in plan)
        if data_on_stdout and self.as_json:
            raise click.UsageError("--json and the result both want stdout; name a file with -o")
        failed = False
        with self._progress(len(plan)) as advance, contextlib.closing(self._outcomes(plan, work)) as outcomes:
            for job, outcome in outcomes:
                try:
                    report = outcome()
                except FILE_ERRORS as error:
                    failed = True
                    click.echo(f"licodec: {_shown(job.source)}: {reason(error, job.source)}", err=True)
                else:
                    if self.as_json:
                        click.echo(json.dumps(report))
                    elif not self.quiet and not data_on_stdout:
                        click.echo(self.line(report))
                advance()
        return int(failed)

    def _outcomes(
        self, plan: Sequence[Job], work: Callable[[Job], dict[str, Any]]
    ) -> Generator[tuple[Job, Callable[[], dict[str, Any]]]]:
        if self.jobs == 1:
            for job in plan:
                yield job, partial(work, job)
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            waiting: list[tuple[Job, Future[dict[str, Any]]]] = [
                (job, pool.submit(work, job)) for job in plan
            ]
            try:
                for job, future in waiting:
                    yield job, future.result
            finally:  # after Ctrl-C: finish what is running, start nothing new
                pool.shutdown(wait=True, cancel_futures=True)

    @contextlib.contextmanager
    def _progress(self, total: int) -> Iterator[Advance]:
        if total < 2 or self.quiet or not sys.stderr.isatty():
            yield lambda: None
            return
        with progress_bar(total) as advance:
            yield lambda: advance("")


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Draw a bar on stderr; call the value after each of `total` steps, with a few words on what is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda words: progress.update(task, advance=1, description=words)


def reason(error: BaseException, source: str = "") -> str:
    """Return why a file failed, in one line; names the file that an error is about where that is another."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, UnidentifiedImageError) and not isinstance(error, LicError):
        return "Pillow reads no such picture"  # it would name an object in memory
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        other = error.filename if error.filename not in (None, source) else None
        text = f"{error.strerror}: {other}" if other else error.strerror
    return " ".join(text.split()) or type(error).__name__


def _shown(source: str) -> str:
    return "stdin" if source == STREAM else source

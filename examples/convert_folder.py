"""Encode every picture of a folder, and of the folders in it, into `.lic` files of the same names elsewhere.

python examples/convert_folder.py out/samples/pictures out/converted --quality 60

One process a core; a bar where there is a terminal. A file is there whole or not at all, and one that is
newer than its picture is left alone: a run that was stopped goes on where it was. A picture that can't be
encoded is named on stderr and stops no other; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

import licodec

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp"}
# What Pillow raises for files that are damaged or far too large, and licodec for pictures it doesn't take.
PICTURE_ERRORS = (
    licodec.LicError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
)


def start_worker(threads: int) -> None:
    """In every worker process, before its first picture."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which lets each picture be finished
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch reads it when it is loaded, which is later


def convert(source: Path, target: Path, quality: float) -> tuple[int, str]:
    """The bytes of the file that was written and "", or 0 and why there is none."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as picture:
            licodec.save(picture, target, quality=quality)
        return target.stat().st_size, ""
    except PICTURE_ERRORS as error:
        return 0, str(error) or type(error).__name__


def plan(pictures: Path, out: Path) -> dict[Path, Path]:
    """Every picture by the file that it becomes. Raises ValueError where two would become one."""
    targets: dict[Path, Path] = {}
    for source in sorted(pictures.rglob("*")):
        if source.suffix.lower() not in SUFFIXES or not source.is_file():
            continue
        target = (out / source.relative_to(pictures)).with_suffix(".lic")
        if target in targets:
            raise ValueError(f"{source} and {targets[target]} would both become {target}; rename one")
        targets[target] = source
    return targets


def is_done(source: Path, target: Path) -> bool:
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def run(jobs: list[tuple[Path, Path]], quality: float, workers: int) -> Generator[tuple[Path, int, str]]:
    """The source of every job and what `convert` says of it, as they are done.

    Few jobs are given out at a time: a million pictures need no more memory than ten.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    # spawn: a fork of a process that has threads, as that of a bar, may hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=start_worker, initargs=(threads,)
    )
    waiting: dict[Future[tuple[int, str]], Path] = {}
    left = iter(jobs)
    try:
        while True:
            for source, target in islice(left, 4 * workers - len(waiting)):
                waiting[pool.submit(convert, source, target, quality)] = source
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), *future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Encode a folder of pictures into .lic files.")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quality", type=float, default=75)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if not given.pictures.is_dir():
        parser.error(f"{given.pictures} is no folder")
    if not 0 <= given.quality <= 100 or given.workers < 1:
        parser.error("--quality is from 0 to 100, --workers at least 1")
    try:
        targets = plan(given.pictures, given.out)
    except ValueError as error:
        parser.error(str(error))

    jobs = [(source, target) for target, source in targets.items() if not is_done(source, target)]
    written = failed = before = after = 0
    console = Console(stderr=True, soft_wrap=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("encoding", total=len(jobs))
            results = run(jobs, given.quality, min(given.workers, len(jobs) or 1))
            with contextlib.closing(results):  # whatever happens here, the workers end
                for source, size, reason in results:
                    if reason:
                        failed += 1
                        console.print(f"{source}: {reason}", markup=False, highlight=False)
                    else:
                        written += 1
                        before += source.stat().st_size
                        after += size
                    progress.advance(bar)
    except KeyboardInterrupt:
        print(f"stopped: {written} of {len(jobs)} files written", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(
            "a worker was ended from outside, for want of memory perhaps: try fewer --workers",
            file=sys.stderr,
        )
        return 1
    print(
        f"{written} files written ({before:,} bytes -> {after:,}), {failed} failed, "
        f"{len(targets) - len(jobs)} done before"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

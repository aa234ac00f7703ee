"""Measure what image formats do for those who use them through Pillow, and write the table of peers.

    python tools/peers.py --out docs/peers.md             # all of it: some minutes
    python tools/peers.py --rows verify,parser --formats png,lic

Every cell is a probe of tests/peers/probes.py in a process of its own, with a time limit: a format that
crashes or hangs has a cell that says so. Rows whose figures are times run at the end, one at a time. The exit
status is 1 where `.lic` fails a row. Formats that are not installed are left out; `make peers` installs all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import features

from licodec.atomic import write_atomic
from licodec.evaluation.bench import environment
from tests.peers.formats import FORMATS
from tests.peers.probes import ROWS, THREADS, Finding, Row, Scale

ROOT = Path(__file__).resolve().parents[1]
OURS = "lic"
LIMIT_SECONDS = 300
LIBRARIES = ("webp", "avif", "jpg_2000", "libjpeg_turbo", "zlib_ng", "zlib")

Cell = tuple[str, str]
"""Row and format."""


@dataclass(frozen=True)
class Table:
    rows: Mapping[str, Row]
    formats: Sequence[str]
    findings: Mapping[Cell, Finding]
    limit: float = LIMIT_SECONDS

    @property
    def failures(self) -> list[str]:
        """Titles of the rows that `.lic` fails."""
        return [
            row.title for name, row in self.rows.items()
            if OURS in self.formats and self.findings[name, OURS].kept is False
        ]  # fmt: skip


def installed(names: Iterable[str]) -> list[str]:
    return [name for name in names if _version(FORMATS[name].distribution)]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# --- measure --------------------------------------------------------------------------------------


def measured(
    command: Sequence[str], limit: float = LIMIT_SECONDS, environment: Mapping[str, str] | None = None
) -> Finding:
    """What a probe printed, or how its process ended without."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return Finding(f"no end in {limit:g} s", False)
    if done.returncode < 0:
        return Finding(f"crash ({signal.Signals(-done.returncode).name})", False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return Finding(lines[-1].partition(":")[0].rpartition(".")[2], False)
    return Finding(**json.loads(done.stdout.splitlines()[-1]))


def probe(cell: Cell, limit: float = LIMIT_SECONDS) -> Finding:
    row, name = cell
    paths = [str(ROOT), str(ROOT / "sdk"), os.environ.get("PYTHONPATH", "")]
    found = measured(
        [sys.executable, "-m", "tests.peers.probes", name, row],
        limit,
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    print(f"{row} {name}: {found.seen}", file=sys.stderr)
    return found


def measure(rows: Sequence[str], formats: Sequence[str], jobs: int, limit: float = LIMIT_SECONDS) -> Table:
    cells = [(row, name) for row in rows for name in formats]
    together = [cell for cell in cells if not ROWS[cell[0]].timing]
    with ThreadPoolExecutor(jobs) as pool:
        findings = dict(zip(together, pool.map(lambda cell: probe(cell, limit), together), strict=True))
    findings |= {cell: probe(cell, limit) for cell in cells if ROWS[cell[0]].timing}
    return Table({row: ROWS[row] for row in rows}, formats, findings, limit)


# --- write ----------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """The table alone."""
    titles = [FORMATS[name].title for name in table.formats]
    lines = [["behaviour", *titles], ["---"] * (1 + len(titles))]
    for key, row in table.rows.items():
        lines.append([row.title, *(shown(table.findings[key, name]) for name in table.formats)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(finding: Finding) -> str:
    text = finding.seen.replace("|", "\\|")
    return f"**{text}**" if finding.kept is False else text


def page(table: Table) -> str:
    failures = "".join(f"| {row.title} | {row.failure} |\n" for row in table.rows.values())
    ours = (
        f"`.lic` fails {len(table.failures)} of {len(table.rows)} rows: {'; '.join(table.failures)}."
        if table.failures
        else f"`.lic` keeps all {len(table.rows)} rows."
    )
    return f"""# Peers

What formats do for those who use them through Pillow: Pillow's own, the plugins for AVIF, HEIF and JPEG XL,
and `.lic`. This page is written by a program, from what it measured:

<!-- not run: it takes minutes -->
```console
$ make peers
```

**Bold** is what would count as a failure of `.lic`; the second table says what does. Each format is judged by
it alike, and may have its reasons: JPEG has no alpha to keep, and that unknown options are ignored is a
convention of Pillow's. {ours}

{markdown(table)}
## What counts as a failure

| behaviour | a failure is |
| --- | --- |
{failures}
## How it was measured

Each cell is one probe of `tests/peers/probes.py`, the same for every format, in a process of its own, which
knows one format besides those of Pillow and is ended after {table.limit:g} s.
`python -m tests.peers.probes webp i16` runs one.

- Pictures are parts of `examples/photo.png`: 96 x 64 pixels, 1200 x 900 for threads and half files, 4000 x
  3000 for times. Modes and lossless files are saved with the options that lose least, the rest with a
  format's defaults.
- OSError stands for all its subclasses; an error class of a plugin's own for the built-in class that it is.
- Threads: {_loads()} loads; {Scale.images * THREADS} on own images. How many go wrong differs
  from run to run; what counts is whether any does.
- {_versions(table.formats)}
"""


def _loads() -> str:
    scale = Scale()
    loads = scale.rounds * scale.images * THREADS
    return f"{scale.rounds} rounds of {scale.images} pictures for {THREADS} threads, {loads}"


def _versions(formats: Sequence[str]) -> str:
    found = environment(threads=0, device="cpu")
    packages = dict.fromkeys(FORMATS[name].distribution for name in formats)
    versions = [f"{package} {_version(package)}" for package in packages]
    versions += [f"torch {found['torch']}"] if OURS in formats and "torch" in found else []
    libraries = [f"{name} {features.version(name)}" for name in LIBRARIES if features.version(name)]
    return (
        f"{found['date']}, Python {found['python']}, {platform.system()}, {found['processor']}, "
        f"{found['cores']} cores. {', '.join(versions)}. Inside Pillow: {', '.join(libraries)}."
    )


# --- command --------------------------------------------------------------------------------------


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return found

    return names


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the page here; else the table is printed")
    parser.add_argument("--rows", type=_names(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--formats", type=_names(FORMATS), help=f"of {', '.join(FORMATS)}")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_SECONDS,
        help="seconds that a probe may take; more on a busy machine",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    given = parser.parse_args(arguments)
    if given.out and (given.rows or given.formats):
        parser.error("--out is for the whole page: leave out --rows and --formats")
    formats = installed(given.formats or FORMATS)
    for name in set(given.formats or FORMATS).difference(formats):
        print(f"{name} is left out: {FORMATS[name].distribution} is not installed", file=sys.stderr)
    table = measure(given.rows or list(ROWS), formats, given.jobs, given.limit)
    if given.out:
        write_atomic(given.out, page(table).encode())
    else:
        print(markdown(table), end="")
    for title in table.failures:
        print(f".lic fails: {title}", file=sys.stderr)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())

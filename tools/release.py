"""Make this tree a release: version, changelog, and what is frozen from then on.

    python tools/release.py 0.1.0 [--date 2026-01-31] [--check]

sets the version, gives what CHANGELOG.md has under Unreleased the version's heading, and adds all tags of
known.json and all golden files that are new to tests/golden/frozen.json. It refuses, with everything that is
wrong, a tree that is not ready; --check only says whether it is. It commits nothing.

The three files are written whole or not at all. Where the machine stops in between, the same command again
finishes: it starts from what the last commit has.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lic_format
from lic_format.errors import LicError
from licodec.atomic import write_atomic
from licodec.codecs.registry import CODECS
from licodec.store.digests import FAST
from licodec.store.table import FILE_NAME, TABLE, read_table
from tools import frozen
from tools.frozen import FROZEN, GOLDEN, ROOT, WEIGHTS

VERSION = ROOT / "sdk" / "licodec" / "version.py"
CHANGELOG = ROOT / "CHANGELOG.md"
README = ROOT / "README.md"
UNRELEASED = "## Unreleased\n"

Texts = dict[Path, str]


class NotReady(Exception):
    """The tree can't be released as it is; the message says why."""


def git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise NotReady(f"git {command[0]}: {done.stderr.strip()}")
    return done.stdout


def committed(path: Path) -> str:
    """A file as the last commit has it."""
    return git("show", f"HEAD:{path.relative_to(ROOT).as_posix()}")


def planned(version: str, date: str) -> Texts:
    """What the release writes."""
    return {
        FROZEN: frozen.with_release(committed(FROZEN), version, date),
        CHANGELOG: with_heading(committed(CHANGELOG), version, date),
        VERSION: with_version(committed(VERSION), version),
    }


def with_heading(changelog: str, version: str, date: str) -> str:
    """The changelog with what was unreleased under the heading of a version."""
    before, found, after = changelog.partition(UNRELEASED)
    if not found:
        raise NotReady(f"CHANGELOG.md has no line {UNRELEASED.strip()!r}")
    if not re.search(r"^- ", after.partition("\n## ")[0], re.MULTILINE):
        raise NotReady("CHANGELOG.md has nothing under Unreleased")
    return f"{before}{UNRELEASED}\n## {version} ({date})\n{after}"


def with_version(text: str, version: str) -> str:
    """version.py with another version."""
    new, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{version}"', text, flags=re.MULTILINE)
    if count != 1:
        raise NotReady(f"{VERSION.relative_to(ROOT)} has {count} lines that begin with __version__")
    return new


def numbers(version: str) -> tuple[int, ...]:
    """0.1.0 as (0, 1, 0)."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise NotReady(f"{version!r} is no version like 0.1.0")
    return tuple(map(int, version.split(".")))


# --- What a tree must have ----------------------------------------------------------------------------------


def problems(version: str, plan: Texts) -> Iterator[str]:
    """All that is wrong with the tree, a sentence each."""
    before = frozen.of_text(committed(FROZEN))
    for old, _ in before.releases:
        if numbers(old) >= numbers(version):
            yield f"{old} is released already, {version} would come after it"
    yield from uncommitted(plan)
    if f"before release {version}" in README.read_text():
        yield f"README.md still says 'before release {version}'"
    yield from frozen.changes(before, read_table(TABLE), frozen.golden_files())
    yield from weights_at_odds()
    yield from golden_files_at_odds()


def uncommitted(plan: Texts) -> Iterator[str]:
    """What differs from the last commit, but for what this release has written."""
    for line in git("status", "--porcelain", "--untracked-files=all", "-z").split("\0"):
        path = ROOT / line[3:]
        if line and not (path in plan and path.is_file() and path.read_text() == plan[path]):
            yield f"{line[3:]} is not committed (git status: {line[:2].strip()})"


def weights_at_odds() -> Iterator[str]:
    """Tags that nobody can have, and files that are not what known.json says."""
    names = {path.parent.relative_to(WEIGHTS).as_posix() for path in WEIGHTS.glob(f"*/*/{FILE_NAME}")}
    for entry in read_table(TABLE):
        path = WEIGHTS / entry.name / FILE_NAME
        if path.exists():
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
                yield f"{path.relative_to(ROOT)} is not what known.json says: run tools/index_weights.py"
        elif not entry.hub:
            yield f"{entry.name} is neither in weights/ nor on the Hub"
        names.discard(entry.name)
    for name in sorted(names):
        yield f"{name} is in weights/ and not in known.json: run tools/index_weights.py"


def golden_files_at_odds() -> Iterator[str]:
    """Codecs, tags and orders without a golden file, alternates without a picture of theirs, and golden files
    of other weights than the table has."""
    table = [entry for entry in read_table(TABLE) if entry.ref.codec in CODECS]
    digests = {(entry.ref.codec, entry.ref.decode_digest) for entry in table if entry.decoder == FAST}
    found: set[tuple[str, str, bytes, int]] = set()
    shown: set[tuple[str, str, bytes]] = set()
    for codec in CODECS:
        for path in sorted((GOLDEN / codec).glob("*.lic")):
            name = path.relative_to(ROOT).as_posix()
            try:
                head = lic_format.read(path.read_bytes()).head
            except LicError as error:
                yield f"{name}: {error}"
                continue
            if not path.with_suffix(".json").exists():
                yield f"{name} has no .json beside it, which says what it decodes to"
            if (codec, head.decode_digest) not in digests:
                yield (
                    f"{name} was coded with other weights than known.json has: run tools/make_golden.py "
                    f"--codec {codec} --tag {head.tag} --replace"
                )
            found.add((codec, head.tag, head.decode_digest, int(head.order)))
            for picture in path.parent.glob(f"{path.stem}.*.png"):
                shown.add((codec, picture.name.split(".")[1], head.decode_digest))
    for entry in table:
        key = (entry.ref.codec, entry.ref.tag, entry.ref.decode_digest)
        if entry.decoder != FAST:
            if (entry.ref.codec, entry.decoder, entry.ref.decode_digest) not in shown:
                yield f"no golden file has a picture of the decoder {entry.name}: run tools/make_golden.py"
            continue
        orders = {int(o) for o, tag in CODECS[entry.ref.codec].order_tags.items() if tag == entry.ref.tag}
        for order in sorted(orders):
            if (*key, order) not in found:
                yield f"{entry.name} has no golden file in decode order {order}: run tools/make_golden.py"
        if not any(each[:3] == key for each in found):
            yield f"{entry.name} has no golden file: run tools/make_golden.py"
    for codec in CODECS.keys() - {codec for codec, *_ in found}:
        yield f"the codec {codec} has no golden file"


@contextlib.contextmanager
def collected(wrong: list[str]) -> Iterator[None]:
    """Goes on after what makes a release impossible, so that the rest is said too."""
    try:
        yield
    except NotReady as error:
        wrong.append(str(error))


# --- Writing ------------------------------------------------------------------------------------------------


def write(plan: Texts) -> None:
    """Write all files of a plan, or leave all as they were where one can't be written."""
    before = {path: path.read_bytes() for path in plan}
    try:
        for path, text in plan.items():
            write_atomic(path, text.encode())
    except BaseException:
        for path, data in before.items():
            if path.read_bytes() != data:
                write_atomic(path, data)
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="as 0.1.0")
    parser.add_argument("--date", default=datetime.datetime.now(datetime.UTC).date().isoformat())
    parser.add_argument("--check", action="store_true", help="change nothing, say whether the tree is ready")
    given = parser.parse_args(arguments)
    plan: Texts = {}
    wrong: list[str] = []
    try:
        numbers(given.version)
        datetime.date.fromisoformat(given.date)
        if [version for version, _ in frozen.of_text(committed(FROZEN)).releases][-1:] == [given.version]:
            print(f"the last commit has release {given.version} already: nothing to do")
            return 0
        with collected(wrong):
            plan = planned(given.version, given.date)
        wrong += problems(given.version, plan)
    except (NotReady, ValueError, LicError) as error:
        wrong.append(str(error))
    if wrong:
        print(f"not ready for release {given.version}:", *wrong, sep="\n- ", file=sys.stderr)
        return 1
    if given.check:
        print(f"ready for release {given.version}")
        return 0
    write(plan)
    print(f"{', '.join(str(path.relative_to(ROOT)) for path in plan)} are written for {given.version}.")
    print("Next: make dist, then commit and tag (docs/releasing.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

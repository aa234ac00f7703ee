"""What releases have frozen: the content of their tags, and their golden files. tests/golden/frozen.json says
it, tools/release.py adds to it, and nothing takes anything out again.

    {"releases": [{"version": "0.1.0", "date": "2026-01-31",
                   "weights": [rows of known.json without their places on the Hub, which may come later],
                   "files": {"fhic/s-1-q5-order0.lic": SHA-256, for every file below tests/golden}}]}

A release has what is new in it: weights by tag, files by their path below tests/golden.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licodec.store import Entry
from licodec.store.table import FILE_NAME, TABLE, read_table

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
FROZEN = GOLDEN / "frozen.json"
WEIGHTS = ROOT / "weights"


@dataclass(frozen=True)
class Frozen:
    """All releases together. releases: (version, date), the oldest first. tags: by CODEC/TAG what
    `content_of` gives. files: SHA-256 by path below tests/golden."""

    releases: tuple[tuple[str, str], ...]
    tags: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]


def read(path: Path = FROZEN) -> Frozen:
    """The table of a file."""
    return of_text(path.read_text())


def of_text(text: str) -> Frozen:
    """The table that a text stands for."""
    releases = json.loads(text)["releases"]
    return Frozen(
        tuple((release["version"], release["date"]) for release in releases),
        {f"{row['codec']}/{row['tag']}": row for release in releases for row in release["weights"]},
        {path: digest for release in releases for path, digest in release["files"].items()},
    )


def with_release(text: str, version: str, date: str) -> str:
    """The text of a table with one more release, which freezes what is new in this tree."""
    before = of_text(text)
    rows = [content_of(entry) for entry in read_table(TABLE) if entry.name not in before.tags]
    files = {path: digest for path, digest in golden_files().items() if path not in before.files}
    releases = [
        *json.loads(text)["releases"],
        {"version": version, "date": date, "weights": rows, "files": files},
    ]
    return json.dumps({"releases": releases}, indent=1) + "\n"


def content_of(entry: Entry) -> dict[str, Any]:
    """What of a row of known.json must not change once it is released."""
    return {name: value for name, value in entry.as_json().items() if name != "hub"}


def golden_files() -> dict[str, str]:
    """SHA-256 by path below tests/golden of all that lies there but for the tests themselves."""
    paths = (path for path in GOLDEN.rglob("*") if path.is_file() and path != FROZEN)
    return {
        path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.suffix != ".py" and "__pycache__" not in path.parts
    }


def changes(frozen: Frozen, table: Iterable[Entry], files: Mapping[str, str]) -> Iterator[str]:
    """What a tree has changed of what is frozen, a sentence each."""
    entries = {entry.name: entry for entry in table}
    for name, content in frozen.tags.items():
        if name not in entries:
            yield f"{name} is released, but known.json has it no more"
            continue
        now = content_of(entries[name])
        for key in content.keys() | now.keys():
            if now.get(key) != content.get(key):
                yield (
                    f"{name} is released with {key} {content.get(key)}, known.json says {now.get(key)}: "
                    "give new weights a tag of their own"
                )
        path = WEIGHTS / name / FILE_NAME
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != content["sha256"]:
            yield f"{name} is released, but {path.relative_to(ROOT)} has another content"
    for place, digest in frozen.files.items():
        if place not in files:
            yield f"tests/golden/{place} is released, but not there any more"
        elif files[place] != digest:
            yield f"tests/golden/{place} is released, and was changed since"

"""Enter the weights of weights/ into the table of known weights, sdk/licodec/store/known.json.

    python tools/index_weights.py [--check]

Run it after every export. Tags that nobody has published (`hub` is null) take the new content, and a tag that
has left weights/ goes; a published or released tag (tools/release.py) is one content for ever, so other
weights under its name are refused.
--check only says whether the table is right.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Container, Iterable
from pathlib import Path

from licodec.models import CACHE, Request
from licodec.store import Entry, entry_of
from licodec.store.digests import FAST
from licodec.store.table import FILE_NAME, TABLE, read_table, text_of
from tools import frozen

ROOT = Path(__file__).resolve().parent.parent


def updated(table: Iterable[Entry], weights: Path, released: Container[str] = ()) -> list[Entry]:
    """The table after the weights below a folder; ValueError where a published or `released` tag would
    change, or where an alternate completes no weights of the table."""
    table = list(table)
    places = {entry.sha256: entry.hub for entry in table}
    found = [entry_of(path) for path in weights.glob(f"*/*/{FILE_NAME}")]
    digests = {
        (entry.ref.codec, entry.ref.decode_digest) for entry in (*table, *found) if entry.decoder == FAST
    }
    for entry in found:
        if (entry.ref.codec, entry.ref.decode_digest) not in digests:
            raise ValueError(
                f"{entry.name} completes weights of the decode digest {entry.ref.decode_digest.hex()}, which "
                "neither the table nor the folder has"
            )
    present = {entry.name: dataclasses.replace(entry, hub=places.get(entry.sha256, ())) for entry in found}
    for old in table:
        new = present.get(old.name)
        final = "published" if old.hub else "released" if old.name in released else ""
        if final and new is not None and new.sha256 != old.sha256:
            raise ValueError(
                f"{old.name} is {final} with the SHA-256 {old.sha256}, {weights} has {new.sha256}: give "
                "the new weights a tag of their own"
            )
    kept = {entry.name: entry for entry in table if entry.hub or entry.name in released}
    return sorted((kept | present).values(), key=lambda entry: entry.name)


def refuse_unfit(path: Path, table: Iterable[Entry]) -> None:
    """WeightsError where no model can be built of all tensors of new weights. Of what the table knows nobody
    looks at that again. An alternate is a synthesis for others, which its tests build."""
    new = entry_of(path)
    if new.decoder == "fast" and new.sha256 not in {entry.sha256 for entry in table}:
        CACHE.get(Request(new.ref.codec, new.ref.tag, path=str(path)), "cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description="Enter weights/ into the table of known weights.")
    parser.add_argument("--check", action="store_true", help="change nothing, say whether the table is right")
    check = parser.parse_args().check
    before = TABLE.read_text() if TABLE.exists() else ""
    table = read_table(TABLE) if before else []
    for path in (ROOT / "weights").glob(f"*/*/{FILE_NAME}"):
        refuse_unfit(path, table)
    after = text_of(updated(table, ROOT / "weights", frozen.read().tags))
    if before == after:
        print(f"{TABLE.relative_to(ROOT)} is right")
        return 0
    if check:
        print(
            f"{TABLE.relative_to(ROOT)} is not what weights/ holds: run tools/index_weights.py",
            file=sys.stderr,
        )
        return 1
    TABLE.write_text(after)
    print(f"{TABLE.relative_to(ROOT)} is written; `git diff` shows what is new")
    return 0


if __name__ == "__main__":
    sys.exit(main())

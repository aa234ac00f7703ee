"""The weights of this machine: what is here, whether it is whole, and a folder of it for another machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lic_format.errors import WeightsError
from licodec.atomic import write_atomic
from licodec.store.digests import FAST, digests_of, read_metadata
from licodec.store.hub import obtain, places_in_cache
from licodec.store.table import ENVIRONMENT, FILE_NAME, TABLE_OF_FOLDER, Entry, known, read_table, text_of
from licodec.store.weights import FACTS, embedded_folders, entry_of, load_file

Where = Literal["configured", "embedded", "cache"]

BESIDE = ("card.md", FACTS)
"""What goes with weights into a bundle where it is there."""


@dataclass(frozen=True)
class Copy:
    """A weights file of this machine, by the name of its folder: below LICODEC_WEIGHTS, in the package, or in
    the cache of the Hub's client."""

    name: str
    path: Path
    where: Where


def copies() -> Iterator[Copy]:
    """All weights files of this machine, in the order in which they are looked for."""
    configured = os.environ.get(ENVIRONMENT)
    folders: list[tuple[Path, Where]] = [(Path(configured), "configured")] if configured else []
    folders += [(folder, "embedded") for folder in embedded_folders()]
    for folder, where in folders:
        for path in sorted(folder.glob(f"*/*/{FILE_NAME}")):
            if path.is_file():
                yield Copy("/".join(path.parts[-3:-1]), path, where)
    for entry in known():
        for path in places_in_cache(entry) if entry.hub else ():
            yield Copy(entry.name, path, "cache")


def named(name: str) -> Entry:
    """The entry of a name (CODEC/TAG), or of a decode digest in hexadecimal.

    Raises:
        WeightsError: neither this version nor the configured table knows it.
    """
    for entry in sorted(known(), key=lambda entry: entry.decoder != FAST):  # which share a decode digest
        if name in (entry.name, entry.ref.decode_digest.hex()):
            return entry
    names = ", ".join(dict.fromkeys(entry.name for entry in known())) or "none"
    raise WeightsError(f"{name!r} is not known: expected a decode digest, or CODEC/TAG of {names}")


def obtainable() -> list[Entry]:
    """All that is known, but for alternates that nobody has published and that are not on this machine."""
    here = {copy.name for copy in copies()}
    return [entry for entry in known() if entry.decoder == FAST or entry.hub or entry.name in here]


def path_of(entry: Entry, download: str = "never", *, again: bool = False) -> Path:
    """A file on this machine that has the content of an entry; with `download` "auto" fetched where there is
    none.

    Raises:
        WeightsError: there is none, or it can't be fetched.
    """
    for copy in copies():
        if copy.path.stat().st_size == entry.size and _sha256(copy.path) == entry.sha256:
            return copy.path
    if not entry.hub:
        raise WeightsError(
            f"weights {entry.name} are not on this machine, and nobody has published them yet "
            "(README.md: Publishing weights)"
        )
    return obtain(entry, download, again=again)[0]


def fault_of(path: Path, name: str | None = None) -> str | None:
    """What is wrong with a weights file; None where nothing is.

    A file that the table does not know is whole where export.json beside it says the same digests, or where
    nothing says what it should be. Under a name of the table (`name`, or what the file calls itself) it is
    not.
    """
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if any(entry.sha256 == sha256 and name in (None, entry.name) for entry in known()):
            return None
        digests_of(data)
        metadata = read_metadata(data)
        codec = metadata.get("codec", path.parent.parent.name)
        name = name or f"{codec}/{metadata.get('tag', path.parent.name)}"
        load_file(path, codec, name.rpartition("/")[2])
    except WeightsError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    for entry in known():
        if entry.name == name:
            return f"has the SHA-256 {sha256}, but {entry.name} has {entry.sha256}"
    return None


def bundle(folder: Path, entries: Iterable[Entry], download: str = "auto") -> list[Path]:
    """Write weights into a folder that is enough for a machine without a network: LICODEC_WEIGHTS names it
    there. What it holds already stays.

    Raises:
        WeightsError: some of the weights are not to be had. OSError: the folder can't be written.
    """
    entries = list(entries)
    written = []
    for entry in entries:
        source = path_of(entry, download)
        target = folder / entry.ref.codec / entry.ref.tag
        target.mkdir(parents=True, exist_ok=True)
        for name in BESIDE:
            if (source.parent / name).is_file():
                write_atomic(target / name, (source.parent / name).read_bytes())
        write_atomic(target / FILE_NAME, source.read_bytes())
        written.append(target / FILE_NAME)
        if entry_of(target / FILE_NAME).sha256 != entry.sha256:
            raise WeightsError(f"{source} changed while it was copied; do it again")
    table = folder / TABLE_OF_FOLDER
    before = read_table(table) if table.is_file() else ()
    kept = {entry.name: entry for entry in (*before, *entries)}
    write_atomic(table, text_of(sorted(kept.values(), key=lambda entry: entry.name)).encode())
    return [*written, table]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Which weights are known by digest, and where each can be had.

`known.json` beside this module is the table of this version; tools/index_weights.py writes it. A folder that
LICODEC_WEIGHTS names may hold a table of the same form, index.json, for weights and repositories of one's
own. A picture never says where its weights are: its digest is looked up here, and one that is in neither
table makes no request.

    {"weights": [{"codec": "fhic", "tag": "s-1",
                  "decode_digest": 32 hexadecimal digits, "synthesis_digest": 16, "sha256": 64,
                  "bytes": of model.safetensors,
                  "hub": null, or a list of places, tried in this order:
                         [{"repository": "owner/name", "revision": 40 digits, "file": "model.safetensors"}]}]}

A row with "decoder": "best" is an alternate: a synthesis alone, for pictures of the weights that have its
decode digest, where a caller asks for that decoder.

A tag names one content for ever. Whatever is here once stays: files refer to it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic_format.errors import LicWarning, WeightsError
from licodec.store.digests import FAST, WeightsRef

ENVIRONMENT = "LICODEC_WEIGHTS"
FILE_NAME = "model.safetensors"
TABLE = Path(__file__).with_name("known.json")
TABLE_OF_FOLDER = "index.json"

TOKEN = re.compile(r"[a-z0-9-]{1,16}")
DECODERS = re.compile("fast|best")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_FILE = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hub at one commit; `revision` is never a branch or a tag."""

    repository: str
    revision: str
    file: str = FILE_NAME

    def __str__(self) -> str:
        return f"{self.file} of {self.repository} at {self.revision[:12]}"


@dataclass(frozen=True)
class Entry:
    """Weights of the table. `sha256` is hexadecimal, of the whole file; `hub` is empty until somebody has
    pushed them; `decoder` is another one than "fast" for an alternate synthesis."""

    ref: WeightsRef
    sha256: str
    size: int
    hub: tuple[HubFile, ...] = ()
    decoder: str = FAST

    @property
    def name(self) -> str:
        return f"{self.ref.codec}/{self.ref.tag}"

    def as_json(self) -> dict[str, Any]:
        """As it stands in a table."""
        places = [{"repository": p.repository, "revision": p.revision, "file": p.file} for p in self.hub]
        alternate = {} if self.decoder == FAST else {"decoder": self.decoder}
        return {
            "codec": self.ref.codec,
            "tag": self.ref.tag,
            **alternate,
            "decode_digest": self.ref.decode_digest.hex(),
            "synthesis_digest": self.ref.synthesis_digest.hex(),
            "sha256": self.sha256,
            "bytes": self.size,
            "hub": places or None,
        }


def known() -> tuple[Entry, ...]:
    """All entries: of the folder that LICODEC_WEIGHTS names, then of this version.

    Raises:
        WeightsError: the folder's table is not of the form above.
    """
    own: tuple[Entry, ...] = ()
    if folder := os.environ.get(ENVIRONMENT):
        if not os.path.isdir(folder):
            warnings.warn(
                f"{ENVIRONMENT} is {folder!r}, and there is no such folder; weights are looked for elsewhere",
                LicWarning,
                stacklevel=1,  # one place, so that it is said once
            )
        table = Path(folder, TABLE_OF_FOLDER)
        if table.is_file():
            own = read_table(table)
    return (*own, *_shipped())


def answering(
    codec: str,
    tag: str,
    decode_digest: bytes | None = None,
    synthesis_digest: bytes | None = None,
    *,
    decoder: str = FAST,
) -> list[Entry]:
    """The entries that can serve a request, best first: those of the decode digest whatever their tag, the
    synthesis that is asked for before others; without a digest those of the tag."""
    of_decoder = [entry for entry in known() if (entry.ref.codec, entry.decoder) == (codec, decoder)]
    if decode_digest is None:
        return [entry for entry in of_decoder if entry.ref.tag == tag]
    found = [entry for entry in of_decoder if entry.ref.decode_digest == decode_digest]
    return sorted(
        found, key=lambda entry: (entry.ref.synthesis_digest != synthesis_digest, entry.ref.tag != tag)
    )


@functools.cache
def _shipped() -> tuple[Entry, ...]:
    return read_table(TABLE)


def read_table(path: Path) -> tuple[Entry, ...]:
    """The entries of a table; WeightsError names the file, the entry and the field that is wrong."""
    try:
        rows = json.loads(path.read_bytes())["weights"]
        return tuple(_entry(row, f"{path}: entry {number}") for number, row in enumerate(rows))
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f'{path}: expected JSON {{"weights": [...]}}: {error!r}') from error


def text_of(table: Iterable[Entry]) -> str:
    """A table as its file has it."""
    return json.dumps({"weights": [entry.as_json() for entry in table]}, indent=1) + "\n"


def _entry(row: Any, where: str) -> Entry:
    def text(holder: Any, name: str, pattern: str | re.Pattern[str], expected: str) -> str:
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise WeightsError(f"{where}: {name} is {value!r}, expected {expected}")
        return value

    def digits(holder: Any, name: str, count: int) -> str:
        return text(holder, name, rf"[0-9a-f]{{{count}}}", f"{count} hexadecimal digits")

    ref = WeightsRef(
        text(row, "codec", TOKEN, "1 to 16 of a-z, 0-9 and -"),
        text(row, "tag", TOKEN, "1 to 16 of a-z, 0-9 and -"),
        bytes.fromhex(digits(row, "decode_digest", 32)),
        bytes.fromhex(digits(row, "synthesis_digest", 16)),
    )
    decoder = text({"decoder": FAST} | row, "decoder", DECODERS, "fast or best")
    size, places = row.get("bytes"), row.get("hub")
    if type(size) is not int or size < 1:
        raise WeightsError(f"{where}: bytes is {size!r}, expected a whole number of at least 1")
    if places is not None and not isinstance(places, list):
        raise WeightsError(f"{where}: hub is {places!r}, expected null or a list of places")
    hub = tuple(
        HubFile(
            text(place, "repository", _REPOSITORY, "owner/name"),
            # A branch or a tag can move; 40 digits name one commit.
            digits(place, "revision", 40),
            text(place, "file", _FILE, "a path inside the repository"),
        )
        for place in places or ()
    )
    return Entry(ref, digits(row, "sha256", 64), size, hub, decoder)

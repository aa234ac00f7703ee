"""What the golden files of a codec say of themselves, and must still be true of them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import lic_format
from lic_format import LicFile
from lic_format.fields import EnumU8, Table
from lic_format.metadata import COMPRESSIBLE

FOLDER = Path(__file__).parent


def files_of(codec: str) -> list[Path]:
    """The golden files of a codec, of every tag."""
    return sorted((FOLDER / codec).glob("*.lic"))


def facts_of(path: Path) -> dict[str, Any]:
    """What stands beside a golden file (tools/make_golden.py)."""
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return facts


def choices(table: Table, name: str) -> set[int]:
    """The values that a field of a table can have."""
    (field,) = (field for each, field, _ in table.rows if each == name)
    assert isinstance(field, EnumU8)
    return set(field.members)


def check_container(file: LicFile, facts: dict[str, Any]) -> None:
    """Digest and metadata are those that were written."""
    assert file.head.decode_digest.hex() == facts["decode_digest"]
    contents = {
        chunk.type: lic_format.unpack_metadata(chunk) if chunk.type in COMPRESSIBLE else chunk.payload
        for chunk in file.metadata
        if chunk.type != "ALPH"
    }
    assert {kind: f"{zlib.crc32(each):08x}" for kind, each in contents.items()} == facts.get("metadata", {})

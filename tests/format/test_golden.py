"""Container files that an earlier version wrote are read for ever, and written again byte for byte.

tests/golden/container-1 was written by the first version, from `corpus`. Files are added, never replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import lic_format
from tests.format import corpus

GOLDEN = Path(__file__).parents[1] / "golden" / "container-1"


@pytest.mark.parametrize("name", ["plain", "rich", "weightless"])
def test_a_file_of_the_first_version_is_read_and_written_as_it_was(name: str) -> None:
    data = (GOLDEN / f"{name}.lic").read_bytes()
    file = lic_format.read(data)
    wanted: lic_format.LicFile = getattr(corpus, name)()
    assert (file.head, file.units) == (wanted.head, wanted.units)
    assert [chunk.type for chunk in file.metadata] == [chunk.type for chunk in wanted.metadata]
    assert lic_format.write(file) == data


def test_metadata_of_the_first_version_are_unpacked() -> None:
    file = lic_format.read((GOLDEN / "rich.lic").read_bytes())
    content = {
        name: lic_format.unpack_metadata(chunk)
        for name in ("iccp", "exif", "xmpd")
        if (chunk := file.find(name)) is not None
    }
    assert content == {"iccp": bytes(range(40)), "exif": b"II*\0" + bytes(60), "xmpd": b"<x/>"}

"""Lossless files that an earlier version coded decode for ever, to the same samples.

tests/golden/pilc is written by tools/make_golden.py --codec pilc, once for each tag that is released. Files
are added, never replaced.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import lic_format
import licodec
from licodec.codecs.registry import PILC_TILE

FOLDER = Path(__file__).parent / "pilc"
FILES = sorted(FOLDER.glob("*.lic"))


def test_there_are_golden_files_of_every_mode() -> None:
    files = [lic_format.read(path.read_bytes()) for path in FILES]
    records = [PILC_TILE.read_whole(unit.side_info, where="DATA") for file in files for unit in file.units]
    assert {int(record["mode"]) for record in records} == set(range(8))
    assert {record["flips"] for record in records} >= {0, 1}
    assert {(file.head.colour.name, file.head.alpha, int(file.head.depth)) for file in files} >= {
        ("GREY", False, 8), ("RGB", False, 8), ("RGB", True, 8), ("GREY", False, 16)
    }  # fmt: skip
    adapted = lic_format.read((FOLDER / "l-1-adapted.lic").read_bytes())
    assert adapted.units[0].body[0] > 18, "a tile with corrections"
    assert max(len(file.units) for file in files) > 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_samples(path: Path) -> None:
    with PIL.Image.open(path.with_suffix(".png")) as expected:
        decoded = licodec.decode(path)
        assert decoded.mode == expected.mode
        assert np.array_equal(np.asarray(decoded), np.asarray(expected))

"""Files that an earlier version coded decode for ever: the same symbols, the same picture but for rounding.

tests/golden/fhic is written by tools/make_golden.py, once for each tag that is released. Files are added,
never replaced.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import lic_format
import licodec
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.channel_skip import NONE, SUFFIX
from licodec.codecs.registry import FHIC_SIDE_INFO

FOLDER = Path(__file__).parent / "fhic"
FILES = sorted(FOLDER.glob("*.lic"))
CLOSENESS_DB = 46.0  # a machine may run the synthesis in bfloat16 where the one that wrote the file did not


@cache
def model(tag: str, digest: bytes) -> cb.Checkerboard:
    return cb.build(store.load("fhic", tag, digest), "cpu")


def test_there_are_golden_files_of_every_kind() -> None:
    assert FILES, "no golden files: run tools/make_golden.py with the weights of the release"
    heads = [lic_format.read(path.read_bytes()).head for path in FILES]
    assert {int(head.order) for head in heads} >= {0, 1}
    assert {(head.colour.name, head.alpha) for head in heads} == {
        (colour, alpha) for colour in ("GREY", "RGB") for alpha in (False, True)
    }
    assert len({head.rate for head in heads}) >= 3
    sides = [FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD") for head in heads]
    assert {side["channel_skip"] for side in sides} >= {NONE, SUFFIX}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_symbols_and_its_picture(path: Path) -> None:
    facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    file = lic_format.read(path.read_bytes())
    assert file.head.decode_digest.hex() == facts["decode_digest"]
    crc = 0
    for symbols in model(file.head.tag, file.head.decode_digest).read_symbols(file):
        crc = zlib.crc32(symbols.astype("<i2").tobytes(), crc)
    assert f"{crc:08x}" == facts["symbols"]

    found = licodec.decode(path, output="numpy", device="cpu")
    expected = np.asarray(PIL.Image.open(path.with_suffix(".png")))
    assert found.shape == expected.shape
    if file.head.alpha:
        assert np.array_equal(found[:, :, -1], expected[:, :, -1])
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    assert error <= 255**2 / 10 ** (CLOSENESS_DB / 10)

"""Files that an earlier version coded decode for ever: the same symbols, the same picture but for rounding.

tests/golden/fhic is written by tools/make_golden.py, once for each tag that is released (test_frozen). Files
are added, never replaced.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import lic_format
import licodec
from lic_format.fields import read_varint
from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs.registry import CODECS, FHIC_SIDE_INFO
from tests.golden.expected import check_container, choices, facts_of, files_of

FILES = files_of("fhic")
ALTERNATES = sorted(FILES[0].parent.glob("*.*.png"))
"""What alternate decoders make of some of the files: TAG-CASE.DECODER.png."""
CLOSENESS_DB = 46.0  # a machine may run the synthesis in bfloat16 where the one that wrote the file did not


@cache
def model(tag: str, digest: bytes) -> cb.Checkerboard:
    return cb.build(store.load("fhic", tag, digest), "cpu")


def test_there_are_golden_files_of_every_kind() -> None:
    files = [lic_format.read(path.read_bytes()) for path in FILES]
    heads = [file.head for file in files]
    assert {head.order for head in heads} == set(Order)
    assert {(head.order, head.tag) for head in heads} >= set(CODECS["fhic"].order_tags.items())
    for order in (Order.CHECKERBOARD, Order.SERIAL):
        assert {(head.colour.name, head.alpha) for head in heads if head.order == order} == {
            (colour, alpha) for colour in ("GREY", "RGB") for alpha in (False, True)
        }
        assert {head.rate for head in heads if head.order == order} >= {0, 13, 128, 242, 255}
    assert {head.orientation for head in heads} >= {1, 6}
    sides = [FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD") for head in heads]
    assert {side["channel_skip"] for side in sides} == choices(FHIC_SIDE_INFO, "channel_skip")
    assert {head.order for head, side in zip(heads, sides, strict=True) if side["channel_skip"]} == {
        Order.ONE_STEP,
        Order.CHECKERBOARD,
    }
    assert max(read_varint(file.units[0].body, 0)[0] for file in files) > 0, "none has escapes"
    assert {chunk.type for file in files for chunk in file.metadata} >= {"iccp", "exif", "xmpd", "dpix"}


def assert_close(found: npt.NDArray[np.uint8], path: Path) -> None:
    with PIL.Image.open(path) as image:
        expected = np.asarray(image)
    assert found.shape == expected.shape
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    assert error <= 255**2 / 10 ** (CLOSENESS_DB / 10)
    if found.ndim == 3 and found.shape[2] in (2, 4):
        assert np.array_equal(found[:, :, -1], expected[:, :, -1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_symbols_and_its_picture(path: Path) -> None:
    facts = facts_of(path)
    file = lic_format.read(path.read_bytes())
    check_container(file, facts)
    crc = 0
    for symbols in model(file.head.tag, file.head.decode_digest).read_symbols(file):
        crc = zlib.crc32(symbols.astype("<i2").tobytes(), crc)
    assert f"{crc:08x}" == facts["symbols"]
    assert_close(np.asarray(licodec.decode(path, device="cpu")), path.with_suffix(".png"))


@pytest.mark.parametrize("picture", ALTERNATES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_picture_of_another_decoder(picture: Path) -> None:
    name, decoder = picture.stem.split(".")
    found = licodec.decode(picture.with_name(f"{name}.lic"), device="cpu", decoder=decoder)
    assert_close(np.asarray(found), picture)

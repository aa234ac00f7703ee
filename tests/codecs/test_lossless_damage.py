"""Lossless files that are damaged behind right checksums of the container: an error of ours and no pixels."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import lic_format
import licodec
from lic_format import FormatError, LicError, LicFile, Unit
from lic_format.header import Depth
from licodec.codecs.lossless import check_of
from licodec.codecs.registry import LATTICE, PILC_SIDE_INFO, PILC_TILE
from tests.codecs.fixtures import pixels

Samples = npt.NDArray[np.uint8]
SIDE = 32


def tile_of(samples: Samples, number: int) -> Unit:
    """The unit of a tile in some place of a picture."""
    (unit,) = lic_format.read(licodec.encode(samples, lossless=True, tile_modes="lattice")).units
    return with_record(unit, check=check_of(samples, number))


def with_record(unit: Unit, **fields: Any) -> Unit:
    record = PILC_TILE.read_whole(unit.side_info, where="DATA") | fields
    return dataclasses.replace(unit, side_info=PILC_TILE.write(record))


@pytest.fixture(scope="module")
def samples() -> Samples:
    """A photograph's tile beside a drawn one."""
    drawn = np.zeros((SIDE, SIDE, 3), np.uint8)
    drawn[5:20, 3:30] = np.arange(27)[:, None] // 9 * (90, 20, 60)
    smooth = pixels(SIDE, SIDE, seed=5)
    return np.concatenate([smooth, drawn], axis=1)


@pytest.fixture(scope="module")
def file(samples: Samples) -> LicFile:
    """Two tiles of 32 x 32 pixels, which the encoder would make one of."""
    tiles = np.ascontiguousarray(samples[:, :SIDE]), np.ascontiguousarray(samples[:, SIDE:])
    head = lic_format.read(licodec.encode(samples, lossless=True)).head
    side_info = PILC_SIDE_INFO.write({"layout": 1, "columns": 5, "rows": 5, "digest": b""})
    units = tuple(tile_of(tile, number) for number, tile in enumerate(tiles))
    return LicFile(dataclasses.replace(head, side_info=side_info), units=units)


def refused(file: LicFile, error: type[LicError] = FormatError, match: str | None = None) -> None:
    data = lic_format.write(file)
    with pytest.raises(error, match=match):
        licodec.decode(data, device="cpu")


def with_units(file: LicFile, *units: Unit) -> LicFile:
    return dataclasses.replace(file, units=units)


def test_the_file_is_whole_and_has_both_kinds_of_tiles(samples: Samples, file: LicFile) -> None:
    assert np.array_equal(licodec.decode(lic_format.write(file), output="numpy"), samples)
    modes = [PILC_TILE.read_whole(unit.side_info, where="DATA")["mode"] for unit in file.units]
    assert modes[0] == LATTICE and modes[1] != LATTICE


@pytest.mark.parametrize("number", [0, 1])
def test_a_wrong_byte_anywhere_in_a_tile_is_seen(file: LicFile, number: int) -> None:
    unit, rng = file.units[number], random.Random(number)
    body = unit.body
    for at in sorted(rng.sample(range(len(body)), min(len(body), 40))):
        changed = bytearray(body)
        changed[at] ^= rng.randrange(1, 256)
        units = list(file.units)
        units[number] = dataclasses.replace(unit, body=bytes(changed))
        refused(with_units(file, *units), LicError)
    for at in range(len(unit.side_info)):
        record = bytearray(unit.side_info)
        record[at] ^= rng.randrange(1, 256)
        units = list(file.units)
        units[number] = dataclasses.replace(unit, side_info=bytes(record))
        refused(with_units(file, *units), LicError)


def test_tiles_out_of_order_are_seen_though_both_are_right_in_themselves(file: LicFile) -> None:
    first, second = file.units
    refused(with_units(file, second, first), match="tile 0 .* not in its place")
    refused(with_units(file, first, first), match="tile 1 .* not in its place")


def test_tiles_missing_or_too_many_are_counted(file: LicFile) -> None:
    first, second = file.units
    refused(with_units(file, first), match="1 DATA chunks for 2 tiles")
    refused(with_units(file, first, second, second), match="3 DATA chunks for 2 tiles")
    for columns, rows, count in ((6, 5, 1), (4, 5, 4), (5, 0, 64)):
        fields = PILC_SIDE_INFO.write({"layout": 1, "columns": columns, "rows": rows, "digest": b""})
        head = dataclasses.replace(file.head, side_info=fields)
        refused(dataclasses.replace(file, head=head), match=f"2 DATA chunks for {count} tiles")


def test_a_picture_of_another_size_or_colour_is_none_of_these_tiles(file: LicFile) -> None:
    for fields in ({"width": 2 * SIDE - 1}, {"height": SIDE - 1}, {"colour": lic_format.Colour.GREY}):
        refused(dataclasses.replace(file, head=dataclasses.replace(file.head, **fields)))


def test_an_index_beyond_the_palette_is_refused_whatever_the_check_says(file: LicFile) -> None:
    """Grey, two rows of three: colours 7 and 9, two bits an index (SPEC.md's example has one)."""
    head = dataclasses.replace(
        file.head, width=3, height=2, colour=lic_format.Colour.GREY, side_info=bytes([1, 9, 9, 0])
    )
    tile = np.array([[9, 9, 7], [9, 7, 7]], np.uint8)[:, :, None]
    record = PILC_TILE.write({"mode": 2, "flips": 0, "check": check_of(tile, 0)})

    def picture(first_row: int) -> LicFile:
        body = bytes.fromhex("01 00 02 07 02 02 00 00") + bytes([first_row, 0b01_00_00_00])
        return LicFile(head, units=(Unit(2, record, body),))

    right = lic_format.write(picture(0b01_01_00_00))
    assert np.array_equal(licodec.decode(right, output="numpy"), tile[:, :, 0])
    refused(picture(0b01_10_00_00), match="index")
    refused(picture(0b11_01_00_00), match="index")


def test_samples_of_another_depth_than_head_says_are_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = lic_format.read(licodec.encode(noise, lossless=True))
    (unit,) = file.units
    raw = with_record(dataclasses.replace(unit, kind=2, body=noise.tobytes()), mode=0, flips=0)
    assert np.array_equal(licodec.decode(lic_format.write(with_units(file, raw)), output="numpy"), noise)
    wide = dataclasses.replace(raw, body=noise.astype(">u2").tobytes())
    refused(with_units(file, wide))
    deep = dataclasses.replace(file, head=dataclasses.replace(file.head, depth=Depth.BITS_16))
    for units in (file.units, (raw,)):
        refused(with_units(deep, *units), LicError)

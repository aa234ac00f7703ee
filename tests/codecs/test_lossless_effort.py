"""How hard pilc tries: which modes are chosen, and that the highest effort is never the larger one."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import lic_format
import licodec
from lic_format.errors import UsageError
from licodec.codecs.registry import LATTICE, LATTICE0, PILC_TILE, THREEWAY
from licodec.options import OPTIONS

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
Samples = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Samples:
    with PIL.Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB"))[40:240, 30:290]


def modes_of(data: bytes) -> Counter[int]:
    units = lic_format.read(data).units
    return Counter(PILC_TILE.read_whole(unit.side_info, where="DATA")["mode"] for unit in units)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, LATTICE),
        ({"effort": None}, LATTICE),
        ({"effort": 1}, LATTICE0),
        ({"effort": 3}, LATTICE0),
        ({"effort": 4}, LATTICE),
        ({"tile_modes": "lattice0"}, LATTICE0),
        ({"tile_modes": "threeway"}, THREEWAY),
        ({"tile_modes": "threeway", "effort": 9}, THREEWAY),
        ({"tile_modes": "threeway,lattice"}, LATTICE),
    ],
)
def test_effort_and_tile_modes_say_how_photographs_are_coded(
    photo: Samples, options: dict[str, Any], mode: int
) -> None:
    data = licodec.encode(photo, lossless=True, **options)
    assert modes_of(data) == {mode: 1}
    np.testing.assert_array_equal(licodec.decode(data, output="numpy"), photo)


def test_the_highest_effort_is_the_smallest_file(photo: Samples) -> None:
    drawn = np.zeros((120, 160, 3), np.uint8)
    drawn[20:60, 30:90] = (200, 30, 30)
    drawn[70:100, ::7] = (10, 10, 250)
    mixed = photo.copy()
    mixed[:90] = drawn[:90, :1]
    for picture in (photo, drawn, mixed, photo[:, :, 1]):
        sizes = [len(licodec.encode(picture, lossless=True, effort=effort)) for effort in (1, 5, 9)]
        assert sizes[2] <= min(sizes), sizes
        assert sizes[1] <= sizes[2] * 1.005 + 2, sizes
        for effort in (1, 9):
            data = licodec.encode(picture, lossless=True, effort=effort)
            np.testing.assert_array_equal(licodec.decode(data, output="numpy"), picture)


def test_encoders_plugins_and_the_command_line_take_them(photo: Samples, tmp_path: Path) -> None:
    expected = licodec.encode(photo, lossless=True, effort=2)
    assert licodec.Encoder("pilc")(photo, effort=2) == expected
    sink = io.BytesIO()
    PIL.Image.fromarray(photo).save(sink, "LIC", lossless=True, effort=2)
    assert sink.getvalue() == expected
    sink = io.BytesIO()
    PIL.Image.fromarray(photo).save(sink, "LIC", lossless=True, tile_modes="threeway")
    assert modes_of(sink.getvalue()) == {THREEWAY: 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": 0}, "effort: expected a whole number from 1 to 9"),
        ({"effort": 10}, "effort: expected a whole number from 1 to 9"),
        ({"effort": "5"}, "effort: expected a whole number"),
        ({"effort": True}, "effort: expected a whole number"),
        ({"tile_modes": "lattice1"}, "tile_modes: expected names of tile modes"),
        ({"tile_modes": "lattice,"}, "tile_modes: expected names of tile modes"),
        ({"tile_modes": 5}, "tile_modes: expected names of tile modes"),
    ],
)
def test_other_values_are_refused_by_name(photo: Samples, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        licodec.encode(photo, lossless=True, **options)


def test_lossy_codecs_refuse_tile_modes_by_name(photo: Samples) -> None:
    with pytest.raises(UsageError, match="tile_modes: fhic knows none in this version"):
        licodec.encode(photo, tile_modes="lattice")
    assert not OPTIONS["effort"].decode and not OPTIONS["tile_modes"].decode

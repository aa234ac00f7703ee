"""Lossless files that an earlier version coded decode for ever, to the same samples.

tests/golden/pilc is written by tools/make_golden.py, once for each tag that is released (test_frozen). Files
are added, never replaced. Some were put together by hand (tools/golden_lossless.py): decoders must read what
this encoder does not write.
"""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import lic_format
import licodec
from lic_format.container import LANES
from lic_format.metadata import ALPHA, ALPHA_TILE, CONSTANT, PREDICTED, PREDICTION, TILED, TILING
from licodec.codecs.registry import CODECS, DEEP, LANE_MODES, LATTICE, LATTICE0, PILC_TILE
from licodec.codecs.screen_content import LZ, PALETTE, Colour, Filter, Mode, Order, Packing
from licodec.entropy.lanes_reference import LANES_MAX
from tests.golden.expected import check_container, choices, facts_of, files_of

FILES = files_of("pilc")
READ = [lic_format.read(path.read_bytes()) for path in FILES]
TILES = [
    (file.head, PILC_TILE.read_whole(unit.side_info, where="DATA"), unit)
    for file in READ
    for unit in file.units
]


def test_there_are_golden_files_of_every_kind_of_picture() -> None:
    assert {(file.head.colour.name, file.head.alpha, int(file.head.depth)) for file in READ} == set(
        itertools.product(("GREY", "RGB"), (False, True), CODECS["pilc"].depths)
    )
    sides = [CODECS["pilc"].read_side_info(file.head.side_info) for file in READ]
    assert {len(side["digest"]) for side in sides} == {0, 16}
    assert {(9, 9), (10, 8), (8, 10)} <= {(side["columns"], side["rows"]) for side in sides}
    stored = {(side["bits"], side["shift"], side["repeated"]) for side in sides if "bits" in side}
    assert {(16, 0, 0), (12, 0, 0), (12, 4, 0), (10, 6, 1), (8, 8, 1)} <= stored


def test_there_are_golden_files_of_every_mode_and_every_flip() -> None:
    assert {record["mode"] for _, record, _ in TILES} == choices(PILC_TILE, "mode")
    turned = {(record["mode"], record["flips"]) for _, record, _ in TILES}
    assert turned >= set(itertools.product((*LANE_MODES, DEEP), range(4)))
    for depth, codecs_own in ((8, LANE_MODES), (16, {DEEP})):
        for colour in ("GREY", "RGB"):
            seen = {r["mode"] for head, r, _ in TILES if (head.depth, head.colour.name) == (depth, colour)}
            assert seen >= {Mode.PALETTE, Mode.LZ, *codecs_own}


def test_there_are_golden_files_of_every_layout_of_drawn_tiles() -> None:
    for depth, channels in itertools.product((8, 16), (1, 3)):
        found, palettes = set(), set()
        for head, record, unit in TILES:
            if (head.depth, head.colour.planes) != (depth, channels):
                continue
            if record["mode"] == Mode.LZ:
                found.add(tuple(LZ.read(unit.body, where="DATA")[0].values()))
            if record["mode"] == Mode.PALETTE:
                palettes.add(tuple(PALETTE.read(unit.body, where="DATA")[0].values()))
        colours = list(Colour) if channels == 3 else [Colour.AS_THEY_ARE]
        assert found == set(itertools.product(colours, Order, Filter, Packing))
        assert {values[1] for values in palettes} == set(Packing)
        assert {values[3:] for values in palettes} >= set(itertools.product((1, 2, 4, 8), Filter, Packing))


def test_there_are_golden_files_of_every_number_of_lanes_and_of_adaptations() -> None:
    lattice = [unit.body for _, record, unit in TILES if record["mode"] == LATTICE]
    assert max(body[0] for body in lattice) > 18, "none has corrections"
    assert {body[1 + body[0]] for body in lattice} == set(range(LANES_MAX.bit_length()))
    assert all(unit.kind == LANES for _, record, unit in TILES if record["mode"] in LANE_MODES)


def test_there_are_golden_files_of_every_way_of_coding_alpha() -> None:
    """Constant at 8 bits is among fhic's."""
    for depth, methods in ((8, {PREDICTED, TILED}), (16, {CONSTANT, PREDICTED, TILED})):
        planes = [
            chunk.payload
            for file in READ
            if file.head.depth == depth and (chunk := file.find("ALPH")) is not None
        ]
        assert {plane[0] for plane in planes} >= methods
        assert {plane[1] for plane in planes if plane[0] == PREDICTED} == choices(PREDICTION, "predictor")
        modes, most = set(), 0
        for plane in planes:
            if plane[0] == TILED:
                _, at = TILING.read(plane, ALPHA.max_size, where="ALPH")
                count = 0
                while at < len(plane):
                    record, at = ALPHA_TILE.read(plane, at, where="ALPH")
                    modes.add(record["mode"])
                    count += 1
                most = max(most, count)
        assert modes == choices(ALPHA_TILE, "mode") - ({LATTICE0} if depth == 16 else set())
        assert most > 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_its_samples(path: Path) -> None:
    facts = facts_of(path)
    check_container(lic_format.read(path.read_bytes()), facts)
    samples = licodec.decode(path, output="numpy")
    assert list(samples.shape) == facts["shape"]
    little = samples.astype(samples.dtype.newbyteorder("<"))
    assert f"{zlib.crc32(little.tobytes()):08x}" == facts["samples"]
    if path.with_suffix(".png").exists():
        with PIL.Image.open(path.with_suffix(".png")) as expected:
            decoded = licodec.decode(path)
            assert decoded.mode == expected.mode
            assert np.array_equal(np.asarray(decoded), np.asarray(expected))

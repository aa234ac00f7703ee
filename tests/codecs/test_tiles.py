"""Large pictures go through the float nets in tiles, without a seam."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from tests.codecs.fixtures import Pixels, encoded, pixels, psnr


def cut(h: int, w: int, rows: int, columns: int, halo: int) -> Iterator[cb.Tile]:
    """Tiles far smaller than those of real pictures."""
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            yield cb.Tile(
                slice(top, bottom),
                slice(left, right),
                slice(max(0, top - halo), min(h, bottom + halo)),
                slice(max(0, left - halo), min(w, right + halo)),
            )


@settings(max_examples=50, deadline=None)
@given(h=st.integers(1, 1100), w=st.integers(1, 1100), pixels=st.sampled_from([1 << 18, 1 << 21]))
def test_tiles_partition_the_grid_and_see_their_halo(h: int, w: int, pixels: int) -> None:
    seen = np.zeros((h, w), np.int8)
    for tile in cb.tiles(h, w, pixels):
        seen[tile.rows, tile.columns] += 1
        assert tile.outer_rows == slice(max(0, tile.rows.start - cb.HALO), min(h, tile.rows.stop + cb.HALO))
        assert tile.outer_columns == slice(
            max(0, tile.columns.start - cb.HALO), min(w, tile.columns.stop + cb.HALO)
        )
        rows, columns = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        assert rows * columns * cb.CELL**2 <= pixels
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [(768, 512), (512, 768), (1024, 2048), (1, 2**20)])
def test_pictures_of_two_megapixels_are_one_tile(size: tuple[int, int]) -> None:
    assert len(list(cb.tiles(-(-size[0] // cb.CELL), -(-size[1] // cb.CELL)))) <= 1 + (size[1] >= 2**20) * 16


def test_the_halo_is_what_the_nets_see() -> None:
    """3x3 convolutions: two on 4x4 blocks (a quarter of a position), one in a block on the coarser grids."""
    preset = cb.PRESETS["s"]
    analysis = 0.25 * 2 + 0.5 * preset.encoder_eighth_blocks + 1 * preset.encoder_sixteenth_blocks
    synthesis = 0.25 * 2 + 0.5 * preset.decoder_eighth_blocks + 1 * preset.decoder_sixteenth_blocks
    assert max(analysis, synthesis) <= cb.HALO < max(analysis, synthesis) + 1


@pytest.fixture(params=[(40, 1, 3, 5), (1, 40, 2, 4), (18, 9, 5, 4)], ids=["column", "row", "plane"])
def grid(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    """Height and width in positions; rows and columns of a tile."""
    shape: tuple[int, int, int, int] = request.param
    return shape


def picture(grid: tuple[int, int, int, int]) -> Pixels:
    return pixels(grid[0] * cb.CELL - 3, grid[1] * cb.CELL - 5)


def test_decoding_in_tiles_is_seamless(
    grid: tuple[int, int, int, int],
    model: cb.Checkerboard,
    weights: store.Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = encoded(model, weights.ref, picture(grid), rate=200)
    whole = model.decode(file).planes
    monkeypatch.setattr(cb, "tiles", lambda h, w: cut(h, w, *grid[2:], cb.HALO))
    tiled = model.decode(file).planes
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert psnr(whole, tiled) >= 60


def test_without_a_halo_the_seams_would_show(
    model: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (1, 40, 2, 4)
    file = encoded(model, weights.ref, picture(grid), rate=200)
    whole = model.decode(file).planes
    monkeypatch.setattr(cb, "tiles", lambda h, w: cut(h, w, *grid[2:], 0))
    assert np.abs(whole.astype(int) - model.decode(file).planes).max() > 1


def test_analysis_in_tiles_finds_the_same_symbols(
    grid: tuple[int, int, int, int], model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = picture(grid)
    x = model._to_input(planes)
    whole, _ = model._symbols(x, 200, Order.CHECKERBOARD, cb.Timer(None))
    monkeypatch.setattr(cb, "tiles", lambda h, w: cut(h, w, *grid[2:], cb.HALO))
    tiled, _ = model._symbols(x, 200, Order.CHECKERBOARD, cb.Timer(None))
    for a, b in ((whole.z, tiled.z), (whole.q, tiled.q)):
        assert (a != b).mean() < 0.001  # a last bit may push a value over the edge of rounding
        assert np.abs(a.astype(int) - b).max() <= 1

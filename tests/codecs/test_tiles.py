"""Large pictures go through the float nets in tiles, without a seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lic_format.header import Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from tests.codecs.fixtures import Pixels, encoded, pixels, psnr


def cut(h: int, w: int, rows: int, columns: int, halo: int) -> Iterator[layout.Tile]:
    """Tiles far smaller than those of real pictures."""
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            yield layout.Tile(
                slice(top, bottom),
                slice(left, right),
                slice(max(0, top - halo), min(h, bottom + halo)),
                slice(max(0, left - halo), min(w, right + halo)),
            )


@settings(max_examples=50, deadline=None)
@given(h=st.integers(1, 1100), w=st.integers(1, 1100), pixels=st.sampled_from([1 << 18, 1 << 21]))
def test_tiles_partition_the_grid_and_see_their_halo(h: int, w: int, pixels: int) -> None:
    seen = np.zeros((h, w), np.int8)
    for tile in layout.tiles(h, w, 5, pixels):
        seen[tile.rows, tile.columns] += 1
        assert tile.outer_rows == slice(max(0, tile.rows.start - 5), min(h, tile.rows.stop + 5))
        assert tile.outer_columns == slice(max(0, tile.columns.start - 5), min(w, tile.columns.stop + 5))
        rows, columns = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        assert rows * columns * layout.CELL**2 <= pixels
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [(768, 512), (512, 768), (1024, 2048), (1, 2**20)])
def test_pictures_of_two_megapixels_are_one_tile(size: tuple[int, int]) -> None:
    assert (
        len(list(layout.tiles(-(-size[0] // layout.CELL), -(-size[1] // layout.CELL), 4)))
        <= 1 + (size[1] >= 2**20) * 16
    )


@torch.no_grad()
def test_the_halo_is_what_the_nets_see() -> None:
    """With noise for weights, whatever a change of one latent or of a position's pixels moves is near it."""
    torch.manual_seed(0)
    preset, rate, side, centre = layout.PRESETS["s"], torch.tensor([100]), 17, 8
    analysis, synthesis = cb.Analysis(preset).double(), cb.Synthesis(preset).double()
    for parameter in (*analysis.parameters(), *synthesis.parameters()):
        parameter.normal_(0, 0.2)

    def moved(net: Callable[[Tensor], Tensor], x: Tensor, part: slice) -> list[int]:
        """First and last row that a change in some rows of one column moves."""
        changed = x.clone()
        changed[:, :, part, part] += 1
        rows = (net(x) != net(changed)).any(0).any(0).any(1).nonzero()
        return [int(rows.min()), int(rows.max())]

    own = slice(4 * centre, 4 * centre + 4)
    blocks = torch.randn(1, layout.QUARTER, 4 * side, 4 * side, dtype=torch.float64)
    first, last = moved(lambda x: analysis(x, rate), blocks, own)
    assert (first, last) == (centre - 3, centre + 3)
    latents = torch.randn(1, preset.latents, side, side, dtype=torch.float64)
    scale = torch.ones(1, preset.latents, 1, 1, dtype=torch.float64)
    first, last = moved(lambda x: synthesis(x, scale, rate), latents, slice(centre, centre + 1))
    assert (first, last) == (own.start - 12, own.stop - 1 + 12), "12 blocks are 3 positions"
    assert preset.halo == 3


@pytest.fixture(params=[(40, 1, 3, 5), (1, 40, 2, 4), (18, 9, 5, 4)], ids=["column", "row", "plane"])
def grid(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    """Height and width in positions; rows and columns of a tile."""
    shape: tuple[int, int, int, int] = request.param
    return shape


def picture(grid: tuple[int, int, int, int]) -> Pixels:
    return pixels(grid[0] * layout.CELL - 3, grid[1] * layout.CELL - 5)


def test_decoding_in_tiles_is_seamless(
    grid: tuple[int, int, int, int],
    model: cb.Checkerboard,
    weights: store.Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = encoded(model, weights.ref, picture(grid), rate=200)
    whole = model.decode(file).planes
    monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: cut(h, w, *grid[2:], halo))
    tiled = model.decode(file).planes
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert psnr(whole, tiled) >= 60


def test_without_a_halo_the_seams_would_show(
    model: cb.Checkerboard, weights: store.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (1, 40, 2, 4)
    file = encoded(model, weights.ref, picture(grid), rate=200)
    whole = model.decode(file).planes
    monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: cut(h, w, *grid[2:], 0))
    assert np.abs(whole.astype(int) - model.decode(file).planes).max() > 1


def test_analysis_in_tiles_finds_the_same_symbols(
    grid: tuple[int, int, int, int], model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = picture(grid)
    x = model._to_input(planes)
    whole, _ = model._symbols(x, 200, Order.CHECKERBOARD, Timer(None))
    monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: cut(h, w, *grid[2:], halo))
    tiled, _ = model._symbols(x, 200, Order.CHECKERBOARD, Timer(None))
    for a, b in ((whole.z, tiled.z), (whole.q, tiled.q)):
        assert (a != b).mean() < 0.001  # a last bit may push a value over the edge of rounding
        assert np.abs(a.astype(int) - b).max() <= 1

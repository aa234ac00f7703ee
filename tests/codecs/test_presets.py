"""The presets of fhic beside s: their transforms are those that were described, and their files are files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lic_format
import licodec
from lic_format.errors import WeightsError
from lic_format.header import Order
from licodec import images, store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_compiled as compiled
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs import fhic, gllmm, unshuffled
from licodec.codecs.contract import LossyWish, Timer
from licodec.codecs.deformable import GROUPS, SAMPLES, START, DeformableBlock
from tests.codecs import tiny
from tests.codecs.fixtures import built, encoded, pixels, precision, psnr
from tests.codecs.test_tiles import cut

Model = tuple[store.Weights, cb.Checkerboard]


@pytest.fixture(scope="module", params=["unshuffled", "gllmm"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Weights with few channels and random numbers, and their model in float32. The store knows them."""
    preset = {"unshuffled": tiny.UNSHUFFLED, "gllmm": tiny.GLLMM}[request.param]
    folder = tmp_path_factory.mktemp("weights")
    weights, _ = tiny.without_serial(folder, preset, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.ENVIRONMENT, str(folder))
        yield weights, built(weights)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def parts_of(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(parameters(part) for part in net.modules() if isinstance(part, kind))


def thousands_a_pixel(net: Callable[[], Tensor], pictures: int, side: int) -> float:
    """Multiplications of convolutions for a pixel, in thousands."""
    with FlopCounterMode(display=False) as counter:
        net()
    return float(counter.get_total_flops() / 2 / pictures / side**2 / 1000)


# --- what they are made of


def test_the_skeleton_of_paper_has_the_layers_of_the_published_code() -> None:
    """Every 3x3 of N channels has 9 N^2 + N parameters, and so on: nothing is left over."""
    n, preset = 192, layout.PRESETS["paper"]
    assert preset.latents == n
    three, one, half = 9 * n * n + n, n * n + n, n // 2
    bottleneck = (n * half + half) + (9 * half * half + half) + (half * n + n)
    attention, residual = 6 * bottleneck + one, 4 * three
    first = (27 * n + n) + three + (3 * n + n)
    down, up = 2 * three + one, (9 * n * 4 * n + 4 * n) + three + (4 * n * n + 4 * n)
    encoder = first + 2 * down + 3 * residual + three + 2 * attention
    decoder = 2 * attention + 4 * residual + 3 * up + (9 * n * 12 + 12)
    assert (encoder, decoder) == (7_572_096, 12_272_844)

    with torch.device("meta"):
        analysis, synthesis = gllmm.Analysis(preset), gllmm.Synthesis(preset)
    for net, skeleton, ours in ((analysis, encoder, 2), (synthesis, decoder, 0)):
        assert parts_of(net, gllmm.DivisiveNormalisation) == 3 * (n * n + n)
        assert parts_of(net, DeformableBlock) == ours * 165_744
        films = 17 * n
        assert parameters(net) == skeleton + 3 * 37_056 + ours * 165_744 + films


def test_a_block_of_m_has_the_multiplications_of_the_published_one() -> None:
    c, side = 64, 8
    block, x = unshuffled.Block(c, c), torch.randn(2, c, side, side)
    count = thousands_a_pixel(lambda: block(x, torch.tensor([3, 200])), 2, side)
    assert count * 1000 == 7 * c * c + 9 * c
    biases, film = 8 * c, 17 * c
    assert parameters(block) == 7 * c * c + 9 * c + biases + film


@pytest.mark.parametrize("name", ["m", "paper"])
def test_transforms_take_the_multiplications_that_docs_say(name: str) -> None:
    preset, side = layout.PRESETS[name], 128
    with torch.device("meta"):
        rate, grid = torch.tensor([1, 2]), side // 16
        analysis, synthesis = (make(preset) for make in cb.transforms(preset))
        blocks = torch.empty(2, layout.QUARTER, side // 4, side // 4)
        latents, scale = torch.empty(2, preset.latents, grid, grid), torch.empty(2, preset.latents, 1, 1)
        found = (
            thousands_a_pixel(lambda: analysis(blocks, rate), 2, side),
            thousands_a_pixel(lambda: synthesis(latents, scale, rate), 2, side),
        )
    expected = {"m": (55.04, 101.49), "paper": (641.23, 737.93)}[name]
    assert found == pytest.approx(expected, abs=0.005)
    if name == "paper":  # a normalisation squares and sums on the 1/2, 1/4 and 1/8 grids, 3x3 beside it
        normalisations = 192**2 * (1 / 4 + 1 / 16 + 1 / 64) / 1000
        block = (9 * 192 + 192 * 48 + 4 * 192**2) / 1000
        assert found[0] - normalisations - block * (1 / 64 + 1 / 256) == pytest.approx(626.04, abs=0.005)
        assert found[1] - normalisations == pytest.approx(725.83, abs=0.005)


def test_a_gate_and_a_sum_are_what_the_docstrings_say() -> None:
    x = torch.randn(1, 8, 2, 3)
    assert torch.allclose(unshuffled.gated(x), x * torch.sigmoid(4 * x), atol=1e-6)
    found = unshuffled.summed(x)
    assert found.shape == (1, 2, 2, 3)
    assert torch.allclose(found[:, 1], x[:, 4:].sum(1), atol=1e-6)


def test_a_normalisation_and_its_inverse_are_of_the_squares_around() -> None:
    x = torch.randn(2, 4, 3, 3)
    net, inverse = gllmm.DivisiveNormalisation(4), gllmm.DivisiveNormalisation(4, inverse=True)
    norm = 1 + 1e-6 + torch.einsum("oi,bihw->bohw", net.gamma.square(), x.square())
    assert torch.allclose(net(x), x / norm.sqrt(), atol=1e-5)
    assert torch.allclose(inverse(x), x * norm.sqrt(), atol=1e-5)


# --- what they see


def _open(net: nn.Module) -> None:
    """Layers that pass on the mean of what they see, so that nothing is cancelled or cut off, normalisations
    that do nothing, and deformable blocks that look as far as they can."""
    for part in net.modules():
        if isinstance(part, cb.Conv):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            nn.init.zeros_(part.bias)
        elif isinstance(part, gllmm.DivisiveNormalisation):
            nn.init.zeros_(part.gamma)
    for part in net.modules():
        if isinstance(part, DeformableBlock):
            nn.init.zeros_(part.place.weight)
            ways = torch.tensor(START).T.sign()[:, None].expand(2, GROUPS, SAMPLES)
            part.place.bias.copy_(torch.cat([40.0 * ways, torch.ones(1, GROUPS, SAMPLES)]).flatten())


@torch.no_grad()
@pytest.mark.parametrize(
    ("preset", "analysis_sees", "synthesis_sees"),
    [
        (dataclasses.replace(tiny.UNSHUFFLED, encoder_eighth_blocks=6, decoder_eighth_blocks=12), 4, 7),
        (tiny.GLLMM, 19, 14),
    ],
    ids=["m", "paper"],
)
def test_the_halo_covers_what_the_nets_see(
    preset: layout.Preset, analysis_sees: int, synthesis_sees: int
) -> None:
    side = 2 * max(analysis_sees, synthesis_sees) + 5
    centre, rate = side // 2, torch.tensor([100])
    analysis, synthesis = (make(preset).double() for make in cb.transforms(preset))
    _open(analysis)
    _open(synthesis)

    def moved(net: Callable[[Tensor], Tensor], x: Tensor, part: slice) -> tuple[int, int]:
        changed = x.clone()
        changed[:, :, part, part] += 1e12  # little of it comes far
        rows = (net(x) != net(changed)).any(0).any(0).any(1).nonzero()
        return int(rows.min()), int(rows.max())

    own = slice(4 * centre, 4 * centre + 4)
    blocks = torch.rand(1, layout.QUARTER, 4 * side, 4 * side, dtype=torch.float64)
    first, last = moved(lambda x: analysis(x, rate), blocks, own)
    assert max(centre - first, last - centre) == analysis_sees
    latents = torch.rand(1, preset.latents, side, side, dtype=torch.float64)
    scale = torch.ones(1, preset.latents, 1, 1, dtype=torch.float64)
    first, last = moved(lambda x: synthesis(x, scale, rate), latents, slice(centre, centre + 1))
    assert -(-max(own.start - first, last - (own.stop - 1)) // 4) == synthesis_sees
    assert preset.halo == max(analysis_sees, synthesis_sees)


def test_the_presets_have_the_halos_that_were_tested() -> None:
    assert {name: preset.halo for name, preset in layout.PRESETS.items()} == {"s": 3, "m": 7, "paper": 19}


def test_coding_in_tiles_is_seamless(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, model = small
    planes = pixels(44 * layout.CELL, 4 * layout.CELL)
    blocks = model._to_input(planes)
    whole, _ = model._symbols(blocks, 200, Order.CHECKERBOARD, Timer(None))
    shown = model.decode(file := encoded(model, weights.ref, planes, rate=200)).planes
    monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: cut(h, w, 4, 4, halo))
    tiled, _ = model._symbols(blocks, 200, Order.CHECKERBOARD, Timer(None))
    for a, b in ((whole.z, tiled.z), (whole.q, tiled.q)):
        assert (a != b).mean() < 0.001  # a last bit may push a value over the edge of rounding
        assert np.abs(a.astype(int) - b).max() <= 1
    assert np.abs(shown.astype(int) - model.decode(file).planes).max() <= 1
    monkeypatch.setattr(cb, "tiles", lambda h, w, halo, _: cut(h, w, 4, 4, 0))
    assert np.abs(shown.astype(int) - model.decode(file).planes).max() > 1, "seams would show"


# --- files


@pytest.mark.parametrize("size", [(1, 1), (37, 70), (64, 64)])
@pytest.mark.parametrize("order", [Order.ONE_STEP, Order.CHECKERBOARD])
def test_files_decode_to_what_was_coded(small: Model, order: Order, size: tuple[int, int]) -> None:
    weights, model = small
    planes = pixels(*size)
    coded, _ = model._symbols(model._to_input(planes), 180, order, Timer(None))
    file = encoded(model, weights.ref, planes, rate=180, order=int(order))
    z, q = model.read_symbols(file)
    assert np.array_equal(z, coded.z) and np.array_equal(q, coded.q) and np.abs(q).max() > 0
    assert model.decode(file).planes.shape == planes.shape


def test_floats_of_another_precision_read_the_same_symbols(small: Model) -> None:
    """Nothing float chooses a table."""
    weights, model = small
    file = encoded(model, weights.ref, pixels(50, 70), rate=160)
    other = built(weights, "bfloat16")
    for ours, theirs in zip(model.read_symbols(file), other.read_symbols(file), strict=True):
        assert np.array_equal(ours, theirs)
    shown, again = (each.decode(file).planes for each in (model, other))
    assert not np.array_equal(shown, again) and psnr(shown, again) > 20


def test_the_public_functions_code_with_named_weights(small: Model) -> None:
    weights, model = small
    planes = pixels(40, 70)
    with precision("float32"):
        data = licodec.encode(planes, weights=weights.path, quality=60, device="cpu")
        shown = licodec.decode(data, output="numpy", weights=weights.path, device="cpu")
        again = licodec.decode(data, output="numpy", device="cpu")
    assert licodec.inspect(data).tag == weights.ref.tag
    assert np.array_equal(shown, again)
    assert np.array_equal(shown, model.decode(lic_format.read(data)).planes)


@pytest.mark.parametrize("reduce", [4, 8, 16])
def test_reduced_pictures_of_gllmm_are_averages_and_others_previews(small: Model, reduce: int) -> None:
    weights, model = small
    file = encoded(model, weights.ref, pixels(40, 70), rate=160)
    found = model.decode(file, reduce=reduce).planes
    assert found.shape == (-(-40 // reduce), -(-70 // reduce), 3)
    averages = images.reduced(model.decode(file).planes, reduce)
    assert np.array_equal(found, averages) == (weights.ref.tag == "gllmm")


def test_more_effort_never_costs_more(small: Model) -> None:
    weights, model = small
    planes = pixels(70, 90)
    for effort in (1, 2):
        file = encoded(model, weights.ref, planes, rate=120, wish=LossyWish(effort=effort))
        assert model.decode(file).planes.shape == planes.shape


# --- what weights say


def test_what_a_preset_writes_is_what_is_read(weights: store.Weights) -> None:
    for preset in (*layout.PRESETS.values(), tiny.GLLMM):
        said = {"architecture": layout.write_preset(preset)}
        assert layout.read_preset(dataclasses.replace(weights, metadata=said)) == preset
    assert layout.write_preset(layout.PRESETS["s"]) == weights.metadata["architecture"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"transforms": "wavelet"}, "transforms 'wavelet', expected one of lapped, unshuffled, gllmm"),
        ({"transforms": None}, "transforms None, expected"),
        ({"transforms": ["gllmm"]}, r"transforms \['gllmm'\], expected"),
        ({"transforms": "gllmm", "groups": [6]}, "6 latents of gllmm, expected a multiple of 4"),
        ({"mean_heads": [640, 0]}, "0 is no size"),
        ({"mean_heads": [640, 5000]}, "5000 is no size"),
        ({"mean_heads": ["640"]}, "'640' is no size"),
        ({"mean_heads": [8] * 5}, "5 hidden layers of mean_heads, expected 4 at most"),
        ({"mean_heads": 640}, "not iterable"),
        ({"lapped": 1}, "lapped"),
    ],
)
def test_a_preset_that_is_none_is_refused_by_what_was_found(
    small: Model, changed: dict[str, object], says: str
) -> None:
    weights, _ = small
    said = json.loads(weights.metadata["architecture"]) | {"groups": [8], "depths": [1]} | changed
    with pytest.raises(WeightsError, match=says):
        layout.read_preset(dataclasses.replace(weights, metadata={"architecture": json.dumps(said)}))


def test_weights_of_other_transforms_miss_tensors_by_name(small: Model) -> None:
    weights, _ = small
    said = json.loads(weights.metadata["architecture"]) | {"transforms": "lapped"}
    metadata = {**weights.metadata, "architecture": json.dumps(said)}
    with pytest.raises(WeightsError, match=r"'synthesis\.|no tensor"):
        cb.build(dataclasses.replace(weights, metadata=metadata), "cpu")


def test_compiled_loops_leave_them_to_torch(small: Model) -> None:
    """Even where weights say what steps their channels have."""
    weights, _ = small
    preset = layout.PRESETS["s"]
    assert compiled.suit(preset)
    assert not compiled.suit(dataclasses.replace(preset, transforms=layout.read_preset(weights).transforms))
    assert not compiled.suit(dataclasses.replace(preset, mean_heads=(32,)))
    stepped = dataclasses.replace(weights, metadata={**weights.metadata, layout.STEPS: "{}"})
    assert isinstance(fhic.build(stepped, "cpu"), cb.Checkerboard)


def test_a_wider_synthesis_grows_from_lapped_transforms_only(small: Model) -> None:
    with pytest.raises(WeightsError, match="transforms, expected lapped ones"):
        _ = small[1].lapped

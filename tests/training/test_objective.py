"""What training prices is what the codec will code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.entropy.tables import NOT_CODED, load_set
from licodec.evaluation import metrics
from licodec.exact.paths import ExactNet, exact_section
from licodec.exact.trainable import convert
from licodec.store import load
from licodec.training.data import to_input
from licodec.training.export import restore
from licodec.training.klt import block_klt
from licodec.training.objective import (
    LAMBDA_MIN,
    MS_SSIM_UNIT,
    TrainingModel,
    context_indices,
    index_bits,
    logistic_bits,
    ms_ssim,
    rate_lambda,
    round_log,
    scale_features,
    smooth,
    value_of,
    walk_scales,
)
from tests.codecs.fixtures import built, pixels
from tests.training.conftest import Start


def twins(seed: int = 0) -> TrainingModel:
    """A training model whose scale nets depend on all they see, with indices over the whole range."""
    torch.manual_seed(seed)
    model = TrainingModel(layout.PRESETS["s"]).requires_grad_(False)
    for spec in layout.exact_layers(model.preset):
        twin = model.twin(spec.name)
        twin.bias.uniform_(-0.3, 0.3)
        if spec.last:
            twin.weight.mul_(12)
            twin.bias.add_(25)
    model.quantise_twins(True)
    return model


@pytest.mark.parametrize("rate", [0, 137, 255])
def test_quantised_twins_choose_the_tables_that_the_integer_nets_choose(rate: int) -> None:
    model = twins()
    net = ExactNet([convert(model.twin(spec.name)) for spec in layout.exact_layers(model.preset)], None)
    rng = np.random.default_rng(rate)
    z = torch.from_numpy(rng.laplace(0, 6, (1, 96, 2, 3)).round().astype(np.float32))
    q = torch.from_numpy(rng.laplace(0, 3, (1, 320, 8, 12)).round().astype(np.float32))
    levels = torch.from_numpy(layout.magnitude_table())[q.abs().clamp(max=255).long()]
    clipped = z.clamp(-layout.HYPER_LIMIT, layout.HYPER_LIMIT)

    nets = model.scale_nets(torch.tensor([rate]))
    features = nets.hyper(clipped * layout.HYPER_UNIT)
    priced = {
        "direct": nets.direct(features),
        "context": context_indices(nets, model.preset, features, q),
    }
    with exact_section(net.path):
        integers = cb.ScaleNets(cb.IntegerLayers(net, rate, net.path))
        exact_features = integers.hyper(clipped)
        coded = {
            "direct": integers.direct(exact_features),
            "context": walk_scales(integers, model.preset, exact_features, levels),
        }
    for name, twin in priced.items():
        rounded = torch.floor(twin + 0.5).clamp(0, 63)
        difference = (rounded - coded[name]).abs()
        assert len(np.unique(coded[name].numpy())) > 20, "the comparison is about something"
        assert (difference <= 1).double().mean() >= 0.999, name
        # A float sum at the edge of rounding moves one hidden integer by one, and that moves its successors.
        assert (difference == 0).double().mean() >= 0.75, name


def test_magnitudes_in_training_are_the_levels_of_the_codec() -> None:
    found = round_log(torch.arange(-255, 256)).clamp(max=127)
    assert torch.equal(found, torch.from_numpy(layout.magnitude_table())[torch.arange(-255, 256).abs()])


def test_prices_are_those_of_a_distribution() -> None:
    symbols = torch.arange(-2000, 2001).double()
    for scale in (0.1, 1.0, 20.0):
        assert float((2 ** -logistic_bits(symbols, torch.tensor(scale))).sum()) == pytest.approx(1, abs=1e-6)
    for index in (-3.0, 0.0, 30.5, 63.0, 70.0):
        mass = 2 ** -index_bits(symbols, torch.tensor(index).double())
        assert float(mass.sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("index", [10, 30, 50])
def test_the_price_of_an_index_is_near_that_of_its_table(index: int) -> None:
    """Training's logistic stands for three families of tables; Student's t is between the other two."""
    bits = load_set(1).bits()[64 + index].astype(np.float64)
    symbols = torch.arange(-255, 256).double()
    ours = index_bits(symbols, torch.tensor(float(index)).double()).numpy()
    assert float((2.0**-bits * (ours - bits)).sum()) < 0.02


@pytest.mark.parametrize("size", [(64, 128), (80, 112)])
def test_training_codes_as_an_encoder_does_where_a_picture_ends_inside_a_cell_too(
    size: tuple[int, int],
) -> None:
    weights = load("fhic", "s-1")
    codec = built(weights)
    model = TrainingModel(codec.preset).requires_grad_(False)
    restore(model, "fhic", "s-1")
    model.quantise_twins(True)
    model.mixed = False
    knot = 144  # between knots integer biases are floored, which moves one index in thirty by one
    rate = torch.tensor([knot])
    picture = pixels(*size, seed=3)
    found, (_, *passes) = codec._symbols(codec._to_input(picture), knot, Order.CHECKERBOARD, Timer(None))
    y, z = model.latents(to_input(picture[None], "cpu"), rate)
    assert z.shape[1:] == found.z.shape
    assert float((z[0] - torch.from_numpy(found.z)).abs().max()) < layout.HYPER_ROUND + 0.01
    assert all(bool(bits.isfinite().all()) for bits in model.code(y, z, rate))

    nets, (h, w) = model.scale_nets(rate), y.shape[2:]
    features = scale_features(nets, torch.from_numpy(found.z)[None].float(), h, w)
    index = context_indices(nets, model.preset, features, torch.from_numpy(found.q)[None].float())
    tables = tuple(np.where(each.index == NOT_CODED, 0, each.index % 64).astype(np.int16) for each in passes)
    coded = layout.Symbols(found.z, tables, found.steps, h, w, found.skipped).q
    difference = np.abs(torch.floor(index[0] + 0.5).clamp(0, 63).numpy() - coded)
    assert (coded > 0).sum() > 500
    assert (difference == 0).mean() > 0.999


def test_lambda_rises_by_the_ratio_from_the_first_rate_to_the_last() -> None:
    found = rate_lambda(torch.arange(256))
    assert float(found[0]) == pytest.approx(LAMBDA_MIN) and float(found[255] / found[0]) == pytest.approx(400)
    assert bool((found[1:] > found[:-1]).all())


def test_the_objective_has_a_gradient_for_every_parameter_but_the_previews(start: Start) -> None:
    trainer = start()
    trainer.model.quantise_twins(True)
    x, rate = trainer.draw(trainer.schedule)
    rate = torch.tensor([40, 200])
    trainer.model(x, rate).loss(rate).backward()
    without = [name for name, p in trainer.model.named_parameters() if p.grad is None]
    assert without == [f"preview.{name}" for name, _ in trainer.model.preview.named_parameters()]


def test_the_klt_is_orthonormal_and_a_started_model_passes_pictures_through_it(start: Start) -> None:
    trainer = start()
    klt = block_klt(trainer.crops, 320, blocks=1500)
    basis = klt.components
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-4)
    assert bool((klt.deviation[1:] <= klt.deviation[:-1] * 1.0001).all())
    with torch.inference_mode():
        x, _ = trainer.draw(trainer.schedule)
        rate = torch.tensor([255, 255])
        deviation = klt.deviation.view(1, -1, 1, 1)
        back = trainer.model.synthesis(trainer.model.analysis(x, rate), deviation, rate)
    assert -10 * float(torch.log10((back - x).square().mean())) > 25


def test_prices_have_the_value_of_the_exact_term_and_the_gradients_of_both() -> None:
    x, y = torch.tensor([3.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    both = value_of(2 * x, 7 * y)
    both.sum().backward()  # type: ignore[no-untyped-call]
    assert both.item() == 6 and x.grad is not None and y.grad is not None
    assert (x.grad.item(), y.grad.item()) == (2, 7)


def test_the_smooth_price_has_the_mean_gradient_of_noisy_ones() -> None:
    torch.manual_seed(1)
    x = torch.linspace(-3, 3, 25, requires_grad=True)
    scale = torch.tensor(0.4)
    noise = torch.rand(20_000, 1) - 0.5
    (drawn,) = torch.autograd.grad(logistic_bits(x + noise, scale).mean(0).sum(), x)
    (found,) = torch.autograd.grad(smooth(lambda v: logistic_bits(v, scale), x).sum(), x)
    assert float((drawn - found).abs().max()) < 0.1 < float(found.abs().max())


def test_zero_symbols_hold_the_gains_down(start: Start) -> None:
    """A channel whose symbols are all zero has a gradient of rate in its gain."""
    trainer = start()
    x, _ = trainer.draw(trainer.schedule)
    with torch.no_grad():
        trainer.model.gain[:, 300:] -= 3  # a hundredth of a symbol
    terms = trainer.model(x, torch.tensor([8, 8]))
    terms.context.sum().backward()
    assert trainer.model.gain.grad is not None
    assert float(trainer.model.gain.grad[:2, 300:].sum()) > 0


def test_ms_ssim_is_what_the_loss_goes_by_where_asked() -> None:
    model = TrainingModel(layout.PRESETS["s"], "ms-ssim")
    restore(model, "fhic", "s-1")
    x = to_input(pixels(176, 192)[None], "cpu")
    rate = torch.tensor([120])
    by_squares = TrainingModel(layout.PRESETS["s"])
    by_squares.load_state_dict(model.state_dict())
    found, other = (each(x, rate) for each in (model, by_squares))
    assert torch.equal(found.mse, other.mse) and torch.equal(found.context, other.context)
    assert torch.equal(other.error.detach(), other.mse)
    assert 0 < float(found.error.detach()) < 0.2 * MS_SSIM_UNIT
    found.loss(rate).backward()
    learnt = dict(model.named_parameters())
    for part in (learnt[name] for name in ("gain", "analysis.klt.weight", "synthesis.leave.weight")):
        assert part.grad is not None and bool(part.grad.abs().sum() > 0) and bool(part.grad.isfinite().all())


def test_ms_ssim_of_blocks_is_that_of_pictures() -> None:
    planes = pixels(176, 192)
    worse = np.clip(planes.astype(int) + np.random.default_rng(0).integers(-9, 10, planes.shape), 0, 255)
    pair = [to_input(each[None].astype(np.uint8), "cpu") for each in (worse, planes)]
    wanted = metrics.ms_ssim(planes, worse.astype(np.uint8))
    assert float(ms_ssim(*pair)) == pytest.approx(wanted, abs=1e-5)

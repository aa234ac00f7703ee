"""Training of tile mode 6: what is trained is what is coded, and indices are what makes its files smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from licodec.codecs import threeway as tw
from licodec.training import threeway as training
from licodec.training.data import Pixels

PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    with PIL.Image.open(PHOTO) as image:
        photo = np.asarray(image.convert("RGB"))
    return [photo[y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 160, 320)]


@pytest.fixture(scope="module")
def net(pictures: list[Pixels]) -> training.Trainable:
    """Codes of what an encoder at its start says of cells, and a decoder fitted for some steps."""
    torch.manual_seed(0)
    net = training.Trainable()
    prediction = tw.Prediction(tw.Predictor.MEDIAN, np.zeros((3, 3), np.int32))
    residuals = [prediction.residuals(tw.planes_of(picture)) for picture in pictures]
    rng = np.random.default_rng(0)
    x = torch.cat([training._crops(residuals, rng)[0] for _ in range(4)])
    net.mean.data, net.spread.data = x.mean(0), x.std(0) + 0.05
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    with torch.no_grad():
        net.gather(net.seen(x), rounds=2)
    for _ in range(15):
        loss, _ = net.loss(*training._crops(residuals, rng), warm=False)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net


def arrays_of(net: training.Trainable) -> dict[str, np.ndarray]:
    weights = np.array([[200, 160, -104]] * 3, np.int32)
    return net.tensors() | {"predictor": np.array([tw.Predictor.MEDIAN]), "weights": weights}


def test_the_decoder_trained_is_the_decoder_that_codes(net: training.Trainable) -> None:
    model = training.system(training.whole(arrays_of(net)), NOWHERE)
    indices = np.random.default_rng(1).integers(0, training.CODES, (9, 7))
    scales, offsets = model.decoder(indices)
    grid = net.codes[torch.from_numpy(indices)].permute(2, 0, 1)[None]
    with torch.no_grad():
        scale, offset = (training._samples(each)[0].numpy() for each in net.decoded(grid))
    shape = (72, 56, 3)
    wanted = np.clip(np.floor(scale + 0.5), 0, tw.SCALES - 1)
    assert np.mean(tw.spread(scales, shape) != wanted) < 1e-3  # sums of floats fall beside .5 by chance
    assert np.mean(tw.spread(offsets, shape) != np.clip(np.floor(offset), *tw.OFFSETS)) < 1e-3


def test_counted_tables_make_a_system_that_indices_make_smaller(
    net: training.Trainable, pictures: list[Pixels]
) -> None:
    arrays = arrays_of(net)
    model = training.system(training.counted(arrays, pictures, NOWHERE), NOWHERE)
    without = training.system(training.without_indices(arrays, pictures, NOWHERE), NOWHERE)
    sizes = [training.measured(each, pictures) for each in (model, without)]
    assert sizes[0].index_bits > 1000 > 1 > sizes[1].index_bits  # 1 in 4096 is the escape of its only index
    assert sizes[0].size < sizes[1].size  # after 15 steps, and with what the indices cost


def test_weights_of_the_predictor_are_those_of_the_least_magnitudes() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[192, 128, -64], [230, 50, -30], [128, 128, 0]], np.int32)
    noise = rng.integers(-3, 4, (80, 80, 3)).astype(np.int8)
    planes = tw.Prediction(tw.Predictor.WEIGHTS, truth).planes(noise)
    found = training.fitted([planes] * 40, rng)
    assert np.abs(found - truth).max() <= 16

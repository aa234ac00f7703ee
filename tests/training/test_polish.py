"""Polishing moves what it names, nothing else, and makes it better."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch

from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.training import polish as polishing
from licodec.training.data import Crops, to_input
from licodec.training.export import restore
from licodec.training.objective import TrainingModel
from tests.codecs.fixtures import pixels
from tests.training.conftest import Start

HELD = [pixels(64, 64, seed=90), pixels(64, 64, seed=91)]


@pytest.fixture
def trained() -> TrainingModel:
    """The shipped weights, as a model to train."""
    torch.manual_seed(3)
    model = TrainingModel(layout.PRESETS["s"])
    restore(model, "fhic", "s-1")
    return model


@pytest.mark.parametrize("part", ["order0", "entropy", "synthesis", "preview"])
def test_a_polished_part_is_better_and_the_rest_is_as_it_was(
    part: str, trained: TrainingModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()  # a clock that a busy machine doesn't slow down
    monkeypatch.setattr(polishing, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    crops: Crops = start().crops
    names: tuple[str, ...]
    if part == "order0":
        names = polishing.ORDER0
        keep, loss = polishing.keep_symbols(trained), polishing.order0_loss(trained)
    elif part == "entropy":
        names = ("means.", "twins.")
        keep, loss = polishing.keep_latents(trained), polishing.entropy_loss(trained)
    else:
        keep = polishing.keep_decoded(cb.build(store.load("fhic", "s-1"), "cpu"))
        if part == "synthesis":
            names, loss = ("synthesis.", "inverse_gain"), polishing.synthesis_loss(trained)
        else:
            names, loss = ("preview.",), polishing.preview_loss(trained)
    before = copy.deepcopy(trained.state_dict())
    found = polishing.polish(
        trained,
        names,
        keep,
        loss,
        crops,
        HELD,
        minutes=0.5,
        learning_rate=3e-4,
        pictures=32,
        side=64,
    )
    assert found["steps"] == [29.0]
    assert sum(found["after"]) < sum(found["before"])  # shipped nets have not seen such pictures
    after = trained.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(names) for name in moved)


def test_what_is_kept_of_a_picture_gives_the_loss_that_training_has(trained: TrainingModel) -> None:
    """Bits of one picture through what is stored of it are those of the whole objective."""
    rate = torch.tensor([100])
    picture = pixels(64, 64, seed=5)
    y, z = polishing.keep_latents(trained)(picture[None], rate)
    with torch.no_grad():
        found = polishing.entropy_loss(trained)(rate, y.float(), z.float())
        kept = polishing.keep_symbols(trained)(picture[None], rate)
        direct = polishing.order0_loss(trained)(rate, *(each.float() for each in kept))
        terms = trained(to_input(picture[None], "cpu"), rate)
    assert float(found) == pytest.approx(float(terms.direct + terms.context), rel=0.02)
    assert float(direct) == pytest.approx(float(terms.direct), rel=0.02)

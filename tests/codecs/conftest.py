from __future__ import annotations

import pytest

from licodec import store
from licodec.codecs import checkerboard as cb
from tests.codecs.fixtures import built


@pytest.fixture(scope="session")
def weights() -> store.Weights:
    return store.load("fhic", "s-1")


@pytest.fixture(scope="session")
def model(weights: store.Weights) -> cb.Checkerboard:
    """The embedded weights in float32 on the CPU."""
    return built(weights)

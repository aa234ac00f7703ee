"""Promise of the entropy coder's speed. Slow: it needs a quiet machine, so `make test` leaves it out."""

from __future__ import annotations

import pytest

from licodec.entropy import coder as coder_module
from tests.entropy.speed import measure


@pytest.mark.slow
def test_grouped_decoding_is_fast_enough_for_a_picture() -> None:
    if coder_module._kind() is coder_module._ReferenceCoder:
        pytest.skip("plain Python")
    speeds = measure(400_000, "small", runs=25)
    assert speeds["coder"] >= 50, speeds
    assert speeds["decode"] >= 35, speeds

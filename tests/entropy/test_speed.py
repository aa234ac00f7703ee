"""Promise of the entropy coder's speed. Slow: it needs a quiet machine, so `make test` leaves it out."""

from __future__ import annotations

import pytest

from tests.entropy.speed import measure


@pytest.mark.slow
def test_grouped_decoding_is_fast_enough_for_a_picture() -> None:
    pytest.importorskip("constriction")
    speeds = measure(400_000, "small", runs=25)
    assert speeds["coder"] >= 50, speeds
    assert speeds["decode"] >= 35, speeds

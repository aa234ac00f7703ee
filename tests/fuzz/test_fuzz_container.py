"""The container's fuzzer, for LICODEC_FUZZ_SECONDS (`make fuzz` sets minutes; without it two seconds)."""

from __future__ import annotations

import os

import pytest

from tests.fuzz import fuzz_container


@pytest.mark.fuzz
def test_mutated_files_give_a_value_or_a_lic_error() -> None:
    outcomes = fuzz_container.run(float(os.environ.get("LICODEC_FUZZ_SECONDS", "2")), seed=1)
    assert {"valid", "FormatError", "UnsupportedError"} <= set(outcomes), outcomes

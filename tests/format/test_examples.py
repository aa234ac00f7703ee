"""The examples in the docstrings of lic_format run and give what they print."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["fields", "header", "chunks", "metadata", "container"])
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"lic_format.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0

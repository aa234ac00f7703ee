"""The samples that examples/README.md works on, made once, in a folder where its commands can run."""

from __future__ import annotations

from pathlib import Path

import pytest

import licodec
from examples import samples


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out/samples in it."""
    folder = tmp_path_factory.mktemp("examples")
    licodec.clear_cache()
    samples.main([str(folder / "out" / "samples")])
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the one where the test runs."""
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def lics(place: Path) -> Path:
    return place / "out" / "samples" / "lic"


@pytest.fixture
def pictures(place: Path) -> Path:
    return place / "out" / "samples" / "pictures"

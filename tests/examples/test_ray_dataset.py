"""A folder becomes a Parquet dataset on a cluster that Ray starts here, and is decoded again."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import licodec
from examples.ray_dataset import Decode, Encode
from tests.examples.page import ROOT, masked, shown

OBJECT_STORE = 256 << 20
"""Bytes of shared memory; by default Ray takes a third of the machine's."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'licodec[ray]'")
def test_the_page_shows_what_it_prints(here: Path, pictures: Path) -> None:
    (command,) = shown("python examples/ray_dataset.py")
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as own:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}",
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(OBJECT_STORE),
            "RAY_TMPDIR": own,  # pytest's own are too long for the names of its sockets
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "ray_dataset.py"), *command.arguments],
            env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr  # one is damaged
    printed = [
        line for line in done.stdout.splitlines() if "(raylet)" not in line
    ]  # what it says of slow machines
    assert masked(printed) == masked(command.lines)

    import pyarrow.parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]

    table = pyarrow.parquet.read_table(here / "out" / "ray").to_pydict()
    coded = {Path(path).name: lic for path, lic in zip(table["path"], table["lic"], strict=True)}
    with PIL.Image.open(pictures / "crop-1.png") as picture:
        assert coded["crop-1.png"] == licodec.encode(picture, device="cpu")
    assert coded["damaged.png"] == b""


def test_the_actors_without_a_cluster(pictures: Path) -> None:
    paths = [pictures / "crop-1.png", pictures / "damaged.png", pictures / "more" / "crop-2.jpg"]
    read = {
        "path": np.array([str(path) for path in paths], object),
        "bytes": np.array([path.read_bytes() for path in paths], object),
    }
    coded = Encode(60, "cpu")(read)
    assert [bool(error) for error in coded["error"]] == [False, True, False]
    assert "truncated" in coded["error"][1]
    checked = Decode("cpu")(coded)
    assert checked["shape"].tolist() == ["256 x 256 x 3", "0", "256 x 256 x 3"]
    assert checked["bytes"].tolist() == [len(lic) for lic in coded["lic"]] and checked["bytes"][1] == 0
    for path, mean in zip(paths[::2], checked["mean"][::2], strict=True):
        assert abs(np.asarray(PIL.Image.open(path)).mean() - mean) < 2

"""A child forked after torch ran: it must neither hang nor use what belongs to its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lic_format import UsageValueError
from licodec.models import ModelCache

ROOT = Path(__file__).resolve().parents[2]

CHILD_CODES = """
import os, sys, warnings
from pathlib import Path
import torch
import licodec
from licodec.codecs.registry import CODECS
from licodec.models import CACHE
from tests.sdk import stand_in
from tests.sdk.fixtures import pixels

CODECS["stand-in"] = stand_in.ENTRY
torch.set_num_threads(2)
planes = pixels(700, 900)
encoder = licodec.Encoder("stand-in", device="cpu")
expected = encoder(planes)
child = os.fork()
if child == 0:
    status = 1
    try:
        assert len(CACHE) == 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = [encoder(planes), licodec.encode(planes, codec="stand-in", device="cpu")]
        assert results == [expected] * 2
        said = [warning for warning in caught if issubclass(warning.category, licodec.LicWarning)]
        assert len(said) == 1 and "spawn" in str(said[0].message), caught
        assert torch.get_num_threads() == 1
        status = 0
    finally:
        os._exit(status)
_, status = os.waitpid(child, 0)
assert torch.get_num_threads() == 2
assert encoder(planes) == expected
sys.exit(os.waitstatus_to_exitcode(status))
"""

CHILD_LOADS = """
import os, sys
import torch
import licodec
torch.set_num_threads(2)
picture = licodec.decode(sys.argv[1], device="cpu")
child = os.fork()
if child == 0:
    status = 1
    try:
        licodec.register(threads=2)  # more than one would hang, whoever asks
        again = licodec.decode(sys.argv[1], device="cpu")
        status = int(again.tobytes() != picture.tobytes())
    finally:
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORK_WITHIN_A_LOAD = """
import os, sys, threading
from licodec.models import CACHE, Request
CACHE._lock.acquire()  # as if another thread were loading a model
child = os.fork()
if child == 0:
    CACHE.clear()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

CHILD_LOADS_TORCH = """
import os, sys, warnings
from dataclasses import replace
import licodec
from licodec.codecs.registry import CODECS
from licodec.models import CACHE
CODECS["stand-in"] = replace(CODECS["fhic"], token="stand-in", module="tests.sdk.stand_in", default_tag="t-1")
lossless = sys.argv[1]
picture = licodec.decode(lossless, device="cpu", threads=2)
assert "torch" not in sys.modules
child = os.fork()
if child == 0:
    status = 1
    try:
        warnings.simplefilter("error")
        assert CACHE.before_use("cpu", 2) == 2
        assert licodec.decode(lossless, device="cpu", threads=2).tobytes() == picture.tobytes()
        assert "torch" not in sys.modules
        licodec.encode(picture, codec="stand-in", device="cpu", threads=2)
        assert CACHE.before_use("cpu", 2) == 2 and "torch" in sys.modules
        status = 0
    finally:
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(code: str, weights: Path | None, *arguments: str) -> None:
    environment = {
        **os.environ,
        "LICODEC_WEIGHTS": str(weights or ""),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_codes_on_one_thread_says_so_once_and_gives_the_same_bytes(stand_in: Path) -> None:
    run(CHILD_CODES, stand_in)


def test_a_forked_child_loads_weights_of_its_own_without_hanging() -> None:
    """Loading proves the integer networks, which runs them."""
    run(CHILD_LOADS, None, str(ROOT / "tests" / "golden" / "fhic" / "s-1-q50-order1.lic"))


def test_a_child_that_loads_torch_itself_is_not_limited(stand_in: Path) -> None:
    run(CHILD_LOADS_TORCH, stand_in, str(ROOT / "tests" / "golden" / "pilc" / "l-1-grey.lic"))


def test_a_lock_held_by_a_thread_of_the_parent_does_not_stop_the_child(stand_in: Path) -> None:
    run(FORK_WITHIN_A_LOAD, stand_in)


def test_cuda_in_a_forked_child_is_refused_by_us_and_not_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen from a child of a process that has used CUDA; no machine of the tests needs one."""
    cache = ModelCache(1)
    assert cache.before_use("cuda:0", 3) == 3
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    cache.after_fork()
    with pytest.raises(UsageValueError, match=r'forked after CUDA .* "spawn" method, or use device="cpu"'):
        cache.before_use("cuda:0")

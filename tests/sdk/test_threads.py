"""`threads`: what one call's networks run on, and nobody else's."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import licodec
from licodec.threads import limited
from tests.sdk.fixtures import pixels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def counts(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Torch's number of threads, noted at every convolution."""
    noted: list[int] = []
    convolve: Callable[..., torch.Tensor] = torch.nn.functional.conv2d

    def noting(*arguments: Any, **options: Any) -> torch.Tensor:
        noted.append(torch.get_num_threads())
        return convolve(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", noting)
    yield noted
    licodec.unregister()
    licodec.register()


def in_a_new_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_way_of_coding_runs_on_as_many_as_it_was_told(counts: list[int], threads: int) -> None:
    before = torch.get_num_threads()
    data = licodec.encode(pixels(), codec="stand-in", threads=threads)
    licodec.decode(data, threads=threads)
    encoder, decoder = licodec.Encoder("stand-in", threads=threads), licodec.Decoder(threads=threads)
    encoder([pixels()])
    encoder(pixels(), target_psnr=20, strict=False)
    decoder([data])
    pickle.loads(pickle.dumps(encoder))(pixels())
    pickle.loads(pickle.dumps(decoder))(data)
    assert len(counts) > 7
    assert set(counts) == {threads}
    assert torch.get_num_threads() == before


def test_no_other_thread_notices(counts: list[int]) -> None:
    """Neither one that torch knows already nor one that it meets meanwhile or later."""
    fresh = in_a_new_thread(torch.get_num_threads)  # which other tests may have set elsewhere
    told = torch.get_num_threads() + fresh + 2
    known, inside, leave = threading.Event(), threading.Event(), threading.Event()
    seen: list[int] = []

    def other() -> None:
        seen.append(torch.get_num_threads())
        known.set()
        inside.wait()
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    known.wait()
    with limited(told):
        assert torch.get_num_threads() == told
        inside.set()
        thread.join()
        seen.append(in_a_new_thread(torch.get_num_threads))
    leave.set()
    seen.append(in_a_new_thread(torch.get_num_threads))
    assert seen == [fresh] * 4


def test_the_number_of_before_comes_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), limited(before + 1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_a_thread_that_is_new_to_torch_is_limited_too(counts: list[int]) -> None:
    in_a_new_thread(lambda: licodec.encode(pixels(), codec="stand-in", threads=3))
    assert counts == [3]


STARTS_NO_THREAD = """
import os, sys
import torch
torch.set_num_threads(3)  # which makes MKL's number one of its own
import licodec
running = lambda: len(os.listdir("/proc/self/task"))
before = running()
data = open(sys.argv[1], "rb").read()
one = licodec.decode(data, device="cpu", threads=1)
assert running() == before, (before, running())
torch.randn(2048, 2048) @ torch.randn(2048, 2048)
assert running() > before, "nothing here starts threads: this test shows nothing"
assert torch.get_num_threads() == 3
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_one_thread_is_one_thread_whatever_torch_was_set_to() -> None:
    golden = ROOT / "tests" / "golden" / "fhic" / "s-1-q50-order1.lic"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    subprocess.run([sys.executable, "-c", STARTS_NO_THREAD, str(golden)], env=environment, check=True)


WANTED = """
import os, sys
from licodec.threads import limited, wanted
processors = len(os.sched_getaffinity(0))
for said, count in (("", processors), ("3", 3), ("5,2", 5), ("0", 1), ("many", processors)):
    os.environ["OMP_NUM_THREADS"] = said
    assert wanted() == count, said
    with limited(2):
        assert wanted() == 2
assert "torch" not in sys.modules
os.environ["OMP_NUM_THREADS"] = ""
import torch
torch.set_num_threads(6)
assert wanted() == 6
with limited(2):
    assert wanted() == 2
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a system that doesn't say which processors")
def test_the_usual_number_is_what_torch_or_the_environment_says() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", WANTED], env=environment, check=True)


LOADED_LATER = """
import sys, threading
from dataclasses import replace
import licodec
from licodec.codecs.registry import CODECS
from licodec.models import CACHE, Request
from licodec.threads import limited, torch_as_wanted, wanted

CODECS["stand-in"] = replace(CODECS["fhic"], token="stand-in", module="noting_codec", default_tag="t-1")
picture = sys.argv[1]

def elsewhere():
    import PIL.Image
    with PIL.Image.open(picture) as image:
        small = image.resize((30, 20))
    licodec.encode(small, codec="stand-in", threads=3)

with limited(4), limited(7):
    torch_as_wanted()
    assert wanted() == 7 and "torch" not in sys.modules
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    import noting_codec, torch
    assert set(noting_codec.numbers) == {3} and len(noting_codec.numbers) == 2
    CACHE.get(Request("stand-in", "t-1"), "cpu")  # that the other thread has loaded
    assert torch.get_num_threads() == 7 == wanted()
with limited(2):
    with limited(1):
        pass
    assert torch.get_num_threads() == 2
assert torch.get_num_threads() == noting_codec.in_a_new_thread()
"""

NESTED = """
from licodec.threads import limited, torch_as_wanted
try:
    with limited(4):
        with limited(2), limited(7):
            import noting_codec, torch
            torch_as_wanted()
            assert torch.get_num_threads() == 7
            torch_as_wanted()
        assert torch.get_num_threads() == 4, "the outer sections were set with the inner ones"
        raise ZeroDivisionError
except ZeroDivisionError:
    assert torch.get_num_threads() == noting_codec.in_a_new_thread()
"""

NOTING_CODEC = """
from concurrent.futures import ThreadPoolExecutor
import torch
from tests.sdk.stand_in import StandInModel

numbers = []

class Noting(StandInModel):
    def __init__(self, weights, device):
        numbers.append(torch.get_num_threads())
        super().__init__(weights, device)

    def encode(self, picture, **how):
        numbers.append(torch.get_num_threads())
        return super().encode(picture, **how)

def build(weights, device, *, exact="auto"):
    return Noting(weights, device)

def in_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()
"""


@pytest.mark.parametrize("code", [LOADED_LATER, NESTED], ids=["by a model", "inside sections"])
def test_a_torch_that_is_loaded_inside_runs_on_as_many_too(code: str, stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "noting_codec.py").write_text(NOTING_CODEC)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "sdk", tmp_path)))
    variables = {"PYTHONPATH": paths, "LICODEC_DEVICE": "cpu"}
    arguments = [sys.executable, "-c", code, str(ROOT / "examples" / "photo.png")]
    subprocess.run(arguments, env={**os.environ, **variables}, check=True)

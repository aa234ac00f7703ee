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

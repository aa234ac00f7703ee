"""Files travel: other instruction sets, libraries, thread counts and memory formats find the same symbols.

The reference is float32 on this machine as it is. Every environment decodes the reference's files, and the
reference decodes the files of every environment. Lossless files are the same bytes everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import licodec
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.exact.paths import ExactNet
from tests.codecs.environment import RATES, both_ways, code, lossless, observe
from tests.codecs.fixtures import Pixels, built, pixels

ROOT = Path(__file__).parents[2]
SAME_PRECISION_DB = 60.0
OTHER_PRECISION_DB = 46.0


class Reference:
    """The pictures, their files, and what the reference sees in them."""

    def __init__(self, model: cb.Checkerboard, weights: store.Weights, folder: Path) -> None:
        self.model, self.weights, self.folder = model, weights, folder
        self.pictures: list[Pixels] = [pixels(50, 70), pixels(17, 96, 1, seed=2), pixels(64, 48, seed=4)]
        self.files = code(model, weights.ref, self.pictures)
        self.lossless = lossless(self.pictures)
        self.seen = observe(model, self.files)
        job: dict[str, Any] = {f"picture{i}": planes for i, planes in enumerate(self.pictures)}
        job |= {f"file{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(self.files)}
        job |= {f"lossless-file{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(self.lossless)}
        np.savez(folder / "job.npz", **job)
        self.float_digests: set[int] = set()

    def check(self, found: dict[str, Any], closeness: float = SAME_PRECISION_DB) -> None:
        """Same symbols in both directions, pixels as close as promised; lossless files the same byte by byte,
        and their samples."""
        for i, planes in enumerate(self.pictures):
            assert found[f"lossless-file{i}"].tobytes() == self.lossless[i], f"lossless file of picture {i}"
            samples = found[f"lossless-pixels{i}"].reshape(planes.shape)
            assert np.array_equal(samples, planes), f"samples of picture {i}"
        own = [found[f"file{i}"].tobytes() for i in range(len(RATES))]
        back = observe(self.model, own)
        for way, here in (("there", self.seen), ("back", back)):
            for i in range(len(RATES)):
                assert np.array_equal(found[f"{way}-z{i}"], here[f"z{i}"]), f"{way}, z of picture {i}"
                assert np.array_equal(found[f"{way}-q{i}"], here[f"q{i}"]), f"{way}, symbols of picture {i}"
                difference = found[f"{way}-pixels{i}"].astype(float) - here[f"pixels{i}"]
                assert np.mean(difference**2) <= 255**2 / 10 ** (closeness / 10), f"{way}, picture {i}"
        self.float_digests.add(int(found["there-floats"]))


@pytest.fixture(scope="module")
def reference(
    model: cb.Checkerboard, weights: store.Weights, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    return Reference(model, weights, tmp_path_factory.mktemp("environments"))


# --- settings that libraries read when they start

PROCESSES = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"},
    "compatible-nodnn": {"MKL_CBWR": "COMPATIBLE", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
}


@pytest.fixture(scope="module")
def processes(reference: Reference) -> dict[str, dict[str, Any]]:
    """What each process found; a process that could not run has its last words instead."""
    found: dict[str, dict[str, Any]] = {}
    for name, variables in PROCESSES.items():
        done = subprocess.run(
            [sys.executable, "-m", "tests.codecs.environment", str(reference.folder), name],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "sdk"))), **variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        with np.load(reference.folder / f"{name}.npz") as archive:
            found[name] = dict(archive)
    return found


@pytest.mark.parametrize("name", PROCESSES)
def test_files_travel_between_instruction_sets_and_libraries(
    name: str, reference: Reference, processes: dict[str, dict[str, Any]]
) -> None:
    reference.check(processes[name])


def test_the_codecs_own_float_nets_would_not_have_agreed(
    reference: Reference, processes: dict[str, dict[str, Any]]
) -> None:
    """Or the tests above prove nothing on this machine."""
    digests = {int(found["there-floats"]) for found in processes.values()} | {int(reference.seen["floats"])}
    assert len(digests) > 1


# --- settings of a running process


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_onednn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def in_channels_first(model: cb.Checkerboard, monkeypatch: pytest.MonkeyPatch) -> cb.Checkerboard:
    """Float nets and the exact nets' inputs in the other memory format than usual."""
    nets = (model.analysis, model.refinement, model.synthesis, model.hyper_analysis, model.means)
    for net in nets:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    call: Callable[..., Any] = ExactNet.__call__

    def turned(self: Any, name: str, x: torch.Tensor, *rest: Any) -> Any:
        form = torch.contiguous_format
        if x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
            form = torch.channels_last
        return call(self, name, x.contiguous(memory_format=form), *rest)

    monkeypatch.setattr(ExactNet, "__call__", turned)
    return model


def observed(reference: Reference, model: cb.Checkerboard) -> dict[str, Any]:
    licodec.clear_cache()
    return both_ways(model, reference.weights.ref, reference.pictures, reference.files, reference.lossless)


@pytest.mark.parametrize("count", [1, 2])
def test_files_travel_between_thread_counts(count: int, reference: Reference) -> None:
    with threads(count):
        found = observed(reference, reference.model)
    reference.check(found)


def test_files_travel_to_a_process_without_onednn(reference: Reference) -> None:
    with without_onednn():
        found = observed(reference, built(reference.weights))
    reference.check(found)


def test_lossless_files_travel_to_careless_callers(reference: Reference) -> None:
    """With float64 as the default dtype, autocast, denormals flushed, and NumPy's warnings as errors."""
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    licodec.clear_cache()
    try:
        with torch.autocast("cpu", torch.bfloat16), np.errstate(all="raise"):
            assert lossless(reference.pictures) == reference.lossless
            for planes, data in zip(reference.pictures, reference.lossless, strict=True):
                found = licodec.decode(data, output="numpy", device="cpu")
                assert np.array_equal(found.reshape(planes.shape), planes)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(False)


def test_files_travel_between_memory_formats(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    found = observed(reference, in_channels_first(built(reference.weights), monkeypatch))
    monkeypatch.undo()
    reference.check(found)


@pytest.mark.parametrize("path", ["float64-rounded", "int64"])
def test_files_travel_between_exact_paths(path: str, reference: Reference) -> None:
    model = built(reference.weights, exact=path)
    assert model.exact.path == path
    reference.check(observed(reference, model))


def test_files_travel_between_bfloat16_and_float32(reference: Reference) -> None:
    model = built(reference.weights, "bfloat16")
    assert model.precision == torch.bfloat16 and reference.model.precision == torch.float32
    reference.check(observed(reference, model), OTHER_PRECISION_DB)


def test_another_precision_than_the_two_is_refused(weights: store.Weights) -> None:
    with pytest.raises(
        ValueError, match=r"LICODEC_PRECISION.*float16.*expected float32, bfloat16 or fixed16"
    ):
        built(weights, "float16")

"""`auto` asks torch for devices only where torch may see one: shown with a torch that notes its import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from licodec import devices
from licodec.devices import resolve_device

SEES_TWO = """
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
__version__ = "0"
"""
CPU, CUDA, ROCM = (
    f"cuda = {cuda!r}\nhip: str = {hip!r}\n" for cuda, hip in ((None,) * 2, ("13", None), (None, "7"))
)


@pytest.fixture
def torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A torch that is not loaded and would see two devices, on Linux without any driver; its folder."""
    folder = tmp_path / "packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(SEES_TWO)
    (folder / "version.py").write_text(CPU)
    (tmp_path / "driver").touch()
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(devices, "DRIVERS", {"cuda": (str(tmp_path / "none"),), "hip": ()})
    monkeypatch.setattr(devices, "CUDA_LIBRARY", "libnothing-of-this-name.so.1")
    devices.torch_may_see_gpus.cache_clear()
    yield folder
    devices.torch_may_see_gpus.cache_clear()


def auto() -> tuple[str, bool]:
    """What `auto` stands for, and whether torch was imported to know it."""
    return resolve_device("auto"), "torch" in sys.modules


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_a_build_for_cpus_is_not_asked_whatever_drivers_there_are(
    platform: str, torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(devices, "DRIVERS", dict.fromkeys(("cuda", "hip"), (str(tmp_path / "driver"),)))
    assert auto() == ("cpu", False)


@pytest.mark.parametrize("build", [CUDA, ROCM])
def test_a_build_for_gpus_is_not_asked_on_linux_without_a_driver(build: str, torch: Path) -> None:
    (torch / "version.py").write_text(build)
    assert auto() == ("cpu", False)


@pytest.mark.parametrize(("kind", "build"), [("cuda", CUDA), ("hip", ROCM)])
def test_only_a_driver_of_its_kind_counts(
    kind: str, build: str, torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (torch / "version.py").write_text(build)
    paths = {each: (str(tmp_path / "driver"),) if each == kind else () for each in ("cuda", "hip")}
    others = {"cuda": paths["hip"], "hip": paths["cuda"]}
    monkeypatch.setattr(devices, "DRIVERS", others)
    assert auto() == ("cpu", False)
    devices.torch_may_see_gpus.cache_clear()
    monkeypatch.setattr(devices, "DRIVERS", paths)
    assert auto() == ("cuda", True)


@pytest.mark.skipif(sys.platform != "linux", reason="loads a library of Linux")
def test_the_library_of_nvidias_driver_counts_too(torch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (torch / "version.py").write_text(CUDA)
    monkeypatch.setattr(devices, "CUDA_LIBRARY", "libc.so.6")
    assert auto() == ("cuda", True)


def test_a_build_for_gpus_is_asked_on_windows(torch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    (torch / "version.py").write_text(CUDA)
    assert auto() == ("cuda", True)


@pytest.mark.parametrize("version", [None, "__version__ = '9'\n"])
def test_a_build_that_does_not_say_what_it_is_for_is_asked_where_there_is_a_driver(
    version: str | None, torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (torch / "version.py").unlink()
    if version is not None:
        (torch / "version.py").write_text(version)
    assert auto() == ("cpu", False)
    devices.torch_may_see_gpus.cache_clear()
    monkeypatch.setattr(devices, "DRIVERS", {"cuda": (), "hip": (str(tmp_path / "driver"),)})
    assert auto() == ("cuda", True)


def test_a_torch_that_is_loaded_is_asked_and_so_is_any_for_a_device_that_is_named(torch: Path) -> None:
    assert resolve_device("cpu") == "cpu" and "torch" not in sys.modules
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="cuda:2 is not there; torch 0 sees 2"):
        resolve_device("cuda:2")
    assert auto() == ("cuda", True)


def test_without_torch_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch, torch: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "platform", "win32")
    assert resolve_device("auto") == "cpu"


def test_what_is_said_of_this_machine_is_what_its_own_torch_says() -> None:
    """The build is read from a file of torch, which may once look otherwise."""
    import torch

    devices.torch_may_see_gpus.cache_clear()
    assert devices._built_for() == [kind for kind in ("cuda", "hip") if getattr(torch.version, kind)]
    assert devices.torch_may_see_gpus() or not torch.cuda.is_available()

"""Which device a name stands for on this machine, without importing torch where that can be told otherwise.

resolve_device("auto")  # "cpu" or "cuda"
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import runpy
import sys
from pathlib import Path
from typing import Final

from lic_format.errors import UsageValueError
from licodec.threads import torch_is_loaded

WSL: Final = "/dev/dxg"
DRIVERS: Final = {
    "cuda": ("/dev/nvidiactl", "/proc/driver/nvidia", WSL),
    "hip": ("/dev/kfd", WSL),
}
"""By what torch is built for: paths of Linux one of which is there wherever such a driver is at work."""
CUDA_LIBRARY: Final = "libcuda.so.1"
"""Comes with NVIDIA's driver, also where the first program that wants a device makes its paths."""


def resolve_device(device: str, source: str = "device") -> str:
    """`auto` as the device it stands for; others as they are, if they are there. `source`: who asks for it.

    torch says what is there: imported for a device that is named, and for `auto` where `torch_may_see_gpus`.

    Raises:
        UsageValueError: a CUDA device that this machine or this build of torch doesn't have.
    """
    if device == "cpu":
        return device
    if device == "auto" and not (torch_is_loaded() or torch_may_see_gpus()):
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise UsageValueError(
            f"{source}: {device} is not there; torch {torch.__version__} sees {count} CUDA devices",
            argument=source,
        )
    return device


@functools.cache
def torch_may_see_gpus() -> bool:
    """Whether it takes torch, which is not loaded, to know that there is no CUDA device. Once a process.

    False without torch, with a build of it for CPUs alone, and on Linux without a driver for its build. On
    other systems nobody installs a build for GPUs without one.
    """
    kinds = _built_for()
    if sys.platform != "linux":
        return bool(kinds)
    return any(os.path.exists(path) for kind in kinds for path in DRIVERS[kind]) or (
        "cuda" in kinds and _loads(CUDA_LIBRARY)
    )


def _built_for() -> list[str]:
    """Of `DRIVERS` those that this torch can use, by its version.py; all where that can't be read."""
    spec = importlib.util.find_spec("torch")
    if spec is None:
        return []
    for folder in spec.submodule_search_locations or ():
        try:
            says = runpy.run_path(str(Path(folder, "version.py")))
        except OSError:
            break
        return [kind for kind in DRIVERS if says.get(kind, "unknown")]
    return list(DRIVERS)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

"""How many threads one call's networks run on, while the rest of the process keeps its number.

`torch.set_num_threads` is no way to that: it counts for the calling thread and for every thread that torch
meets later, for good. What torch asks before a parallel loop belongs to a thread, though: OpenMP's number,
and MKL's own where somebody called `torch.set_num_threads`. Both are set here for the calling thread, and put
back after it. A torch that was built without OpenMP (its wheels are not) takes no notice.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from threadpoolctl import ThreadpoolController


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Run torch in this thread on so many threads, more or fewer than elsewhere; None changes nothing."""
    if threads is None:
        yield
        return
    import torch

    torch.get_num_threads()  # in a thread that is new to it torch sets its own number first, once
    set_mkl = _mkl_setter()
    with _openmp().limit(limits=threads):
        before = set_mkl(threads)
        try:
            yield
        finally:
            set_mkl(before)


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


@functools.cache
def _mkl_setter() -> Callable[[int], int]:
    """Sets the number of the calling thread and returns the one before; 0 is "as OpenMP says"."""
    import torch

    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        with contextlib.suppress(
            OSError, AttributeError
        ):  # not this system; an MKL that is elsewhere, or none
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
            return library.MKL_Set_Num_Threads_Local
    return lambda number: 0

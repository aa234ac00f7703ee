"""Loops compiled at run time by numba, where it is installed (the extra `fast`); nothing depends on them.

    from licodec import compiled
    if compiled.here():
        from licodec.entropy import lanes_compiled

What is compiled is integers only and gives what the NumPy code beside it gives; tests compare both. It is
kept on disk by numba, beside the source or in the user's cache (NUMBA_CACHE_DIR). Compiling takes some
seconds, once; loading what was kept, and numba itself, half a second a process. LICODEC_COMPILED=0 does
without.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any


@functools.cache
def here() -> bool:
    """Whether numba is installed and wanted. Doesn't import it."""
    return os.environ.get("LICODEC_COMPILED", "1") != "0" and importlib.util.find_spec("numba") is not None


@functools.cache
def loops_here() -> bool:
    """Whether llvmlite, a dependency on x86 and elsewhere numba's, is installed and wanted: for loops in the
    compiler's intermediate language. `object_cache` keeps what is compiled of them."""
    return os.environ.get("LICODEC_COMPILED", "1") != "0" and importlib.util.find_spec("llvmlite") is not None


def function(of: Callable[..., Any]) -> Callable[..., Any]:
    """A function that numba compiles at its first call; it runs without the interpreter's lock."""
    import numba

    try:
        out: Callable[..., Any] = numba.njit(nogil=True, cache=True)(of)
    except RuntimeError:  # no folder to keep it in
        out = numba.njit(nogil=True)(of)
    return out

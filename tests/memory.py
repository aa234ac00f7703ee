"""How much memory a piece of a test may take, whatever its input says."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def bounded(most: float) -> Iterator[None]:
    """Fails where Python and NumPy hold more than so many bytes at a time that they did not hold before."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak:,} bytes at the peak, at most {most:,.0f} were expected"

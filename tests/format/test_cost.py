"""Opening a picture is cheap: what is imported, and how long a header takes."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import lic_format
from tests.format import corpus

# What costs milliseconds to import and is not needed to open a file.
HEAVY = {
    "dataclasses",
    "inspect",
    "typing",
    "re",
    "struct",
    "json",
    "pathlib",
    "logging",
    "hashlib",
    "numpy",
    "torch",
}


def test_importing_the_container_loads_nothing_heavy() -> None:
    script = "import sys; before = set(sys.modules); import lic_format; print(*(set(sys.modules) - before))"
    # -S and -E: site packages and environment may import anything at start, which is not ours to answer for.
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {script}"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "lic_format.container" in loaded
    assert not loaded & HEAVY


def test_a_header_is_read_in_less_than_a_third_of_a_millisecond() -> None:
    data = lic_format.write(corpus.plain())
    best = float("inf")
    for _ in range(50):
        stream = io.BytesIO(data)
        start = time.perf_counter()
        lic_format.read_head(stream)
        best = min(best, time.perf_counter() - start)
    assert best < 0.3e-3

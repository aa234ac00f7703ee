"""Mutates .lic files for a while and reads them: only a value or a LicError may come out.

    python tests/fuzz/fuzz_container.py --seconds 60 --seed 1

Every input is `corpus.mutant(n)` for a number n, and a failure prints its number, so it can be had again. A
value that is read must be one that can be written, and gives the same file again; reading as a whole, as a
stream and in part must agree.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

import lic_format
from lic_format import LicError
from tests.format import corpus


def check(data: bytes) -> str:
    """Read the bytes in every way; the name of what came out. Anything but a value or a LicError is fatal."""
    outcome = "valid"
    try:
        file = lic_format.read(data)
    except LicError as error:
        outcome = type(error).__name__
    else:
        _check_value(file, data)
    _check_agreement(data, outcome)
    return outcome


def _check_value(file: lic_format.LicFile, data: bytes) -> None:
    assert lic_format.write(file) == data, "a valid file is not written as it was read"
    for chunk in file.metadata:
        if chunk.type in ("iccp", "exif", "xmpd"):
            try:
                lic_format.unpack_metadata(chunk)
            except LicError:
                continue


def _check_agreement(data: bytes, outcome: str) -> None:
    try:
        lic_format.read_stream(io.BytesIO(data))
        assert outcome in ("valid", "FormatError"), "a stream may go on after DONE, and nothing else"
    except LicError as error:
        assert type(error).__name__ == outcome, "read and read_stream disagree"
    try:
        part = lic_format.read(data, partial=True)
        assert part.complete == (outcome == "valid"), "a partial read hides a fault"
        assert lic_format.read_head(data)[0] == part.head
    except LicError:
        assert outcome != "valid"


def run(seconds: float, seed: int) -> dict[str, int]:
    """Fuzz for that long; how often each outcome came. A failure carries the number of its input."""
    outcomes: dict[str, int] = {}
    end = time.monotonic() + seconds
    for number in itertools.count(seed << 32):
        try:
            outcome = check(corpus.mutant(number))
        except Exception as error:
            error.add_note(f"input: corpus.mutant({number})")
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if time.monotonic() > end:
            return outcomes
    raise AssertionError("unreachable")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the container for a while.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(run(arguments.seconds, arguments.seed))


if __name__ == "__main__":
    main()

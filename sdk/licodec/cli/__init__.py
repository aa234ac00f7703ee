"""The command `licodec`: encode, decode, inspect, bench, train, weights, codecs.

It parses, calls the SDK and prints; what it can do, `licodec` and `licodec.evaluation` can do from Python.
Starting it loads neither torch nor NumPy: commands import what they need when they run.

Results go to stdout, messages to stderr. Exit status: 0 all done, 1 a file failed (the others are done), 2
wrong usage, 130 interrupted.

Reading order: `program` (exit status), `declared` (options), `files` (names, `-`), `batch` (many files), then
one module a command.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    from licodec.cli.program import run

    status = run(sys.argv[1:])
    gc.freeze()  # or Python searches all of torch for cycles before it ends: half a second
    sys.exit(status)

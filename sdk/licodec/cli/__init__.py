"""The command `licodec`: encode, decode, inspect, codecs, compare, bench, train, weights.

It parses, calls the SDK and prints; what it can do, `licodec` and `licodec.evaluation` can do from Python.
Starting it loads neither torch nor NumPy: commands import what they need when they run.

Results go to stdout, messages to stderr. Exit status: 0 all done, 1 a file failed (the others are done), 2
wrong usage, 130 interrupted.

Reading order: `program` (exit status), `declared` (options), `files` (names, `-`), `batch` (many files), then
one module a command.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import weakref
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    # By default Python looks through all of torch for cycles, 0.1 seconds each time, while it starts.
    gc.set_threshold(100_000, 50, 100)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        # By default threads that wait keep their core busy for milliseconds. Where other processes want it
        # too, that multiplies the time of a picture. GNU OpenMP reads it when torch is loaded.
        os.environ["GOMP_SPINCOUNT"] = "1000"
    from licodec.cli.program import run

    status = run(sys.argv[1:])
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        alive = finalizer.peek()
        if alive is not None and getattr(alive[1], "__module__", "") == "torch.library":
            finalizer.atexit = False  # it would unregister torch's operators one by one, 6 milliseconds
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # as Python ends where what was printed can't be written
        status = status or 120
    os._exit(status)  # or Python takes all of torch apart before it ends, which is 0.4 seconds

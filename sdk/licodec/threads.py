"""How many threads one call's networks run on, while the rest of the process keeps its number.

`torch.set_num_threads` is no way to that: it counts for the calling thread and for every thread that torch
meets later, for good. What torch asks before a parallel loop belongs to a thread, though: OpenMP's number,
and MKL's own where somebody called `torch.set_num_threads`. Both are set here for the calling thread, and put
back after it. A torch that was built without OpenMP (its wheels are not) takes no notice.

NumPy has a number of its own, the process's.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def torch_is_loaded() -> bool:
    """Or about to be, in another thread."""
    return sys.modules.get("torch") is not None


class _Section:
    """One `limited` that a thread is in.

    wanted: what it said. at_its_end: what undoes it.
    """

    def __init__(self, wanted: int, at_its_end: contextlib.ExitStack) -> None:
        self.outer: Final = _section.get()
        self.wanted: Final = wanted
        self._at_its_end: Final = at_its_end
        self._thread: Final = threading.get_ident()
        self._settled = False

    def settle(self) -> None:
        """Set torch's numbers, from the outermost section on; they belong to the thread that entered it."""
        if self._settled or self._thread != threading.get_ident():
            return
        if self.outer is not None:
            self.outer.settle()
        self._at_its_end.enter_context(_torch_on(self.wanted))
        self._settled = True


_section: contextvars.ContextVar[_Section | None] = contextvars.ContextVar("_section", default=None)


def wanted() -> int:
    """How many threads this call's work is to be spread over: what `limited` says, else the number that torch
    is set to where it is loaded, else that of OMP_NUM_THREADS, else one a processor that this process may
    use."""
    section = _section.get()
    if section is not None:
        return section.wanted
    if (of_torch := getattr(sys.modules.get("torch"), "get_num_threads", None)) is not None:
        count: int = of_torch()
        return count
    with contextlib.suppress(ValueError):  # not set, or no number
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]))
    with contextlib.suppress(AttributeError):  # Linux alone says which
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Spread this thread's work over so many threads, and run torch in it on so many, more or fewer than
    elsewhere; None changes nothing. Loads no torch: see `torch_as_wanted`."""
    if threads is None:
        yield
        return
    with contextlib.ExitStack() as at_its_end:
        before_us = _section.set(_Section(threads, at_its_end))
        at_its_end.callback(_section.reset, before_us)
        torch_as_wanted()
        yield


def torch_as_wanted() -> None:
    """Let torch run in this thread as `limited` has said, if it was loaded since.

    It has numbers to be set only once it is there. `ModelCache` calls this for every model it gives, after
    the import of its codec. A model that comes to torch later, inside a call, calls it itself, each time: it
    costs nothing, and another thread may have been the one that loaded torch.
    """
    section = _section.get()
    if section is not None and torch_is_loaded():
        section.settle()


@contextlib.contextmanager
def _torch_on(threads: int) -> Iterator[None]:
    import torch

    torch.get_num_threads()  # in a thread that is new to it torch sets its own number first, once
    set_mkl = _mkl_setter()
    with _openmp().limit(limits=threads):
        before = set_mkl(threads)
        try:
            yield
        finally:
            set_mkl(before)


class _OneThread:
    """NumPy's matrix products on one thread while anybody wants them so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limit = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if self._holders == 0:
                self._limit.enter_context(_blas().limit(limits=1))
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._limit.close()

    def after_fork(self) -> None:
        """In a child: the lock as nobody holds it, whatever a thread of the parent did."""
        self._lock = threading.Lock()


_products = _OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_products.after_fork)


def products_on_one_thread() -> contextlib.AbstractContextManager[None]:
    """NumPy's matrix products on one thread: small ones take longer on several. Their number is the whole
    process's, so it stays so until the last thread is out of here."""
    return _products.held()


class _Turns:
    """A lock that no child finds taken."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        with self._lock:
            yield


_turns = _Turns()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turns.after_fork)


def one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """For work of many short NumPy calls, in threads that otherwise run without the interpreter's lock. Each
    call hands that lock over, and two threads at such work take several times as long as one after the other.
    Not to be nested."""
    return _turns.taken()


class Team:
    """Threads of one call, for work that leaves the interpreter's lock alone: they do its pieces one by one,
    and whoever finds none left helps with a part of somebody else's, see `spread`."""

    def __init__(self, count: int) -> None:
        self._pool: Final = ThreadPoolExecutor(count, initializer=_teams.join, initargs=(self,))
        self._lock: Final = threading.Lock()
        self._idle = count

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[T], R], pieces: Iterable[T]) -> Iterator[R]:
        """What work makes of each piece, in their order."""
        pieces = list(pieces)
        self._add(-len(pieces))

        def done(piece: T) -> R:
            try:
                return work(piece)
            finally:
                self._add(1)

        return self._pool.map(done, pieces)

    def spread(self, work: Callable[[slice], None], length: int, least: int) -> None:
        """See `spread`."""
        parts = 1 + self._take(length // least - 1)
        edges = [length * number // parts for number in range(parts + 1)]
        own, *others = (slice(first, last) for first, last in itertools.pairwise(edges))

        def helped(part: slice) -> None:
            try:
                work(part)
            finally:
                self._add(1)

        asked = [self._pool.submit(helped, part) for part in others]
        try:
            work(own)
        finally:
            for each in asked:
                each.result()

    def _add(self, count: int) -> None:
        with self._lock:
            self._idle += count

    def _take(self, wished: int) -> int:
        """Of those with nothing to do, so many or fewer. Pieces that wait count as threads at work."""
        with self._lock:
            taken = max(0, min(wished, self._idle))
            self._idle -= taken
            return taken


class _Teams(threading.local):
    """The team that a thread belongs to."""

    mine: Team | None = None

    def join(self, team: Team) -> None:
        self.mine = team


_teams = _Teams()


def spread(work: Callable[[slice], None], length: int, least: int) -> None:
    """Do all of work(slice(0, length)), in parts of `least` or more where threads of this thread's team have
    nothing to do."""
    if _teams.mine is None:
        work(slice(0, length))
    else:
        _teams.mine.spread(work, length, least)


@functools.cache
def _blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@functools.cache
def _openmp() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

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

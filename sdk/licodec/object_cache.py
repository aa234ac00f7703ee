"""Machine code of compiled loops, kept on disk for the processes to come.

    engine = object_cache.engine("fixed_point", SOURCES, lambda: module_text(paired), paired)
    address = engine.get_function_address("plain_rows")

What is kept stands in `compiled` below the folder that LICODEC_CACHE names, or else below the user's cache.
It is executed, so a file is loaded only where nobody else can have written it: on POSIX systems folder and
file belong to the user or to root, and neither group nor others may write them. Its name says what it was
made from and for; its own digest stands before it, so that what is damaged is compiled again. Where nothing
can be kept, every process compiles.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import llvmlite
from llvmlite import binding

from licodec.atomic import write_atomic
from licodec.version import __version__

DAY: Final = 24 * 60 * 60
UNUSED_DAYS: Final = 90
MOST_FILES: Final = 8
"""Of a name: of several versions, or of several machines that share a home."""
_ENGINES: Final[list[Any]] = []
"""All that were made: an engine that goes takes its code with it, in whose midst a thread may be."""
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_OPTIMISATION: Final = 2


def engine(name: str, sources: Sequence[str], text: Callable[[], str], *variant: object) -> Any:
    """llvmlite's execution engine of a module in intermediate language, compiled unless it was kept.

    Args:
        name: an identifier. sources: modules of Python whose files say all of what `text` gives, but for
            `variant`. text: the module; called where it must be compiled.
    """
    key = _key(name, sources, variant)
    path = _path(name, key)
    kept = path and _read(path, key)
    if kept:
        loaded = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
        loaded.add_object_file(binding.ObjectFileRef.from_data(kept))
        loaded.finalize_object()
        _ENGINES.append(loaded)
        return loaded
    made: list[bytes] = []
    compiled = binding.create_mcjit_compiler(binding.parse_assembly(text()), _machine())
    compiled.set_object_cache(notify_func=lambda _, code: made.append(code))
    compiled.finalize_object()
    _ENGINES.append(compiled)
    if path and made:
        with contextlib.suppress(OSError):
            _write(path, key, made[0])
    return compiled


@functools.cache
def features() -> Any:
    """What the processor can do, by LLVM's names."""
    return binding.get_host_cpu_features()


def _wanted() -> str:
    """Features to compile for. LLVM takes the instruction that multiplies pairs and adds them apart again,
    thinking of one sum alone; where many are on their way that halves the speed."""
    found: str = features().flatten()
    return f"{found},+fast-dpwssd" if features().get("avx512vnni", False) else found


def _machine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=_wanted(), opt=_OPTIMISATION
    )


# --- What it was made from and for --------------------------------------------------------------------------


def _key(name: str, sources: Iterable[str], variant: tuple[object, ...]) -> bytes:
    machine = (binding.get_default_triple(), binding.get_host_cpu_name(), _wanted())
    versions = (llvmlite.__version__, binding.llvm_version_info)
    made_from = [hashlib.sha256(_source(each)).hexdigest() for each in sources]
    parts = (name, variant, made_from, versions, machine, _OPTIMISATION)
    return hashlib.sha256(repr(parts).encode()).digest()


def _source(module: str) -> bytes:
    """The bytes of its file, or licodec's version where there is none."""
    found = importlib.util.find_spec(module)
    with contextlib.suppress(AttributeError, OSError):
        data: bytes = found.loader.get_data(found.origin)  # type: ignore[union-attr]
        return data
    return __version__.encode()


# --- Files --------------------------------------------------------------------------------------------------


def _path(name: str, key: bytes) -> Path | None:
    folder = _folder()
    return folder and folder / f"{name}-{key.hex()[:32]}.o"


def _folder() -> Path | None:
    """None where there is no home: nobody but its owner makes that."""
    if configured := os.environ.get("LICODEC_CACHE"):
        return Path(configured) / "compiled"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        place, usual = os.environ.get("LOCALAPPDATA", ""), home / "AppData" / "Local"
        base = (Path(place) if os.path.isabs(place) else usual) / "licodec" / "Cache"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches" / "licodec"
    else:
        place = os.environ.get("XDG_CACHE_HOME", "")
        base = (Path(place) if os.path.isabs(place) else home / ".cache") / "licodec"
    if not base.is_absolute() or (base.is_relative_to(home) and not home.exists()):
        return None
    return base / "compiled"


def _ours(status: os.stat_result) -> bool:
    """Whether it is the user's or root's. On Windows a profile's folder is the user's by its rights."""
    return os.name != "posix" or status.st_uid in (0, os.geteuid())


def _only_ours(status: os.stat_result) -> bool:
    """Whether nobody else may write it, either."""
    return _ours(status) and (os.name != "posix" or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _read(path: Path, key: bytes) -> bytes | None:
    """The code, or None where there is none that may be loaded."""
    try:
        folder = os.lstat(path.parent)
        if not (stat.S_ISDIR(folder.st_mode) and _only_ours(folder)):
            return None
        with open(path, "rb", opener=_opened) as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and _only_ours(status)):
                return None
            data = file.read()
    except OSError:
        return None
    digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if digest != hashlib.sha256(key + code).digest():
        return None
    if time.time() - status.st_mtime > DAY:
        with contextlib.suppress(OSError):
            os.utime(path)  # it is in use
    return code


def _opened(path: str, flags: int) -> int:
    """Follows no link, and doesn't wait for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _write(path: Path, key: bytes, code: bytes) -> None:
    folder = path.parent
    present = next(each for each in folder.parents if each.exists())
    if not _ours(present.stat()):  # of another user's home under sudo, say
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _only_ours(os.lstat(folder)):
        return
    path.unlink(missing_ok=True)  # with whatever permissions it had
    write_atomic(path, hashlib.sha256(key + code).digest() + code, mode=0o600)
    _forget_old(folder, path.name.partition("-")[0])


def _forget_old(folder: Path, name: str) -> None:
    """Deletes code of that name that nobody seems to use, and what killed processes left."""
    now = time.time()
    ages: list[tuple[float, Path]] = []
    for each in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may just have done the same
            age = now - each.stat().st_mtime
            if each.name.startswith(f"{name}-"):
                ages.append((age, each))
            elif each.name.startswith(f".{name}-") and age > DAY:
                each.unlink()
    for place, (age, each) in enumerate(sorted(ages)):
        if place >= MOST_FILES or age > UNUSED_DAYS * DAY:
            with contextlib.suppress(OSError):
                each.unlink()

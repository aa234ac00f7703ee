"""Files that are there whole or not at all: for everything that the SDK and the command line write."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], data: bytes, mode: int = 0o666) -> None:
    """Write `data` to `path` so that every reader sees the old file or the whole new one, also after a power
    cut.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the name by
    `os.replace`. An existing file keeps its permissions, a new one gets `mode` less the process's umask; a
    symbolic link stays a link. What is not a regular file (a pipe, a device) is written directly.

    Raises:
        OSError: the folder is missing or not writable, the disk is full; an existing file is then untouched.
            Its `filename` is `path`.
    """
    target = Path(os.path.realpath(path))
    present = _mode(target)
    if present is not None and not stat.S_ISREG(present):
        try:
            target.write_bytes(data)
        except OSError as error:
            raise _named(error, path) from error
        return
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        # O_EXCL: a name of our own. 0o666: the permissions that the process's umask gives to any new file.
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode
        )
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if present is not None:
            os.chmod(temporary, stat.S_IMODE(present))
        os.replace(temporary, target)
    except BaseException as error:  # Ctrl-C too must leave no temporary file behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise _named(error, path) from error
        raise
    _sync_folder(target.parent)


def _named(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """An error by the name that the caller knows."""
    return OSError(error.errno, error.strerror, os.fspath(path))


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; where folders can't be opened (Windows) the system does it itself."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

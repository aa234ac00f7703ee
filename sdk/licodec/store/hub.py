"""Weights from the Hub, through huggingface_hub: pinned, verified, and not waited for without an end.

    path, data = obtain(entry)      # from the client's cache, else fetched; data has the entry's SHA-256

What the client leaves open is settled here. It takes any content of the right length, from the server and
from its cache: the SHA-256 decides, at every load. It makes a path of whatever ETag a server sends, and asks
a server that does not answer for 23 seconds to 6 minutes: so the server is asked once beforehand, within
`ANSWER_SECONDS`, and an answer that promises another file ends it. Nothing of ours is written into the cache.

The endpoint, the cache, tokens and offline mode are the client's: HF_ENDPOINT, HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import queue
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lic_format.errors import LicWarning, WeightsError
from licodec.store.table import ENVIRONMENT, Entry, HubFile
from licodec.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

ANSWER_SECONDS = 8.0
"""For all that comes before a body: finding the address, connecting, an answer, a busy server's pauses."""
TRY_SECONDS = 5.0
BODY_SECONDS, SLOWEST = 60.0, 50_000
"""For the body: so long, and a second more for so many bytes. The client itself gives up a silent server
after a minute, but waits for hours where a server that limits its rate asks for that."""
PAUSES = (0.5, 1.0, 2.0)
REMEMBERED_SECONDS = 60.0
"""How long a failure is told again instead of tried again: a server that decodes must not hang each time."""
LARGE = 5_000_000
"""Bytes from which on a download is worth a progress bar, on a terminal."""

LIBRARY = "licodec"
"""What the Hub counts our downloads under."""

_BUSY = (408, 429, 500, 502, 503, 504)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Result = TypeVar("Result")

_lock = threading.Lock()
_failures: dict[str, tuple[float, str]] = {}
_fallback: tempfile.TemporaryDirectory[str] | None = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is gone may have held the other


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def obtain(entry: Entry, download: str = "auto", *, again: bool = False) -> tuple[Path, bytes]:
    """The file of an entry, and its verified content.

    Args:
        download: "never" looks into the cache only.
        again: try also where it has just failed.

    Raises:
        WeightsError: not there and not to be had; names the file, the repository, what was tried and the
            command that fetches it.
    """
    _require_client()
    if found := _from_cache(entry):
        return found
    if download == "never":
        raise WeightsError(_not_fetched(entry, 'download is "never"'))
    with _lock:
        if found := _from_cache(entry):  # another thread may just have fetched it
            return found
        failed = _failures.get(entry.sha256)
        if failed and not again and time.monotonic() < failed[0] + REMEMBERED_SECONDS:
            raise WeightsError(failed[1])
        reasons = []
        for place in entry.hub:
            try:
                return _fetched(entry, place)
            except WeightsError as error:
                reasons.append(str(error))
        message = _not_fetched(entry, "; ".join(reasons))
        _failures[entry.sha256] = (time.monotonic(), message)
        raise WeightsError(message)


def places_in_cache(entry: Entry) -> list[Path]:
    """The files in the client's cache that have an entry's name, whatever they hold."""
    try:
        _require_client()
    except WeightsError:
        return []
    return [path for place in entry.hub if (path := _path_in_cache(place))]


def cached(entry: Entry) -> tuple[Path, bytes] | None:
    """The file of an entry and its verified content where the client's cache has it; makes no request."""
    try:
        _require_client()
    except WeightsError:
        return None
    return _from_cache(entry)


def _require_client() -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise WeightsError(
            "weights are fetched by huggingface_hub, which is not installed: pip install 'licodec[hub]'"
        ) from error


def _from_cache(entry: Entry) -> tuple[Path, bytes] | None:
    for place in entry.hub:
        path = _path_in_cache(place)
        if path is not None and (data := _content(path, entry)) is not None:
            return path, data
    return None


def _path_in_cache(place: HubFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for folder in (None, *([_fallback.name] if _fallback else [])):
        found = try_to_load_from_cache(
            place.repository, place.file, cache_dir=folder, revision=place.revision
        )
        if isinstance(found, str):
            return Path(found)
    return None


def _content(path: Path, entry: Entry) -> bytes | None:
    """What a file holds, if it is what the entry says."""
    try:
        with path.open("rb") as file:
            data = file.read(entry.size + 1)
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None


# --- fetching -------------------------------------------------------------------------------------


def _fetched(entry: Entry, place: HubFile) -> tuple[Path, bytes]:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise WeightsError(f"{place}: HF_HUB_OFFLINE is set")
    answer = translated(place, lambda: _within(ANSWER_SECONDS, lambda: _ask(place)))
    _refuse_other_files(entry, place, answer)
    # Bytes that are wrong under the right name stay in the cache until they are replaced.
    for replace in (_path_in_cache(place) is not None, True):
        try:
            path = translated(place, functools.partial(_downloaded, entry, place, replace))
        except WeightsError as error:
            if answer.xet_file_data is None or constants.HF_HUB_DISABLE_XET:
                raise
            raise WeightsError(
                f"{error} (the Hub's Xet store has it; HF_HUB_DISABLE_XET=1 fetches without that)"
            ) from error
        data = _content(path, entry)
        if data is not None:
            if answer.commit_hash != place.revision:
                warnings.warn(
                    f"{place}: the server says that this is commit {answer.commit_hash}; the content is "
                    "right, but will be fetched again in every process",
                    LicWarning,
                    stacklevel=5,
                )
            return path, data
    raise WeightsError(
        f"{place}: the server's file has the SHA-256 {_sha256_of(path)}, expected {entry.sha256} ({path})"
    )


def _ask(place: HubFile) -> HfFileMetadata:
    """What the server says about the file. A busy server is asked again, one that is not there is not."""
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(place.repository, place.file, revision=place.revision)
    end = time.monotonic() + ANSWER_SECONDS
    for pause in (*PAUSES, None):
        try:
            return get_hf_file_metadata(
                url, timeout=TRY_SECONDS, library_name=LIBRARY, library_version=__version__
            )
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY or pause is None:
                raise
            wished = error.response.headers.get("retry-after", "")
            pause = max(pause, float(wished)) if wished.isdigit() else pause
            if time.monotonic() + pause >= end:
                raise
        except httpx2.RemoteProtocolError:
            if pause is None:
                raise
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _refuse_other_files(entry: Entry, place: HubFile, answer: HfFileMetadata) -> None:
    """Refuse an answer that promises another file, before anything is fetched or becomes a path."""
    if answer.commit_hash is None or answer.etag is None:
        raise WeightsError(f"{place}: the answer has no commit or no ETag, so it does not come from a Hub")
    if not _ETAG.fullmatch(answer.etag):
        raise WeightsError(f"{place}: the server sends the ETag {answer.etag!r}, which is none of the Hub")
    if _SHA256.fullmatch(answer.etag) and answer.etag != entry.sha256:
        raise WeightsError(
            f"{place}: the server has a file of the SHA-256 {answer.etag}, expected {entry.sha256}"
        )
    if answer.size is not None and answer.size != entry.size:
        raise WeightsError(f"{place}: the server has a file of {answer.size} bytes, expected {entry.size}")


def _downloaded(entry: Entry, place: HubFile, replace: bool) -> Path:
    """Into the client's cache; where that can't be written, into a folder that this process takes with it."""
    global _fallback
    try:
        return _download(entry, place, replace, None)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        if _fallback is None:
            _fallback = tempfile.TemporaryDirectory(prefix="licodec-")
        warnings.warn(
            f"the Hub's cache can't be written ({error}): weights {entry.name} are fetched for this process "
            "only; set HF_HOME to a folder that can be written, or see `licodec weights bundle`",
            LicWarning,
            stacklevel=7,
        )
        return _download(entry, place, replace, _fallback.name)


def _download(entry: Entry, place: HubFile, replace: bool, folder: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    fetch = functools.partial(
        hf_hub_download,
        place.repository,
        place.file,
        revision=place.revision,
        cache_dir=folder,
        force_download=replace,
        etag_timeout=TRY_SECONDS,
        tqdm_class=None if sys.stderr.isatty() and entry.size > LARGE else _quiet(),
        library_name=LIBRARY,
        library_version=__version__,
    )
    return Path(_within(BODY_SECONDS + entry.size / SLOWEST, fetch))


def _quiet() -> Any:
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Quiet(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    return Quiet


def _within(seconds: float, work: Callable[[], Result]) -> Result:
    """The result of some work, TimeoutError after so many seconds. Looking a name up knows no limit of its
    own; a thread that is still at it is left behind."""
    done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, name="licodec-hub", daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"nothing after {seconds:.3g} seconds") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


# --- what went wrong ------------------------------------------------------------------------------


def translated(place: HubFile | str, work: Callable[[], Result]) -> Result:
    """The result of some work; what the client raises is a WeightsError that says what it is about."""
    import httpx2

    try:
        return work()
    except WeightsError:
        raise
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:  # RuntimeError: hf_xet's own
        raise WeightsError(f"{place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    import httpx2
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error.__cause__, Exception) else None
    if isinstance(error, errors.LocalEntryNotFoundError | ValueError) and cause is not None:
        return _reason(cause)  # the client's "check your connection", whatever it was
    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated: accept its terms on its page, then log in (`hf auth login`)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and the token that is set may not read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such commit"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        wait = error.response.headers.get("retry-after")
        later = f" and asks to come back in {wait} s" if wait else ""
        return f"{constants.ENDPOINT} answers {status} {error.response.reason_phrase}{later}"
    if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
        return f"{constants.ENDPOINT} cannot be reached: {error}"
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return f"{constants.ENDPOINT} does not answer: {error or type(error).__name__}"
    return " ".join(str(error).split()) or type(error).__name__


def _not_fetched(entry: Entry, why: str) -> str:
    from huggingface_hub import constants

    places = ", ".join(map(str, entry.hub))
    offline = "set" if constants.is_offline_mode() else "not set"
    policy = os.environ.get("LICODEC_DOWNLOAD") or "not set"
    return (
        f"weights {entry.name} are not on this machine ({places}): {why}. "
        f"HF_HUB_OFFLINE is {offline}, LICODEC_DOWNLOAD is {policy}. Where there is a network, fetch them: "
        f"`licodec weights fetch {entry.name}`; where there is none, set {ENVIRONMENT} to what "
        "`licodec weights bundle` has written on another machine"
    )


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"(not readable: {error.strerror or error})"

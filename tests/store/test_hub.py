"""Weights from the Hub: a real client against a server that plays every fault. Whatever happens, the end is
the right content or an error that says what to do, and nothing wrong stays."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from lic_format import LicWarning, WeightsError
from licodec import store
from licodec.store import hub as hub_module
from licodec.store.hub import obtain
from tests.sdk.stand_in import write_weights
from tests.store.conftest import Place, use_endpoint
from tests.store.hub_server import (
    REPOSITORY,
    REVISION,
    Hub,
    blob,
    changed,
    cut_off,
    fail,
    redirect,
    silent,
    slow,
)

ADDRESS = f"/{REPOSITORY}/resolve/{REVISION}/model.safetensors"


def refused(place: Place, says: str) -> str:
    """The error of fetching, which must say what it always says."""
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        obtain(place.entry)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    for part in (
        says,
        "stand-in/t-1",
        f"model.safetensors of {REPOSITORY}",
        "HF_HUB_OFFLINE",
        "LICODEC_DOWNLOAD",
    ):
        assert part in message
    assert "licodec weights fetch stand-in/t-1" in message
    return message


def test_a_cold_fetch_asks_for_one_file_at_one_commit_and_a_warm_one_for_nothing(place: Place) -> None:
    path, data = obtain(place.entry)
    assert data == place.data and path.read_bytes() == place.data
    assert place.cache in path.parents
    assert place.hub.asked() == [f"HEAD {ADDRESS}", f"HEAD {ADDRESS}", f"GET {ADDRESS}"]
    agents = {request.headers["user-agent"] for request in place.hub.requests}
    assert all(agent.startswith("licodec/") for agent in agents)
    assert not any("authorization" in request.headers for request in place.hub.requests)
    place.hub.requests.clear()
    assert obtain(place.entry) == (path, data)
    assert store.load("stand-in", "t-1").path == path
    assert place.hub.requests == []


def test_a_token_that_the_user_has_set_is_sent_to_the_endpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    obtain(place.entry)
    assert {request.headers["authorization"] for request in place.hub.requests} == {"Bearer hf_secret"}


def test_another_origin_gets_no_token(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub() as other:
        other.faults.append(blob(place.data))
        place.hub.faults.append(redirect(other.url.replace("127.0.0.1", "localhost")))
        assert obtain(place.entry)[1] == place.data
        assert [str(request) for request in other.requests] == ["GET /blob"]
        assert "authorization" not in other.requests[0].headers
    assert all("authorization" in request.headers for request in place.hub.requests)


# --- wrong content ----------------------------------------------------------------------------------------


def test_other_bytes_of_the_same_length_are_refused_and_replaced_when_they_are_right(place: Place) -> None:
    wrong = bytearray(place.data)
    wrong[-5] ^= 1
    place.hub.faults.append(changed(method="GET", body=bytes(wrong)))
    message = refused(place, hashlib.sha256(wrong).hexdigest())
    assert place.entry.sha256 in message and str(place.cache) in message
    assert len(place.hub.asked("GET")) == 2  # once more with force, then no more
    with pytest.raises(WeightsError):
        store.load("stand-in", "t-1")
    place.hub.faults.clear()
    assert obtain(place.entry, again=True)[1] == place.data
    assert [blob.read_bytes() for blob in place.blobs()] == [place.data]


def test_wrong_bytes_that_come_once_are_fetched_again(place: Place) -> None:
    place.hub.faults.append(changed(times=1, method="GET", body=bytes(len(place.data))))
    assert obtain(place.entry)[1] == place.data


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_file_that_is_damaged_in_the_cache_is_fetched_again(damage: str, place: Place) -> None:
    path, _ = obtain(place.entry)
    blob = path.resolve()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes({"flip": b"x" + place.data[1:], "cut": place.data[:1000], "empty": b""}[damage])
    with pytest.raises(WeightsError, match='download is "never"'):
        obtain(place.entry, "never")
    assert obtain(place.entry)[1] == place.data
    assert obtain(place.entry, "never")[1] == place.data


def test_a_file_that_is_swapped_after_the_first_load_is_not_used(place: Place) -> None:
    first = store.load("stand-in", "t-1")
    before = {name: tensor.clone() for name, tensor in first.tensors.items()}
    first.path.resolve().write_bytes(bytes(len(place.data)))
    assert all(bool((tensor == before[name]).all()) for name, tensor in first.tensors.items())
    assert store.load("stand-in", "t-1").ref == first.ref
    assert len(place.hub.asked("GET")) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"etag": "../../../../evil"}, "'../../../../evil', which is none of the Hub"),
        ({"etag": "/tmp/evil"}, "which is none of the Hub"),
        ({"etag": ".."}, "which is none of the Hub"),
        ({"etag": "ab" * 32}, "abababab"),
        ({"body": b"short"}, "has a file of 5 bytes, expected"),
    ],
)
def test_an_answer_that_promises_another_file_ends_it_before_anything_is_written(
    change: dict[str, Any], says: str, place: Place
) -> None:
    place.hub.faults.append(changed(**change))
    refused(place, says)
    assert place.hub.asked("GET") == []
    assert not place.cache.exists()


def test_another_commit_with_the_right_content_is_a_warning(place: Place) -> None:
    place.hub.faults.append(changed(commit="c" * 40))
    with pytest.warns(LicWarning, match="c" * 40):
        assert obtain(place.entry)[1] == place.data


def test_an_answer_of_something_that_is_no_hub_is_told_as_that(place: Place) -> None:
    place.hub.faults.append(fail(200))
    refused(place, "does not come from a Hub")


# --- a server that refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "no such repository"),
        (401, "RepoNotFound", "no such repository"),
        (404, "RevisionNotFound", "no such commit"),
        (404, "EntryNotFound", "no such file"),
        (404, "", "404"),
        (403, "GatedRepo", "gated: accept its terms"),
        (403, "", "403"),
        (451, "", "451"),
    ],
)
def test_a_refusal_is_told_by_its_reason_and_not_repeated(
    status: int, code: str, says: str, place: Place
) -> None:
    headers: dict[str, Any] = {"X_Error_Code": code} if code else {}
    place.hub.faults.append(fail(status, **headers))
    refused(place, says)
    assert len(place.hub.asked()) == 1


def test_a_busy_server_is_asked_again(place: Place) -> None:
    place.hub.faults.append(fail(503, times=2))
    assert obtain(place.entry)[1] == place.data


def test_a_rate_limit_is_waited_for_where_it_is_short(place: Place) -> None:
    place.hub.faults.append(fail(429, times=1, Retry_After="1"))
    start = time.monotonic()
    assert obtain(place.entry)[1] == place.data
    assert time.monotonic() - start >= 1


def test_a_rate_limit_that_is_long_is_an_error_that_says_how_long(place: Place) -> None:
    place.hub.faults.append(fail(429, Retry_After="3600"))
    start = time.monotonic()
    refused(place, "come back in 3600 s")
    assert time.monotonic() - start < 2
    assert len(place.hub.asked()) == 1


def test_a_server_that_stays_busy_is_given_up(place: Place) -> None:
    place.hub.faults.append(fail(503))
    refused(place, "503")


# --- a server that is not there -----------------------------------------------------------------------------


def test_a_refused_connection_is_an_error_within_two_seconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    start = time.monotonic()
    refused(place, "http://127.0.0.1:9 cannot be reached")
    assert time.monotonic() - start < 2


def test_a_name_that_nobody_knows_is_an_error_within_two_seconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    use_endpoint("http://hub.invalid", monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    start = time.monotonic()
    refused(place, "cannot be reached")
    assert time.monotonic() - start < 2


def test_offline_mode_is_an_error_that_asks_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(place, "HF_HUB_OFFLINE is set.")
    assert place.hub.requests == []


def test_a_server_that_never_answers_is_given_up_within_ten_seconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "TRY_SECONDS", 0.5)
    place.hub.faults.append(silent())
    refused(place, "does not answer")


def test_a_lookup_that_hangs_is_given_up_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.5)
    released = threading.Event()
    lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: released.wait(20) and lookup(*a, **k))
    refused(place, "nothing after 0.5 seconds")
    released.set()


def test_the_limits_as_they_are_keep_what_is_promised() -> None:
    assert max(hub_module.TRY_SECONDS, hub_module.ANSWER_SECONDS) < 10


def test_a_failure_is_told_again_for_a_minute_and_not_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.hub.faults.append(fail(404, X_Error_Code="EntryNotFound"))
    message = refused(place, "no such file")
    place.hub.requests.clear()
    place.hub.faults.clear()
    assert refused(place, "no such file") == message
    with pytest.raises(WeightsError, match="no such file"):
        store.load("stand-in", "t-1")
    assert place.hub.requests == []
    monkeypatch.setattr(hub_module, "REMEMBERED_SECONDS", 0.0)
    assert obtain(place.entry)[1] == place.data


# --- a body that does not arrive ----------------------------------------------------------------------------


def test_a_body_that_is_cut_off_is_fetched_again(place: Place) -> None:
    place.hub.faults.append(cut_off(1000, times=1))
    assert obtain(place.entry)[1] == place.data
    assert [blob.read_bytes() for blob in place.blobs()] == [place.data]


@pytest.mark.slow
def test_a_body_that_is_always_cut_off_is_an_error_and_leaves_nothing(place: Place) -> None:
    place.hub.faults.append(cut_off(1000))
    with pytest.raises(WeightsError, match="licodec weights fetch"):
        obtain(place.entry)
    assert place.blobs() == []
    place.hub.faults.clear()
    assert obtain(place.entry, again=True)[1] == place.data


@pytest.mark.slow
def test_a_server_that_answers_but_never_sends_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)  # as HF_HUB_DOWNLOAD_TIMEOUT does
    place.hub.faults.append(silent("GET"))
    refused(place, "does not answer")
    assert place.blobs() == []


def test_a_rate_limit_on_the_body_is_not_waited_for_without_an_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(hub_module, "SLOWEST", 1e9)
    place.hub.faults.append(fail(429, method="GET", Retry_After="3600"))
    refused(place, "nothing after 0.5 seconds")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_progress_is_drawn_on_a_terminal_for_what_is_large(
    terminal: bool,
    large: bool,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub_module, "LARGE", 1000 if large else len(place.data))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    obtain(place.entry)
    assert ("model.safetensors" in capsys.readouterr().err) == (terminal and large)


def test_several_threads_fetch_once(place: Place) -> None:
    place.hub.faults.append(slow(0.5))
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(obtain(place.entry)[1])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [place.data] * 8
    assert len(place.hub.asked("GET")) == 1


@pytest.mark.parametrize("disabled", [True, False])
def test_a_content_store_that_is_not_there_is_an_error_and_can_be_done_without(
    disabled: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that passes the Hub's answers on, but not what hands out access to its Xet store."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", disabled)
    link = f'<{place.hub.url}/api/nothing>; rel="xet-auth"'
    place.hub.faults.append(changed(headers={"X_Xet_Hash": "ab" * 32, "Link": link}))
    if disabled:
        assert obtain(place.entry)[1] == place.data
    else:
        refused(place, "HF_HUB_DISABLE_XET=1 fetches without")
        assert place.blobs() == []


# --- the cache ----------------------------------------------------------------------------------------------


def test_a_cache_that_can_not_be_written_is_done_without(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.warns(LicWarning, match="cache can't be written.*HF_HOME"):
        path, data = obtain(place.entry)
    assert data == place.data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert obtain(place.entry) == (path, data)
    assert len(place.hub.asked("GET")) == 1


def test_a_read_only_cache_serves_what_it_has(place: Place) -> None:
    path, data = obtain(place.entry)
    folders = (place.cache, *(each for each in place.cache.rglob("*") if each.is_dir()))
    for folder in folders:
        folder.chmod(0o500)
    try:
        if os.access(place.cache, os.W_OK):
            pytest.skip("who runs this may write everywhere")
        assert obtain(place.entry) == (path, data)
        path.resolve().chmod(0o400)
        place.write_table(hub=[{"repository": REPOSITORY, "revision": "2" * 40, "file": "model.safetensors"}])
        place.hub.files[REPOSITORY, "2" * 40, "model.safetensors"] = place.data
        with pytest.warns(LicWarning, match="cache can't be written"):
            assert obtain(place.entry)[1] == data
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_the_exact_synthesis_is_taken_from_the_cache_but_not_fetched(place: Place, tmp_path: Path) -> None:
    """A file decodes with another synthesis too, with a warning: no reason to ask the network."""
    write_weights(place.folder, synthesis=9.0, padding=300_000)
    wanted = place.entry.ref
    with pytest.warns(LicWarning, match="synthesis digest"):
        found = store.load("stand-in", "t-1", wanted.decode_digest, synthesis_digest=wanted.synthesis_digest)
    assert found.ref != wanted and place.hub.requests == []
    obtain(place.entry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = store.load("stand-in", "t-1", wanted.decode_digest, synthesis_digest=wanted.synthesis_digest)
    assert found.ref == wanted


def test_another_synthesis_of_the_hub_decodes_with_a_warning(place: Place) -> None:
    with pytest.warns(LicWarning, match="synthesis digest"):
        found = store.load("stand-in", "t-0", place.entry.ref.decode_digest, synthesis_digest=bytes(8))
    assert found.ref == place.entry.ref


def test_another_synthesis_of_the_cache_is_no_better_than_that_of_a_folder(place: Place) -> None:
    obtain(place.entry)
    path = write_weights(place.folder, synthesis=9.0, padding=300_000)
    with pytest.warns(LicWarning, match="synthesis digest"):
        found = store.load("stand-in", "t-1", place.entry.ref.decode_digest, synthesis_digest=bytes(8))
    assert found.path == path


def test_nothing_of_ours_is_written_into_the_cache(place: Place) -> None:
    obtain(place.entry)
    store.load("stand-in", "t-1")
    kinds = {path.relative_to(place.cache).parts[0] for path in place.cache.rglob("*")}
    assert kinds == {"models--owner--weights", ".locks", "CACHEDIR.TAG"}


def test_mirrors_are_tried_in_their_order(place: Place) -> None:
    first = {"repository": "owner/gone", "revision": "1" * 40, "file": "model.safetensors"}
    second = {"repository": REPOSITORY, "revision": REVISION, "file": "model.safetensors"}
    place.write_table(hub=[first, second])
    assert obtain(place.entry)[1] == place.data
    assert "/owner/gone/" in place.hub.asked()[0]
    place.write_table(hub=[first, {**first, "repository": "owner/other"}])
    monkeys = refused_by_all(place)
    assert "owner/gone" in monkeys and "owner/other" in monkeys


def refused_by_all(place: Place) -> str:
    with pytest.raises(WeightsError) as caught:
        obtain(place.entry, again=True)
    return str(caught.value)

"""`licodec weights`, and what it does through the store: list, path, fetch, verify, bundle, push."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import licodec
from licodec import store
from licodec.codecs.registry import CODECS
from licodec.store import table as known_table
from tests.cli.conftest import licodec_command
from tests.sdk.fixtures import pixels
from tests.sdk.stand_in import write_weights
from tests.store.conftest import PROXIES, Place
from tests.store.hub_server import REPOSITORY, REVISION, Hub, changed, fail

__all__ = ["licodec_command"]

Command = Callable[..., tuple[int, bytes, str]]

DEFAULT = f"fhic/{CODECS['fhic'].default_tag}"
"""Weights that are in the package."""

ROOT = Path(__file__).resolve().parents[2]
CARD = """---
license: apache-2.0
library_name: licodec
tags: [image-compression]
metrics: [psnr]
datasets: [owner/photographs]
---
# A card
"""


def test_list_says_what_is_where(place: Place, licodec_command: Command) -> None:
    status, out, _ = licodec_command("weights", "list", "--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert status == 0 and {"stand-in/t-1", DEFAULT} <= set(rows)
    assert rows["stand-in/t-1"]["here"] == []
    assert rows["stand-in/t-1"]["hub"] == [f"model.safetensors of {REPOSITORY} at {REVISION[:12]}"]
    assert [copy["where"] for copy in rows[DEFAULT]["here"]] == ["embedded"]
    assert place.hub.requests == []
    licodec_command("weights", "fetch", "stand-in/t-1")
    write_weights(place.folder, tag="mine")
    status, out, _ = licodec_command("weights", "list")
    text = out.decode()
    assert f"cache {place.cache}" in text and "stand-in/mine  not in the table\n  configured " in text


def test_path_and_fetch(place: Place, licodec_command: Command) -> None:
    status, out, err = licodec_command("weights", "path", "stand-in/t-1")
    assert (status, out) == (1, b"") and "licodec weights fetch stand-in/t-1" in err
    assert place.hub.requests == []
    digest = place.entry.ref.decode_digest.hex()
    status, out, err = licodec_command("weights", "fetch", digest, DEFAULT)
    fetched, embedded = map(Path, out.decode().splitlines())
    assert (status, err) == (0, "")
    assert fetched.read_bytes() == place.data and embedded == ROOT / "weights" / DEFAULT / "model.safetensors"
    place.hub.requests.clear()
    for command in (("path", "stand-in/t-1"), ("fetch", "--all")):
        status, out, _ = licodec_command("weights", *command)
        assert (status, out.decode().strip()) == (0, str(fetched))
    assert place.hub.requests == []


def test_fetch_goes_on_after_a_failure_and_tries_again_when_asked_again(
    place: Place, licodec_command: Command
) -> None:
    fault = fail(404, X_Error_Code="EntryNotFound")
    place.hub.faults.append(fault)
    status, out, err = licodec_command("weights", "fetch", "stand-in/t-1", DEFAULT)
    assert status == 1 and "no such file" in err and f"{DEFAULT}/model.safetensors".encode() in out
    place.hub.faults.clear()
    assert licodec_command("weights", "fetch", "stand-in/t-1")[0] == 0


def test_list_tells_files_that_are_of_another_size(place: Place, licodec_command: Command) -> None:
    folder = place.folder / DEFAULT
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"cut off")
    _, out, _ = licodec_command("weights", "list")
    assert f"configured {folder / 'model.safetensors'} (7 bytes: not these" in out.decode()
    assert out.decode().count("not these") == 1


def test_fetch_all_says_where_nothing_is_published(
    licodec_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpublished = tuple(dataclasses.replace(entry, hub=()) for entry in store.known())
    monkeypatch.setattr(store, "known", lambda: unpublished)
    status, out, err = licodec_command("weights", "fetch", "--all")
    assert (status, out) == (0, b"") and "no weights are published yet" in err


@pytest.mark.parametrize("arguments", [(), ("--all", DEFAULT)])
def test_fetch_wants_names_or_all(arguments: tuple[str, ...], licodec_command: Command) -> None:
    assert licodec_command("weights", "fetch", *arguments)[0] == 2


def test_a_name_that_nobody_knows_is_told_with_those_that_are_known(licodec_command: Command) -> None:
    status, _, err = licodec_command("weights", "path", "fhic/s-99")
    assert status == 1 and "'fhic/s-99' is not known" in err and DEFAULT in err


# --- verify -----------------------------------------------------------------------------------------------


def test_the_weights_of_this_version_are_whole(licodec_command: Command) -> None:
    status, out, err = licodec_command("weights", "verify")
    assert (status, err) == (0, "")
    assert f"{ROOT / 'weights' / DEFAULT / 'model.safetensors'}: whole" in out.decode()


@pytest.mark.parametrize("part", range(8))
def test_verify_finds_a_flipped_byte_in_the_weights_of_this_version(
    part: int, tmp_path: Path, licodec_command: Command
) -> None:
    """Wherever it is: in a header, in what decodes, in what only the encoder reads, in the last byte."""
    folder = shutil.copytree(ROOT / "weights" / DEFAULT, tmp_path / DEFAULT)
    (file,) = folder.glob("model.safetensors")
    assert licodec_command("weights", "verify", tmp_path)[0] == 0
    with file.open("r+b") as stream:
        stream.seek(part * (file.stat().st_size - 1) // 7)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    status, out, err = licodec_command("weights", "verify", tmp_path)
    assert (status, out) == (1, b"") and str(file) in err


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_verify_finds_damage_in_the_hubs_cache(damage: str, place: Place, licodec_command: Command) -> None:
    licodec_command("weights", "fetch", "stand-in/t-1")
    (blob,) = place.blobs()
    assert licodec_command("weights", "verify")[0] == 0
    blob.write_bytes({"flip": place.data[:-1] + b"!", "cut": place.data[:500], "empty": b""}[damage])
    status, _, err = licodec_command("weights", "verify")
    assert status == 1 and str(place.cache) in err
    assert licodec_command("weights", "fetch", "stand-in/t-1")[0] == 0
    assert licodec_command("weights", "verify")[0] == 0


def test_verify_finds_known_weights_under_the_name_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, licodec_command: Command
) -> None:
    paths = [write_weights(tmp_path, tag="t-1"), write_weights(tmp_path, tag="t-2", decode=2.0)]
    rows = [store.entry_of(path) for path in paths]
    (tmp_path / "index.json").write_text(known_table.text_of(rows))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    assert licodec_command("weights", "verify")[0] == 0
    shutil.copy(paths[1], paths[0])
    status, _, err = licodec_command("weights", "verify")
    assert status == 1 and f"{paths[0]}: has the SHA-256 {rows[1].sha256}" in err


def test_verify_takes_weights_that_no_table_has_at_their_word(
    tmp_path: Path, licodec_command: Command
) -> None:
    path = write_weights(tmp_path, tag="mine")
    assert licodec_command("weights", "verify", path)[0] == 0
    path.write_bytes(path.read_bytes()[:-1])
    status, _, err = licodec_command("weights", "verify", tmp_path)
    assert status == 1 and "not a safetensors file" in err


# --- bundle -----------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys, socket
def refused(*arguments, **options):
    raise OSError("this test has no network")
socket.socket.connect = socket.getaddrinfo = refused
sys.modules["huggingface_hub"] = None
from licodec.codecs.registry import CODECS
from tests.sdk.stand_in import ENTRY
CODECS["stand-in"] = ENTRY
import licodec
licodec.save(licodec.decode(sys.argv[1], output="numpy"), sys.argv[2], codec="stand-in")
licodec.decode(sys.argv[1]).save(sys.argv[3])
"""


def test_a_bundle_decodes_elsewhere_without_a_network(
    place: Place, tmp_path: Path, licodec_command: Command
) -> None:
    data = licodec.encode(pixels(), codec="stand-in")
    (tmp_path / "x.lic").write_bytes(data)
    folder = tmp_path / "bundle"
    status, out, err = licodec_command("weights", "bundle", folder)
    assert (status, err) == (0, "")
    files = [f"{entry.name}/model.safetensors" for entry in store.known()]
    assert set(out.decode().split()) == {str(folder / name) for name in (*files, "index.json")}
    assert (folder / DEFAULT / "export.json").is_file()
    assert licodec_command("weights", "verify", folder)[0] == 0

    moved = folder.rename(tmp_path / "carried over")
    home = tmp_path / "another home"
    home.mkdir()
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "LICODEC_", "XDG_")) and name not in PROXIES
    }
    variables |= {
        "HOME": str(home),
        "LICODEC_WEIGHTS": str(moved),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    back, again = tmp_path / "x.png", tmp_path / "again.lic"
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "x.lic"), str(again), str(back)]
    subprocess.run(command, env=variables, check=True)
    assert np.array_equal(np.asarray(PIL.Image.open(back)), licodec.decode(data, output="numpy"))
    assert again.read_bytes()


def test_a_bundle_is_added_to(place: Place, tmp_path: Path, licodec_command: Command) -> None:
    for name in ("stand-in/t-1", DEFAULT, "stand-in/t-1"):
        assert licodec_command("weights", "bundle", tmp_path / "bundle", name)[0] == 0
    table = known_table.read_table(tmp_path / "bundle" / "index.json")
    assert [entry.name for entry in table] == [DEFAULT, "stand-in/t-1"]
    assert table[1] == place.entry


def test_a_bundle_of_what_is_not_to_be_had_is_an_error(
    place: Place, tmp_path: Path, licodec_command: Command
) -> None:
    place.write_table(hub=None)
    status, _, err = licodec_command("weights", "bundle", tmp_path / "bundle", "stand-in/t-1")
    assert status == 1 and "nobody has published them yet" in err
    assert not (tmp_path / "bundle" / "index.json").exists()


# --- push -------------------------------------------------------------------------------------------------


@pytest.fixture
def source(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights with their card that nobody has published, and a token."""
    place.write_table(hub=None)
    place.hub.files.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = tmp_path / "source" / "stand-in" / "t-1"
    (folder / "card.md").write_text(CARD)
    (folder / "training.jsonl").write_text("{}\n")
    (folder / "last.pt").write_text("stays here")
    return folder


def test_push_publishes_with_the_card_and_prints_a_pin_by_which_it_can_be_had(
    source: Path, place: Place, licodec_command: Command
) -> None:
    status, out, err = licodec_command("weights", "push", source, REPOSITORY)
    assert status == 0, err
    pinned = json.loads(out)
    assert pinned["hub"] == [{"repository": REPOSITORY, "revision": REVISION, "file": "model.safetensors"}]
    assert {name: value for name, value in pinned.items() if name != "hub"} == {
        name: value for name, value in place.entry.as_json().items() if name != "hub"
    }
    (commit,) = place.hub.commits
    assert set(commit) == {"README.md", "model.safetensors", "training.jsonl"}
    assert commit["README.md"].decode() == CARD and commit["model.safetensors"] == place.data
    assert place.hub.asked("GET")[-1].endswith(f"/resolve/{REVISION}/model.safetensors")

    (place.folder / "index.json").write_text(json.dumps({"weights": [pinned]}))
    shutil.rmtree(place.cache)
    assert store.load("stand-in", "t-1").ref == place.entry.ref


def test_push_that_can_not_be_fetched_back_gives_no_pin(
    source: Path, place: Place, licodec_command: Command
) -> None:
    place.hub.faults.append(changed(body=b"other"))
    status, out, err = licodec_command("weights", "push", source, REPOSITORY)
    assert (status, out) == (1, b"") and "has a file of 5 bytes" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("license: apache-2.0\n", ""), "does not say license"),
        (lambda text: text.replace("[psnr]", "[]").replace("[owner/photographs]", ""), "metrics, datasets"),
        (lambda text: "# No front matter\n", "does not say license, library_name, tags"),
        (lambda text: "---\nlicense: [\n---\n", "is no model card"),
    ],
)
def test_push_refuses_a_card_that_says_too_little_before_anything_is_sent(
    change: Callable[[str], str], says: str, source: Path, place: Place, licodec_command: Command
) -> None:
    (source / "card.md").write_text(change(CARD))
    status, _, err = licodec_command("weights", "push", source, REPOSITORY)
    assert status == 1 and says in err and "card.md" in err
    assert place.hub.requests == []


def test_push_refuses_another_content_under_a_published_tag(
    source: Path, place: Place, licodec_command: Command, tmp_path: Path
) -> None:
    place.write_table()
    write_weights(tmp_path / "source", decode=3.0)
    status, _, err = licodec_command("weights", "push", source, REPOSITORY)
    assert status == 1 and "a tag of their own" in err
    assert place.hub.requests == []


def test_push_refuses_weights_in_the_folder_of_others(
    source: Path, place: Place, licodec_command: Command
) -> None:
    status, _, err = licodec_command("weights", "push", source.rename(source.with_name("t-2")), REPOSITORY)
    assert status == 1 and "its folder must have that name" in err


def test_push_without_a_right_to_is_told_by_the_reason(
    source: Path, place: Place, licodec_command: Command
) -> None:
    place.hub.faults.append(fail(401))
    status, _, err = licodec_command("weights", "push", source, REPOSITORY)
    assert status == 1 and REPOSITORY in err and "401" in err


def test_commands_about_weights_load_no_torch(place: Place) -> None:
    code = (
        "import sys; from licodec.cli.program import run; status = run(sys.argv[1:]);"
        "sys.exit(f'{status} torch' if status or 'torch' in sys.modules else 0)"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done: Any = subprocess.run([sys.executable, "-c", code, "weights", "list"], env=variables)
    assert done.returncode == 0


def test_the_server_of_these_tests_is_what_it_says() -> None:
    with Hub() as hub:
        assert hub.url.startswith("http://127.0.0.1:")

"""Files of every tag decode for ever, also when their weights are no longer in the package.

tests/golden/tags has two tags of the stand-in codec: their weights, the table that knows them, a file that
each has coded, and the CRC-32 of the pixels that it decodes to. They were written once and never change.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import licodec
from licodec import store
from licodec.codecs.registry import CODECS
from licodec.store.table import read_table
from tests.sdk import stand_in
from tests.store.conftest import client, use_endpoint
from tests.store.hub_server import Hub

__all__ = ["client"]

FOLDER = Path(__file__).parent / "tags"
TAGS = ("t-1", "t-2")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of weights of a version that knows both tags."""
    folder = tmp_path / "installed"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setitem(CODECS, stand_in.ENTRY.token, stand_in.ENTRY)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(folder))
    licodec.clear_cache()
    yield folder
    licodec.clear_cache()


@pytest.fixture
def hub(client: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has both tags where the table says."""
    with Hub() as found:
        for entry in read_table(FOLDER / "index.json"):
            (place,) = entry.hub
            data = (FOLDER / entry.name / "model.safetensors").read_bytes()
            found.files[place.repository, place.revision, place.file] = data
        use_endpoint(found.url, monkeypatch)
        yield found


def decoded(tag: str) -> str:
    pixels = licodec.decode(FOLDER / f"{tag}.lic", output="numpy", device="cpu")
    return f"{zlib.crc32(pixels.tobytes()):08x}"


def facts(tag: str) -> Any:
    return json.loads((FOLDER / f"{tag}.json").read_text())


def test_the_two_tags_are_two() -> None:
    assert len({facts(tag)["decode_digest"] for tag in TAGS}) == 2
    assert len({facts(tag)["pixels"] for tag in TAGS}) == 2
    assert [entry.ref.tag for entry in read_table(FOLDER / "index.json")] == list(TAGS)


@pytest.mark.parametrize("tag", TAGS)
def test_a_file_of_every_tag_decodes_with_its_own_weights(tag: str, installed: Path) -> None:
    assert licodec.inspect(FOLDER / f"{tag}.lic").decode_digest == facts(tag)["decode_digest"]
    assert decoded(tag) == facts(tag)["pixels"]


def test_a_tag_that_has_left_the_package_is_fetched(installed: Path, hub: Hub) -> None:
    shutil.rmtree(installed / "stand-in" / "t-1")
    assert [decoded(tag) for tag in TAGS] == [facts(tag)["pixels"] for tag in TAGS]
    assert {request.partition(" ")[2] for request in hub.asked()} == {
        f"/owner/stand-in-t-1/resolve/{'1' * 40}/model.safetensors"
    }
    hub.requests.clear()
    licodec.clear_cache()
    assert decoded("t-1") == facts("t-1")["pixels"]
    assert hub.requests == []


def test_a_tag_that_has_left_the_package_is_told_how_to_be_had_offline(
    installed: Path, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    shutil.rmtree(installed / "stand-in" / "t-1")
    with pytest.raises(licodec.WeightsError, match="licodec weights fetch stand-in/t-1"):
        decoded("t-1")
    assert decoded("t-2") == facts("t-2")["pixels"]


def test_other_weights_under_an_old_name_do_not_decode_its_files(installed: Path, hub: Hub) -> None:
    """Whoever replaces a tag's content, the digest in the file still finds the right one."""
    shutil.copy(
        installed / "stand-in" / "t-2" / "model.safetensors",
        installed / "stand-in" / "t-1" / "model.safetensors",
    )
    assert decoded("t-1") == facts("t-1")["pixels"]
    assert len(hub.asked("GET")) == 1


def test_every_digest_of_the_table_finds_its_weights(installed: Path) -> None:
    for entry in read_table(FOLDER / "index.json"):
        for tag in TAGS:  # a file may name a tag that is gone; the digest finds its weights
            found = store.load("stand-in", tag, entry.ref.decode_digest)
            assert found.ref == entry.ref

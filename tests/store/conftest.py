"""A Hub on the loopback interface, and weights that only it has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import licodec
from licodec import store
from licodec.codecs.registry import CODECS
from licodec.store import hub as hub_module
from licodec.store.table import read_table
from tests.sdk import stand_in as codec
from tests.sdk.fixtures import image, lic, stand_in
from tests.store.hub_server import REPOSITORY, REVISION, Hub

__all__ = ["image", "lic", "stand_in"]


PROXIES = [name for name in os.environ if name.lower().endswith("_proxy")]


@dataclass
class Place:
    """What a test about the Hub works with: the server, the weights that it has, the client's cache, and the
    folder whose table knows them."""

    hub: Hub
    data: bytes
    entry: store.Entry
    cache: Path
    folder: Path

    def blobs(self) -> list[Path]:
        return [path for path in self.cache.rglob("blobs/*") if path.is_file()]

    def write_table(self, **changed: Any) -> store.Entry:
        """Enter the weights into the folder's table."""
        hub = [{"repository": REPOSITORY, "revision": REVISION, "file": "model.safetensors"}]
        row = self.entry.as_json() | {"hub": hub} | changed
        table = self.folder / "index.json"
        table.write_text(json.dumps({"weights": [row]}))
        self.entry = read_table(table)[0]
        return self.entry


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """huggingface_hub as it is with an empty home, and with nothing remembered; the value is its cache."""
    from huggingface_hub import close_session, constants

    cache = tmp_path / "hf" / "hub"
    for name, value in {
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LICODEC_DOWNLOAD", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    close_session()  # which may know a proxy
    monkeypatch.setattr(hub_module, "_failures", {})
    monkeypatch.setattr(hub_module, "_fallback", None)
    yield cache
    close_session()


def use_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does where it is set before the client is imported."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def place(client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Weights of the stand-in codec that are on the Hub and nowhere else."""
    folder = tmp_path / "configured"
    folder.mkdir()
    source = codec.write_weights(tmp_path / "source", padding=300_000)
    with Hub() as hub:
        data = source.read_bytes()
        hub.put(data)
        use_endpoint(hub.url, monkeypatch)
        monkeypatch.setitem(CODECS, codec.ENTRY.token, codec.ENTRY)
        monkeypatch.setenv("LICODEC_WEIGHTS", str(folder))
        found = Place(hub, data, store.entry_of(source), client, folder)
        found.write_table()
        licodec.clear_cache()
        yield found
    licodec.clear_cache()

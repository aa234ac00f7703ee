"""Alternates in the store: a synthesis alone, found by the decode digest of the weights that it completes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lic_format import LicWarning, WeightsError
from licodec import store
from licodec.store import inventory
from licodec.store.table import read_table
from tests.cli.conftest import licodec_command
from tests.sdk.stand_in import write_weights
from tests.store.conftest import Place
from tools import index_weights

__all__ = ["licodec_command"]

Command = Callable[..., tuple[int, bytes, str]]


def write_alternate(
    folder: Path, of: store.WeightsRef, *, tag: str = "t-1-best", value: float = 5.0, **changed: str
) -> Path:
    """`folder`/stand-in/`tag`/model.safetensors: a synthesis for whole weights."""
    path = folder / "stand-in" / tag / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "codec": "stand-in",
        "tag": tag,
        "decoder": "best",
        "decode_digest": of.decode_digest.hex(),
        "architecture": "wide",
        "tables": "none",
        **changed,
    }
    path.write_bytes(safetensors.torch.save({"synthesis.scale": torch.tensor([value])}, metadata))
    return path


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.WeightsRef:
    """Whole weights in the folder that LICODEC_WEIGHTS names."""
    path = write_weights(tmp_path)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    return store.load("stand-in", "t-1", path=path).ref


def table_of(folder: Path, *paths: Path, **changed: Any) -> Path:
    table = folder / "index.json"
    rows = [store.entry_of(path).as_json() | changed for path in paths]
    table.write_text(json.dumps({"weights": rows}))
    return table


def test_an_alternate_has_the_decode_digest_of_what_it_completes(
    tmp_path: Path, whole: store.WeightsRef
) -> None:
    first, second = (
        store.entry_of(write_alternate(tmp_path, whole, tag=tag, value=value))
        for tag, value in (("t-1-best", 5.0), ("t-1-other", 6.0))
    )
    assert first.ref.decode_digest == second.ref.decode_digest == whole.decode_digest
    assert len({first.ref.synthesis_digest, second.ref.synthesis_digest, whole.synthesis_digest}) == 3
    assert first.decoder == "best" and first.as_json()["decoder"] == "best"
    assert "decoder" not in store.entry_of(tmp_path / "stand-in" / "t-1" / "model.safetensors").as_json()


def test_it_is_found_by_name_or_by_the_table_and_nothing_warns(
    tmp_path: Path, whole: store.WeightsRef
) -> None:
    def load(**more: Any) -> store.Weights:
        return store.load(
            "stand-in", "t-1", whole.decode_digest, synthesis_digest=None, decoder="best", **more
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match=r"t-1-best of decode digest .* for decoder 'best'") as caught:
            load()
        assert "LICODEC_WEIGHTS" in str(caught.value) and str(tmp_path) in str(caught.value)
        path = write_alternate(tmp_path, whole)
        assert load().path == path
        other = write_alternate(tmp_path, whole, tag="wide-7")
        path.unlink()
        with pytest.raises(WeightsError, match="looked at"):
            load()
        table_of(tmp_path, other)
        assert load().path == other
        other.unlink()
        with pytest.raises(WeightsError, match="wide-7 is known, but nobody has published it yet"):
            load()


@pytest.mark.parametrize("part", ["", "stand-in/t-1", "stand-in/t-1/model.safetensors"])
def test_it_lies_beside_what_a_caller_names(
    part: str, tmp_path: Path, whole: store.WeightsRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_alternate(tmp_path, whole)
    monkeypatch.delenv("LICODEC_WEIGHTS")
    found = store.load("stand-in", "t-1", whole.decode_digest, decoder="best", path=tmp_path / part)
    assert found.path == path
    path.unlink()
    with pytest.raises(WeightsError, match="no weights stand-in/t-1-best; looked at"):
        store.load("stand-in", "t-1", whole.decode_digest, decoder="best", path=tmp_path / part)


def test_whole_weights_and_alternates_do_not_stand_in_for_each_other(
    tmp_path: Path, whole: store.WeightsRef
) -> None:
    path = write_alternate(tmp_path, whole)
    table = table_of(tmp_path, path, tmp_path / "stand-in" / "t-1" / "model.safetensors")
    said = store.entry_of(path).ref.synthesis_digest
    with pytest.warns(LicWarning, match="synthesis digest"):
        found = store.load("stand-in", "t-1", whole.decode_digest, synthesis_digest=said)
    assert found.ref == whole, "no file is coded with an alternate"
    assert inventory.named(whole.decode_digest.hex()).ref == whole
    with pytest.raises(WeightsError, match="belongs to decoder 'best'"):
        store.load("stand-in", "t-1", whole.decode_digest, path=path)
    table.unlink()
    write_weights(tmp_path, tag="t-1-best")
    with pytest.raises(WeightsError, match="belongs to decoder 'fast'"):
        store.load("stand-in", "t-1", whole.decode_digest, decoder="best")


def test_an_alternate_for_other_weights_is_refused(tmp_path: Path, whole: store.WeightsRef) -> None:
    write_alternate(tmp_path, whole, decode_digest="00" * 16)
    with pytest.raises(WeightsError, match=f"t-1-best/model.safetensors has {'00' * 16}"):
        store.load("stand-in", "t-1", whole.decode_digest, decoder="best")


@pytest.mark.parametrize("named", ["", "AB" * 16, "ab" * 15])
def test_an_alternate_that_names_no_weights_is_refused(
    named: str, tmp_path: Path, whole: store.WeightsRef
) -> None:
    path = write_alternate(tmp_path, whole, decode_digest=named)
    with pytest.raises(WeightsError, match=f"decode_digest is '{named}', expected 32 hexadecimal"):
        store.entry_of(path)


@pytest.mark.parametrize("name", ["decode.kernel", "encoder.scale"])
def test_an_alternate_holds_nothing_but_a_synthesis(name: str) -> None:
    metadata = {"decoder": "best", "decode_digest": "ab" * 16, "architecture": "a", "tables": "t"}
    data = safetensors.torch.save({"synthesis.w": torch.ones(1), name: torch.ones(1)}, metadata)
    with pytest.raises(WeightsError, match="with 1 tensors of other parts"):
        store.digests_of(data)


@pytest.mark.parametrize("decoder", [7, "slow", None])
def test_a_table_with_an_unknown_decoder_is_refused(
    decoder: Any, tmp_path: Path, whole: store.WeightsRef
) -> None:
    table = table_of(tmp_path, write_alternate(tmp_path, whole), decoder=decoder)
    with pytest.raises(WeightsError, match=f"decoder is {decoder!r}, expected fast or best"):
        read_table(table)


def test_a_damaged_alternate_is_noticed(tmp_path: Path, whole: store.WeightsRef) -> None:
    path = write_alternate(tmp_path, whole)
    table_of(tmp_path, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "has the SHA-256" in str(inventory.fault_of(path, "stand-in/t-1-best"))
    facts = {"decode_digest": whole.decode_digest.hex(), "synthesis_digest": "00" * 8}
    path.with_name("export.json").write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match="damaged"):
        store.load("stand-in", "t-1", whole.decode_digest, decoder="best")


def test_the_tool_enters_alternates_of_weights_that_the_table_has(
    tmp_path: Path, whole: store.WeightsRef
) -> None:
    write_alternate(tmp_path, whole)
    table = index_weights.updated([], tmp_path)
    assert [(entry.name, entry.decoder) for entry in table] == [
        ("stand-in/t-1", "fast"),
        ("stand-in/t-1-best", "best"),
    ]
    write_alternate(tmp_path, whole, decode_digest="00" * 16)
    with pytest.raises(ValueError, match=f"t-1-best completes weights of the decode digest {'00' * 16}"):
        index_weights.updated([], tmp_path)


def test_commands_know_alternates(tmp_path: Path, whole: store.WeightsRef, licodec_command: Command) -> None:
    paths = write_alternate(tmp_path, whole), tmp_path / "stand-in" / "t-1" / "model.safetensors"
    table_of(tmp_path, *paths)
    status, out, _ = licodec_command("weights", "list", "--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert status == 0 and rows["stand-in/t-1-best"]["decoder"] == "best"
    assert rows["stand-in/t-1"]["decoder"] == "fast"
    status, out, _ = licodec_command("weights", "path", "stand-in/t-1-best")
    assert (status, out.decode().strip()) == (0, str(paths[0]))
    status, out, _ = licodec_command("weights", "verify", str(tmp_path))
    assert status == 0 and out.decode().count(": whole") == 2
    status, out, _ = licodec_command("weights", "bundle", str(tmp_path / "out"))
    assert status == 0 and str(tmp_path / "out/stand-in/t-1-best/model.safetensors") in out.decode()
    paths[0].unlink()
    status, out, _ = licodec_command("weights", "bundle", str(tmp_path / "without"))
    assert status == 0 and "t-1-best" not in out.decode()


def test_the_hub_has_alternates_too(place: Place, licodec_command: Command) -> None:
    ref = place.entry.ref
    write_weights(place.folder, padding=300_000)
    data = write_alternate(place.folder.parent / "elsewhere", ref).read_bytes()
    place.hub.put(data)
    entry = store.entry_of(place.folder.parent / "elsewhere" / "stand-in" / "t-1-best" / "model.safetensors")
    place.entry = entry
    place.write_table()
    with pytest.raises(WeightsError, match="licodec weights fetch stand-in/t-1-best"):
        store.load("stand-in", "t-1", ref.decode_digest, decoder="best", download="never")
    found = store.load("stand-in", "t-1", ref.decode_digest, decoder="best")
    assert found.path.is_relative_to(place.cache) and list(found.tensors) == ["synthesis.scale"]
    status, _, _ = licodec_command("weights", "fetch", "stand-in/t-1-best")
    assert status == 0

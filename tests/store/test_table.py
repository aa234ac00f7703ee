"""The table of known weights: what it says, what it must not say, and what follows from it when weights are
loaded."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lic_format import WeightsError
from licodec import store
from licodec.codecs.registry import CODECS
from licodec.store import inventory
from licodec.store import table as known_table
from licodec.store.weights import embedded_folders, load_file
from tests.sdk.stand_in import write_weights
from tools import frozen, index_weights

ROOT = Path(__file__).resolve().parents[2]


def row(path: Path, **changed: Any) -> dict[str, Any]:
    return store.entry_of(path).as_json() | changed


def write_table(folder: Path, *rows: Any) -> Path:
    table = folder / "index.json"
    table.write_text(json.dumps({"weights": rows}))
    return table


def place(**changed: Any) -> dict[str, Any]:
    return {"repository": "owner/name", "revision": "0" * 40, "file": "model.safetensors", **changed}


def test_the_table_says_what_the_weights_folder_holds() -> None:
    table = known_table.read_table(known_table.TABLE)
    expected = index_weights.updated(table, ROOT / "weights", frozen.read().tags)
    assert known_table.TABLE.read_text() == known_table.text_of(expected), "run tools/index_weights.py"


def test_every_tag_that_codecs_encode_with_is_known() -> None:
    names = {entry.name for entry in known_table.read_table(known_table.TABLE)}
    assert {
        f"{entry.token}/{entry.default_tag}" for entry in CODECS.values() if entry.token != "stand-in"
    } <= names


def test_known_weights_are_embedded_or_on_the_hub_and_have_golden_files() -> None:
    """A tag may leave the package only when it can be had elsewhere."""
    for entry in known_table.read_table(known_table.TABLE):
        embedded = any((folder / entry.name / "model.safetensors").is_file() for folder in embedded_folders())
        assert embedded or entry.hub, entry.name
        golden = ROOT / "tests" / "golden" / entry.ref.codec
        facts = [json.loads(file.read_text()) for file in golden.glob("*.json")]
        assert entry.ref.decode_digest.hex() in {fact["decode_digest"] for fact in facts}, entry.name


def test_a_tag_and_a_digest_stand_in_the_table_once() -> None:
    table = known_table.read_table(known_table.TABLE)
    for unique in ([entry.name for entry in table], [entry.sha256 for entry in table]):
        assert len(set(unique)) == len(unique)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"codec": "../x"}, "codec is '../x', expected 1 to 16"),
        ({"tag": None}, "tag is None"),
        ({"decode_digest": "ab"}, "decode_digest is 'ab', expected 32 hexadecimal"),
        ({"synthesis_digest": 7}, "synthesis_digest is 7"),
        ({"sha256": "AB" * 32}, "sha256 is "),
        ({"bytes": "9"}, "bytes is '9'"),
        ({"bytes": True}, "bytes is True"),
        ({"hub": {}}, "hub is {}, expected null or a list"),
        ({"hub": ["owner/name"]}, "repository is None, expected owner/name"),
        ({"hub": [place(repository="https://evil/x")]}, "repository is 'https://evil/x'"),
        ({"hub": [place(repository="../x")]}, "repository is"),
        ({"hub": [place(revision="main")]}, "revision is 'main', expected 40 hexadecimal"),
        ({"hub": [place(file="../../etc/passwd")]}, "file is '../../etc/passwd'"),
        ({"hub": [place(file="/etc/passwd")]}, "file is"),
    ],
)
def test_a_table_with_a_wrong_field_is_refused_by_name(
    wrong: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path)
    table = write_table(tmp_path, row(path), row(path, **wrong))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        store.load("stand-in", "t-1")
    assert str(caught.value).startswith(f"{table}: entry 1: {says}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights": 3}', '{"weights": [3]}', "[" * 100000, "\xff"])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    table = tmp_path / "index.json"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=r"index\.json"):
        known_table.read_table(table)


# --- what follows from it ---------------------------------------------------------------------------------


def test_weights_that_only_the_encoder_would_notice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No digest of a file covers the encoder's tensors; the table's SHA-256 does."""
    path = write_weights(tmp_path)
    write_table(tmp_path, row(path))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    right = store.load("stand-in", "t-1").ref
    data = bytearray(path.read_bytes())
    tensors = store.digests_of(bytes(data))
    place = data.index(b'"encoder.scale"')
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    place = 8 + int.from_bytes(data[:8], "little") + header["encoder.scale"]["data_offsets"][0]
    data[place] ^= 1
    path.write_bytes(data)
    assert store.digests_of(bytes(data)) == tensors
    with pytest.raises(WeightsError, match="damaged") as caught:
        store.load("stand-in", "t-1", right.decode_digest)
    assert hashlib.sha256(data).hexdigest() in str(caught.value)
    assert store.load("stand-in", "t-1", path=path).ref == right  # what a caller names may be anything whole


@pytest.mark.parametrize("number", range(24))
def test_a_flipped_byte_in_a_folder_that_says_what_it_holds_is_noticed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path)
    write_table(tmp_path, row(path))
    facts = store.digests_of(path.read_bytes())
    said = {"decode_digest": facts.decode.hex(), "synthesis_digest": facts.synthesis.hex()}
    path.with_name("export.json").write_text(json.dumps(said))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    data = bytearray(path.read_bytes())
    data[number * (len(data) - 1) // 23] ^= 0x10
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError) as caught:
            store.load("stand-in", "t-1")
    assert str(path) in str(caught.value)


def test_facts_that_can_not_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path)
    path.with_name("export.json").write_text("{}")
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"export\.json does not tell the digests"):
        store.load("stand-in", "t-1")


def test_a_file_of_an_older_tag_finds_its_weights_under_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest decides: a tag that only has another synthesis decodes the files of the tag before it."""
    old = store.load("stand-in", "t-1", path=write_weights(tmp_path / "old"))
    new = write_weights(tmp_path / "new", tag="t-2", synthesis=2.0)
    write_table(tmp_path / "new", row(new))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path / "new"))
    with pytest.warns(UserWarning, match="synthesis digest"):
        found = store.load("stand-in", "t-1", old.decode_digest, synthesis_digest=old.synthesis_digest)
    assert (found.ref.tag, found.decode_digest) == ("t-2", old.decode_digest)


def test_the_entry_that_fits_best_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        write_weights(tmp_path, tag="t-1"),
        write_weights(tmp_path, tag="t-2", synthesis=2.0),
        write_weights(tmp_path, tag="t-3", synthesis=3.0, padding=1),  # which decodes other files
    ]
    table = known_table.read_table(write_table(tmp_path, *map(row, paths)))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    one, two, three = (entry.ref for entry in table)
    assert one.decode_digest == two.decode_digest != three.decode_digest

    def tags(tag: str, *digests: bytes) -> list[str]:
        return [entry.ref.tag for entry in store.answering("stand-in", tag, *digests)]

    assert tags("t-2") == ["t-2"]
    assert tags("t-1", one.decode_digest) == ["t-1", "t-2"]
    assert tags("t-2", one.decode_digest) == ["t-2", "t-1"]
    assert tags("t-1", one.decode_digest, two.synthesis_digest) == ["t-2", "t-1"]
    assert tags("t-1", three.decode_digest, one.synthesis_digest) == ["t-3"]
    assert store.answering("fhic", "t-1", one.decode_digest) == []


def test_ones_own_table_goes_before_that_of_this_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, *others = store.known()
    own = shipped.as_json() | {"sha256": "0" * 64, "hub": [place()]}
    write_table(tmp_path, own)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    rest = [entry.as_json() for entry in (shipped, *others)]
    assert [entry.as_json() for entry in store.known()] == [own, *rest]
    assert inventory.named(shipped.name).as_json() == own


def test_known_weights_of_another_codec_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_weights(tmp_path)
    write_table(tmp_path, row(path))
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="weights of the codec 'stand-in', not of 'other'"):
        store.load("other", "t-1", path=path)


def test_known_weights_that_nobody_has_published_are_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path)
    wanted = store.load("stand-in", "t-1", path=path)
    write_table(tmp_path, row(path))
    path.unlink()
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    for digest in (None, wanted.decode_digest):
        with pytest.raises(WeightsError, match="nobody has published it yet") as caught:
            store.load("stand-in", "t-1", digest)
        assert str(path) in str(caught.value)
    with pytest.raises(WeightsError, match="knows no weights of this digest"):
        store.load("stand-in", "t-1", bytes(16))
    with pytest.raises(WeightsError, match="knows none of this name"):
        store.load("stand-in", "t-9")


# --- the tool that writes it ------------------------------------------------------------------------------


def published(path: Path) -> store.Entry:
    return known_table.read_table(write_table(path.parent, row(path, hub=[place()])))[0]


def test_the_tool_replaces_what_nobody_has_published_and_keeps_what_somebody_has(tmp_path: Path) -> None:
    first = write_weights(tmp_path / "a")
    table = index_weights.updated([], tmp_path / "a")
    assert [entry.name for entry in table] == ["stand-in/t-1"]
    write_weights(tmp_path / "b", decode=2.0)
    assert index_weights.updated(table, tmp_path / "b") != table
    assert index_weights.updated(table, tmp_path / "empty") == []
    kept = [published(first)]
    assert index_weights.updated(kept, tmp_path / "empty") == kept
    assert index_weights.updated(kept, tmp_path / "a") == kept
    with pytest.raises(ValueError, match=r"published .* a tag of their own"):
        index_weights.updated(kept, tmp_path / "b")


def test_the_tool_keeps_what_a_release_has_also_where_nobody_has_published_it(tmp_path: Path) -> None:
    write_weights(tmp_path / "a")
    table = index_weights.updated([], tmp_path / "a")
    write_weights(tmp_path / "b", decode=2.0)
    assert index_weights.updated(table, tmp_path / "empty", {"stand-in/t-1"}) == table
    with pytest.raises(ValueError, match=r"released .* a tag of their own"):
        index_weights.updated(table, tmp_path / "b", {"stand-in/t-1"})


@pytest.mark.parametrize("wrong", ["no use for 1", "not finite"])
def test_the_tool_enters_no_weights_that_a_model_has_no_use_for(wrong: str, tmp_path: Path) -> None:
    """Known weights are not looked at as closely again: a decoder doesn't build what encoders need."""
    source = ROOT / "weights" / "fhic" / "s-1" / "model.safetensors"
    tensors = safetensors.torch.load_file(source)
    if wrong != "not finite":
        tensors["encoder.analysis.more"] = torch.zeros(1)
    else:
        tensors["encoder.analysis.deviation"][0] = float("nan")
    path = tmp_path / "fhic" / "s-1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    metadata = load_file(source, "fhic", "s-1").metadata
    safetensors.torch.save_file(tensors, path, metadata=dict(metadata))
    with pytest.raises(WeightsError, match=wrong):
        index_weights.refuse_unfit(path, known_table.read_table(known_table.TABLE))
    index_weights.refuse_unfit(source, [])

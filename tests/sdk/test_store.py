from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lic_format import LicWarning, WeightsError
from licodec import store
from tests.sdk.stand_in import write_weights

METADATA = {"architecture": "a", "tables": "t"}


def saved(tensors: dict[str, torch.Tensor], **metadata: str) -> bytes:
    return safetensors.torch.save(tensors, {**METADATA, **metadata})


def test_the_digests_are_those_that_the_docstring_describes() -> None:
    data = saved(
        {
            "mean.b": torch.tensor([1.5], dtype=torch.float32),
            "mean.a": torch.tensor([[1, 2, 3]], dtype=torch.int16),
            "synthesis.w": torch.tensor([2.0], dtype=torch.float16),
            "encoder.w": torch.tensor([9.0]),
        }
    )
    decode = (
        b"mean.a\0I16\0" + struct.pack("<3I3h", 2, 1, 3, 1, 2, 3)
        + b"mean.b\0F32\0" + struct.pack("<2If", 1, 1, 1.5)
        + b"architecture\0a\0tables\0t\0"
    )  # fmt: skip
    synthesis = b"synthesis.w\0F16\0" + struct.pack("<2Ie", 1, 1, 2.0)
    found = store.digests_of(data)
    assert found.decode == hashlib.sha256(decode).digest()[:16]
    assert found.synthesis == hashlib.sha256(synthesis).digest()[:8]


def test_each_part_answers_for_its_own_tensors_alone() -> None:
    def digests(
        mean: float = 1.0, synthesis: float = 1.0, encoder: float = 1.0, **metadata: str
    ) -> store.Digests:
        names = {"mean.w": mean, "synthesis.w": synthesis, "encoder.w": encoder}
        return store.digests_of(
            saved({name: torch.tensor([value]) for name, value in names.items()}, **metadata)
        )

    plain = digests()
    assert digests(encoder=2.0) == plain
    assert digests(note="other") == plain
    assert digests(synthesis=2.0).decode == plain.decode
    assert digests(synthesis=2.0).synthesis != plain.synthesis
    assert digests(mean=2.0).decode != plain.decode
    assert digests(mean=2.0).synthesis == plain.synthesis
    assert digests(tables="other").decode != plain.decode
    assert digests(architecture="other").decode != plain.decode


def test_the_order_of_tensors_in_the_file_does_not_matter() -> None:
    first = saved({"b": torch.zeros(2), "a": torch.ones(3, dtype=torch.int8)})
    second = saved({"a": torch.ones(3, dtype=torch.int8), "b": torch.zeros(2)})
    assert store.digests_of(first) == store.digests_of(second)


def test_weights_are_found_in_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_weights(tmp_path)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    weights = store.load("stand-in", "t-1")
    assert weights.path == path
    assert weights.ref == store.WeightsRef("stand-in", "t-1", weights.decode_digest, weights.synthesis_digest)
    assert weights.metadata["architecture"] == "unit kernel"
    assert weights.tensors["decode.kernel"].shape == (1, 1, 3, 3)


@pytest.mark.parametrize("part", ["", "stand-in/t-1", "stand-in/t-1/model.safetensors"])
def test_an_explicit_path_may_be_a_file_its_folder_or_a_folder_of_codecs(tmp_path: Path, part: str) -> None:
    path = write_weights(tmp_path)
    assert store.load("stand-in", "t-1", path=tmp_path / part).path == path


def test_missing_weights_say_where_they_were_looked_for_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        store.load("stand-in", "t-9")
    message = str(caught.value)
    assert "stand-in/t-9" in message
    assert str(tmp_path) in message
    assert "LICODEC_WEIGHTS" in message
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("token", ["..", "../x", "a/b", "", "UPPER", "x" * 17])
def test_a_name_can_not_leave_the_weights_folder(tmp_path: Path, token: str) -> None:
    with pytest.raises(WeightsError, match="names no weights"):
        store.load(token, "t-1", path=tmp_path)
    with pytest.raises(WeightsError, match="names no weights"):
        store.load("stand-in", token, path=tmp_path)


def test_a_wrong_decode_digest_is_refused_with_both_digests(tmp_path: Path) -> None:
    write_weights(tmp_path)
    right = store.load("stand-in", "t-1", path=tmp_path).decode_digest
    with pytest.raises(WeightsError) as caught:
        store.load("stand-in", "t-1", bytes(16), path=tmp_path)
    assert right.hex() in str(caught.value)
    assert bytes(16).hex() in str(caught.value)


def test_a_wrong_synthesis_digest_is_a_warning(tmp_path: Path) -> None:
    write_weights(tmp_path)
    wanted = store.load("stand-in", "t-1", path=tmp_path)
    write_weights(tmp_path, synthesis=2.0)
    with pytest.warns(LicWarning, match=wanted.synthesis_digest.hex()):
        found = store.load(
            "stand-in", "t-1", wanted.decode_digest, synthesis_digest=wanted.synthesis_digest, path=tmp_path
        )
    assert found.decode_digest == wanted.decode_digest


def test_a_folder_with_other_weights_of_the_same_name_does_not_hide_the_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = write_weights(tmp_path / "package" / "weights")
    wanted = store.load("stand-in", "t-1", path=embedded).decode_digest
    write_weights(tmp_path / "mine", decode=2.0)
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setattr("licodec.store.weights._PACKAGE", tmp_path / "package")
    assert store.load("stand-in", "t-1", wanted).path == embedded
    assert store.load("stand-in", "t-1").path != embedded


def test_tensors_are_what_safetensors_reads_wherever_they_lie_in_the_file(tmp_path: Path) -> None:
    expected = {
        "byte": torch.tensor([-5], dtype=torch.int8),
        "float": torch.tensor([[1.5, -2.0], [3.0, 0.1]]),
        "half": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        "nothing": torch.empty(0, 4),
        "scalar": torch.tensor(-7, dtype=torch.int32),
    }
    words = {torch.int8: "I8", torch.float32: "F32", torch.bfloat16: "BF16", torch.int32: "I32"}
    rows: dict[str, object] = {"__metadata__": METADATA}
    samples = b""
    for name, tensor in expected.items():  # the byte in front leaves none of them at a multiple of its size
        part = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        offsets = [len(samples), len(samples) + len(part)]
        rows[name] = {"dtype": words[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        samples += part
    header = json.dumps(rows).encode()
    path = tmp_path / "model.safetensors"
    for padding in range(4):
        path.write_bytes(struct.pack("<Q", len(header) + padding) + header + b" " * padding + samples)
        found = store.load("stand-in", "t-1", path=path).tensors
        assert found.keys() == expected.keys() == safetensors.torch.load(path.read_bytes()).keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
            assert found.dtype(name) == str(tensor.dtype).removeprefix("torch.")
            array = found.array(name)
            assert found.shape(name) == array.shape == tuple(tensor.shape)
            expected_array = (tensor.float() if name == "half" else tensor).numpy()
            assert array.dtype == expected_array.dtype and np.array_equal(array, expected_array), name
            assert array.flags.aligned and not array.flags.writeable
            if name != "half" and tensor.numel():
                assert array.ctypes.data == found[name].data_ptr(), "one memory for both"


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"],
)
def test_tensors_that_were_made_are_as_if_they_had_been_read(dtype: str, tmp_path: Path) -> None:
    made = torch.tensor([[0.0, 1.0, 0.5], [100.0, -3.0, 1e-3]]).abs().to(getattr(torch, dtype)).t()
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved({"a": made.contiguous()}))
    for found in (store.Tensors.of({"a": made}), store.load("stand-in", "t-1", path=path).tensors):
        assert found["a"].dtype == made.dtype and torch.equal(found["a"], made)
        assert (found.dtype("a"), found.shape("a")) == (dtype, (3, 2))
        assert np.array_equal(found.array("a"), made.double().numpy())
        assert str(found.array("a").dtype) == ("float32" if dtype == "bfloat16" else dtype)
        assert "a" in found and "b" not in found and list(found) == ["a"]
        with pytest.raises(KeyError):
            found.array("b")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from licodec import store
weights = store.load("stand-in", "t-1", path=sys.argv[1])
tensors = weights.tensors
assert tensors.array("decode.kernel").sum() == 1 and tensors.shape("decode.kernel") == (1, 1, 3, 3)
assert "decode.scale" in tensors and "other" not in tensors and not weights.known
whole = store.load("fhic", "s-1").tensors
assert whole.array("gain").shape == whole.shape("gain") and len(set(map(whole.dtype, whole))) > 3
"""


def test_weights_are_read_and_checked_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(write_weights(tmp_path))], check=True)


def test_what_becomes_of_the_file_does_not_matter_once_it_was_read(tmp_path: Path) -> None:
    path = write_weights(tmp_path)
    weights = store.load("stand-in", "t-1", path=path)
    before = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.tensors.items())


@pytest.mark.parametrize("damage", ["no JSON", "no list", "type", "shape", "offset", "bytes", "length"])
def test_a_table_that_knows_a_file_which_is_none_is_a_weights_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A known content is not looked at once more; but whoever wrote the table may have made a mistake."""
    row: dict[str, object] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    changed: dict[str, dict[str, object]] = {
        "type": {"dtype": "F99"},
        "shape": {"shape": [1 << 40]},
        "offset": {"data_offsets": [-400, 4]},
        "bytes": {"data_offsets": [0, 2]},
    }
    header = json.dumps({"__metadata__": METADATA, "w": {**row, **changed.get(damage, {})}}).encode()
    header = {"no JSON": b"{", "no list": b"[]"}.get(damage, header)
    length = 1 << 60 if damage == "length" else len(header)
    path = tmp_path / "stand-in" / "t-1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(data := struct.pack("<Q", length) + header + bytes(4))
    ref = store.WeightsRef("stand-in", "t-1", bytes(16), bytes(8))
    entry = store.Entry(ref, hashlib.sha256(data).hexdigest(), len(data))
    monkeypatch.setattr("licodec.store.weights.known", lambda: (entry,))
    with pytest.raises(WeightsError, match="safetensors") as caught:
        store.load("stand-in", "t-1", path=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "safetensors"),
        (lambda data: data[: len(data) // 2], "safetensors"),
        (lambda data: b"\x80\x04" + data, "safetensors"),
        (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "safetensors"),
        (lambda data: safetensors.torch.save({"a": torch.zeros(1)}), "architecture and tables"),
        (lambda data: saved({"a": torch.tensor([torch.nan])}), "a holds values that are not finite"),
        (lambda data: saved({"a": torch.tensor([torch.inf])}), "a holds values that are not finite"),
        (
            lambda data: saved({"a": torch.tensor([1, -torch.inf]).half()}),
            "a holds values that are not finite",
        ),
        (
            lambda data: saved({"a": torch.tensor([torch.inf]).bfloat16()}),
            "a holds values that are not finite",
        ),
        (lambda data: saved({"a": torch.zeros(1)}, codec="other"), "'other'"),
    ],
    ids=[
        "empty",
        "cut",
        "pickle",
        "huge header",
        "no metadata",
        "nan",
        "inf",
        "half",
        "bfloat16",
        "other codec",
    ],
)
def test_a_damaged_weights_file_is_a_weights_error_that_names_it(tmp_path: Path, damage, says) -> None:  # type: ignore[no-untyped-def]
    path = write_weights(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError, match=says) as caught:
            store.load("stand-in", "t-1", path=tmp_path)
    assert str(path) in str(caught.value)


def test_a_configured_folder_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path / "gone"))
    with pytest.warns(LicWarning, match="gone.*no such folder"):
        assert store.load("fhic", "s-1").ref.tag == "s-1"
    monkeypatch.setenv("LICODEC_WEIGHTS", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.load("fhic", "s-1")

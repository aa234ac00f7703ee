"""Finding and reading weights files. A file's content is verified on every load, before it is used."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lic_format.errors import LicWarning, WeightsError
from licodec.store.digests import digests_of, read_metadata

if TYPE_CHECKING:
    import torch

ENVIRONMENT = "LICODEC_WEIGHTS"
FILE_NAME = "model.safetensors"

_TOKEN = re.compile(r"[a-z0-9-]{1,16}")
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class WeightsRef:
    """What a file says about its weights: codec and tag to find them, 16 and 8 bytes to know them by."""

    codec: str
    tag: str
    decode_digest: bytes
    synthesis_digest: bytes


@dataclass(frozen=True, eq=False)
class Weights:
    """A weights file that was read and verified.

    Attributes:
        ref: what files coded with these weights carry.
        tensors: name -> tensor on the CPU, in the dtype in which it is stored; floats are finite.
        metadata: name -> text, as the file has it.
        path: where it was read.
    """

    ref: WeightsRef
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    path: Path

    @property
    def decode_digest(self) -> bytes:
        return self.ref.decode_digest

    @property
    def synthesis_digest(self) -> bytes:
        return self.ref.synthesis_digest


def locate(codec: str, tag: str, *, path: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """The files that may hold the weights `codec`/`tag`, first choice first; only those that exist.

    `path` is a weights file, a folder that holds model.safetensors, or a folder of
    CODEC/TAG/model.safetensors. It stands alone: what a caller names is not replaced by something else.

    Raises:
        WeightsError: nothing is there; lists the places.
    """
    for token in (codec, tag):
        if not _TOKEN.fullmatch(token):
            raise WeightsError(f"{token!r} names no weights: expected 1 to 16 of a-z, 0-9 and -")
    places = _places(codec, tag, path)
    found = tuple(place for place in places if place.is_file())
    if not found:
        listing = ", ".join(str(place) for place in places) or "nowhere: no folder is configured"
        raise WeightsError(
            f"no weights {codec}/{tag}; looked at {listing}. Set {ENVIRONMENT} to a folder of "
            f"CODEC/TAG/{FILE_NAME}, or install a version of licodec that embeds them"
        )
    return found


def _places(codec: str, tag: str, path: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    inside = Path(codec, tag, FILE_NAME)
    if path is not None:
        given = Path(path)
        return (given / inside, given / FILE_NAME) if given.is_dir() else (given,)
    folders = []
    configured = os.environ.get(ENVIRONMENT)
    if configured:
        folders.append(Path(configured))
    folders.append(_PACKAGE / "weights")
    if _PACKAGE.parent.name == "sdk":  # a checkout: the folder that becomes licodec/weights in a wheel
        folders.append(_PACKAGE.parent.parent / "weights")
    return tuple(folder / inside for folder in folders)


def load(
    codec: str,
    tag: str,
    decode_digest: bytes | None = None,
    *,
    synthesis_digest: bytes | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Weights:
    """Find, read and verify weights.

    Args:
        codec, tag: the two tokens that HEAD carries.
        decode_digest: 16 bytes that the weights must have; None takes the first file found (encoding).
        synthesis_digest: 8 bytes that they should have; a `LicWarning` says so where they don't.
        path: as in `locate`.

    Raises:
        WeightsError: none found, not readable, damaged, or of another decode digest.
    """
    found = locate(codec, tag, path=path)
    others: list[str] = []
    second_choice: tuple[Path, bytes, WeightsRef] | None = None
    for place in found:
        data = _read(place)
        ref = _reference(data, place, codec, tag)
        if decode_digest is not None and ref.decode_digest != decode_digest:
            others.append(f"{place} has {ref.decode_digest.hex()}")
        elif synthesis_digest is not None and ref.synthesis_digest != synthesis_digest:
            second_choice = second_choice or (place, data, ref)
        else:
            return _weights(place, data, ref)
    if second_choice is None:
        assert decode_digest is not None
        raise WeightsError(
            f"weights {codec}/{tag} of decode digest {decode_digest.hex()} are wanted, but "
            f"{'; '.join(others)}. "
            f"Set {ENVIRONMENT} to a folder with the weights that the file was coded with"
        )
    place, data, ref = second_choice
    warnings.warn(
        f"weights {codec}/{tag}: synthesis digest {ref.synthesis_digest.hex()} where the file names "
        f"{(synthesis_digest or b'').hex()}; it decodes, with another synthesis than its encoder saw",
        LicWarning,
        stacklevel=2,
    )
    return _weights(place, data, ref)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from error


def _reference(data: bytes, path: Path, codec: str, tag: str) -> WeightsRef:
    try:
        digests = digests_of(data)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    metadata = read_metadata(data)
    if metadata.get("codec", codec) != codec:
        raise WeightsError(f"{path} holds weights of the codec {metadata['codec']!r}, not of {codec!r}")
    return WeightsRef(codec, metadata.get("tag", tag), digests.decode, digests.synthesis)


def _weights(path: Path, data: bytes, ref: WeightsRef) -> Weights:
    import safetensors.torch
    import torch

    tensors = safetensors.torch.load(data)
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: the tensor {name} holds values that are not finite")
    return Weights(ref, tensors, read_metadata(data), path)

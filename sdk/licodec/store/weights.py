"""Finding and reading weights files. A file's content is verified on every load, before it is used."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from lic_format.errors import LicWarning, WeightsError
from licodec.store.digests import FAST, WeightsRef, decoder_of, digests_of, read_header, read_metadata
from licodec.store.table import ENVIRONMENT, FILE_NAME, TOKEN, Entry, answering, known

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

Download = Literal["auto", "never"]

FACTS = "export.json"
"""Lies beside weights that were exported, and tells their digests."""

_DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (64, 32, 16)},
    **{f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)},
    **{"BF16": "bfloat16", "U8": "uint8", "BOOL": "bool"},
}
"""What safetensors calls a type, and what torch does; weights have no others."""

_PACKAGE = Path(__file__).resolve().parent.parent


class Tensors(Mapping[str, "torch.Tensor"]):
    """The tensors of a weights file by name, for those who compute with torch and for those who don't.

    `tensors[name]` is torch's, on the CPU, in the dtype in which it is stored; torch is imported for it and
    for nothing else here. `tensors.array(name)` is NumPy's. Both lie where the file was read to: asking costs
    no copy.

    Attributes:
        stored: name -> array that may be written to.
        bfloat16: names of those that hold such numbers, which NumPy doesn't know, as the bits of int16.
    """

    def __init__(self, stored: Mapping[str, npt.NDArray[Any]], bfloat16: Collection[str] = ()) -> None:
        self.stored: Final = stored
        self.bfloat16: Final = frozenset(bfloat16)

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Tensors that were made, as the store would have read them."""
        import torch

        bfloat16 = [name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16]
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        whole |= {name: whole[name].view(torch.int16) for name in bfloat16}
        return cls({name: tensor.numpy() for name, tensor in whole.items()}, bfloat16)

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(self.stored[name])
        return tensor.view(torch.bfloat16) if name in self.bfloat16 else tensor

    def array(self, name: str) -> npt.NDArray[Any]:
        """The same numbers, read-only, in the dtype in which they are stored; float32 for bfloat16. KeyError
        for an unknown name, as of any mapping."""
        import numpy as np

        array = self.stored[name].view()
        if name in self.bfloat16:
            array = np.left_shift(array.view(np.uint16), 16, dtype=np.uint32).view(np.float32)
        array.flags.writeable = False
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored[name].shape

    def dtype(self, name: str) -> str:
        """As NumPy and torch call it: "float32", "bfloat16", "int8"."""
        return "bfloat16" if name in self.bfloat16 else str(self.stored[name].dtype)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(frozen=True, eq=False)
class Weights:
    """A weights file that was read and verified.

    Attributes:
        ref: what files coded with these weights carry.
        tensors: by name; floats are finite.
        metadata: name -> text, as the file has it.
        path: where it was read.
        sha256: of the file, in hexadecimal: tells encoders apart too, which no digest in `ref` covers.
        known: whether the table of known weights has this very content. A model was built of all its tensors
            before it was entered there.
    """

    ref: WeightsRef
    tensors: Tensors
    metadata: Mapping[str, str]
    path: Path
    sha256: str
    known: bool = False

    @property
    def decode_digest(self) -> bytes:
        return self.ref.decode_digest

    @property
    def synthesis_digest(self) -> bytes:
        return self.ref.synthesis_digest


def embedded_folders() -> list[Path]:
    """Folders of CODEC/TAG/model.safetensors that came with this version."""
    folders = [_PACKAGE / "weights"]
    if _PACKAGE.parent.name == "sdk":  # a checkout: the folder that becomes licodec/weights in a wheel
        folders.append(_PACKAGE.parent.parent / "weights")
    return folders


def local_files(
    codec: str, tag: str, *, path: str | os.PathLike[str] | None = None, other_tags: Sequence[str] = ()
) -> tuple[Path, ...]:
    """The files on this machine that may hold the weights `codec`/`tag`, first choice first; only those that
    exist, perhaps none. What the Hub's client has fetched is not among them.

    `path` is a weights file, a folder that holds model.safetensors, or a folder of
    CODEC/TAG/model.safetensors. It stands alone: what a caller names is not replaced by something else.

    Raises:
        WeightsError: codec or tag are no names; nothing is at `path`.
    """
    for token in (codec, tag):
        if not TOKEN.fullmatch(token):
            raise WeightsError(f"{token!r} names no weights: expected 1 to 16 of a-z, 0-9 and -")
    places = _places(codec, (tag, *other_tags), path)
    found = tuple(place for place in places if place.is_file())
    if path is not None and not found:
        raise WeightsError(f"no weights {codec}/{tag}; looked at {', '.join(map(str, places))}")
    return found


def _places(codec: str, tags: Sequence[str], path: str | os.PathLike[str] | None) -> list[Path]:
    inside = [Path(codec, tag, FILE_NAME) for tag in dict.fromkeys(tags)]
    if path is not None:
        given = Path(path)
        return [*(given / part for part in inside), given / FILE_NAME] if given.is_dir() else [given]
    configured = os.environ.get(ENVIRONMENT)
    folders = [*([Path(configured)] if configured else []), *embedded_folders()]
    return [folder / part for folder in folders for part in inside]


def load(
    codec: str,
    tag: str,
    decode_digest: bytes | None = None,
    *,
    synthesis_digest: bytes | None = None,
    path: str | os.PathLike[str] | None = None,
    download: Download = "auto",
    decoder: str = FAST,
) -> Weights:
    """Find, read and verify weights.

    Args:
        codec, tag: the two tokens that HEAD carries.
        decode_digest: 16 bytes that the weights must have; None takes the first file found (encoding).
        synthesis_digest: 8 bytes that they should have; a `LicWarning` says so where they don't.
        path: as in `local_files`.
        download: "auto" fetches known weights that are not on this machine, "never" does not.
        decoder: "fast" for whole weights, "best" for the alternate synthesis of pictures coded with them:
            the known one of the decode digest, else that of `alternate_tag`. With a `path` to one file or its
            folder the folder beside it, of the same name and "-best".

    Raises:
        WeightsError: none found, not readable, damaged, or of another decode digest.
    """
    if decoder != FAST:
        tag, path = alternate_tag(tag, decoder), path and _beside(Path(path), decoder)
    entries = (
        [] if path is not None else answering(codec, tag, decode_digest, synthesis_digest, decoder=decoder)
    )
    others: list[str] = []
    second_choice: _File | None = None
    for place in local_files(codec, tag, path=path, other_tags=[entry.ref.tag for entry in entries]):
        file = _File.read(place, codec, tag, as_named=path is not None)
        if decode_digest is not None and file.ref.decode_digest != decode_digest:
            others.append(f"{place} has {file.ref.decode_digest.hex()}")
        elif file.decoder != decoder:
            others.append(f"{place} belongs to decoder {file.decoder!r}")
        elif synthesis_digest in (None, file.ref.synthesis_digest):
            return file.weights()
        else:
            second_choice = second_choice or file
    published = [entry for entry in entries if entry.hub]
    if second_choice is None and not published:
        raise WeightsError(_nothing_fits(codec, tag, decode_digest, path, others, entries, decoder))
    for file in _of_hub(published, second_choice, download):
        if synthesis_digest in (None, file.ref.synthesis_digest):
            return file.weights()
        second_choice = second_choice or file
    assert second_choice is not None
    ref = second_choice.ref
    warnings.warn(
        f"weights {codec}/{tag}: synthesis digest {ref.synthesis_digest.hex()} where the file names "
        f"{(synthesis_digest or b'').hex()}; it decodes, with another synthesis than its encoder saw",
        LicWarning,
        stacklevel=2,
    )
    return second_choice.weights()


def _of_hub(published: Sequence[Entry], local: _File | None, download: Download) -> Iterator[_File]:
    """What the cache of the Hub's client has of some entries; where neither it nor this machine has any, the
    first, fetched."""
    if not published:
        return
    from licodec.store import hub

    found = [(entry, *content) for entry in published if (content := hub.cached(entry))]
    if not found and local is None:
        found = [(published[0], *hub.obtain(published[0], download))]
    for entry, path, data in found:
        yield _File(path, bytearray(data), entry.ref, entry.decoder, known=True)


def alternate_tag(tag: str, decoder: str) -> str:
    """The tag of a decoder's synthesis for the weights `tag`, where no table names another one."""
    return f"{tag[: 15 - len(decoder)]}-{decoder}"


def _beside(path: Path, decoder: str) -> Path:
    """Where the alternate of what a caller names is: in the same folder of CODEC/TAG, or beside TAG."""
    if path.is_dir() and not (path / FILE_NAME).is_file():
        return path
    folder = (path if path.is_dir() else path.parent).absolute()
    return folder.with_name(alternate_tag(folder.name, decoder))


def _nothing_fits(
    codec: str,
    tag: str,
    decode_digest: bytes | None,
    path: str | os.PathLike[str] | None,
    others: Sequence[str],
    entries: Sequence[Entry],
    decoder: str,
) -> str:
    if decode_digest is None:
        wanted = f"no weights {codec}/{tag}"
    else:
        wanted = f"weights {codec}/{tag} of decode digest {decode_digest.hex()} are wanted"
    if decoder != FAST:
        wanted = f"{wanted} for decoder {decoder!r}"
    if others:
        seen = f"but {'; '.join(others)}"
    else:
        looked = ", ".join(str(place) for place in _places(codec, (tag,), path))
        seen = f"looked at {looked}"
    if path is not None:
        return f"{wanted}, {seen}"
    if entries:
        rest = f"{entries[0].name} is known, but nobody has published it yet (README.md: Publishing weights)"
    elif decoder != FAST:
        rest = "this version knows no such synthesis of this digest; without decoder the picture decodes"
    elif decode_digest is not None:
        rest = "this version knows no weights of this digest; a newer licodec may"
    else:
        rest = "this version knows none of this name"
    return f"{wanted}, {seen}. {rest}. Set {ENVIRONMENT} to a folder of CODEC/TAG/{FILE_NAME} that holds them"


@dataclass(frozen=True, eq=False)
class _File:
    """A weights file in memory: read once, so that what was verified is what is used, whatever becomes of the
    file. Mapped memory would follow its changes, and end the process where it is cut off."""

    path: Path
    data: bytearray
    ref: WeightsRef
    sha256: str
    decoder: str = FAST
    known: bool = False

    @classmethod
    def read(cls, path: Path, codec: str, tag: str, *, as_named: bool = False) -> _File:
        """Read and verify. What a caller has named (`as_named`) may be anything that is whole; other files
        must be what the table and their folder say."""
        try:
            data = bytearray(path.stat().st_size)
            with path.open("rb") as source:
                del data[source.readinto(data) :]
        except OSError as error:
            raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from error
        sha256 = hashlib.sha256(data).hexdigest()
        entry = next((entry for entry in known() if entry.sha256 == sha256), None)
        if entry is not None and entry.ref.codec == codec:
            return cls(path, data, entry.ref, sha256, entry.decoder, known=True)
        try:
            digests = digests_of(bytes(data))
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        metadata = read_metadata(data)
        if metadata.get("codec", codec) != codec:
            raise WeightsError(f"{path} holds weights of the codec {metadata['codec']!r}, not of {codec!r}")
        ref = WeightsRef(codec, metadata.get("tag", tag), digests.decode, digests.synthesis)
        if not as_named:
            _refuse_damage(path, ref, sha256)
        return cls(path, data, ref, sha256, decoder_of(metadata))

    def weights(self) -> Weights:
        import numpy as np

        metadata, tensors = self._content()
        for name in () if self.known else tensors:
            if "float" in tensors.dtype(name) and not np.isfinite(tensors.array(name)).all():
                raise WeightsError(f"{self.path}: the tensor {name} holds values that are not finite")
        return Weights(self.ref, tensors, metadata, self.path, self.sha256, self.known)

    def _content(self) -> tuple[dict[str, str], Tensors]:
        """Metadata, and tensors that lie in the bytes that were read; safetensors' own functions copy them.
        `digests_of` has accepted the header, or whoever entered this content into a table."""
        import numpy as np

        arrays, bfloat16 = {}, []
        try:
            metadata, rows, start = read_header(self.data)
            for name, row in rows.items():
                dtype, shape, (first, last) = _DTYPES[row["dtype"]], row["shape"], row["data_offsets"]
                if dtype == "bfloat16":
                    dtype = "int16"
                    bfloat16.append(name)
                count = math.prod(shape)
                flat = np.frombuffer(self.data, dtype, count, start + first)
                if flat.nbytes != last - first:
                    raise ValueError(f"{name} has {last - first} bytes, its shape {flat.nbytes}")
                arrays[name] = np.require(flat, requirements="A").reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, struct.error) as error:
            raise WeightsError(f"{self.path}: not a safetensors file of tensors: {error!r}") from error
        return metadata, Tensors(arrays, bfloat16)


def load_file(path: Path, codec: str, tag: str, *, as_named: bool = False) -> Weights:
    """The weights of one file, verified as those of an installed folder are, or (`as_named`) whatever is
    whole; of any decoder.

    Raises:
        WeightsError: not readable, damaged, or not what its folder says.
    """
    return _File.read(path, codec, tag, as_named=as_named).weights()


def entry_of(path: Path) -> Entry:
    """What a table says of .../CODEC/TAG/model.safetensors; WeightsError where it is none, or belongs into
    another folder."""
    file = _File.read(path, path.parent.parent.name, path.parent.name, as_named=True)
    entry = Entry(file.ref, file.sha256, len(file.data), decoder=file.decoder)
    if Path(entry.name) != Path(*path.parts[-3:-1]):
        raise WeightsError(f"{path} holds the weights {entry.name}: its folder must have that name")
    return entry


def _refuse_damage(path: Path, ref: WeightsRef, sha256: str) -> None:
    """Refuse a file that is none of the table's, where something says what it should be."""
    for entry in known():
        # Of the table but for the encoder's part, which no digest covers.
        if (entry.ref.codec, *_digests(entry.ref)) == (ref.codec, *_digests(ref)):
            raise WeightsError(
                f"{path} is damaged, or newer than the table: it has the SHA-256 {sha256}, {entry.name} has "
                f"{entry.sha256}. Install licodec again, or fetch the file again; after an export run "
                "tools/index_weights.py"
            )
    facts = path.with_name(FACTS)
    if not facts.is_file():
        return
    try:
        said = json.loads(facts.read_bytes())
        expected = (said["decode_digest"], said["synthesis_digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{facts} does not tell the digests of {path.name}: {error!r}") from error
    found = (ref.decode_digest.hex(), ref.synthesis_digest.hex())
    if found != expected:
        raise WeightsError(
            f"{path} is damaged: it has the decode and synthesis digests {' and '.join(found)}, "
            f"{facts.name} beside it says {' and '.join(map(str, expected))}"
        )


def _digests(ref: WeightsRef) -> tuple[bytes, bytes]:
    return ref.decode_digest, ref.synthesis_digest

"""The digests by which a `.lic` file names its weights; torch-free.

One hash message for each part. Per tensor, in the order of the sorted names:

    name (utf-8) | 00 | dtype (safetensors' word, as "F32") | 00 | dimensions u32 | each dimension u32 | raw
    bytes

all integers and samples little endian, samples in row-major order. After the tensors of the decode part
follow the two metadata entries that also fix the decoded latents:

    "architecture" | 00 | value (utf-8) | 00 | "tables" | 00 | value (utf-8) | 00

| names                 | part      | in the file         |
|-----------------------|-----------|---------------------|
| begin with synthesis. | synthesis | first 8 bytes       |
| begin with encoder.   | none      | a decoder needs none |
| all others            | decode    | first 16 bytes      |

An *alternate* is a file of synthesis tensors alone, for pictures coded with other weights: its metadata name
these by their decode digest, which is the alternate's too, and the decoder that it belongs to:

    "decode_digest": 32 hexadecimal digits        "decoder": "best"
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lic_format.errors import WeightsError

SYNTHESIS_PREFIX = "synthesis."
ENCODER_PREFIX = "encoder."
DECODE_METADATA = ("architecture", "tables")
FAST = "fast"
"""The decoder of whole weights."""


class Digests(NamedTuple):
    """`decode`: 16 bytes, a mismatch is fatal. `synthesis`: 8 bytes, a mismatch is a warning."""

    decode: bytes
    synthesis: bytes


@dataclass(frozen=True)
class WeightsRef:
    """What a file says about its weights: codec and tag to find them, 16 and 8 bytes to know them by."""

    codec: str
    tag: str
    decode_digest: bytes
    synthesis_digest: bytes


def digests_of(data: bytes) -> Digests:
    """The digests of a safetensors file, given its bytes.

    Raises:
        WeightsError: not a safetensors file, without the metadata that belongs to the decode digest, or an
            alternate that names no weights or holds more than a synthesis.
    """
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"not a safetensors file: {error}") from error
    metadata = read_metadata(data)
    missing = [key for key in DECODE_METADATA if key not in metadata]
    if missing:
        raise WeightsError(f"weights without the metadata {' and '.join(missing)}; export them again")
    rows = sorted((name, tensor) for name, tensor in tensors if not name.startswith(ENCODER_PREFIX))
    others = [row for row in rows if not row[0].startswith(SYNTHESIS_PREFIX)]
    synthesis = _hash(row for row in rows if row[0].startswith(SYNTHESIS_PREFIX))
    if decoder_of(metadata) != FAST:
        return Digests(_completed(metadata, len(tensors) - len(rows) + len(others)), synthesis.digest()[:8])
    decode = _hash(others)
    for key in DECODE_METADATA:
        decode.update(key.encode() + b"\0" + metadata[key].encode() + b"\0")
    return Digests(decode.digest()[:16], synthesis.digest()[:8])


def decoder_of(metadata: Mapping[str, str]) -> str:
    """The decoder that a file with such metadata belongs to."""
    return metadata.get("decoder", FAST)


def _completed(metadata: Mapping[str, str], unfit: int) -> bytes:
    """The decode digest of the weights that an alternate completes; `unfit`: its tensors of other parts."""
    named = metadata.get("decode_digest", "")
    if not re.fullmatch("[0-9a-f]{32}", named):
        raise WeightsError(
            f"a synthesis for decoder {decoder_of(metadata)!r} whose metadata decode_digest is {named!r}, "
            "expected 32 hexadecimal digits"
        )
    if unfit:
        raise WeightsError(
            f"a synthesis for decoder {decoder_of(metadata)!r} with {unfit} tensors of other parts"
        )
    return bytes.fromhex(named)


def read_metadata(data: bytes | bytearray) -> dict[str, str]:
    """The metadata entries of a safetensors file that `safetensors.deserialize` has accepted."""
    return read_header(data)[0]


def read_header(data: bytes | bytearray) -> tuple[dict[str, str], dict[str, dict[str, Any]], int]:
    """The metadata entries of such a file; dtype, shape and data_offsets of each tensor by name; from which
    byte on these offsets count."""
    (length,) = struct.unpack_from("<Q", data)
    rows = json.loads(data[8 : 8 + length])
    metadata = dict(rows.pop("__metadata__", None) or {})
    return metadata, rows, 8 + length


def _hash(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> hashlib._Hash:
    message = hashlib.sha256()
    for name, tensor in rows:
        shape = tensor["shape"]
        message.update(name.encode() + b"\0" + tensor["dtype"].encode() + b"\0")
        message.update(struct.pack(f"<{1 + len(shape)}I", len(shape), *shape))
        message.update(tensor["data"])
    return message

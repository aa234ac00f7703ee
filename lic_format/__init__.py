"""The .lic container: bytes <-> records, with the standard library alone.

Knows nothing of codecs, networks or pixels; SPEC.md is the specification. Reading order of the modules:
errors, limits, records, fields, header, chunks, metadata, container.
"""

from .container import (
    LicFile,
    Part,
    Unit,
    join_ans_body,
    read,
    read_head,
    read_part,
    read_stream,
    split_ans_body,
    write,
)
from .errors import (
    ExactnessError,
    FormatError,
    LicError,
    LicWarning,
    UnsupportedError,
    UsageError,
    UsageTypeError,
    UsageValueError,
    WeightsError,
)
from .header import HEAD, Colour, Depth, Flag, Head, Order
from .metadata import Chunk, pack_metadata, pack_resolution, unpack_metadata, unpack_resolution

__all__ = [
    "HEAD",
    "Chunk",
    "Colour",
    "Depth",
    "ExactnessError",
    "Flag",
    "FormatError",
    "Head",
    "LicError",
    "LicFile",
    "LicWarning",
    "Order",
    "Part",
    "Unit",
    "UnsupportedError",
    "UsageError",
    "UsageTypeError",
    "UsageValueError",
    "WeightsError",
    "join_ans_body",
    "pack_metadata",
    "pack_resolution",
    "read",
    "read_head",
    "read_part",
    "read_stream",
    "split_ans_body",
    "unpack_metadata",
    "unpack_resolution",
    "write",
]

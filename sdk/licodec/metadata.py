"""Metadata between a host and the container: ICC profile, EXIF, XMP, resolution, and the one orientation.

Hosts keep it as Pillow does, in `Image.info`; the container in chunks (SPEC.md, Metadata). Content passes
byte for byte in both directions. Each kind has one rule of its own: the option if it was given (None and b""
write nothing), else what the image carries, and nothing of that with `strip`.

HEAD's field is the authority on orientation and pixels are never turned. Hosts know it as an EXIF tag: it is
read from there when a picture comes in, where it becomes 1, and given back there when one goes out, so that
`PIL.ImageOps.exif_transpose` turns the picture exactly once. Stripping turns nothing.
"""

from __future__ import annotations

import copy
import enum
import numbers
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from lic_format.errors import LicWarning, UnsupportedError
from lic_format.limits import MAX_METADATA
from lic_format.metadata import Chunk, pack_metadata, pack_resolution, unpack_metadata, unpack_resolution

if TYPE_CHECKING:
    import PIL.Image

METRES_AN_INCH = 0.0254
EXIF_PREFIX = b"Exif\0\0"
"""Stands before the TIFF structure in JPEG files and in Pillow's `info`, not in ours."""


class Inherit(enum.Enum):
    """The default of the metadata options, for which None is a value."""

    INHERIT = "what the image carries"


INHERIT: Final = Inherit.INHERIT

_CHUNK_TYPES = {"icc_profile": "iccp", "exif": "exif", "xmp": "xmpd"}
_NAMES = {chunk_type: name for name, chunk_type in _CHUNK_TYPES.items()}
UPRIGHT = 1
_TAG = 0x0112
_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x8769, 0x8825, 0xA005
_ENTRY = 12
"""Bytes of an entry in a TIFF directory: tag u16, type u16, count u32, value or its place u32."""

_INTEGERS = {3: 2, 4: 4, 8: 2, 9: 4}
"""Bytes of a value by TIFF type: SHORT and LONG, and what careless writers use for them, SSHORT and SLONG."""

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


# --- normal forms ---------------------------------------------------------------------------------


def normal_content(value: Any) -> bytes:
    """Content as bytes, b"" for None; TypeError for what is no bytes, ValueError for more than 16 MiB."""
    if value is None:
        return b""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is no bytes")
    content = bytes(value)
    if len(content) > MAX_METADATA:
        raise ValueError(f"{len(content)} bytes are more than {MAX_METADATA}")
    return content


def normal_exif(value: Any) -> bytes:
    """A TIFF structure without prefix, from bytes with or without it or a PIL.Image.Exif; b"" for nothing.

    TypeError for something else, ValueError for what is no TIFF structure, too long, or can't be written.
    """
    import PIL.Image

    if isinstance(value, PIL.Image.Exif):
        try:
            value = value.tobytes()
        except Exception as error:  # Pillow raises whatever a value provokes that does not suit its tag
            raise ValueError(f"Pillow can't write it: {error}") from error
        if value[14:16] == bytes(2):  # a directory without entries, which says nothing
            return b""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).removeprefix(EXIF_PREFIX)
    exif = normal_content(value)
    if exif and not (exif.startswith((b"II*\0", b"MM\0*")) and len(exif) >= 8):
        raise ValueError(f"no TIFF structure begins with {exif[:8]!r}")
    return exif


def normal_resolution(value: Any) -> tuple[float, float] | None:
    """Pixels an inch (across, down) as floats from 0.02 to 1e8, or None; TypeError, ValueError otherwise."""
    if value is None:
        return None
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise TypeError(f"{type(value).__name__} is no pair")
    if any(isinstance(one, bool) or not isinstance(one, numbers.Real) for one in value):
        raise TypeError("a resolution is two numbers")
    x, y = (float(one) for one in value)
    if not (0.02 <= x <= 1e8 and 0.02 <= y <= 1e8):
        raise ValueError(f"{x:g} x {y:g} pixels an inch")
    return x, y


_NORMAL = {
    "icc_profile": normal_content,
    "exif": normal_exif,
    "xmp": normal_content,
    "dpi": normal_resolution,
}
"""By option, which is also the key in `Image.info`."""


# --- to the container -----------------------------------------------------------------------------


def to_store(
    image: PIL.Image.Image | None, wanted: Mapping[str, Any], *, unfit: frozenset[str] = frozenset()
) -> tuple[int, tuple[Chunk, ...]]:
    """The orientation (1..8) for HEAD and the chunks for a picture.

    Args:
        image: a loaded PIL image (some formats tell of their metadata after the pixels), or None for pictures
            that carry nothing. It, its info and its Exif object stay as they are.
        wanted: metadata options in normal form (`options.metadata`); one that is missing has its default.
        unfit: options for which the image's own value does not suit the pixels that are stored.

    What the image carries and a file can't hold is left out with a LicWarning.
    """
    own = {} if image is None else _carried_by(image)
    written: dict[str, Any] = {}
    for name in _NORMAL:
        value = wanted.get(name, INHERIT)
        if value is INHERIT:
            value = None if wanted.get("strip") or name in unfit else own.get(name)
        written[name] = value
    # What is not written still says how the picture stands.
    orientation = _orientation_in(*(written[name] or own.get(name) or b"" for name in ("exif", "xmp")))
    exif = written["exif"]
    if exif and _place(exif) is not None:
        says_no_more = orientation != UPRIGHT and exif == _with_orientation(b"", orientation)
        written["exif"] = b"" if says_no_more else _with_orientation(exif, UPRIGHT)
    chunks = [
        pack_metadata(_CHUNK_TYPES[name], content) for name in _CHUNK_TYPES if (content := written[name])
    ]
    if written["dpi"]:
        chunks.append(pack_resolution(*(round(value / METRES_AN_INCH) for value in written["dpi"])))
    return orientation, tuple(chunks)


def _carried_by(image: PIL.Image.Image) -> dict[str, Any]:
    """What the image carries, by option, in normal form."""
    carried = {}
    for name, normal in _NORMAL.items():
        try:
            carried[name] = normal(_exif_of(image) if name == "exif" else image.info.get(name))
        except (TypeError, ValueError) as error:
            warnings.warn(f"the image's {name} is left out: {error}", LicWarning, stacklevel=2)
    return carried


def _exif_of(image: PIL.Image.Image) -> Any:
    """The EXIF block of an image: its bytes as they are, or its Exif object where somebody has changed that.

    Writing an Exif object anew damages maker notes and drops thumbnails, so nobody's untouched bytes go that
    way; but what was deleted there, a position perhaps, must not come back.
    """
    import PIL.Image

    stored = image.info.get("exif")
    normal_exif(stored)  # before Pillow reads it
    try:
        exif = image.getexif()
        if hasattr(image, "tag_v2"):  # a TIFF: its directory describes that file, strips and all
            return _with_orientation(b"", exif.get(_TAG, UPRIGHT)) if _TAG in exif else None
        untouched = PIL.Image.Image()
        untouched.info = dict(image.info)
        changed = _listing(copy.deepcopy(exif)) != _listing(untouched.getexif())
    except Exception:  # Pillow's reader raises whatever a damaged block provokes
        return stored
    return stored if stored and not changed else exif


def _listing(exif: PIL.Image.Exif) -> str:
    """All that an Exif object would write, as text: numbers that are no numbers equal themselves there."""
    directories = [exif.get_ifd(tag) for tag in (_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD)]
    return repr([sorted((tag, exif[tag]) for tag in exif), *(sorted(found.items()) for found in directories)])


# --- from the container ---------------------------------------------------------------------------


def as_info(orientation: int, chunks: tuple[Chunk, ...]) -> dict[str, Any]:
    """What belongs into `Image.info`: icc_profile, exif (prefix first) and xmp as bytes, dpi as two floats.

    Content of a later version is left out with a LicWarning. Raises FormatError for content that is damaged
    or inflates to more than 16 MiB.
    """
    info: dict[str, Any] = {}
    for chunk in chunks:
        if chunk.type == "dpix":
            info["dpi"] = tuple(_dots_an_inch(value) for value in unpack_resolution(chunk))
        elif chunk.type in _NAMES:
            try:
                info[_NAMES[chunk.type]] = unpack_metadata(chunk)
            except UnsupportedError as error:
                warnings.warn(
                    f"the picture is shown without its {chunk.type}: {error}", LicWarning, stacklevel=2
                )
    exif = info.pop("exif", b"")
    if _orientation_in(exif, info.get("xmp", b"")) != orientation or (orientation != UPRIGHT and not exif):
        exif = _with_orientation(exif, orientation)
    return {**info, "exif": EXIF_PREFIX + exif} if exif else info


def _dots_an_inch(dots_a_metre: int) -> float:
    """The whole number where one is stored as this, as 72 and 300 are, else the quotient."""
    whole = round(dots_a_metre * METRES_AN_INCH)
    return float(whole) if round(whole / METRES_AN_INCH) == dots_a_metre else dots_a_metre * METRES_AN_INCH


# --- orientation inside EXIF and XMP --------------------------------------------------------------


def _orientation_in(exif: bytes, xmp: bytes) -> int:
    """The orientation that a viewer reads, which asks XMP where EXIF has no such tag; 1 for nonsense."""
    place = _place(exif)
    if place is not None:
        start, size = place
        value = _number(exif, start, size)
    else:
        found = _XMP_ORIENTATION.search(xmp)
        value = int(found[1]) if found else UPRIGHT
    return value if 1 <= value <= 8 else UPRIGHT


def _byte_order(exif: bytes) -> Literal["little", "big"]:
    return "little" if exif[:2] == b"II" else "big"


def _number(exif: bytes, start: int, size: int) -> int:
    return int.from_bytes(exif[start : start + size], _byte_order(exif))


def _place(exif: bytes) -> tuple[int, int] | None:
    """Where the orientation stands in a TIFF structure and how many bytes it has, or None."""
    directory = _number(exif, 4, 4)
    end = min(directory + 2 + _ENTRY * _number(exif, directory, 2), len(exif) - _ENTRY + 1)
    found = None
    for entry in range(directory + 2, end, _ENTRY):
        if _number(exif, entry, 2) != _TAG:
            continue
        size, count = _INTEGERS.get(_number(exif, entry + 2, 2), 0), _number(exif, entry + 4, 4)
        start = entry + 8 if size * count <= 4 else _number(exif, entry + 8, 4)
        if size and count and start + size <= len(exif):
            found = start, size
    return found


def _with_orientation(exif: bytes, orientation: int) -> bytes:
    """A TIFF structure with the orientation (1..8) changed in place, all other bytes as they were.

    Where it has no such tag, a copy of its first directory with the tag goes behind everything else, and no
    offset changes its meaning. Where it has no readable directory, or is empty, the result holds the tag
    alone, as Pillow would write it.
    """
    order = _byte_order(exif)
    place = _place(exif)
    if place is not None:
        start, size = place
        return exif[:start] + orientation.to_bytes(size, order) + exif[start + size :]
    directory = _number(exif, 4, 4)
    count = _number(exif, directory, 2)
    end = directory + 2 + _ENTRY * count
    if not 8 <= directory <= end <= len(exif) or count == 0xFFFF:
        exif, order, directory, count, end = b"MM\0*" + bytes(4), "big", 8, 0, 10
    old = [exif[start : start + _ENTRY] for start in range(directory + 2, end, _ENTRY)]
    entry = b"".join(
        value.to_bytes(size, order) for value, size in ((_TAG, 2), (3, 2), (1, 4), (orientation, 2), (0, 2))
    )
    entries = [one for one in old if int.from_bytes(one[:2], order) != _TAG] + [entry]
    entries.sort(key=lambda one: int.from_bytes(one[:2], order))
    exif += bytes(len(exif) % 2)
    first = len(exif).to_bytes(4, order)
    following = exif[end : end + 4].ljust(4, b"\0") if old else bytes(4)
    return b"".join((exif[:4], first, exif[8:], len(entries).to_bytes(2, order), *entries, following))

"""Orientation, the one piece of metadata that both sides of a `.lic` file must agree on.

HEAD's field is the authority and pixels are never turned. Hosts know orientation as an EXIF tag: it is read
from there when a picture comes in, and given back there when one goes out, so `PIL.ImageOps.exif_transpose`
turns it exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import PIL.Image

_EXIF_TAG = 0x0112
UPRIGHT = 1


def of_image(image: PIL.Image.Image) -> int:
    """The orientation 1..8 that a PIL image carries in its EXIF; 1 where there is no valid one."""
    value = image.getexif().get(_EXIF_TAG, UPRIGHT)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def as_info(orientation: int) -> dict[str, Any]:
    """What belongs into `Image.info`: a minimal EXIF block, or nothing where pixels stand upright."""
    if orientation == UPRIGHT:
        return {}
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[_EXIF_TAG] = orientation
    return {"exif": exif.tobytes()}

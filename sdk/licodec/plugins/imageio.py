"""`.lic` as one of imageio's formats (v3 plugin).

    import imageio.v3 as iio, licodec
    iio.imwrite("photo.lic", array, quality=80)
    data = iio.imwrite("<bytes>", array, extension=".lic")
    array, info = iio.imread("photo.lic"), iio.immeta("photo.lic")

imageio imports this module when a `.lic` file is read or written. Errors about a file are OSErrors, as from
the Pillow plugin; wrong options are ValueErrors and TypeErrors that name them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.ImageOps
from imageio.core.request import URI_BYTES, InitializationError, IOMode, Request
from imageio.core.v3_plugin_api import ImageProperties, PluginV3

from lic_format.chunks import SIGNATURE
from lic_format.errors import LicError, UsageValueError
from lic_format.header import Depth, Head
from licodec import api, options
from licodec.plugins.pillow import EXTENSION, LicDecodeError, LicImageFile, raise_as_oserror

if TYPE_CHECKING:
    import numpy.typing as npt

_LEVELS = 255
_TURNS: dict[int, tuple[int, bool]] = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
"""By EXIF's orientation: quarter turns to the left, and whether the result is mirrored left to right."""


class _Opened(LicImageFile):
    """A file that was opened also where Pillow has no mode for it."""

    _head: Head

    def _mode_for(self, head: Head) -> str:
        self._head = head
        return "I;16" if self.deep else super()._mode_for(head)

    @property
    def deep(self) -> bool:
        """Whether samples have 16 bits. Those are not Pillow's to load."""
        return self._head.depth == Depth.BITS_16

    @property
    def channels(self) -> tuple[int, ...]:
        """The last axis of the array; grey has none."""
        count = self._head.colour.planes + self._head.alpha
        return () if count == 1 else (count,)

    @property
    def shown_mode(self) -> str:
        """The mode, or what Pillow would call it: RGB;16."""
        return api.mode_of(self._head)

    def samples(self) -> npt.NDArray[Any]:
        """The array of samples, as stored."""
        array: npt.NDArray[Any] = self._decoded("numpy")
        return array

    def turned(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Samples as they are to be shown."""
        turns, mirrored = _TURNS[self._head.orientation]
        array = np.rot90(array, turns)
        return np.ascontiguousarray(array[:, ::-1] if mirrored else array)


class LicPlugin(PluginV3):
    """One `.lic` file, which holds one image: uint8 or uint16 H x W (grey), H x W x 2 (grey and alpha),
    H x W x 3 (RGB) or H x W x 4 (RGB and alpha), as stored, before its orientation is applied."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if request.mode.io_mode == IOMode.read:
            if request.firstbytes[:8] != SIGNATURE:
                raise InitializationError("not a .lic file: it does not begin with the signature")
        elif not self._writes(request):
            raise InitializationError(
                f'the target has the extension {request.extension!r}; pass extension="{EXTENSION}" to write '
                f"a {EXTENSION} file there"
            )

    def _writes(self, request: Request) -> bool:
        return (_extension(request) or EXTENSION) == EXTENSION

    def _open(self) -> _Opened:
        """The header, read again for every question: a resource may be asked several."""
        file = self.request.get_file()
        file.seek(0)
        return _Opened(file)

    def read(
        self,
        *,
        index: int | None = None,
        mode: str | None = None,
        rotate: bool = False,
        region: api.Rectangle | None = None,
        device: str | None = None,
        threads: int | None = None,
        download: str | None = None,
        decoder: str = "fast",
        writeable_output: bool = True,
    ) -> npt.NDArray[Any]:
        """The image as an array, uint8 or uint16 by its depth, with a leading axis of length 1 for
        `index=...`.

        Args:
            index: 0, None or ... (Ellipsis).
            mode: one of Pillow's modes to convert to.
            rotate: turn the image, or the region of it, as its orientation says.
            region: (x0, y0, x1, y1): decode that rectangle only, as in `licodec.decode`.
            device, threads, download: as in `licodec.decode`; None is what was registered.
            decoder: as in `licodec.decode`.
            writeable_output: whether the array must take writing; without it a copy is saved.
        """
        batch = _is_batch(index)
        given = {"device": device, "threads": threads, "download": download}
        place, image = options.with_defaults("imageio", given) | {"decoder": decoder}, self._open()
        for name, value in place.items():
            setattr(image, name, value)
        if image.deep and mode is None:
            whole = image.samples() if region is None else self._region(region, place, "numpy")
            deep = image.turned(whole) if rotate else whole
            return deep[None] if batch else deep
        if image.deep and image.channels:
            raise UsageValueError(
                f"mode: {image.shown_mode} does not convert to {mode} in Pillow, which has no such mode",
                "mode",
            )
        shown = image if region is None else self._region(region, place, "pil")
        shown = PIL.ImageOps.exif_transpose(shown) if rotate else shown
        shown = shown if mode is None else shown.convert(mode)
        array = np.array(shown) if writeable_output else np.asarray(shown)
        return array[None] if batch else array

    def _region(self, region: api.Rectangle, place: dict[str, Any], output: str) -> Any:
        """A region of the picture, decoded, as `api.decode` gives it."""
        file = self.request.get_file()
        file.seek(0)
        try:
            return api.decode(file, output=output, region=region, **place)  # type: ignore[call-overload]
        except LicError as error:
            raise_as_oserror(error, LicDecodeError)

    def iter(self, **given: Any) -> Iterator[npt.NDArray[Any]]:
        """The one image; options of `read`."""
        yield self.read(index=0, **given)

    def properties(self, index: int | None = None) -> ImageProperties:
        """Shape and dtype of what `read(index=index)` gives, from the header alone."""
        batch = _is_batch(index)
        image = self._open()
        shape = (image.height, image.width, *image.channels)
        return ImageProperties(
            shape=(1, *shape) if batch else shape,
            dtype=np.dtype(np.uint16 if image.deep else np.uint8),
            n_images=1 if batch else None,
            is_batch=batch,
            spacing=image.info.get("dpi"),
        )

    def metadata(self, index: int | None = None, exclude_applied: bool = True) -> dict[str, Any]:
        """What the header tells.

        `icc_profile`, `exif`, `xmp` (bytes) and `dpi` where the file has them, `lic` (codec, weights, rate),
        `mode`, and `Orientation` (1..8), which `read` does not apply by default.
        """
        _is_batch(index)
        image = self._open()
        found: dict[str, Any] = {str(name): value for name, value in image.info.items()}
        return found | {"mode": image.shown_mode, "Orientation": image.getexif().get(0x0112, 1)}

    def write(self, ndimage: Any, *, is_batch: bool | None = None, **given: Any) -> bytes | None:
        """Encode one image: uint8 or bool, with `lossless=True` also uint16; H x W, H x W x C with C 1..4, or
        such an image in a list or with a leading axis of length 1.

        Options are those of `licodec.encode`. Returns the file for the target "<bytes>", else None.
        """
        data = api.encode(_one_image(ndimage, is_batch), **options.with_defaults("imageio", given))
        self.request.get_file().write(data)
        return data if self.request._uri_type == URI_BYTES else None


class UnnamedLicPlugin(LicPlugin):
    """For imageio's search, which asks without being told of us: a target must say that it wants `.lic`."""

    def _writes(self, request: Request) -> bool:
        return _extension(request) == EXTENSION


def _extension(request: Request) -> str:
    return (request.extension or request.format_hint or "").lower()


def _is_batch(index: Any) -> bool:
    if index is ...:
        return True
    if index is None or (type(index) is int and index == 0):
        return False
    raise UsageValueError(
        f"index: a .lic file holds one image, expected 0, None or ..., got {index!r}", "index"
    )


def _one_image(ndimage: Any, is_batch: bool | None) -> npt.NDArray[Any]:
    several = isinstance(ndimage, list | tuple) if is_batch is None else is_batch
    array = np.asarray(ndimage)
    if several or array.ndim == 4:
        if len(ndimage) != 1:
            raise UsageValueError(f"image: a .lic file holds one image, got {len(ndimage)}", "image")
        array = np.asarray(ndimage[0])
    return array.astype(np.uint8) * np.uint8(_LEVELS) if array.dtype == np.bool_ else array

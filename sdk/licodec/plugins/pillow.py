"""`.lic` as one of Pillow's formats.

    import licodec                       # registers; so does licodec.register_pillow(device="cpu")
    Image.open("photo.lic").convert("L") # the header on open, the pixels when they are needed
    image.save("photo.lic", quality=80)

In Pillow's order: accept, open, load, save, register. Registering and opening load neither torch nor NumPy.
"""

from __future__ import annotations

import contextlib
import mimetypes
import threading
import warnings
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, cast

from PIL import Image, ImageFile, UnidentifiedImageError

import lic_format
from lic_format.chunks import SIGNATURE
from lic_format.errors import (
    ExactnessError,
    FormatError,
    LicError,
    LicWarning,
    UnsupportedError,
)
from lic_format.limits import MAX_SIDE
from licodec import metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from licodec.options import Defaults

FORMAT = "LIC"
EXTENSION = ".lic"
MIME = "image/x-lic"

_MODES = {
    (lic_format.Colour.GREY, 8, False): "L",
    (lic_format.Colour.GREY, 8, True): "LA",
    (lic_format.Colour.RGB, 8, False): "RGB",
    (lic_format.Colour.RGB, 8, True): "RGBA",
    (lic_format.Colour.GREY, 16, False): "I;16",
}
"""Pillow's mode by colour, depth and alpha."""

# Options that programs hand to every format alike. They say nothing to this one, and a warning for each would
# be noise.
_OPTIONS_OF_OTHER_FORMATS = frozenset(
    {
        "alpha_quality",
        "append",
        "append_images",
        "autotiling",
        "background",
        "bitmap_format",
        "bits",
        "comment",
        "compress_level",
        "compress_type",
        "compression",
        "default_image",
        "disposal",
        "duration",
        "exact",
        "keep_rgb",
        "loop",
        "max_threads",
        "method",
        "minimize_size",
        "optimize",
        "palette",
        "pnginfo",
        "progression",
        "progressive",
        "qtables",
        "range",
        "speed",
        "streamtype",
        "subsampling",
        "tiffinfo",
        "transparency",
    }
)


class LicOpenError(FormatError, UnidentifiedImageError):
    """The header of a `.lic` file lies or is not complete yet. An OSError, as Pillow's callers expect."""


class LicDecodeError(FormatError, OSError):
    """The payload of a `.lic` file is damaged or cut off."""


class LicUnsupportedError(UnsupportedError, OSError):
    """The file is newer than this version of licodec, or of a codec that it doesn't have."""


class LicExactnessError(ExactnessError, OSError):
    """This machine has no exact way to decode the file."""


def accept(prefix: bytes) -> bool:
    """Whether a file begins like ours. Runs for every image that Pillow opens in the process."""
    return prefix[:8] == SIGNATURE


class LicImageFile(ImageFile.ImageFile):
    """A `.lic` file that was opened: size, mode and info from the header, pixels in `load`."""

    format = FORMAT
    format_description = "Learned-codec image"
    n_frames, is_animated = 1, False

    # Unpickled images don't pass through _open: for them there is nothing left to load, and nothing to lock.
    _lock: threading.Lock | None = None
    _start = 0
    _stored_size = (0, 0)
    _reduce = 1
    device: str | None = None
    threads: int | None = None
    download: str | None = None
    """How `load` decodes; None is what was registered, or else the default of `licodec.decode`."""
    decoder: str = "fast"
    """The same; set to "best" between `open` and `load`."""

    def _open(self) -> None:
        assert self.fp is not None
        self._start = self.fp.tell()
        try:
            # Pillow's own limit is judged here, before anything else is; ours counts when the pixels are
            # decoded.
            head, chunks = lic_format.read_head(cast("BinaryIO", self.fp), max_pixels=MAX_SIDE**2)
            info = metadata.as_info(head.orientation, chunks)
        except LicError as error:
            raise_as_oserror(error, LicOpenError)
        mode = self._mode_for(head)
        size = (head.width, head.height)
        bomb_check = getattr(Image, "_decompression_bomb_check", None)
        if bomb_check is not None:
            bomb_check(size, error_only=True)
        self._size = self._stored_size = size
        self._mode = mode
        self.info.update(info)
        self.info["lic"] = {
            "codec": head.codec,
            "tag": head.tag,
            "rate": head.rate,
            "lossless": head.lossless,
            "digest": head.decode_digest.hex(),
        }
        self._lock = threading.Lock()

    def _mode_for(self, head: lic_format.Head) -> str:
        mode = _MODES.get((head.colour, head.depth, head.alpha))
        if mode is None:
            from licodec import api

            raise LicUnsupportedError(api.no_mode(head))
        return mode

    def draft(  # Pillow's contract: a hint, taken where a smaller picture is decoded in less time
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode a smaller picture when the time comes: the smallest of at least that size, if there is one.

        Returns:
            the mode, and the part of the smaller picture that shows the whole one; None where nothing
            changes.
        """
        if size is None or self._lock is None:
            return None
        from licodec import api

        width, height = self._stored_size
        most = min(width / max(1, size[0]), height / max(1, size[1]))
        factor = max((each for each in api.reductions(self.info["lic"]["codec"]) if each <= most), default=1)
        with self._lock:  # another thread may be loading
            if self.fp is None or self._im is not None:
                return None
            self._reduce, self._size = factor, (-(-width // factor), -(-height // factor))
        return None if factor == 1 else (self.mode, (0, 0, width / factor, height / factor))

    def load(self) -> Any:
        """Decode the pixels on first use; later calls are free. Several threads may load one image."""
        if self._lock is not None:
            with self._lock:
                # Inside the lock: another thread may just have decoded. close() leaves an error here, not
                # None.
                if self._im is None:
                    self._decode()
        return super().load()

    def _decode(self) -> None:
        decoded = self._decoded("pil")
        if (decoded.size, decoded.mode) != (self.size, self.mode):
            raise LicDecodeError(f"the file changed since it was opened: it was {self.mode} {self.size}")
        self.im = decoded.im
        self.readonly = 0  # the memory is our own: a first write needs no copy
        if self._exclusive_fp:
            assert self.fp is not None
            self.fp.close()
        self.fp = None

    def _decoded(self, output: Literal["pil", "numpy"]) -> Any:
        """What `licodec.decode` gives of the file, with its errors as Pillow's."""
        if self.fp is None:
            raise ValueError("file is closed: the image was not loaded before its file was closed")
        from licodec import api, options

        self.fp.seek(self._start)
        data, fault = _repaired(self.fp.read())
        given = {"device": self.device, "threads": self.threads, "download": self.download}
        place = options.with_defaults("pillow", given)
        try:
            decoded: Any = api.decode(data, output=output, reduce=self._reduce, decoder=self.decoder, **place)
        except LicError as error:
            raise_as_oserror(error, LicDecodeError)
        if fault is not None:
            warnings.warn(f"the picture is whole, its file is not: {fault}", LicWarning, stacklevel=4)
        return decoded

    def verify(self) -> None:
        """Check header, chunk order and every checksum, without weights. Reopen the image after it."""
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        self.fp.seek(self._start)
        try:
            lic_format.read(self.fp.read())
        except LicError as error:
            raise_as_oserror(error, LicDecodeError)
        super().verify()


def _repaired(data: bytes) -> tuple[bytes, FormatError | None]:
    """A file to decode, and what was wrong with it: where Pillow is told to take truncated files, one that
    lost something behind its last unit, or has more there than it should, is decoded without it.

    Never a part of a unit: where its checksum is wrong or missing, no pixel of it could be trusted.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        with contextlib.suppress(LicError):
            file = lic_format.read(data, partial=True, max_pixels=MAX_SIDE**2)
            if file.units and file.fault:
                return lic_format.write(lic_format.LicFile(file.head, file.metadata, file.units)), file.fault
    return data, None  # decoding says what is wrong


def raise_as_oserror(error: LicError, format_error: type[FormatError]) -> NoReturn:
    """Raise an error of ours as what Pillow's callers catch; the message and the cause stay."""
    if isinstance(error, OSError):
        raise error
    if isinstance(error, FormatError):
        raise format_error(
            error.reason, offset=error.offset, chunk=error.chunk, incomplete=error.incomplete
        ) from error
    if isinstance(error, UnsupportedError):
        raise LicUnsupportedError(str(error)) from error
    if isinstance(error, ExactnessError):
        raise LicExactnessError(str(error)) from error
    raise error


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Pillow's save handler: every option and the mode are checked, then one write."""
    from licodec import api, options

    # Pillow has opened the file already: a failure from here on leaves an existing file empty. licodec.save
    # does not.
    fp.write(api.encode(image, **options.with_defaults("pillow", _encode_options(image.encoderinfo))))


def _encode_options(given: Mapping[str, Any]) -> dict[str, Any]:
    from licodec import options, targets

    known = {option.name for option in options.understood_by("pillow", "encode")}
    for name in given.keys() - known - _OPTIONS_OF_OTHER_FORMATS:
        meant = options.nearest(name, "pillow", "encode")
        hint = f"; did you mean {meant}?" if meant else ""
        # The frames between: _encode_options, _save, Image.save.
        warnings.warn(f"option {name!r} is not known and was ignored{hint}", LicWarning, stacklevel=4)
    checked = {name: options.check(name, value) for name, value in given.items() if name in known}
    targets.chosen(checked)  # which refuses what contradicts itself
    return checked


def register_pillow(worker: object = None, /, **defaults: Unpack[Defaults]) -> None:
    """Register the format with Pillow in this process, and its type with `mimetypes`; calling it again
    changes nothing but the defaults that are named.

    Args:
        worker: see `licodec.register`.
        device, threads, download: for what Pillow opens and saves, where an option of `save` does not say
            otherwise.
    """
    if defaults:
        from licodec import options

        options.set_defaults("pillow", defaults)
    Image.register_open(FORMAT, LicImageFile, accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)
    if mimetypes.inited:
        mimetypes.add_type(MIME, EXTENSION)
    else:  # which would read the system's lists now; whoever asks for a type first does
        mimetypes.types_map[EXTENSION] = MIME


def unregister_pillow() -> None:
    """Take the format out of Pillow's registries again, and out of what `mimetypes` guesses of names."""
    if FORMAT in Image.ID:
        Image.ID.remove(FORMAT)
    for registry in (Image.OPEN, Image.SAVE, Image.MIME):
        cast("dict[str, Any]", registry).pop(FORMAT, None)
    if Image.EXTENSION.get(EXTENSION) == FORMAT:
        del Image.EXTENSION[EXTENSION]
    if mimetypes.types_map.get(EXTENSION) == MIME:
        del mimetypes.types_map[EXTENSION]

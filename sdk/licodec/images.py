"""Pictures as people have them (PIL, NumPy, PyTorch) <-> `Picture`, the form that codecs take and give.

Only this module knows host pixel types; PIL, NumPy and PyTorch are imported inside the functions that meet
them. What a mode or dtype would lose is refused by name, never narrowed silently.
"""

from __future__ import annotations

import hashlib
import io
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lic_format.errors import LicWarning, UnsupportedError, UsageTypeError, UsageValueError
from lic_format.limits import MAX_SIDE
from lic_format.metadata import Chunk
from licodec import metadata

if TYPE_CHECKING:
    import numpy.typing as npt
    import PIL.Image
    import torch

    Pixels: TypeAlias = npt.NDArray[Any]  # uint8 or uint16
    Image: TypeAlias = PIL.Image.Image | npt.NDArray[Any] | torch.Tensor

# PIL modes, and the mode whose 8-bit samples mean the same. What is missing here is refused by name.
_CODED_MODE = {
    "L": "L",
    "LA": "LA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "1": "L",
    "P": "RGB",  # or L where the palette is grey
    "PA": "RGBA",
    "RGBX": "RGB",  # the fourth byte is padding
    "La": "LA",  # premultiplied; colours lose what alpha took from them
    "RGBa": "RGBA",
    "YCbCr": "RGB",  # what a viewer shows; rounding of the conversion stays below one level
    "HSV": "RGB",
    "CMYK": "RGB",  # through profiles, as the next one; said with a warning
    "LAB": "RGB",
}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""By samples a pixel."""
_ROWS_HASHED = 64
"""At a time."""
_OTHER_COLOURS = ("CMYK", "LAB")
"""What Pillow can't show without a loss."""
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Grey, 16 bits a sample; I where its numbers are."""
_WHY_REFUSED = dict.fromkeys(
    _DEEP_MODES,
    "no lossy codec of this version keeps more than 8 bits a sample; take lossless=True or scale it "
    "to 8 bits yourself",
) | {"F": "floats would need a range; no codec keeps them; scale it to 8 bits yourself"}


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels and what belongs to them.

    Attributes:
        planes: uint8 or uint16 array H x W x C, C-contiguous; C is 1 (grey) or 3 (RGB).
        alpha: array H x W of the same dtype, C-contiguous, the largest value opaque, not premultiplied; None
            for a picture without.
        depth: bits a sample; 8 (uint8) or 16 (uint16).
        orientation: EXIF's 1..8, how a viewer turns the stored pixels. The pixels themselves are never
            turned.
        metadata: the container's chunks between HEAD and the first DATA.
    """

    planes: Pixels
    alpha: Pixels | None = None
    depth: int = 8
    orientation: int = 1
    metadata: tuple[Chunk, ...] = ()

    @property
    def width(self) -> int:
        return int(self.planes.shape[1])

    @property
    def height(self) -> int:
        return int(self.planes.shape[0])

    @property
    def grey(self) -> bool:
        return int(self.planes.shape[2]) == 1

    def digest(self) -> bytes:
        """BLAKE2b-128 of all samples: rows from top to bottom, pixels from left to right, grey or red, green,
        blue, and alpha last."""
        import numpy as np

        found = hashlib.blake2b(digest_size=16)
        for top in range(0, self.height, _ROWS_HASHED):
            rows = slice(top, top + _ROWS_HASHED)
            part = self.planes[rows]
            samples = part if self.alpha is None else np.dstack([part, self.alpha[rows]])
            found.update(np.ascontiguousarray(samples, samples.dtype.newbyteorder(">")).data)
        return found.digest()


def to_picture(
    image: Any, wanted: Mapping[str, Any] | None = None, *, depths: tuple[int, ...] = (8,)
) -> Picture:
    """The `Picture` of a PIL image, a NumPy array or a PyTorch tensor.

    Args:
        image: a PIL image of a mode that converts to L, LA, RGB or RGBA without loss of meaning; a uint8
            array H x W or H x W x C; or a tensor C x H x W or 1 x C x H x W, uint8 or float in 0..1. C is 1
            (grey), 2 (and alpha), 3 (RGB) or 4 (and alpha). The layout follows from the type, never from the
            numbers in the shape. Where 16 bits are taken also uint16 arrays and tensors, and PIL's modes I;16
            and I, of the latter numbers 0..65535.
        depths: bits a sample that are taken.
        wanted: the metadata options in normal form, as of `metadata.to_store`; None: their defaults.

    Raises:
        UsageTypeError: not such a type, or a mode or dtype that would lose something; names it.
        UsageValueError: empty, too large, a shape of no picture, floats outside 0..1.
    """
    import numpy as np

    host, samples = _samples_of(image, deep=16 in depths)
    unfit = frozenset({"icc_profile"} if host is not None and host.mode in _OTHER_COLOURS else ())
    orientation, chunks = metadata.to_store(host, wanted or {}, unfit=unfit)
    colours = samples.shape[2] - (samples.shape[2] + 1) % 2
    alpha = np.ascontiguousarray(samples[:, :, colours]) if colours < samples.shape[2] else None
    planes = np.ascontiguousarray(samples[:, :, :colours])
    return Picture(planes, alpha, 8 * planes.itemsize, orientation, chunks)


_EXACT_MODES = ("L", "LA", "RGB", "RGBA", "1", "P", "PA", "RGBX")


def check_lossless(image: Any) -> None:
    """Refuse an image whose samples are not kept as they are: UsageTypeError."""
    mode = getattr(image, "mode", None)
    if mode in _CODED_MODE and mode not in _EXACT_MODES:
        raise _refuse_type(f'mode {mode}: on the way to RGB it loses something; use image.convert("RGB")')
    if sys.modules.get("torch"):
        import torch

        if isinstance(image, torch.Tensor) and image.is_floating_point():
            raise _refuse_type("a float tensor is rounded to 8 bits, which is a loss; give uint8")


def _samples_of(image: Any, *, deep: bool) -> tuple[PIL.Image.Image | None, Pixels]:
    """The host's image that may carry metadata, loaded by now, and the samples, uint8 H x W x 1..4, or uint16
    where such are taken."""
    import numpy as np

    if isinstance(image, np.ndarray):
        return None, _from_array(image, deep=deep)
    if sys.modules.get("torch"):
        import torch

        if isinstance(image, torch.Tensor):
            return None, _from_tensor(image, deep=deep)
    import PIL.Image

    if isinstance(image, PIL.Image.Image):
        return image, _from_deep(image) if deep and image.mode in _DEEP_MODES else _from_pil(image)
    raise _refuse_type(
        f"expected a PIL image, a uint8 array H x W x C or a tensor C x H x W, got {type(image).__name__}"
    )


def from_picture(picture: Picture, output: str) -> Any:
    """A picture in the form that was asked for; its memory is its own.

    Returns:
        "pil": an image of mode L, LA, RGB, RGBA or I;16, its metadata in `info`; an orientation other than 1
        is given back in `info["exif"]`, so that `ImageOps.exif_transpose` turns it. "numpy": uint8 or uint16
        by the picture's depth, H x W (grey) or H x W x C. "torch": the same, C x H x W, CPU. C as in
        `to_picture`. Arrays and tensors hold the pixels as stored, not turned.

    Raises FormatError for damaged metadata, which only "pil" looks into; UnsupportedError where Pillow has no
    mode for such a picture.
    """
    import numpy as np

    samples = picture.planes if picture.alpha is None else np.dstack([picture.planes, picture.alpha])
    if output == "numpy":
        return (samples[:, :, 0] if samples.shape[2] == 1 else samples).copy()
    if output == "torch":
        import torch

        return torch.from_numpy(samples.transpose(2, 0, 1).copy())
    import PIL.Image

    mode = _MODES[samples.shape[2]]
    if picture.depth == 16:
        if mode != "L":
            raise UnsupportedError(no_mode_for(mode))
        mode, samples = "I;16", samples.astype("<u2")
    image = PIL.Image.frombytes(mode, (picture.width, picture.height), samples.tobytes())
    image.info.update(metadata.as_info(picture.orientation, picture.metadata))
    return image


def no_mode_for(mode: str) -> str:
    """What is to be said of a picture of 16 bits a sample that is LA, RGB or RGBA."""
    what = {"LA": "16-bit grey with alpha", "RGB": "16-bit RGB", "RGBA": "16-bit RGB with alpha"}[mode]
    return (
        f'{what}: Pillow has no mode for it, 8 bits would be a loss; licodec.decode(data, output="numpy") or '
        "imageio give all of it"
    )


def _refuse_type(message: str) -> UsageTypeError:
    return UsageTypeError(f"image: {message}", argument="image")


def _refuse_value(message: str) -> UsageValueError:
    return UsageValueError(f"image: {message}", argument="image")


def _check_size(width: int, height: int) -> None:
    if width == 0 or height == 0:
        raise _refuse_value(f"cannot write an empty image ({width} x {height} pixels)")
    if max(width, height) > MAX_SIDE:
        raise _refuse_value(f"{width} x {height} pixels; a side can be at most {MAX_SIDE}")


def _from_pil(image: PIL.Image.Image) -> Pixels:
    import numpy as np

    _check_size(*image.size)
    mode = _CODED_MODE.get(image.mode)
    if mode is None:
        why = _WHY_REFUSED.get(image.mode, 'its samples are not 8-bit grey or RGB; use image.convert("RGB")')
        raise _refuse_type(f"mode {image.mode}: {why}")
    check_depth(image)
    image.load()  # some formats tell of transparency after the pixels
    if image.mode in _OTHER_COLOURS:
        coded = _to_srgb(image)
    else:
        if image.mode == "P" and _palette_is_grey(image):
            mode = "L"
        if image.has_transparency_data:
            mode = _WITH_ALPHA.get(mode, mode)
        coded = _converted(image, mode)
    return np.asarray(coded).reshape(image.height, image.width, -1)


def check_depth(image: PIL.Image.Image) -> None:
    """Refuse a picture of 16 bits a sample that Pillow is about to read as 8, as it does with RGB. Once it
    has, nobody can tell."""
    if image.mode not in _DEEP_MODES and any(map(_is_deep, getattr(image, "tile", ()))):
        raise _refuse_type(
            f"16 bits a sample, which Pillow reads as 8 (mode {image.mode}); read it as a uint16 array with "
            "another library for lossless=True, or convert it to 8 bits yourself"
        )


def _from_deep(image: PIL.Image.Image) -> Pixels:
    import numpy as np

    _check_size(*image.size)
    image.load()
    if "transparency" in image.info:
        raise _refuse_type(
            f"mode {image.mode} with transparency {image.info['transparency']!r}: Pillow has no mode for "
            '16-bit grey with alpha; give an array H x W x 2, or take image.info["transparency"] out'
        )
    samples = np.asarray(image)
    if image.mode == "I":
        low, high = int(samples.min()), int(samples.max())
        if low < 0 or high > 65535:
            raise _refuse_value(f"mode I with numbers from {low} to {high}; 16 bits hold 0 to 65535")
    return samples.astype(np.uint16).reshape(image.height, image.width, 1)


def _is_deep(part: Any) -> bool:
    """Whether a part of a file that Pillow has yet to read has 16 bits a sample; BGR;16 has them a pixel."""
    options = part.args if isinstance(part.args, tuple) else (part.args,)
    layout = str(options[0]) if options else ""
    largest = options[-1] if part.codec_name.startswith("ppm") else 0
    return (
        (";16" in layout and layout != "BGR;16")
        or part.codec_name == "SGI16"
        or (isinstance(largest, int) and largest > 255)
    )


def _converted(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if image.mode == mode:
        return image
    import PIL.Image

    try:
        if image.mode in ("P", "1") and mode == "LA":  # not every pair of modes has a way of its own
            red, _, _, alpha = image.convert("RGBA").split()
            return PIL.Image.merge("LA", (red, alpha))
        return image.convert(mode)
    except (TypeError, ValueError) as error:
        transparency = image.info.get("transparency")
        raise _refuse_type(
            f"mode {image.mode} with transparency {transparency!r} does not convert to {mode}: {error}"
        ) from error


def _palette_is_grey(image: PIL.Image.Image) -> bool:
    """Whether a grey picture says the same. One with a profile for RGB would not."""
    palette = bytes(image.getpalette("RGB") or b"")
    return palette[0::3] == palette[1::3] == palette[2::3] and not image.info.get("icc_profile")


def _to_srgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """CMYK or LAB as RGB: through the picture's profile into sRGB, or as Pillow converts; warns."""
    from PIL import ImageCms

    profile, how = image.info.get("icc_profile"), "Pillow's conversion, for want of a profile"
    srgb = ImageCms.createProfile("sRGB")
    coded = None
    try:
        if image.mode == "LAB":
            lab = ImageCms.createProfile("LAB")
            coded, how = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"), "its definition"
        elif profile:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            coded, how = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB"), "its profile"
    except (ImageCms.PyCMSError, OSError) as error:
        how = f"Pillow's conversion, because its profile is of no use ({error})"
    if coded is None and image.mode == "LAB":
        raise _refuse_type(f"mode LAB: {how}")
    warnings.warn(
        f"mode {image.mode} is stored as RGB in sRGB, by {how}; that is not reversible",
        LicWarning,
        stacklevel=2,
    )
    return coded or image.convert("RGB")


def _from_array(array: npt.NDArray[Any], *, deep: bool) -> Pixels:
    import numpy as np

    if array.dtype.kind == "u" and array.dtype.itemsize == 2 and deep:
        array = array.astype(np.uint16, copy=False)  # in this machine's order of bytes
    elif array.dtype != np.uint8:
        lossy = "uint8: no lossy codec of this version keeps more than 8 bits a sample (lossless=True does)"
        wanted = "uint8 or uint16:" if deep else f"{lossy}, and"
        raise _refuse_type(
            f"dtype {array.dtype}; an array must be {wanted} floats would need a range; scale it yourself"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in _MODES:
        raise _refuse_value(f"shape {array.shape}; an array must be H x W or H x W x C with C 1..4")
    _check_size(array.shape[1], array.shape[0])
    return np.ascontiguousarray(array)


def _from_tensor(tensor: torch.Tensor, *, deep: bool) -> Pixels:
    import numpy as np
    import torch

    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in _MODES:
        raise _refuse_value(f"shape {shape}; a tensor must be C x H x W or 1 x C x H x W with C 1..4")
    _check_size(int(tensor.shape[2]), int(tensor.shape[1]))
    whole = (torch.uint8, torch.uint16) if deep else (torch.uint8,)
    if tensor.dtype not in whole and not tensor.dtype.is_floating_point:
        names = " or ".join(str(each).removeprefix("torch.") for each in whole)
        raise _refuse_type(f"dtype {tensor.dtype}; a tensor must be {names} or float in 0..1")
    tensor = tensor.detach()
    if tensor.dtype not in whole:
        low, high = (float(bound) for bound in torch.aminmax(tensor.float()))
        if not (low >= 0.0 and high <= 1.0):  # also refuses NaN, which compares false
            raise _refuse_value(f"floats from {low:g} to {high:g}; a float tensor must be in 0..1")
        tensor = torch.floor(tensor.float() * 255.0 + 0.5).to(torch.uint8)
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())


def reduced(planes: Pixels, factor: int) -> Pixels:
    """Averages of `factor` x `factor` samples, rounded: [H, W, C] -> [H / factor, W / factor, C] of the same
    dtype, sides rounded up; beyond the border edges repeat."""
    import numpy as np

    if factor == 1:
        return planes
    height, width, channels = planes.shape
    whole = np.pad(planes, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    cells = whole.reshape(whole.shape[0] // factor, factor, -1, factor, channels)
    sums = cells.sum(axis=(1, 3), dtype=np.uint32)
    out: Pixels = ((sums + factor * factor // 2) // (factor * factor)).astype(planes.dtype)
    return out


def psnr(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit samples in dB, over all of them; infinite where they are equal."""
    import numpy as np

    error = float(np.mean(np.square(first.astype(np.float32) - second.astype(np.float32)), dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf

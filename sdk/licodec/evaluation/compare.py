"""One picture, coded by us and by peers into files of equal size, for eyes to compare.

    original = read(Path("photo.png").read_bytes())
    found = compare(original, Encoder(), Decoder(), quality=60)
    found.renditions[0].psnr

Peers get the largest file that is not larger than ours. Everything is judged on the same pixels, 8-bit RGB,
upright and without transparency: what had to be done for that, `Original.notes` say. Figures are those of the
whole picture, even where a part of it is shown.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from lic_format.errors import UsageError, UsageValueError
from licodec import images, options

from .metrics import MS_SSIM_SMALLEST_SIDE, Pixels, bits_per_pixel, ms_ssim, psnr
from .peers import PEERS, Peer

if TYPE_CHECKING:
    from licodec import Decoder, Encoder

Rectangle = tuple[int, int, int, int]
Result = TypeVar("Result")

DEFAULT_PEERS = ("webp", "avif", "jxl")
MOST_SHOWN = 2**21
"""Pixels of a picture that are shown; of a larger one a part is. All pictures of a page then stay below some
20 megabytes."""
LONGEST_SHOWN = 16383
"""Pixels: WebP, in which pictures are shown, has no longer side."""
MOST_MS_SSIM = 2**24
"""Pixels up to which MS-SSIM is measured: it takes some 180 bytes for each of them."""
_LARGEST_PROFILE = 2**20
_PAPER = 255
_SIXTEEN_BITS = "16 bits a sample, taken as 8"


@dataclass(frozen=True, eq=False)
class Original:
    """A picture as all codecs get it: uint8, H x W x 3.

    `notes` say what it took to get there, `profile` is the ICC profile that the samples mean, or None.
    """

    pixels: Pixels
    notes: tuple[str, ...] = ()
    profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True, eq=False)
class Rendition:
    """What one codec made of a picture.

    `pixels`: the part that is shown. `setting`: the codec's own number. `size` is the whole file's in bytes,
    `psnr` dB, `ms_ssim` 0..1 or None where it isn't defined, times are milliseconds of one call, the second.
    `fits`: the file is not larger than ours.
    """

    name: str
    title: str
    setting: float
    pixels: Pixels
    size: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_ms: float
    decode_ms: float
    fits: bool = True


@dataclass(frozen=True, eq=False)
class Comparison:
    """A picture and its renditions, ours first.

    `shown`: x0, y0, x1, y1 of the part that `pixels`, the original's, and those of the renditions are.
    `left_out`: peers that are not there, and why.
    """

    original: Original
    shown: Rectangle
    renditions: tuple[Rendition, ...]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def pixels(self) -> Pixels:
        return _cut(self.original.pixels, self.shown)

    @property
    def ours(self) -> Rendition:
        return self.renditions[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without pixels; infinite dB (equal pictures) are None."""
        width, height = self.original.size
        return {
            "width": width,
            "height": height,
            "shown": list(self.shown),
            "notes": [*self.original.notes, *self.notes],
            "renditions": [_plain(rendition) for rendition in self.renditions],
            "left_out": dict(self.left_out),
        }


def _plain(rendition: Rendition) -> dict[str, Any]:
    score = rendition.ms_ssim
    return {
        "name": rendition.name,
        "title": rendition.title,
        "setting": rendition.setting,
        "bytes": rendition.size,
        "bpp": round(rendition.bpp, 4),
        "psnr": round(rendition.psnr, 4) if math.isfinite(rendition.psnr) else None,
        "ms_ssim": None if score is None else round(score, 6),
        "encode_ms": round(rendition.encode_ms, 1),
        "decode_ms": round(rendition.decode_ms, 1),
        "fits": rendition.fits,
    }


# --- the original ---------------------------------------------------------------------------------


def read(data: bytes) -> Original:
    """The picture in a file that Pillow reads.

    Grey becomes RGB; transparency is laid on white; 16 bits become 8; CMYK and LAB become sRGB; a picture is
    turned upright; of several frames the first is taken. Raises OSError and what else Pillow raises for files
    that are no whole picture; UsageTypeError for modes that mean no colours, such as F.
    """
    notes: list[str] = []
    with Image.open(io.BytesIO(data)) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"the first of {frames} frames")
        try:
            images.check_depth(image)
        except UsageError:
            notes.append(_SIXTEEN_BITS)
        image.load()
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        if image.getexif().get(0x0112, 1) in range(2, 9):
            notes.append("turned upright, as its EXIF says")
        picture = images.to_picture(upright, options.metadata({"strip": True}), depths=(8, 16))
        mode = image.mode
    pixels, alpha = picture.planes, picture.alpha
    if picture.depth == 16:
        notes.append(_SIXTEEN_BITS)
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if mode in ("CMYK", "LAB"):
        notes.append(f"{mode}, converted to sRGB")
        profile = None
    if picture.grey:
        notes.append("grey, taken as RGB")
        pixels = np.repeat(pixels, 3, axis=2)
    if alpha is not None:
        notes.append("transparency laid on white")
        pixels = _on_paper(pixels, alpha)
    return Original(np.ascontiguousarray(pixels), tuple(notes), _usable(profile))


def _on_paper(pixels: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[:, :, None].astype(np.uint32)
    laid = (pixels * share + _PAPER * (255 - share) + 127) // 255
    return laid.astype(np.uint8)


def _usable(profile: object) -> bytes | None:
    """The profile where it is one for RGB, of a size that a page can hold several times."""
    if not isinstance(profile, bytes) or profile[16:20] != b"RGB " or len(profile) > _LARGEST_PROFILE:
        return None
    return profile


# --- comparing ------------------------------------------------------------------------------------


def known_peers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises UsageValueError for one that is no peer's."""
    for name in names:
        if name not in PEERS:
            raise UsageValueError(f"peers: expected some of {', '.join(PEERS)}, got {name!r}", "peers")
    return tuple(dict.fromkeys(names))


def compare(
    original: Original,
    encoder: Encoder,
    decoder: Decoder,
    *,
    quality: float | None = None,
    max_bytes: int | None = None,
    effort: int | None = None,
    peers: Sequence[str] = DEFAULT_PEERS,
    region: Rectangle | None = None,
    threads: int = 1,
) -> Comparison:
    """Code a picture by `encoder`, at a quality or into at most so many bytes, and by peers at that size.

    Args:
        effort: of our file; None is what is usual.
        region: x0, y0, x1, y1 of the part that is shown; None is as much of the middle as a page takes.
        threads: of the peers that have any.

    Peers that are not installed, or can't code such a picture, are left out and named.

    Raises UsageValueError: an unknown peer; a region outside the picture or too large; fewer bytes than the
    smallest file has.
    """
    names = known_peers(peers)
    shown = shown_part(*original.size, region)
    coded = functools.partial(encoder, **({} if effort is None else {"effort": effort}))
    ours = _ours(original, coded, decoder, quality, max_bytes, shown)
    if effort is not None:
        ours = replace(ours, title=f"{ours.title}, effort {effort}")
    renditions, left_out = [ours], {}
    for name in names:
        if need := PEERS[name].missing():
            left_out[name] = f"needs {need}"
            continue
        try:
            renditions.append(_peer(original, PEERS[name], ours.size, shown, threads))
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # too large for it, mostly
            left_out[name] = " ".join(str(error).split()) or type(error).__name__
    return Comparison(original, shown, tuple(renditions), tuple(_notes(original, shown)), left_out)


def shown_part(width: int, height: int, region: Rectangle | None = None) -> Rectangle:
    """x0, y0, x1, y1 of what is shown of a picture: the region, or the middle of at most `MOST_SHOWN` pixels.

    Raises UsageValueError where the region is empty, reaches beyond the picture, or is too large.
    """
    if region is None:
        wide, high = min(width, LONGEST_SHOWN), min(height, LONGEST_SHOWN)
        scale = min(1.0, math.sqrt(MOST_SHOWN / (wide * high)))
        wide, high = int(wide * scale), int(high * scale)
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high
    x0, y0, x1, y1 = region
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UsageValueError(
            f"crop: {x0},{y0},{x1},{y1} is no part of a picture of {width} x {height} pixels; expected "
            "X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1",
            "crop",
        )
    if (x1 - x0) * (y1 - y0) > MOST_SHOWN or max(x1 - x0, y1 - y0) > LONGEST_SHOWN:
        raise UsageValueError(
            f"crop: {x1 - x0} x {y1 - y0} pixels; a page shows at most {MOST_SHOWN} pixels, and no side "
            f"longer than {LONGEST_SHOWN}",
            "crop",
        )
    return region


def _notes(original: Original, shown: Rectangle) -> list[str]:
    width, height = original.size
    notes = []
    if shown != (0, 0, width, height):
        part = f"from {shown[0]},{shown[1]} to {shown[2]},{shown[3]}"
        notes.append(f"shown is the part {part}; figures are of the whole picture")
    if min(width, height) < MS_SSIM_SMALLEST_SIDE:
        notes.append(f"MS-SSIM is not defined for sides below {MS_SSIM_SMALLEST_SIDE} pixels")
    elif width * height > MOST_MS_SSIM:
        notes.append(f"MS-SSIM is not measured above {MOST_MS_SSIM} pixels")
    elif not _has_ms_ssim():
        notes.append("MS-SSIM is not measured without pytorch-msssim")
    return notes


def _has_ms_ssim() -> bool:
    return importlib.util.find_spec("pytorch_msssim") is not None


def _ours(
    original: Original,
    encoder: Callable[..., bytes],
    decoder: Decoder,
    quality: float | None,
    max_bytes: int | None,
    shown: Rectangle,
) -> Rendition:
    from licodec import inspect

    if max_bytes is None:
        data = encoder(original.pixels, quality=quality)
    else:
        data = encoder(original.pixels, target_size=max_bytes, strict=False)
        if len(data) > max_bytes:
            raise UsageValueError(
                f"bytes: {max_bytes} are too few for this picture, the smallest file has {len(data)}", "bytes"
            )
    info = inspect(data)
    if info.quality is None:
        raise UsageValueError(f"codec: {info.codec} is lossless; compare takes lossy ones", "codec")
    setting = info.quality if quality is None or max_bytes is not None else quality
    data, encode_ms = _timed(lambda: encoder(original.pixels, quality=setting))
    decoder(data, output="numpy")
    decoded, decode_ms = _timed(lambda: decoder(data, output="numpy"))
    title = f"{info.codec} {info.tag}"
    return _rendition(info.codec, title, setting, original, decoded, len(data), (encode_ms, decode_ms), shown)


def _peer(original: Original, peer: Peer, size: int, shown: Rectangle, threads: int) -> Rendition:
    setting, data = peer.nearest_size(original.pixels, size)
    data, encode_ms = _timed(lambda: peer.encode(original.pixels, setting, threads=threads))
    peer.decode(data)
    decoded, decode_ms = _timed(lambda: peer.decode(data))
    times = encode_ms, decode_ms
    return _rendition(peer.name, peer.title, setting, original, decoded, len(data), times, shown, size)


def _rendition(
    name: str,
    title: str,
    setting: float,
    original: Original,
    decoded: Pixels,
    size: int,
    times: tuple[float, float],
    shown: Rectangle,
    most: int | None = None,
) -> Rendition:
    width, height = original.size
    scored = _has_ms_ssim() and width * height <= MOST_MS_SSIM
    return Rendition(
        name=name,
        title=title,
        setting=setting,
        pixels=_cut(decoded, shown),
        size=size,
        bpp=bits_per_pixel(size, width * height),
        psnr=psnr(original.pixels, decoded),
        ms_ssim=ms_ssim(original.pixels, decoded) if scored else None,
        encode_ms=times[0],
        decode_ms=times[1],
        fits=most is None or size <= most,
    )


def _cut(pixels: Pixels, shown: Rectangle) -> Pixels:
    x0, y0, x1, y1 = shown
    return pixels[y0:y1, x0:x1].copy()


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = call()
    return result, 1000 * (time.perf_counter() - start)

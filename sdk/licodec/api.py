"""Encode, decode, inspect: the way of a picture, one straight line in each direction.

    data = encode(image, quality=75)        # image -> Picture -> codec -> container -> bytes
    image = decode(data)                    # bytes -> container -> codec -> Picture -> image
    inspect(data).codec                     # the header alone: no torch, no NumPy, no weights

`encode` and `decode` share a process-wide cache of models. `Encoder` and `Decoder` hold theirs, for servers,
workers and loops. All are safe in several threads. The same picture, options, weights, device and thread
count give the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, TypeAlias, Unpack, cast, overload

import lic_format.container
import lic_format.limits
from lic_format.container import LicFile, Part
from lic_format.errors import FormatError, UnsupportedError, UsageTypeError, UsageValueError, WeightsError
from lic_format.fields import VARINT_BYTES, read_varint
from lic_format.header import Colour, Depth, Flag, Head, Order
from licodec import options, store, targets
from licodec.atomic import write_atomic
from licodec.codecs.contract import (
    USUALLY,
    LosslessModel,
    LosslessWish,
    LossyModel,
    LossyWish,
    Shared,
    Stages,
)
from licodec.codecs.registry import CODECS, LOSSLESS, Area, CodecEntry
from licodec.devices import resolve_device
from licodec.images import Picture, check_lossless, from_picture, no_mode_for, psnr, reduced, to_picture
from licodec.models import CACHE, Loaded, Request, codec_entry
from licodec.options import EncodeOptions
from licodec.regions import Region, area_of, shrunk
from licodec.threads import limited

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import PIL.Image
    import torch

    from licodec.images import Image

    Array: TypeAlias = npt.NDArray[Any]
    Rectangle: TypeAlias = Region | Sequence[int] | npt.NDArray[np.integer[Any]]

WARM_UP_SIDE = 64

Source: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO


# --- encode ---------------------------------------------------------------------------------------


class Encoder:
    """Encodes pictures with weights that stay loaded.

    Args:
        codec: token of the codec.
        quality: 0..100, for calls that name none.
        order, tune: as in `encode`; they say which weights are loaded.
        device, threads, download: as in `encode`; what is not given is settled here, once for all calls.
        weights: a weights file or folder to use instead of the installed ones.

    Raises:
        UsageError: a wrong argument, by name. WeightsError: the weights are not there or damaged.

    Pickles as its configuration: the copy finds the same weights again, by digest.
    """

    def __init__(
        self,
        codec: str = "fhic",
        *,
        quality: float | None = None,
        order: str | None = None,
        tune: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        weights: str | os.PathLike[str] | None = None,
        download: str | None = None,
    ) -> None:
        self._order, self._tune = options.check("order", order), options.check("tune", tune)
        self._request = _encode_request(codec, weights, download, order, tune)
        refuse_unfit(codec, {"quality": quality, "order": order, "tune": tune})
        self._quality: float = targets.chosen({"quality": quality}).quality
        self._given = (device, threads, download)
        self._place = _Place.chosen(device, threads).resolved()
        with self._place.entered() as resolved:
            self._loaded = CACHE.get(self._request, resolved)

    @overload
    def __call__(
        self, image: Image, *, quality: float | None = None, stages: Stages | None = None,
        **more: Unpack[EncodeOptions],
    ) -> bytes: ...  # fmt: skip
    @overload
    def __call__(
        self, image: Sequence[Image], *, quality: float | None = None, stages: Stages | None = None,
        **more: Unpack[EncodeOptions],
    ) -> list[bytes]: ...  # fmt: skip

    def __call__(
        self, image: Any, *, quality: float | None = None, stages: Stages | None = None,
        **more: Unpack[EncodeOptions],
    ) -> Any:  # fmt: skip
        """The bytes of a picture, or the list of bytes of a list of pictures: the same as of single calls.

        Args:
            image: as in `encode`, or a list or tuple of such.
            quality, order: None is the encoder's own. Weights that are loaded may not know another order.
            stages: receives milliseconds by stage.
            more: targets (instead of a quality) and metadata, as in `encode`; the same for every picture.
        """
        goal = targets.chosen({"quality": quality, **more}, self._quality)
        codec = self._request.codec
        if codec_for(codec, lossless=options.check("lossless", more.get("lossless"))) != codec:
            raise UsageValueError(
                f'lossless: this encoder is one of {codec}, which is lossy; make an Encoder("{LOSSLESS}")',
                argument="lossless",
            )
        refuse_unfit(codec, {"quality": quality, **more})
        if (tune := options.check("tune", more.get("tune"))) not in (None, self._tune or "psnr"):
            raise UsageValueError(
                f"tune: this encoder is one for {self._tune or 'psnr'}; make an Encoder(tune={tune!r})",
                argument="tune",
            )
        wanted = options.metadata(more)
        wish = _wish(codec, more)
        order = _header_order(self._order if more.get("order") is None else more.get("order"))
        digest = bool(more.get("digest"))

        def coded(one: Any) -> bytes:
            picture = _picture(one, codec, wanted, stages)
            return _encode(self._loaded, picture, goal, stages, wish, digest, order)

        with self._place.entered():
            return [coded(one) for one in image] if isinstance(image, list | tuple) else coded(image)

    def warm_up(self) -> None:
        """Code a small picture, so that the first of a caller's takes no longer than those after it."""
        with self._place.entered():
            _warm_up(self._loaded)

    def __repr__(self) -> str:
        ref = self._loaded.ref
        device = self._loaded.device
        return f"Encoder({ref.codec!r}, tag={ref.tag!r}, quality={self._quality:g}, device={device!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored_encoder, (
            self._request.codec,
            self._quality,
            self._order,
            self._tune,
            *self._given,
            self._request.path,
            self._loaded.ref.decode_digest,
        )


def _restored_encoder(
    codec: str,
    quality: float,
    order: str | None,
    tune: str | None,
    device: str | None,
    threads: int | None,
    download: str | None,
    weights: str | None,
    digest: bytes,
) -> Encoder:
    encoder = Encoder(
        codec,
        quality=quality,
        order=order,
        tune=tune,
        device=device,
        threads=threads,
        weights=weights,
        download=download,
    )
    found = encoder._loaded.ref
    if found.decode_digest != digest:
        raise WeightsError(
            f"weights {codec}/{found.tag} have the decode digest {found.decode_digest.hex()} here, but the "
            f"encoder that was sent used {digest.hex()}; give both processes the same weights"
        )
    return encoder


def encode(
    image: Image,
    *,
    codec: str = "fhic",
    quality: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: str | None = None,
    stages: Stages | None = None,
    **more: Unpack[EncodeOptions],
) -> bytes:
    """A picture as the bytes of a `.lic` file.

    Args:
        image: a PIL image (L, LA, RGB, RGBA, or a mode that converts to them without loss of meaning), a
            uint8 array H x W or H x W x C, or a tensor C x H x W, uint8 or float in 0..1; C from 1 to 4. With
            `lossless` also uint16 arrays and tensors, and the modes I;16 and I (numbers 0..65535).
        codec: token of the codec; `list_codecs` lists them.
        quality: 0..100, whole or not; 100 is the codec's best, not lossless; 75 where nothing is said.
        device: "auto", "cpu", "cuda" or "cuda:N"; None is what `register` set, LICODEC_DEVICE, or "auto".
        threads: on how many threads networks run in this call, and in no other; None is what `register` set,
            LICODEC_THREADS, or as many as torch is set to.
        weights: a weights file or folder to use instead of the installed ones.
        download: "auto" fetches known weights that are not on this machine, "never" does not; None is what
            `register` set, LICODEC_DOWNLOAD, or "auto".
        stages: a dict that receives milliseconds by stage, added to what is there
            (pixels, network, exact, entropy, container).
        target_size: the most bytes that the whole file may have, instead of a quality; target_bpp: the same
            in bits a pixel. The best quality that fits is found by coding, some five times.
        target_psnr: the least PSNR in dB over 8-bit samples; the smallest file that has it.
        strict: whether a target that this picture can't meet is an error; else the nearest file is given.
        lossless: keep every sample, with a lossless codec: `codec` if it is one, else pilc. Images whose
            samples would have to be converted with a loss are refused by name.
        digest: store a BLAKE2b-128 of all samples, alpha with them, which decoding verifies; with a lossless
            codec only.
        order: with fhic, "one-step", "checkerboard" or "serial": the order in which latents are coded. None
            is checkerboard. serial takes some five times as long, both ways, and its weights are a tag of
            their own.
        tune: with fhic, "psnr" or "ms-ssim": what the file is made good by. ms-ssim takes weights of a tag of
            their own, trained for that measure, at effort 1 alone; None is psnr.
        effort: 1..9: how long to look for a better file, which decodes as fast. With a lossy codec each step
            above 1 adds steps of descent on the picture's latents (docs/effort.md); None is 1. With a
            lossless one up to 3 without networks, which is fast; from 4 on with them; 9 codes in every way
            and keeps the smallest; None is 5.
        tile_modes: with pilc, how parts of photographs may be coded: of "lattice", "lattice0" and "threeway",
            separated by commas. None is what the effort takes.
        icc_profile, exif, xmp: bytes to store instead of what the image carries in `info`, exif also as
            PIL.Image.Exif; None or b"" stores none. The orientation comes from the EXIF that is stored, else
            from the image, and survives everything else.
        dpi: pixels an inch (across, down) to store instead of the image's; None stores none.
        strip: drop the metadata that the image carries; what is given beside it is stored.

    Raises:
        UsageError: a wrong argument, by name (also a ValueError or TypeError).
        WeightsError: the weights are not there or damaged.
    """
    goal = targets.chosen({"quality": quality, **more})
    codec = codec_for(codec, lossless=options.check("lossless", more.get("lossless")))
    order = options.check("order", more.get("order"))
    request = _encode_request(codec, weights, download, order, more.get("tune"))
    refuse_unfit(codec, {"quality": quality, **more})
    place = _Place.chosen(device, threads)
    picture = _picture(image, codec, options.metadata(more), stages)
    with place.resolved().entered() as resolved:
        loaded, digest = CACHE.get(request, resolved), bool(more.get("digest"))
        return _encode(loaded, picture, goal, stages, _wish(codec, more), digest, _header_order(order))


def save(
    image: Image,
    path: str | os.PathLike[str],
    *,
    codec: str = "fhic",
    quality: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: str | None = None,
    **more: Unpack[EncodeOptions],
) -> None:
    """Encode a picture into a file: whole or not at all, whatever happens in between.

    Arguments and errors as of `encode`; OSError where the file can't be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageTypeError(f"path: expected a path, got {type(path).__name__}", argument="path")
    data = encode(
        image,
        codec=codec,
        quality=quality,
        device=device,
        threads=threads,
        weights=weights,
        download=download,
        **more,
    )
    write_atomic(path, data)


def _encode_request(
    codec: str,
    weights: str | os.PathLike[str] | None,
    download: str | None,
    order: str | None = None,
    tune: str | None = None,
) -> Request:
    token = options.check("codec", codec)
    entry = CODECS.get(token)
    if entry is None:
        raise UsageValueError(f"codec: expected one of {', '.join(CODECS)}, got {token!r}", argument="codec")
    wanted, tune = _header_order(order), options.check("tune", tune)
    tag = entry.default_tag if wanted is None else entry.order_tags.get(wanted, entry.default_tag)
    if tune is not None and entry.tune_tags:
        if tag != entry.default_tag and entry.tune_tags[tune] != entry.default_tag:
            raise UsageValueError(
                f"tune: there are no weights for {tune} in decode order {order}; leave one of the two out",
                argument="tune",
            )
        tag = tag if entry.tune_tags[tune] == entry.default_tag else entry.tune_tags[tune]
    return Request(
        token,
        tag,
        path=options.check("weights", weights),
        download=options.setting("download", download).value,
    )


def _header_order(order: Any) -> Order | None:
    """What HEAD says of an order as the options name it."""
    name = options.check("order", order)
    return None if name is None else options.ORDERS[name]


def codec_for(codec: Any, *, lossless: bool) -> str:
    """The codec for a picture: the one named, or a lossless one instead where that is wanted."""
    token: str = options.check("codec", codec)
    entry = CODECS.get(token)
    return LOSSLESS if lossless and entry is not None and not entry.lossless else token


def refuse_unfit(codec: str, given: Mapping[str, Any]) -> None:
    """Refuse a quality or a target for a lossless codec, and what only such a one knows for others."""
    named = [name for name in ("quality", *targets.TARGETS) if given.get(name) is not None]
    entry = CODECS.get(codec)
    if entry is None:
        return  # whoever looks for its weights says so
    lossless = entry.lossless
    if named and lossless:
        raise UsageValueError(f"{named[0]}: {codec} is lossless and takes none; leave it out", named[0])
    if options.check("digest", given.get("digest", False)) and not lossless:
        raise UsageValueError(
            f"digest: {codec} is lossy, so its samples are not those of the picture; use lossless=True",
            argument="digest",
        )
    if options.check("order", given.get("order")) is not None and not entry.order_tags:
        raise UsageValueError(f"order: {codec} has one decode order; leave the option out", argument="order")
    if options.check("tune", given.get("tune")) is not None and not entry.tune_tags:
        raise UsageValueError(f"tune: {codec} has nothing to tune; leave the option out", argument="tune")
    options.check("effort", given.get("effort"))
    if options.check("tile_modes", given.get("tile_modes")) is not None and not lossless:
        raise UsageValueError(
            f"tile_modes: {codec} knows none in this version; leave it out, or use lossless=True",
            argument="tile_modes",
        )


_Wish: TypeAlias = LosslessWish | LossyWish


def _wish(codec: str, more: Mapping[str, Any]) -> _Wish:
    """How a codec is to code, but for the digest; of options that were checked."""
    effort, modes = more.get("effort"), more.get("tile_modes")
    if not codec_entry(codec).lossless:
        return USUALLY if effort is None else LossyWish(int(effort))
    chosen = None if modes is None else frozenset(modes.split(","))
    return LosslessWish(modes=chosen) if effort is None else LosslessWish(effort=int(effort), modes=chosen)


def _picture(image: Any, codec: str, wanted: Mapping[str, Any], stages: Stages | None) -> Picture:
    with _timed(stages, "pixels"):
        entry = codec_entry(codec)
        if entry.lossless:
            check_lossless(image)
        return to_picture(image, wanted, depths=entry.depths)


def _encode(
    loaded: Loaded,
    picture: Picture,
    goal: targets.Goal,
    stages: Stages | None,
    wish: _Wish,
    digest: bool,
    order: Order | None,
) -> bytes:
    chunks = picture.metadata
    if picture.alpha is not None:
        from licodec import alpha

        with _timed(stages, "alpha"):
            chunks = (*chunks, alpha.encode(picture.alpha))
            if not codec_entry(loaded.ref.codec).lossless:
                planes = alpha.without_hidden(picture.planes, picture.alpha)
                picture = dataclasses.replace(picture, planes=planes)
    picture = dataclasses.replace(picture, metadata=chunks)

    shared: Shared | None = None if goal.target is None else {}
    if digest and isinstance(wish, LosslessWish):
        with _timed(stages, "digest"):
            wish = dataclasses.replace(wish, digest=picture.digest())

    def code(rate: int) -> bytes:
        return _coded(loaded, picture, rate, stages, shared, wish, order)

    def likeness(data: bytes) -> float:
        return psnr(picture.planes, loaded.model.decode(lic_format.container.read(data)).planes)

    return goal.met(code, likeness, picture.width * picture.height)


def _warm_up(loaded: Loaded) -> LicFile:
    import numpy as np

    samples = np.full((WARM_UP_SIDE, WARM_UP_SIDE, 3), 128, np.uint8)
    if codec_entry(loaded.ref.codec).lossless:
        _lossless(loaded).compile()
        samples += np.indices(samples.shape, np.uint8).sum(0, dtype=np.uint8) * 7 % 30
    picture = Picture(samples)
    wish = _wish(loaded.ref.codec, {})
    file = lic_format.container.read(
        _coded(loaded, picture, options.rate_index(options.DEFAULT_QUALITY), None, None, wish)
    )
    loaded.model.decode(file)
    return file


def _coded(
    loaded: Loaded,
    picture: Picture,
    rate: int,
    stages: Stages | None,
    shared: Shared | None,
    wish: _Wish,
    order: Order | None = None,
) -> bytes:
    ref = loaded.ref
    if isinstance(wish, LosslessWish):
        coded = _lossless(loaded).encode(picture, rate=rate, stages=stages, shared=shared, wish=wish)
    else:
        lossy = cast("LossyModel", loaded.model)
        coded = lossy.encode(picture, rate=rate, order=order, stages=stages, shared=shared, wish=wish)
    flags = Flag.LOSSLESS if codec_entry(ref.codec).lossless else Flag(0)
    if picture.alpha is not None:
        flags |= Flag.ALPHA
    head = Head(
        width=picture.width,
        height=picture.height,
        colour=Colour.GREY if picture.grey else Colour.RGB,
        depth=Depth(picture.depth),
        flags=flags,
        orientation=picture.orientation,
        codec=ref.codec,
        tag=ref.tag,
        decode_digest=ref.decode_digest,
        synthesis_digest=ref.synthesis_digest,
        **coded.head_fields,
    )
    with _timed(stages, "container"):
        return lic_format.container.write(LicFile(head=head, metadata=picture.metadata, units=coded.units))


# --- decode ---------------------------------------------------------------------------------------


class Decoder:
    """Decodes `.lic` files with weights that stay loaded, those of every file it has seen.

    Args:
        device, threads, download: as in `decode`; what is not given is settled here, once for all calls.
        weights: a weights file or folder to use instead of the installed ones.
        decoder: as in `decode`.

    Pickles as its configuration.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        threads: int | None = None,
        weights: str | os.PathLike[str] | None = None,
        download: str | None = None,
        decoder: str = "fast",
    ) -> None:
        self._given = (device, threads, download)
        self._decoder: str = options.check("decoder", decoder)
        self._weights: str | None = options.check("weights", weights)
        self._download = options.setting("download", download).value
        self._place = _Place.chosen(device, threads).resolved()
        # A model outlives its place in the process-wide cache here. As many as there are installed weights.
        self._held: dict[Request, Loaded] = {}

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a path, not a list of files
        self, data: Source, *, output: Literal["pil"] = "pil", max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> PIL.Image.Image: ...  # fmt: skip
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a path, not a list of files
        self, data: Source, *, output: Literal["numpy"], max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> Array: ...  # fmt: skip
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a path, not a list of files
        self, data: Source, *, output: Literal["torch"], max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> torch.Tensor: ...  # fmt: skip
    @overload
    def __call__(
        self, data: Sequence[Source], *, output: Literal["pil"] = "pil", max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> list[PIL.Image.Image]: ...  # fmt: skip
    @overload
    def __call__(
        self, data: Sequence[Source], *, output: Literal["numpy"], max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> list[Array]: ...  # fmt: skip
    @overload
    def __call__(
        self, data: Sequence[Source], *, output: Literal["torch"], max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> list[torch.Tensor]: ...  # fmt: skip

    def __call__(
        self, data: Any, *, output: str = "pil", max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None, reduce: int = 1, region: Rectangle | None = None,
        stages: Stages | None = None,
    ) -> Any:  # fmt: skip
        """The picture of a file, or the pictures of a list of files. Arguments and errors as of `decode`."""
        wanted = _Wanted.checked(output, reduce, region, max_pixels, max_pixels_per_byte)
        with self._place.entered() as device:
            if isinstance(data, list | tuple):
                return [self._decode(one, device, wanted, stages) for one in data]
            return self._decode(data, device, wanted, stages)

    def _decode(self, data: Any, device: str, wanted: _Wanted, stages: Stages | None) -> Any:
        file = _read(data, wanted, stages)
        decoder = _decoder_for(file.head, self._decoder, wanted)
        request = _decode_request(file.head, self._weights, self._download, decoder)
        loaded = self._held.get(request)
        if loaded is None:
            loaded = self._held.setdefault(request, CACHE.get(request, device))
        return _decode(loaded, file, wanted, stages)

    def warm_up(self, codec: str = "fhic") -> None:
        """Load the weights that a codec encodes with and decode a small picture, so that the first file of a
        caller's takes no longer than those after it. Errors as of `Encoder`."""
        with self._place.entered() as device:
            loaded = CACHE.get(_encode_request(codec, self._weights, self._download), device)
            file = _warm_up(loaded)
            self._held.setdefault(_decode_request(file.head, self._weights, self._download), loaded)
            if self._decoder != "fast":
                self._decode(lic_format.container.write(file), device, _Wanted.checked("numpy"), None)

    def __repr__(self) -> str:
        return f"Decoder(device={self._place.device!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored_decoder, (*self._given, self._weights, self._decoder)


def _restored_decoder(
    device: str | None, threads: int | None, download: str | None, weights: str | None, decoder: str
) -> Decoder:
    return Decoder(device=device, threads=threads, weights=weights, download=download, decoder=decoder)


@overload
def decode(
    data: Source, *, output: Literal["pil"] = "pil", device: str | None = None, threads: int | None = None,
    weights: str | os.PathLike[str] | None = None, download: str | None = None, decoder: str = "fast",
    max_pixels: int | None = None, max_pixels_per_byte: int | None = None, reduce: int = 1,
    region: Rectangle | None = None, stages: Stages | None = None,
) -> PIL.Image.Image: ...  # fmt: skip
@overload
def decode(
    data: Source, *, output: Literal["numpy"], device: str | None = None, threads: int | None = None,
    weights: str | os.PathLike[str] | None = None, download: str | None = None, decoder: str = "fast",
    max_pixels: int | None = None, max_pixels_per_byte: int | None = None, reduce: int = 1,
    region: Rectangle | None = None, stages: Stages | None = None,
) -> Array: ...  # fmt: skip
@overload
def decode(
    data: Source, *, output: Literal["torch"], device: str | None = None, threads: int | None = None,
    weights: str | os.PathLike[str] | None = None, download: str | None = None, decoder: str = "fast",
    max_pixels: int | None = None, max_pixels_per_byte: int | None = None, reduce: int = 1,
    region: Rectangle | None = None, stages: Stages | None = None,
) -> torch.Tensor: ...  # fmt: skip


def decode(
    data: Source,
    *,
    output: str = "pil",
    device: str | None = None,
    threads: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    download: str | None = None,
    decoder: str = "fast",
    max_pixels: int | None = None,
    max_pixels_per_byte: int | None = None,
    reduce: int = 1,
    region: Rectangle | None = None,
    stages: Stages | None = None,
) -> Any:
    """The picture of a `.lic` file.

    Args:
        data: the file's bytes, a path, or a binary file object (read to its end, or sought there).
        output: "pil" (mode L, LA, RGB, RGBA or I;16, metadata in `info`), "numpy" (uint8 H x W or H x W x C)
            or "torch" (uint8 C x H x W, on the CPU); C is 1 (grey), 2 (and alpha), 3 (RGB) or 4 (and alpha).
            Pictures of 16 bits give uint16; "pil" has a mode only for grey ones without alpha.
        device: "auto", "cpu", "cuda" or "cuda:N"; None is what `register` set, LICODEC_DEVICE, or "auto".
        threads, download: as in `encode`.
        weights: a weights file or folder to use instead of the installed ones; its digest must fit.
        decoder: "fast", or "best": with a wider synthesis, whose weights are no part of the package (licodec
            weights), closer to the picture in more time. The symbols are the same; so are the samples of
            lossless and of reduced pictures.
        max_pixels: refuse larger pictures; None is LICODEC_MAX_PIXELS, or 2^28.
        max_pixels_per_byte: refuse files that ask for more pixels per byte of payload; None is 65536.
        reduce: 1, 4, 8 or 16: decode to that part of the size, sides rounded up, in less time.
        region: (x0, y0, x1, y1), columns x0 to x1 - 1 of rows y0 to y1 - 1 as they are stored, before
            orientation: decode that rectangle, the same samples as there in the whole picture. Lossless files
            are read and checked only where it lies, without their digest; others as a whole. Limits count for
            the whole picture. With `reduce` its sides are multiples of that, or the picture's.
        stages: receives milliseconds by stage.

    Raises:
        FormatError: the bytes are not a valid `.lic` file; says where and what.
        UnsupportedError: valid, but newer than this version, of a codec that it doesn't have, or a picture
            that Pillow has no mode for.
        WeightsError: the weights that the file names are not there or damaged.
        UsageError: a wrong argument, by name. OSError: the path can't be read.
    """
    wanted = _Wanted.checked(output, reduce, region, max_pixels, max_pixels_per_byte)
    place = _Place.chosen(device, threads)
    path = options.check("weights", weights)
    policy = options.setting("download", download).value
    wish = options.check("decoder", decoder)
    file = _read(data, wanted, stages)
    request = _decode_request(file.head, path, policy, _decoder_for(file.head, wish, wanted))
    with place.resolved().entered() as resolved:
        loaded = CACHE.get(request, resolved)
        return _decode(loaded, file, wanted, stages)


load = decode
"""The picture of a file on disk: `decode`, named after its counterpart `save`."""


@dataclass(frozen=True)
class _Wanted:
    """What a caller wants of a file: options of decoding, checked."""

    output: str
    reduce: int
    region: Region | None
    max_pixels: int | None
    max_pixels_per_byte: int | None

    @classmethod
    def checked(
        cls,
        output: Any,
        reduce: Any = 1,
        region: Any = None,
        max_pixels: int | None = None,
        max_pixels_per_byte: int | None = None,
    ) -> Self:
        return cls(
            options.check("output", output),
            options.check("reduce", reduce),
            options.check("region", region),
            options.check("max_pixels", max_pixels),
            options.check("max_pixels_per_byte", max_pixels_per_byte),
        )

    def area(self, head: Head) -> Area | None:
        """The region in a picture, if one is wanted; UsageValueError where it doesn't lie there."""
        if self.region is None:
            return None
        return area_of(self.region, head.width, head.height, self.reduce)


def _read(data: Any, wanted: _Wanted, stages: Stages | None) -> LicFile | Part:
    """The file, or what is needed for a region of it, after every check that needs no weights."""
    with _timed(stages, "container"):
        if wanted.region is None:
            file: LicFile | Part = lic_format.container.read(_bytes_of(data), max_pixels=wanted.max_pixels)
        else:
            file = _read_part(data, wanted)
        head = file.head
        cap = wanted.max_pixels_per_byte
        cap = lic_format.limits.MAX_PIXELS_PER_BYTE if cap is None else cap
        lic_format.limits.check_density(head.width, head.height, file.payload_bytes, cap)
        entry = codec_entry(head.codec)
        if head.depth not in entry.depths:
            raise UnsupportedError(
                f"pictures of mode {mode_of(head)} are not supported by {head.codec} of this version"
            )
        if isinstance(file, LicFile):
            entry.precheck(head, file.units)
        elif entry.regions:
            entry.regions.precheck(file)
    return file


def _read_part(data: Any, wanted: _Wanted) -> LicFile | Part:
    """What is needed for a region: of a codec that decodes parts of a picture only these."""

    def units(head: Head) -> Container[int]:
        area = wanted.area(head)
        entry = CODECS.get(head.codec)
        return entry.regions.units(head, area) if entry and entry.regions and area else _ALL

    with contextlib.ExitStack() as opened:
        if isinstance(data, str | os.PathLike):
            source: Any = opened.enter_context(open(data, "rb"))
        elif isinstance(data, io.TextIOBase) or not getattr(data, "seekable", bool)():
            source = _bytes_of(data)
        else:
            source = data
        part = lic_format.container.read_part(source, units, max_pixels=wanted.max_pixels)
    if codec_entry(part.head.codec).regions:
        return part
    return LicFile(part.head, part.metadata, tuple(unit for _, unit in part.units))


_ALL = range(sys.maxsize)


def _decode_request(head: Head, path: str | None, download: store.Download, decoder: str = "fast") -> Request:
    return Request(head.codec, head.tag, head.decode_digest, head.synthesis_digest, path, download, decoder)


def _decoder_for(head: Head, wish: str, wanted: _Wanted) -> str:
    """The decoder that a file is decoded with: the one asked for where it makes other pixels.

    Raises:
        UsageValueError: its codec has none of that name.
    """
    entry = codec_entry(head.codec)
    if entry.lossless or (wanted.reduce != 1 and wanted.reduce in entry.reductions):
        return "fast"
    if wish != "fast" and wish not in entry.alternates:
        raise UsageValueError(f"decoder: {head.codec} has fast only, got {wish!r}", argument="decoder")
    return wish


def _decode(loaded: Loaded, file: LicFile | Part, wanted: _Wanted, stages: Stages | None) -> Any:
    head, area = file.head, wanted.area(file.head)
    plane = _alpha(file, area, stages)
    if isinstance(file, Part):
        assert area is not None
        picture = _lossless(loaded).decode_region(file, area, stages=stages)
    elif wanted.reduce in reductions(head.codec):
        picture = loaded.model.decode(file, reduce=wanted.reduce, stages=stages)
    else:
        picture = loaded.model.decode(file, stages=stages)
    picture = dataclasses.replace(picture, orientation=head.orientation, metadata=file.metadata)
    whole = isinstance(file, LicFile)
    if area is None:
        _check_digest(head, dataclasses.replace(picture, alpha=plane), stages)
    with _timed(stages, "pixels"):
        planes = picture.planes
        if wanted.reduce not in reductions(head.codec):
            planes = planes[area] if area and whole else planes
            planes = reduced(planes, wanted.reduce)
        elif area:
            planes = planes[shrunk(area, wanted.reduce)]
        plane = None if plane is None else reduced(plane[:, :, None], wanted.reduce)[:, :, 0]
        return from_picture(dataclasses.replace(picture, planes=planes, alpha=plane), wanted.output)


def _alpha(file: LicFile | Part, area: Area | None, stages: Stages | None) -> Array | None:
    chunk = file.find("ALPH")
    if chunk is None:
        return None
    from licodec import alpha

    shape = (file.head.height, file.head.width)
    with _timed(stages, "alpha"):
        if area is None:
            return alpha.decode(chunk, shape, file.head.depth)
        return alpha.decode_area(chunk, shape, file.head.depth, area)


def _check_digest(head: Head, picture: Picture, stages: Stages | None) -> None:
    """FormatError where a lossless file names its picture and this is another one."""
    entry = codec_entry(head.codec)
    if not entry.lossless:
        return
    said = entry.read_side_info(head.side_info).get("digest")
    if not said:
        return
    with _timed(stages, "digest"):
        found = picture.digest()
    if found != said:
        raise FormatError(
            f"the samples have the BLAKE2b-128 {found.hex()}, the file says {said.hex()}: damaged",
            chunk="HEAD",
        )


def _lossless(loaded: Loaded) -> LosslessModel:
    """The model of a codec whose entry says lossless."""
    return cast("LosslessModel", loaded.model)


def _bytes_of(data: Any) -> bytes | memoryview:
    if isinstance(data, bytes | memoryview):
        return data
    if isinstance(data, bytearray):
        return bytes(data)
    if isinstance(data, str | os.PathLike):
        return Path(data).read_bytes()
    if callable(getattr(data, "read", None)):
        content = data.read()
        if isinstance(content, bytes):
            return content
        raise _not_a_source(f"a file object whose read() gives {type(content).__name__}")
    raise _not_a_source(type(data).__name__)


def _not_a_source(found: str) -> UsageTypeError:
    return UsageTypeError(
        f"data: expected bytes, a path or a binary file object, got {found}", argument="data"
    )


# --- inspect --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Info:
    """What a file says about itself before its first byte of payload.

    Attributes:
        width, height: stored pixels, before orientation.
        mode: what Pillow calls such pixels: "L", "RGB", "I;16"; with ";16" behind it also where Pillow has no
            such mode.
        depth: bits a sample.
        orientation: EXIF's 1..8.
        codec, tag: which codec, and which of its weights.
        quality: 0..100, whole or to one decimal, as the rate index says it; None where the picture is
            lossless.
        rate, order: rate index 0..255 and decode order as in the header.
        lossless, alpha: flags.
        alpha_bytes: of the alpha plane, coded; 0 where there is none.
        decode_digest, synthesis_digest: hexadecimal.
        side_info: the codec's own fields; None where this version doesn't know the codec.
        metadata: bytes of every metadata chunk, by type.
        version: of the container.
    """

    version: int
    width: int
    height: int
    mode: str
    depth: int
    orientation: int
    codec: str
    tag: str
    quality: float | None
    rate: int
    order: int
    lossless: bool
    alpha: bool
    alpha_bytes: int
    decode_digest: str
    synthesis_digest: str
    side_info: dict[str, Any] | None
    metadata: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def inspect(data: Source) -> Info:
    """What the header says, without torch, NumPy, weights or payload.

    Args:
        data: bytes, a path, or a binary file object; a seekable one is put back where it stood.

    Raises:
        FormatError: the header is not valid. UnsupportedError: it is newer than this version. OSError: no
            such file.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return _info(io.BytesIO(data))
    if isinstance(data, str | os.PathLike):
        with open(data, "rb") as file:
            return _info(file)
    if not callable(getattr(data, "read", None)):
        raise _not_a_source(type(data).__name__)
    position = data.tell() if data.seekable() else None
    try:
        return _info(data)
    finally:
        if position is not None:
            data.seek(position)


def _info(file: BinaryIO) -> Info:
    head, metadata = lic_format.container.read_head(file)
    entry = CODECS.get(head.codec)
    return Info(
        version=head.version,
        width=head.width,
        height=head.height,
        mode=mode_of(head),
        depth=int(head.depth),
        orientation=head.orientation,
        codec=head.codec,
        tag=head.tag,
        quality=None if head.lossless else options.quality_of(head.rate),
        rate=head.rate,
        order=int(head.order),
        lossless=head.lossless,
        alpha=head.alpha,
        alpha_bytes=read_varint(file.read(VARINT_BYTES), 0)[0] if head.alpha else 0,
        decode_digest=head.decode_digest.hex(),
        synthesis_digest=head.synthesis_digest.hex(),
        side_info=_side_info(entry, head),
        metadata={chunk.type: len(chunk.payload) for chunk in metadata},
    )


def _side_info(entry: CodecEntry | None, head: Head) -> dict[str, Any] | None:
    if entry is None:
        return None
    values = entry.read_side_info(head.side_info)
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def mode_of(head: Head) -> str:
    """What Pillow calls such pixels; LA, RGB and RGBA of 16 bits have no name there."""
    deep = ";16" if head.depth == Depth.BITS_16 else ""
    if head.colour == Colour.GREY:
        return f"LA{deep}" if head.alpha else f"I{deep}" if deep else "L"
    return f"{'RGBA' if head.alpha else 'RGB'}{deep}"


def no_mode(head: Head) -> str:
    """What is to be said of a picture that Pillow has no mode for."""
    return no_mode_for(mode_of(head).partition(";")[0])


# --- codecs, cache, place, time -------------------------------------------------------------------


@dataclass(frozen=True)
class CodecInfo:
    """A codec of this version: its token in files, what it is, the tag of the weights it encodes with."""

    token: str
    title: str
    tag: str


def list_codecs() -> list[CodecInfo]:
    """The codecs of this version, the default one first; loads none of them."""
    return [CodecInfo(entry.token, entry.title, entry.default_tag) for entry in CODECS.values()]


def reductions(codec: str) -> tuple[int, ...]:
    """To which parts of its size a codec decodes a picture in less time; none of a codec that isn't known."""
    entry = CODECS.get(codec)
    return entry.reductions if entry else ()


def clear_cache() -> None:
    """Forget the models that `encode` and `decode` keep loaded in this process."""
    CACHE.clear()


@dataclass(frozen=True)
class _Place:
    """Where networks run: a device, wanted by whom, and a number of threads."""

    device: str
    source: str
    threads: int | None

    @classmethod
    def chosen(cls, device: str | None, threads: int | None) -> Self:
        wanted = options.setting("device", device)
        return cls(wanted.value, wanted.source, options.setting("threads", threads).value)

    def resolved(self) -> Self:
        """With a device of this machine; may import torch, so that everything else is checked before it."""
        return dataclasses.replace(self, device=resolve_device(self.device, self.source))

    @contextlib.contextmanager
    def entered(self) -> Iterator[str]:
        """Be there, for the device: loading a model runs networks too."""
        with limited(CACHE.before_use(self.device, self.threads)):
            yield self.device


@contextlib.contextmanager
def _timed(stages: Stages | None, name: str) -> Iterator[None]:
    if stages is None:
        yield
        return
    start = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + (time.perf_counter() - start) * 1000.0

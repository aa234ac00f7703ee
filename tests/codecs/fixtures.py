"""Pictures, the model under test, and files of it without the SDK around them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lic_format
from lic_format import Head, LicFile, Unit
from lic_format.header import Colour, Order
from licodec import store
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.channel_skip import Channels, write_skipped
from licodec.codecs.contract import LossyModel, Stages, Timer
from licodec.codecs.registry import FHIC_SIDE_INFO
from licodec.entropy.coder import StreamEncoder
from licodec.entropy.schedule import positions
from licodec.entropy.tables import NOT_CODED
from licodec.images import Picture

Pixels = npt.NDArray[np.uint8]
Symbols = npt.NDArray[np.int16]
ORDERS = (0, 1)
TABLES = Path(cb.__file__).parents[1] / "entropy" / "tables" / "set1.bin"


def pixels(height: int, width: int, channels: int = 3, seed: int = 7) -> Pixels:
    """A uint8 picture H x W x C with gradients, edges, texture and noise; the same on every call."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [120 + 60 * np.sin((x + 9 * c + seed) / 11) + 50 * np.cos(y / (7 + c)) for c in range(channels)]
    picture = np.stack(planes, -1) + rng.normal(0, 1 + seed % 5 * 4, (height, width, channels))
    picture[(x + 2 * y) % 37 < 9] += 45
    out: Pixels = picture.clip(0, 255).astype(np.uint8)
    return out


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Models built inside use this type for their fast float nets."""
    before = os.environ.get("LICODEC_PRECISION")
    os.environ["LICODEC_PRECISION"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["LICODEC_PRECISION"]
        else:
            os.environ["LICODEC_PRECISION"] = before


def built(weights: store.Weights, name: str = "float32", exact: str = "auto") -> cb.Checkerboard:
    with precision(name):
        return cb.build(weights, "cpu", exact=exact)


def encoded(
    model: LossyModel,
    ref: store.WeightsRef,
    planes: Pixels,
    *,
    stages: Stages | None = None,
    **options: Any,
) -> LicFile:
    """A file as the SDK makes it of `Model.encode`."""
    made = model.encode(Picture(planes), stages=stages, **options)
    colour = Colour.GREY if planes.shape[2] == 1 else Colour.RGB
    return _file(ref, planes.shape[0], planes.shape[1], colour, made.units, **made.head_fields)


def coded(
    model: cb.Checkerboard,
    ref: store.WeightsRef,
    z: Symbols,
    q: Symbols,
    *,
    rate: int,
    order: int,
    skipped: Channels | None = None,
) -> LicFile:
    """A file of symbols that need not come from a picture: z [Z, h', w'], q [M, h, w]. What is not coded
    becomes zero in place."""
    h, w = q.shape[1:]
    skipped = np.zeros(len(q), np.bool_) if skipped is None else skipped
    scales = cb.Scales(model, z, h, w, rate, Order(order), model.exact.path, Timer(None), skipped)
    passes = [model._hyper_pass(z, rate)]
    for step in model.preset.passes:
        cells = positions(step, h, w)
        index = scales.index(step)
        flat = q[step.first : step.last].reshape(index.shape[0], -1)
        symbols = np.where(index == NOT_CODED, 0, flat[:, cells]).astype(np.int16)
        flat[:, cells] = symbols
        scales.settle(step, symbols)
        passes.append(layout.CodedPass(step, symbols, index))
    if order == Order.ONE_STEP:
        passes[1:] = [layout.CodedPass(step, q.reshape(len(q), -1), scales.everything)]
    stream = StreamEncoder(model.tables)
    for part in passes:
        stream.put(part.symbols.reshape(-1), part.index.reshape(-1))
    mode, channels = write_skipped(skipped)
    values = (1, 1, mode, 0, 0, channels)
    side_info = FHIC_SIDE_INFO.write(dict(zip(FHIC_SIDE_INFO.names, values, strict=True)))
    size = (q.shape[1] * layout.CELL, q.shape[2] * layout.CELL)
    units = (Unit(0, b"", stream.finish()),)
    return _file(ref, *size, Colour.RGB, units, rate=rate, order=Order(order), side_info=side_info)


def _file(
    ref: store.WeightsRef, height: int, width: int, colour: Colour, units: tuple[Unit, ...], **fields: Any
) -> LicFile:
    head = Head(
        width=width,
        height=height,
        colour=colour,
        codec=ref.codec,
        tag=ref.tag,
        decode_digest=ref.decode_digest,
        synthesis_digest=ref.synthesis_digest,
        **fields,
    )
    return lic_format.read(lic_format.write(LicFile(head, units=units)))


def with_body(file: LicFile, body: bytes) -> LicFile:
    return LicFile(file.head, units=(Unit(0, b"", body),))


def psnr(first: Pixels, second: Pixels) -> float:
    """dB; 99 where nothing differs."""
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))

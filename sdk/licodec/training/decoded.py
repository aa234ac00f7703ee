"""Decoded latents of training crops, kept on disk: what a synthesis learns from while all else stands still.

They are what the exported encoder of a weights file chooses and its decoder hands to the synthesis, so a
crop is coded once and learnt from as often as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.checkerboard_fixed import FixedCheckerboard
from licodec.codecs.contract import Timer
from licodec.exact import fixed_point
from licodec.exact.layers import interpolate_knots
from licodec.training.data import DRAWN_SHARE, Crops, Pixels
from licodec.training.loop import take_half

ENDS = 6
"""Rate indices drawn beyond either end, which become the end: it has neighbours on one side only."""


def decoded_latents(
    codec: cb.Checkerboard, pixels: Pixels, rate: int, looks: FixedCheckerboard | None = None
) -> Tensor:
    """Latents in bounded units that a picture uint8 [H, W, 3] decodes to, float32 [1, M, h, w]; `looks`: the
    same weights in compiled loops, which search for them as usual, in pictures of whole cells."""
    if looks is not None:
        planes, timer, order = np.ascontiguousarray(pixels), Timer(None), Order.CHECKERBOARD
        with fixed_point.helped():
            proposal = looks._searched(planes, rate, order, timer, None, looks.usual_effort())
            found, _ = looks._walked(proposal, rate, order, timer)
            _, steps = looks._decoded(found, rate, timer)
        values = np.divide(steps.inner, looks.synthesis.per_latent, dtype=np.float32)
        return torch.from_numpy(values).permute(2, 0, 1)[None]
    blocks = codec._to_input(np.ascontiguousarray(pixels))
    symbols, _ = codec._symbols(blocks, rate, codec.default_order, Timer(None))
    with torch.inference_mode():
        return codec._decoded(symbols, rate)[0].clone()


def coefficient_scale(codec: cb.Checkerboard, rate: Tensor) -> Tensor:
    """What makes latents in bounded units coefficients in units of pixels, [B, M, 1, 1]."""
    gain, inverse = (torch.exp(interpolate_knots(knots, rate)) for knots in (codec.gain, codec.inverse_gain))
    return (cb.density(gain) * inverse)[:, :, None, None]


@dataclass(frozen=True)
class Batch:
    """Crops with what they decode to.

    Attributes:
        rate: rate indices [B]. latents: float32 [B, M, h, w], bounded units. blocks: the crops as
        `to_blocks` gives them. error: mean squared error [B] of the codec's own synthesis.
    """

    rate: Tensor
    latents: Tensor
    blocks: Tensor
    error: Tensor


@dataclass(frozen=True)
class Decoded:
    """Crops with their decoded latents, mapped from files.

    Attributes:
        rate: int64 [N]. latents: float16 [N, h, w, M]. pixels: uint8 [N, 16 h, 16 w, 3]. error: float32 [N].
    """

    rate: npt.NDArray[np.int64]
    latents: npt.NDArray[np.float16]
    pixels: Pixels
    error: npt.NDArray[np.float32]

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Batch]:
        """Random batches without an end, each spread over all rates."""
        by_rate = np.array_split(np.argsort(self.rate, kind="stable"), size)
        while True:
            yield self.batch(np.array([rng.choice(part) for part in by_rate]))

    def batch(self, chosen: npt.NDArray[np.intp]) -> Batch:
        latents = torch.from_numpy(np.stack([self.latents[i] for i in chosen]))
        return Batch(
            torch.from_numpy(self.rate[chosen]),
            latents.float().permute(0, 3, 1, 2),
            cb.to_blocks(torch.from_numpy(np.stack([self.pixels[i] for i in chosen]))),
            torch.from_numpy(self.error[chosen]),
        )


ARRAYS = ("rate", "latents", "pixels", "error")


def decoded_crops(
    codec: cb.Checkerboard,
    crops: Callable[[], Crops],
    folder: Path,
    *,
    count: int,
    side: int,
    seed: int,
    looks: FixedCheckerboard | None = None,
) -> Decoded:
    """`count` random crops of `side` pixels, a multiple of 16, at random rates, as many of them at half size
    as in training; read back from `folder` if an earlier call has written the same there.

    Args:
        crops: called when there is something to decode.
        folder: holds files of one codec; it may be deleted any time.
        looks: see `decoded_latents`.
    """
    done = folder / "done.json"
    facts = {"count": count, "side": side, "seed": seed, "effort": looks.usual_effort() if looks else 1}
    if not done.exists() or json.loads(done.read_text()) != facts:
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        _write(codec, looks, crops(), folder, count, side, seed)
        done.write_text(json.dumps(facts))
    return Decoded(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS))


def _write(
    codec: cb.Checkerboard,
    looks: FixedCheckerboard | None,
    crops: Crops,
    folder: Path,
    count: int,
    side: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    h = side // layout.CELL
    kinds = (
        ((count,), np.int64),
        ((count, h, h, codec.preset.latents), np.float16),
        ((count, side, side, 3), np.uint8),
        ((count,), np.float32),
    )
    rates, latents, pixels, errors = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in zip(ARRAYS, kinds, strict=True)
    )
    for i in range(count):
        rate = np.clip(rng.integers(-ENDS, 256 + ENDS, 1), 0, 255)
        crop = crops.draw(rng, side, take_half(rng, rate), DRAWN_SHARE)
        v = decoded_latents(codec, crop[0], int(rate[0]), looks).half()
        at = torch.from_numpy(rate)
        with torch.inference_mode():
            found = codec.synthesis(v.float(), coefficient_scale(codec, at), at)
            errors[i] = float(F.mse_loss(found, cb.to_blocks(torch.from_numpy(crop))))
        rates[i], latents[i], pixels[i] = rate[0], v[0].permute(1, 2, 0).numpy(), crop[0]
    for array in (rates, latents, pixels, errors):
        array.flush()

"""Teach what decodes with latents that an encoder searches for, while both move.

    python -m licodec.training.searched weights/fhic/s-1 RUN DATA/train --minutes 60

The latents of some crops are found with the looks of an effort (`codecs.checkerboard_look`) and kept below
--cache. Then every step takes a few of these crops, takes the gradient of what they cost by nets and by
latents at once, and moves both: the nets as ever, the latents as a look would. So latents stay near what a
search would find for the nets as they become; gains, the analysis and hyper-latents stand still. So do order
0 and reduced pictures, whose nets see what learns: `licodec.training.polish` makes up for it. Minutes are of
processor time. RUN/last.pt goes into `licodec.training.export` and is what --resume goes on from, beside
RUN/latents.npy; RUN/log.jsonl goes on from the log of the weights, an object a line.

The cost is that of `codecs.latent_descent`, bits + `WORTH` lambda 255^2 MSE, with symbols rounded in
what decodes and is coded, and the gradient at their expectations for what moves them, latents and means.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.codecs.checkerboard_layout import CELL
from licodec.codecs.checkerboard_look import FARTHEST, VARIANCE, WORTH
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.exact import fixed_point
from licodec.exact.layers import interpolate_knots
from licodec.store import load
from licodec.training.averaged import AveragedRun
from licodec.training.data import DRAWN_SHARE, Crops, Pixels, read_crops, to_input
from licodec.training.encoders import rate_change
from licodec.training.export import TAG_FILE, trained_model
from licodec.training.loop import (
    VALIDATION_RATES,
    parameter_groups,
    take_half,
    validation_pictures,
)
from licodec.training.objective import (
    TrainingModel,
    context_indices,
    index_bits,
    logistic_bits,
    rate_lambda,
    scale_features,
    value_of,
)

SIDE = 208
"""Pixels of a crop's side."""
BATCH = 8
LEARNING = ("twins.", "synthesis.", "means.")
STANDING = ("synthesis.preview.", "twins.direct_")
REACH = 0.12
"""How far latents go in a step, 1 being where the distortion would have its minimum with an orthonormal
synthesis and nothing else to pay for."""
SHARPNESS = 5.0
"""How steeply a value between two symbols is taken for the upper one, as `latent_descent.SHARPNESS`."""
ZERO_BELOW = 0.54
"""Searched latents lie near whole numbers; encoders take zero up to about here."""
SETTLING = 8
"""Steps of the latents alone, on pictures that nothing learns from, before the first validation."""
SETTLING_AGAIN = 4
"""And before each that follows."""


@dataclass(frozen=True)
class Searched:
    """Pictures with the latents that an encoder has found for them, in memory or mapped from files.

    Attributes:
        rate: int64 [N]. latents: float32 [N, h, w, M], before symbols are chosen, in units of symbols. hyper:
            int16 [N, Z, h', w']. pixels: uint8 [N, 16 h, 16 w, 3].
    """

    rate: npt.NDArray[np.int64]
    latents: npt.NDArray[np.float32]
    hyper: npt.NDArray[np.int16]
    pixels: Pixels

    def drawn(self, rng: np.random.Generator, size: int) -> Iterator[npt.NDArray[np.intp]]:
        """Numbers of random batches without an end, each spread over all rates."""
        by_rate = np.array_split(np.argsort(self.rate, kind="stable"), size)
        while True:
            yield np.array([rng.choice(part) for part in by_rate])

    def of(self, chosen: npt.NDArray[np.intp]) -> Searched:
        return Searched(*(np.stack([array[i] for i in chosen]) for array in self.arrays))

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.rate, self.latents, self.hyper, self.pixels


ARRAYS = ("rate", "latents", "hyper", "pixels")


def searched(
    codec: FixedCheckerboard, pictures: Sequence[Pixels], rates: Sequence[int], effort: int
) -> Searched:
    """Pictures of one size, whole cells, at these rates."""
    found = []
    for pixels, rate in zip(pictures, rates, strict=True):
        timer = Timer(None)
        with fixed_point.helped():
            of = codec._searched(np.ascontiguousarray(pixels), rate, Order.CHECKERBOARD, timer, None, effort)
        found.append((rate, of.s.inner.astype(np.float32), of.z, pixels))
    return Searched(*(np.stack(rows) for rows in zip(*found, strict=True)))


def searched_crops(
    codec: FixedCheckerboard, data: Path, cache: Path, folder: Path, *, count: int, effort: int, seed: int
) -> Searched:
    """`count` random crops at random rates, as many of them at half size as in training; read back from
    `folder` if an earlier call has written the same there."""
    done = folder / "done.json"
    facts = {"count": count, "effort": effort, "side": SIDE, "seed": seed}
    if not done.exists() or json.loads(done.read_text()) != facts:
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        rng, crops = np.random.default_rng(seed), Crops.load(data, cache)
        arrays: list[np.memmap[Any, Any]] = []
        for first in range(0, count, BATCH):
            rate = rng.integers(0, 256, BATCH)
            pixels = crops.draw(rng, SIDE, take_half(rng, rate), DRAWN_SHARE)
            few = searched(codec, list(pixels), rate.tolist(), effort)
            arrays = arrays or [
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", of.dtype, (count, *of.shape[1:]))
                for name, of in zip(ARRAYS, few.arrays, strict=True)
            ]
            for whole, part in zip(arrays, few.arrays, strict=True):
                whole[first : first + BATCH] = part
        for whole in arrays:
            whole.flush()
        done.write_text(json.dumps(facts))
    return Searched(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS))


def share_above(part: Tensor) -> Tensor:
    """With which probability a value this far above a symbol, 0..1, counts as the next one."""
    return 0.5 + torch.tanh((part - 0.5) * SHARPNESS) * (0.5 / math.tanh(SHARPNESS / 2))


def expected_slope(value: Tensor, index: Tensor, variance: Tensor) -> Tensor:
    """Of what values [B, M, h, w] between symbols are expected to cost, bits and what their variance adds,
    the derivative by each value."""
    low = value.floor()
    bend = torch.tanh((value - low - 0.5) * SHARPNESS)
    height = 0.5 / math.tanh(SHARPNESS / 2)
    p = 0.5 + bend * height
    more = index_bits(low + 1, index) - index_bits(low, index)
    return (more + variance * (1 - 2 * p)) * (1 - bend * bend) * (SHARPNESS * height)


def rounded(value: Tensor) -> Tensor:
    """About what encoders do to what a search has found."""
    return torch.where(value.abs() < ZERO_BELOW, 0, cb.round_half_up(value))


@dataclass
class Cost:
    """Of each picture [B]: bits a pixel, 255^2 MSE, and what has their gradients, `WORTH` lambda in it."""

    bits: Tensor
    error: Tensor
    whole: Tensor


class Pricing:
    """What latents cost in a training model, order 1."""

    def __init__(self) -> None:
        self.slope: Callable[[Tensor, Tensor, Tensor], Tensor] = expected_slope

    def compile(self) -> None:
        """Make loops of long chains of elementwise operations, where there is a C++ compiler."""
        if shutil.which("c++"):
            self.slope = torch.compile(expected_slope, dynamic=True)

    def __call__(self, model: TrainingModel, blocks: Tensor, y: Tensor, z: Tensor, rate: Tensor) -> Cost:
        gain, inverse = model.gains(rate)
        weight = WORTH * rate_lambda(rate) * 255**2
        area = 16 * blocks.shape[2] * blocks.shape[3]
        mean = interpolate_knots(model.prior_mean, rate)[:, :, None, None]
        scale = torch.exp(interpolate_knots(model.prior_scale, rate))[:, :, None, None]
        hyper = logistic_bits(z - mean, scale).sum((1, 2, 3)).detach()
        per_unit = cb.density(gain)
        means, expected, decoded = _walked(model, y, z, per_unit)
        value = y - means
        q = rounded(value.detach())
        nets = model.scale_nets(rate)
        with model.autocast(y):
            features = scale_features(nets, z, *y.shape[2:])
            index = context_indices(nets, model.preset, features, q).float()
        error_of = (weight[:, None, None, None] / 3 * inverse * inverse).detach()
        with torch.no_grad():
            slope = self.slope(value, index, VARIANCE * error_of)
        bits = model.prices.alone(q, index)
        moving = (slope * value).sum((1, 2, 3))
        with model.autocast(y):
            shown = model.synthesis(decoded / per_unit, per_unit * inverse, rate)
        mse = F.mse_loss(shown, blocks, reduction="none").mean((1, 2, 3))
        # the gradient at what is expected, from that at what is rounded, as an orthonormal synthesis has it
        apart = (error_of * (decoded - expected)).detach()
        pull = 2 * (apart * decoded).sum((1, 2, 3))
        whole = (value_of(bits, moving) + hyper) / area + weight * mse - (pull - pull.detach()) / area
        return Cost((bits.detach() + hyper) / area, 255**2 * mse.detach(), whole)


def _walked(model: TrainingModel, y: Tensor, z: Tensor, per_unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means, what latents are expected to decode to, and what they do decode to (with the gradient of
    what is expected), all [B, M, h, w] in units of symbols."""
    h, w = y.shape[2:]
    groups = list(model.preset.groups)
    parts, per_units = (torch.split(cb.rows_of(x), groups, 2) for x in (y, per_unit))
    means: list[Tensor] = []
    expectations: list[Tensor] = []

    def settle(step: Pass, mean: Tensor) -> Tensor:
        means.append(mean)
        place = cb.places(h, w, model.preset.depths[step.group], str(y.device))[step.number]
        per = per_units[step.group]
        value = parts[step.group].index_select(1, place.cells) - mean * per
        low = value.detach().floor()
        symbol = low + share_above(value - low)
        expectations.append((mean + symbol / per).detach())
        return mean + value_of(rounded(value.detach()), symbol) / per

    with model.autocast(y):
        decoded = model.means.walk(model.means.hyper(z)[:, :, :h, :w], settle)
    mean, expected = (cb.interleave(rows, model.preset, h, w) for rows in (means, expectations))
    return mean * per_unit, expected * per_unit, decoded * per_unit


class Run(AveragedRun[TrainingModel, "npt.NDArray[np.intp]"]):
    """What decodes of a training model learns, and the latents of crops move with it; gains and the encoder
    stand still."""

    VALIDATED_EVERY = 2

    def __init__(
        self,
        model: TrainingModel,
        crops: Searched,
        out: Path,
        *,
        minutes: float,
        learning_rate: float,
        seed: int,
    ) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNING) and not name.startswith(STANDING))
        groups = parameter_groups(model)
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        groups = [group for group in groups if group["params"]]
        self.start = copy.deepcopy(model).requires_grad_(False)
        super().__init__(model, groups, out, minutes=minutes, learning_rate=learning_rate, seed=seed)
        self.crops, self.price = crops, Pricing()
        self._moving: tuple[Searched, Tensor] | None = None

    def save(self, **more: Any) -> None:
        super().save(distortion=self.net.distortion, **more)

    def loss(self, batch: npt.NDArray[np.intp]) -> Tensor:
        few = self.crops.of(batch)
        loss, y = _loss(self.price, self.net, few)
        self._moving = few, y
        return loss

    def train_step(self, batch: npt.NDArray[np.intp]) -> float:
        value = super().train_step(batch)
        assert self._moving is not None
        few, y = self._moving
        self._moving = None
        for at, latents in zip(batch, _moved(self.net, few, y), strict=True):
            self.crops.latents[at] = latents
        return value

    def learn(self, held: Sequence[Searched]) -> None:
        """Until the minutes are used up.

        `held`: pictures that nothing learns from. Their latents move twice, for the nets as they are and for
        those that the run began with, as long each time, and what is logged compares the two.
        """
        apart, beside = list(held), list(held)

        def compared(model: TrainingModel, steps: int | None = None) -> dict[str, Any]:
            steps = SETTLING_AGAIN if steps is None else steps
            rows = []
            for net, pictures in ((self.start, apart), (model, beside)):
                pictures[:] = [settled(self.price, net, of, steps) for of in pictures]
                rows.append(validate(self.price, net, pictures))
            before, now = rows
            return {**now, "rates": VALIDATION_RATES, "rate_change": rate_change(now, before)}

        first = compared(self.average, SETTLING)
        self.log(start=True, learning_rate=self.top, of_minutes=self.minutes, **first)
        self.train(self.crops.drawn(self.rng, BATCH), compared)


def _inputs(batch: Searched) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.from_numpy(batch.latents).permute(0, 3, 1, 2).contiguous()
    return (
        to_input(batch.pixels, "cpu"),
        y,
        torch.from_numpy(batch.hyper).float(),
        torch.from_numpy(batch.rate),
    )


def _loss(price: Pricing, model: TrainingModel, batch: Searched) -> tuple[Tensor, Tensor]:
    """To be lowered, and the latents that it has a gradient by."""
    blocks, y, z, rate = _inputs(batch)
    y.requires_grad_(True)
    found = price(model, blocks, y, z, rate)
    return (found.whole * _share(rate)).mean(), y


def _share(rate: Tensor) -> Tensor:
    return (0.016 / rate_lambda(rate)).sqrt()


@torch.no_grad()
def _moved(model: TrainingModel, batch: Searched, y: Tensor) -> npt.NDArray[np.float32]:
    """Latents [B, h, w, M] one step further, from the gradient of `_loss` by them."""
    rate = torch.from_numpy(batch.rate)
    _, inverse = model.gains(rate)
    assert y.grad is not None
    pixels = CELL * CELL * y.shape[2] * y.shape[3]
    unit = len(rate) * pixels / _share(rate)
    curvature = 2 * (WORTH * rate_lambda(rate) * 255**2 / 3)[:, None, None, None] * inverse * inverse
    way = (y.grad * unit[:, None, None, None] / curvature).clamp(-FARTHEST, FARTHEST)
    moved: npt.NDArray[np.float32] = (y.detach() - REACH * way).permute(0, 2, 3, 1).contiguous().numpy()
    return moved


def settled(price: Pricing, model: TrainingModel, batch: Searched, steps: int) -> Searched:
    """Pictures of one rate after some steps of their latents alone."""
    rows = [batch.of(np.array([i])) for i in range(len(batch.rate))]
    for at, row in enumerate(rows):
        for _ in range(steps):
            loss, y = _loss(price, model, row)
            (y.grad,) = torch.autograd.grad(loss, y)
            row = replace(row, latents=_moved(model, row, y))
        rows[at] = row
    return Searched(*(np.concatenate(of) for of in zip(*(row.arrays for row in rows), strict=True)))


@torch.no_grad()
def validate(price: Pricing, model: TrainingModel, held: Sequence[Searched]) -> dict[str, list[float]]:
    """Means over the pictures of each rate: bits per pixel, PSNR, and the cost."""
    found: dict[str, list[float]] = {"bpp": [], "psnr": [], "cost": []}
    for batch in held:
        rows = [price(model, *_inputs(batch.of(np.array([i])))) for i in range(len(batch.rate))]
        bits, error = (
            np.array([float(value) for value in of])
            for of in ([row.bits for row in rows], [row.error for row in rows])
        )
        weight = WORTH * float(rate_lambda(torch.tensor(batch.rate[0])))
        found["bpp"].append(round(float(bits.mean()), 6))
        found["psnr"].append(round(float(np.mean(10 * np.log10(255**2 / error))), 4))
        found["cost"].append(round(float((bits + weight * error).mean()), 6))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, help="folder of the weights that encode and are learnt on from")
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0, help="of processor time")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--effort", type=int, default=3, help="with which crops are coded")
    parser.add_argument("--crops", type=int, default=2400, help=f"of {SIDE} pixels to learn from")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints/cache"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(wish.seed)
    base = load("fhic", wish.base.name, path=wish.base / TAG_FILE)
    codec = build(base)
    if codec is None:
        parser.error("looks need the compiled loops, which this processor or these nets don't suit")
    facts = f"{base.decode_digest.hex()[:16]}-{wish.effort}-{wish.crops}-{wish.seed}"
    crops = searched_crops(
        codec,
        wish.data,
        wish.cache,
        wish.cache / f"latents-{facts}",
        count=wish.crops,
        effort=wish.effort,
        seed=wish.seed,
    )
    own, of = wish.run / "latents.npy", wish.run / "latents.txt"
    resume = wish.resume and (wish.run / "last.pt").exists()
    if resume and not (of.exists() and of.read_text() == facts):
        parser.error(
            f"--resume: {wish.run} learns from other crops: give the weights, --effort, --crops and "
            "--seed that it began with"
        )
    if not resume:
        wish.run.mkdir(parents=True, exist_ok=True)
        np.save(own, crops.latents)
        of.write_text(facts)
        if (so_far := wish.base / "training.jsonl").exists():
            shutil.copy(so_far, wish.run / "log.jsonl")
    crops = replace(crops, latents=np.load(own, mmap_mode="r+"))
    pictures = validation_pictures(read_crops(wish.data, "val.jsonl")[::8])
    held = [searched(codec, pictures, [rate] * len(pictures), wish.effort) for rate in VALIDATION_RATES]
    model = trained_model(base)
    model.prices.compile("cpu")
    run = Run(model, crops, wish.run, minutes=wish.minutes, learning_rate=wish.learning_rate, seed=wish.seed)
    run.price.compile()
    if resume:
        run.restore()
    run.learn(held)


if __name__ == "__main__":
    main()

"""Last steps of training, on what stands still by then: cheap steps, so many of them in a few minutes.

    python -m licodec.training.polish order0 RUN OUT DATA/train --minutes 3 --learning-rate 3e-3
    python -m licodec.training.polish entropy RUN OUT DATA/train --minutes 7
    python -m licodec.training.polish synthesis RUN OUT DATA/train --weights weights/fhic/s-1 --minutes 6
    python -m licodec.training.polish preview RUN OUT DATA/train --weights weights/fhic/s-1 --minutes 4

order0       All else stands still. The two layers of order 0, which in training follow features that
             keep moving, learn from symbols that are computed once.
entropy      The transforms stand still. Means and scale nets learn from latents that are computed once, with
             the integer nets' fake quantisation on.
synthesis    The symbols stand still, chosen as the exported encoder of `--weights` (RUN's export) chooses
             them: the synthesis learns what pictures they are.
preview      The same for the net of reduced pictures, which no other training touches.

Both start from the averaged weights in RUN/last.pt and write OUT/last.pt, for `licodec.training.export`, with
RUN's log and a line of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lic_format.header import Order
from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.codecs.contract import Timer
from licodec.exact.trainable import round_through
from licodec.store import load
from licodec.training.data import Crops, Pixels, read_crops, to_input
from licodec.training.export import TAG_FILE, load_average
from licodec.training.loop import VALIDATION_RATES, parameter_groups, take_half, validation_pictures
from licodec.training.objective import TrainingModel, dead_zone_round, rate_lambda, scale_features

BATCH = 8
ORDER0 = ("twins.direct_",)


@dataclass(frozen=True)
class Kept:
    """Pictures with what stands still of each, float16 or int16 to save memory.

    first, second: symbols and hyper-latents for `order0`, latents and hyper-latents for `entropy`, decoded
    latents and pixels for `synthesis`.
    """

    rate: Tensor
    first: Tensor
    second: Tensor

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.first[chosen].float().contiguous(memory_format=torch.channels_last)
        return self.rate[chosen], first, self.second[chosen].float()


Keep = Callable[[Pixels, Tensor], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def keep_symbols(model: TrainingModel) -> Keep:
    @torch.no_grad()
    def keep(pixels: Pixels, rate: Tensor) -> tuple[Tensor, Tensor]:
        y, z = model.latents(to_input(pixels, "cpu"), rate)
        z = round_through(z)
        mean, _ = model.walk_means(y, z, cb.density(model.gains(rate)[0]))
        return dead_zone_round(y - mean).to(torch.int16), z.to(torch.int16)

    return keep


def order0_loss(model: TrainingModel) -> Loss:
    """Bits per pixel under order 0, each picture [B]."""

    def loss(rate: Tensor, q: Tensor, z: Tensor) -> Tensor:
        h, w = q.shape[2:]
        nets = model.scale_nets(rate)
        with model.autocast(q):
            index = nets.direct(scale_features(nets, z, h, w).detach()).float()
        return model.prices.alone(q, index) / (h * w * layout.CELL**2)

    return loss


def keep_latents(model: TrainingModel) -> Keep:
    @torch.no_grad()
    def keep(pixels: Pixels, rate: Tensor) -> tuple[Tensor, Tensor]:
        y, z = model.latents(to_input(pixels, "cpu"), rate)
        return (y / model.gains(rate)[0]).half(), round_through(z).to(torch.int16)

    return keep


def entropy_loss(model: TrainingModel) -> Loss:
    """Bits per pixel under both orders, each picture [B]."""

    def loss(rate: Tensor, y: Tensor, z: Tensor) -> Tensor:
        direct, context, _ = model.code(y * model.gains(rate)[0], z, rate)
        return (direct + context) / (y.shape[2] * y.shape[3] * layout.CELL**2)

    return loss


def keep_decoded(codec: cb.Checkerboard) -> Keep:
    def keep(pixels: Pixels, rate: Tensor) -> tuple[Tensor, Tensor]:
        decoded = []
        for each, r in zip(pixels, rate.tolist(), strict=True):
            x = codec._to_input(np.ascontiguousarray(each))
            symbols, _ = codec._symbols(x, r, Order.CHECKERBOARD, Timer(None))
            with torch.inference_mode():
                decoded.append(codec._decoded(symbols, r)[0])
        return torch.cat(decoded).half().clone(), torch.from_numpy(pixels)

    return keep


def synthesis_loss(model: TrainingModel) -> Loss:
    """lambda 255^2 MSE, each picture [B]."""

    def loss(rate: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
        gain, inverse = model.gains(rate)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.synthesis(v, cb.density(gain) * inverse, rate)
        x = cb.to_blocks(pixels)
        return rate_lambda(rate) * 255**2 * F.mse_loss(decoded, x, reduction="none").mean((1, 2, 3))

    return loss


def preview_loss(model: TrainingModel) -> Loss:
    """lambda 255^2 MSE at a quarter of the size, each picture [B]."""

    def loss(rate: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
        gain, inverse = model.gains(rate)
        coded = slice(model.preview.klt.in_channels)
        blocks = model.preview(v[:, coded], (cb.density(gain) * inverse)[:, coded], rate)
        small = F.avg_pool2d(pixels.permute(0, 3, 1, 2) / 255 - 0.5, 4)
        error = F.mse_loss(cb.shuffle(blocks, 4), small, reduction="none")
        return rate_lambda(rate) * 255**2 * error.mean((1, 2, 3))

    return loss


def collect(keep: Keep, crops: Crops, rng: np.random.Generator, count: int, side: int) -> Kept:
    """`count` random crops at random rates, as many of them at half size as in training."""
    rates, first, second = [], [], []
    for _ in range(count // BATCH):
        rate = rng.integers(0, 256, BATCH)
        pixels = crops.draw(rng, side, take_half(rng, rate))
        rates.append(torch.from_numpy(rate))
        a, b = keep(pixels, rates[-1])
        first.append(a)
        second.append(b)
    return Kept(torch.cat(rates), torch.cat(first), torch.cat(second))


def polish(
    model: TrainingModel,
    trained: tuple[str, ...],
    keep: Keep,
    loss: Loss,
    crops: Crops,
    held: list[Pixels],
    *,
    minutes: float,
    learning_rate: float,
    pictures: int,
    side: int = 240,
    seed: int = 21,
) -> dict[str, list[float]]:
    """Train the parameters whose names start with one of `trained`, in place.

    Returns:
        the loss on the `held` pictures at each validation rate before and after, and how many steps it took.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    groups = parameter_groups(model)
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    groups = [group for group in groups if group["params"]]
    parameters = [p for group in groups for p in group["params"]]
    kept = collect(keep, crops, rng, pictures, side)

    @torch.no_grad()
    def validate() -> list[float]:
        result = []
        for value in VALIDATION_RATES:
            rate = torch.tensor([value])
            rows = [(a.float(), b.float()) for a, b in (keep(x[None], rate) for x in held)]
            result.append(float(np.mean([float(loss(rate, *row)) for row in rows])))
        return result

    before = validate()
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        rate, first, second = kept.batch(torch.from_numpy(rng.integers(0, len(kept.rate), BATCH)))
        total = (loss(rate, first, second) * (0.016 / rate_lambda(rate)).sqrt()).mean()
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        now = min(1.0, (step + 1) / 100) * learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = now * group["factor"]
        optimiser.step()
        step += 1
    return {"before": before, "after": validate(), "steps": [float(step)]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("order0", "entropy", "synthesis", "preview"))
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--pictures", type=int, default=1600, help="crops of 240 x 240 to learn from")
    parser.add_argument("--weights", type=Path, help="folder of RUN's export (for synthesis)")
    parser.add_argument("--preset", default="s")
    wish = parser.parse_args()
    model = load_average(wish.run / "last.pt", wish.preset).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.prices.compile("cpu")
    if wish.part == "preview" and not model.preset.straight:
        parser.error(f"preset {wish.preset} has no preview: its reduced pictures are averages of whole ones")
    trained: tuple[str, ...]
    if wish.part == "order0":
        trained, keep, loss = ORDER0, keep_symbols(model), order0_loss(model)
    elif wish.part == "entropy":
        trained, keep, loss = ("means.", "twins."), keep_latents(model), entropy_loss(model)
    else:
        if wish.weights is None:
            parser.error(f"{wish.part} needs --weights, the folder of RUN's export")
        keep = keep_decoded(cb.build(load("fhic", wish.weights.name, path=wish.weights / TAG_FILE), "cpu"))
        if wish.part == "synthesis":
            if model.distortion != "mse":
                parser.error(
                    f"synthesis: it would learn squared errors, {wish.run} is for {model.distortion}"
                )
            trained, loss = ("synthesis.", "inverse_gain"), synthesis_loss(model)
        else:
            trained, loss = ("preview.",), preview_loss(model)
    found = polish(
        model,
        trained,
        keep,
        loss,
        Crops.load(wish.data, Path("checkpoints/cache")),
        validation_pictures(read_crops(wish.data, "val.jsonl")[::4]),
        minutes=wish.minutes,
        learning_rate=wish.learning_rate,
        pictures=wish.pictures,
    )
    wish.out.mkdir(parents=True, exist_ok=True)
    if (wish.run / "log.jsonl").exists():
        shutil.copy(wish.run / "log.jsonl", wish.out / "log.jsonl")
    with (wish.out / "log.jsonl").open("a") as stream:
        stream.write(json.dumps({"polish": wish.part, "minutes": wish.minutes, **found}) + "\n")
    partial = wish.out / "last.partial"
    torch.save({"average": model.state_dict(), "distortion": model.distortion}, partial)
    partial.replace(wish.out / "last.pt")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

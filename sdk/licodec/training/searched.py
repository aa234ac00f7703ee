"""Teach what decodes with latents that an encoder has searched for.

    python -m licodec.training.searched weights/fhic/s-1 RUN DATA/train --minutes 60

Crops are coded once, with the looks of an effort (`codecs.checkerboard_look`), and kept below --cache. The
integer nets of order 1 and the synthesis then learn from what these decode to; the mean nets stand still, as
latents were searched for around what they say. Minutes are of processor time. RUN/last.pt goes into
`licodec.training.export` and is what --resume goes on from; RUN/log.jsonl has an object a line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lic_format.header import Order
from licodec.codecs.checkerboard_fixed import FixedCheckerboard, build
from licodec.codecs.contract import Timer
from licodec.exact import fixed_point
from licodec.store import load
from licodec.training.averaged import AveragedRun
from licodec.training.data import DRAWN_SHARE, Crops, Pixels, read_crops, to_input
from licodec.training.encoders import objective, rate_change
from licodec.training.export import TAG_FILE, trained_model
from licodec.training.loop import (
    VALIDATION_RATES,
    parameter_groups,
    take_half,
    validation_pictures,
)
from licodec.training.objective import TrainingModel, rate_lambda

SIDE = 208
"""Pixels of a crop's side."""
BATCH = 8
LEARNING = ("twins.", "synthesis.")
STANDING = ("synthesis.preview.", "twins.direct_")


@dataclass(frozen=True)
class Searched:
    """Pictures with what an encoder is about to code of them, in memory or mapped from files.

    Attributes:
        rate: int64 [N]. latents: float32 [N, h, w, M], as they decode, in units of symbols. hyper: int16
            [N, Z, h', w']. pixels: uint8 [N, 16 h, 16 w, 3].
    """

    rate: npt.NDArray[np.int64]
    latents: npt.NDArray[np.float32]
    hyper: npt.NDArray[np.int16]
    pixels: Pixels

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[Searched]:
        """Random batches without an end, each spread over all rates."""
        by_rate = np.array_split(np.argsort(self.rate, kind="stable"), size)
        while True:
            yield self.of(np.array([rng.choice(part) for part in by_rate]))

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
            symbols, _ = codec._walked(of, rate, Order.CHECKERBOARD, timer)
            _, latents = codec._decoded(symbols, rate, timer)
        decoded = latents.inner * (of.per_unit / codec.synthesis.per_latent)
        found.append((rate, decoded.astype(np.float32), of.z, pixels))
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


class Run(AveragedRun[TrainingModel, Searched]):
    """What decodes of a training model learns; gains, means and the encoder stand still."""

    def __init__(
        self, model: TrainingModel, out: Path, *, minutes: float, learning_rate: float, seed: int
    ) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNING) and not name.startswith(STANDING))
        groups = parameter_groups(model)
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        groups = [group for group in groups if group["params"]]
        super().__init__(model, groups, out, minutes=minutes, learning_rate=learning_rate, seed=seed)

    def save(self, **more: Any) -> None:
        super().save(distortion=self.net.distortion, **more)

    def loss(self, batch: Searched) -> Tensor:
        bits, error = _objective(self.net, batch)
        weight = rate_lambda(torch.from_numpy(batch.rate))
        return ((bits + weight * error) * (0.016 / weight).sqrt()).mean()

    def learn(self, crops: Searched, held: Sequence[Searched]) -> None:
        """Until the minutes are used up."""
        before = validate(self.average, held)
        self.log(start=True, learning_rate=self.top, of_minutes=self.minutes, **before)

        def compared(model: TrainingModel) -> dict[str, Any]:
            now = validate(model, held)
            return {**now, "rate_change": rate_change(now, before)}

        self.train(crops.batches(self.rng, BATCH), compared)


def _objective(model: TrainingModel, batch: Searched) -> tuple[Tensor, Tensor]:
    """Bits per pixel in order 1 and 255^2 MSE, each picture [B]."""
    y = torch.from_numpy(batch.latents).permute(0, 3, 1, 2)
    z = torch.from_numpy(batch.hyper).float()
    rate = torch.from_numpy(batch.rate)
    return objective(model.priced(to_input(batch.pixels, "cpu"), y, z, rate))


@torch.no_grad()
def validate(model: TrainingModel, held: Sequence[Searched]) -> dict[str, list[float]]:
    """Means over the pictures of each rate: bits per pixel, PSNR, and the objective."""
    found: dict[str, list[float]] = {"bpp": [], "psnr": [], "objective": []}
    for batch in held:
        rows = [_objective(model, batch.of(np.array([i]))) for i in range(len(batch.rate))]
        bits, error = (np.array([float(row[part]) for row in rows]) for part in (0, 1))
        found["bpp"].append(round(float(bits.mean()), 6))
        found["psnr"].append(round(float(np.mean(10 * np.log10(255**2 / error))), 4))
        found["objective"].append(
            round(float((bits + float(rate_lambda(torch.tensor(batch.rate[0]))) * error).mean()), 6)
        )
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
    parser.add_argument("--crops", type=int, default=4800, help=f"of {SIDE} pixels to learn from")
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
    kept = wish.cache / f"searched-{base.decode_digest.hex()[:16]}"
    crops = searched_crops(
        codec, wish.data, wish.cache, kept, count=wish.crops, effort=wish.effort, seed=wish.seed
    )
    pictures = validation_pictures(read_crops(wish.data, "val.jsonl")[::4])
    held = [searched(codec, pictures, [rate] * len(pictures), wish.effort) for rate in VALIDATION_RATES]
    model = trained_model(base)
    model.prices.compile("cpu")
    run = Run(model, wish.run, minutes=wish.minutes, learning_rate=wish.learning_rate, seed=wish.seed)
    if wish.resume and run.last.exists():
        run.restore()
    run.learn(crops, held)


if __name__ == "__main__":
    main()

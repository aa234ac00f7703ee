"""What an L1 term on latents would gain: more channels without symbols, which files leave out.

    python -m licodec.training.sparsity weights/fhic/s-1 RUN DATA/train --minutes 10 --weights 1 4

The encoder of trained weights goes on learning as `encoders` says, as it is and once with each weight of the
term. Then each codes validation crops and leaves out what `channel_skip` says. Beside it stands what it has
to beat: the encoder of the start, told to leave out the same channels, whatever they hold.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
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
from licodec.store import Weights
from licodec.training.data import Pixels, read_crops
from licodec.training.decoded import coefficient_scale
from licodec.training.encoders import Way, arguments, compared, rate_change
from licodec.training.export import float_tensors, trained_model, write_weights
from licodec.training.loop import validation_pictures
from licodec.training.objective import TrainingModel, rate_lambda
from licodec.training.turns import log

RATES = tuple(range(16, 256, 32))
RISE = 2
"""Power of a channel's number, as a share of all, that its term goes by: channels are left out from one on,
so the first ones, which always have symbols, should cost next to nothing."""


def magnitudes(y: Tensor, weight: float) -> Tensor:
    """The L1 term of latents [B, M, h, w] in units of symbols: `weight` bits for a whole symbol in the last
    channel and less before it, as bits per pixel of each picture [B]."""
    count = y.shape[1]
    rising = (torch.arange(1, count + 1, device=y.device) / count) ** RISE
    return weight * (y.abs().mean((2, 3)) * rising).sum(1) / layout.CELL**2


@dataclass(frozen=True)
class Files:
    """What pictures became at each of `RATES`.

    Attributes:
        size: bytes of streams and side info. error: mean squared errors of 8-bit samples. first: the channel
            from which on all are left out. Each [rates, pictures].
        pixels: of a picture, on average. channels: that there are.
    """

    size: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    error: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    first: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    pixels: float
    channels: int

    def row(self) -> dict[str, list[float]]:
        """Means over pictures at each rate: bits per pixel, PSNR, bits per pixel + lambda 255^2 MSE, and the
        share of channels left out."""
        bits = 8 * self.size.mean(1) / self.pixels
        weight = rate_lambda(torch.tensor(RATES)).numpy()
        means = {
            "bpp": bits,
            "psnr": (10 * np.log10(255**2 / self.error)).mean(1),
            "objective": bits + weight * self.error.mean(1),
            "left_out": 1 - self.first.mean(1) / self.channels,
        }
        return {name: [round(float(value), 6) for value in values] for name, values in means.items()}


def coded(codec: cb.Checkerboard, pictures: Sequence[Pixels], also: Files | None = None) -> Files:
    """Code pictures at each of `RATES` in order 1. `also`: files of the same pictures; what they leave out is
    left out here too."""
    count = codec.preset.latents
    size, first = (np.zeros((len(RATES), len(pictures)), np.int64) for _ in range(2))
    error = np.zeros(size.shape)
    for at in np.ndindex(size.shape):
        rate, picture = RATES[at[0]], pictures[at[1]]
        blocks, timer = codec._to_input(picture), Timer(None)
        proposal = codec.proposed(blocks, rate, Order.CHECKERBOARD, timer, skip=True)
        if also is not None:
            skipped = proposal.skipped | (np.arange(count) >= also.first[at])
            proposal = dataclasses.replace(proposal, skipped=skipped)
        found = codec.walked(proposal, timer, whole=True)
        made = layout.written(found.symbols, found.passes, rate, Order.CHECKERBOARD, codec.tables, timer)
        size[at] = len(made.units[0].body) + len(made.head_fields["side_info"])
        first[at] = count - np.count_nonzero(proposal.skipped)
        index = torch.tensor([rate])
        with torch.inference_mode():
            shown = codec.synthesis(found.decoded, coefficient_scale(codec, index), index)
            shown, original = (torch.round(255 * (x.clamp(-0.5, 0.5) + 0.5)) for x in (shown, blocks))
            error[at] = float(F.mse_loss(shown, original))
    pixels = float(np.mean([picture.shape[0] * picture.shape[1] for picture in pictures]))
    return Files(size, error, first, pixels, count)


def with_encoder(base: Weights, model: TrainingModel, folder: Path) -> Weights:
    """Write weights with the encoder of a model into `folder`; what decodes, and so its digest, is theirs."""
    own = {name: x for name, x in float_tensors(model).items() if name.startswith("encoder.")}
    return write_weights({**base.tensors, **own}, dict(base.metadata) | {"tag": folder.name}, folder)


def measure(base: Weights, run: Path, ways: Sequence[str], pictures: Sequence[Pixels]) -> None:
    """Append to RUN/log.jsonl what the encoders RUN/WAY.pt make of pictures."""
    start, model = cb.build(base, "cpu"), trained_model(base)
    before = coded(start, pictures)
    log(run, {"files": "start", "rates": RATES, **before.row()})

    def told(name: str, found: Files) -> None:
        log(run, {"files": name, **found.row(), "rate_change": rate_change(found.row(), before.row())})

    for name in ways:
        model.load_state_dict(torch.load(run / f"{name}.pt", weights_only=True), strict=False)
        found = coded(cb.build(with_encoder(base, model, run / name), "cpu"), pictures)
        told(name, found)
        told(f"start, as many left out as {name}", coded(start, pictures, found))


def main() -> None:
    parser = arguments(__doc__, minutes=10.0)
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0, 4.0], help="of the term, in bits")
    wish = parser.parse_args()
    terms = {
        f"l1-{weight:g}": Way(term=functools.partial(magnitudes, weight=weight)) for weight in wish.weights
    }
    ways = {"as-it-is": Way(), **terms}
    base = compared(wish, ways)
    measure(base, wish.run, list(ways), validation_pictures(read_crops(wish.data, "val.jsonl")[::4]))


if __name__ == "__main__":
    main()

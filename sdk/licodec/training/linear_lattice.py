"""Makes the numbers of pilc's lattices without networks: `licodec/codecs/linear_lattice.bin`.

    python -m licodec.training.linear_lattice fit ../shared/data OUT [--steps 1200]
    python -m licodec.training.linear_lattice judge ../shared/data OUT

`fit` writes OUT and prints its digest, which goes into the codec's `DIGEST` and into SPEC.md. Four steps:

1. for each pass, predictions by least squares in each direction; then they and the activities by gradient on
   the code length, as the nets of `licodec.training.lossless` are trained;
2. from then on with integers: thresholds between scales, the best ones for tables that are given, and tables
   of what so falls into each scale, by turns;
3. histograms of all that an encoder codes on the training pictures, by those thresholds;
4. thresholds once more, for these.

`judge` prints bits a sample on `train/val` at half size. Pictures are those of `licodec.training.lossless`.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs import lattices
from licodec.codecs import linear_lattice as codec
from licodec.entropy.lanes_reference import ESCAPE, PRECISION, SYMBOLS, TOTAL
from licodec.training import lossless
from licodec.training.data import Pixels

Reals = npt.NDArray[np.floating[Any]]

SHARE: Final = {0: 0.75, 1: 0.25}
"""Of the samples, by class of lattice."""
EVERY: Final = 4
"""Of so many pictures a pass looks at one."""
TURNS: Final = 4
"""How often thresholds and tables follow from each other."""
RAW_BITS: Final = 8
"""Of an escaped sample."""
OTHERS: Final = 30
"""What all pairs of a plane's own but the nearest weigh in `Numbers.direction`, where an earlier plane is
known; twice that in G."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """What a pass sees at some samples, int16 [n, k], and what it should say, [n]: the sample less the mean
    of the nearest four."""

    x: npt.NDArray[np.int16]
    wanted: npt.NDArray[np.int16]


def sampled(
    pictures: Sequence[Pixels], name: codec.Name, rng: np.random.Generator, *, per_picture: int, turn: bool
) -> Sampled:
    which, plane, step_name = name
    step = next(each for each in lattices.PASSES if each.name == step_name)
    view = codec.view_of(plane, step_name)
    seen, wanted = [], []
    for picture in pictures:
        turned = np.rot90(picture, int(rng.integers(4))) if turn else picture
        planes = lossless.planes_of(turned[:, ::-1] if turn and rng.integers(2) else turned)
        for level in lossless.LEVELS[which]:
            *earlier, own = (lossless.at_level(each, level) for each in planes[: plane + 1])
            h, w = own.size(step.target)
            if not h * w:
                continue
            x, mean = np.empty((view.inputs, h, w), np.float32), np.empty((h, w), np.float32)
            codec.fill_inputs(x, mean, view, step, own, earlier, slice(0, h))
            count = min(h * w, max(1, per_picture >> (2 * (level - lossless.LEVELS[which][0]))))
            chosen = rng.choice(h * w, count, replace=False)
            seen.append(x.reshape(len(x), -1)[:, chosen].T.astype(np.int16))
            wanted.append((own.values(step.target) - mean).reshape(-1)[chosen].astype(np.int16))
    return Sampled(np.concatenate(seen), np.concatenate(wanted))


def steepness(name: codec.Name) -> codec.Ints:
    """`Numbers.direction`: the nearest pair as much as all other ones of its axis together, and what is known
    of the same place in earlier planes twice as much as both."""
    view = codec.view_of(*name[1:])
    out = np.zeros((2, len(view.pairs)), np.int64)
    own = 2 * OTHERS if name[1] == 0 else OTHERS
    for row, (down, right) in zip(out, codec.AXES[name[2]], strict=True):
        nearest = view.offsets.index((-down, -right)), view.offsets.index((down, right)), -1
        offsets = [view.offsets[p] if sign < 0 else None for p, _, sign in view.pairs]
        mine = [
            i
            for i, ((_, q, sign), offset) in enumerate(zip(view.pairs, offsets, strict=True))
            if sign < 0
            and offset is not None
            and view.offsets[q] == (offset[0] + 2 * down, offset[1] + 2 * right)
        ]
        row[mine] = round(own / (len(mine) - 1))
        row[view.pairs.index(nearest)] = own
    first = len(view.pairs) - 4 * name[1]
    for earlier in range(name[1]):
        share = 4 * OTHERS // name[1]
        out[0, first + 4 * earlier], out[1, first + 4 * earlier + 1] = share, share
    return out


class Trainable(nn.Module):
    """The numbers of a pass as floats in units of a level."""

    def __init__(self, name: codec.Name) -> None:
        super().__init__()
        view = codec.view_of(*name[1:])
        k, f = view.inputs, len(view.pairs)
        self.register_buffer("pairs", torch.zeros(f, k))
        self.register_buffer("steepness", torch.from_numpy(steepness(name)).float())
        for row, (p, q, sign) in zip(self.pairs, view.pairs, strict=True):
            row[p], row[q] = 1, sign
        self.linear = nn.Parameter(torch.zeros(codec.DIRECTIONS, k))
        self.activity = nn.Parameter(torch.full((codec.DIRECTIONS, k + f), 0.3 / k))
        self.least = nn.Parameter(torch.full((codec.DIRECTIONS,), 0.3))

    pairs: Tensor
    steepness: Tensor

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitudes [n, k + f] and directions [n] of inputs [n, k]."""
        pairs = (x @ self.pairs.T).abs()
        along, across = (pairs @ self.steepness.T).T.numpy()
        return torch.cat([x.abs(), pairs], 1), torch.from_numpy(codec.directions(along, across))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [n, k] -> mean and scale of the error's distribution, [n] each."""
        magnitudes, direction = self.seen(x)
        mean = (x @ self.linear.T).gather(1, direction[:, None])[:, 0]
        activity = F.linear(magnitudes, self.activity, self.least).gather(1, direction[:, None])[:, 0]
        # Below the least activity a little gradient is left, or a pass might never come back.
        return mean, F.leaky_relu(activity, 0.01).clamp(-0.01, 32) + lossless.SCALE_MIN

    def numbers(self) -> codec.Numbers:
        """With thresholds yet to be found."""
        linear = torch.round(self.linear.detach() * codec.LINEAR_UNIT)
        least = self.least.detach()[:, None]
        activity = torch.round(torch.cat([self.activity.detach(), least], 1) * codec.ACTIVITY_UNIT)
        return codec.Numbers(
            linear.numpy().astype(np.int64),
            activity.numpy().astype(np.int64),
            self.steepness.numpy().astype(np.int64),
            np.zeros(codec.SCALES - 1, np.int64),
        )


def fit(name: codec.Name, data: Sampled, steps: int, *, batch: int = 8192, rate: float = 1e-2) -> Trainable:
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.wanted)
    net = Trainable(name)
    few = torch.randperm(len(x))[:400_000]
    with torch.no_grad():
        direction = net.seen(x[few].float())[1]
        for number in range(codec.DIRECTIONS):
            mine = few[direction == number]
            inputs = x[mine].double()
            gram = inputs.T @ inputs + 100 * torch.eye(x.shape[1], dtype=torch.double)
            net.linear[number] = torch.linalg.solve(gram, inputs.T @ y[mine].double()).float()
    optimiser = torch.optim.Adam([{"params": [net.activity, net.least]}, {"params": [net.linear]}], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [rate, rate / 5], total_steps=steps, pct_start=0.1
    )
    for _ in range(steps):
        drawn = torch.randint(len(x), (batch,))
        mean, scale = net(x[drawn].float())
        loss = lossless.bits(mean, scale, y[drawn].float()).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    return net


# --- thresholds and tables --------------------------------------------------------------------------


def counted(name: codec.Name, numbers: codec.Numbers, data: Sampled) -> Reals:
    """How often samples have an activity, a quarter and a symbol: [4096 x 4 x 256], their sum the share of
    the pass among all samples."""
    view = codec.view_of(*name[1:])
    k = view.inputs
    x = np.empty((k + len(view.pairs) + 1, len(data.x)), np.float32)
    x[:k] = data.x.T
    linear = numbers.linear.astype(np.float32) @ x[:k]
    codec.fill_pairs(x, view)
    x[-1] = 1
    np.abs(x, out=x)
    along, across = numbers.direction.astype(np.float32) @ x[k:-1]
    direction = codec.directions(along, across)
    everyone = np.arange(len(data.x))
    activity = (numbers.activity.astype(np.float32) @ x)[direction, everyone].astype(np.int64)
    activity = (activity >> codec.ACTIVITY_SHIFT).clip(0, codec.ACTIVITIES - 1)
    quarters = (linear[direction, everyone].astype(np.int64) + 320) >> 7
    symbol = (data.wanted - (quarters >> 2)) & SYMBOLS - 1
    flat = (activity * 4 + (quarters & 3)) * SYMBOLS + symbol
    counts = np.bincount(flat, minlength=codec.ACTIVITIES * 4 * SYMBOLS).astype(np.float64)
    return counts * SHARE[name[0]] / 9 / len(data.x)


def code_lengths(frequencies: codec.Ints) -> Reals:
    """Bits of each symbol by table, [tables, 256]."""
    full = (frequencies > 0).all(axis=1, keepdims=True)
    escape = PRECISION - np.log2(frequencies[:, [ESCAPE]].astype(np.float64)) + RAW_BITS
    out = np.where(
        frequencies > 0, PRECISION - np.log2(np.maximum(frequencies, 1).astype(np.float64)), escape
    )
    return np.where((np.arange(SYMBOLS) == ESCAPE) & ~full, escape, out)


def tables_of(scale: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Table by scale and quarter, [..., 4]."""
    fine = 4 * scale[..., None] + np.arange(4)
    return np.where(scale[..., None] < codec.FINE_SCALES, fine, 3 * codec.FINE_SCALES + scale[..., None])


def thresholds(counts: Reals, lengths: Reals) -> tuple[codec.Ints, float]:
    """The best ones for the histograms of a pass, and the bits that its samples then take."""
    by_quarter = counts.reshape(codec.ACTIVITIES, 4, SYMBOLS)
    tables = tables_of(np.arange(codec.SCALES))  # [scales, 4]
    cost = np.zeros((codec.ACTIVITIES, codec.SCALES))
    for quarter in range(4):
        cost += by_quarter[:, quarter] @ lengths[tables[:, quarter]].T
    # The cheapest ascending way through [activities, scales].
    total, came = np.zeros(codec.SCALES), np.empty(cost.shape, np.intp)
    for row, before in zip(cost, came, strict=True):
        least = np.minimum.accumulate(total)
        is_least = total == least
        before[:] = np.maximum.accumulate(np.where(is_least, np.arange(codec.SCALES), 0))
        total = least + row
    scale = np.empty(codec.ACTIVITIES, np.intp)
    at = int(total.argmin())
    bits = float(total[at])
    for activity in range(codec.ACTIVITIES - 1, -1, -1):
        scale[activity] = at
        at = came[activity, at]
    return np.searchsorted(scale, np.arange(1, codec.SCALES)).astype(np.int64), bits


def first_tables() -> codec.Ints:
    """Discretised logistics of the scales, by quarter; for bases of anything."""
    residual = (np.arange(SYMBOLS) + 128) % SYMBOLS - 128.0
    out = np.zeros((codec.TABLES, SYMBOLS), np.int64)

    def below(at: Reals, scale: float) -> Reals:
        out: Reals = np.exp(-np.logaddexp(0, -at / scale))
        return out

    for number in range(codec.SCALES):
        scale = lossless.SCALE_MIN * 1.16**number
        for quarter, table in enumerate(tables_of(np.array(number))):
            centre = (quarter - 1.5) / 4 if number < codec.FINE_SCALES else 0
            share = below(residual - centre + 0.5, scale) - below(residual - centre - 0.5, scale)
            out[table] = np.rint(1e6 * share)
    out[codec.BASE_TABLE :] = np.rint(1e6 * np.exp(-np.abs(residual) / 8))
    return lossless.frequencies(out).astype(np.int64)


def alternated(
    numbers: Mapping[codec.Name, codec.Numbers],
    counts: Mapping[codec.Name, Reals],
    frequencies: codec.Ints,
    turns: int,
) -> codec.Table:
    """Thresholds for tables, and tables for thresholds; `turns` 0: thresholds alone."""
    for turn in range(turns + 1):
        lengths = code_lengths(frequencies)
        found = {name: thresholds(counts[name], lengths) for name in counts}
        print(f"turn {turn}: {sum(bits for _, bits in found.values()):.4f} bits a sample", flush=True)
        if turn == turns:
            break
        histogram = np.zeros((codec.TABLES, SYMBOLS))
        for name, (edges, _) in found.items():
            by_activity = counts[name].reshape(codec.ACTIVITIES, 4, SYMBOLS)
            for number, part in enumerate(np.split(by_activity, edges)):
                for quarter, table in enumerate(tables_of(np.array(number))):
                    histogram[table] += part[:, quarter].sum(axis=0)
        histogram[codec.BASE_TABLE :] = frequencies[codec.BASE_TABLE :] / TOTAL
        frequencies = lossless.frequencies(np.rint(histogram * 1e8).astype(np.int64)).astype(np.int64)
    done = {name: replace(numbers[name], thresholds=edges) for name, (edges, _) in found.items()}
    return codec.Table(done, frequencies)


def histograms(pictures: Sequence[Pixels], table: codec.Table) -> npt.NDArray[np.int64]:
    """How often each table meets each symbol in what an encoder writes: [tables, 256]."""
    out = np.zeros(codec.TABLES * SYMBOLS, np.int64)
    coder = codec.Coder(table)
    for first in range(0, len(pictures), 8):
        for stream in coder.streams_of(pictures[first : first + 8]):
            for symbols, index in stream:
                out += np.bincount(index.astype(np.int64) * SYMBOLS + symbols, minlength=out.size)
    return out.reshape(codec.TABLES, SYMBOLS)


def made(pictures: Sequence[Pixels], steps: int, per_picture: int) -> codec.Table:
    """All numbers, from pictures."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    numbers, counts = {}, {}
    for name in codec.names():
        start = time.monotonic()
        some = pictures[int(rng.integers(EVERY)) :: EVERY]
        data = sampled(some, name, rng, per_picture=per_picture, turn=True)
        numbers[name] = fit(name, data, steps).numbers()
        counts[name] = counted(name, numbers[name], data).astype(np.float32)
        print(f"{name}: {len(data.x)} samples, {time.monotonic() - start:.0f} s", flush=True)
    table = alternated(numbers, counts, first_tables(), TURNS)
    frequencies = lossless.frequencies(histograms(pictures, table)).astype(np.int64)
    return alternated(numbers, counts, frequencies, 0)


def judged(pictures: Sequence[Pixels], coder: codec.Coder) -> float:
    """Bits a sample of bodies."""
    size = sum(len(body) for picture in pictures for body in coder.encode([picture]))
    return 8 * size / sum(picture.size for picture in pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the numbers of pilc's lattices without networks.")
    parser.add_argument("what", choices=("fit", "judge"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--per-picture", type=int, default=1600)
    wish: Any = parser.parse_args()
    if wish.what == "fit":
        pictures = lossless.training_pictures(wish.data, np.random.default_rng(0))
        data = made(pictures, wish.steps, wish.per_picture).to_bytes()
        wish.out.write_bytes(data)
        print(f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    coder = codec.Coder(codec.read(wish.out.read_bytes()))
    print(f"{judged(lossless.validation_pictures(wish.data), coder):.4f} bits a sample on train/val")


if __name__ == "__main__":
    main()

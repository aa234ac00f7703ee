"""Trains the nets of pilc, one pass after the other, and exports them with their tables.

    python -m licodec.training.lossless nets ../shared/data OUT [--steps 8000] [--only 0.0.A ...]
    python -m licodec.training.lossless export ../shared/data OUT weights/pilc/l-1 THREEWAY.safetensors
    licodec bench --lossless --images ../shared/data/kodak --json > kodak.json
    python -m licodec.training.lossless card weights/pilc/l-1 kodak.json

A net is trained on the code length of its samples under a logistic of its own mean and scale, with its
integers from the start (rounding with a straight-through gradient). The tables are then the histograms of
what an encoder with these nets codes on such pictures, and hold whatever the shape of errors really is.

Pictures: the crops of `train`, reduced by 2 to 3.2 to be free of what their own coding left, four tenths of
them with colour at half its resolution; and `train_lossless`, each twice. `train/val` at half size is for
validation only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from licodec.codecs import lattices
from licodec.codecs import lossless as pilc
from licodec.codecs import threeway as tw
from licodec.codecs.lossless_adaptation import CLASSES, groups
from licodec.entropy.lanes_reference import ESCAPE, TOTAL
from licodec.evaluation.lossless import Row, markdown
from licodec.evaluation.pictures import halved
from licodec.store.weights import load_file as load_weights_file
from licodec.training.card import table
from licodec.training.data import Pixels, read_crops

UNITS: Final = (48, 16), (48, 32)
"""Of the two layers of a net in the finest lattice (three quarters of all samples) and in others."""
HALF_COLOUR_SHARE: Final = 0.4
SCALE_MIN: Final = 0.06
SCALE_RATIO: Final = 1.16
LEVELS: Final = ((0,), (1, 2, 3))
"""Lattices that nets of a class are trained on."""
PER_PICTURE: Final = 4000
WEIGHT_LIMIT: Final = 127 / pilc.WEIGHT_UNIT
ROW_LIMIT: Final = 7.75
"""Sum of magnitudes in a row of the second and third layers; 8 is what float32 has room for."""
MIXTURE: Final = 0.001
"""Share of a uniform distribution in the code length, so that no error is infinitely unlikely."""


# --- pictures -------------------------------------------------------------------------------------


def with_half_colour(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Colour reduced to half its resolution and back, as photographs on CD have it (every second sample is
    the mean of its neighbours; odd ones here, as an encoder's flips make them) or decoders of JPEG; and
    rounded to the steps of a coarser colour space."""
    how = rng.choice(["on samples", "between samples", "repeated"], p=[0.6, 0.3, 0.1])
    red, green, blue = np.moveaxis(picture.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    red, blue = (
        luma + np.rint(_halved_and_back(colour - luma, how) / step) * step
        for colour, step in zip((red, blue), rng.uniform(0.8, 2.0, 2), strict=True)
    )
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    out: Pixels = np.rint(np.stack([red, green, blue], axis=2)).clip(0, 255).astype(np.uint8)
    return out


def _halved_and_back(plane: npt.NDArray[np.float64], how: str) -> npt.NDArray[np.float64]:
    for _ in range(2):  # rows, then columns
        length = len(plane)
        padded = np.pad(plane, ((1, 2), (0, 0)), mode="edge")
        small = np.empty(((length + 1) // 2 + 2, plane.shape[1]))
        if how == "on samples":
            small[1:-1] = (padded[:-3:2] + 2 * padded[1:-2:2] + padded[2:-1:2])[: len(small) - 2] / 4
        else:
            small[1:-1] = (padded[1:-2:2] + padded[2:-1:2])[: len(small) - 2] / 2
        small[0], small[-1] = small[1], small[-2]
        middle = small[1:-1]
        even, odd = {
            "on samples": (middle, (middle + small[2:]) / 2),
            "between samples": ((3 * middle + small[:-2]) / 4, (3 * middle + small[2:]) / 4),
            "repeated": (middle, middle),
        }[how]
        plane = np.stack([even, odd], axis=1).reshape(-1, plane.shape[1])[:length].T
    return plane


def training_pictures(data: Path, rng: np.random.Generator) -> list[Pixels]:
    """Of odd sides, so that what is even stays even when they are turned."""
    out = []
    for crop in read_crops(data / "train", "index.jsonl"):
        factor = 2.0 if rng.random() < 0.5 else float(rng.uniform(2, 3.2))
        kinds = (Image.Resampling.BOX, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)
        size = (int(crop.shape[1] / factor), int(crop.shape[0] / factor))
        picture = np.asarray(Image.fromarray(crop).resize(size, kinds[int(rng.integers(3))]))
        out.append(with_half_colour(picture, rng) if rng.random() < HALF_COLOUR_SHARE else picture)
    for path in sorted((data / "train_lossless").glob("*.png")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        out += [picture, with_half_colour(picture, rng)]
    return [
        picture[: (len(picture) - 1) // 2 * 2 + 1, : (picture.shape[1] - 1) // 2 * 2 + 1] for picture in out
    ]


def validation_pictures(data: Path) -> list[Pixels]:
    return [halved(crop) for crop in read_crops(data / "train", "val.jsonl")]


# --- samples --------------------------------------------------------------------------------------


def planes_of(picture: Pixels) -> list[npt.NDArray[np.int16]]:
    """G, R - G and B - G [H, W]."""
    red, green, blue = (picture[:, :, channel].astype(np.int16) for channel in range(3))
    return [green, red - green, blue - green]


def at_level(plane: npt.NDArray[np.int16], level: int) -> lattices.Lattice:
    return lattices.lattice_of(plane[:: 1 << level, :: 1 << level].astype(np.float32))


def samples(
    pictures: Sequence[Pixels],
    which: int,
    plane: int,
    step: lattices.Pass,
    rng: np.random.Generator,
    *,
    per_picture: int = PER_PICTURE,
    turn: bool = True,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """What a net sees, [n, k], and what it should say, [n]: samples less the mean of the nearest ones."""
    seen, wanted = [], []
    for picture in pictures:
        turned = np.rot90(picture, int(rng.integers(4))) if turn else picture
        planes = planes_of(turned[:, ::-1] if turn and rng.integers(2) else turned)
        for level in LEVELS[which]:
            *earlier, own = (at_level(each, level) for each in planes[: plane + 1])
            h, w = own.size(step.target)
            if not h * w:
                continue
            x = np.empty((lattices.inputs(plane, step), h, w), np.float32)
            mean = np.empty((h, w), np.float32)
            pilc.fill_inputs(x, mean, step, own, earlier, slice(0, h))
            count = min(h * w, max(1, per_picture >> (2 * (level - LEVELS[which][0]))))
            chosen = rng.choice(h * w, count, replace=False)
            seen.append(x.reshape(len(x), -1)[:, chosen].T.astype(np.int16))
            wanted.append((own.values(step.target) - mean).reshape(-1)[chosen].astype(np.int16))
    return np.concatenate(seen), np.concatenate(wanted)


# --- nets -----------------------------------------------------------------------------------------


def _on_grid(values: Tensor, unit: int) -> Tensor:
    """Rounded to multiples of 1 / unit; the gradient passes as if they were not."""
    return values + (torch.round(values * unit) / unit - values).detach()


def _bounded(weight: Tensor) -> Tensor:
    weight = weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    magnitude = weight.abs().sum(1, keepdim=True).clamp_min(1e-6)
    return _on_grid(weight * torch.clamp(ROW_LIMIT / magnitude, max=1), pilc.WEIGHT_UNIT)


class Trainable(nn.Module):
    """A net of `pilc.look` with its integers as floats."""

    def __init__(self, inputs: int, units: tuple[int, int]) -> None:
        super().__init__()

        def start(rows: int, columns: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * scale / columns**0.5)

        hidden, second = units
        self.linear = nn.Parameter(torch.zeros(1, inputs))
        self.first, self.first_bias = start(hidden, inputs, 0.6), nn.Parameter(torch.zeros(hidden))
        self.second, self.second_bias = start(second, hidden, 1.0), nn.Parameter(torch.zeros(second))
        self.third, self.third_bias = start(2, second, 1.0), nn.Parameter(torch.tensor([0.0, 0.3]))
        with torch.no_grad():  # no correction, and an activity that grows with the inputs
            self.third[0] = 0
            self.third[1] = self.third[1].abs() / 2

    def _first(self) -> Tensor:
        return _on_grid(self.first.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT), pilc.WEIGHT_UNIT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [n, k] -> mean and scale of the error's distribution, [n] each."""
        unit, highest = pilc.WEIGHT_UNIT, pilc.HIDDEN_MAX / pilc.WEIGHT_UNIT
        linear = F.linear(x, _on_grid(self.linear, pilc.LINEAR_UNIT))
        h = F.linear(x, self._first(), _on_grid(self.first_bias, unit)).clamp(0, highest)
        h = F.linear(h, _bounded(self.second), _on_grid(self.second_bias, unit**2))
        h = (h + (torch.floor(h * unit) / unit - h).detach()).clamp(0, highest)
        correction, activity = F.linear(h, _bounded(self.third), _on_grid(self.third_bias, unit**2)).T
        # Below the least activity a little gradient is left, or a net might never come back.
        scale = F.leaky_relu(activity - 0.05, 0.01).clamp(-0.01, 70) + SCALE_MIN
        return linear[:, 0] + correction, scale

    def integers(self) -> dict[str, npt.NDArray[np.int32]]:
        """The matrices of a weights file; see `pilc.Net`."""
        unit = pilc.WEIGHT_UNIT

        def matrix(*parts: tuple[Tensor, Tensor | None, int, int]) -> npt.NDArray[np.int32]:
            rows = []
            for weight, bias, weight_unit, bias_unit in parts:
                last = torch.zeros(len(weight)) if bias is None else bias
                rows.append(
                    torch.cat([torch.round(weight * weight_unit), torch.round(last * bias_unit)[:, None]], 1)
                )
            return torch.cat(rows).detach().numpy().astype(np.int32)

        return {
            "first": matrix(
                (self.linear, None, pilc.LINEAR_UNIT, 1), (self._first(), self.first_bias, unit, unit)
            ),
            "second": matrix((_bounded(self.second), self.second_bias, unit, unit**2)),
            "third": matrix((_bounded(self.third), self.third_bias, unit, unit**2)),
        }


def bits(mean: Tensor, scale: Tensor, wanted: Tensor) -> Tensor:
    """Code length of integers under a logistic, [n]."""
    upper, lower = (wanted - mean + 0.5) / scale, (wanted - mean - 0.5) / scale
    side = torch.where(upper + lower > 0, -1.0, 1.0)  # where sigmoids are small, and their difference exact
    mass = (torch.sigmoid(side * upper) - torch.sigmoid(side * lower)).abs()
    return -torch.log2(mass * (1 - MIXTURE) + MIXTURE / 512)


def fit(
    seen: npt.NDArray[np.int16],
    wanted: npt.NDArray[np.int16],
    steps: int,
    *,
    units: tuple[int, int],
    batch: int = 8192,
    rate: float = 6e-3,
) -> Trainable:
    """A net, from the least squares of its linear prediction."""
    x, y = torch.from_numpy(seen), torch.from_numpy(wanted)
    net = Trainable(x.shape[1], units)
    order = torch.randperm(len(x))[:300_000]
    few = x[order].double(), y[order].double()
    with torch.no_grad():
        gram = few[0].T @ few[0] + 100 * torch.eye(x.shape[1], dtype=torch.double)
        net.linear.copy_(torch.linalg.solve(gram, few[0].T @ few[1][:, None]).T)
    others = [parameter for name, parameter in net.named_parameters() if name != "linear"]
    optimiser = torch.optim.AdamW(
        [{"params": others}, {"params": [net.linear]}], lr=rate, betas=(0.9, 0.99), weight_decay=0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [rate, rate / 10], total_steps=steps, pct_start=0.1
    )
    for _ in range(steps):
        drawn = torch.randint(len(x), (batch,))
        mean, scale = net(x[drawn].float())
        loss = bits(mean, scale, y[drawn].float()).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    return net


@torch.no_grad()
def judged(net: Trainable, seen: npt.NDArray[np.int16], wanted: npt.NDArray[np.int16]) -> float:
    """Mean bits a sample."""
    lengths = []
    for first in range(0, len(seen), 50_000):
        part = slice(first, first + 50_000)
        mean, scale = net(torch.from_numpy(seen[part]).float())
        lengths.append(bits(mean, scale, torch.from_numpy(wanted[part]).float()))
    return float(torch.cat(lengths).mean())


# --- tables ---------------------------------------------------------------------------------------


def scales_by_activity() -> npt.NDArray[np.uint8]:
    """The scale that an activity in 1/64 of a level stands for: [4096]."""
    activity = np.arange(pilc.ACTIVITIES) / pilc.WEIGHT_UNIT
    wanted = np.clip(activity - 0.05, 0, None) + SCALE_MIN
    nearest = np.rint(np.log(wanted / SCALE_MIN) / np.log(SCALE_RATIO))
    out: npt.NDArray[np.uint8] = nearest.clip(0, pilc.SCALES - 1).astype(np.uint8)
    return out


def counted(
    pictures: Sequence[Pixels], model: pilc.Lossless | None, nets: pilc.Nets
) -> npt.NDArray[np.int64]:
    """How often each table meets each symbol: [tables, 256]. Without a model, where nothing is adapted."""
    out = np.zeros(pilc.TABLES * 256, np.int64)
    tables_of = dict.fromkeys(groups(3), pilc.tables_by_activity(scales_by_activity(), 0))
    for picture in pictures:
        if model is None:
            look = pilc.Looking(nets, tables_of, pilc.Scratch())
            (stream,) = pilc.streams_of([picture], [look])
        else:
            ((_, stream),) = model.streams([picture])
        for _, symbols, tables in stream:
            out += np.bincount(tables.astype(np.int64) * 256 + symbols, minlength=out.size)
    return out.reshape(pilc.TABLES, 256)


def frequencies(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """Integer tables from histograms [tables, 256]: what is rarer than half a count of 4096 is an escape."""
    residual = np.arange(256)
    residual = np.where(residual < 128, residual, residual - 256)
    out = np.zeros(counts.shape, np.int16)
    for row, seen in zip(out, counts.astype(np.float64), strict=True):
        # A few counts of a Laplacian as wide as what was seen, for tables that were seen rarely.
        spread = (np.abs(residual) * seen).sum() / max(seen.sum(), 1) + 0.05
        expected = np.exp(-np.abs(residual) / spread)
        share = seen + 20 * expected / expected.sum()
        share *= TOTAL / share.sum()
        kept = share >= 0.5
        if not kept.all():
            kept[ESCAPE] = False
            escaped = max(1.0, share[~kept].sum())
            share = np.where(kept, share, 0)
            share[ESCAPE] = escaped
            kept[ESCAPE] = True
        row[:] = _whole(share, kept)
    return out


def _whole(share: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """Integers in proportion to shares, at least 1 where `kept`, that sum to 4096."""
    share = np.where(kept, np.maximum(share * TOTAL / share.sum(), 1), 0)
    whole = np.where(kept, np.maximum(np.floor(share), 1), 0).astype(np.int64)
    while (missing := TOTAL - whole.sum()) != 0:
        # Where one more, or one less, changes the code length of what was seen most, or least.
        change = 1 if missing > 0 else -1
        more = np.log2((whole + change) / np.maximum(whole, 1), where=whole + change > 0, out=np.zeros(256))
        gain = np.where(kept & (whole + change >= 1), share * more, -np.inf)
        best = np.argsort(-gain, kind="stable")[: min(abs(missing), 64)]
        whole[best[np.isfinite(gain[best])]] += change
    return whole.astype(np.int16)


# --- command --------------------------------------------------------------------------------------


def names() -> Iterator[tuple[str, int, int, lattices.Pass]]:
    for which in range(CLASSES):
        for plane in range(3):
            for step in lattices.PASSES:
                yield f"{which}.{plane}.{step.name}", which, plane, step


def train_nets(data: Path, out: Path, steps: int, only: Sequence[str]) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    train, validation = training_pictures(data, rng), validation_pictures(data)
    out.mkdir(parents=True, exist_ok=True)
    for name, which, plane, step in names():
        if (only and name not in only) or (not only and (out / f"{name}.safetensors").exists()):
            continue
        start = time.monotonic()
        net = fit(*samples(train, which, plane, step, rng), steps, units=UNITS[which])
        val = judged(net, *samples(validation, which, plane, step, rng, per_picture=2500, turn=False))
        save_file(net.integers(), out / f"{name}.safetensors")
        took = round(time.monotonic() - start)
        row = {"net": name, "steps": steps, "val_bits": round(val, 4), "seconds": took}
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def export(data: Path, nets: Path, out: Path, threeway: Path) -> None:
    """A weights file from trained nets, with tables counted on the training pictures, and from the tensors of
    `licodec.training.threeway`."""
    tensors: dict[str, npt.NDArray[Any]] = {"scales": scales_by_activity()}
    integers = {}
    for name, which, plane, step in names():
        parts = load_file(nets / f"{name}.safetensors")
        tensors |= {f"{name}.{part}": values for part, values in parts.items()}
        integers[which, plane, step.name] = pilc.net_of(parts["first"], parts["second"], parts["third"])
    pictures = training_pictures(data, np.random.default_rng(1))
    said = {"codec": "pilc", "tag": out.name, "architecture": "lattice", "tables": "lanes"}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "model.safetensors"
    # Tables of pictures that nothing was adapted to, then of what encoders with these tables would write.
    tensors["frequencies"] = frequencies(counted(pictures[::4], None, integers))
    save_file(tensors, path, said)
    model = pilc.Lossless(load_weights_file(path, "pilc", out.name))
    model.compile()
    tensors["frequencies"] = frequencies(counted(pictures, model, integers))
    tensors |= {name: t for name, t in load_file(threeway).items() if name.startswith(tw.PREFIX)}
    save_file(tensors, path, said)
    path.chmod(0o644)
    (out / "training.jsonl").write_bytes((nets / "log.jsonl").read_bytes())
    print(f"{path.stat().st_size} bytes")


INTRODUCTION = """\
Integer networks and tables of the lossless codec `pilc`: 18 networks of 48 and 32 units, which predict
samples on nested lattices and choose their probability tables. Exact on every machine. Files name these
weights by the decode digest.
"""
DATA = """\
Trained on the crops of the lossy codec's training set, reduced by 2 to 3.2 (their own coding is lossy, so its
traces had to go), and on 135 crops that were never coded with a loss. Four tenths of the former and half of
the latter had their colour reduced to half its resolution and back. Photographs only: drawn pictures are
coded without networks.
"""


def card(folder: Path, reports: Sequence[Path]) -> str:
    """Markdown of the model card, from the training log and reports of `licodec bench --lossless --json`."""
    ref = load_weights_file(folder / "model.safetensors", "pilc", folder.name).ref
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    said = {
        "license": "apache-2.0",
        "library_name": "licodec",
        "pipeline_tag": "image-to-image",
        "tags": json.dumps(["image-compression", "lossless", "learned-codec"]),
    }
    parts = ["\n".join(["---", *(f"{name}: {value}" for name, value in said.items()), "---\n"])]
    parts += [f"# pilc / {folder.name}\n", INTRODUCTION]
    size = (folder / "model.safetensors").stat().st_size
    parts.append(table(("", ""), [("decode digest", f"`{ref.decode_digest.hex()}`"), ("bytes", f"{size:,}")]))
    for report in reports:
        found = [Row(**row) for row in json.loads(report.read_text())]
        parts += [f"## Whole files: {report.stem}\n", markdown(found)]
    parts += ["## Training\n", DATA]
    parts.append("Bits a sample on `train/val` at half size, by class of lattice, plane and pass:\n")
    nets = sorted((row["net"], str(row["steps"]), f"{row['val_bits']:.3f}") for row in rows)
    parts.append(table(("net", "steps", "bits"), nets))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the nets of pilc.")
    commands = parser.add_subparsers(dest="command", required=True)
    nets = commands.add_parser("nets")
    nets.add_argument("data", type=Path)
    nets.add_argument("out", type=Path)
    nets.add_argument("--steps", type=int, default=8000)
    nets.add_argument("--only", nargs="*", default=[])
    weights = commands.add_parser("export")
    weights.add_argument("data", type=Path)
    weights.add_argument("nets", type=Path)
    weights.add_argument("out", type=Path)
    weights.add_argument("threeway", type=Path, help="see licodec.training.threeway; a weights file will do")
    cards = commands.add_parser("card")
    cards.add_argument("folder", type=Path)
    cards.add_argument("reports", type=Path, nargs="*")
    wish = parser.parse_args()
    if wish.command == "card":
        (wish.folder / "card.md").write_text(card(wish.folder, wish.reports))
    elif wish.command == "nets":
        train_nets(wish.data, wish.out, wish.steps, wish.only)
    else:
        export(wish.data, wish.nets, wish.out, wish.threeway)


if __name__ == "__main__":
    main()

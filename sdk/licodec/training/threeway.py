"""Trains and exports tile mode 6 of pilc, three-way prediction with a VQ-VAE, and compares its parts.

    python -m licodec.training.threeway train ../shared/data RUN [--predictor median] [--minutes 2.2]
    python -m licodec.training.threeway export ../shared/data RUN threeway.safetensors
    python -m licodec.training.threeway compare ../shared/data threeway.safetensors... [--kodak]

Encoder, codebook and decoder learn together: code length of residuals under a logistic with the decoder's
offset and scale, its integers rounded from the start; straight-through gradient to the encoder; codes are
moving averages of what chooses them, those that nothing chooses are put where something is. What an index
costs is part of the choice. Tables of residuals and of indices are then counted on what an encoder writes.

`train` goes on where a run was stopped. Pictures: those of `licodec.training.lossless`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from lic_format.errors import WeightsError
from licodec.codecs import threeway as tw
from licodec.codecs.registry import tile_exponents, tiles
from licodec.entropy import lanes
from licodec.entropy.lanes import LaneTables
from licodec.entropy.lanes_reference import ESCAPE, TOTAL
from licodec.training.data import Pixels
from licodec.training.lossless import bits, frequencies, training_pictures, validation_pictures

CODES: Final = 256
LENGTH: Final = 8
HIDDEN: Final = 48
ENCODER_HIDDEN: Final = 64
SCALE_MIN: Final = 0.06
SCALE_RATIO: Final = 1.16
CODE_LIMIT: Final = tw.CODE_MAX / tw.CODE_UNIT
WEIGHT_LIMIT: Final = 511 / tw.WEIGHT_UNIT
ROW_LIMIT: Final = 60.0
"""Sum of magnitudes in a row of the second layer; 63 is what float32 has room for."""
CROP: Final = 96
BATCH: Final = 10
COMMITMENT: Final = 0.25
DECAY: Final = 0.99
RESEED: Final = 200
"""Steps after which codes that nothing chooses are put elsewhere."""
WARM: Final = 0.12
"""Share of the training in which codes are not chosen: noise stands for what choosing takes away."""
NOISE: Final = 0.3


# --- prediction -----------------------------------------------------------------------------------


def fitted(planes: Sequence[tw.Signed], rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Weights of W, N, NW of each plane that give the least sum of magnitudes, in 1/256."""
    out = np.zeros((3, 3), np.int32)
    for plane in range(3):
        rows = []
        for picture in planes:
            values = picture[:, :, plane].astype(np.float64)
            seen = [values[1:, :-1], values[:-1, 1:], values[:-1, :-1], values[1:, 1:]]
            chosen = rng.integers(0, seen[0].size, 300)
            rows.append(np.stack([each.reshape(-1)[chosen] for each in seen], axis=1))
        x, y = np.split(np.concatenate(rows), [3], axis=1)
        solution = np.linalg.lstsq(x, y, rcond=None)[0]
        for _ in range(40):
            weight = 1 / np.maximum(np.abs(y - x @ solution), 0.5)
            solution = np.linalg.solve(x.T @ (weight * x), x.T @ (weight * y))
        out[plane] = np.rint(solution[:, 0] * (1 << tw.Q8))
    return out


# --- networks -------------------------------------------------------------------------------------


def _on_grid(values: Tensor, unit: int) -> Tensor:
    """Rounded to multiples of 1 / unit; the gradient passes as if they were not."""
    return values + (torch.round(values * unit) / unit - values).detach()


def _bounded(weight: Tensor) -> Tensor:
    weight = weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    magnitude = weight.abs().sum(1, keepdim=True).clamp_min(1e-6)
    return _on_grid(weight * torch.clamp(ROW_LIMIT / magnitude, max=1), tw.WEIGHT_UNIT)


class Trainable(nn.Module):
    """Encoder, codebook and decoder, with the decoder's integers as floats."""

    codes: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()

        def start(rows: int, columns: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * scale / columns**0.5)

        self.mean = nn.Parameter(torch.zeros(tw.INPUTS), requires_grad=False)
        self.spread = nn.Parameter(torch.ones(tw.INPUTS), requires_grad=False)
        sizes = (tw.INPUTS, ENCODER_HIDDEN, ENCODER_HIDDEN, LENGTH)
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.first, self.first_bias = start(HIDDEN, 9 * LENGTH, 0.7), nn.Parameter(torch.zeros(HIDDEN))
        self.second = start(2 * tw.OUTPUTS, HIDDEN, 1.0)
        bias = torch.zeros(2 * tw.OUTPUTS)
        bias[: tw.OUTPUTS] = math.log(1.5 / SCALE_MIN, SCALE_RATIO)
        self.second_bias = nn.Parameter(bias)
        with torch.no_grad():
            self.second[: tw.OUTPUTS] *= 3
            self.second[tw.OUTPUTS :] *= 0.05
        self.register_buffer("codes", torch.zeros(CODES, LENGTH))
        self.register_buffer("sums", torch.zeros(CODES, LENGTH))
        self.register_buffer("counts", torch.zeros(CODES))

    def seen(self, x: Tensor) -> Tensor:
        """Inputs of cells [n, 60] -> [n, d]."""
        x = (x - self.mean) / self.spread
        for number, layer in enumerate(self.encoder):
            x = layer(x) if number == 0 else layer(F.relu(x))
        return x.clamp(-CODE_LIMIT, CODE_LIMIT)

    def prices(self) -> Tensor:
        """Bits of each index, [K]."""
        return -torch.log2((self.counts + 0.5) / (self.counts.sum() + 0.5 * len(self.counts)))

    def chosen(self, z: Tensor) -> Tensor:
        costs = -2 * z @ self.codes.T + (self.codes**2).sum(1) + tw.PRICE * self.prices()
        return costs.argmin(1)

    def decoded(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, d, rows, columns] -> scale in steps and offset, [B, 48, rows, columns] each."""
        unit = tw.WEIGHT_UNIT
        around = F.pad(_on_grid(codes, tw.CODE_UNIT), (1, 1, 1, 1), mode="replicate")
        kernel = self._first().reshape(HIDDEN, 3, 3, LENGTH).permute(0, 3, 1, 2)
        h = F.conv2d(around, kernel, _on_grid(self.first_bias, unit * tw.CODE_UNIT))
        h = (h + (torch.floor(h * unit) / unit - h).detach()).clamp(0, tw.HIDDEN_MAX / unit)
        out = F.conv2d(h, _bounded(self.second)[:, :, None, None], _on_grid(self.second_bias, unit**2))
        return out[:, : tw.OUTPUTS], out[:, tw.OUTPUTS :]

    def _first(self) -> Tensor:
        return _on_grid(self.first.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT), tw.WEIGHT_UNIT)

    @torch.no_grad()
    def follow(self, z: Tensor, chosen: Tensor) -> None:
        """Move the codes to what chooses them."""
        one_hot = F.one_hot(chosen, CODES).to(z.dtype)
        self.counts.mul_(DECAY).add_(one_hot.sum(0), alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(one_hot.T @ z, alpha=1 - DECAY)
        alive = self.counts > 1e-3
        self.codes[alive] = (self.sums / self.counts.clamp_min(1e-3)[:, None])[alive]

    @torch.no_grad()
    def seed(self, z: Tensor, dead: Tensor) -> None:
        """Put codes where some of these vectors are."""
        drawn = z[torch.randint(len(z), (int(dead.sum()),))]
        self.codes[dead] = drawn + 0.01 * torch.randn_like(drawn)
        self.counts[dead] = len(z) / CODES * 0.2
        self.sums[dead] = self.codes[dead] * self.counts[dead, None]

    @torch.no_grad()
    def gather(self, z: Tensor, rounds: int = 12) -> None:
        """Codes as the means of groups of these vectors."""
        self.codes.copy_(z[torch.randperm(len(z))[:CODES]])
        for _ in range(rounds):
            nearest = torch.cdist(z, self.codes).argmin(1)
            counts = torch.bincount(nearest, minlength=CODES).to(z.dtype)
            sums = torch.zeros_like(self.codes).index_add_(0, nearest, z)
            self.codes.copy_(
                torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], self.codes)
            )
            self.counts.copy_(counts * (BATCH * (CROP // tw.CELL) ** 2 / len(z)))
            self.sums.copy_(self.codes * self.counts[:, None])
            empty = counts == 0
            if empty.any():
                self.seed(z, empty)

    def loss(self, x: Tensor, residuals: Tensor, warm: bool) -> tuple[Tensor, Tensor]:
        """Loss, and bits a sample of residuals: of inputs [B rows columns, 60] and residuals [B, H, W, 3]."""
        batch, height, width, _ = residuals.shape
        rows, columns = height // tw.CELL, width // tw.CELL
        z = self.seen(x)
        if warm:
            used, extra = z + NOISE * torch.randn_like(z), 0.002 * (z**2).mean()
        else:
            chosen = self.chosen(z.detach())
            codes = self.codes[chosen]
            used, extra = z + (codes - z).detach(), COMMITMENT * ((z - codes) ** 2).mean()
            self.follow(z.detach(), chosen)
        grid = used.reshape(batch, rows, columns, LENGTH).permute(0, 3, 1, 2)
        scale, offset = (_samples(each) for each in self.decoded(grid.clamp(-CODE_LIMIT, CODE_LIMIT)))
        low, high = tw.OFFSETS
        offset = offset + (torch.floor(offset) - offset).detach()
        spread = SCALE_MIN * torch.exp(scale.clamp(0, tw.SCALES - 1) * math.log(SCALE_RATIO))
        rows_judged = slice(int(torch.randint(2, ())), None, 2)  # half of the rows: faster, and of all parts
        length = bits(*(each[:, rows_judged] for each in (offset.clamp(low, high), spread, residuals))).mean()
        return length + extra, length

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The nets' integers for a weights file."""
        unit = tw.WEIGHT_UNIT

        def matrix(weight: Tensor, bias: Tensor, weight_unit: int, bias_unit: int) -> npt.NDArray[Any]:
            rounded = torch.round(weight * weight_unit), torch.round(bias * bias_unit)[:, None]
            return torch.cat(rounded, 1).detach().numpy().astype(np.int32)

        half = torch.zeros(2 * tw.OUTPUTS)
        half[: tw.OUTPUTS] = 0.5  # scales are rounded, offsets were floored in training too
        out = {
            "codes": torch.round(self.codes * tw.CODE_UNIT).numpy().clip(-tw.CODE_MAX, tw.CODE_MAX),
            "first": matrix(self._first(), self.first_bias, unit, unit * tw.CODE_UNIT),
            "second": matrix(_bounded(self.second), self.second_bias + half, unit, unit**2),
            "prices": torch.round(tw.PRICE * self.prices() * tw.ENCODER_UNIT).numpy(),
        }
        for number, layer in enumerate(self.encoder):
            assert isinstance(layer, nn.Linear)
            weight, bias = layer.weight.detach(), layer.bias.detach()
            if number == 0:
                weight = weight / self.spread
                bias = bias - weight @ self.mean
            values = matrix(weight, bias, tw.ENCODER_UNIT, tw.ENCODER_UNIT)
            out[f"encoder.{number}"] = values.clip(-32767, 32767)
        return {
            name: values.astype(
                np.int8 if name == "codes" else np.int16 if values.max() < 32768 else np.int32
            )
            for name, values in out.items()
        }


def _samples(parts: Tensor) -> Tensor:
    """[B, 48, rows, columns] by row, column and plane of a part as samples [B, H, W, 3]."""
    batch, _, rows, columns = parts.shape
    apart = parts.reshape(batch, tw.PARTS, tw.PARTS, 3, rows, columns).permute(0, 4, 1, 5, 2, 3)
    small = apart.reshape(batch, rows * tw.PARTS, 1, columns * tw.PARTS, 1, 3)
    whole = small.expand(-1, -1, tw.PART, -1, tw.PART, -1)
    return whole.reshape(batch, rows * tw.CELL, columns * tw.CELL, 3)


# --- training -------------------------------------------------------------------------------------


def _turned(picture: Pixels, rng: np.random.Generator) -> Pixels:
    turned = np.rot90(picture, int(rng.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)


def _crops(residuals: Sequence[tw.Signed], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Inputs of the cells of a batch, and its residuals."""
    drawn: list[tw.Signed] = []
    while len(drawn) < BATCH:
        picture = residuals[int(rng.integers(len(residuals)))]
        height, width = picture.shape[:2]
        if min(height, width) >= CROP:
            top, left = int(rng.integers(height - CROP + 1)), int(rng.integers(width - CROP + 1))
            drawn.append(picture[top : top + CROP, left : left + CROP])
    x = np.concatenate([tw.inputs_of(crop)[0] for crop in drawn])
    return torch.from_numpy(x), torch.from_numpy(np.stack(drawn).astype(np.float32))


def train(data: Path, run: Path, kind: tw.Predictor, minutes: float, seed: int = 0) -> None:
    """Train until so many minutes of the processor are spent, together with what the run spent before."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    run.mkdir(parents=True, exist_ok=True)
    pictures = [_turned(picture, rng) for picture in training_pictures(data, rng)]
    planes = [tw.planes_of(picture) for picture in pictures]
    prediction = tw.Prediction(kind, fitted(planes, rng))
    residuals = [prediction.residuals(each) for each in planes]
    del pictures, planes

    net = Trainable()
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, betas=(0.9, 0.99), weight_decay=0)
    step, spent, gathered, checkpoint = 0, 0.0, False, run / "state.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, gathered = state["step"], state["spent"], state["gathered"]
    else:
        x = torch.cat([_crops(residuals, rng)[0] for _ in range(20)])
        net.mean.data, net.spread.data = x.mean(0), x.std(0) + 0.05

    def save() -> None:
        state: dict[str, Any] = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"step": step, "spent": spent, "gathered": gathered}
        torch.save(state, run / "partial.pt")
        (run / "partial.pt").replace(checkpoint)
        tensors = net.tensors() | {
            "predictor": np.array([kind], np.uint8),
            "weights": prediction.weights,
        }
        save_file(tensors, run / "nets.safetensors")

    shown: list[float] = []
    while (done := spent / (60 * minutes)) < 1:
        start = time.process_time()
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        warm = done < WARM
        if not warm and not gathered:
            with torch.no_grad():
                net.gather(torch.cat([net.seen(_crops(residuals, rng)[0]) for _ in range(24)]))
            gathered = True
        loss, length = net.loss(*_crops(residuals, rng), warm)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        step += 1
        if gathered and step % RESEED == 0 and done < 0.8:
            dead = net.counts < 0.02
            with torch.no_grad():
                net.seed(net.seen(_crops(residuals, rng)[0]), dead)
        spent += time.process_time() - start
        shown.append(float(length.detach()))
        if step % 500 == 0:
            used = torch.exp2(-net.prices())
            entropy = float((used * net.prices()).sum()) if gathered else math.nan
            row = {"step": step, "seconds": round(spent), "bits": round(float(np.mean(shown)), 4)}
            row["index_bits"] = round(entropy, 2)
            print(json.dumps(row), flush=True)
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            shown.clear()
            save()
    save()


# --- tables ---------------------------------------------------------------------------------------


class Tensors:
    """A `Reader` of arrays in memory."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
        self.arrays, self.path = arrays, path

    def has(self, name: str) -> bool:
        return name in self.arrays

    def __call__(self, name: str, shape: tuple[int | None, ...], low: int, high: int) -> tw.Integers:
        if name not in self.arrays:
            raise WeightsError(f"{self.path}: no tensor {name!r}")
        values: tw.Integers = self.arrays[name].astype(np.int64)
        fits = len(values.shape) == len(shape)
        if not fits or any(b not in (a, None) for a, b in zip(values.shape, shape, strict=True)):
            raise WeightsError(f"{self.path}: {name!r} is {values.shape}, expected {shape}")
        if values.min() < low or values.max() > high:
            raise WeightsError(
                f"{self.path}: {name!r} holds {values.min()}..{values.max()}, expected {low}..{high}"
            )
        return values


def system(arrays: dict[str, npt.NDArray[Any]], path: Path) -> tw.Threeway:
    """The system of tensors with the prefix `threeway.`."""
    loaded = tw.load(Tensors(arrays, path))
    if loaded is None:
        raise WeightsError(f"{path}: no tensors {tw.PREFIX}*, see `export`")
    return loaded


def whole(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Tensors with their prefix, and with tables that know nothing where there are none yet."""
    codes = len(arrays["codes"])
    counted: dict[str, npt.NDArray[Any]] = {
        "features": np.zeros((codes, 2), np.uint8),
        "thresholds": np.zeros((2, tw.STEPS - 1), np.int16),
        "tables": np.full((3, tw.SCALES), tw.CONTEXTS + 1, np.uint8),
        "frequencies": np.full((tw.CONTEXTS + 2, 256), TOTAL // 256, np.int16),
    }
    return {tw.PREFIX + name: values for name, values in (counted | arrays).items()}


def features_of(decoder: tw.Decoder) -> npt.NDArray[np.uint8]:
    """How wide G and colours are where all cells have one code: [K, 2], 0..255."""
    out = np.empty((len(decoder.codes), 2), np.uint8)
    for code in range(len(out)):
        scales, _ = decoder(np.full((1, 1), code, np.intp))
        means = scales[:, :, 0].mean(), scales[:, :, 1:].mean()
        out[code] = np.rint(np.array(means) * (tw.FEATURE_MAX / (tw.SCALES - 1)))
    return out


def thresholds_of(features: npt.NDArray[np.uint8], grids: Sequence[tw.Grid]) -> npt.NDArray[np.int16]:
    """Eighths of what neighbours' features are, in 1/12."""
    out = np.empty((2, tw.STEPS - 1), np.int16)
    for plane in range(2):
        means = []
        for grid in grids:
            values = features[grid, plane].astype(np.int64)
            sums = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
            means.append(sums.reshape(-1) * 3)
        quantiles = np.quantile(np.concatenate(means), np.arange(1, tw.STEPS) / tw.STEPS)
        out[plane] = np.rint(quantiles)
    return out


def _length(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bits of histograms [..., 256], each coded with its own frequencies."""
    total = counts.sum(-1, keepdims=True)
    shares = np.maximum(counts, 1e-9) / np.maximum(total, 1e-9)
    out: npt.NDArray[np.float64] = -(counts * np.log2(shares)).sum(-1)
    return out


def grouped(counts: npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.int64]:
    """Tables for scales whose histograms are [3, 48, 256], as [3, 48]: neighbouring scales of a plane share
    one where that costs least, until so many are left."""
    parts = [
        (plane, [scale], counts[plane, scale] + 1e-3)
        for plane in range(3)
        for scale in range(counts.shape[1])
    ]
    while len(parts) > groups:
        pairs = [i for i in range(len(parts) - 1) if parts[i][0] == parts[i + 1][0]]
        left = np.stack([parts[i][2] for i in pairs])
        right = np.stack([parts[i + 1][2] for i in pairs])
        best = pairs[int((_length(left + right) - _length(left) - _length(right)).argmin())]
        (plane, first, a), (_, second, b) = parts[best], parts[best + 1]
        parts[best : best + 2] = [(plane, first + second, a + b)]
    out = np.zeros(counts.shape[:2], np.int64)
    for number, (plane, scales, _) in enumerate(parts):
        out[plane, scales] = number
    return out


def _frequencies_of_indices(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """As if each table had also seen 40 indices of all tables."""
    share = counts.sum(0) / max(counts.sum(), 1)
    return frequencies(((counts + 40 * share) * 1e6).astype(np.int64))


def counted(
    arrays: dict[str, npt.NDArray[Any]], pictures: Sequence[Pixels], path: Path
) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a system, from its nets and what they write of these pictures."""
    model = system(whole(arrays), path)
    residuals = [model.prediction.residuals(tw.planes_of(picture)) for picture in pictures]
    grids = [model.nearest(each) for each in residuals]
    used = np.bincount(np.concatenate([g.reshape(-1) for g in grids]), minlength=len(arrays["codes"]))
    if len(used) > ESCAPE:  # which costs a byte more than its table says: for the rarest
        order = np.arange(len(used))
        rarest = int(used.argmin())
        order[[ESCAPE, rarest]] = order[[rarest, ESCAPE]]
        arrays = arrays | {name: arrays[name][order] for name in ("codes", "prices")}
        grids = [order[grid] for grid in grids]  # a swap undoes itself
        model = system(whole(arrays), path)
    features = features_of(model.decoder)
    arrays = arrays | {"features": features, "thresholds": thresholds_of(features, grids)}
    model = system(_with_tables(arrays, residuals, grids, path), path)
    return _with_tables(arrays, residuals, [model.indices_of(each) for each in residuals], path)


def _with_tables(
    arrays: dict[str, npt.NDArray[Any]],
    residuals: Sequence[tw.Signed],
    grids: Sequence[tw.Grid],
    path: Path,
) -> dict[str, npt.NDArray[Any]]:
    """All tensors, with tables of what is coded with these indices."""
    model = system(whole(arrays), path)
    of_indices = np.zeros((tw.CONTEXTS + 1, 256), np.int64)
    of_scales = np.zeros((3, tw.SCALES, 256), np.int64)
    for each, grid in zip(residuals, grids, strict=True):
        for tables, indices in model.contexts.told(grid):
            np.add.at(of_indices, (tables, indices), 1)
        of_indices[tw.CONTEXTS] += np.bincount(grid.reshape(-1), minlength=256)
        scales, offsets = (tw.spread(parts, each.shape) for parts in model.decoder(grid))
        symbols = (each - offsets).view(np.uint8)
        for plane in range(3):
            place = scales[:, :, plane].astype(np.int64) * 256 + symbols[:, :, plane]
            of_scales[plane] += np.bincount(place.reshape(-1), minlength=tw.SCALES * 256).reshape(-1, 256)
    groups = lanes.TABLES_MAX - tw.CONTEXTS - 1
    table_of = grouped(of_scales, groups)
    of_tables = np.zeros((groups, 256), np.int64)
    np.add.at(of_tables, table_of, of_scales)
    both = np.concatenate([_frequencies_of_indices(of_indices), frequencies(of_tables)])
    chosen = (table_of + tw.CONTEXTS + 1).astype(np.uint8)
    return whole(arrays | {"tables": chosen, "frequencies": both})


def without_indices(
    arrays: dict[str, npt.NDArray[Any]], pictures: Sequence[Pixels], path: Path
) -> dict[str, npt.NDArray[Any]]:
    """The best system of one index, which takes no bits. Its decoder says the same everywhere, so training
    could find nothing better than one table a plane, counted on residuals."""
    alone: dict[str, npt.NDArray[Any]] = {
        "codes": np.zeros((1, 1), np.int8),
        "first": np.zeros((1, 10), np.int16),
        "second": np.zeros((2 * tw.OUTPUTS, 2), np.int16),
        "prices": np.zeros(1, np.int16),
        "predictor": arrays["predictor"],
        "weights": arrays["weights"],
        "encoder.0": np.zeros((1, tw.INPUTS + 1), np.int16),
        "encoder.1": np.zeros((1, 2), np.int16),
        "encoder.2": np.zeros((1, 2), np.int16),
    }
    model = system(whole(alone), path)
    counts = np.zeros((3, 256), np.int64)
    for picture in pictures:
        residuals = model.prediction.residuals(tw.planes_of(picture)).view(np.uint8)
        for plane in range(3):
            counts[plane] += np.bincount(residuals[:, :, plane].reshape(-1), minlength=256)
    indices = np.zeros((tw.CONTEXTS + 1, 256), np.int16)
    indices[:, 0], indices[:, ESCAPE] = TOTAL - 1, 1
    tables = np.repeat(np.arange(3)[:, None], tw.SCALES, axis=1) + tw.CONTEXTS + 1
    both = np.concatenate([indices, frequencies(counts)])
    return whole(alone | {"tables": tables.astype(np.uint8), "frequencies": both})


def export(data: Path, run: Path, out: Path) -> None:
    """The tensors of a run, and beside them the system without indices."""
    rng = np.random.default_rng(1)
    pictures = [_turned(picture, rng) for picture in training_pictures(data, rng)][::2]
    arrays = load_file(run / "nets.safetensors")
    save_file(counted(arrays, pictures, run), out)
    save_file(without_indices(arrays, pictures, run), out.with_suffix(".without.safetensors"))


# --- comparison -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Measured:
    """Of some pictures: samples, bytes of bodies, bits of indices in them, seconds of the processor."""

    samples: int = 0
    size: int = 0
    index_bits: float = 0
    encoding: float = 0
    decoding: float = 0

    def row(self, name: str) -> str:
        index = self.index_bits / self.samples
        speed = (f"{self.samples / 1e6 / seconds:.1f}" for seconds in (self.encoding, self.decoding))
        return " | ".join(
            ("", name, f"{8 * self.size / self.samples:.4f}", f"{index:.4f}", *speed, "")
        ).strip()


def index_bits(model: tw.Threeway, tile: Pixels) -> float:
    """What the indices of a tile cost."""
    grid = model.indices_of(model.prediction.residuals(tw.planes_of(tile)))
    tables: LaneTables = model.lane_tables
    total = 0.0
    for chosen, indices in model.contexts.told(grid):
        seen = tables.frequencies[chosen, indices].astype(np.float64)
        escaped = (seen == 0) | (indices == ESCAPE)
        seen[escaped] = tables.frequencies[chosen[escaped], ESCAPE]
        total += float(-np.log2(seen / TOTAL).sum() + 8 * escaped.sum())
    return total


def one_table_bits(model: tw.Threeway, tile: Pixels) -> float:
    """What a tile would cost with the best of all tables for each of its planes, chosen for nothing."""
    residuals = model.prediction.residuals(tw.planes_of(tile)).view(np.uint8)
    seen = np.stack([np.bincount(plane.reshape(-1), minlength=256) for plane in residuals.transpose(2, 0, 1)])
    shares = model.lane_tables.frequencies[tw.CONTEXTS + 1 :] / TOTAL
    escaped = (shares == 0) | ((np.arange(256) == ESCAPE) & ~model.lane_tables.full[tw.CONTEXTS + 1 :, None])
    lengths = np.where(escaped, 8 - np.log2(shares[:, [ESCAPE]]), -np.log2(np.maximum(shares, 1 / TOTAL)))
    return float((seen @ lengths.T).min(axis=1).sum())


def cut(picture: Pixels) -> list[Pixels]:
    """The tiles of a picture."""
    height, width = picture.shape[:2]
    places = tiles(width, height, *tile_exponents(width, height))
    return [np.ascontiguousarray(picture[place]) for place in places]


def measured(model: tw.Threeway, pictures: Sequence[Pixels], together: int = 8) -> Measured:
    """Bodies of all tiles, decoded again and compared."""
    out = Measured()
    work = [tile for picture in pictures for tile in cut(picture)]
    for first in range(0, len(work), together):
        group = work[first : first + together]
        start = time.process_time()
        bodies = model.encode_many(group)
        coded = time.process_time()
        found = model.decode_many(bodies, [tile.shape for tile in group])
        out.decoding += time.process_time() - coded
        out.encoding += coded - start
        if not all(np.array_equal(a, b) for a, b in zip(group, found, strict=True)):
            raise AssertionError("a tile does not come back")
        out.size += sum(map(len, bodies))
        out.samples += sum(tile.size for tile in group)
        out.index_bits += sum(index_bits(model, tile) for tile in group)
    return out


def compare(pictures: Sequence[Pixels], files: Sequence[Path]) -> Iterator[str]:
    """A table of systems, each as exported, with and without its indices."""
    yield "| system | bits a sample | of them indices | encode MB/s | decode MB/s |"
    yield "|---|---|---|---|---|"
    for file in files:
        for path, said in ((file, ""), (file.with_suffix(".without.safetensors"), ", without indices")):
            model = system(load_file(path), path)
            kind = model.prediction.kind.name.lower()
            found = measured(model, pictures)
            yield found.row(f"{file.stem}: {kind}{said}")
            if not said:
                alone = sum(one_table_bits(model, tile) for picture in pictures for tile in cut(picture))
                name = f"{file.stem}: {kind}, one table a tile and plane (no bodies)"
                yield f"| {name} | {alone / found.samples:.4f} | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export and compare three-way prediction.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("run", type=Path)
    training.add_argument(
        "--predictor", choices=[kind.name.lower() for kind in tw.Predictor], default="median"
    )
    training.add_argument("--minutes", type=float, default=2.2)
    exporting = commands.add_parser("export")
    exporting.add_argument("data", type=Path)
    exporting.add_argument("run", type=Path)
    exporting.add_argument("file", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("data", type=Path)
    comparing.add_argument("files", type=Path, nargs="+")
    comparing.add_argument("--kodak", action="store_true", help="instead of train/val at half size")
    wish = parser.parse_args()
    if wish.command == "train":
        train(wish.data, wish.run, tw.Predictor[wish.predictor.upper()], wish.minutes)
    elif wish.command == "export":
        export(wish.data, wish.run, wish.file)
    else:
        if wish.kodak:
            pictures = []
            for path in sorted((wish.data / "kodak").glob("*.png")):
                with Image.open(path) as image:
                    pictures.append(np.asarray(image.convert("RGB")))
        else:
            pictures = validation_pictures(wish.data)
        for line in compare(pictures, wish.files):
            print(line, flush=True)


if __name__ == "__main__":
    main()

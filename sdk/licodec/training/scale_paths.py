"""Equal-time comparison of ways to choose scales, on frozen transforms and means.

    python -m licodec.training.scale_paths checkpoints/fhic-s data/train --minutes 6

Every way gets fresh nets and the same steps on the same batches; what they predict is the same symbols:

    one-step     integer nets on z alone: all table indices at once
    two-step     integer nets on z and the magnitudes of the anchors, all channels together
    groups       integer nets on z, earlier groups and anchors: decode order 1
    float        float nets on z and decoded values y^, as a joint (mean, scale) head sees them: the ceiling

The difference between `groups` and `float` is what exactness costs: taking scales apart and making them
integers. Bits are those of rounded symbols on validation crops, the integer ways with fake quantisation on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from licodec.codecs import checkerboard as cb
from licodec.codecs import checkerboard_layout as layout
from licodec.entropy.schedule import Pass
from licodec.exact.layers import interpolate_knots
from licodec.exact.trainable import TrainableConv, round_through
from licodec.training.data import Crops, read_crops, to_input
from licodec.training.export import load_average
from licodec.training.loop import VALIDATION_RATES, take_half
from licodec.training.objective import TrainingModel, context_indices, index_bits, scale_features, twin_nets

SIDE, BATCH = 192, 8


class IntegerWay(nn.Module):
    """Twins of the scale nets of a preset; `direct` uses the one-step head, otherwise the checkerboard's."""

    def __init__(self, preset: layout.Preset, start: Tensor, *, direct: bool) -> None:
        super().__init__()
        self.preset, self.direct = preset, direct
        names = ("hyper", "direct") if direct else ("hyper", "project", "context", "taps", "scale")
        specs = [spec for spec in layout.exact_layers(preset) if spec.name.split(".")[0] in names]
        self.twins = nn.ModuleDict({spec.name.replace(".", "_"): TrainableConv(spec) for spec in specs})
        with torch.no_grad():
            for spec in specs:
                if spec.last:
                    first = 0 if direct else sum(preset.groups[: int(spec.name.split(".")[1])])
                    self.twin(spec.name).bias.copy_(start[:, first : first + spec.out])

    def twin(self, name: str) -> TrainableConv:
        module = self.twins[name.replace(".", "_")]
        assert isinstance(module, TrainableConv)
        return module

    def quantise(self, on: bool) -> None:
        for module in self.twins.values():
            assert isinstance(module, TrainableConv)
            module.quantise = on

    def forward(self, z: Tensor, q: Tensor, known: Tensor, rate: Tensor) -> Tensor:
        nets = twin_nets(self.twin, rate)
        features = scale_features(nets, z, *q.shape[2:])
        if self.direct:
            return nets.direct(features)
        return context_indices(nets, self.preset, features, q)


class FloatWay(nn.Module):
    """Nets of the means' size and inputs that predict scale indices, unconstrained."""

    def __init__(self, preset: layout.Preset, start: Tensor) -> None:
        super().__init__()
        self.nets = cb.MeanNets(preset)
        self.bias = nn.Parameter(start.clone())
        self.preset = preset

    def quantise(self, on: bool) -> None:
        """Nothing here is ever quantised."""

    def forward(self, z: Tensor, q: Tensor, known: Tensor, rate: Tensor) -> Tensor:
        parts = torch.split(cb.rows_of(known), list(self.preset.groups), 2)
        h, w = q.shape[2:]
        scales: list[Tensor] = []

        def settle(step: Pass, scale: Tensor) -> Tensor:
            scales.append(scale)
            place = cb.places(h, w, self.preset.depths[step.group], str(q.device))[step.number]
            return parts[step.group].index_select(1, place.cells)

        self.nets.walk(self.nets.hyper(z), settle)
        return (
            10 * cb.interleave(scales, self.preset, h, w)
            + interpolate_knots(self.bias, rate)[:, :, None, None]
        )


@torch.no_grad()
def symbols(model: TrainingModel, x: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hyper-latents, symbols and decoded latents (bounded units) of the frozen model."""
    y, z = model.latents(x, rate)
    z, per_unit = round_through(z), cb.density(model.gains(rate)[0])
    mean, decoded = model.walk_means(y, z, per_unit)
    return z, cb.round_half_up(y - mean), decoded / per_unit


def compare(
    run: Path, data: Path, minutes: float, preset: str = "s", seed: int = 11
) -> dict[str, list[float]]:
    """Bits per pixel of the latents at the validation rates, for every way."""
    model = load_average(run / "last.pt", preset).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sizes = model.preset
    crops = Crops.load(data, Path("checkpoints/cache"))
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    start = model.twin("direct.1").bias.detach().clone()
    one_group = dataclasses.replace(sizes, groups=(sizes.latents,), depths=(1,))
    ways: dict[str, nn.Module] = {
        "one-step": IntegerWay(sizes, start, direct=True),
        "two-step": IntegerWay(one_group, start, direct=False),
        "groups": IntegerWay(sizes, start, direct=False),
        "float": FloatWay(sizes, start),
    }
    parameters = [p for way in ways.values() for p in way.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        for way in ways.values():
            way.quantise(progress > 0.6)  # type: ignore[operator]
        for group in optimiser.param_groups:
            group["lr"] = min(1.0, (step + 1) / 100) * (
                1e-5 + 1e-3 * 0.5 * (1 + math.cos(math.pi * progress))
            )
        rate = torch.from_numpy(rng.integers(0, 256, BATCH))
        x = to_input(crops.draw(rng, SIDE, take_half(rng, rate.numpy())), "cpu")
        loss = sum(bits.mean() for bits in _bits(model, ways, x, rate).values())
        assert isinstance(loss, Tensor)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 4.0)
        optimiser.step()
        step += 1
    pictures = [to_input(crop[None, :512, :512], "cpu") for crop in read_crops(data, "val.jsonl")[::4]]
    pictures = [x for x in pictures if x.shape[2:] == (128, 128)]
    result: dict[str, list[float]] = {"steps": [float(step)]}
    with torch.no_grad():
        for name in ways:
            result[name] = []
        for value in VALIDATION_RATES:
            rows = [_bits(model, ways, x, torch.tensor([value])) for x in pictures]
            for name in ways:
                result[name].append(float(np.mean([float(row[name]) for row in rows])))
    return result


def _bits(model: TrainingModel, ways: dict[str, nn.Module], x: Tensor, rate: Tensor) -> dict[str, Tensor]:
    z, q, known = symbols(model, x, rate)
    out = {}
    for name, way in ways.items():
        with torch.autocast("cpu", torch.bfloat16):
            index = way(z, q, known, rate).float()
        out[name] = index_bits(q, index).sum((1, 2, 3)) / (x.numel() / 3)
    return out


def table(result: dict[str, list[float]]) -> str:
    """Markdown: bits per pixel by rate index, and each way's mean excess over the float one."""
    lines = [
        "| way | " + " | ".join(f"r = {r}" for r in VALIDATION_RATES) + " | over float |",
        "|" + "---|" * 6,
    ]
    for name in ("one-step", "two-step", "groups", "float"):
        excess = np.mean([a / b - 1 for a, b in zip(result[name], result["float"], strict=True)])
        lines.append(
            f"| {name} | " + " | ".join(f"{b:.4f}" for b in result[name]) + f" | {100 * excess:+.2f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    arguments = parser.parse_args()
    result = compare(arguments.run, arguments.data, arguments.minutes)
    print(json.dumps(result))
    print(table(result))


if __name__ == "__main__":
    main()

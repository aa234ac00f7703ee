"""Sizes of fhic's presets, as docs/presets.md has them.

    python tools/presets.py

Parameters are those of the nets as they are trained; multiplications are those of convolutions and products
that coding does, for a pixel of a picture whose sides are multiples of 64, all channels coded in order 1.
Weights and pictures are not needed: everything follows from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from licodec.codecs import checkerboard as cb
from licodec.codecs.checkerboard_layout import CELL, HYPER, PRESETS, QUARTER, Preset, exact_layers
from licodec.training.objective import TrainingModel, walk_scales

SIDE = 128
"""Pixels of the picture that is counted on, each way."""
HEAD = ("", *PRESETS)


class Counted:
    """Layers of the scale nets that only count (`checkerboard.Layer`)."""

    def __init__(self, p: Preset) -> None:
        self.specs = {spec.name: spec for spec in exact_layers(p)}
        self.multiplications = 0

    def __call__(self, name: str, x: Tensor) -> Tensor:
        spec = self.specs[name]
        self.multiplications += spec.inp * spec.out * spec.kernel**2 * x.shape[2] * x.shape[3]
        return x.new_zeros(1, spec.out, *x.shape[2:])

    def pointwise(self, name: str, rows: Tensor) -> Tensor:
        spec = self.specs[name]
        self.multiplications += spec.inp * spec.out * rows.shape[1]
        return rows.new_zeros(1, rows.shape[1], spec.out)

    def around(self, name: str, known: Sequence[Tensor], unknown: Tensor, place: cb.Place) -> Tensor:
        spec = self.specs[name]
        seen = place.near(spec.kernel).gather(known)
        self.multiplications += seen.numel() * spec.out
        return seen.new_zeros(1, len(seen), spec.out)


def thousands(count: float) -> float:
    """Thousands for a pixel."""
    return count / SIDE**2 / 1000


def counted(call: Callable[[], object]) -> float:
    """Thousands of multiplications for a pixel in a call that does one picture."""
    with FlopCounterMode(display=False) as counter:
        call()
    return thousands(counter.get_total_flops() / 2)


def parameters(*nets: nn.Module) -> int:
    return sum(parameter.numel() for net in nets for parameter in net.parameters())


@torch.no_grad()
def sizes(p: Preset) -> dict[str, str]:
    """The rows of the table for a preset."""
    h = SIDE // CELL
    with torch.device("meta"):
        model = TrainingModel(p).eval()
        blocks = torch.empty(1, QUARTER, 4 * h, 4 * h)
        y, z = torch.empty(1, p.latents, h, h), torch.empty(1, p.hyper, h // HYPER, h // HYPER)
        scale, at = torch.empty(1, p.latents, 1, 1), torch.empty(1, dtype=torch.int64)
        analysis = counted(lambda: model.analysis(blocks, at))
        synthesis = counted(lambda: model.synthesis(y, scale, at))
        hyper = counted(lambda: model.hyper_analysis(y))
        look = 0.0
        if p.refined:
            look = counted(lambda: model.refinement(y, blocks, scale, scale, at, model.synthesis))
    means = cb.MeanNets(p).eval()
    seen = means.hyper(torch.zeros(z.shape))
    mean = counted(lambda: means.hyper(torch.zeros(z.shape)))
    mean += counted(lambda: means.walk(seen, lambda _, found: found))
    layers = Counted(p)
    nets = cb.ScaleNets(layers)
    walk_scales(nets, p, nets.hyper(torch.zeros(z.shape)), torch.zeros(y.shape))
    shared = mean + thousands(layers.multiplications)
    encoder = [model.analysis, model.hyper_analysis, *([model.refinement] if p.refined else [])]
    every, integer = parameters(model), parameters(model.twins)
    return {
        "transforms": p.transforms,
        "latents, in groups": f"{p.latents}: {', '.join(map(str, p.groups))}",
        "passes of order 1": str(len(p.passes)),
        "parameters, millions": f"{every / 1e6:.2f}",
        "of the analysis / of all that only encoders need": f"{parameters(model.analysis) / 1e6:.2f} / "
        f"{parameters(*encoder) / 1e6:.2f}",
        "of the synthesis / of the mean nets": f"{parameters(model.synthesis) / 1e6:.2f} / "
        f"{parameters(model.means) / 1e6:.2f}",
        "of integer nets": f"{integer / 1e6:.2f}",
        "thousand multiplications a pixel: analysis": f"{analysis:.2f}",
        "synthesis": f"{synthesis:.2f}",
        "mean nets": f"{mean:.2f}",
        "scale nets (integers)": f"{thousands(layers.multiplications):.2f}",
        "encoding, in all": f"{analysis + look + hyper + shared:.1f}",
        "decoding, in all": f"{synthesis + shared:.1f}",
        "latent positions that a tile sees beyond itself": str(p.halo),
    }


def table() -> list[str]:
    """Lines of Markdown."""
    columns = [sizes(preset) for preset in PRESETS.values()]
    rows = [HEAD, *((name, *(column[name] for column in columns)) for name in columns[0])]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(HEAD), *lines[1:]]


if __name__ == "__main__":
    print("\n".join(table()))

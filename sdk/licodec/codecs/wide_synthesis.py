"""A wider synthesis for fhic's latents: decoder "best".

The same symbols, the same means, the same straight path, other corrections: the nets of `Synthesis` with more
channels and blocks, and on the 1/4 grid features of the 1/8 grid beside the picture: 2.3 times the
operations. It starts as the synthesis that it grows from (`grown`), which stays the one that encoders look
at.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_format.errors import WeightsError
from licodec.codecs.checkerboard import (
    Block,
    Checkerboard,
    Conv,
    Synthesis,
    _mixed,
    _Tensors,
    fit,
    leaky,
    modulated,
    shuffle,
    unshuffle,
    whole,
)
from licodec.codecs.checkerboard_layout import QUARTER, SIZE_MAX
from licodec.codecs.contract import Model
from licodec.codecs.fhic import in_torch
from licodec.exact.layers import interpolate_knots
from licodec.exact.specs import KNOTS
from licodec.store import Weights


@dataclass(frozen=True)
class Widths:
    """Sizes of a wide synthesis; by default of that for preset s."""

    latents: int = 320
    sixteenth: int = 192
    sixteenth_blocks: int = 2
    eighth: int = 128
    eighth_blocks: int = 4
    features: int = 32
    """Channels of the 1/4 grid beside the picture's."""
    quarter: int = 64
    quarter_layers: int = 1
    """3x3 convolutions of the 1/4 grid between its first and its last."""

    @property
    def halo(self) -> int:
        """Latent positions that it sees around one: a 3x3 convolution in every block, and those of the 1/4
        grid."""
        return math.ceil(self.sixteenth_blocks + self.eighth_blocks / 2 + (2 + self.quarter_layers) / 4)


class WideSynthesis(nn.Module):
    """Decoded latents [B, M, h, w] -> blocks [B, 48, 4h, 4w]; called as `Synthesis` is."""

    def __init__(self, p: Widths) -> None:
        super().__init__()
        self.klt = Conv(p.latents, 16 * QUARTER, 1)
        self.enter = Conv(p.latents, p.sixteenth, 1)
        self.sixteenth_blocks = nn.ModuleList(Block(p.sixteenth) for _ in range(p.sixteenth_blocks))
        self.from_sixteenth = Conv(p.sixteenth, 4 * p.eighth, 1)
        self.look = Conv(4 * QUARTER, p.eighth, 1)
        self.eighth_blocks = nn.ModuleList(Block(p.eighth) for _ in range(p.eighth_blocks))
        self.to_quarter = Conv(p.eighth, 4 * (QUARTER + p.features), 1)
        self.render = Conv(QUARTER + p.features, p.quarter, 3, "replicate")
        self.again = nn.ModuleList(
            Conv(p.quarter, p.quarter, 3, "replicate") for _ in range(p.quarter_layers)
        )
        self.film = nn.Parameter(torch.ones(KNOTS, p.quarter))
        self.leave = Conv(p.quarter, QUARTER, 3, "replicate")

    def forward(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        """Arguments as of `Synthesis`."""
        picture = shuffle(whole(self.klt, v * scale), 4)
        h = self.enter(fit(v, self.enter))
        for block in self.sixteenth_blocks:
            h = block(h, rate)
        h = shuffle(self.from_sixteenth(leaky(h)), 2).add_(self.look(unshuffle(fit(picture, self.look), 2)))
        for block in self.eighth_blocks:
            h = block(h, rate)
        h = shuffle(self.to_quarter(leaky(h)), 2)
        picture = picture + h[:, :QUARTER].float()
        h = self.render(torch.cat([fit(picture, self.render), h[:, QUARTER:]], 1))
        for layer in self.again:
            h = layer(F.leaky_relu(h, 0.1)).add_(h)
        return modulated(self.leave, leaky(h), interpolate_knots(self.film, rate)).float().add_(picture)


def alternate(model: Model, weights: Weights) -> Checkerboard:
    """A model of fhic that decodes with the wide synthesis of a weights file; all else is that model's.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, or for other latents.
    """
    whole = in_torch(model)
    widths = _widths(weights)
    if widths.latents != whole.preset.latents:
        raise WeightsError(
            f"{weights.path}: a synthesis of {widths.latents} latents, the picture has {whole.preset.latents}"
        )
    read = _Tensors(weights)
    net = read.module("synthesis.", lambda _: WideSynthesis(widths), whole.preset)
    other = copy.copy(whole)
    other.inverse_gain = read.floats("synthesis.inverse_gain", (KNOTS, widths.latents))
    other.shown_by = _mixed(net, whole.precision).to(whole.device)
    other.halo = widths.halo
    return other


def _widths(weights: Weights) -> Widths:
    try:
        values = json.loads(weights.metadata["architecture"])
        for size in values.values():
            if type(size) is not int or not 1 <= size <= SIZE_MAX:
                raise ValueError(f"{size!r} is no size")
        return Widths(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights.path}: its metadata 'architecture' does not describe a wide synthesis ({error})"
        ) from error


def grown(fast: Synthesis, p: Widths) -> WideSynthesis:
    """A wide synthesis in float32 that gives what `fast` gives: new channels read the old ones, which don't
    read them yet, and new blocks add nothing yet.

    Raises:
        ValueError: a size is below that of `fast`.
    """
    wide = WideSynthesis(p)
    old = {name: value.float() for name, value in fast.state_dict().items()}
    new = wide.state_dict()
    sizes = dataclasses.replace(
        p,
        sixteenth=fast.enter.out_channels,
        sixteenth_blocks=len(fast.sixteenth_blocks),
        eighth=fast.look.out_channels,
        eighth_blocks=len(fast.eighth_blocks),
        features=0,
        quarter=fast.render.out_channels,
    )
    for name in ("sixteenth", "sixteenth_blocks", "eighth", "eighth_blocks", "quarter"):
        if getattr(p, name) < getattr(sizes, name):
            raise ValueError(f"{name} is {getattr(p, name)}, the synthesis has {getattr(sizes, name)}")
    interleaved = {
        "from_sixteenth": (sizes.eighth, p.eighth),
        "to_quarter": (QUARTER, QUARTER + p.features),
    }  # four pixels' channels one behind the other
    for name, value in old.items():
        target = new[name]
        per, wider = interleaved.get(name.partition(".")[0], (len(value), len(target)))
        rows = torch.arange(len(value)).div(per, rounding_mode="floor") * wider
        rows += torch.arange(len(value)) % per
        if name.endswith("film"):
            target[:, : value.shape[1]] = value
        elif value.ndim == 4:
            target[rows] = 0
            target[rows, : value.shape[1]] = value
        else:
            target[rows] = value
    for blocks, before in (
        (wide.sixteenth_blocks, len(fast.sixteenth_blocks)),
        (wide.eighth_blocks, len(fast.eighth_blocks)),
    ):
        for block in list(blocks)[before:]:
            assert isinstance(block, Block)
            nn.init.zeros_(block.narrow.weight)
    for layer in wide.again:
        assert isinstance(layer, Conv)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return wide

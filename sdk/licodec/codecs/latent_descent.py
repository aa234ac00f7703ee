"""What fhic's encoder does with more time: latents of one picture, found by descent on what its file costs.

The analysis transform proposes latents y for all pictures at once; for one picture others are better. What
they decode to is decided by symbols, which are whole numbers, so a smooth cost stands in for theirs. A symbol
whose value lies between n and n + 1 is taken as n + 1 with a probability p that rises with the value:

    rate        (1 - p) bits(n) + p bits(n + 1)                 by the committed tables
    distortion  |synthesis(mean + n + p) - picture|^2           at the symbol's expectation,
                + step^2 p (1 - p)                              and what its variance adds

The variance makes whole numbers worth going to. So nothing is drawn at random, the gradient has no noise, and
a dozen steps go far; drawing symbols, as stochastic Gumbel annealing does (Yang, Bamler, Mandt, "Improving
Inference for Neural Image Compression", NeurIPS 2020), takes many more (docs/effort.md).

Which table a symbol has depends on the symbols before it. Tables are those of the last true walk, and every
few steps the latents are walked again, as the encoder codes them. Of all walks the one that costs least is
kept, so the result is never worse than what the descent began with. It goes in rounds, and a higher effort
only adds rounds: from the same beginning it is never worse than a lower one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn

from licodec.codecs.checkerboard import (
    Checkerboard,
    Proposal,
    Walked,
    _no_autocast,
    interleave,
    places,
    rows_of,
)
from licodec.codecs.checkerboard_layout import CELL, HYPER, Preset, Tile, tiles
from licodec.codecs.checkerboard_look import FARTHEST, VARIANCE, worth
from licodec.entropy.schedule import Pass
from licodec.entropy.tables import NOT_CODED

if TYPE_CHECKING:
    from licodec.codecs.contract import Timer

NetT = TypeVar("NetT", bound=nn.Module)

CHOICE = 2.5
"""Worth of distortion in the choice of symbols after the descent, times what is usual without one: their
values lie near whole numbers already."""


@dataclass(frozen=True)
class Round:
    """Steps of the descent; `reach`: how far the first of them goes, 1 being where the distortion would have
    its minimum with an orthonormal synthesis and nothing else to pay for."""

    steps: int
    reach: float = 0.5


ROUNDS = (Round(4), Round(8), Round(12), Round(16), Round(24), Round(40), Round(72), Round(120))
"""Effort e runs the first e - 1 of them, up to 296 steps; after a search in compiled integers only those that
the effort it stands for would not have run."""
WALK_AGAIN = 6
"""Steps after which the latents are walked again."""
SHARPNESS = (3.0, 8.0)
"""How steeply p rises in the middle, at the first and the last step of a round; 0 would be p = value - n."""
LEAST_REACH = 0.1
"""The last step's reach, of the first one's."""
TILE_PIXELS, TILE_PIXELS_OF_DEEP = 1 << 20, 1 << 18
"""Pixels of a tile of the synthesis and its backward pass, which take some 250 bytes each; with other
transforms than the lapped ones, some thousands."""
PIECE = 64
"""Rows and columns of latents that are searched at once. Larger pictures are searched in pieces, so that
memory does not grow with them but for their latents."""
LARGEST = 255
"""Magnitudes from here on are priced alike."""


def improved(
    model: Checkerboard,
    shape: tuple[int, ...],
    blocks: Tensor,
    proposal: Proposal,
    first: Walked,
    effort: int,
    timer: Timer,
    done: int = 1,
    choice: float = 1.0,
) -> Walked:
    """The best coding of a picture that an effort of 2..9 finds, at worst `first`.

    Args:
        shape: height, width and channels of the picture. blocks: it as `Checkerboard._to_input` gives it.
        proposal, first: what the encoder without a descent has, or a search that stands for the effort
            `done`. choice: worth of distortion in the choice of its symbols, times what is usual.

    Neither torch's random state nor its gradient mode is touched, and no weight gets a gradient.
    """
    aim = Aim.of(shape, blocks)
    height, width = proposal.y.shape[2:]
    areas = list(pieces(height, width, overlap_of(model.preset)))
    rounds = ROUNDS[done - 1 : effort - 1]
    if len(areas) == 1:
        descent = Descent(model, aim, proposal, first, timer)
        for each in rounds:
            descent.run(each)
        return descent.best
    parts = []
    for area in areas:
        part = _part(proposal, area)
        seen = aim.part(area.outer_rows, area.outer_columns)
        parts.append((area, Descent(model, seen, part, model.walked(part, timer, choice, whole=True), timer)))
    price = Price(model, aim, proposal, timer)
    best, cost = first, price(first)
    for each in rounds:
        y = proposal.y.clone()
        for area, descent in parts:
            descent.run(each)
            y[:, :, area.rows, area.columns] = descent.y[:, :, area.inner_rows, area.inner_columns]
        walked = model.walked(replace(proposal, y=y), timer, CHOICE, whole=True)
        if (found := price(walked)) < cost:
            best, cost = walked, found
    return best


def overlap_of(p: Preset) -> int:
    """Rows and columns that a piece sees beyond its own, as far as the synthesis looks; a multiple of
    HYPER."""
    return -(-p.halo // HYPER) * HYPER


def pieces(height: int, width: int, overlap: int) -> Iterator[Tile]:
    """Areas of at most PIECE rows and columns that cover a grid of latents, in raster order, each seeing
    `overlap` more on all sides; they begin with a row and a column of hyper-latents."""
    for rows, outer_rows in _cut(height, overlap):
        for columns, outer_columns in _cut(width, overlap):
            yield Tile(rows, columns, outer_rows, outer_columns)


def _cut(side: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    length = -(-side // -(-side // PIECE))
    length += -length % HYPER
    for start in range(0, side, length):
        stop = min(start + length, side)
        yield slice(start, stop), slice(max(0, start - overlap), min(side, stop + overlap))


def _part(proposal: Proposal, area: Tile) -> Proposal:
    rows, columns = area.outer_rows, area.outer_columns
    z_rows, z_columns = (slice(part.start // HYPER, -(-part.stop // HYPER)) for part in (rows, columns))
    return replace(
        proposal,
        y=proposal.y[:, :, rows, columns],
        z=proposal.z[:, z_rows, z_columns],
        features=proposal.features[:, :, rows, columns],
    )


@dataclass(frozen=True)
class Aim:
    """The picture that decoders should give: its blocks, and which of their pixels count.

    `rows` [4, 1, 1, 4h, 1] and `columns` [4, 1, 1, 4w] are 1 where pixels belong to the picture and 0 where
    they fill its last blocks. Of a grey picture the mean of the three channels counts.
    """

    blocks: Tensor
    rows: Tensor
    columns: Tensor
    grey: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], blocks: Tensor) -> Self:
        with torch.inference_mode(False):
            rows, columns = (
                (torch.arange(4 * size, device=blocks.device) < side).float().view(-1, 4).t()[:, None, None]
                for size, side in zip(blocks.shape[2:], shape, strict=False)
            )
        return cls(blocks, rows[..., None], columns, shape[2] == 1)

    def part(self, rows: slice, columns: slice) -> Self:
        """What is at some rows and columns of latents."""
        rows, columns = _blocks_of(rows), _blocks_of(columns)
        blocks = self.blocks[:, :, rows, columns]
        return replace(self, blocks=blocks, rows=self.rows[..., rows, :], columns=self.columns[..., columns])

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def error(self, decoded: Tensor, tile: Tile, *, rounded: bool) -> Tensor:
        """Squared error, in levels, of what a tile decodes to, summed over the tile's own pixels; `rounded`:
        as decoders do."""
        own = self.part(tile.rows, tile.columns)
        found = decoded[:, :, tile.inner_block_rows, tile.inner_block_columns].float()
        found = found.mul(255).add(127.5).clamp(0, 255)
        missing = self._levels(found, rounded) - self._levels(own.blocks.mul(255).add(127.5), rounded)
        return (missing * own.rows * own.columns).square().sum()

    def _levels(self, blocks: Tensor, rounded: bool) -> Tensor:
        found = blocks.add(0.5).floor() if rounded else blocks
        found = found.reshape(len(blocks), 4, 4, 3, *blocks.shape[2:])
        if self.grey:
            found = found.mean(3, keepdim=True)
            found = found.add(0.5).floor() if rounded else found
        return found


def _blocks_of(part: slice) -> slice:
    return slice(part.start * CELL // 4, part.stop * CELL // 4)


class Price:
    """What a walk costs, in bits: those of its tables, and what the error of the decoded pixels is worth."""

    def __init__(self, model: Checkerboard, aim: Aim, proposal: Proposal, timer: Timer) -> None:
        self.model, self.aim, self._timer = model, aim, timer
        self.worth: float = worth(proposal.rate) * 3 / aim.channels
        with torch.inference_mode(False), torch.no_grad():
            self.synthesis = _differentiable(model.synthesis)
            self.at = torch.tensor([proposal.rate], device=model.device)
            self.scale = (proposal.per_unit * proposal.inverse).clone()
        height, width = proposal.y.shape[2:]
        pixels = TILE_PIXELS if model.preset.transforms == "lapped" else TILE_PIXELS_OF_DEEP
        self.tiles = list(tiles(height, width, model.preset.halo, pixels))

    def __call__(self, walked: Walked) -> float:
        error = 0.0
        with torch.inference_mode(), _no_autocast(self.model.device), self._timer("network"):
            for tile in self.tiles:
                error += float(self.error(walked.decoded, tile, rounded=True))
        bits: float = walked.bits(self.model.tables)
        return bits + self.worth * error

    def error(self, decoded: Tensor, tile: Tile, *, rounded: bool) -> Tensor:
        seen = decoded[:, :, tile.outer_rows, tile.outer_columns]
        return self.aim.error(self.synthesis(seen, self.scale, self.at), tile, rounded=rounded)

    def pull(self, decoded: Tensor) -> Tensor:
        """Gradient of the error's worth by decoded latents, [1, M, h, w]."""
        out = torch.zeros_like(decoded)
        for tile in self.tiles:
            leaf = decoded.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.error(leaf, tile, rounded=False), leaf)
            out.add_(found, alpha=self.worth)
        return out


class Descent:
    """A search.

    `best`: the walk that costs least so far. `cost`: of it, in bits. `y`: the latents it came from, as in
    `Proposal`.
    """

    def __init__(
        self, model: Checkerboard, aim: Aim, proposal: Proposal, first: Walked, timer: Timer
    ) -> None:
        self._model, self._proposal, self._timer = model, proposal, timer
        self._price = Price(model, aim, proposal, timer)
        self._relaxed = Relaxed(model, proposal)
        self.best, self.cost, self.y = first, self._price(first), proposal.y

    def run(self, plan: Round) -> None:
        """A round of steps from the best latents so far, with walks in between."""
        with torch.inference_mode(False), torch.no_grad(), _no_autocast(self._model.device):
            y = self._relaxed.flat(self.y).clone()
        self._relaxed.follow(self.best)
        for step in range(plan.steps):
            along = step / max(1, plan.steps - 1)
            sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** along
            reach = plan.reach * (LEAST_REACH + (1 - LEAST_REACH) * (1 + math.cos(math.pi * along)) / 2)
            with torch.inference_mode(False), _no_autocast(self._model.device), self._timer("network"):
                found = self._gradient(y, sharpness)
                way = found.div_(self._relaxed.curvature).clamp_(-FARTHEST, FARTHEST)
                y.sub_(way, alpha=reach)
            if (step + 1) % WALK_AGAIN == 0 or step + 1 == plan.steps:
                self._look(y)

    def _gradient(self, y: Tensor, sharpness: float) -> Tensor:
        """Of the smooth cost by every latent."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_(True)
            decoded, cost = self._relaxed(leaf, sharpness)
            pull = self._price.pull(decoded)
            (found,) = torch.autograd.grad((decoded, cost), leaf, (pull, torch.ones_like(cost)))
        return found

    def _look(self, y: Tensor) -> None:
        """Walk latents as they would be coded, take their tables, and keep them if they are the best."""
        latents = self._relaxed.map(y)
        walked = self._model.walked(replace(self._proposal, y=latents), self._timer, CHOICE, whole=True)
        self._relaxed.follow(walked)
        cost = self._price(walked)
        if cost < self.cost:
            self.best, self.cost, self.y = walked, cost, latents


def _differentiable(net: NetT) -> NetT:
    """A net whose weights may take part in a graph: those loaded in a caller's inference mode may not."""
    if any(weight.is_inference() for weight in net.parameters()):
        return copy.deepcopy(net)
    return net


class Relaxed:
    """Decoded latents and the cost of their symbols as smooth functions of a vector of latents, pass by pass
    in the order of coding, with the tables of a walk.

    `curvature`: second derivative of the distortion by every latent, were the synthesis orthonormal.
    """

    def __init__(self, model: Checkerboard, proposal: Proposal) -> None:
        self._preset, self._device, self._size = model.preset, model.device, proposal.y.shape[2:]
        depths = self._preset.depths
        self._cells = [
            places(*self._size, depths[step.group], model.device)[step.number].cells
            for step in self._preset.passes
        ]
        widths = [step.last - step.first for step in self._preset.passes]
        self._lengths = [len(cells) * width for cells, width in zip(self._cells, widths, strict=True)]
        with torch.inference_mode(False), torch.no_grad():
            self._means = _differentiable(model.means)
            self._features = proposal.features.clone()
            self._per_unit = rows_of(proposal.per_unit).clone()
            error = worth(proposal.rate) * (255 * proposal.inverse).square()
            self._variance = VARIANCE * rows_of(error)
            self.curvature = self.flat((2 * error).expand(proposal.y.shape))
            self._bits = _bits(model).to(self._device)
        self._tables: list[Tensor] = []

    def flat(self, latents: Tensor) -> Tensor:
        """A map [1, M, h, w] as such a vector."""
        rows, parts = rows_of(latents), zip(self._preset.passes, self._cells, strict=True)
        return torch.cat(
            [rows[:, :, step.first : step.last].index_select(1, cells).flatten() for step, cells in parts]
        )

    def map(self, vector: Tensor) -> Tensor:
        """And back."""
        return interleave(self._split(vector), self._preset, *self._size)

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Rows [1, n, C] of every pass."""
        parts = zip(torch.split(vector, self._lengths), self._cells, strict=True)
        return [part.view(1, len(cells), -1) for part, cells in parts]

    def follow(self, walked: Walked) -> None:
        """Take the tables of a walk."""
        self._tables = [torch.from_numpy(part.index).to(self._device).t()[None] for part in walked.coded]

    def __call__(self, y: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
        """Expected latents [1, M, h, w] in bounded units; rate, and what the variance costs, in bits."""
        parts = iter(zip(self._split(y), self._tables, strict=True))
        costs: list[Tensor] = []

        def settle(step: Pass, mean: Tensor) -> Tensor:
            latents, table = next(parts)
            own = slice(step.first, step.last)
            per = self._per_unit[:, :, own]
            value, variance = latents - mean * per, self._variance[:, :, own]
            symbols, cost = _Expected.apply(value, table, self._bits, variance, sharpness)  # type: ignore[no-untyped-call]
            costs.append(cost)
            decoded: Tensor = mean + symbols / per
            return decoded

        return self._means.walk(self._features, settle), torch.stack(costs).sum()


def _bits(model: Checkerboard) -> Tensor:
    """Bits of the magnitudes 0..LARGEST in each table, float32 [256 (LARGEST + 1)]."""
    known = torch.from_numpy(model.tables.bits()[:, LARGEST:])
    out = torch.zeros(256, LARGEST + 1)
    out[: len(known)] = known
    out[NOT_CODED] = 0
    return out.flatten()


class _Expected(torch.autograd.Function):
    """Values [1, n, C] -> expected symbols, and the sum of their expected cost."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, table: Tensor, bits: Tensor, variance: Tensor, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        low = value.floor()
        height = 0.5 / math.tanh(sharpness / 2)
        bend = (value - low).sub_(0.5).mul_(sharpness).tanh_()
        p = (bend * height).add_(0.5)
        first = table.int().mul_(LARGEST + 1)
        below, above = (
            bits.index_select(0, n.abs().clamp_(max=LARGEST).int().add_(first).flatten()).view_as(value)
            for n in (low, low + 1)
        )
        gone = table == NOT_CODED
        more = above.sub_(below)
        cost = (torch.addcmul(below, more, p) + variance * p * (1 - p)).masked_fill_(gone, 0).sum()
        rise = bend.square_().neg_().add_(1).mul_(sharpness * height).masked_fill_(gone, 0)
        slope = more.addcmul_(variance.expand_as(p), 1 - 2 * p).mul_(rise)
        ctx.save_for_backward(rise, slope)
        return low.add_(p).masked_fill_(gone, 0), cost

    @staticmethod
    def backward(ctx: Any, *found: Tensor) -> tuple[Tensor | None, ...]:
        rise, slope = ctx.saved_tensors
        by_symbol, by_cost = found
        return (rise * by_symbol).addcmul_(slope, by_cost), None, None, None, None

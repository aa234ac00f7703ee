"""Decode order 2 of fhic: each position of the latents' grid after those above it and on its left.

A position sees the twelve of 5 x 5 neighbours that come before it in raster order. Positions with the same
d = column + 3 row see none of each other, so they are coded together, wavefront by wavefront:

    x x x x x      0 1 2 3 4 5
    x x x x x      3 4 5 6 7 8
    x x o          6 7 8 9 ..

Groups of channels are those of the checkerboard, one after the other: all wavefronts of the first, then all
of the second. A wavefront of a group is one pass of the stream. As in order 1 the tables follow from integers
alone: hyper-latents, magnitudes of the earlier groups' symbols around, and of the group's own at the twelve.

The nets are an optional part of a weights file (`serial.`, `exact.serial.`). When not to use it: wherever
time matters; it takes some five times as long as the checkerboard (docs/decode_orders.md).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licodec.codecs.checkerboard import (
    Contexts,
    Conv,
    IntegerLayers,
    ScaleNets,
    as_columns,
    as_rows,
    fit,
    pointwise,
    rows_of,
    squeezed,
    squeezer,
    table_indices,
)
from licodec.codecs.checkerboard_layout import (
    HYPER_LIMIT,
    MAGNITUDE_UNIT,
    SCALES,
    SEEN,
    CodedPass,
    Preset,
    choose_symbols,
)
from licodec.codecs.contract import Timer
from licodec.entropy.coder import StreamDecoder
from licodec.entropy.schedule import Pass
from licodec.exact.paths import ExactNet, exact_section
from licodec.exact.specs import LayerSpec

Magnitudes = npt.NDArray[np.int8]

TAPS = tuple((dy, dx) for dy in (-2, -1, 0) for dx in range(-2, 3) if (dy, dx) < (0, 0))
"""Rows and columns from a position to those that it sees, in raster order."""

ROW_STEP = 3
"""Wavefronts from one row to the next: the least that puts all taps of a position before it."""

EDGE = 2
"""Rows and columns that taps reach."""
PROJECTED, LOOK = 32, 96
"""Features of a position's symbols that the scale nets see at a tap, and of all taps for the mean nets."""


# --- Nets ---------------------------------------------------------------------------------------------------


def serial_layers(p: Preset) -> list[LayerSpec]:
    """The integer layers of order 2; features of the hyper-latents come from those of order 1."""
    e, specs = p.exact, []
    for g, m in enumerate(p.groups):
        specs.append(LayerSpec(f"serial.project.{g}", m, PROJECTED, 1, in_unit=MAGNITUDE_UNIT))
        if g:
            specs.append(LayerSpec(f"serial.context.{g}", PROJECTED * g, 48, 3))
        seen = 2 * e if g == 0 else 2 * e + 48
        specs += [
            LayerSpec(f"serial.taps.{g}", len(TAPS) * PROJECTED, e, 1),
            LayerSpec(f"serial.scale.{g}.0", seen, 2 * e, 1),
            LayerSpec(f"serial.scale.{g}.1", 2 * e, m, 1, last=True),
        ]
    return specs


class SerialScales(ScaleNets):
    """The wiring of the scale nets in order 2."""

    prefix = "serial."

    def at(self, group: int, base: Tensor, taps: Tensor) -> Tensor:
        """Scale indices, rows [B, n, M_g].

        Args:
            base: what `base` gives, at n positions. taps: features (`project`) at the taps of each, one tap
                behind the other, [B, n, 12 * 32]; zeros beyond the grid.
        """
        layer = self.layer
        seen = torch.cat([base, layer.pointwise(f"serial.taps.{group}", taps)], 2)
        hidden = layer.pointwise(f"serial.scale.{group}.0", seen)
        return layer.pointwise(f"serial.scale.{group}.1", hidden)


class SerialMeans(Contexts):
    """Means of the symbols in order 2, in bounded units; features of the hyper-latents are those of order
    1."""

    def __init__(self, p: Preset) -> None:
        super().__init__()
        self.preset: Preset = p
        w = p.mean
        earlier = [sum(p.groups[:g]) for g in range(1, len(p.groups))]
        self.digest = nn.ModuleList(squeezer(m) for m in earlier)
        self.context = nn.ModuleList(Conv(min(m, SEEN), w, 3) for m in earlier)
        self.squeeze = nn.ModuleList(squeezer(m) for m in p.groups)
        self.taps = nn.ModuleList(Conv(len(TAPS) * min(m, SEEN), LOOK, 1) for m in p.groups)
        self.first = nn.ModuleList(
            Conv((w if g == 0 else 2 * w) + LOOK, w if g == 0 else w * 3 // 2, 1)
            for g in range(len(p.groups))
        )
        self.last = nn.ModuleList(Conv(w if g == 0 else w * 3 // 2, m, 1) for g, m in enumerate(p.groups))

    def at(self, group: int, base: Tensor, taps: Tensor) -> Tensor:
        """Means, rows [B, n, M_g].

        Args:
            base: what `base` gives, at n positions. taps: decoded values (`squeezed`) at the taps of each,
                one tap behind the other; zeros beyond the grid.
        """
        look, first, last = (layers[group] for layers in (self.taps, self.first, self.last))
        assert isinstance(look, Conv) and isinstance(first, Conv) and isinstance(last, Conv)
        seen = torch.cat([base, F.leaky_relu(pointwise(look, taps), 0.2)], 2)
        return pointwise(last, F.leaky_relu(pointwise(first, seen), 0.2)).float()

    def walk(self, features: Tensor, order: Fronts, settle: Settle, groups: int | None = None) -> Tensor:
        """All fronts of all groups, or of the first `groups`: decoded values [1, M, h, w] in bounded units.

        `settle(step, front, mean)` gives a front's values for that mean; encoder and decoder differ only
        there.
        """
        decoded: list[Tensor] = []
        values: list[Tensor] = []
        known = base = features
        for step, front in passes(self.preset, order, groups):
            look, squeeze = self.taps[step.group], self.squeeze[step.group]
            assert isinstance(look, Conv)
            if step.number == 0:
                base = self.base(step.group, features, decoded).index_select(1, order.cells)
                known = order.bordered(look.in_channels // len(TAPS), look.weight.dtype)
                values = []
            value = settle(step, front, self.at(step.group, base[:, front], order.at_taps(known, front)))
            values.append(value)
            known.index_copy_(0, order.own[front], squeezed(squeeze, fit(value, look))[0])
            if front.stop == len(order.cells):
                decoded.append(order.as_map(torch.cat(values, 1)))
        return torch.cat(decoded, 1)


def at_taps(x: Tensor) -> Tensor:
    """What each position of a map [B, C, h, w] sees at its taps, rows [B, h w, 12 C]."""
    h, w = x.shape[2:]
    rows = F.pad(x, (2, 2, 2, 0)).permute(0, 2, 3, 1)
    return torch.cat([rows[:, 2 + dy : 2 + dy + h, 2 + dx : 2 + dx + w] for dy, dx in TAPS], 3).flatten(1, 2)


# --- Wavefronts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fronts:
    """Positions of an h x w grid in the order in which they are coded, front by front.

    Attributes:
        cells: row * w + column of all positions, int64 [h w]; within a front ascending.
        ends: where each front ends in `cells`.
        own: the row of each in an array of the grid with a border, which taps see; int64 [h w].
        seen: the rows of its taps there, int64 [h w, 12].
        size: rows of that array.
    """

    height: int
    width: int
    cells: Tensor
    ends: tuple[int, ...]
    own: Tensor
    seen: Tensor
    size: int

    def bordered(self, channels: int, dtype: torch.dtype) -> Tensor:
        """Zeros for the grid with its border, rows [size, channels]."""
        return torch.zeros(self.size, channels, dtype=dtype, device=self.own.device)

    def at_taps(self, known: Tensor, front: slice) -> Tensor:
        """What the positions of a front see in such an array: rows [1, n, 12 * channels]."""
        rows = known.index_select(0, self.seen[front].reshape(-1))
        return rows.view(1, front.stop - front.start, -1)

    def slices(self) -> list[slice]:
        return [slice(start, end) for start, end in zip((0, *self.ends[:-1]), self.ends, strict=True)]

    def as_map(self, rows: Tensor) -> Tensor:
        """Rows [1, h w, C] in this order as a map [1, C, h, w]."""
        out = torch.empty_like(rows)
        out[:, self.cells] = rows
        return out.view(1, self.height, self.width, -1).permute(0, 3, 1, 2)


def fronts(number: npt.NDArray[np.intp], device: str = "cpu") -> Fronts:
    """Positions of a grid by the number of their front, [h, w]."""
    h, w = number.shape
    flat = number.reshape(-1)
    cells = np.argsort(flat, kind="stable")
    across = w + 2 * EDGE
    own = (cells // w + EDGE) * across + cells % w + EDGE
    seen = own[:, None] + np.array([dy * across + dx for dy, dx in TAPS])
    ends = np.flatnonzero(np.diff(flat[cells], append=flat.max() + 1)) + 1
    with torch.inference_mode(False):
        tensors = (torch.from_numpy(each.astype(np.int64)).to(device) for each in (cells, own, seen))
        cells_of, own_of, seen_of = tensors
        return Fronts(h, w, cells_of, tuple(ends.tolist()), own_of, seen_of, (h + EDGE) * across)


@functools.lru_cache(maxsize=16)
def wavefronts(h: int, w: int, device: str = "cpu") -> Fronts:
    """The order of the stream: ascending column + 3 row, then ascending row."""
    return fronts(ROW_STEP * np.arange(h)[:, None] + np.arange(w), device)


@functools.lru_cache(maxsize=16)
def raster(h: int, w: int, device: str = "cpu") -> Fronts:
    """One position at a time: what wavefronts are measured against, and no order of a stream."""
    return fronts(np.arange(h * w).reshape(h, w), device)


Settle = Callable[[Pass, slice, Tensor], Tensor]
"""The values of a front of a group, given their means: rows [1, n, M_g]. The slice is the front's in the
order of positions."""


def passes(p: Preset, order: Fronts, groups: int | None = None) -> list[tuple[Pass, slice]]:
    """The passes of the stream after the hyper-latents, each with its positions in the order."""
    found, first = [], 0
    for group, width in enumerate(p.groups[:groups]):
        for number, front in enumerate(order.slices()):
            found.append((Pass(group, first, first + width, level=0, number=number), front))
        first += width
    return found


# --- Coding -------------------------------------------------------------------------------------------------


class SerialIndices:
    """Table indices of a latent's symbols, front by front, from integers that a decoder knows; encoder and
    decoder drive this same object, as `checkerboard.Scales`.

    `index(step, front)` says how the symbols of a pass are coded, `settle(step, front, symbols)` what they
    are.
    """

    def __init__(
        self,
        nets: Serial,
        z: npt.NDArray[np.int16],
        order: Fronts,
        rate: int,
        path: str,
        timer: Timer,
    ) -> None:
        self._order, self._timer, self._path = order, timer, path
        self._magnitudes, self._family = nets.magnitudes, nets.family
        self._nets = SerialScales(IntegerLayers(nets.exact, rate, path))
        self._earlier: list[Tensor] = []
        self._group, self._base, self._known = -1, torch.empty(0), torch.empty(0)
        with self._exact():
            clipped = np.clip(z, -HYPER_LIMIT, HYPER_LIMIT).astype(np.float32)
            features = self._nets.hyper(torch.from_numpy(clipped).unsqueeze(0))
            self._features = features[:, :, : order.height, : order.width]

    @contextlib.contextmanager
    def _exact(self) -> Iterator[None]:
        with self._timer("exact"), exact_section(self._path):
            yield

    def index(self, step: Pass, front: slice) -> npt.NDArray[np.uint8]:
        """Table index of each symbol of a pass, uint8 [C, n]; `NOT_CODED` where it is zero without a code."""
        with self._exact():
            if step.group != self._group:
                self._begin(step.group)
            taps = self._order.at_taps(self._known, front)
            scale = self._nets.at(step.group, self._base[:, front], taps)
            return table_indices(scale.mT, self._family[step.first : step.last])

    def settle(self, step: Pass, front: slice, symbols: npt.NDArray[np.int16]) -> None:
        """Symbols [C, n] of a pass."""
        with self._exact():
            level = self._magnitudes.take(np.abs(symbols.T), mode="clip")
            feature = self._nets.project(step.group, torch.from_numpy(level[None]))
            self._known.index_copy_(0, self._order.own[front], feature[0].to(self._known.dtype))

    def _begin(self, group: int) -> None:
        order = self._order
        if self._group >= 0:
            done = self._known.index_select(0, order.own).unsqueeze(0)
            self._earlier.append(order.as_map(done))
        base = self._nets.base(group, self._features, self._earlier)
        self._base = base.index_select(1, order.cells)
        self._known = order.bordered(PROJECTED, torch.int8)
        self._group = group


@dataclass(frozen=True)
class Choice:
    """What an encoder weighs, see `checkerboard_layout.choose_symbols`: the worth of a symbol's error in bits
    [M], and what smaller symbols save."""

    step_value: npt.NDArray[np.float32]
    savings: npt.NDArray[np.float32]


class Serial:
    """The nets of order 2 of loaded weights.

    Args:
        means: in the type in which they run, on their device. family: of each latent channel's tables, uint8
            [M]. exact: the integer layers of all orders. magnitudes: `checkerboard_layout.magnitude_table`.
    """

    def __init__(self, means: SerialMeans, family: Tensor, exact: ExactNet, magnitudes: Magnitudes) -> None:
        self.means, self.exact, self.magnitudes = means, exact, magnitudes
        self.family: npt.NDArray[np.uint8] = (family.numpy() * SCALES)[:, None]
        self.preset: Preset = means.preset

    def choose(
        self,
        indices: SerialIndices,
        order: Fronts,
        features: Tensor,
        y: Tensor,
        per_unit: Tensor,
        choice: Choice,
    ) -> tuple[npt.NDArray[np.int16], list[CodedPass]]:
        """The encoder's symbols [M, h, w] and the passes of the stream after the hyper-latents.

        Args:
            features: of the hyper-latents, as the mean nets see them. y: latents in bounded units
                [1, M, h, w]. per_unit: symbols per bounded unit [1, M, 1, 1]. choice: what the encoder
                weighs.
        """
        coded: list[CodedPass] = []
        found = np.empty((self.preset.latents, order.height * order.width), np.int16)
        cells, wanted = order.cells.cpu().numpy(), rows_of(y).index_select(1, order.cells)
        per_units = rows_of(per_unit)

        def settle(step: Pass, front: slice, mean: Tensor) -> Tensor:
            part = slice(step.first, step.last)
            per = per_units[:, :, part]
            index = indices.index(step, front)
            value = as_columns((wanted[:, front, part] - mean) * per)
            symbols = choose_symbols(value, index, choice.step_value[part], choice.savings)
            indices.settle(step, front, symbols)
            coded.append(CodedPass(step, symbols, index))
            found[part, cells[front]] = symbols
            return torch.addcdiv(mean, as_rows(symbols, str(mean.device)), per)

        self.means.walk(features, order, settle)
        return found.reshape(-1, order.height, order.width), coded

    def decoded(
        self, q: npt.NDArray[np.int16], order: Fronts, features: Tensor, per_unit: Tensor, groups: int
    ) -> Tensor:
        """Values [1, M, h, w] of symbols [M, h, w] of the first groups, in bounded units; `per_unit` as in
        `choose`."""
        symbols = torch.from_numpy(q[None]).to(features.device)
        added = (rows_of(symbols / per_unit[:, : len(q)])).index_select(1, order.cells)

        def settle(step: Pass, front: slice, mean: Tensor) -> Tensor:
            return mean + added[:, front, step.first : step.last]

        return self.means.walk(features, order, settle, groups)

    def read(
        self,
        stream: StreamDecoder,
        indices: SerialIndices,
        order: Fronts,
        groups: int | None,
        timer: Timer,
    ) -> npt.NDArray[np.int16]:
        """Symbols [M, h, w] of the first `groups`, or of all."""
        steps = passes(self.preset, order, groups)
        found = np.empty((steps[-1][0].last, order.height * order.width), np.int16)
        cells = order.cells.cpu().numpy()
        for step, front in steps:
            index = indices.index(step, front)
            with timer("entropy"):
                symbols = stream.get(index.reshape(-1)).reshape(index.shape)
            indices.settle(step, front, symbols)
            found[step.first : step.last, cells[front]] = symbols
        return found.reshape(-1, order.height, order.width)

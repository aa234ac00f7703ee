"""How means follow from symbols, backwards: what later symbols' means lack, carried back to the symbols that
they are computed from. In integers of 16 bits, see `exact.fixed_point`; encoders alone need it.

Passes are gone through from the last one to the first. Each has then all that is lacking: what the synthesis
says, what the groups behind it say through their context, and what later passes of its own group say, which
see it around their cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs.arrays import Arrays
from licodec.codecs.checkerboard_compiled import Values, at_rate
from licodec.codecs.checkerboard_elementwise import Places
from licodec.codecs.checkerboard_layout import SEEN, TAPS, Preset, places, taps_kernel
from licodec.codecs.checkerboard_means import SLOPE, Trail, name_of
from licodec.entropy.schedule import Pass
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    LARGEST,
    MASKED,
    PLAIN,
    RESIDUAL,
    Board,
    Floats,
    Held,
    Layer,
    Listed,
    Map,
    address_of,
    blocks_of,
    distances,
    rows_of,
    window,
)
from licodec.exact.neighbours import Positions

FARTHEST = 4.0
"""Symbols, which means may lack at most."""
TYPICAL = 2.0
"""What sums may be at most, over what they are with inputs at their largest and of random signs."""
SIDE = 32
"""Of a grid that is large enough to see which passes lie around a cell."""


def _steps(weight: Floats, inputs: Floats) -> Floats:
    """Of what a layer [out, taps, in] gives."""
    root = np.sqrt(np.square(weight.astype(np.float64) * inputs).sum((1, 2)))
    out: Floats = np.maximum(TYPICAL * root, 1e-12).astype(np.float32)
    return out


def _layer(
    weight: Floats, inputs: Floats, outputs: Floats, *, slope: float = 1.0, residual: Floats | None = None
) -> Layer:
    """Of weights [out, taps, in] alone."""
    bias = np.zeros(len(weight), np.float32)
    return fixed_point.layer(
        np.ascontiguousarray(weight), bias, inputs, outputs, slope=slope, residual=residual
    )


def _largest(steps: Sequence[Floats]) -> Floats:
    """Of what several layers give to one map; nothing where there are none."""
    out: Floats = np.max(steps, 0) if steps else np.empty(0, np.float32)
    return out


def _turned(weight: Floats) -> Floats:
    """Weights [out, taps, in] of a convolution as those of its transpose, taps in the same order."""
    out: Floats = weight.transpose(2, 1, 0)
    return out


@dataclass(frozen=True)
class HeadBack:
    """Layers from what a pass's means lack to its head's hidden units, and from these to context and to what
    is around."""

    last: Layer
    context: Layer | None
    around: Layer | None


@dataclass(frozen=True)
class SeenBack:
    """How later passes of its group see a pass.

    Attributes:
        layer: of what comes back from all of them at once. taps: of each, the number of the pass, rows and
            columns from a cell to the one that sees it so.
    """

    layer: Layer
    taps: list[tuple[int, int, int]]


class GroupBack:
    """The nets of a group. steps: of what its values lack, and of those of the groups before it."""

    def __init__(self, p: Preset, read: Arrays, group: int, steps: Floats) -> None:
        w, m = p.mean, p.groups[group]
        first = sum(p.groups[:group])
        own, earlier = steps[first : first + m], steps[:first]
        self.steps = [step for step in p.passes if step.group == group]
        heads = {step: self._head(p, read, step) for step in self.steps}
        hidden = {step: _steps(last, own) for step, (last, _) in heads.items()}
        context = _largest([_steps(heads[step][1][w : 2 * w], hidden[step]) for step in self.steps if group])
        around = _largest(
            [_steps(heads[step][1][-TAPS:], hidden[step]) for step in self.steps if step.number]
        )
        self.heads = {
            step: HeadBack(
                _layer(last, own, hidden[step], slope=SLOPE),
                _layer(wide[w : 2 * w], hidden[step], context, slope=SLOPE) if group else None,
                _layer(wide[-TAPS:], hidden[step], around, slope=SLOPE) if step.number else None,
            )
            for step, (last, wide) in heads.items()
        }
        self._read_around(p, read, around, own)
        self.context: Layer | None = None
        self.digest: Layer | None = None
        if group:
            back = _turned(read.conv(f"means.context.{group - 1}", w, min(first, SEEN), 3).weight)[:, ::-1]
            if first > SEEN:
                digested = _steps(back, context)
                self.context = _layer(back, context, digested)
                back = _turned(read.conv(f"means.digest.{group - 1}", SEEN, first).weight)
                self.digest = _layer(back, digested, earlier, residual=earlier)
            else:
                self.context = _layer(back, context, earlier, residual=earlier)

    @staticmethod
    def _head(p: Preset, read: Arrays, step: Pass) -> tuple[Floats, Floats]:
        """Both of its layers, turned."""
        name, m = name_of(step), step.last - step.first
        hidden = p.mean * 3 // 2 if step.group else p.mean
        inputs = p.mean * (2 if step.group else 1) + (TAPS if step.number else 0)
        last = read.conv(f"means.heads.{name}.2", m, hidden)
        wide = read.conv(f"means.heads.{name}.0", hidden, inputs)
        return _turned(last.weight), _turned(wide.weight)

    def _read_around(self, p: Preset, read: Arrays, around: Floats, own: Floats) -> None:
        """What passes see of each other."""
        group, m = self.steps[0].group, len(own)
        turned = {
            step.number: _turned(
                read.conv(f"means.taps.{name_of(step)}", TAPS, min(m, SEEN), taps_kernel(step)).weight
            )
            for step in self.steps[1:]
        }
        taps = {step: _taps_to(self.steps, step, p.depths[group]) for step in self.steps[:-1]}
        weights = {
            step: np.concatenate([turned[later][:, tap, None] for later, tap, *_ in few], 1)
            for step, few in taps.items()
        }
        self.squeeze: Layer | None = None
        if m > SEEN and weights:
            squeezed = _largest([_steps(weight, around) for weight in weights.values()])
            back = _turned(read.conv(f"means.squeeze.{group}", SEEN, m).weight)
            self.squeeze, own = _layer(back, squeezed, own), squeezed
        self.seen = {
            step: SeenBack(_layer(weight, around, own), [(later, dy, dx) for later, _, dy, dx in taps[step]])
            for step, weight in weights.items()
        }

    @property
    def reach(self) -> int:
        """Rows and columns from a cell to the farthest ones that see it."""
        return max((abs(d) for seen in self.seen.values() for _, *both in seen.taps for d in both), default=1)


def _taps_to(steps: Sequence[Pass], step: Pass, depth: int) -> list[tuple[int, int, int, int]]:
    """How later passes of a group see a pass: the number of each, the number of a tap, and rows and columns
    from a cell to the one that sees it so."""
    found = []
    grid = [set(place.cells.tolist()) for place in places(SIDE, SIDE, depth)]
    cells = (divmod(cell, SIDE) for cell in grid[step.number])
    row, column = min(cells, key=lambda at: abs(at[0] - SIDE // 2) + abs(at[1] - SIDE // 2))
    for later in steps[step.number + 1 :]:
        kernel, apart = taps_kernel(later), 2 ** (later.level // 2)
        for tap in range(kernel * kernel):
            dy, dx = ((kernel // 2 - each) * apart for each in divmod(tap, kernel))
            if (row + dy) * SIDE + column + dx in grid[later.number]:
                found.append((later.number, tap, dy, dx))
    return found


class MeansBack:
    """The nets.

    Args:
        gain, inverse_gain: logarithms of symbols per unit and of coefficients per symbol, [17, M].
    """

    def __init__(self, p: Preset, read: Arrays, gain: Floats, inverse_gain: Floats) -> None:
        self.preset, self._inverse = p, inverse_gain
        per_unit = np.sqrt(1 + np.exp(2 * gain.astype(np.float64)))
        squared = np.exp(2 * inverse_gain.astype(np.float64))
        largest = (per_unit * squared / squared.mean(1, keepdims=True)).max(0)
        self.steps: Floats = (largest * FARTHEST / LARGEST).astype(np.float32)
        """Of what values lack in bounded units, over the mean squared coefficient per symbol, [M]."""
        self.groups = [GroupBack(p, read, group, self.steps) for group in range(len(p.groups))]
        self._border = max(of.reach for of in self.groups)

    def __call__(
        self,
        lacking: Values[np.float32],
        rise: Floats,
        slope: Floats,
        trail: Trail,
        rate: int,
        per_unit: Floats,
    ) -> None:
        """Adds what means lack to what coefficients lack, in place.

        Args:
            lacking: coefficients, [h, w, M]. rise, slope: as `elementwise.expected` gives them, laid out in
                the same way. trail: of the walk that found the means. per_unit: symbols per bounded unit,
                [M].
        """
        h, w = lacking.height, lacking.width
        factors = self._factors(rate, per_unit)
        at = [address_of(array) for array in (lacking.memory, rise, slope)]
        back, own = Map(h, w, self.preset.latents), Board(h, w, self.preset.latents)
        back.memory[...] = 0
        for group, of in reversed(list(enumerate(self.groups))):
            context = Map(h, w, self.preset.mean)
            around = [Board(h, w, TAPS, self._border) for _ in of.steps[1:]]
            for step in reversed(of.steps):
                cells = places(h, w, self.preset.depths[group])[step.number].positions
                if step in of.seen:
                    _through_around(of, of.seen[step], around, cells, own.at(cells, step.first))
                rows = np.empty((len(cells), step.last - step.first), np.int16)
                lacking_at, rise_at, slope_at = (each + 4 * step.first for each in at)
                there = back.address + 2 * step.first
                elementwise.returned(
                    Places(lacking_at, distances(cells, *lacking.memory.strides[:2])),
                    rise_at,
                    slope_at,
                    (
                        Places(there, distances(cells, back.row, back.step)),
                        Places(*own.at(cells, step.first)),
                    ),
                    factors[:, step.first : step.last],
                    rows,
                )
                self._through_head(of.heads[step], step, cells, rows, trail, context, around)
            if of.context:
                _through_context(of.context, of.digest, context, back)

    def _factors(self, rate: int, per_unit: Floats) -> Floats:
        """See `elementwise.returned`, [3, M]."""
        inverse = np.exp(at_rate(self._inverse, rate).astype(np.float64))
        step, scale = self.steps * np.square(inverse).mean(), per_unit * inverse
        return np.stack([step / scale, scale / step, scale * inverse / step]).astype(np.float32)

    def _through_head(
        self,
        of: HeadBack,
        step: Pass,
        cells: Positions,
        rows: npt.NDArray[np.int16],
        trail: Trail,
        context: Map,
        around: Sequence[Board],
    ) -> None:
        """What the means of a pass lack, int16 rows [n, C], to what it sees."""
        w, seen, of_head = self.preset.mean, trail.seen[step.group], trail.hidden[name_of(step)]
        hidden = np.empty((len(of_head), of.last.outputs), np.int16)
        to = rows_of(hidden, len(rows))
        lacking, mask = rows_of(rows, len(rows)), rows_of(of_head, len(rows))
        of.last.run_at(MASKED, HERE, blocks_of(of.last.outputs), lacking, to, mask)
        if of.context:
            there = Listed(context.address, distances(cells, context.row, context.step))
            of.context.run_at(MASKED, HERE, blocks_of(w), to, there, seen.at(cells, w))
        if of.around:
            there = around[step.number - 1].at(cells)
            first = w * (2 if step.group else 1)
            of.around.run_at(MASKED, HERE, blocks_of(TAPS), to, there, seen.at(cells, first))


def _through_around(
    of: GroupBack, seen: SeenBack, around: Sequence[Board], cells: Positions, target: Listed
) -> None:
    """What later passes say of a pass's cells."""
    first = around[0]
    far = [each.base - first.base for each in around]
    taps = Held(
        np.array([far[n - 1] + dy * first.row + dx * first.step for n, dy, dx in seen.taps], np.int64)
    )
    source, blocks = first.at(cells), blocks_of(seen.layer.outputs)
    if not of.squeeze:
        seen.layer.run_at(PLAIN, taps, blocks, source, target)
        return
    squeezed = np.empty((len(source.at), SEEN), np.int16)
    rows = rows_of(squeezed, len(squeezed))
    seen.layer.run_at(PLAIN, taps, blocks, source, rows)
    of.squeeze.run_at(PLAIN, HERE, blocks_of(of.squeeze.outputs), rows, target)


def _through_context(layer: Layer, digest: Layer | None, context: Map, back: Map) -> None:
    """What a group says of all before it."""
    h, w = back.height, back.width
    around = window(3, context.row, context.step)
    source = context.bordered().address, context.row, context.step
    if digest:
        digested = Map(h, w, SEEN)
        to = digested.address, digested.row, digested.step
        layer.run(PLAIN, around, blocks_of(SEEN), source, 0, to, h, w)
        source, around, layer = to, HERE, digest
    target = back.address, back.row, back.step
    layer.run(RESIDUAL, around, blocks_of(layer.outputs), source, back.address, target, h, w)

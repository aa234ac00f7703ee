"""The mean nets of `checkerboard` in integers of 16 bits; see `exact.fixed_point`.

As in `checkerboard_scales`, all that the nets see of a position stands in one row of memory, [features |
context | what is around], and values in a map with zeros around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from licodec.codecs.arrays import Arrays, Conv
from licodec.codecs.checkerboard_elementwise import Places, Rows, Target
from licodec.codecs.checkerboard_layout import HYPER_WIDTH, SEEN, TAPS, Preset, places, taps_kernel
from licodec.codecs.checkerboard_scales import kinds_of
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    PLAIN,
    REAL,
    RESIDUAL,
    Board,
    Floats,
    Held,
    Layer,
    Listed,
    address_of,
    all_positions,
    blocks_of,
    distances,
    rows_of,
)
from licodec.exact.neighbours import Neighbours, Positions

SLOPE = 0.2
HYPER_STEP = np.float32(0.25)
"""Of hyper-latents as the nets take them."""
Steps = Mapping[str, Floats]
"""Step of each channel, by the name of the map."""


class Goal(NamedTuple):
    """Where decoded values go, in steps.

    Attributes:
        address: of position (0, 0)'s first channel. row, step: bytes to the next row and column. factors:
            steps per unit, float32 [M].
    """

    address: int
    row: int
    step: int
    factors: Floats

    def of(self, step: Pass, cells: Positions) -> Target:
        """Where those of a pass go."""
        places = Places(self.address + 2 * step.first, distances(cells, self.row, self.step))
        return Target(places, self.factors[step.first : step.last])


Settle = Callable[[Pass, Positions, Rows, Sequence[Goal]], None]
"""Gives the values of a pass to goals; means are float32 rows [n, C or more]."""


@dataclass
class Trail:
    """What leaky ReLUs gave on a walk.

    Attributes:
        hidden: inside of heads, by pass, int16 [n or more, hidden]. seen: rows of what is seen, by group: its
            context and what is around its passes' cells.
    """

    hidden: dict[str, npt.NDArray[np.int16]] = field(default_factory=dict)
    seen: dict[int, Board] = field(default_factory=dict)


class Means:
    """The nets. `hyper` gives features, `walk` does the rest."""

    def __init__(self, p: Preset, read: Arrays, steps: Steps) -> None:
        self.preset, self._steps = p, steps
        w = p.mean
        a, b, c = (
            read.conv("means.hyper_layers.0", 4 * HYPER_WIDTH, p.hyper),
            read.conv("means.hyper_layers.1", HYPER_WIDTH, HYPER_WIDTH, 3),
            read.conv("means.hyper_layers.2", 4 * w, HYPER_WIDTH),
        )
        hyper = np.full(p.hyper, HYPER_STEP, np.float32)
        self.first = _layer(a, hyper, np.tile(steps["hyper.1"], 4), SLOPE)
        self.second = _layer(b, steps["hyper.1"], steps["hyper.2"], SLOPE)
        self.third = _layer(c, steps["hyper.2"], np.tile(steps["features"], 4), SLOPE)
        self.values = steps["values"]
        self._digest: dict[int, Layer] = {}
        self._context: dict[int, Layer] = {}
        self._squeeze: dict[int, tuple[Layer, Floats]] = {}
        for group, m in enumerate(p.groups):
            before = sum(p.groups[:group])
            own = self.values[before : before + m]
            if group:
                known = self.values[:before]
                if before > SEEN:
                    digested = steps[f"digest.{group}"]
                    self._digest[group] = _layer(
                        read.conv(f"means.digest.{group - 1}", SEEN, before), known, digested
                    )
                    known = digested
                conv = read.conv(f"means.context.{group - 1}", w, min(before, SEEN), 3)
                self._context[group] = _layer(conv, known, steps[f"context.{group}"], SLOPE)
            if m > SEEN:
                conv = read.conv(f"means.squeeze.{group}", SEEN, m)
                self._squeeze[group] = _layer(conv, own, steps[f"squeeze.{group}"]), conv.bias
        self._heads: dict[str, tuple[Layer, Layer]] = {}
        self._taps: dict[str, Conv] = {}
        for step in p.passes:
            name, m = name_of(step), step.last - step.first
            parts = [steps["features"]]
            parts += [steps[f"context.{step.group}"]] if step.group else []
            if step.number:
                parts.append(steps[f"taps.{name}"])
                self._taps[name] = read.conv(f"means.taps.{name}", TAPS, min(m, SEEN), taps_kernel(step))
            inputs, hidden = np.concatenate(parts), steps[f"hidden.{name}"]
            wide = read.conv(f"means.heads.{name}.0", len(hidden), len(inputs))
            last = read.conv(f"means.heads.{name}.2", m, len(hidden))
            ones = np.ones(m, np.float32)
            self._heads[name] = _layer(wide, inputs, hidden, SLOPE), _layer(last, hidden, ones)
        reach = (2 ** (step.level // 2) * (taps_kernel(step) // 2) for step in p.passes if step.number)
        self._border = max([1, *reach])
        self._layers: dict[tuple[str, bytes], Layer] = {}
        self._biases: dict[tuple[str, bytes], Held] = {}

    def hyper(self, z: npt.NDArray[np.int16]) -> Board:
        """Hyper-latents int16 [Z, h', w'] -> rows of what is seen at all positions, [4 h', 4 w'], features
        alone yet."""
        _, h, w = z.shape
        x = Board(h, w, len(z))
        x.memory[...] = z.clip(-fixed_point.LARGEST, fixed_point.LARGEST).transpose(1, 2, 0)
        y = Board(2 * h, 2 * w, HYPER_WIDTH, 1)
        around = Board(2 * h, 2 * w, HYPER_WIDTH)
        seen = Board(4 * h, 4 * w, 2 * self.preset.mean + TAPS)
        steps = (self.first, x, y, 1, 2), (self.second, y, around, 3, 1), (self.third, around, seen, 1, 2)
        for layer, source, target, kernel, side in steps:
            _run(layer, source, target, kernel, side)
        return seen

    def walk(
        self,
        seen: Board,
        size: tuple[int, int],
        settle: Settle,
        passes: Sequence[Pass],
        timer: Timer,
        goals: Sequence[Goal] = (),
        trail: Trail | None = None,
    ) -> None:
        """Passes in their order: each `settle`d to the map that later ones see, and to these goals. trail:
        is laid."""
        h, w = size
        known = Board(h, w, passes[-1].last, self._border)
        values = Goal(known.base, known.row, known.step, np.reciprocal(self.values))
        wide = any(step.group in self._squeeze for step in passes)
        squeezed = Board(h, w, SEEN, self._border) if wide else known
        for step in passes:
            place = places(h, w, self.preset.depths[step.group])[step.number]
            cells = place.positions
            with timer("network"):
                if step.number == 0 and step.group:
                    self._look_back(step.group, known, seen)
                if step.number:
                    source = squeezed if step.group in self._squeeze else known
                    self._look_around(step, place.near(taps_kernel(step)), cells, source, seen)
                hidden, means = self._means(step, cells, seen)
            if trail:
                trail.hidden[name_of(step)] = hidden
                if step.level == 0:
                    trail.seen[step.group] = seen.copied()
            settle(step, cells, (address_of(means), means.strides[0]), [values, *goals])
            if step.level and step.group in self._squeeze:
                layer, _ = self._squeeze[step.group]
                with timer("network"):
                    own = known.at(cells, step.first)
                    layer.run_at(PLAIN, HERE, blocks_of(SEEN), own, squeezed.at(cells))

    def _look_back(self, group: int, known: Board, seen: Board) -> None:
        """The context of the groups before one, to where it is seen."""
        if group in self._digest:
            digested = Board(known.height, known.width, SEEN, 1)
            _run(self._digest[group], known, digested, 1, 1)
            known = digested
        every = all_positions(known.height, known.width)
        layer, w = self._context[group], self.preset.mean
        layer.run_at(PLAIN, known.window(3), blocks_of(w), known.at(every), seen.at(every, w))

    def _look_around(
        self, step: Pass, near: Neighbours, cells: Positions, source: Board, seen: Board
    ) -> None:
        """What is known around a pass's cells of the same group, to where it is seen."""
        layer, biases = self._around(step, near)
        first = 0 if step.group in self._squeeze else step.first
        layer.run_at(
            RESIDUAL,
            source.window(taps_kernel(step), 2 ** (step.level // 2), near),
            blocks_of(TAPS),
            source.at(cells, first),
            seen.at(cells, self._width(step)),
            Listed(biases.address, kinds_of(near, biases.array.strides[0])),
        )

    def _width(self, step: Pass) -> int:
        """Channels of features and context."""
        return self.preset.mean * (2 if step.group else 1)

    def _means(self, step: Pass, cells: Positions, seen: Board) -> tuple[npt.NDArray[np.int16], Floats]:
        """Of a pass's cells: what is hidden in its head, int16 [n or more, hidden], and means, float32 [n or
        more, C or more]."""
        wide, last = self._heads[name_of(step)]
        own = seen.at(cells)
        room = len(own.at)
        hidden = np.empty((room, wide.outputs), np.int16)
        rows = rows_of(hidden, room)
        wide.run_at(PLAIN, HERE, blocks_of(wide.outputs), own, rows)
        means = np.empty((room, last.outputs), np.float32)
        last.run_at(REAL, HERE, blocks_of(last.outputs), rows, rows_of(means, room))
        return hidden, means

    def _around(self, step: Pass, near: Neighbours) -> tuple[Layer, Held]:
        """The layer that looks around, for what is known there, and what is unknown by kind of position."""
        name, conv = name_of(step), self._taps[name_of(step)]
        out = self._steps[f"taps.{name}"]
        known, all_of_it = (name, near.taps.tobytes()), (name, near.pattern)
        if known not in self._layers:
            inputs = self.values[step.first : step.last]
            if step.group in self._squeeze:
                inputs = self._steps[f"squeeze.{step.group}"]
            zero = np.zeros(len(out), np.float32)
            chosen = np.ascontiguousarray(conv.weight[:, near.taps])
            layer = fixed_point.layer(chosen, zero, inputs, out, slope=SLOPE, residual=out)
            self._layers.setdefault(known, layer)
        if all_of_it not in self._biases:
            unknown = np.zeros(conv.weight.shape[2], np.float32)
            if step.group in self._squeeze:
                unknown = self._squeeze[step.group][1]
            biases = conv.bias + near.inside @ (conv.weight.astype(np.float64) @ unknown).T
            whole = np.clip(np.rint(biases / out), -32767, 32767).astype(np.int16)
            self._biases.setdefault(all_of_it, Held(whole))
        return self._layers[known], self._biases[all_of_it]


def _run(layer: Layer, source: Board, target: Board, kernel: int, side: int) -> None:
    """A layer at all positions of a map; its outputs are the channels of side x side positions of the
    target."""
    every = all_positions(source.height, source.width)
    layer.run_at(
        PLAIN,
        source.window(kernel),
        target.places(layer.outputs // side**2, side),
        source.at(every),
        target.at(every, every=side),
    )


def name_of(step: Pass) -> str:
    return f"{step.group}_{step.number}"


def _layer(conv: Conv, inputs: Floats, outputs: Floats, slope: float = 1.0) -> Layer:
    return fixed_point.layer(conv.weight, conv.bias, inputs, outputs, slope=slope)

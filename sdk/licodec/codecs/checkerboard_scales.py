"""The integer nets of `checkerboard` that choose tables, in compiled loops; see `exact.compiled_layer`.

All that the nets know of a position stands in one row of memory, [features | context | what is around], into
which layers write where it will be read; magnitudes of symbols, projected, stand in one map with zeros around
it, so that what a position sees lies as far from it everywhere.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from lic_format.header import Order
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs.channel_skip import Channels, coded_channels
from licodec.codecs.checkerboard_layout import (
    HYPER_LIMIT,
    SCALES,
    Place,
    Preset,
    places,
    taps_kernel,
)
from licodec.codecs.contract import Timer
from licodec.entropy.schedule import Pass
from licodec.entropy.tables import NOT_CODED
from licodec.exact.compiled_layer import CompiledLayer, Offsets
from licodec.exact.fixed_point import (
    FEW_POSITIONS,
    HERE,
    OUTPUTS,
    Board,
    Held,
    address_of,
    all_positions,
    blocks_of,
    listed,
    rows_of,
)
from licodec.exact.neighbours import Neighbours, Positions

PROJECTED: Final = 32
CONTEXT: Final = 48
"""Channels, as `checkerboard_layout.exact_layers` has them."""
OFFSETS_KEPT: Final = 256
"""Tables of what is unknown around positions, of so many layers, patterns and rates."""


class ScaleNets:
    """The layers, and the constants that they have at the rates used last. Safe in several threads."""

    def __init__(self, preset: Preset, layers: Mapping[str, CompiledLayer]) -> None:
        self.preset, self.layers = preset, layers
        reach = (2 ** (step.level // 2) * (taps_kernel(step) // 2) for step in preset.passes)
        self.border = max(1, *reach)
        """Rows and columns beyond a map that layers read."""
        self._weights: dict[tuple[str, bytes], Held] = {}
        self._offsets: OrderedDict[tuple[str, bytes, int], Held] = OrderedDict()
        self._lock = threading.Lock()

    def weights_near(self, name: str, near: Neighbours) -> Held:
        """Of a layer that looks around, for what is known there."""
        key = name, near.taps.tobytes()
        if key not in self._weights:
            self._weights.setdefault(key, self.layers[name].weights_near(near))
        return self._weights[key]

    def offsets_near(self, name: str, group: int, near: Neighbours, rate: int) -> Offsets:
        """Of a layer that looks around in a group."""
        key = name, near.pattern, rate
        with self._lock:
            table = self._offsets.get(key)
            if table is None:
                unknown = self.layers[f"project.{group}"].of_zeros(rate)
                table = self._offsets[key] = self.layers[name].offsets_near(near, unknown, rate)
                if len(self._offsets) > OFFSETS_KEPT:
                    self._offsets.popitem(last=False)
        return Offsets(table, kinds_of(near, 1))


def kinds_of(near: Neighbours, step: int) -> Held:
    """Where in a table what belongs to each position's kind stands: kinds times `step`, as `listed` gives
    them."""
    few = len(near.kind) <= FEW_POSITIONS
    return _few_kinds(near, step) if few else _kinds(near, step)


def _kinds(near: Neighbours, step: int) -> Held:
    return listed(near.kind * step)


_few_kinds = functools.lru_cache(128)(_kinds)


class Scales:
    """Table indices of a latent's symbols, pass by pass, from integers that a decoder knows: encoder and
    decoder drive this same object. As `checkerboard.Scales`, which says more."""

    def __init__(
        self,
        nets: ScaleNets,
        families: npt.NDArray[np.uint8],
        z: npt.NDArray[np.int16],
        size: tuple[int, int],
        rate: int,
        order: Order,
        timer: Timer,
        skipped: Channels,
    ) -> None:
        """
        Args:
            families: of the order, uint8 [M]. z: int16 [Z, h', w']. size: of the latents. skipped: bool [M].
        """
        self.settled: list[npt.NDArray[np.int16]] = []
        self._nets, self._preset, self._size, self._rate = nets, nets.preset, size, rate
        self._timer, self._one_step, self._skipped = timer, order == Order.ONE_STEP, skipped
        self._end = coded_channels(skipped)
        self._first_table = np.where(skipped, -1, families.astype(np.int32) * SCALES).astype(np.int32)
        h, w = size
        with timer("exact"):
            self._seen = self._hyper(z)
            if self._one_step:
                self.everything = self._direct()
            else:
                groups = len(self._preset.groups)
                self._projected = Board(h, w, PROJECTED * groups, nets.border)

    def _hyper(self, z: npt.NDArray[np.int16]) -> Board:
        """Features of all positions, in rows with room for what else is seen there."""
        e = self._preset.exact
        _, h, w = z.shape
        first = Board(h, w, len(z), 1)
        first.memory[1:-1, 1:-1] = z.clip(-HYPER_LIMIT, HYPER_LIMIT).transpose(1, 2, 0)
        layers = self._nets.layers
        second = Board(h, w, layers["hyper.0"].spec.out, 1)
        third = Board(2 * h, 2 * w, e, 1)
        seen = Board(4 * h, 4 * w, e + CONTEXT + e)
        steps = (first, second, 1), (second, third, 2), (third, seen, 2)
        for number, (source, target, side) in enumerate(steps):
            layer = layers[f"hyper.{number}"]
            every = all_positions(source.height, source.width)
            layer.run(
                layer.weights,
                source.window(layer.spec.kernel),
                target.places(layer.spec.out // side**2, side),
                source.at(every),
                target.at(every, every=side),
                layer.offsets(self._rate),
            )
        return seen

    def _direct(self) -> npt.NDArray[np.uint8]:
        """Order 0: indices of all symbols, [M, h w]."""
        everywhere = all_positions(*self._size)
        if not self._end:
            return np.full((len(self._skipped), len(everywhere)), NOT_CODED, np.uint8)
        return self._indices("direct", everywhere, slice(None))

    def _indices(self, head: str, cells: Positions, part: slice) -> npt.NDArray[np.uint8]:
        """The two layers of a head, and the tables that its outputs name: uint8 [part, n]."""
        seen, count = self._seen.at(cells), len(cells)
        room = len(seen.at)
        wide, narrow = (self._nets.layers[f"{head}.{number}"] for number in (0, 1))
        first_table = self._first_table[part]
        between = np.empty((room, wide.spec.out), np.int16)
        rows = rows_of(between, room)
        wide.run(wide.weights, HERE, blocks_of(wide.spec.out), seen, rows, wide.offsets(self._rate))
        wanted = -(-coded_channels(first_table < 0) // 4) * 4  # of which vectors are made
        scale = np.empty((room, -(-wanted // OUTPUTS) * OUTPUTS), np.int16)
        out, blocks = rows_of(scale, room), blocks_of(scale.shape[1])
        narrow.run(narrow.weights, HERE, blocks, rows, out, narrow.offsets(self._rate))
        index = np.empty((len(first_table), count), np.uint8)
        index[wanted:] = NOT_CODED
        elementwise.indices((address_of(scale), scale.strides[0]), first_table[:wanted], index[:wanted])
        return index

    def index(self, step: Pass) -> npt.NDArray[np.uint8]:
        """Table index of each symbol of a pass, uint8 [C, n]; `NOT_CODED` where it is zero without a
        code."""
        part = slice(step.first, step.last)
        place = self._places(step)[step.number]
        if self._one_step:
            return self.everything[part].take(place.cells, axis=1)
        if self._skipped[part].all():
            return np.full((step.last - step.first, len(place.cells)), NOT_CODED, np.uint8)
        with self._timer("exact"):
            if step.number == 0 and step.group:
                self._look_back(step.group)
            if step.number:
                self._look_around(step, place)
            cells = place.positions
            return self._indices(f"scale.{step.group}.{step.number}", cells, part)

    def _look_back(self, group: int) -> None:
        """The context of the groups before one, to where it is seen."""
        layer, known = self._nets.layers[f"context.{group}"], self._projected
        everywhere = all_positions(*self._size)
        layer.run(
            layer.weights,
            known.window(layer.spec.kernel),
            blocks_of(CONTEXT),
            known.at(everywhere),
            self._seen.at(everywhere, self._preset.exact),
            layer.offsets(self._rate),
        )

    def _look_around(self, step: Pass, place: Place) -> None:
        """What is known around a pass's cells of the same group, to where it is seen."""
        name, known = f"taps.{step.group}.{step.number}", self._projected
        layer = self._nets.layers[name]
        near = place.near(layer.spec.kernel)
        first = self._preset.exact + (CONTEXT if step.group else 0)
        cells = place.positions
        layer.run(
            self._nets.weights_near(name, near),
            known.window(layer.spec.kernel, 2 ** (step.level // 2), near),
            blocks_of(layer.spec.out),
            known.at(cells, PROJECTED * step.group),
            self._seen.at(cells, first),
            self._nets.offsets_near(name, step.group, near, self._rate),
        )

    def settle(self, step: Pass, symbols: npt.NDArray[np.int16]) -> None:
        """Symbols [C, n] of a pass."""
        self.settled.append(symbols)
        if self._one_step or self._end <= (step.last if step.level == 0 else step.first):
            return
        layer, known = self._nets.layers[f"project.{step.group}"], self._projected
        with self._timer("exact"):
            cells = self._places(step)[step.number].positions
            magnitudes = np.empty(symbols.shape[::-1], np.int16)
            elementwise.magnitudes(symbols, (address_of(magnitudes), magnitudes.strides[0]))
            layer.run(
                layer.weights,
                HERE,
                blocks_of(PROJECTED),
                rows_of(magnitudes, len(cells)),
                known.at(cells, PROJECTED * step.group),
                layer.offsets(self._rate),
            )

    def _places(self, step: Pass) -> tuple[Place, ...]:
        return places(*self._size, self._preset.depths[step.group])

"""fhic in integers of 16 bits: `checkerboard` in compiled loops, as processors with AVX2 run it.

The same nets, wired as there and read from the same weights, and nothing of torch, whose import takes longer
than some dozens of pictures. What a file decodes to is the same on every such processor. What is asked for
rarely (order 2, efforts above 5) is `checkerboard`'s, loaded then.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lic_format.container import LicFile
from lic_format.errors import WeightsError
from lic_format.header import Colour, Head, Order
from licodec.codecs import checkerboard_compiled as nets
from licodec.codecs import checkerboard_elementwise as elementwise
from licodec.codecs.arrays import Arrays, Floats
from licodec.codecs.channel_skip import Channels, first_skipped, read_skipped
from licodec.codecs.checkerboard_compiled import Values, at_rate
from licodec.codecs.checkerboard_elementwise import Places, Rows
from licodec.codecs.checkerboard_layout import (
    CELL,
    HYPER,
    HYPER_ROUND,
    QUARTER,
    Z_MAX,
    Z_OFFSET_MAX,
    CodedPass,
    Symbols,
    exact_layers,
    grid,
    knot_of,
    once,
    read_known_answers,
    read_preset,
    refuse_search,
    searchable,
    seen_of,
    symbol_savings,
    tiles,
    times,
    written,
)
from licodec.codecs.checkerboard_look import CHOICE, LARGE, SEARCHES, USUAL_EFFORT, Looks, Tables
from licodec.codecs.checkerboard_means import Goal, Means
from licodec.codecs.checkerboard_means_back import MeansBack
from licodec.codecs.checkerboard_scales import ScaleNets, Scales
from licodec.codecs.contract import USUALLY, Coded, LossyWish, Shared, Stages, Timer
from licodec.codecs.registry import FHIC_SIDE_INFO
from licodec.entropy import schedule
from licodec.entropy.coder import StreamDecoder
from licodec.entropy.schedule import Pass, one_step
from licodec.entropy.tables import load_set
from licodec.exact import fixed_point
from licodec.exact.compiled_layer import CompiledLayer, refuse_wrong_sums
from licodec.exact.fixed_point import Map, address_of, distances
from licodec.exact.neighbours import Positions
from licodec.exact.specs import KNOTS
from licodec.images import Picture
from licodec.store import Weights
from licodec.threads import products_on_one_thread

if TYPE_CHECKING:
    from licodec.codecs.checkerboard import Checkerboard


def build(weights: Weights) -> FixedCheckerboard | None:
    """The model of a weights file that has steps; None where the processor or the widths of its nets don't
    suit.

    Raises:
        WeightsError: tensors missing, of another shape or dtype, integers out of bounds, steps that don't
        fit.
        ExactnessError: the loops give wrong sums on this machine.
    """
    if not fixed_point.has_pairs() or not nets.suit(read_preset(weights)):
        return None
    model = FixedCheckerboard(weights)
    if not weights.known:  # then nobody has looked at what is not needed for every file
        _ = model.in_torch
    return model


@dataclass(frozen=True)
class Proposal:
    """What is to be coded.

    Attributes:
        s: latents in units of symbols. z: hyper-latents, int16 [Z, h', w']. seen: what the mean nets see of
            them. skipped: channels that are left out, bool [M]. per_unit: symbols per bounded unit, [M].
            step_value: bits that the squared error of one symbol is worth, [M].
    """

    s: Values[np.float32]
    z: npt.NDArray[np.int16]
    seen: fixed_point.Board
    skipped: Channels
    per_unit: Floats
    step_value: Floats


class FixedCheckerboard:
    """Loaded weights. Immutable but for caches of constants; safe in several threads."""

    device = "cpu"

    def __init__(self, weights: Weights) -> None:
        self.preset = p = read_preset(weights)
        self.tables = load_set(1)
        if weights.metadata.get("tables") != self.tables.digest.hex():
            raise WeightsError(
                f"{weights.path}: made for the table set {weights.metadata.get('tables')!r}, "
                f"this version has {self.tables.digest.hex()}"
            )
        m, z = p.latents, p.hyper
        self._weights, self._read = weights, (read := Arrays(weights, "fhic"))
        self.families = {
            order: read.integers(f"family.{name}", (m,), "uint8", 0, 2)
            for order, name in ((Order.ONE_STEP, "direct"), (Order.CHECKERBOARD, "context"))
        }
        last = self.tables.count - 1
        self.prior_index = read.integers("prior.index", (KNOTS, z), "uint8", 0, last)
        self.prior_offset = read.integers("prior.offset", (KNOTS, z), "int16", -Z_OFFSET_MAX, Z_OFFSET_MAX)
        self.gain = read.floats("gain", (KNOTS, m))
        self.inverse_gain = read.floats("synthesis.inverse_gain", (KNOTS, m))
        self.step_value = read.floats("encoder.step_value", (KNOTS, m))
        self.default_order = Order(int(read.integers("order", (1,), "uint8", 0, 1)[0]))
        layers = {spec.name: CompiledLayer.read(spec, "exact.", weights.tensors) for spec in exact_layers(p)}
        refuse_wrong_sums(layers, read_known_answers(weights))
        self.scales = ScaleNets(p, layers)
        self._steps = nets.read_steps(weights, nets.step_counts(p))
        self.synthesis = nets.Synthesis(p, read, self._steps["synthesis"])
        self.means = Means(p, read, self._steps["means"])

    @functools.cached_property
    def in_torch(self) -> Checkerboard:
        """The same weights in torch's nets."""
        from licodec.codecs import checkerboard
        from licodec.threads import torch_as_wanted

        torch_as_wanted()
        return checkerboard.build(self._weights, self.device)

    @functools.cached_property
    def analysis(self) -> nets.Analysis:
        return nets.Analysis(self.preset, self._read, self._steps["analysis"])

    @functools.cached_property
    def adjoint(self) -> nets.Adjoint:
        return nets.Adjoint(self.preset, self._read, self._steps["refinement"])

    @functools.cached_property
    def pull(self) -> nets.Pull:
        return nets.Pull(self.preset, self._read, self._steps["refinement"]["missing"])

    @functools.cached_property
    def means_back(self) -> MeansBack:
        return MeansBack(self.preset, self._read, self.gain, self.inverse_gain)

    @functools.cached_property
    def hyper_analysis(self) -> nets.HyperAnalysis:
        return nets.HyperAnalysis(self.preset, self._read, self._steps["hyper"])

    @functools.cached_property
    def refinement_step(self) -> Floats:
        return self._read.floats("encoder.refine.step", (KNOTS, self.preset.latents))

    @functools.cached_property
    def preview(self) -> nets.Preview:
        """Of reduced pictures."""
        return nets.Preview(self.preset, self._read)

    # Encoder

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LossyWish = USUALLY,
    ) -> Coded:
        """See `contract.LossyModel`."""
        chosen = self.default_order if order is None else order
        effort = wish.effort
        if effort is None:
            effort = self.usual_effort(picture.width * picture.height)
        if chosen not in self.families:
            return self.in_torch.encode(
                picture, rate=rate, order=order, stages=stages, shared=shared, wish=wish
            )
        refuse_search(effort, self._weights)
        timer, way = Timer(stages), Order(chosen)
        with fixed_point.helped():
            with timer("pixels"):
                planes = once(shared, "fixed.planes", lambda: _padded(picture.planes))
            done = min(effort, max(SEARCHES))
            found = self._searched(planes, rate, way, timer, shared, done)
            if effort == done:
                symbols, passes = self._walked(found, rate, way, timer)
                return written(symbols, passes, rate, way, self.tables, timer)
        return self.in_torch.gone_on(
            picture,
            rate=rate,
            order=way,
            stages=stages,
            s=np.ascontiguousarray(found.s.inner),
            z=found.z,
            skipped=found.skipped,
            done=done,
            effort=effort,
        )

    def usual_effort(self, pixels: int = 0) -> int:
        """That of encoders that are not told another one, for a picture of so many pixels."""
        if not searchable(self._weights):
            return 1
        return USUAL_EFFORT - 1 if pixels > LARGE else USUAL_EFFORT

    def _searched(
        self,
        planes: npt.NDArray[np.uint8],
        rate: int,
        order: Order,
        timer: Timer,
        shared: Shared | None = None,
        effort: int = 1,
    ) -> Proposal:
        """What is to be coded of a picture as `_padded` gives it."""
        gain, inverse = self._gains(rate)
        step_value = at_rate(self.step_value, rate)
        with timer("network"):
            s = self._latents(planes, rate, gain, inverse, shared)
            z = self._hyper_latents(s, rate)
            skipped = np.zeros(self.preset.latents, np.bool_)
            skipped[first_skipped(s.inner.reshape(-1, len(skipped)), step_value) :] = True
        found = Proposal(s, z, self._seen(z, timer), skipped, density(gain), step_value)
        if not SEARCHES[effort]:
            return found
        looks = Looks(
            synthesis=self.synthesis,
            pull=self.pull,
            means=self.means,
            means_back=self.means_back,
            planes=planes,
            seen=found.seen,
            rate=rate,
            inverse=inverse,
            per_unit=found.per_unit,
            savings=symbol_savings(self.tables),
            timer=timer,
        )
        for number, steps in enumerate(SEARCHES[effort]):
            tables = Tables(s.height, s.width, len(skipped))
            self._walked(found, rate, order, timer, tables)
            found = replace(found, s=looks.moved(found.s, tables, steps))
            if not number:
                found = replace(found, step_value=step_value * np.float32(CHOICE))
        return found

    def _walked(
        self, of: Proposal, rate: int, order: Order, timer: Timer, known: Tables | None = None
    ) -> tuple[Symbols, list[CodedPass]]:
        """Symbols of latents, and the passes of their stream; `known`: what the walk finds out goes there."""
        s, z, skipped, per_unit, step_value = of.s, of.z, of.skipped, of.per_unit, of.step_value
        h, w = s.height, s.width
        scales = Scales(self.scales, self.families[order], z, (h, w), rate, order, timer, skipped)
        savings = symbol_savings(self.tables)
        apart = s.memory.strides[:2]
        coded: list[CodedPass] = []

        def settle(step: Pass, cells: Positions, means: Rows, goals: Sequence[Goal]) -> None:
            index = scales.index(step)
            with timer("network"):
                part = slice(step.first, step.last)
                per, worth = per_unit[part], step_value[part]
                symbols = np.empty(index.shape, np.int16)
                values = Places(address_of(s.memory) + 4 * step.first, distances(cells, *apart))
                elementwise.choose(values, means, per, index, worth, savings, symbols)
                _settle(step, cells, means, symbols, per, goals)
                if known:
                    known.take(step, cells, index)
            scales.settle(step, symbols)
            coded.append(CodedPass(step, symbols, index))

        steps = self.preset.passes
        there = [step for step in steps if not skipped[step.first : step.last].all()]
        if there:
            self.means.walk(of.seen, (h, w), settle, there, timer)
        for step in steps[len(coded) :]:
            index = scales.index(step)
            coded.append(CodedPass(step, np.zeros(index.shape, np.int16), index))
            scales.settle(step, coded[-1].symbols)
        found = Symbols(z, tuple(scales.settled), steps, h, w, skipped)
        passes = [self._hyper_pass(z, rate), *coded[: len(there)]]
        if order == Order.ONE_STEP:
            q = found.q.reshape(self.preset.latents, -1)
            passes[1:] = [CodedPass(one_step(len(q))[0], q, scales.everything)]
        return found, passes

    def _seen(self, z: npt.NDArray[np.int16], timer: Timer) -> fixed_point.Board:
        with timer("network"):
            return self.means.hyper(z)

    def _gains(self, rate: int) -> tuple[Floats, Floats]:
        """Symbols per unit of a latent, and coefficients per symbol, float32 [M]."""
        gain, inverse = (
            np.exp(at_rate(knots, rate).astype(np.float64)).astype(np.float32)
            for knots in (self.gain, self.inverse_gain)
        )
        return gain, inverse

    def _latents(
        self, planes: npt.NDArray[np.uint8], rate: int, gain: Floats, inverse: Floats, shared: Shared | None
    ) -> Values[np.float32]:
        """Latents in units of symbols, refined once; computed in tiles."""
        h, w = planes.shape[0] // CELL, planes.shape[1] // CELL
        parts = list(tiles(h, w, self.preset.halo))
        if len(parts) == 1:
            made = once(shared, "fixed.analysis", lambda: self._begun(planes))
            first = Values(w, self.analysis.finished(*made, rate, gain))
            return self._refined(first, planes, rate, gain, inverse)
        first, refined = (
            Values(w, np.empty((h, w + nets.ROOM, self.preset.latents), np.float32)) for _ in range(2)
        )
        for tile in parts:
            y = Values(
                _width(tile.outer_columns),
                self.analysis.finished(*self._begun(seen_of(planes, tile)), rate, gain),
            )
            first.inner[tile.rows, tile.columns] = y.inner[tile.inner_rows, tile.inner_columns]
        for tile in parts:
            y = first.copied(tile.outer_rows, tile.outer_columns)
            y = self._refined(y, seen_of(planes, tile), rate, gain, inverse)
            refined.inner[tile.rows, tile.columns] = y.inner[tile.inner_rows, tile.inner_columns]
        return refined

    def _begun(self, planes: npt.NDArray[np.uint8]) -> tuple[Map, Map]:
        pixels = Map(planes.shape[0] // 4, planes.shape[1] // 4, QUARTER, 4)
        elementwise.to_steps(planes, self.analysis.per_pixel, (pixels.address, pixels.row, pixels.step))
        return self.analysis.begun(pixels)

    def _refined(
        self,
        s: Values[np.float32],
        planes: npt.NDArray[np.uint8],
        rate: int,
        gain: Floats,
        inverse: Floats,
    ) -> Values[np.float32]:
        """`checkerboard.Refinement` of latents in units of symbols."""
        h, w, m = s.height, s.width, self.preset.latents
        coefficients, latents = (nets.empty_steps(h, w, m) for _ in range(2))
        per_coefficient = inverse * self.synthesis.per_coefficient
        per_latent = self.synthesis.per_latent * np.reciprocal(density(gain))
        elementwise.kept(s.rows, per_coefficient, coefficients.rows, per_latent, latents.rows)
        shown = self.synthesis(coefficients.whole, latents.whole, rate)
        missing = Map(4 * h, 4 * w, QUARTER, 4)
        to = missing.address, missing.row, missing.step
        elementwise.missing(planes, (shown.address, shown.row, shown.step), self.adjoint.per_pixel, to)
        found, out = self.adjoint(missing), Values(w, np.empty_like(s.memory))
        step = at_rate(self.refinement_step, rate)
        elementwise.refined(s.memory, nets.strided(found), np.reciprocal(inverse), step, out.memory)
        return out

    def _hyper_latents(self, s: Values[np.float32], rate: int) -> npt.NDArray[np.int16]:
        """Int16 [Z, h', w'] of latents in units of symbols."""
        rows, columns = -s.height % HYPER, -s.width % HYPER
        if rows or columns:
            y = np.pad(s.inner, ((0, rows), (0, columns), (0, 0)), mode="edge")
            s = Values(y.shape[1], np.pad(y, ((0, 0), (0, nets.ROOM), (0, 0))))
        level = nets.empty_steps(s.height, s.width, self.preset.latents)
        elementwise.asinh_in_steps(s.rows, self.hyper_analysis.per_level, level.rows)
        found = self.hyper_analysis(level.whole)
        centre = self.prior_offset[knot_of(rate)].astype(np.float32)
        d = found - centre
        z = centre + np.sign(d) * np.floor(np.abs(d) + np.float32(1 - HYPER_ROUND))
        return np.ascontiguousarray(z.clip(-Z_MAX, Z_MAX).astype(np.int16).transpose(2, 0, 1))

    def _hyper_pass(self, z: npt.NDArray[np.int16], rate: int) -> CodedPass:
        """The stream's first pass: hyper-latents with their offset taken off."""
        index, offset = self._hyper_prior(z.shape, rate)
        return CodedPass(one_step(len(z))[0], (z - offset).reshape(len(z), -1), index)

    def _hyper_prior(
        self, shape: tuple[int, ...], rate: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        """Table indices [Z, h' w'] and offsets [Z, 1, 1] of hyper-latents [Z, h', w']."""
        knot = knot_of(rate)
        index = np.repeat(self.prior_index[knot][:, None], shape[1] * shape[2], axis=1)
        return index, self.prior_offset[knot][:, None, None]

    # Decoder

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        """See `contract.Model`. All symbols first (integers), then the float nets once."""
        if file.head.order not in self.families:
            return self.in_torch.decode(file, reduce=reduce, stages=stages)
        with fixed_point.helped():
            return self._decode(file, reduce, Timer(stages))

    def _decode(self, file: LicFile, reduce: int, timer: Timer) -> Picture:
        head = file.head
        symbols = self._read_symbols(file, timer, None if reduce == 1 else self.preset.preview_groups)
        coefficients, latents = self._decoded(symbols, head.rate, timer)
        if reduce == 1:
            planes = self._pixels(coefficients, latents, head, timer)
        else:
            planes = self._reduced_pixels(coefficients, latents, head, reduce, timer)
        with timer("pixels"):
            if head.colour == Colour.GREY:
                planes = ((planes.astype(np.uint16).sum(axis=2, keepdims=True) + 1) // 3).astype(np.uint8)
        return Picture(planes, depth=8, orientation=head.orientation, metadata=file.metadata)

    def read_symbols(self, file: LicFile) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """Hyper-latents [Z, h', w'] and symbols [M, h, w] of a file, verified by the stream's seal."""
        if file.head.order not in self.families:
            return self.in_torch.read_symbols(file)
        symbols = self._read_symbols(file, Timer(None))
        return symbols.z, symbols.q

    def _read_symbols(self, file: LicFile, timer: Timer, groups: int | None = None) -> Symbols:
        """`groups`: of as many groups only, where the order allows it; what is left is the container's
        checksum then."""
        head = file.head
        h, w = grid(head.height, head.width)
        order = Order(head.order)
        side = FHIC_SIDE_INFO.read_whole(head.side_info, where="HEAD")
        skipped = read_skipped(side["channel_skip"], side["channels"], self.preset.latents)
        steps = tuple(step for step in self.preset.passes if groups is None or step.group < groups)
        stream = StreamDecoder(file.units[0].body, self.tables)
        z_shape = (self.preset.hyper, -(-h // HYPER), -(-w // HYPER))
        with timer("entropy"):
            index, offset = self._hyper_prior(z_shape, head.rate)
            z = stream.get(index.reshape(-1)).reshape(z_shape) + offset
        scales = Scales(self.scales, self.families[order], z, (h, w), head.rate, order, timer, skipped)
        if order == Order.ONE_STEP:
            with timer("entropy"):
                q = stream.get(scales.everything.reshape(-1)).reshape(scales.everything.shape)
            for step in steps:
                cells = schedule.positions(step, h, w)
                scales.settle(step, q[step.first : step.last].take(cells, axis=1))
        else:
            for step in steps:
                index = scales.index(step)
                with timer("entropy"):
                    if skipped[step.first : step.last].all():
                        symbols = np.zeros(index.shape, np.int16)
                    else:
                        symbols = stream.get(index.reshape(-1)).reshape(index.shape)
                scales.settle(step, symbols)
        if order == Order.ONE_STEP or len(steps) == len(self.preset.passes):
            with timer("entropy"):
                stream.close()
        return Symbols(z, tuple(scales.settled), steps, h, w, skipped)

    def _decoded(
        self, symbols: Symbols, rate: int, timer: Timer
    ) -> tuple[Values[np.int16], Values[np.int16]]:
        """Decoded latents as coefficients in units of pixels and in bounded units, both in steps."""
        h, w, last = symbols.height, symbols.width, symbols.steps[-1].last
        gain, inverse = self._gains(rate)
        per_unit = density(gain)
        passes = iter(symbols.passes)

        def settle(step: Pass, cells: Positions, means: Rows, goals: Sequence[Goal]) -> None:
            q = next(passes)
            whole = None if symbols.skipped[step.first : step.last].all() else q
            with timer("network"):
                _settle(step, cells, means, whole, per_unit[step.first : step.last], goals)

        coefficients, latents = (nets.empty_steps(h, w, last) for _ in range(2))
        factors = per_unit * inverse * self.synthesis.per_coefficient, self.synthesis.per_latent
        goals = [
            Goal(*nets.strided(of.memory), few)
            for of, few in zip((coefficients, latents), factors, strict=True)
        ]
        self.means.walk(self._seen(symbols.z, timer), (h, w), settle, symbols.steps, timer, goals)
        return coefficients, latents

    def _pixels(
        self, coefficients: Values[np.int16], latents: Values[np.int16], head: Head, timer: Timer
    ) -> npt.NDArray[np.uint8]:
        """Synthesis in overlapping tiles, rounded to uint8 [H, W, 3]."""
        h, w = latents.height, latents.width
        planes = np.empty((h * CELL, w * CELL, 3), np.uint8)
        for tile in tiles(h, w, self.preset.halo):
            with timer("network"):
                seen = tile.outer_rows, tile.outer_columns
                shown = self.synthesis(coefficients.part(*seen), latents.part(*seen), head.rate)
            with timer("pixels"):
                target = planes[tile.pixel_rows, tile.pixel_columns]
                rows, columns = tile.inner_block_rows, tile.inner_block_columns
                first = shown.address + rows.start * shown.row + columns.start * shown.step
                to = address_of(target), target.strides[0]
                inner = rows.stop - rows.start, columns.stop - columns.start
                elementwise.pixels((first, shown.row, shown.step), to, *inner)
        return np.ascontiguousarray(planes[: head.height, : head.width])

    def _reduced_pixels(
        self,
        coefficients: Values[np.int16],
        latents: Values[np.int16],
        head: Head,
        reduce: int,
        timer: Timer,
    ) -> npt.NDArray[np.uint8]:
        """Preview in tiles, averaged to 1 / `reduce` of the size and rounded: uint8 [H / reduce, W / reduce,
        3], rounded up."""
        size = -(-head.height // reduce), -(-head.width // reduce)
        side = CELL // reduce
        h, w = latents.height, latents.width
        planes = np.empty((h * side, w * side, 3), np.uint8)
        count = latents.memory.shape[2]
        steps = self.synthesis.per_coefficient, self.synthesis.per_latent
        one = [np.reciprocal(of[:count]) for of in steps]
        for tile in tiles(h, w, 1):
            with timer("network"), products_on_one_thread():
                seen = tile.outer_rows, tile.outer_columns
                both = zip((coefficients, latents), one, strict=True)
                y, v = (of.inner[seen].astype(np.float32) * few for of, few in both)
                pixels = self.preview(y, v, head.rate)[tile.inner_rows, tile.inner_columns]
                rows, columns, _ = pixels.shape
                apart = pixels.reshape(rows, columns, side, 4 // side, side, 4 // side, 3)
                levels = apart.mean(axis=(3, 5)).transpose(0, 2, 1, 3, 4)
            with timer("pixels"):
                whole = np.clip(levels * 255 + 128, 0, 255).astype(np.uint8)
                target = planes[times(tile.rows, side), times(tile.columns, side)]
                target[...] = whole.reshape(target.shape)
        return np.ascontiguousarray(planes[: size[0], : size[1]])


def density(gain: Floats) -> Floats:
    """See `checkerboard.density`."""
    out: Floats = np.sqrt(1 + gain * gain)
    return out


def _settle(
    step: Pass,
    cells: Positions,
    means: Rows,
    symbols: npt.NDArray[np.int16] | None,
    per: Floats,
    goals: Sequence[Goal],
) -> None:
    elementwise.settle(means, symbols, per, [goal.of(step, cells) for goal in goals], len(cells))


def _padded(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] -> [.., .., 3] of the grid's size, edges repeated."""
    height, width, channels = planes.shape
    h, w = grid(height, width)
    rows, columns = h * CELL - height, w * CELL - width
    if rows or columns:
        planes = np.pad(planes, ((0, rows), (0, columns), (0, 0)), mode="edge")
    if channels == 1:
        planes = np.repeat(planes, 3, axis=2)
    return np.ascontiguousarray(planes)


def _width(columns: slice) -> int:
    width: int = columns.stop - columns.start
    return width

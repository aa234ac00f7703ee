"""The transforms of `checkerboard` in integers of 16 bits; see `exact.fixed_point`. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lic_format.errors import WeightsError
from licodec.codecs.arrays import Arrays, Conv
from licodec.codecs.checkerboard_layout import HYPER_WIDTH, QUARTER, SEEN, SHOWN_STEP, STEPS, TAPS, Preset
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    MASKED,
    PLAIN,
    POSITIONS,
    REAL,
    RESIDUAL,
    Floats,
    Held,
    Layer,
    Map,
    Reals,
    Strided,
    address_of,
    blocks_of,
    inside,
    places,
    window,
)
from licodec.exact.specs import KNOTS
from licodec.store import Weights

SLOPE = 0.1
"""Of the leaky ReLUs."""
Steps = Mapping[str, Floats]
"""Step of each input channel, by the name of the layer."""


Kind = TypeVar("Kind", np.float32, np.int16, np.uint8)


def at_rate(knots: Floats, rate: int) -> Floats:
    """A table [17, n] at a rate index, linear between knots: [n]."""
    knot, sixteenths = divmod(rate, 16)
    low, high = knots[knot : knot + 2].astype(np.float64)
    out: Floats = (low + (high - low) * (sixteenths / 16)).astype(np.float32)
    return out


# --- Layers from map to map ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Positions of a map in memory that somebody keeps: an address, bytes to the next row and column."""

    address: int
    row: int
    step: int
    height: int
    width: int


ROOM = 2 + POSITIONS
"""Columns beyond those of a `Values`, which layers overwrite: as many as a `Map` has."""


class Values(Generic[Kind]):
    """Values of height x width positions.

    Attributes:
        memory: [height, width + ROOM, channels].
    """

    def __init__(self, width: int, memory: npt.NDArray[Kind]) -> None:
        self.height, self.width = len(memory), width
        self.memory: npt.NDArray[Kind] = memory

    @property
    def inner(self) -> npt.NDArray[Kind]:
        """[height, width, channels]."""
        out: npt.NDArray[Kind] = self.memory[:, : self.width]
        return out

    @property
    def rows(self) -> npt.NDArray[Kind]:
        """All positions, those that are overwritten among them, [n, channels]."""
        out: npt.NDArray[Kind] = self.memory.reshape(-1, self.memory.shape[2])
        return out

    def copied(self, rows: slice, columns: slice) -> Values[Kind]:
        """A part with memory of its own."""
        seen = self.inner[rows, columns]
        memory: npt.NDArray[Kind] = np.pad(seen, ((0, 0), (0, ROOM), (0, 0)))
        return Values(seen.shape[1], memory)

    def part(self, rows: slice, columns: slice) -> Part:
        row, step, _ = self.memory.strides
        address = address_of(self.memory) + rows.start * row + columns.start * step
        return Part(address, row, step, rows.stop - rows.start, columns.stop - columns.start)

    @property
    def whole(self) -> Part:
        return self.part(slice(0, self.height), slice(0, self.width))


def strided(values: npt.NDArray[Kind]) -> Strided:
    """Of [h, w, C]."""
    row, step, _ = values.strides
    return address_of(values), row, step


def empty_steps(height: int, width: int, channels: int) -> Values[np.int16]:
    """With some positions more behind the last one, which layers read."""
    columns = width + ROOM
    memory = np.empty((height * columns + POSITIONS, channels), np.int16)
    return Values(width, memory[: height * columns].reshape(height, columns, channels))


def run_layer(
    of: Layer,
    taps: Held,
    source: Map | Part,
    target: Map,
    side: int = 1,
    *,
    every: int = 1,
    residual: Map | None = None,
    mask: Map | None = None,
) -> None:
    """A layer at every so many-th row and column of the source; its outputs are the channels of
    side x side positions of the target, and of what is added; or they are masked (`fixed_point.MASKED`)."""
    writes, added = PLAIN, 0
    for how, other in ((RESIDUAL, residual), (MASKED, mask)):
        if other is not None:
            assert (other.row, other.step) == (target.row, target.step)
            writes, added = how, other.address
    at = places(target.channels, side, target.row, target.step)
    strided = target.address, side * target.row, side * target.step
    _run(of, writes, taps, source, every, at, added, strided)


def run_real_layer(
    of: Layer, taps: Held, source: Map, *, every: int = 1, residual: Map | None = None
) -> Floats:
    """The same, as float32 [h, w + .., C]; of the columns beyond w nobody knows what they hold."""
    h, w = source.height // every, source.width // every
    columns = w + ROOM if residual is None else residual.memory.shape[1]
    out = np.empty((h, columns, of.outputs), np.float32)
    row, step, _ = (each // 2 for each in out.strides)
    added = address_of(out) if residual is None else residual.address  # of which 0 times is added
    assert residual is None or (residual.row, residual.step) == (row, step)
    _run(of, REAL, taps, source, every, blocks_of(of.outputs), added, (address_of(out), row, step))
    return out


def _run(
    of: Layer,
    writes: int,
    taps: Held,
    source: Map | Part,
    every: int,
    places: Held,
    residual: int,
    target: Strided,
) -> None:
    strided = source.address, every * source.row, every * source.step
    of.run(writes, taps, places, strided, residual, target, source.height // every, source.width // every)


def _layer(
    conv: Conv,
    inputs: Floats,
    outputs: Floats,
    *,
    factors: Reals | None = None,
    residual: Floats | None = None,
    slope: float = 1.0,
) -> Layer:
    """A convolution in steps; one of r x r positions' channels, one behind the other, as one of all positions
    that it takes. factors: of its outputs."""
    weight, bias = conv.weight.reshape(len(conv.weight), -1, len(inputs)), conv.bias
    if factors is not None:
        few = factors.astype(np.float32)
        weight, bias = weight * few[:, None, None], bias * few
    return fixed_point.layer(weight, bias, inputs, outputs, residual=residual, slope=slope)


def _window(of: Map) -> Held:
    """Of a 3x3 convolution."""
    return window(3, of.row, of.step)


def _inside(of: Map, side: int) -> Held:
    """From the first of side x side positions to all."""
    return inside(side, of.row, of.step)


class Block:
    """`checkerboard.Block`. slope: of what comes after it; outputs: its steps."""

    def __init__(
        self, read: Arrays, net: str, name: str, steps: Steps, outputs: Floats, slope: float
    ) -> None:
        x, near, hidden = (steps[f"{name}.{part}"] for part in ("around", "wide", "narrow"))
        width, tensors = len(x), f"{net}{name}"
        around = read.conv(f"{tensors}.around", width, 1, 3)
        self.around = fixed_point.layer_within(around.weight[..., 0], around.bias, x, near)
        self.wide = _layer(read.conv(f"{tensors}.wide", 2 * width, width), near, hidden, slope=SLOPE)
        narrow = read.conv(f"{tensors}.narrow", width, 2 * width)
        self.narrow = _layer(narrow, hidden, outputs, residual=x, slope=slope)
        self.film = read.floats(f"{tensors}.film", (KNOTS, 2 * width))

    def __call__(self, x: Map, rate: int, hidden: list[Map] | None = None) -> Map:
        """hidden: what its leaky ReLU gave is put there."""
        out, wide = x.like(), self.wide.times(at_rate(self.film, rate))
        inside = None if hidden is None else Map(x.height, x.width, wide.outputs, x.finer)
        fixed_point.block(self.around, wide, self.narrow, x, out, inside)
        if hidden is not None and inside is not None:
            hidden.append(inside)
        return out


def _chain(read: Arrays, net: str, names: Sequence[str], steps: Steps, last: Floats) -> list[Block]:
    outputs = [*(steps[f"{name}.around"] for name in names[1:]), last]
    slopes = [*[1.0] * (len(names) - 1), SLOPE]
    every = zip(names, outputs, slopes, strict=True)
    return [Block(read, net, name, steps, out, slope) for name, out, slope in every]


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}_blocks.{number}" for number in range(count)]


# --- The nets -----------------------------------------------------------------------------------------------


class Synthesis:
    """`checkerboard.Synthesis` of one picture: blocks of pixels, right to some tenths of a level."""

    def __init__(self, p: Preset, read: Arrays, steps: Steps) -> None:
        net, m, e, wide = "synthesis.", p.latents, p.eighth, p.decoder_sixteenth
        sixteenth = _names("sixteenth", p.decoder_sixteenth_blocks)
        eighth = _names("eighth", p.decoder_eighth_blocks)
        picture, stream = steps["render"], steps[f"{eighth[0]}.around"]
        self.per_coefficient, self.per_latent = np.reciprocal(steps["klt"]), np.reciprocal(steps["enter"])
        """Steps in one of what `__call__` takes, float32 [M]."""
        self.klt = _layer(read.conv(f"{net}klt", 16 * QUARTER, m), steps["klt"], np.tile(picture, 16))
        enter = read.conv(f"{net}enter", wide, m)
        self.enter = _layer(enter, steps["enter"], steps[f"{sixteenth[0]}.around"])
        self.sixteenth = _chain(read, net, sixteenth, steps, steps["from_sixteenth"])
        from_sixteenth = read.conv(f"{net}from_sixteenth", 4 * e, wide)
        self.from_sixteenth = _layer(from_sixteenth, steps["from_sixteenth"], np.tile(stream, 4))
        look = read.conv(f"{net}look", e, 4 * QUARTER)
        self.look = _layer(look, picture, stream, residual=stream)
        self.eighth = _chain(read, net, eighth, steps, steps["to_quarter"])
        four = np.tile(picture, 4)
        to_quarter = read.conv(f"{net}to_quarter", 4 * QUARTER, e)
        self.to_quarter = _layer(to_quarter, steps["to_quarter"], four, residual=four)
        render = read.conv(f"{net}render", QUARTER, QUARTER, 3)
        self.render = _layer(render, picture, steps["leave"], slope=SLOPE)
        self.film = read.floats(f"{net}film", (KNOTS, QUARTER))
        leave = read.conv(f"{net}leave", QUARTER, QUARTER, 3)
        shown = np.full(QUARTER, SHOWN_STEP, np.float32)
        self.leave = _layer(leave, steps["leave"], shown, residual=picture)

    def __call__(self, coefficients: Part, latents: Part, rate: int) -> Map:
        """Latents [h, w, M] as coefficients in units of pixels, and in bounded units; both in steps. Gives
        blocks of pixels [4 h, 4 w, 48], minus 0.5, in steps of SHOWN_STEP."""
        return self._passed(coefficients, latents, rate, None)[0]

    def passed(self, coefficients: Part, latents: Part, rate: int) -> tuple[Map, Passed]:
        """The same, and what leaky ReLUs gave on the way."""
        hidden: list[Map] = []
        shown, *last = self._passed(coefficients, latents, rate, hidden)
        return shown, Passed(hidden, *last)

    def _passed(
        self, coefficients: Part, latents: Part, rate: int, hidden: list[Map] | None
    ) -> tuple[Map, Map, Map, Map]:
        h, w = latents.height, latents.width
        picture = Map(4 * h, 4 * w, QUARTER, 4)
        run_layer(self.klt, HERE, coefficients, picture, 4)
        x = Map(h, w, self.enter.outputs)
        run_layer(self.enter, HERE, latents, x)
        for block in self.sixteenth:
            x = block(x.finished(), rate, hidden)
        y = Map(2 * h, 2 * w, self.look.outputs, 2)
        run_layer(self.from_sixteenth, HERE, x, y, 2)
        run_layer(self.look, _inside(picture, 2), picture, y, every=2, residual=y)
        for block in self.eighth:
            y = block(y.finished(), rate, hidden)
        run_layer(self.to_quarter, HERE, y, picture, 2, residual=picture)
        rendered = Map(4 * h, 4 * w, QUARTER)
        render = self.render.times(at_rate(self.film, rate))
        run_layer(render, _window(picture.finished()), picture, rendered)
        shown = Map(4 * h, 4 * w, QUARTER, 4)
        run_layer(self.leave, _window(rendered.finished()), rendered, shown, residual=picture)
        return shown, x, y, rendered


class Analysis:
    """`checkerboard.Analysis` of one picture."""

    def __init__(self, p: Preset, read: Arrays, steps: Steps) -> None:
        net, m, e, wide = "encoder.analysis.", p.latents, p.eighth, p.encoder_sixteenth
        sixteenth = _names("sixteenth", p.encoder_sixteenth_blocks)
        eighth = _names("eighth", p.encoder_eighth_blocks)
        pixels, stream = steps["pixels"], steps[f"{eighth[0]}.around"]
        self.per_pixel: Floats = np.reciprocal(pixels)
        """Steps in one of what `begun` takes, float32 [48]."""
        first = read.conv(f"{net}first", QUARTER, QUARTER, 3)
        self.first = _layer(first, pixels, steps["to_quarter"], slope=SLOPE)
        to_quarter = read.conv(f"{net}to_quarter", QUARTER, QUARTER, 3)
        self.to_quarter = _layer(to_quarter, steps["to_quarter"], pixels, residual=pixels)
        self.to_eighth = _layer(read.conv(f"{net}to_eighth", e, 4 * QUARTER), steps["to_quarter"], stream)
        self.eighth = _chain(read, net, eighth, steps, steps["from_eighth"])
        four = np.tile(pixels, 4)
        from_eighth = read.conv(f"{net}from_eighth", 4 * QUARTER, e)
        self.from_eighth = _layer(from_eighth, steps["from_eighth"], four, residual=four)
        inner = steps[f"{sixteenth[0]}.around"]
        to_sixteenth = read.conv(f"{net}to_sixteenth", wide, 4 * e)
        self.to_sixteenth = _layer(to_sixteenth, steps["from_eighth"], inner)
        self.sixteenth = _chain(read, net, sixteenth, steps, steps["to_latents"])
        latents = steps["latents"]
        to_latents = read.conv(f"{net}to_latents", m, wide)
        self.to_latents = _layer(to_latents, steps["to_latents"], latents)
        ones = np.ones_like(latents)
        deviation = read.floats(f"{net}deviation", (m,))
        klt = read.conv(f"{net}klt", m, 16 * QUARTER)
        self.klt = _layer(klt, pixels, ones, residual=latents, factors=1 / deviation)

    def begun(self, pixels: Map) -> tuple[Map, Map]:
        """What is the same at every rate, of blocks of pixels in steps, whose map is used up: corrected
        blocks, and features of the 1/8 grid."""
        h = Map(pixels.height, pixels.width, QUARTER, 2)
        run_layer(self.first, _window(pixels.finished()), pixels, h)
        run_layer(self.to_quarter, _window(h.finished()), h, pixels, residual=pixels)
        features = Map(h.height // 2, h.width // 2, self.to_eighth.outputs, 2)
        run_layer(self.to_eighth, _inside(h, 2), h, features, every=2)
        return pixels, features

    def finished(self, pixels: Map, h: Map, rate: int, gain: Floats) -> Floats:
        """Latents times `gain` [M] of what `begun` gives, which stays as it is: float32 [h, w + .., M]."""
        for block in self.eighth:
            h = block(h.finished(), rate)
        corrected = Map(pixels.height, pixels.width, QUARTER, 4)
        run_layer(self.from_eighth, HERE, h, corrected, 2, residual=pixels)
        x = Map(h.height // 2, h.width // 2, self.to_sixteenth.outputs)
        run_layer(self.to_sixteenth, _inside(h, 2), h, x, every=2)
        for block in self.sixteenth:
            x = block(x.finished(), rate)
        added = Map(x.height, x.width, self.to_latents.outputs)
        run_layer(self.to_latents, HERE, x, added)
        klt = self.klt.scaled(gain)
        return run_real_layer(klt, _inside(corrected, 4), corrected, every=4, residual=added)


class Adjoint:
    """The adjoint of `checkerboard.Refinement` of one picture."""

    def __init__(self, p: Preset, read: Arrays, steps: Steps) -> None:
        missing = steps["missing"]
        self.per_pixel: Floats = np.reciprocal(missing)
        """Steps in one of what `__call__` takes, float32 [48]."""
        adjoint = read.conv("encoder.refine.adjoint", p.latents, 16 * QUARTER)
        self.adjoint = _layer(adjoint, missing, np.ones(p.latents, np.float32))

    def __call__(self, missing: Map) -> Floats:
        """Blocks of pixels [4 h, 4 w, 48] in steps -> coefficients float32 [h, w + .., M]."""
        return run_real_layer(self.adjoint, _inside(missing, 4), missing, every=4)


def _back(
    weight: Floats,
    inputs: Floats,
    slope: float = 1.0,
    *,
    residual: Floats | None = None,
    outputs: Floats | None = None,
) -> tuple[Layer, Floats]:
    """The transpose of a convolution [out, taps, in], and the steps of what it gives: those of what it is
    added to (`residual`), or `outputs`, or a quarter of what sums could be at most, which pictures don't come
    near."""
    back = np.ascontiguousarray(weight.transpose(2, 1, 0)[:, ::-1])
    if outputs is None:
        outputs = (np.abs(back) * inputs).sum((1, 2)) / 4 if residual is None else residual
    steps = np.maximum(outputs, np.float32(1e-12))
    bias = np.zeros(len(back), np.float32)
    return fixed_point.layer(back, bias, inputs, steps, residual=residual, slope=slope), steps


class BlockBack:
    """What comes back through a `Block`; steps of what goes in and comes out: `stream`."""

    def __init__(self, read: Arrays, name: str, stream: Floats) -> None:
        width = len(stream)
        narrow = read.conv(f"{name}.narrow", width, 2 * width).weight
        self.narrow, hidden = _back(narrow, stream, SLOPE)
        self.wide, near = _back(read.conv(f"{name}.wide", 2 * width, width).weight, hidden)
        around = read.conv(f"{name}.around", width, 1, 3).weight[:, ::-1, 0]
        bias = np.zeros(width, np.float32)
        self.around = fixed_point.layer_within(around, bias, near, stream, residual=stream)
        self.film = read.floats(f"{name}.film", (KNOTS, 2 * width))

    def __call__(self, stream: Map, hidden: Map, rate: int) -> None:
        """The map of what came to its output becomes that of what comes to its input; `hidden`: what its
        leaky ReLU gave."""
        near = stream.like()
        narrow = self.narrow.times(at_rate(self.film, rate))
        fixed_point.block_back(narrow, self.wide, stream, hidden, near)
        fixed_point.run_within(self.around, near.bordered(), stream, added=True)


@dataclass(frozen=True)
class Passed:
    """What leaky ReLUs gave on a way through `Synthesis`.

    Attributes:
        hidden: those inside of blocks, on the 1/16 and then on the 1/8 grid. sixteenth, eighth, quarter:
            those before the next finer grid, and before the last layer.
    """

    hidden: list[Map]
    sixteenth: Map
    eighth: Map
    quarter: Map


class Pull:
    """What a picture lacks, carried back through `Synthesis` to its latents: the gradient of half the squared
    error, as if nothing lay beyond the border."""

    def __init__(self, p: Preset, read: Arrays, missing: Floats) -> None:
        net, m, e, wide = "synthesis.", p.latents, p.eighth, p.decoder_sixteenth
        self.per_pixel: Floats = np.reciprocal(missing)
        """Steps in one of what `__call__` takes, float32 [48]."""
        four = np.tile(missing, 4)
        self.leave, near = _back(read.conv(f"{net}leave", QUARTER, QUARTER, 3).weight, missing, SLOPE)
        render = read.conv(f"{net}render", QUARTER, QUARTER, 3).weight
        self.render, _ = _back(render, near, residual=missing)
        to_quarter = read.conv(f"{net}to_quarter", 4 * QUARTER, e).weight
        self.to_quarter, stream = _back(to_quarter, four, SLOPE)
        eighth = _names("eighth", p.decoder_eighth_blocks)
        self.eighth = [BlockBack(read, f"{net}{name}", stream) for name in eighth]
        self.look, _ = _back(read.conv(f"{net}look", e, 4 * QUARTER).weight, stream, residual=four)
        from_sixteenth = read.conv(f"{net}from_sixteenth", 4 * e, wide).weight
        self.from_sixteenth, coarse = _back(from_sixteenth, np.tile(stream, 4), SLOPE)
        sixteenth = _names("sixteenth", p.decoder_sixteenth_blocks)
        self.sixteenth = [BlockBack(read, f"{net}{name}", coarse) for name in sixteenth]
        self.enter, entered = _back(read.conv(f"{net}enter", wide, m).weight, coarse)
        klt = read.conv(f"{net}klt", 16 * QUARTER, m).weight
        ones = np.ones(m, np.float32)
        self.klt, _ = _back(klt, np.tile(missing, 16), outputs=ones, residual=entered)
        self.film = read.floats(f"{net}film", (KNOTS, QUARTER))

    def __call__(self, missing: Map, passed: Passed, rate: int, scale: Floats) -> Floats:
        """Blocks of pixels [4 h, 4 w, 48] in steps, used up -> what coefficients float32 [h, w + .., M]
        should be moved by; scale: coefficients per bounded unit, [M]."""
        near = passed.quarter.like()
        leave = self.leave.times(at_rate(self.film, rate))
        run_layer(leave, _window(missing.bordered()), missing, near, mask=passed.quarter)
        run_layer(self.render, _window(near.bordered()), near, missing, residual=missing)
        stream = passed.eighth.like()
        run_layer(self.to_quarter, _inside(missing, 2), missing, stream, every=2, mask=passed.eighth)
        coarser = len(self.sixteenth)
        for block, hidden in zip(self.eighth[::-1], passed.hidden[: coarser - 1 : -1], strict=True):
            block(stream, hidden, rate)
        run_layer(self.look, HERE, stream, missing, 2, residual=missing)
        coarse = passed.sixteenth.like()
        run_layer(self.from_sixteenth, _inside(stream, 2), stream, coarse, every=2, mask=passed.sixteenth)
        for block, hidden in zip(self.sixteenth[::-1], passed.hidden[coarser - 1 :: -1], strict=True):
            block(coarse, hidden, rate)
        entered = Map(coarse.height, coarse.width, self.enter.outputs)
        run_layer(self.enter, HERE, coarse, entered)
        klt = self.klt.added_times(np.reciprocal(scale))
        return run_real_layer(klt, _inside(missing, 4), missing, every=4, residual=entered)


class HyperAnalysis:
    """`checkerboard.HyperAnalysis` of one picture."""

    def __init__(self, p: Preset, read: Arrays, steps: Steps) -> None:
        net, width = "encoder.hyper.layers.", HYPER_WIDTH
        level, first, second, third = (steps[f"layers.{number}"] for number in range(4))
        self.per_level: Floats = np.reciprocal(level)
        """Steps in one of what `__call__` takes, float32 [M]."""
        self.first = _layer(read.conv(f"{net}0", width, p.latents), level, first, slope=SLOPE)
        self.second = _layer(read.conv(f"{net}1", width, 4 * width), first, second, slope=SLOPE)
        self.third = _layer(read.conv(f"{net}2", width, width, 3), second, third, slope=SLOPE)
        fours = np.full(p.hyper, 4.0, np.float32)
        last = read.conv(f"{net}3", p.hyper, 4 * width)
        self.last = _layer(last, third, np.ones_like(fours), factors=fours)

    def __call__(self, level: Part) -> Floats:
        """asinh of scaled latents [h, w, M] in steps, h and w multiples of 4 -> hyper-latents float32
        [h/4, w/4, Z] before rounding."""
        h, w = level.height, level.width
        wide = Map(h, w, HYPER_WIDTH)
        run_layer(self.first, HERE, level, wide)
        x, around = (Map(h // 2, w // 2, HYPER_WIDTH) for _ in range(2))
        run_layer(self.second, _inside(wide, 2), wide, x, every=2)
        run_layer(self.third, _window(x.bordered()), x, around)
        return run_real_layer(self.last, _inside(around, 2), around, every=2)[:, : w // 4]


class Preview:
    """`checkerboard.Preview` in float32: few enough products for NumPy."""

    def __init__(self, p: Preset, read: Arrays) -> None:
        net, m, wide = "synthesis.preview.", sum(p.groups[: p.preview_groups]), p.decoder_sixteenth
        self.klt = read.conv(f"{net}klt", QUARTER, m)
        self.enter = read.conv(f"{net}enter", wide, m)
        self.around = read.conv(f"{net}block.around", wide, 1, 3)
        self.wide = read.conv(f"{net}block.wide", 2 * wide, wide)
        self.narrow = read.conv(f"{net}block.narrow", wide, 2 * wide)
        self.film = read.floats(f"{net}block.film", (KNOTS, 2 * wide))
        self.leave = read.conv(f"{net}leave", QUARTER, wide)

    def __call__(self, coefficients: Floats, v: Floats, rate: int) -> Floats:
        """Of the first groups' latents [h, w, m], as coefficients and in bounded units, the picture at a
        quarter of its size: blocks of 4x4 pixels [h, w, 48], minus 0.5."""
        x = _pointwise(self.enter, v)
        h, w, _ = x.shape
        edged = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
        near = np.broadcast_to(self.around.bias, x.shape).copy()
        for tap in range(9):
            dy, dx = divmod(tap, 3)
            near += edged[dy : dy + h, dx : dx + w] * self.around.weight[:, tap, 0]
        hidden = _leaky(_pointwise(self.wide, near)) * at_rate(self.film, rate)
        x += _pointwise(self.narrow, hidden)
        return _pointwise(self.klt, coefficients) + _pointwise(self.leave, _leaky(x))


def _pointwise(conv: Conv, x: Floats) -> Floats:
    rows: Floats = x.reshape(-1, x.shape[2]) @ conv.weight[:, 0].T  # one product; of maps it would be many
    rows += conv.bias
    return rows.reshape(*x.shape[:2], -1)


def _leaky(x: Floats) -> Floats:
    out: Floats = np.maximum(x, x * np.float32(SLOPE))
    return out


# --- Steps --------------------------------------------------------------------------------------------------


STEP_EXPONENTS = range(-30, 11)


def step_counts(p: Preset) -> dict[str, dict[str, int]]:
    """How many channels each of the maps has, by net and name: most of them what the layer of that name
    takes."""

    def of_blocks(kind: str, count: int, width: int) -> dict[str, int]:
        sizes = {"around": width, "wide": width, "narrow": 2 * width}
        return {f"{kind}.{n}.{part}": size for n in range(count) for part, size in sizes.items()}

    m, e = p.latents, p.eighth
    synthesis = {"klt": m, "enter": m, "from_sixteenth": p.decoder_sixteenth, "to_quarter": e}
    synthesis |= {"render": QUARTER, "leave": QUARTER}
    synthesis |= of_blocks("sixteenth_blocks", p.decoder_sixteenth_blocks, p.decoder_sixteenth)
    synthesis |= of_blocks("eighth_blocks", p.decoder_eighth_blocks, e)
    analysis = {"pixels": QUARTER, "to_quarter": QUARTER, "from_eighth": e, "latents": m}
    analysis |= {"to_latents": p.encoder_sixteenth}
    analysis |= of_blocks("sixteenth_blocks", p.encoder_sixteenth_blocks, p.encoder_sixteenth)
    analysis |= of_blocks("eighth_blocks", p.encoder_eighth_blocks, e)
    nets = {"synthesis": synthesis, "analysis": analysis, "refinement": {"missing": QUARTER}}
    hyper = {"layers.0": m} | {f"layers.{number}": HYPER_WIDTH for number in (1, 2, 3)}
    return {**nets, "hyper": hyper, "means": mean_counts(p)}


def mean_counts(p: Preset) -> dict[str, int]:
    """`step_counts` of the mean nets."""
    counts = {"hyper.1": HYPER_WIDTH, "hyper.2": HYPER_WIDTH, "features": p.mean, "values": p.latents}
    for group, m in enumerate(p.groups):
        if group:
            counts[f"context.{group}"] = p.mean
            if sum(p.groups[:group]) > SEEN:
                counts[f"digest.{group}"] = SEEN
        if m > SEEN:
            counts[f"squeeze.{group}"] = SEEN
    for step in p.passes:
        name = f"{step.group}_{step.number}"
        counts[f"hidden.{name}"] = p.mean if step.group == 0 else p.mean * 3 // 2
        if step.number:
            counts[f"taps.{name}"] = TAPS
    return counts


def read_steps(weights: Weights, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Floats]]:
    """Steps from the metadata `steps`, where they stand as powers of two.

    Raises:
        WeightsError: anything else stands there.
    """
    try:
        stored = json.loads(weights.metadata[STEPS])
        out: dict[str, dict[str, Floats]] = {}
        for net, maps in counts.items():
            out[net] = {}
            for name, count in maps.items():
                powers = stored[net][name]
                if len(powers) != count:
                    raise ValueError(f"{net}.{name} has {len(powers)} of {count}")
                for power in powers:
                    if type(power) is not int or power not in STEP_EXPONENTS:
                        raise ValueError(f"{net}.{name}: {power!r} is no power of two from -30 to 10")
                out[net][name] = np.exp2(np.array(powers, np.float64)).astype(np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights.path}: its metadata 'steps' do not fit its nets ({error}); make them again with "
            "python -m licodec.training.steps"
        ) from error
    return out


WIDEST = 512
"""Channels: a block keeps some 400 bytes each on the stack."""


def suit(p: Preset) -> bool:
    """Whether loops can be had for these nets: the lapped transforms, blocks of 16 outputs, vectors of 4."""
    widths = (p.latents, p.eighth, p.encoder_sixteenth, p.decoder_sixteenth, p.hyper, p.exact)
    return (
        (p.transforms, p.mean_heads) == ("lapped", ())
        and not any(width % fixed_point.OUTPUTS or width > WIDEST for width in widths)
        and p.mean % (2 * fixed_point.OUTPUTS) == 0
        and not any(group % 4 for group in p.groups)
    )

"""The float nets of `checkerboard` in integers of 16 bits; see `exact.fixed_point`."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from lic_format.errors import WeightsError
from licodec.codecs.checkerboard import (
    Analysis,
    Block,
    Checkerboard,
    Conv,
    HyperAnalysis,
    Refinement,
    Synthesis,
)
from licodec.codecs.checkerboard_layout import QUARTER, SEEN, STEPS, Preset
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    PLAIN,
    REAL,
    RESIDUAL,
    Distances,
    Floats,
    Layer,
    Map,
    Reals,
    Strided,
    compiled_loops,
)
from licodec.exact.layers import interpolate_knots
from licodec.store import Weights

if TYPE_CHECKING:
    from licodec.codecs.checkerboard_means import CompiledMeans

SLOPE = 0.1
HYPER_WIDTH = TAPS = 96
"""Channels of the hyper analysis and of the mean nets that no preset says otherwise."""
Steps = Mapping[str, Floats]
"""Step of each input channel, by the name of the layer."""


def in_steps(values: Floats, per_value: Reals, finer: int = 1) -> Map:
    """Values [h, w, C] times per_value [C], in steps."""
    h, w, channels = values.shape
    out = Map(h, w, channels, finer)
    factors = np.ascontiguousarray(per_value, np.float32)
    source = values.ctypes.data, values.strides[0]
    given = *source, factors.ctypes.data, out.address, out.row, channels, w
    compiled_loops().run("in_steps_rows", given, h, 8)
    return out


def run_layer(
    of: Layer,
    taps: Distances,
    source: Map,
    target: Map,
    side: int = 1,
    *,
    every: int = 1,
    residual: Map | None = None,
) -> None:
    """A layer at every so many-th row and column of the source; its outputs are the channels of
    side x side positions of the target, and of what is added."""
    writes, added = PLAIN, 0
    if residual is not None:
        assert (residual.row, residual.step) == (target.row, target.step)
        writes, added = RESIDUAL, residual.address
    places = (_inside(target, side)[:, None] + blocks_of(target.channels)).reshape(-1)
    strided = target.address, side * target.row, side * target.step
    _run(of, writes, taps, source, every, places, added, strided)


def run_real_layer(
    of: Layer,
    taps: Distances,
    source: Map,
    side: int = 1,
    *,
    every: int = 1,
    residual: Map | None = None,
) -> Tensor:
    """The same, as float32 [1, C, h, w]."""
    h, w = side * source.height // every, side * source.width // every
    columns = w + side * fixed_point.POSITIONS if residual is None else residual.memory.shape[1]
    out = np.empty((h, columns, of.outputs // side**2), np.float32)
    row, step, _ = (each // 2 for each in out.strides)
    added = out.ctypes.data if residual is None else residual.address  # of which 0 times is added
    assert residual is None or (residual.row, residual.step) == (row, step)
    inside = np.array([dy * row + dx * step for dy in range(side) for dx in range(side)], np.int64)
    places = (inside[:, None] + blocks_of(out.shape[2])).reshape(-1)
    _run(of, REAL, taps, source, every, places, added, (out.ctypes.data, side * row, side * step))
    return torch.from_numpy(out)[None, :, :w].permute(0, 3, 1, 2)


def _run(
    of: Layer,
    writes: int,
    taps: Distances,
    source: Map,
    every: int,
    places: Distances,
    residual: int,
    target: Strided,
) -> None:
    strided = source.address, every * source.row, every * source.step
    of.run(writes, taps, places, strided, residual, target, source.height // every, source.width // every)


def _array(tensor: Tensor) -> Floats:
    out: Floats = tensor.detach().float().cpu().numpy()
    return out


def _rows(x: Tensor) -> Floats:
    """A map [1, C, h, w] as [h, w, C]."""
    return _array(x[0].permute(1, 2, 0).contiguous())


def _conv(
    conv: Conv,
    inputs: Floats,
    outputs: Floats,
    *,
    factors: Reals | None = None,
    residual: Floats | None = None,
    slope: float = 1.0,
) -> Layer:
    """A convolution in steps; one of what `unshuffle` gives as one of all positions that it takes. factors:
    of its outputs."""
    weight = _array(conv.weight.flatten(2).transpose(1, 2))
    weight, bias = weight.reshape(len(weight), -1, len(inputs)), _array(conv.bias)
    if factors is not None:
        few = factors.astype(np.float32)
        weight, bias = weight * few[:, None, None], bias * few
    return fixed_point.layer(weight, bias, inputs, outputs, residual=residual, slope=slope)


def window(of: Map, kernel: int) -> Distances:
    """From a position to those that a convolution sees."""
    near = range(-(kernel // 2), kernel // 2 + 1)
    return np.array([dy * of.row + dx * of.step for dy in near for dx in near], np.int64)


def _inside(of: Map, side: int) -> Distances:
    """From the first of side x side positions to all."""
    return np.array([dy * of.row + dx * of.step for dy in range(side) for dx in range(side)], np.int64)


def blocks_of(count: int) -> Distances:
    """From the first 16 of `count` channels to all others."""
    return 2 * np.arange(0, count, fixed_point.OUTPUTS, dtype=np.int64)


class CompiledBlock:
    """`checkerboard.Block`. slope: of what comes after it; outputs: its steps."""

    def __init__(self, block: Block, name: str, steps: Steps, outputs: Floats, slope: float) -> None:
        x, near, hidden = (steps[f"{name}.{part}"] for part in ("around", "wide", "narrow"))
        around = block.around
        self.around = fixed_point.layer_within(_array(around.weight.flatten(1)), _array(around.bias), x, near)
        self.wide = _conv(block.wide, near, hidden, slope=SLOPE)
        self.narrow = _conv(block.narrow, hidden, outputs, residual=x, slope=slope)
        self.film = block.film

    def __call__(self, x: Map, rate: Tensor) -> Map:
        out = Map(x.height, x.width, x.channels, x.finer)
        wide = self.wide.times(_array(interpolate_knots(self.film, rate))[0])
        fixed_point.block(self.around, wide, self.narrow, x, out)
        return out


class CompiledSynthesis:
    """`checkerboard.Synthesis` of one picture: blocks of pixels, right to some tenths of a level."""

    def __init__(self, net: Synthesis, steps: Steps) -> None:
        self._steps = steps
        sixteenth, eighth = _names("sixteenth_blocks", net), _names("eighth_blocks", net)
        picture, stream = steps["render"], steps[f"{eighth[0]}.around"]
        self.klt = _conv(net.klt, steps["klt"], np.tile(picture, 16))
        self.enter = _conv(net.enter, steps["enter"], steps[f"{sixteenth[0]}.around"])
        self.sixteenth = _chain(net.sixteenth_blocks, sixteenth, steps, steps["from_sixteenth"])
        self.from_sixteenth = _conv(net.from_sixteenth, steps["from_sixteenth"], np.tile(stream, 4))
        self.look = _conv(net.look, picture, stream, residual=stream)
        self.eighth = _chain(net.eighth_blocks, eighth, steps, steps["to_quarter"])
        four = np.tile(picture, 4)
        self.to_quarter = _conv(net.to_quarter, steps["to_quarter"], four, residual=four)
        self.render = _conv(net.render, picture, steps["leave"], slope=SLOPE)
        self.film = net.film
        self.leave = _conv(net.leave, steps["leave"], np.ones(QUARTER, np.float32), residual=picture)

    def __call__(self, v: Tensor, scale: Tensor, rate: Tensor) -> Tensor:
        """See `checkerboard.Synthesis`."""
        values = _rows(v)
        coefficients = in_steps(values, scale.flatten().numpy() / self._steps["klt"])
        latents = in_steps(values, 1 / self._steps["enter"])
        h, w = latents.height, latents.width
        picture = Map(4 * h, 4 * w, QUARTER, 4)
        run_layer(self.klt, HERE, coefficients, picture, 4)
        x = Map(h, w, self.enter.outputs)
        run_layer(self.enter, HERE, latents, x)
        for block in self.sixteenth:
            x = block(x.finished(), rate)
        y = Map(2 * h, 2 * w, self.look.outputs, 2)
        run_layer(self.from_sixteenth, HERE, x, y, 2)
        run_layer(self.look, _inside(picture, 2), picture, y, every=2, residual=y)
        for block in self.eighth:
            y = block(y.finished(), rate)
        run_layer(self.to_quarter, HERE, y, picture, 2, residual=picture)
        rendered = Map(4 * h, 4 * w, QUARTER)
        render = self.render.times(_array(interpolate_knots(self.film, rate))[0])
        run_layer(render, window(picture.finished(), 3), picture, rendered)
        near = window(rendered.finished(), 3)
        return run_real_layer(self.leave, near, rendered, residual=picture)


class CompiledAnalysis:
    """`checkerboard.Analysis` of one picture."""

    def __init__(self, net: Analysis, steps: Steps) -> None:
        sixteenth, eighth = _names("sixteenth_blocks", net), _names("eighth_blocks", net)
        pixels, stream = steps["pixels"], steps[f"{eighth[0]}.around"]
        self._pixels = pixels
        self.first = _conv(net.first, pixels, steps["to_quarter"], slope=SLOPE)
        self.to_quarter = _conv(net.to_quarter, steps["to_quarter"], pixels, residual=pixels)
        self.to_eighth = _conv(net.to_eighth, steps["to_quarter"], stream)
        self.eighth = _chain(net.eighth_blocks, eighth, steps, steps["from_eighth"])
        four = np.tile(pixels, 4)
        self.from_eighth = _conv(net.from_eighth, steps["from_eighth"], four, residual=four)
        inner = steps[f"{sixteenth[0]}.around"]
        self.to_sixteenth = _conv(net.to_sixteenth, steps["from_eighth"], inner)
        self.sixteenth = _chain(net.sixteenth_blocks, sixteenth, steps, steps["to_latents"])
        latents = steps["latents"]
        self.to_latents = _conv(net.to_latents, steps["to_latents"], latents)
        ones = np.ones_like(latents)
        self.klt = _conv(net.klt, pixels, ones, residual=latents, factors=1 / _array(net.deviation))

    def begun(self, blocks: Tensor) -> tuple[Map, Map]:
        """See `checkerboard.Analysis`."""
        pixels = in_steps(_rows(blocks), 1 / self._pixels, finer=4).finished()
        h = Map(pixels.height, pixels.width, QUARTER, 2)
        run_layer(self.first, window(pixels, 3), pixels, h)
        run_layer(self.to_quarter, window(h.finished(), 3), h, pixels, residual=pixels)
        features = Map(h.height // 2, h.width // 2, self.to_eighth.outputs, 2)
        run_layer(self.to_eighth, _inside(h, 2), h, features, every=2)
        return pixels, features

    def finished(self, pixels: Map, h: Map, rate: Tensor) -> Tensor:
        """See `checkerboard.Analysis`."""
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
        return run_real_layer(self.klt, _inside(corrected, 4), corrected, every=4, residual=added)


class CompiledAdjoint:
    """The adjoint of `checkerboard.Refinement` of one picture."""

    def __init__(self, net: Refinement, steps: Steps) -> None:
        self._missing = steps["missing"]
        self.adjoint = _conv(net.adjoint, self._missing, np.ones(net.adjoint.out_channels, np.float32))

    def __call__(self, missing: Tensor) -> Tensor:
        """Blocks of pixels [1, 48, 4h, 4w] -> coefficients [1, M, h, w]."""
        pixels = in_steps(_rows(missing), 1 / self._missing, finer=4)
        return run_real_layer(self.adjoint, _inside(pixels, 4), pixels, every=4)


class CompiledHyperAnalysis:
    """`checkerboard.HyperAnalysis` of one picture."""

    def __init__(self, net: HyperAnalysis, steps: Steps) -> None:
        a, b, c, d = (cast("Conv", layer) for layer in net.layers)
        level, first, second, third = (steps[f"layers.{number}"] for number in range(4))
        self._level = level
        self.first = _conv(a, level, first, slope=SLOPE)
        self.second = _conv(b, first, second, slope=SLOPE)
        self.third = _conv(c, second, third, slope=SLOPE)
        fours = np.full(d.out_channels, 4.0, np.float32)
        self.last = _conv(d, third, np.ones_like(fours), factors=fours)

    def __call__(self, y: Floats) -> Floats:
        """Scaled latents float32 [h, w, M], h and w multiples of 4 -> hyper-latents float32 [h/4, w/4, Z]
        before rounding."""
        level = in_steps(asinh(y), 1 / self._level)
        h, w = level.height, level.width
        wide = Map(h, w, HYPER_WIDTH)
        run_layer(self.first, HERE, level, wide)
        x, around = (Map(h // 2, w // 2, HYPER_WIDTH) for _ in range(2))
        run_layer(self.second, _inside(wide, 2), wide, x, every=2)
        run_layer(self.third, window(x.bordered(), 3), x, around)
        return _rows(run_real_layer(self.last, _inside(around, 2), around, every=2))


def asinh(values: Floats) -> Floats:
    """Of float32 [h, w, C], to 1e-6. A fifth of the time of `np.arcsinh`: logarithms and roots come eight at
    once, and a row at a time stays in the cache."""
    out = np.empty(values.shape, np.float32)
    magnitude = np.empty(values.shape[1:], np.float32)
    for source, row in zip(values, out, strict=True):
        np.multiply(source, source, row)
        row += 1
        np.sqrt(row, row)
        row += np.abs(source, magnitude)
        np.log(row, row)
        np.copysign(row, source, row)
    return out


class CompiledTransforms:
    """The transforms of a model, see `checkerboard.Transforms`; those of encoders are made when they are
    asked for."""

    def __init__(self, model: Checkerboard, steps: Mapping[str, Steps]) -> None:
        self._model, self._steps = model, steps
        self.synthesis = CompiledSynthesis(model.synthesis, steps["synthesis"])

    @classmethod
    def of(cls, model: Checkerboard, weights: Weights) -> CompiledTransforms | None:
        """None where the processor or the widths of the nets don't suit.

        Raises:
            WeightsError: the metadata don't say what steps there are.
        """
        p = model.preset
        widths = (p.latents, p.eighth, p.encoder_sixteenth, p.decoder_sixteenth, p.hyper, p.mean // 2)
        blocks = [p.encoder_eighth_blocks, p.decoder_eighth_blocks]
        blocks += [p.encoder_sixteenth_blocks, p.decoder_sixteenth_blocks]
        if (
            not fixed_point.has_pairs()
            or any(width % fixed_point.OUTPUTS for width in widths)
            or not all(blocks)
        ):
            return None
        return cls(model, read_steps(weights, step_counts(p)))

    def helped(self) -> contextlib.AbstractContextManager[None]:
        """See `fixed_point.helped`."""
        return fixed_point.helped()

    @functools.cached_property
    def means(self) -> CompiledMeans:
        from licodec.codecs.checkerboard_means import CompiledMeans  # which is made of this module's parts

        return CompiledMeans(self._model.means, self._steps["means"])

    @functools.cached_property
    def analysis(self) -> CompiledAnalysis:
        return CompiledAnalysis(self._model.analysis, self._steps["analysis"])

    @functools.cached_property
    def adjoint(self) -> CompiledAdjoint:
        return CompiledAdjoint(self._model.refinement, self._steps["refinement"])

    @functools.cached_property
    def hyper_analysis(self) -> CompiledHyperAnalysis:
        return CompiledHyperAnalysis(self._model.hyper_analysis, self._steps["hyper"])

    def hyper_latents(self, y: Tensor) -> Tensor:
        """See `checkerboard.Transforms`."""
        return torch.from_numpy(self.hyper_analysis(_rows(y)))[None].permute(0, 3, 1, 2)


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


def _names(blocks: str, net: nn.Module) -> list[str]:
    return [f"{blocks}.{number}" for number in range(len(getattr(net, blocks)))]


def _chain(blocks: nn.ModuleList, names: list[str], steps: Steps, last: Floats) -> list[CompiledBlock]:
    outputs = [*(steps[f"{name}.around"] for name in names[1:]), last]
    slopes = [*[1.0] * (len(names) - 1), SLOPE]
    every = zip(blocks, names, outputs, slopes, strict=True)
    return [CompiledBlock(cast("Block", block), name, steps, out, slope) for block, name, out, slope in every]

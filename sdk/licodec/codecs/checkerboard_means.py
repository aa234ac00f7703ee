"""The mean nets of `checkerboard` in integers of 16 bits; see `exact.fixed_point`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from licodec.codecs.checkerboard import Conv, MeanNets, Place, Settle, places
from licodec.codecs.checkerboard_compiled import (
    TAPS,
    Steps,
    blocks_of,
    in_steps,
    run_layer,
    run_real_layer,
    window,
)
from licodec.codecs.checkerboard_layout import SEEN, taps_kernel
from licodec.entropy.schedule import Pass
from licodec.exact import fixed_point
from licodec.exact.fixed_point import (
    HERE,
    PLAIN,
    POSITIONS,
    REAL,
    RESIDUAL,
    Floats,
    Layer,
    Map,
)
from licodec.exact.tensor_neighbours import by_position

SLOPE = 0.2
HYPER_STEP = np.float32(0.25)
"""Of hyper-latents as the nets take them."""
Rows = npt.NDArray[np.int16]


def _layer(
    conv: Conv, inputs: Floats, outputs: Floats, slope: float = 1.0, residual: Floats | None = None
) -> Layer:
    weight = conv.weight.flatten(2).transpose(1, 2).float().numpy()
    return fixed_point.layer(
        weight, conv.bias.float().numpy(), inputs, outputs, slope=slope, residual=residual
    )


class CompiledMeans:
    """`checkerboard.MeanNets`, called in the same way; of one picture."""

    def __init__(self, net: MeanNets, steps: Steps) -> None:
        self._net, self._steps, p = net, steps, net.preset
        a, b, c = (_conv(each) for each in net.hyper_layers)
        hyper = np.full(a.in_channels, HYPER_STEP, np.float32)
        self.first = _layer(a, hyper, np.tile(steps["hyper.1"], 4), SLOPE)
        self.second = _layer(b, steps["hyper.1"], steps["hyper.2"], SLOPE)
        self.third = _layer(c, steps["hyper.2"], np.ones(c.out_channels, np.float32), SLOPE)
        self.values = steps["values"]
        self._digest: dict[int, Layer] = {}
        self._context: dict[int, Layer] = {}
        self._squeeze: dict[int, Layer] = {}
        for group, m in enumerate(p.groups):
            before = sum(p.groups[:group])
            own = self.values[before : before + m]
            if group:
                known = self.values[:before]
                if isinstance(net.digest[group - 1], Conv):
                    digested = steps[f"digest.{group}"]
                    self._digest[group] = _layer(_conv(net.digest[group - 1]), known, digested)
                    known = digested
                out = steps[f"context.{group}"]
                self._context[group] = _layer(_conv(net.context[group - 1]), known, out, SLOPE)
            if isinstance(net.squeeze[group], Conv):
                self._squeeze[group] = _layer(_conv(net.squeeze[group]), own, steps[f"squeeze.{group}"])
        self._heads: dict[str, tuple[Layer, Layer]] = {}
        for step in p.passes:
            name = _name(step)
            parts = [steps["features"]]
            parts += [steps[f"context.{step.group}"]] if step.group else []
            parts += [steps[f"taps.{name}"]] if step.number else []
            first, _, last = cast("tuple[Conv, nn.Module, Conv]", net.heads[name])
            hidden = steps[f"hidden.{name}"]
            wide = _layer(first, np.concatenate(parts), hidden, SLOPE)
            self._heads[name] = wide, _layer(last, hidden, np.ones(last.out_channels, np.float32))
        self._selected: dict[tuple[str, bytes], tuple[Layer, Rows]] = {}

    def hyper(self, z: Tensor) -> Tensor:
        """See `MeanNets`."""
        values = np.ascontiguousarray(z[0].permute(1, 2, 0).numpy(), np.float32)
        x = in_steps(values, np.ones(values.shape[2], np.float32))
        y = Map(2 * x.height, 2 * x.width, self.second.outputs, 2)
        run_layer(self.first, HERE, x, y, 2)
        h = Map(y.height, y.width, self.second.outputs)
        run_layer(self.second, window(y.bordered(), 3), y, h)
        return run_real_layer(self.third, HERE, h, 2)

    def walk(self, features: Tensor, settle: Settle, passes: Sequence[Pass] = ()) -> Tensor:
        """See `MeanNets`."""
        p, passes = self._net.preset, passes or self._net.preset.passes
        values = np.ascontiguousarray(features[0].permute(1, 2, 0).numpy())
        seen = in_steps(values, 1 / self._steps["features"])
        h, w = seen.height, seen.width
        flat = seen.memory[1:-1, 1 : 1 + w].reshape(h * w, -1)
        last = passes[-1].last
        known = Map(h, w, last)
        known.memory[...] = 0
        decoded = np.empty((h * w, last), np.float32)
        base, parts = flat, list[Rows]()
        for step in passes:
            place = places(h, w, p.depths[step.group])[step.number]
            cells = place.cells.numpy()
            if step.number == 0:
                parts = []
                if step.group:
                    base = np.concatenate([flat, self._around(step.group, known)], 1)
            value = settle(step, torch.from_numpy(self._mean(step, base, cells, parts, place))[None])
            rows = np.ascontiguousarray(value[0].numpy())
            own = fixed_point.rows_in_steps(rows, 1 / self.values[step.first : step.last])
            decoded[cells, step.first : step.last] = rows
            if step.last < last or step.level:
                known.memory[1 + cells // w, 1 + cells % w, step.first : step.last] = own
            if step.level:
                parts.append(self._squeezed(step.group, own))
        return torch.from_numpy(decoded).view(1, h, w, last).permute(0, 3, 1, 2)

    def _around(self, group: int, known: Map) -> Rows:
        """Context of the earlier groups' values, [h w, mean]."""
        if group in self._digest:
            source = Map(known.height, known.width, SEEN)
            run_layer(self._digest[group], HERE, known, source)
            source.bordered()
        else:
            source = known
        layer = self._context[group]
        out = Map(known.height, known.width, layer.outputs)
        run_layer(layer, window(source, 3), source, out)
        return out.memory[1:-1, 1 : 1 + out.width].reshape(-1, layer.outputs)

    def _squeezed(self, group: int, rows: Rows) -> Rows:
        if group not in self._squeeze:
            return rows
        layer = self._squeeze[group]
        x = _with_room(rows)
        out = np.empty((len(x), layer.outputs), np.int16)
        _run(layer, PLAIN, x, out, len(rows))
        return out[: len(rows)]

    def _mean(
        self, step: Pass, base: Rows, cells: npt.NDArray[np.int64], parts: Sequence[Rows], place: Place
    ) -> Floats:
        """Means of a pass's cells, float32 [n, M_g]."""
        n, width = len(cells), base.shape[1]
        wide, last = self._heads[_name(step)]
        room = n + POSITIONS  # which loops overwrite
        seen = np.zeros((room, width + (TAPS if step.number else 0)), np.int16)
        seen[:n, :width] = base.take(cells, axis=0)
        if step.number:
            near = place.near(taps_kernel(step))
            taps, biases = self._taps(step, place)
            lines = np.concatenate([*parts, np.zeros((1, parts[0].shape[1]), np.int16)])
            around = _with_room(lines.take(near.rows.numpy(), axis=0).reshape(n, -1))
            found = np.empty((room, TAPS), np.int16)
            _run(taps, RESIDUAL, around, found, n, _with_room(biases.take(near.kind.numpy(), axis=0)))
            seen[:n, width:] = found[:n]
        hidden = np.empty((room, wide.outputs), np.int16)
        _run(wide, PLAIN, seen, hidden, n)
        means = np.empty((room, last.outputs), np.float32)
        _run(last, REAL, hidden, means, n)
        return means[:n, : step.last - step.first]

    def _taps(self, step: Pass, place: Place) -> tuple[Layer, Rows]:
        """The layer that looks around, for what is known there, and what is unknown by kind of position."""
        name = _name(step)
        conv = _conv(self._net.taps[name])
        near = place.near(conv.kernel_size[0])
        key = name, near.pattern
        if key not in self._selected:
            squeeze = self._net.squeeze[step.group]
            p, out = self._net.preset, self._steps[f"taps.{name}"]
            first = sum(p.groups[: step.group])
            inputs = self.values[first : first + p.groups[step.group]]
            unknown = torch.zeros(conv.in_channels)
            if isinstance(squeeze, Conv):
                inputs, unknown = self._steps[f"squeeze.{step.group}"], squeeze.bias.float()
            weight = conv.weight.float()
            biases = near.biases(by_position(weight), conv.bias.float(), unknown).numpy()
            chosen = near.select(weight).numpy()[:, None]
            every = np.tile(inputs, len(near.taps))
            zero = np.zeros(len(out), np.float32)
            layer = fixed_point.layer(chosen, zero, every, out, slope=SLOPE, residual=out)
            whole = np.clip(np.rint(biases / out), -32767, 32767).astype(np.int16)
            self._selected.setdefault(key, (layer, whole))
        return self._selected[key]


def _name(step: Pass) -> str:
    return f"{step.group}_{step.number}"


def _conv(net: nn.Module) -> Conv:
    assert isinstance(net, Conv)
    return net


def _with_room(rows: Rows) -> Rows:
    """A copy with some more at the end, which layers may read."""
    out = np.empty((len(rows) + POSITIONS, rows.shape[1]), np.int16)
    out[: len(rows)] = rows
    out[len(rows) :] = 0
    return out


def _run(of: Layer, writes: int, x: Rows, out: Rows | Floats, n: int, residual: Rows | None = None) -> None:
    """A 1x1 layer of the first n rows [.., in], into those of [.., out]; both have room for some more."""
    step = out.strides[0] // (2 if writes == REAL else 1)
    added = out if residual is None else residual  # where nothing is added, 0 times what stands there is
    of.run(
        writes, HERE, blocks_of(of.outputs), (x.ctypes.data, 0, x.strides[0]), added.ctypes.data,
        (out.ctypes.data, 0, step), 1, n,
    )  # fmt: skip

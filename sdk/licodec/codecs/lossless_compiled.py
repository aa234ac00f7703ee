"""The nets of pilc's passes compiled, in integers of 16 and 32 bits; see `licodec.compiled`.

Rows of a pass go through a net one after the other. What a layer takes stands in pairs: two values of 16 bits
in one integer of 32, so that processors multiply and add both at once (pmaddwd on x86; elsewhere two
products). The inner loop, `_products`, is written in the compiler's intermediate language, for 4 outputs and
16 samples at a time: from Python loops the compiler makes a third of its speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from licodec import compiled
from licodec.codecs.lattices import BEFORE, PASSES, PHASES, Bytes, Lattice, Pass, Place, places
from licodec.codecs.lossless import HIDDEN_MAX, WEIGHT_UNIT, Net, Nets, Seen
from licodec.codecs.lossless_adaptation import STEP, Correction, Group, near
from licodec.threads import spread

Integers = npt.NDArray[Any]

OUTPUTS: Final = 4
SAMPLES: Final = 16
TOGETHER: Final = 192
"""Samples of a row that go through a net at a time: few enough to stay in a core's first cache."""
WORTH_HELP: Final = 4096
"""Samples of a pass that are worth asking another thread."""
_LANES: Final = 8
_VECTORS: Final = SAMPLES // _LANES
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V32 = ir.VectorType(_I32, _LANES)
_V16 = ir.VectorType(_I16, 2 * _LANES)
HAS_PMADDWD: Final = bool(binding.get_host_cpu_features().get("avx2", False))


def _splat(build: Any, value: Any) -> Any:
    nothing = ir.Constant(_V32, ir.Undefined)
    one = build.insert_element(nothing, value, ir.Constant(_I32, 0))
    return build.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _constant(value: int) -> Any:
    return ir.Constant(_V32, [value] * _LANES)


def _pairs_multiplied(build: Any, a: Any, b: Any, paired: bool) -> Any:
    """a0 b0 + a1 b1 of the pairs in each lane."""
    if paired:
        kind = ir.FunctionType(_V32, [_V16, _V16])
        of_pairs = build.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), kind)
        return build.call(of_pairs, [build.bitcast(a, _V16), build.bitcast(b, _V16)])
    half = _constant(16)
    low = [build.ashr(build.shl(each, half), half) for each in (a, b)]
    high = [build.ashr(each, half) for each in (a, b)]
    return build.add(build.mul(*low), build.mul(*high))


def _between(build: Any, value: Any, low: int, high: int) -> Any:
    value = build.select(build.icmp_signed(">", value, _constant(low)), value, _constant(low))
    return build.select(build.icmp_signed("<", value, _constant(high)), value, _constant(high))


def _emit(build: Any, arguments: Sequence[Any], highest: int, paired: bool) -> None:
    weights, bias, x, out, count, stride, shift = arguments
    at_weights, at_bias, at_x, at_out = (
        build.inttoptr(each, _I32.as_pointer()) for each in (weights, bias, x, out)
    )

    def vector(pointer: Any, offset: Any) -> Any:
        return build.bitcast(build.gep(pointer, [offset]), _V32.as_pointer())

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    before = build.basic_block
    loop, after = build.append_basic_block("pairs"), build.append_basic_block("done")
    starts = [_splat(build, build.load(build.gep(at_bias, [number(o)]))) for o in range(OUTPUTS)]
    build.branch(loop)

    build.position_at_end(loop)
    pair = build.phi(_I64)
    pair.add_incoming(number(0), before)
    sums = []
    for start in starts:
        for _ in range(_VECTORS):
            sums.append(build.phi(_V32))
            sums[-1].add_incoming(start, before)
    row = build.gep(at_x, [build.mul(pair, stride)])
    seen = [build.load(vector(row, number(_LANES * v)), align=4) for v in range(_VECTORS)]
    of_pair = build.gep(at_weights, [build.mul(pair, number(OUTPUTS))])
    more = []
    for o in range(OUTPUTS):
        weight = _splat(build, build.load(build.gep(of_pair, [number(o)])))
        for v in range(_VECTORS):
            products = _pairs_multiplied(build, seen[v], weight, paired)
            more.append(build.add(sums[o * _VECTORS + v], products))
    following = build.add(pair, number(1))
    pair.add_incoming(following, loop)
    for each, new in zip(sums, more, strict=True):
        each.add_incoming(new, loop)
    build.cbranch(build.icmp_signed("<", following, count), loop, after)

    build.position_at_end(after)
    if highest == 0:
        for o in range(OUTPUTS):
            row = build.gep(at_out, [build.mul(stride, number(o))])
            for v in range(_VECTORS):
                build.store(more[o * _VECTORS + v], vector(row, number(_LANES * v)), align=4)
        return
    down = _splat(build, shift)
    for o in range(0, OUTPUTS, 2):
        row = build.gep(at_out, [build.mul(stride, number(o // 2))])
        for v in range(_VECTORS):
            low, high = (
                _between(build, build.ashr(more[each * _VECTORS + v], down), 0, highest)
                for each in (o, o + 1)
            )
            both = build.or_(low, build.shl(high, _constant(16)))
            build.store(both, vector(row, number(_LANES * v)), align=4)


_SIGNATURE: Final = types.void(
    types.uintp, types.uintp, types.uintp, types.uintp, types.intp, types.intp, types.int32
)


def products(highest: int, paired: bool = HAS_PMADDWD) -> Any:
    """A function that compiled ones call, for 4 outputs of 16 samples.

    It takes the addresses of weights, bias, inputs and outputs, the number of pairs of inputs, the distance
    from a row to the next in inputs and outputs, and by how many bits sums are shifted down. Outputs are
    within 0..highest, in pairs; with highest 0 the sums as they are. paired: by the processor's instruction
    for pairs.
    """

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        _emit(build, arguments, highest, paired)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def of_block(
        context: Any, weights: Any, bias: Any, x: Any, out: Any, count: Any, stride: Any, shift: Any
    ) -> Any:
        return _SIGNATURE, generate

    return of_block


_hidden: Final = products(HIDDEN_MAX)
_sums: Final = products(0)


@dataclass(frozen=True, eq=False)
class CompiledNet:
    """A net's integers as `look` reads them.

    Weights are int32 [outputs / 4, pairs, 4], two of 16 bits in each; biases int32 [outputs]. Outputs that a
    net doesn't have are 0.
    """

    linear: tuple[Integers, Integers]
    first: tuple[Integers, Integers]
    second: tuple[Integers, Integers]
    third: tuple[Integers, Integers]


def net_of(first: Integers, second: Integers, third: Integers) -> CompiledNet:
    """From the matrices of a weights file; see `lossless.Net`."""
    return CompiledNet(
        _layer(first[:1], first.shape[1] - 1),
        _layer(first[1:], first.shape[1] - 1),
        _layer(second, _up(second.shape[1] - 1)),
        _layer(third, _up(third.shape[1] - 1)),
    )


def _up(count: int) -> int:
    return -(-count // OUTPUTS) * OUTPUTS


def _layer(matrix: Integers, inputs: int) -> tuple[Integers, Integers]:
    """Of a matrix [outputs, inputs + 1]; `inputs` may be more than it has, and is even."""
    rows, columns = matrix.shape
    weights = np.zeros((_up(rows), inputs), np.int16)
    weights[:rows, : columns - 1] = matrix[:, :-1]
    bias = np.zeros(_up(rows), np.int32)
    bias[:rows] = matrix[:, -1]
    pairs = weights.view(np.int32).reshape(-1, OUTPUTS, inputs // 2)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1)), bias


@compiled.function
def _layer_of_row(
    weights: Integers, bias: Integers, x: int, out: int, width: int, stride: int, shift: int, raw: bool
) -> None:
    """A layer over a row; x and out are addresses of int32 [pairs or outputs, stride]."""
    blocks, pairs, _ = weights.shape
    at_weights, at_bias = weights.ctypes.data, bias.ctypes.data
    for first in range(0, width, SAMPLES):
        for block in range(blocks):
            w = np.uintp(at_weights + 16 * block * pairs)
            b = np.uintp(at_bias + 16 * block)
            if raw:
                o = np.uintp(out + 4 * (first + block * 4 * stride))
                _sums(w, b, np.uintp(x + 4 * first), o, pairs, stride, np.int32(shift))
            else:
                o = np.uintp(out + 4 * (first + block * 2 * stride))
                _hidden(w, b, np.uintp(x + 4 * first), o, pairs, stride, np.int32(shift))


@compiled.function
def _row(
    own: Integers,
    green: Integers,
    other: Integers,
    base: int,
    width: int,
    target: int,
    nearest: Integers,
    seen: Integers,
    around: Integers,
    earlier: int,
    weights: tuple[Integers, ...],
    mean: Integers,
    x: Integers,
    one: Integers,
    two: Integers,
    linear: Integers,
    three: Integers,
) -> None:
    """A row of a pass through a net, into `mean`, `linear` and `three`; x, one and two are its layers.

    own, green, other: int16, the padded phases of its plane, of G, and of the plane between them, one after
    the other. base: where the place (0, 0) of the first phase is. target, nearest, seen, around: how far from
    there.
    """
    stride = mean.size
    a, b = own[base + nearest[0] :][:width], own[base + nearest[1] :][:width]
    c, d = own[base + nearest[2] :][:width], own[base + nearest[3] :][:width]
    for i in range(width):
        mean[i] = (np.int32(a[i]) + np.int32(b[i]) + np.int32(c[i]) + np.int32(d[i]) + 2) >> 2
    pair = 0
    for p in range(0, seen.size, 2):
        a, b = own[base + seen[p] :][:width], own[base + seen[p + 1] :][:width]
        to = x[pair]
        for i in range(width):
            m = mean[i]
            to[i] = (np.int32(a[i]) - m & 65535) | (np.int32(b[i]) - m) << 16
        pair += 1
    for which in range(earlier):
        plane = green if which == 0 else other
        middle = plane[base + target :][:width]
        for p in range(0, around.size, 2):
            a, b = plane[base + around[p] :][:width], plane[base + around[p + 1] :][:width]
            to = x[pair]
            for i in range(width):
                m = np.int32(middle[i])
                to[i] = (np.int32(a[i]) - m & 65535) | (np.int32(b[i]) - m) << 16
            pair += 1
    _layer_of_row(weights[0], weights[1], x.ctypes.data, linear.ctypes.data, width, stride, 0, True)
    _layer_of_row(weights[2], weights[3], x.ctypes.data, one.ctypes.data, width, stride, 0, False)
    _layer_of_row(weights[4], weights[5], one.ctypes.data, two.ctypes.data, width, stride, 6, False)
    _layer_of_row(weights[6], weights[7], two.ctypes.data, three.ctypes.data, width, stride, 0, True)


@compiled.function
def _look(
    own: Integers,
    green: Integers,
    other: Integers,
    columns: int,
    corner: int,
    target: int,
    nearest: Integers,
    seen: Integers,
    around: Integers,
    earlier: int,
    weights: tuple[Integers, ...],
    table_of: Bytes,
    prediction: Bytes,
    table: Bytes,
) -> None:
    """A pass. `columns` are in a row of a phase, `corner` is where its first sample is; see `_row`."""
    height, whole = prediction.shape
    stride = min((whole + 15) // 16 * 16, TOGETHER)
    mean = np.zeros(stride, np.int32)
    x = np.zeros((weights[0].shape[1], stride), np.int32)
    one = np.empty((2 * weights[2].shape[0], stride), np.int32)
    two = np.empty((2 * weights[4].shape[0], stride), np.int32)
    linear, three = np.empty((4, stride), np.int32), np.empty((4, stride), np.int32)
    for row in range(height):
        for left in range(0, whole, stride):
            base, width = corner + row * columns + left, min(stride, whole - left)
            _row(
                own, green, other, base, width, target, nearest, seen, around, earlier, weights,
                mean, x, one, two, linear, three,
            )  # fmt: skip
            beside = green[base + target :][:width]
            predicted, tables = prediction[row, left:], table[row, left:]
            for i in range(width):
                quarters = (linear[0, i] + (three[0, i] >> 3) + 320) >> 7
                value = (quarters >> 2) + mean[i]
                if earlier:
                    value += np.int32(beside[i])
                predicted[i] = min(max(value, 0), 255)
                activity = min(max(three[1, i] >> 6, 0), 4095)
                tables[i] = table_of[activity << 2 | quarters & 3]


@compiled.function
def _see(
    own: Integers,
    green: Integers,
    other: Integers,
    columns: int,
    corner: int,
    target: int,
    nearest: Integers,
    seen: Integers,
    around: Integers,
    earlier: int,
    weights: tuple[Integers, ...],
    rows: Integers,
    width: int,
    near: Integers,
    near_x: Integers,
    parts: Integers,
) -> None:
    """Some rows of a pass, of which all samples are known, for `lossless.Seen`.

    near_x: float64 [near, rows x width]. parts: int32 [4, rows x width]: what is wanted, the linear
    prediction, the correction, the activity.
    """
    stride = (width + 15) // 16 * 16
    mean = np.zeros(stride, np.int32)
    x = np.zeros((weights[0].shape[1], stride), np.int32)
    one = np.empty((2 * weights[2].shape[0], stride), np.int32)
    two = np.empty((2 * weights[4].shape[0], stride), np.int32)
    linear, three = np.empty((4, stride), np.int32), np.empty((4, stride), np.int32)
    for number in range(rows.size):
        base = corner + rows[number] * columns
        _row(
            own, green, other, base, width, target, nearest, seen, around, earlier, weights,
            mean, x, one, two, linear, three,
        )  # fmt: skip
        first, itself = number * width, own[base + target :][:width]
        for i in range(width):
            parts[0, first + i] = np.int32(itself[i]) - mean[i]
            parts[1, first + i] = linear[0, i]
            parts[2, first + i] = three[0, i]
            parts[3, first + i] = three[1, i]
        for p in range(near.size):
            pair, high = near[p] >> 1, near[p] & 1
            for i in range(width):
                both = x[pair, i]
                near_x[p, first + i] = both >> 16 if high else np.int16(both)


@compiled.function
def _weighed(x: Any, parts: tuple[Integers, ...], weighed: Any, errors: Any) -> None:
    """What `Seen.moments` multiplies by x."""
    wanted, linear, correction, activity = parts
    k, n = x.shape
    weights = np.empty(n)
    for i in range(n):
        scale = np.int64(min(max(activity[i] >> 6, 0), 4095) + 20)
        error = (np.int64(wanted[i]) << 12) - (np.int64(linear[i]) << 3) - correction[i]
        errors[i] = min(max(error, -192 * scale), 192 * scale)
        weights[i] = (1 << 20) // (scale * scale)
    for p in range(k):
        for i in range(n):
            weighed[p, i] = x[p, i] * weights[i]


@compiled.function
def _gain(
    x: Any, parts: tuple[Integers, ...], correction: Any, step: int, table_of: Bytes, costs: Any
) -> float:
    """`Seen.gain`."""
    wanted, linear, net, activity = parts
    k, n = x.shape
    added = np.zeros(n, np.int32)
    for p in range(k):
        weight, row = step * np.int32(correction[p]), x[p]
        for i in range(n):
            added[i] += weight * np.int32(row[i])
    gain = 0.0
    for i in range(n):
        place = min(max(activity[i] >> 6, 0), 4095) << 2
        rest = (net[i] >> 3) + 320
        before, after = (linear[i] + rest) >> 7, (linear[i] + added[i] + rest) >> 7
        gain += costs[table_of[place | before & 3], (wanted[i] - (before >> 2)) & 255]
        gain -= costs[table_of[place | after & 3], (wanted[i] - (after >> 2)) & 255]
    return gain


class CompiledSeen(Seen):
    """`Seen` whose sums are compiled: the same numbers, without the interpreter's lock."""

    def _parts(self) -> tuple[Integers, ...]:
        return self.wanted, self.linear, self.correction, self.activity

    def moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """See `Seen`."""
        weighed, errors = np.empty_like(self.x), np.empty(self.x.shape[1])
        _weighed(self.x, self._parts(), weighed, errors)
        return weighed @ self.x.T, weighed @ errors

    def gain(self, correction: Correction, table_of: Bytes, costs: npt.NDArray[np.float64]) -> float:
        """See `Seen`."""
        return float(_gain(self.x, self._parts(), correction, STEP, table_of, costs))


def _indices(of_pass: Iterable[Place]) -> npt.NDArray[np.int64]:
    """Number of the phase, rows and columns of places: [3, n]."""
    return np.array([(PHASES.index(phase), i, j) for phase, i, j in of_pass], np.int64).T


_PLACES: Final = {
    step.name: (
        _indices([(step.target, 0, 0)]),
        _indices(step.nearest),
        _indices(places(step.seen)),
        _indices(places(step.around)),
    )
    for step in PASSES
}
"""The target itself, the nearest four, what is seen, and what is around, by name of the pass."""


@dataclass(frozen=True, eq=False)
class Looking:
    """A `Look` of lattices of int16, as `lossless.Looking`; safe in several threads."""

    nets: Mapping[Group, CompiledNet]
    linear: Mapping[Group, tuple[Integers, Integers]]
    """Linear predictions other than those of the nets."""
    tables_of: Mapping[Group, Bytes]

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Bytes,
        table: Bytes,
    ) -> None:
        group = min(level, 1), len(earlier), step.name
        first, second, third, columns, corner, *rest = self._of(group, step, own, earlier)
        h, w = prediction.shape

        def rows(part: slice) -> None:
            at = corner + part.start * columns
            found = self.tables_of[group], prediction[part], table[part]
            _look(first, second, third, columns, at, *rest, *found)

        spread(rows, h, max(1, WORTH_HELP // w))

    def see(self, step: Pass, own: Lattice, earlier: Sequence[Lattice], parts: Sequence[slice]) -> Seen:
        """What the net of a pass of the finest lattice makes of some of its rows."""
        group = 0, len(earlier), step.name
        rows = np.array([row for part in parts for row in range(part.start, part.stop)], np.int64)
        (_, width), places = own.size(step.target), near(*group[1:])
        x = np.empty((places.size, rows.size * width), np.float64)
        found = np.empty((4, rows.size * width), np.int32)
        _see(*self._of(group, step, own, earlier), rows, width, places, x, found)
        return CompiledSeen(x, *found)

    def _of(self, group: Group, step: Pass, own: Lattice, earlier: Sequence[Lattice]) -> tuple[Any, ...]:
        """What the loops are told of a pass."""
        net = self.nets[group]
        flat = [each.stack.reshape(-1) for each in (own, *earlier)]
        flat += [flat[-1]] * (3 - len(flat))
        _, rows, columns = own.stack.shape
        (target,), nearest, seen, around = (
            (phases * rows + i) * columns + j for phases, i, j in _PLACES[step.name]
        )
        corner = BEFORE * columns + BEFORE
        weights = (*self.linear.get(group, net.linear), *net.first, *net.second, *net.third)
        return (*flat, columns, corner, target, nearest, seen, around, len(earlier), weights)


@dataclass(frozen=True, eq=False)
class CompiledNets:
    """All nets of a model."""

    nets: Mapping[Group, CompiledNet]

    def looking(self, corrected: Mapping[Group, Net], tables_of: Mapping[Group, Bytes]) -> Looking:
        """For a tile. corrected: nets that have another linear prediction there."""
        linear = {group: _layer(net.first[:1], net.first.shape[1] - 1) for group, net in corrected.items()}
        return Looking(self.nets, linear, tables_of)


def nets_of(nets: Nets) -> CompiledNets:
    """The same nets, compiled."""
    return CompiledNets(
        {
            group: net_of(net.first, np.rint(net.second * WEIGHT_UNIT), net.third)
            for group, net in nets.items()
        }
    )

"""The nets of pilc's passes compiled, in integers of 16 and 32 bits; see `licodec.compiled`.

Rows of a pass go through a net one after the other. What a layer takes stands in pairs: two values of 16 bits
in one integer of 32, so that processors multiply and add both at once (pmaddwd on x86; elsewhere two
products). The inner loops are written in the compiler's intermediate language: `products` for 4 outputs and
16 samples at a time, from Python loops the compiler makes a third of its speed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from licodec import compiled
from licodec.codecs.lattices import BEFORE, PASSES, PHASES, Bytes, Lattice, Pass, Place, places
from licodec.codecs.lossless import ACTIVITIES, HIDDEN_MAX, WEIGHT_UNIT, Net, Nets, Seen
from licodec.codecs.lossless_adaptation import STEP, Correction, Group, near
from licodec.threads import spread

Integers = npt.NDArray[Any]

OUTPUTS: Final = 4
"""Of a block of a layer."""
SAMPLES: Final = 16
TOGETHER: Final = 192
"""Samples of a row that go through a net at a time: few enough to stay in a core's first cache."""
WIDEST: Final = 64
"""Samples of a block of one output. What rows are kept in is a multiple of it."""
WORTH_HELP: Final = 4096
"""Samples of a pass that are worth asking another thread."""
_LANES: Final = 8
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V32 = ir.VectorType(_I32, _LANES)
_V16 = ir.VectorType(_I16, 2 * _LANES)
_WIDE: Final = ir.VectorType(_I32, SAMPLES)
_BYTES: Final = ir.VectorType(ir.IntType(8), SAMPLES)
HAS_PMADDWD: Final = bool(binding.get_host_cpu_features().get("avx2", False))


def _splat(build: Any, value: Any) -> Any:
    nothing = ir.Constant(_V32, ir.Undefined)
    one = build.insert_element(nothing, value, ir.Constant(_I32, 0))
    return build.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _all(value: int, kind: Any = _V32) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _pairs_multiplied(build: Any, a: Any, b: Any, paired: bool) -> Any:
    """a0 b0 + a1 b1 of the pairs in each lane."""
    if paired:
        kind = ir.FunctionType(_V32, [_V16, _V16])
        of_pairs = build.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), kind)
        return build.call(of_pairs, [build.bitcast(a, _V16), build.bitcast(b, _V16)])
    half = _all(16)
    low = [build.ashr(build.shl(each, half), half) for each in (a, b)]
    high = [build.ashr(each, half) for each in (a, b)]
    return build.add(build.mul(*low), build.mul(*high))


def _between(build: Any, value: Any, highest: int) -> Any:
    """Within 0..highest."""
    for sign, limit in (("<", 0), (">", highest)):
        bound = _all(limit, value.type)
        value = build.select(build.icmp_signed(sign, value, bound), bound, value)
    return value


def _clipped(build: Any, low: Sequence[Any], high: Sequence[Any], paired: bool) -> list[Any]:
    """Two vectors each of two outputs, within 0..32767, as two of pairs."""
    if not paired:
        clipped = ([_between(build, each, HIDDEN_MAX) for each in some] for some in (low, high))
        return [build.or_(a, build.shl(b, _all(16))) for a, b in zip(*clipped, strict=True)]
    kind = ir.FunctionType(_V16, [_V32, _V32])
    saturated = build.module.declare_intrinsic("llvm.x86.avx2.packssdw", (), kind)
    both, nothing = [build.call(saturated, some) for some in (low, high)], _all(0, _V16)
    both = [build.select(build.icmp_signed(">", each, nothing), each, nothing) for each in both]
    # The instruction takes four numbers of each vector in turn; taking four of those in turn undoes it.
    fours = [[at + first + i for i in range(4) for at in (0, SAMPLES)] for first in (0, 4, 8, 12)]
    orders = (ir.Constant(_WIDE, fours[first] + fours[first + 2]) for first in (0, 1))
    return [build.bitcast(build.shuffle_vector(*both, order), _V32) for order in orders]


def _emit(
    build: Any, arguments: Sequence[Any], shape: tuple[int, int], shift: int | None, paired: bool
) -> None:
    weights, bias, x, out, count, stride = arguments
    outputs, vectors = shape
    at_weights, at_bias, at_x, at_out = (
        build.inttoptr(each, _I32.as_pointer()) for each in (weights, bias, x, out)
    )

    def vector(pointer: Any, offset: Any) -> Any:
        return build.bitcast(build.gep(pointer, [offset]), _V32.as_pointer())

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    before = build.basic_block
    loop, after = build.append_basic_block("pairs"), build.append_basic_block("done")
    starts = [_splat(build, build.load(build.gep(at_bias, [number(o)]))) for o in range(outputs)]
    build.branch(loop)

    build.position_at_end(loop)
    pair = build.phi(_I64)
    pair.add_incoming(number(0), before)
    sums = [[build.phi(_V32) for _ in range(vectors)] for _ in starts]
    for start, of_output in zip(starts, sums, strict=True):
        for each in of_output:
            each.add_incoming(start, before)
    row = build.gep(at_x, [build.mul(pair, stride)])
    seen = [build.load(vector(row, number(_LANES * v)), align=4) for v in range(vectors)]
    of_pair = build.gep(at_weights, [build.mul(pair, number(outputs))])
    more = []
    for o, of_output in enumerate(sums):
        weight = _splat(build, build.load(build.gep(of_pair, [number(o)])))
        products = [_pairs_multiplied(build, each, weight, paired) for each in seen]
        more.append([build.add(*each) for each in zip(of_output, products, strict=True)])
    following = build.add(pair, number(1))
    pair.add_incoming(following, loop)
    for of_output, new in zip(sums, more, strict=True):
        for phi, value in zip(of_output, new, strict=True):
            phi.add_incoming(value, loop)
    build.cbranch(build.icmp_signed("<", following, count), loop, after)

    build.position_at_end(after)
    if shift is None:
        for o, of_output in enumerate(more):
            row = build.gep(at_out, [build.mul(stride, number(o))])
            for v, value in enumerate(of_output):
                build.store(value, vector(row, number(_LANES * v)), align=4)
        return
    for o in range(0, outputs, 2):
        row = build.gep(at_out, [build.mul(stride, number(o // 2))])
        low, high = ([build.ashr(each, _all(shift)) for each in more[which]] for which in (o, o + 1))
        for v in range(0, vectors, 2):
            pairs = _clipped(build, low[v : v + 2], high[v : v + 2], paired)
            for n, value in enumerate(pairs):
                build.store(value, vector(row, number(_LANES * (v + n))), align=4)


_SIGNATURE: Final = types.void(types.uintp, types.uintp, types.uintp, types.uintp, types.intp, types.intp)


def products(outputs: int, samples: int, shift: int | None, paired: bool = HAS_PMADDWD) -> Any:
    """A function that compiled ones call, for so many outputs (1 to 4) of so many samples (8, 16, ...).

    It takes the addresses of weights [pairs, outputs], bias, inputs and outputs, the number of pairs of
    inputs, and the distance from a row to the next in inputs and outputs. Outputs are shifted down by so many
    bits, are then within 0..32767, and stand in pairs; with None they are the sums as they are. paired: by
    the processor's instructions for pairs.
    """

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        _emit(build, arguments, (outputs, samples // _LANES), shift, paired)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def of_block(context: Any, weights: Any, bias: Any, x: Any, out: Any, count: Any, stride: Any) -> Any:
        return _SIGNATURE, generate

    return of_block


_ADDRESSES: Final = {count: types.void(*[types.uintp] * count) for count in (4, 5, 7)}


def _load(build: Any, address: Any, kind: Any = _V16) -> Any:
    return build.load(build.inttoptr(address, kind.as_pointer()), align=2)


def _store(build: Any, value: Any, address: Any) -> None:
    build.store(value, build.inttoptr(address, value.type.as_pointer()), align=1)


@intrinsic  # type: ignore[untyped-decorator]
def _differences(context: Any, a: Any, b: Any, middle: Any, out: Any) -> Any:
    """Pairs of a - middle and b - middle for 16 samples; all are addresses, of int16, and of int32 for
    out."""

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        *pair, less = (_load(build, each) for each in arguments[:3])
        both = [build.sub(each, less) for each in pair]
        for half in range(2):
            order = [at + half * _LANES + lane for lane in range(_LANES) for at in (0, SAMPLES)]
            to = build.add(arguments[3], ir.Constant(_I64, half * 2 * SAMPLES))
            _store(build, build.shuffle_vector(*both, ir.Constant(_WIDE, order)), to)
        return context.get_dummy_value()

    return _ADDRESSES[4], generate


@intrinsic  # type: ignore[untyped-decorator]
def _mean(context: Any, a: Any, b: Any, c: Any, d: Any, out: Any) -> Any:
    """Of four times 16 samples, rounded; all are addresses of int16."""

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        total = two = ir.Constant(_V16, [2] * SAMPLES)
        for each in arguments[:4]:
            total = build.add(total, _load(build, each))
        _store(build, build.ashr(total, two), arguments[4])
        return context.get_dummy_value()

    return _ADDRESSES[5], generate


@intrinsic  # type: ignore[untyped-decorator]
def _prediction(
    context: Any, linear: Any, correction: Any, activity: Any, mean: Any, beside: Any, out: Any, place: Any
) -> Any:
    """Predictions of 16 samples from what a net gave, and where their tables are among [4096 x 4].

    All are addresses: of int32 for what the net gave, of int16 for means and for samples of G, of uint8 and
    uint16 for what comes out.
    """

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        linear, correction, activity, mean, beside, out, place = arguments
        linear, correction, activity = (_load(build, each, _WIDE) for each in (linear, correction, activity))
        quarters = build.add(linear, build.ashr(correction, _all(3, _WIDE)))
        quarters = build.ashr(build.add(quarters, _all(64 + 2 * 128, _WIDE)), _all(7, _WIDE))
        level = build.ashr(quarters, _all(2, _WIDE))
        for each in (mean, beside):
            level = build.add(level, build.sext(_load(build, each), _WIDE))
        _store(build, build.trunc(_between(build, level, 255), _BYTES), out)
        row = _between(build, build.ashr(activity, _all(6, _WIDE)), ACTIVITIES - 1)
        row = build.or_(build.shl(row, _all(2, _WIDE)), build.and_(quarters, _all(3, _WIDE)))
        _store(build, build.trunc(row, _V16), place)
        return context.get_dummy_value()

    return _ADDRESSES[7], generate


_first: Final = products(OUTPUTS, SAMPLES, 0)
_second: Final = products(OUTPUTS, SAMPLES, 6)
_one: Final = products(1, WIDEST, None)
_two: Final = products(2, WIDEST // 2, None)


@dataclass(frozen=True, eq=False)
class CompiledNet:
    """A net's integers as the loops read them.

    linear: see `linear_of`. layers: int32, of the first, second and third layer one after the other the
    weights [outputs / n, pairs, n], two of 16 bits in each, and the biases. n is 4, in the third 2; outputs
    that a net doesn't have are 0. blocks: outputs / 4 of the first and second layer.
    """

    linear: Integers
    layers: Integers
    blocks: tuple[int, int]


def net_of(first: Integers, second: Integers, third: Integers) -> CompiledNet:
    """From the matrices of a weights file; see `lossless.Net`."""
    blocks = tuple(-(-len(matrix) // OUTPUTS) for matrix in (first[1:], second))
    layers = (
        _layer(first[1:], first.shape[1] - 1, OUTPUTS),
        _layer(second, OUTPUTS * blocks[0], OUTPUTS),
        _layer(third, OUTPUTS * blocks[1], len(third)),
    )
    return CompiledNet(linear_of(first), np.concatenate(layers), (blocks[0], blocks[1]))


def linear_of(first: Integers) -> Integers:
    """The linear prediction in a net's first matrix: int32 [pairs + 1], the last of which is its bias."""
    return _layer(first[:1], first.shape[1] - 1, 1)


def _layer(matrix: Integers, inputs: int, together: int) -> Integers:
    """Of a matrix [outputs, inputs + 1]; `inputs` may be more than it has, and is even."""
    rows, columns = matrix.shape
    outputs = -(-rows // together) * together
    weights, bias = np.zeros((outputs, inputs), np.int16), np.zeros(outputs, np.int32)
    weights[:rows, : columns - 1], bias[:rows] = matrix[:, :-1], matrix[:, -1]
    pairs = weights.view(np.int32).reshape(-1, together, inputs // 2)
    return np.concatenate([pairs.transpose(0, 2, 1).reshape(-1), bias])


@compiled.function
def _room(linear: Integers, blocks: tuple[int, int], width: int) -> tuple[Integers, ...]:
    """Memory for so many samples of a row: their mean, int16 [stride], and int32 [rows, stride] for the
    inputs of a net, what its layers make of them, and its linear prediction."""
    stride = (width + WIDEST - 1) // WIDEST * WIDEST
    return (
        np.zeros(stride, np.int16),
        np.zeros((linear.size - 1, stride), np.int32),
        np.empty((2 * blocks[0], stride), np.int32),
        np.empty((2 * blocks[1], stride), np.int32),
        np.empty((2, stride), np.int32),
        np.empty((1, stride), np.int32),
    )


@compiled.function
def _row(
    own: int,
    green: int,
    other: int,
    width: int,
    places: Integers,
    earlier: int,
    linear: Integers,
    layers: Integers,
    blocks: tuple[int, int],
    room: tuple[Integers, ...],
) -> None:
    """A row of a pass through a net, into `room`, see `_room`.

    own, green, other: addresses of the place (0, 0) in the first phase of its plane, of G, and of the plane
    between them. places: see `_places`.
    """
    mean, stride, pairs = room[0].ctypes.data, room[0].size, linear.size - 1
    for at in range(0, 2 * width, 2 * SAMPLES):
        _mean(
            np.uintp(own + 2 * places[2] + at),
            np.uintp(own + 2 * places[3] + at),
            np.uintp(own + 2 * places[4] + at),
            np.uintp(own + 2 * places[5] + at),
            np.uintp(mean + at),
        )
    x, around = room[1].ctypes.data, 6 + places[1]
    to = x
    for p in range(6, around, 2):
        a, b = own + 2 * places[p], own + 2 * places[p + 1]
        for at in range(0, 2 * width, 2 * SAMPLES):
            _differences(np.uintp(a + at), np.uintp(b + at), np.uintp(mean + at), np.uintp(to + 2 * at))
        to += 4 * stride
    for which in range(earlier):
        plane = green if which == 0 else other
        for p in range(around, places.size, 2):
            a, b, middle = plane + 2 * places[p], plane + 2 * places[p + 1], plane + 2 * places[0]
            for at in range(0, 2 * width, 2 * SAMPLES):
                _differences(np.uintp(a + at), np.uintp(b + at), np.uintp(middle + at), np.uintp(to + 2 * at))
            to += 4 * stride

    one, two, three, w = room[2].ctypes.data, room[3].ctypes.data, room[4].ctypes.data, linear.ctypes.data
    for at in range(0, 4 * width, 4 * WIDEST):
        _one(
            np.uintp(w), np.uintp(w + 4 * pairs), np.uintp(x + at), np.uintp(room[5].ctypes.data + at),
            pairs, stride,
        )  # fmt: skip
    w = layers.ctypes.data
    bias = w + 16 * blocks[0] * pairs
    for at in range(0, 4 * width, 4 * SAMPLES):
        for block in range(blocks[0]):
            _first(
                np.uintp(w + 16 * block * pairs), np.uintp(bias + 16 * block), np.uintp(x + at),
                np.uintp(one + at + 8 * block * stride), pairs, stride,
            )  # fmt: skip
    w, pairs = bias + 16 * blocks[0], 2 * blocks[0]
    bias = w + 16 * blocks[1] * pairs
    for at in range(0, 4 * width, 4 * SAMPLES):
        for block in range(blocks[1]):
            _second(
                np.uintp(w + 16 * block * pairs), np.uintp(bias + 16 * block), np.uintp(one + at),
                np.uintp(two + at + 8 * block * stride), pairs, stride,
            )  # fmt: skip
    w, pairs = bias + 16 * blocks[1], 2 * blocks[1]
    for at in range(0, 4 * width, 2 * WIDEST):
        _two(np.uintp(w), np.uintp(w + 8 * pairs), np.uintp(two + at), np.uintp(three + at), pairs, stride)


@compiled.function
def _look(
    own: Integers,
    green: Integers,
    other: Integers,
    columns: int,
    corner: int,
    places: Integers,
    earlier: int,
    linear: Integers,
    layers: Integers,
    blocks: tuple[int, int],
    table_of: Bytes,
    prediction: Bytes,
    table: Bytes,
) -> None:
    """A pass; see `_row`. own, green, other: int16, the padded phases of its plane, of G, and of the plane
    between them, one after the other. `columns` are in a row of a phase, `corner` is where its first sample
    is.
    """
    height, whole = prediction.shape
    together = min(whole, TOGETHER)
    room = _room(linear, blocks, together)
    mean, _, _, _, three, sums = room
    nothing = np.zeros(mean.size, np.int16)
    found, place = np.empty(mean.size, np.uint8), np.empty(mean.size, np.uint16)
    for row in range(height):
        for left in range(0, whole, together):
            base, width = 2 * (corner + row * columns + left), min(together, whole - left)
            _row(
                own.ctypes.data + base, green.ctypes.data + base, other.ctypes.data + base,
                width, places, earlier, linear, layers, blocks, room,
            )  # fmt: skip
            beside = green.ctypes.data + base + 2 * places[0] if earlier else nothing.ctypes.data
            for i in range(0, width, SAMPLES):
                _prediction(
                    np.uintp(sums.ctypes.data + 4 * i),
                    np.uintp(three.ctypes.data + 4 * i),
                    np.uintp(three.ctypes.data + 4 * (mean.size + i)),
                    np.uintp(mean.ctypes.data + 2 * i),
                    np.uintp(beside + 2 * i),
                    np.uintp(found.ctypes.data + i),
                    np.uintp(place.ctypes.data + 2 * i),
                )
            predicted, tables = prediction[row, left:], table[row, left:]
            for i in range(width):
                predicted[i] = found[i]
                tables[i] = table_of[place[i]]


@compiled.function
def _see(
    own: Integers,
    green: Integers,
    other: Integers,
    columns: int,
    corner: int,
    places: Integers,
    earlier: int,
    linear: Integers,
    layers: Integers,
    blocks: tuple[int, int],
    rows: Integers,
    width: int,
    near: Integers,
    near_x: Integers,
    parts: Integers,
) -> None:
    """Some rows of a pass, of which all samples are known, for `lossless.Seen`; else as `_look`.

    near_x: float64 [near, rows x width]. parts: int32 [4, rows x width]: what is wanted, the linear
    prediction, the correction, the activity.
    """
    room = _room(linear, blocks, width)
    mean, x, _, _, three, sums = room
    for number in range(rows.size):
        base = corner + rows[number] * columns
        _row(
            own.ctypes.data + 2 * base, green.ctypes.data + 2 * base, other.ctypes.data + 2 * base,
            width, places, earlier, linear, layers, blocks, room,
        )  # fmt: skip
        first, itself = number * width, own[base + places[0] :][:width]
        for i in range(width):
            parts[0, first + i] = np.int32(itself[i]) - mean[i]
            parts[1, first + i] = sums[0, i]
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


@compiled.function
def totals_of(scales: Bytes, symbols: Bytes, costs: Integers) -> Integers:
    """What symbols cost by offset, int64 [7]; costs: see `lossless.Costs.of_offsets`."""
    totals = np.zeros(costs.shape[1], np.int64)
    for i in range(symbols.size):
        row = costs[np.intp(scales[i]) << 8 | np.intp(symbols[i])]
        for offset in range(row.size):
            totals[offset] += row[offset]
    return totals


@compiled.function
def renamed(tables: Bytes, names: Bytes) -> Bytes:
    """names[tables]."""
    out = np.empty_like(tables)
    for i in range(tables.size):
        out[i] = names[tables[i]]
    return out


@compiled.function
def bends_of(samples: Integers) -> tuple[np.int64, np.int64]:
    """How much the colours less green of a tile's even lines differ from the lines beside them, and those of
    its odd ones: of all but the first and the last. samples: uint8 [lines, n, 3]."""
    count, n, _ = samples.shape
    totals = np.zeros(2, np.int64)
    for i in range(1, count - 1):
        for j in range(n):
            for colour in range(0, 3, 2):
                here, before, after = samples[i, j], samples[i - 1, j], samples[i + 1, j]
                middle = 2 * np.int64(here[colour]) - 2 * np.int64(here[1])
                beside = np.int64(before[colour]) - np.int64(before[1])
                beside += np.int64(after[colour]) - np.int64(after[1])
                totals[i & 1] += abs(middle - beside)
    return totals[0], totals[1]


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


@functools.lru_cache(maxsize=256)
def _places(name: str, rows: int, columns: int) -> Integers:
    """What a pass sees in padded phases of so many rows and columns, as how far that is from the place (0, 0)
    of the first phase: the target; how many places of its own plane it sees; the nearest four; these; and
    what is around the target in an earlier plane."""
    step = next(each for each in PASSES if each.name == name)
    seen = list(places(step.seen))
    of_pass: list[Place] = [(step.target, 0, 0), *step.nearest, *seen, *places(step.around)]
    far = [(PHASES.index(phase) * rows + i) * columns + j for phase, i, j in of_pass]
    return np.array([far[0], len(seen), *far[1:]], np.int64)


@dataclass(frozen=True, eq=False)
class Looking:
    """A `Look` of lattices of int16, as `lossless.Looking`; safe in several threads."""

    nets: Mapping[Group, CompiledNet]
    linear: Mapping[Group, Integers]
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
        of_pass = self._of((min(level, 1), len(earlier), step.name), own, earlier)
        columns, corner = of_pass[3:5]
        table_of = self.tables_of[min(level, 1), len(earlier), step.name]
        h, w = prediction.shape

        def rows(part: slice) -> None:
            at = corner + part.start * columns
            _look(*of_pass[:4], at, *of_pass[5:], table_of, prediction[part], table[part])

        spread(rows, h, max(1, WORTH_HELP // w))

    def see(self, step: Pass, own: Lattice, earlier: Sequence[Lattice], parts: Sequence[slice]) -> Seen:
        """What the net of a pass of the finest lattice makes of some of its rows."""
        group = 0, len(earlier), step.name
        rows = np.array([row for part in parts for row in range(part.start, part.stop)], np.int64)
        (_, width), corrected = own.size(step.target), near(*group[1:])
        x = np.empty((corrected.size, rows.size * width), np.float64)
        found = np.empty((4, rows.size * width), np.int32)
        _see(*self._of(group, own, earlier), rows, width, corrected, x, found)
        return CompiledSeen(x, *found)

    def _of(self, group: Group, own: Lattice, earlier: Sequence[Lattice]) -> tuple[Any, ...]:
        """What the loops are told of a pass."""
        net, count = self.nets[group], len(earlier)
        green = earlier[0].flat if count else own.flat
        other = earlier[1].flat if count > 1 else green
        _, rows, columns = own.stack.shape
        seen, corner = _places(group[2], rows, columns), BEFORE * columns + BEFORE
        linear = self.linear.get(group, net.linear)
        return own.flat, green, other, columns, corner, seen, count, linear, net.layers, net.blocks


@dataclass(frozen=True, eq=False)
class CompiledNets:
    """All nets of a model."""

    nets: Mapping[Group, CompiledNet]

    def looking(self, corrected: Mapping[Group, Net], tables_of: Mapping[Group, Bytes]) -> Looking:
        """For a tile. corrected: nets that have another linear prediction there."""
        linear = {group: linear_of(net.first) for group, net in corrected.items()}
        return Looking(self.nets, linear, tables_of)


def nets_of(nets: Nets) -> CompiledNets:
    """The same nets, compiled."""
    return CompiledNets(
        {
            group: net_of(net.first, np.rint(net.second * WEIGHT_UNIT), net.third)
            for group, net in nets.items()
        }
    )

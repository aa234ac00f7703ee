"""The looks of `linear_lattice` compiled, in integers of 16 and 32 bits; see `licodec.compiled`.

A row of a pass is gone through 16 samples at a time. What they see stands in vectors of 16 numbers of 16
bits; two of these are multiplied and added at once (pmaddwd on x86; elsewhere two products). A sample's
direction comes first, and then chooses among five weights in a vector (vpermd on x86; elsewhere by
comparing), so that only one of five predictions and activities is computed. The loop over a block,
`block`, is written in the compiler's intermediate language: Python loops would have the compiler go through
memory for each vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from licodec import compiled
from licodec.codecs.lattices import BEFORE, PASSES, PHASES, Bytes, Lattice, Pass, Place, places
from licodec.codecs.linear_lattice import (
    ACTIVITIES,
    ACTIVITY_SHIFT,
    DIRECTIONS,
    FINE_SCALES,
    STEEPNESS,
    Name,
    Numbers,
    view_of,
)
from licodec.codecs.lossless_compiled import HAS_PMADDWD, Integers, _pairs_multiplied

SAMPLES: Final = 16
"""In a block."""
_WEIGHTS: Final = 8
"""Numbers that a direction could choose from in one vector."""
_HALF: Final = SAMPLES // 2
_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V8 = ir.VectorType(_I8, SAMPLES)
_V16 = ir.VectorType(_I16, SAMPLES)
_V32 = ir.VectorType(_I32, _HALF)
_ROW: Final = 2 * SAMPLES
"""Bytes of a vector."""

_INTERLEAVED: Final = (
    [0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27],
    [4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31],
)
"""Two vectors as pairs of samples 0..3 and 8..11, and of the others: as processors do it at once."""
_ORDERED: Final = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
"""Samples 0..15 among those of both halves."""

# Where `plan` has the places of what is seen, in bytes from the sample with the target's row and column.
_NEAREST, _TARGET, _AROUND, _TAPS = 0, 4, 5, 13
_NEIGHBOURS: Final = 8
"""In an earlier plane."""
_FURTHEST: Final = 4096
"""A prediction so far from the mean is clipped wherever the mean is."""


class _Emitter:
    """Instructions for the blocks of a row."""

    def __init__(self, build: Any, paired: bool) -> None:
        self.build, self.paired = build, paired

    def number(self, value: int) -> Any:
        return ir.Constant(_I64, value)

    def all(self, value: int, kind: Any = _V32) -> Any:
        return ir.Constant(kind, [value] * kind.count)

    def load(self, kind: Any, address: Any, offset: Any = 0) -> Any:
        """What stands so many bytes from an address."""
        if isinstance(offset, int):
            offset = self.number(offset)
        pointer = self.build.inttoptr(self.build.add(address, offset), kind.as_pointer())
        return self.build.load(pointer, align=1)

    def store(self, value: Any, address: Any, offset: Any = 0) -> None:
        if isinstance(offset, int):
            offset = self.number(offset)
        pointer = self.build.inttoptr(self.build.add(address, offset), value.type.as_pointer())
        self.build.store(value, pointer, align=1)

    def loop(self, count: Any, carried: Sequence[Any], turn: Callable[..., Sequence[Any]]) -> list[Any]:
        """Turns 0..count - 1: `turn` gets its number and what the one before gave."""
        build, before = self.build, self.build.basic_block
        head, body, after = (build.append_basic_block(name) for name in ("head", "turn", "after"))
        build.branch(head)
        build.position_at_end(head)
        number = build.phi(_I64)
        values = [build.phi(each.type) for each in carried]
        build.cbranch(build.icmp_signed("<", number, count), body, after)
        build.position_at_end(body)
        given = turn(number, *values)
        following, end = build.add(number, self.number(1)), build.basic_block
        build.branch(head)
        starts, others = [self.number(0), *carried], [following, *given]
        for phi, first, later in zip([number, *values], starts, others, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, end)
        build.position_at_end(after)
        return values

    def magnitude(self, value: Any) -> Any:
        nothing = self.all(0, value.type)
        below = self.build.icmp_signed("<", value, nothing)
        return self.build.select(below, self.build.sub(nothing, value), value)

    def between(self, value: Any, low: int, high: int) -> Any:
        for sign, limit in (("<", low), (">", high)):
            bound = self.all(limit, value.type)
            value = self.build.select(self.build.icmp_signed(sign, value, bound), bound, value)
        return value

    def splat(self, value: Any, kind: Any = _V32) -> Any:
        nothing = ir.Constant(kind, ir.Undefined)
        one = self.build.insert_element(nothing, value, ir.Constant(_I32, 0))
        return self.build.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, kind.count), None))

    def shuffled(self, a: Any, b: Any, order: Sequence[int]) -> Any:
        return self.build.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(order)), list(order)))

    def pairs(self, address: Any, number: Any) -> list[Any]:
        """Vectors 2 `number` and 2 `number` + 1 of those at an address, as pairs: both halves."""
        at = self.build.add(address, self.build.mul(number, self.number(2 * _ROW)))
        return self.halves(self.load(_V16, at), self.load(_V16, at, _ROW))

    def halves(self, a: Any, b: Any) -> list[Any]:
        """Two vectors of 16 as pairs, 8 samples each."""
        return [self.build.bitcast(self.shuffled(a, b, order), _V32) for order in _INTERLEAVED]

    def multiplied(self, a: Any, b: Any) -> Any:
        return _pairs_multiplied(self.build, a, b, self.paired)

    def chosen(self, weights: Any, direction: Any) -> Any:
        """Of 8 weights, one by the direction of each sample."""
        build = self.build
        if self.paired:
            kind = ir.FunctionType(_V32, [_V32, _V32])
            permuted = build.module.declare_intrinsic("llvm.x86.avx2.permd", (), kind)
            return build.call(permuted, [weights, direction])
        out = self.shuffled(weights, weights, [0] * _HALF)
        for which in range(1, DIRECTIONS):
            here = build.icmp_signed("==", direction, self.all(which))
            out = build.select(here, self.shuffled(weights, weights, [which] * _HALF), out)
        return out

    def direction(self, along: Any, across: Any) -> Any:
        """See `linear_lattice.directions`."""
        build, out = self.build, self.all(0)
        for more, steep, even in ((1, along, across), (3, across, along)):
            least = build.add(build.mul(even, self.all(5)), self.all(8 * STEEPNESS))
            for shift, what in ((2, more), (1, 1)):
                above = build.icmp_signed(">", build.shl(steep, self.all(shift)), least)
                out = build.add(out, build.select(above, self.all(what), self.all(0)))
        return out


def _emit(emit: _Emitter, arguments: Sequence[Any]) -> None:
    build = emit.build
    (
        own, green, other, plan, x, seen, linear, magnitudes, steep, predicted, found,
        taps, earlier, differences, pairs,
    ) = arguments  # fmt: skip
    inputs = build.add(taps, build.mul(earlier, emit.number(_NEIGHBOURS)))

    def at(base: Any, place: Any) -> Any:
        """16 samples, whose place stands at a number of the plan."""
        if isinstance(place, int):
            place = emit.number(place)
        return emit.load(_V16, base, emit.load(_I64, plan, build.mul(place, emit.number(8))))

    def keep(value: Any, number: Any) -> None:
        """An input, and its magnitude."""
        offset = build.mul(number, emit.number(_ROW))
        emit.store(value, x, offset)
        emit.store(emit.magnitude(value), seen, offset)

    mean = emit.all(2, _V16)
    for place in range(_NEAREST, _NEAREST + 4):
        mean = build.add(mean, at(own, place))
    mean = build.ashr(mean, emit.all(2, _V16))

    def tap(number: Any) -> list[Any]:
        keep(build.sub(at(own, build.add(number, emit.number(_TAPS))), mean), number)
        return []

    def of_earlier(which: Any) -> list[Any]:
        base = build.select(build.icmp_signed("==", which, emit.number(0)), green, other)
        middle = at(base, _TARGET)
        first = build.add(taps, build.mul(which, emit.number(_NEIGHBOURS)))
        for i in range(_NEIGHBOURS):
            keep(build.sub(at(base, _AROUND + i), middle), build.add(first, emit.number(i)))
        return []

    emit.loop(taps, [], tap)
    emit.loop(earlier, [], of_earlier)
    of_pairs = build.add(plan, build.mul(build.add(taps, emit.number(_TAPS)), emit.number(8)))
    behind = build.add(seen, build.mul(inputs, emit.number(_ROW)))

    def two_pairs(number: Any, sums: Sequence[Any], sign: Callable[..., Any]) -> list[Any]:
        """Pairs 2 `number` and 2 `number` + 1, and the steepness that they add."""
        places_at = build.add(of_pairs, build.mul(number, emit.number(32)))
        rows = []
        for i in (0, 16):
            p, q = (emit.load(_V16, x, emit.load(_I64, places_at, i + more)) for more in (0, 8))
            rows.append(emit.magnitude(sign(p, q)))
        to = build.add(behind, build.mul(number, emit.number(2 * _ROW)))
        emit.store(rows[0], to)
        emit.store(rows[1], to, _ROW)
        weights_at = build.add(steep, build.mul(number, emit.number(8)))
        weights = [emit.splat(emit.load(_I32, weights_at, i)) for i in (0, 4)]
        products = [emit.multiplied(half, weight) for weight in weights for half in emit.halves(*rows)]
        return [build.add(total, product) for total, product in zip(sums, products, strict=True)]

    differences, pairs = (build.ashr(each, emit.number(1)) for each in (differences, pairs))
    sums = emit.loop(differences, [emit.all(0)] * 4, lambda number, *sums: two_pairs(number, sums, build.sub))
    sums = emit.loop(
        build.sub(pairs, differences),
        sums,
        lambda number, *sums: two_pairs(build.add(number, differences), sums, build.add),
    )
    directions = [emit.direction(sums[half], sums[2 + half]) for half in range(2)]

    def weighed(rows: Any, weights_at: Any) -> Callable[..., Sequence[Any]]:
        def turn(number: Any, *sums: Any) -> list[Any]:
            weights = emit.load(_V32, weights_at, build.mul(number, emit.number(4 * _WEIGHTS)))
            return [
                build.add(total, emit.multiplied(half, emit.chosen(weights, direction)))
                for total, half, direction in zip(sums, emit.pairs(rows, number), directions, strict=True)
            ]

        return turn

    halves = build.ashr(inputs, emit.number(1))
    predictions = emit.loop(halves, [emit.all(0)] * 2, weighed(x, linear))
    rest = build.add(magnitudes, emit.number(4 * _WEIGHTS))
    constant = emit.load(_V32, magnitudes)
    activities = emit.loop(
        build.add(halves, pairs),
        [emit.chosen(constant, direction) for direction in directions],
        weighed(seen, rest),
    )

    levels, of_tables = [], []
    for prediction, activity in zip(predictions, activities, strict=True):
        quarters = build.ashr(build.add(prediction, emit.all(64 + 2 * 128)), emit.all(7))
        level = emit.between(build.ashr(quarters, emit.all(2)), -_FURTHEST, _FURTHEST)
        levels.append(level)
        activity = emit.between(build.ashr(activity, emit.all(ACTIVITY_SHIFT)), 0, ACTIVITIES - 1)
        of_tables.append(build.or_(build.shl(activity, emit.all(2)), build.and_(quarters, emit.all(3))))
    narrow = ir.VectorType(_I16, _HALF)
    level, of_table = (
        emit.shuffled(build.trunc(first, narrow), build.trunc(second, narrow), _ORDERED)
        for first, second in (levels, of_tables)
    )
    coloured = build.sext(build.icmp_signed(">", earlier, emit.number(0)), _I16)
    beside = build.and_(at(green, _TARGET), emit.splat(coloured, _V16))
    value = emit.between(build.add(build.add(level, mean), beside), 0, 255)
    emit.store(build.trunc(value, _V8), predicted)
    emit.store(of_table, found)


_SIGNATURE: Final = types.void(*[types.uintp] * 11, *[types.intp] * 4)


def block(paired: bool = HAS_PMADDWD) -> Any:
    """A function that compiled ones call, for 16 samples of a row.

    It takes addresses: of what has the target's row and column in the first phase of its own plane, of G and
    of the plane between them; of the plan; of memory for inputs [k, 16] and for magnitudes [k + f, 16],
    int16; of weights int32 [k / 2, 8], [1 + (k + f) / 2, 8], the first of which are constants, and
    [f / 2, 2]; of the predictions, uint8 [16], and 4 activity + quarter, uint16 [16], that it fills. Then the
    numbers of taps, of earlier planes, of pairs that are differences and of all pairs, f: even both.

    paired: by instructions of x86.
    """

    def generate(context: Any, build: Any, signature: Any, arguments: Any) -> Any:
        _emit(_Emitter(build, paired), arguments)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def of_block(
        context: Any, own: Any, green: Any, other: Any, plan: Any, x: Any, seen: Any, linear: Any,
        magnitudes: Any, steep: Any, predicted: Any, found: Any, taps: Any, earlier: Any, differences: Any,
        pairs: Any,
    ) -> Any:  # fmt: skip
        return _SIGNATURE, generate

    return of_block


_block: Final = block()


@compiled.function
def _look(
    own: Integers,
    green: Integers,
    other: Integers,
    places: Integers,
    pairs: Integers,
    counts: tuple[int, int, int],
    linear: Integers,
    magnitudes: Integers,
    steep: Integers,
    table_of: Bytes,
    prediction: Bytes,
    table: Bytes,
) -> None:
    """A pass. own, green, other: int16 [4, rows, columns], the padded phases of its plane, of G, and of the
    plane between them. For the rest see `CompiledPass`."""
    taps, earlier, differences = counts
    count = pairs.size // 2
    plan = np.empty(places.shape[0] + pairs.size, np.int64)
    for i in range(places.shape[0]):
        plan[i] = 2 * ((places[i, 0] * own.shape[1] + places[i, 1]) * own.shape[2] + places[i, 2])
    for i in range(pairs.size):
        plan[places.shape[0] + i] = pairs[i]
    inputs = 2 * linear.shape[0]
    x = np.empty(SAMPLES * inputs, np.int16)
    seen = np.empty(SAMPLES * (inputs + count), np.int16)
    height, width = prediction.shape
    room = (width + SAMPLES - 1) // SAMPLES * SAMPLES
    predicted, found = np.empty(room, np.uint8), np.empty(room, np.uint16)
    for row in range(height):
        base = 2 * ((BEFORE + row) * own.shape[2] + BEFORE)
        for first in range(0, width, SAMPLES):
            start = base + 2 * first
            _block(
                np.uintp(own.ctypes.data + start),
                np.uintp(green.ctypes.data + start),
                np.uintp(other.ctypes.data + start),
                np.uintp(plan.ctypes.data),
                np.uintp(x.ctypes.data),
                np.uintp(seen.ctypes.data),
                np.uintp(linear.ctypes.data),
                np.uintp(magnitudes.ctypes.data),
                np.uintp(steep.ctypes.data),
                np.uintp(predicted.ctypes.data + first),
                np.uintp(found.ctypes.data + 2 * first),
                taps,
                earlier,
                differences,
                count,
            )
        for i in range(width):
            prediction[row, i] = predicted[i]
            table[row, i] = table_of[found[i]]


class CompiledPass(NamedTuple):
    """A pass on a plane as the loops read it.

    places: int64 [n, 3], numbers of phases, rows and columns of what is seen, in the order of the plan.
    pairs: int64 [2 f], in bytes from the first input. counts: of taps, earlier planes, and pairs that are
    differences. linear, magnitudes, steep: see `block`. table_of: uint8 [4096 x 4], by activity and quarter.
    """

    places: Integers
    pairs: Integers
    counts: tuple[int, int, int]
    linear: Integers
    magnitudes: Integers
    steep: Integers
    table_of: Bytes


def pass_of(name: Name, numbers: Numbers) -> CompiledPass:
    """From the integers of `linear_lattice.bin`."""
    _, plane, of_pass = name
    step = next(each for each in PASSES if each.name == of_pass)
    view = view_of(plane, of_pass)
    seen: list[Place] = [*step.nearest, (step.target, 0, 0), *places(step.around), *view.taps]
    signs = [sign for _, _, sign in view.pairs]
    differences = signs.count(-1)
    assert signs == sorted(signs) and differences % 2 == 0
    pairs = [(p, q) for p, q, _ in view.pairs] + [(0, 0)] * (len(signs) % 2)
    constants = np.zeros((1, _WEIGHTS), np.int32)
    constants[0, :DIRECTIONS] = numbers.activity[:, -1]
    scale = np.searchsorted(numbers.thresholds, np.arange(ACTIVITIES), side="right")[:, None]
    tables = np.where(scale < FINE_SCALES, 4 * scale + np.arange(4), 3 * FINE_SCALES + scale)
    return CompiledPass(
        np.array([(PHASES.index(phase), i, j) for phase, i, j in seen], np.int64),
        _ROW * np.array(pairs, np.int64).reshape(-1),
        (len(view.taps), plane, differences),
        _paired(numbers.linear, _WEIGHTS),
        np.concatenate([constants, _paired(numbers.activity[:, :-1], _WEIGHTS)]),
        _paired(numbers.direction, 2),
        tables.astype(np.uint8).reshape(-1),
    )


def _paired(matrix: Integers, columns: int) -> Integers:
    """[directions, n] as int32 [n / 2, columns], two numbers of 16 bits in each."""
    rows, count = matrix.shape
    out = np.zeros((columns, count + count % 2), np.int16)
    out[:rows, :count] = matrix
    return np.ascontiguousarray(out.view(np.int32).T)


@dataclass(frozen=True, eq=False)
class Looking:
    """A `Look` of lattices of int16, as `linear_lattice.Looking`; safe in several threads."""

    passes: Mapping[Name, CompiledPass]

    def __call__(
        self,
        level: int,
        step: Pass,
        own: Lattice,
        earlier: Sequence[Lattice],
        prediction: Bytes,
        table: Bytes,
    ) -> None:
        of_pass = self.passes[min(level, 1), len(earlier), step.name]
        green = earlier[0].stack if earlier else own.stack
        _look(own.stack, green, earlier[-1].stack if earlier else green, *of_pass, prediction, table)


def look_of(numbers: Mapping[Name, Numbers]) -> Looking:
    """Of all passes."""
    return Looking({name: pass_of(name, each) for name, each in numbers.items()})

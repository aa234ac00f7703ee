"""The loops of `fixed_point` in the compiler's intermediate language. Imported where they must be
compiled, not where they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llvmlite import binding, ir

from licodec.exact.fixed_point import (
    LEAVE,
    LET_OTHERS,
    MASKED,
    NAMES,
    OUTPUTS,
    PLAIN,
    REAL,
    SUMS,
    Kind,
)
from licodec.exact.loop_building import function as _function
from licodec.exact.loop_building import in_steps as _steps
from licodec.exact.loop_building import least as _least
from licodec.exact.loop_building import loop as _loop
from licodec.exact.loop_building import number as _number
from licodec.exact.loop_building import pointer as _pointer
from licodec.exact.loop_building import splat as _splat

LEAKY: Final = 0.1
"""The slope inside a block."""
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()


class Vectors:
    """What the loops of a kind of processor are made of: vectors of so many lanes, `count` for 16 outputs."""

    def __init__(self, kind: Kind) -> None:
        self.paired, self.lanes, self.positions = kind.paired, kind.lanes, kind.positions
        self.count: Final = OUTPUTS // self.lanes
        self.whole, self.pairs = ir.VectorType(_I32, self.lanes), ir.VectorType(_I16, 2 * self.lanes)
        self.half, self.real = ir.VectorType(_I16, self.lanes), ir.VectorType(_F32, self.lanes)
        self.bytes: Final = 4 * self.lanes


_PAIRS_MULTIPLIED: Final = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""The instruction for so many pairs."""


# --- The inner loop -----------------------------------------------------------------------------------------


def _pairs_multiplied(build: Any, a: Any, b: Any, of: Vectors) -> Any:
    """a0 b0 + a1 b1 of the pairs in each lane."""
    if of.paired:
        kind = ir.FunctionType(of.whole, [of.pairs, of.pairs])
        multiply = build.module.declare_intrinsic(_PAIRS_MULTIPLIED[of.lanes], (), kind)
        return build.call(multiply, [build.bitcast(a, of.pairs), build.bitcast(b, of.pairs)])
    half = ir.Constant(of.whole, [16] * of.lanes)
    low = [build.ashr(build.shl(each, half), half) for each in (a, b)]
    high = [build.ashr(each, half) for each in (a, b)]
    return build.add(build.mul(*low), build.mul(*high))


def _sums(build: Any, arguments: Sequence[Any], of: Vectors) -> list[Any]:
    """The sums of 16 outputs at `of.positions` positions: `of.count` vectors each."""
    weights, taps, tap_count, pairs, xs = arguments
    before = build.basic_block
    of_tap, of_pair, tap_done, done = (
        build.append_basic_block(name) for name in ("tap", "pair", "tap_done", "sums_done")
    )
    build.branch(of_tap)

    build.position_at_end(of_tap)
    tap, first = build.phi(_I64), build.phi(_I64)
    outer = [build.phi(of.whole) for _ in range(of.positions * of.count)]
    shift = build.load(build.inttoptr(build.add(taps, build.shl(tap, _number(3))), _I64.as_pointer()))
    at = [build.add(x, shift) for x in xs]
    build.branch(of_pair)

    build.position_at_end(of_pair)
    pair, weight = build.phi(_I64), build.phi(_I64)
    inner = [build.phi(of.whole) for _ in outer]
    distance = build.shl(pair, _number(2))
    loaded = [
        build.load(_pointer(build, weight, of.bytes * v, of.whole), align=of.bytes) for v in range(of.count)
    ]
    more = []
    for position in range(of.positions):
        value = build.load(build.inttoptr(build.add(at[position], distance), _I32.as_pointer()), align=4)
        both = _splat(build, value, of.whole)
        for v in range(of.count):
            product = _pairs_multiplied(build, loaded[v], both, of)
            more.append(build.add(inner[position * of.count + v], product))
    next_pair, next_weight = build.add(pair, _number(1)), build.add(weight, _number(4 * OUTPUTS))
    build.cbranch(build.icmp_signed("<", next_pair, pairs), of_pair, tap_done)

    build.position_at_end(tap_done)
    next_tap = build.add(tap, _number(1))
    build.cbranch(build.icmp_signed("<", next_tap, tap_count), of_tap, done)

    nothing = ir.Constant(of.whole, [0] * of.lanes)
    for phi, start, new in ((tap, _number(0), next_tap), (first, weights, next_weight)):
        phi.add_incoming(start, before)
        phi.add_incoming(new, tap_done)
    for phi, start, new in ((pair, _number(0), next_pair), (weight, first, next_weight)):
        phi.add_incoming(start, of_tap)
        phi.add_incoming(new, of_pair)
    for outer_phi, inner_phi, new in zip(outer, inner, more, strict=True):
        outer_phi.add_incoming(nothing, before)
        outer_phi.add_incoming(new, tap_done)
        inner_phi.add_incoming(outer_phi, of_tap)
        inner_phi.add_incoming(new, of_pair)
    build.position_at_end(done)
    return more


def _emit(build: Any, arguments: Sequence[Any], writes: int, of: Vectors) -> None:
    """16 outputs at so many positions, whose inputs, residuals and outputs have addresses of their own."""
    *inputs, xs, constants, slope, residuals, outs = arguments
    sums = _sums(build, [*inputs, xs], of)
    if writes == SUMS:
        for number, each in enumerate(sums):
            position, v = divmod(number, of.count)
            build.store(each, _pointer(build, outs[position], of.bytes * v, of.whole), align=4)
        return
    slopes = _splat(build, slope, of.real)
    for v in range(of.count):
        scale, bias, post, unit = (
            build.load(_pointer(build, constants, 4 * (OUTPUTS * row + of.lanes * v), of.real), align=4)
            for row in range(4)
        )
        for position, out in enumerate(outs):
            y = build.fadd(build.fmul(build.sitofp(sums[position * of.count + v], of.real), scale), bias)
            less = build.fmul(y, slopes)
            if writes == MASKED:
                seen = build.load(_pointer(build, residuals[position], of.bytes // 2 * v, of.half), align=2)
                positive = build.icmp_signed(">", seen, ir.Constant(of.half, [0] * of.lanes))
                y = build.select(positive, y, less)
                whole = _steps(build, build.fmul(y, post))
                build.store(whole, _pointer(build, out, of.bytes // 2 * v, of.half), align=2)
                continue
            if writes != PLAIN:
                before = _pointer(build, residuals[position], of.bytes // 2 * v, of.half)
                known = build.sitofp(build.sext(build.load(before, align=2), of.whole), of.real)
                y = build.fadd(y, build.fmul(known, unit))
            less = build.fmul(y, slopes)
            y = build.select(build.fcmp_ordered(">", y, less), y, less)
            if writes == REAL:
                build.store(y, _pointer(build, out, of.bytes * v, of.real), align=4)
                continue
            whole = _steps(build, build.fmul(y, post))
            build.store(whole, _pointer(build, out, of.bytes // 2 * v, of.half), align=2)


def _next_ones(build: Any, first: Any, step: Any, count: int) -> list[Any]:
    """The addresses of positions that are so many bytes from each other."""
    all_of_them = [first]
    while len(all_of_them) < count:
        all_of_them.append(build.add(all_of_them[-1], step))
    return all_of_them


def _listed(build: Any, base: Any, table: Any, first: Any, count: int) -> list[Any]:
    """The addresses of positions from number `first` on, whose distances from a base stand in a table."""
    at = build.add(table, build.shl(first, _number(3)))
    return [build.add(base, build.load(_pointer(build, at, 8 * n, _I64))) for n in range(count)]


_LAYER: Final = [*[_I64] * 7, _F32, *[_I64] * 10]
ROWS_TOGETHER: Final = 4
COLUMNS_TOGETHER: Final = 60


def _define_layer(module: Any, name: str, writes: int, of: Vectors) -> None:
    """Rows first..last of a layer.

    Arguments: the addresses of weights, taps' distances, their number, pairs of inputs, the addresses of
    outputs' places, the number of blocks of 16 of them, the address of the constants, slope; the address of
    the input and the bytes to its next row and column; the address of residual and output, and the bytes to
    their next row and column (of an output in float32 half as many as there are); first, last, width.
    """
    build, arguments = _function(module, name, _LAYER)
    weights, taps, tap_count, pairs, places, blocks, constants, slope, *rest = arguments
    x, x_row, x_step, residual, out, out_row, out_step, first, last, width = rest
    of_block = build.mul(build.mul(tap_count, pairs), _number(4 * OUTPUTS))
    with _loop(build, first, last, ROWS_TOGETHER) as begin:
        end = _least(build, build.add(begin, _number(ROWS_TOGETHER)), last)
        with _loop(build, _number(0), blocks) as block:
            w = build.add(weights, build.mul(block, of_block))
            c = build.add(constants, build.mul(block, _number(16 * OUTPUTS)))
            at = build.inttoptr(build.add(places, build.mul(block, _number(8))), _I64.as_pointer())
            place = build.load(at)
            with _loop(build, begin, end) as row:
                seen = build.add(x, build.mul(row, x_row))
                target = build.add(place, build.mul(row, out_row))
                with _loop(build, _number(0), width, of.positions) as column:
                    to = build.add(target, build.mul(column, out_step))
                    wide = writes in (REAL, SUMS)
                    made = build.add(out, build.shl(to, _number(1)) if wide else to)
                    to_next = build.shl(out_step, _number(1)) if wide else out_step
                    xs = _next_ones(build, build.add(seen, build.mul(column, x_step)), x_step, of.positions)
                    outs = _next_ones(build, made, to_next, of.positions)
                    added = _next_ones(build, build.add(residual, to), out_step, of.positions)
                    block_of = (w, taps, tap_count, pairs, xs, c, slope, added, outs)
                    _emit(build, block_of, writes, of)
    build.ret_void()


POSITIONS_TOGETHER: Final = 48


def _define_layer_at(module: Any, name: str, writes: int, of: Vectors) -> None:
    """Positions first..last, multiples of `of.positions`, of a layer whose positions lie anywhere.

    Arguments: as of `_define_layer` up to slope; the addresses of input, residual and output, each followed
    by that of a table int64 [positions] of bytes from there; first, last, positions.
    """
    build, arguments = _function(module, name, [*[_I64] * 7, _F32, *[_I64] * 9])
    weights, taps, tap_count, pairs, places, blocks, constants, slope, *rest = arguments
    x, x_at, residual, residual_at, out, out_at, first, last, _ = rest
    of_block = build.mul(build.mul(tap_count, pairs), _number(4 * OUTPUTS))
    with _loop(build, first, last, POSITIONS_TOGETHER) as begin:
        end = _least(build, build.add(begin, _number(POSITIONS_TOGETHER)), last)
        with _loop(build, _number(0), blocks) as block:
            w = build.add(weights, build.mul(block, of_block))
            c = build.add(constants, build.mul(block, _number(16 * OUTPUTS)))
            place = _listed_one(build, places, block)
            to = build.add(out, build.shl(place, _number(1)) if writes == REAL else place)
            added = build.add(residual, place)
            with _loop(build, begin, end, of.positions) as number:
                xs, outs, residuals = (
                    _listed(build, base, table, number, of.positions)
                    for base, table in ((x, x_at), (to, out_at), (added, residual_at))
                )
                block_of = (w, taps, tap_count, pairs, xs, c, slope, residuals, outs)
                _emit(build, block_of, writes, of)
    build.ret_void()


def _listed_one(build: Any, table: Any, number: Any) -> Any:
    at = build.add(table, build.shl(number, _number(3)))
    return build.load(build.inttoptr(at, _I64.as_pointer()))


def _define_exact_layer_at(module: Any, of: Vectors) -> None:
    """Positions first..last, multiples of `of.positions`, of a layer of a net that chooses tables:
    `clamp(floor(sum * scale + offset))`, every step of it exact in float64.

    Arguments: as of `_define_layer` up to the number of blocks; the addresses of float64 [outputs] scale and
    [kinds, outputs] offset, the bytes of an offset's row, the address of the kinds of positions, int64, and
    the bytes from one to the next (0 where all are alike), the largest output and a half; the addresses of
    input and output, each followed by that of a table as of `_define_layer_at`; first, last, positions.
    """
    build, arguments = _function(module, "exact_at", [*[_I64] * 11, _F32, *[_I64] * 7])
    weights, taps, tap_count, pairs, places, blocks, scales, offsets, offset_row, *rest = arguments
    kind, kind_step, high, x, x_at, out, out_at, first, last, _ = rest
    few = of.lanes // 2
    double = ir.VectorType(ir.DoubleType(), few)
    highest = _splat(build, build.fpext(high, ir.DoubleType()), double)
    lowest = ir.Constant(double, [0.0] * few)
    of_block = build.mul(build.mul(tap_count, pairs), _number(4 * OUTPUTS))
    with _loop(build, first, last, POSITIONS_TOGETHER) as begin:
        end = _least(build, build.add(begin, _number(POSITIONS_TOGETHER)), last)
        with _loop(build, _number(0), blocks) as block:
            w = build.add(weights, build.mul(block, of_block))
            from_first = build.mul(block, _number(8 * OUTPUTS))
            scale_at, offset_at = build.add(scales, from_first), build.add(offsets, from_first)
            to = build.add(out, _listed_one(build, places, block))
            scale = [
                build.load(_pointer(build, scale_at, 8 * few * n, double), align=8)
                for n in range(2 * of.count)
            ]
            with _loop(build, begin, end, of.positions) as start:
                xs, outs = (
                    _listed(build, base, table, start, of.positions)
                    for base, table in ((x, x_at), (to, out_at))
                )
                sums = _sums(build, [w, taps, tap_count, pairs, xs], of)
                for position, target in enumerate(outs):
                    number = build.add(start, _number(position))
                    of_kind = build.load(
                        _pointer(build, build.add(kind, build.mul(number, kind_step)), 0, _I64)
                    )
                    offset = build.add(offset_at, build.mul(of_kind, offset_row))
                    for v in range(of.count):
                        halves = []
                        for half in range(2):
                            order = ir.VectorType(_I32, few)
                            lanes = ir.Constant(order, [few * half + n for n in range(few)])
                            both = sums[position * of.count + v]
                            some = build.shuffle_vector(both, both, lanes)
                            place_of = 2 * v + half
                            added = build.load(_pointer(build, offset, 8 * few * place_of, double), align=8)
                            y = build.fadd(build.fmul(build.sitofp(some, double), scale[place_of]), added)
                            y = build.select(build.fcmp_ordered(">", y, lowest), y, lowest)
                            y = build.select(build.fcmp_ordered("<", y, highest), y, highest)
                            halves.append(build.fptosi(y, order))
                        whole = build.shuffle_vector(*halves, ir.Constant(of.whole, list(range(of.lanes))))
                        to_lane = _pointer(build, target, of.bytes // 2 * v, of.half)
                        build.store(build.trunc(whole, of.half), to_lane, align=2)
    build.ret_void()


def _define_around(module: Any, name: str, added: bool, of: Vectors) -> None:
    """A row of a 3x3 convolution within each channel.

    Arguments: the address of the position above and left of the first, the bytes to its next row and column
    (as many as channels take), the addresses of weights int32 [9, channels] and of constants float32
    [3, channels], channels, the address of the output, whose columns are as far apart, and width. added: the
    output is added to what stands there; constants have its steps as a fourth row.
    """
    build, arguments = _function(module, name, [_I64] * 8)
    x, row, step, weights, constants, channels, out, width = arguments
    beside = build.mul(channels, _number(4))
    with _loop(build, _number(0), channels, of.lanes) as channel:
        at = build.add(weights, build.mul(channel, _number(4)))
        of_taps = [
            build.load(_pointer(build, build.add(at, build.mul(beside, _number(t))), 0, of.whole), align=4)
            for t in range(9)
        ]
        if of.paired:
            low = ir.Constant(of.whole, [65535] * of.lanes)
            of_taps = [build.and_(each, low) for each in of_taps]
        at = build.add(constants, build.mul(channel, _number(4)))
        scale, bias, post, *unit = (
            build.load(_pointer(build, build.add(at, build.mul(beside, _number(n))), 0, of.real), align=4)
            for n in range(4 if added else 3)
        )
        of_channel = build.mul(channel, _number(2))
        with _loop(build, _number(0), width) as column:
            distance = build.add(build.mul(column, step), of_channel)
            total = ir.Constant(of.whole, [0] * of.lanes)
            for dy in range(3):
                line = build.add(build.add(x, distance), build.mul(row, _number(dy)))
                for dx in range(3):
                    near = build.add(line, build.mul(step, _number(dx)))
                    seen = build.sext(build.load(_pointer(build, near, 0, of.half), align=2), of.whole)
                    weight = of_taps[3 * dy + dx]
                    if of.paired:  # the upper half of a pair is multiplied by nothing
                        product = _pairs_multiplied(build, seen, weight, of)
                    else:
                        product = build.mul(seen, weight)
                    total = build.add(total, product)
            y = build.fadd(build.fmul(build.sitofp(total, of.real), scale), bias)
            there = _pointer(build, build.add(out, distance), 0, of.half)
            if added:
                before = build.sitofp(build.sext(build.load(there, align=2), of.whole), of.real)
                y = build.fadd(y, build.fmul(before, unit[0]))
            build.store(_steps(build, build.fmul(y, post)), there, align=2)
    build.ret_void()


def _define_around_rows(module: Any, name: str, of_row: str) -> None:
    """Rows first..last of a 3x3 convolution within each channel from map to map.

    Arguments: the address of the input's position (0, 0), bytes to the next row and column, weights and
    constants as of `_define_around`, channels, the address of the output and the bytes to its next row;
    first, last, width.
    """
    build, arguments = _function(module, name, [_I64] * 11)
    x, row_bytes, step, weights, constants, channels, out, out_row, first, last, width = arguments
    corner = build.sub(build.sub(x, row_bytes), step)
    with _loop(build, first, last) as row:
        seen = build.add(corner, build.mul(row, row_bytes))
        to = build.add(out, build.mul(row, out_row))
        given = [seen, row_bytes, step, weights, constants, channels, to, width]
        build.call(module.get_global(of_row), given)
    build.ret_void()


def _define_block(module: Any, of: Vectors) -> None:
    """Rows first..last of a residual block from map to map; see `checkerboard.Block`.

    Arguments: the address of the input's position (0, 0), bytes to the next row and column, weights and
    constants of `around`, of `wide` and of `narrow`, channels, the address of one distance 0, those of the
    places of outputs, slope of what comes out, its address and bytes to the next row; the address to which
    goes what is hidden, whose columns are twice as far apart, and the bytes to its next row, or 0 and 0 where
    nobody wants it; first, last, width.
    """
    build, arguments = _function(module, "block", [*[_I64] * 12, _F32, *[_I64] * 7])
    x, row_bytes, step, w0, c0, w1, c1, w2, c2, channels, here, places, slope, *rest = arguments
    out, out_row, kept, kept_row, first, last, width = rest
    around, plain, residual = (module.get_global(name) for name in ("around", "plain", "residual"))
    half, few = (build.lshr(channels, _number(bits)) for bits in (1, 4))
    twice, many = build.shl(step, _number(1)), build.shl(few, _number(1))
    zero, one, leaky = _number(0), _number(1), ir.Constant(_F32, LEAKY)
    room = build.mul(step, _number(COLUMNS_TOGETHER + of.positions))
    near, inside = (
        build.ptrtoint(build.alloca(_I8, build.mul(room, _number(times))), _I64) for times in (1, 2)
    )
    unwanted = build.icmp_signed("==", kept, zero)
    with _loop(build, first, last) as row, _loop(build, zero, width, COLUMNS_TOGETHER) as column:
        count = _least(build, build.sub(width, column), _number(COLUMNS_TOGETHER))
        from_row = build.mul(column, step)
        at = build.add(build.add(x, build.mul(row, row_bytes)), from_row)
        made = build.add(build.add(out, build.mul(row, out_row)), from_row)
        corner = build.sub(build.sub(at, row_bytes), step)
        build.call(around, [corner, row_bytes, step, w0, c0, channels, near, count])
        wanted = build.add(build.add(kept, build.mul(row, kept_row)), build.mul(column, twice))
        hidden = build.select(unwanted, inside, wanted)
        wide = [w1, here, one, half, places, many, c1, leaky, near, zero, step, zero, hidden, zero, twice]
        build.call(plain, [*wide, zero, one, count])
        narrow = [w2, here, one, channels, places, few, c2, slope, hidden, zero, twice, at, made, zero, step]
        build.call(residual, [*narrow, zero, one, count])
    build.ret_void()


def _define_block_back(module: Any, of: Vectors) -> None:
    """Rows first..last of what comes back through the two 1x1 layers of a residual block, from map to map.

    Arguments: the address of the input's position (0, 0), bytes to the next row and column, weights and
    constants of both layers, the first one's slope, channels, the address of one distance 0, those of the
    places of outputs, the address of what was hidden, whose columns are twice as far apart, and the bytes to
    its next row, and the output's address and bytes to the next row; first, last, width.
    """
    build, arguments = _function(module, "block_back", [*[_I64] * 7, _F32, *[_I64] * 10])
    x, row_bytes, step, w1, c1, w2, c2, slope, channels, here, places, mask, mask_row, *rest = arguments
    out, out_row, first, last, width = rest
    masked, plain = (module.get_global(name) for name in ("masked", "plain"))
    half, few = (build.lshr(channels, _number(bits)) for bits in (1, 4))
    twice, many = build.shl(step, _number(1)), build.shl(few, _number(1))
    zero, one, straight = _number(0), _number(1), ir.Constant(_F32, 1.0)
    room = build.mul(twice, _number(COLUMNS_TOGETHER + of.positions))
    hidden = build.ptrtoint(build.alloca(_I8, room), _I64)
    with _loop(build, first, last) as row, _loop(build, zero, width, COLUMNS_TOGETHER) as column:
        count = _least(build, build.sub(width, column), _number(COLUMNS_TOGETHER))
        at = build.add(build.add(x, build.mul(row, row_bytes)), build.mul(column, step))
        made = build.add(build.add(out, build.mul(row, out_row)), build.mul(column, step))
        seen = build.add(build.add(mask, build.mul(row, mask_row)), build.mul(column, twice))
        narrow = [w1, here, one, half, places, many, c1, slope, at, zero, step, seen, hidden]
        build.call(masked, [*narrow, zero, twice, zero, one, count])
        wide = [w2, here, one, channels, places, few, c2, straight, hidden, zero, twice, zero, made]
        build.call(plain, [*wide, zero, step, zero, one, count])
    build.ret_void()


def _define_job(module: Any, name: str) -> None:
    """The function of that name as one of (arguments, first, last): rows or positions first..last of what is
    described by arguments in memory, int64 or the bits of float32."""
    of = module.get_global(name)
    build, (at, first, last) = _function(module, f"{name}_job", [_I64] * 3)
    given: list[Any] = []
    for number, kind in enumerate(of.ftype.args):
        bits = kind if isinstance(kind, ir.FloatType) else _I64
        given.append(build.load(_pointer(build, at, 8 * number, bits)))
    given[-3:-1] = [first, last]
    build.call(of, given)
    build.ret_void()


# --- Threads ------------------------------------------------------------------------------------------------

_NEXT, _NUMBER, _TOTAL, _CHUNK, _WORK, _ARGUMENTS, _DONE = range(0, LEAVE, 64)
"""What threads share, each in a cache line of its own: the number of the job and of its next piece, the
number of the job, its length and that of a piece, its function and arguments, and how much is done; then
whether to leave, and the address of what lets other threads run (0: nothing does)."""
PATIENCE: Final = 256
"""Looks at what is not there yet, some microseconds, after which another thread of this processor may run."""


def _define_threads(module: Any) -> None:
    """`take`: do pieces of the job while there are some. `work`: do so until it is time to leave. `share`:
    a new job, done when this returns.

    A piece is taken by counting up; the number of the job, which stands above the count, tells a thread that
    comes late that what it has read since belongs to another one.
    """
    job = ir.FunctionType(ir.VoidType(), [_I64] * 3)

    def at(build: Any, shared: Any, field: int) -> Any:
        return _pointer(build, shared, field, _I64)

    def read(build: Any, shared: Any, field: int) -> Any:
        return build.load_atomic(at(build, shared, field), "acquire", 8)

    def write(build: Any, shared: Any, field: int, value: Any) -> None:
        build.store_atomic(value, at(build, shared, field), "release", 8)

    def rest(build: Any, shared: Any, looks: Any) -> Any:
        """A moment's pause, or another thread's turn every PATIENCE times; how often so far."""
        _pause(build)
        more = build.add(looks, _number(1))
        other = read(build, shared, LET_OTHERS)
        tired = build.icmp_signed("==", build.and_(more, _number(PATIENCE - 1)), _number(0))
        with build.if_then(build.and_(tired, build.icmp_signed("!=", other, _number(0)))):
            kind = ir.FunctionType(_I32, [])
            build.call(build.inttoptr(other, kind.as_pointer()), [])
        return more

    build, (shared,) = _function(module, "take", [_I64])
    again, there, leave = (build.append_basic_block(name) for name in ("again", "there", "leave"))
    build.branch(again)
    build.position_at_end(again)
    count = build.atomic_rmw("add", at(build, shared, _NEXT), _number(1), "acq_rel")
    chunk = read(build, shared, _CHUNK)
    total, work, given = (read(build, shared, field) for field in (_TOTAL, _WORK, _ARGUMENTS))
    own = build.icmp_signed("==", read(build, shared, _NUMBER), build.lshr(count, _number(32)))
    first = build.mul(build.and_(count, _number(2**32 - 1)), chunk)
    build.cbranch(build.and_(own, build.icmp_signed("<", first, total)), there, leave)
    build.position_at_end(there)
    last = _least(build, build.add(first, chunk), total)
    build.call(build.inttoptr(work, job.as_pointer()), [given, first, last])
    build.atomic_rmw("add", at(build, shared, _DONE), build.sub(last, first), "acq_rel")
    build.branch(again)
    build.position_at_end(leave)
    build.ret_void()
    take = module.get_global("take")

    build, (shared,) = _function(module, "work", [_I64])
    again, look, there, leave = (
        build.append_basic_block(name) for name in ("again", "look", "there", "leave")
    )
    entry = build.basic_block
    build.branch(again)
    build.position_at_end(again)
    looks = build.phi(_I64)
    build.cbranch(build.icmp_signed("!=", read(build, shared, LEAVE), _number(0)), leave, look)
    build.position_at_end(look)
    count = read(build, shared, _NEXT)
    first = build.mul(build.and_(count, _number(2**32 - 1)), read(build, shared, _CHUNK))
    waited = rest(build, shared, looks)
    after_rest = build.basic_block
    build.cbranch(build.icmp_signed("<", first, read(build, shared, _TOTAL)), there, again)
    build.position_at_end(there)
    build.call(take, [shared])
    build.branch(again)
    for value, block in ((_number(0), entry), (waited, after_rest), (_number(0), there)):
        looks.add_incoming(value, block)
    build.position_at_end(leave)
    build.ret_void()

    build, (shared, work, given, total, chunk) = _function(module, "share", [_I64] * 5)
    number = build.add(read(build, shared, _NUMBER), _number(1))
    write(build, shared, _NUMBER, number)
    fields = {_TOTAL: total, _CHUNK: chunk, _WORK: work, _ARGUMENTS: given, _DONE: _number(0)}
    for field, value in fields.items():
        write(build, shared, field, value)
    write(build, shared, _NEXT, build.shl(number, _number(32)))
    build.call(take, [shared])
    wait, done = build.append_basic_block("wait"), build.append_basic_block("done")
    entry = build.basic_block
    build.branch(wait)
    build.position_at_end(wait)
    looks = build.phi(_I64)
    waited = rest(build, shared, looks)
    for value, block in ((_number(0), entry), (waited, build.basic_block)):
        looks.add_incoming(value, block)
    build.cbranch(build.icmp_signed("<", read(build, shared, _DONE), total), wait, done)
    build.position_at_end(done)
    build.ret_void()


def _pause(build: Any) -> None:
    if binding.get_default_triple().startswith(("x86_64", "amd64", "i686")):
        kind = ir.FunctionType(ir.VoidType(), [])
        build.call(build.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])


# --- All of them --------------------------------------------------------------------------------------------


def module_text(kind: Kind) -> str:
    """The module of all loops of that kind."""
    of = Vectors(kind)
    module = ir.Module("fixed_point")
    for writes, name in NAMES.items():
        _define_layer(module, name, writes, of)
        if writes != SUMS:
            _define_layer_at(module, f"{name}_at", writes, of)
    _define_exact_layer_at(module, of)
    for name, added in (("around", False), ("around_added", True)):
        _define_around(module, name, added, of)
        _define_around_rows(module, f"{name}_rows", name)
    _define_block(module, of)
    _define_block_back(module, of)
    for each in list(module.functions):
        if not (each.is_declaration or each.name in ("around", "around_added")):
            _define_job(module, each.name)
    _define_threads(module)
    return str(module)

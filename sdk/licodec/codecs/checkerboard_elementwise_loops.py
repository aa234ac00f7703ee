"""The loops of `checkerboard_elementwise` in the compiler's intermediate language. Imported where they must
be compiled, not where they run.

Symbols and table indices are laid out by channel, [C, n]; what nets take and give by position, rows [n, C].
Loops between the two take tiles of 8 positions and 4 channels, and turn them in registers; positions that are
left over go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir

from licodec.codecs.checkerboard_layout import (
    NEARLY_ZERO,
    QUARTER,
    SHOWN_STEP,
    SYMBOL_MAX,
)
from licodec.entropy.tables import NOT_CODED
from licodec.exact.fixed_point import LANES
from licodec.exact.loop_building import (
    F32,
    I8,
    I16,
    I32,
    I64,
    between,
    each_lane,
    every_lane,
    function,
    in_steps,
    least,
    loop,
    number,
    pointer,
)

CHANNELS: Final = 4
TOGETHER: Final = 32
"""Positions of which all channels are done before the next ones: a cache line of symbols of each channel."""
SAVINGS: Final = 257
"""What `checkerboard_layout.symbol_savings` has of each table."""
ROOT_OF_HALF: Final = 0x3F3504F3
"""The bits of the float32 nearest to the root of 1/2."""
MANTISSA_BITS: Final = 23
LN_2: Final = 0.6931471805599453
Tile = Callable[[Any, Any, int, Any], None]
"""What writes a tile: (its first channel, its first position, how many positions, what the channels have)."""


def module_text() -> str:
    """The module of all loops."""
    module = ir.Module("checkerboard_elementwise")
    _define_magnitudes(module)
    _define_indices(module)
    _define_settle(module)
    _define_choose(module)
    _define_to_steps(module, "to_steps", lacking=False)
    _define_to_steps(module, "missing", lacking=True)
    _define_pixels(module)
    _define_kept(module)
    _define_refined(module)
    _define_asinh_in_steps(module)
    _define_expected(module)
    _define_returned(module)
    _define_moved(module)
    return str(module)


# --- Building blocks ----------------------------------------------------------------------------------------


def _lanes(kind: Any, count: int) -> Any:
    return ir.VectorType(kind, count)


def _job(module: Any, name: str, count: int) -> tuple[Any, list[Any], Any, Any]:
    """A function of (arguments in memory, first, last), and that many of its arguments, int64."""
    build, (at, first, last) = function(module, name, [I64] * 3)
    return build, [build.load(pointer(build, at, 8 * n, I64)) for n in range(count)], first, last


def _along(build: Any, address: Any, place: Any, step: Any) -> Any:
    """The address of a place of what lies `step` bytes apart."""
    return build.add(address, build.mul(place, number(step) if isinstance(step, int) else step))


def _load(build: Any, address: Any, kind: Any, count: int) -> Any:
    """A vector of what stands from there on."""
    bits = 32 if kind is F32 else kind.width
    return build.load(pointer(build, address, 0, _lanes(kind, count)), align=bits // 8)


def _store(build: Any, value: Any, address: Any) -> None:
    kind = value.type.element
    bits = 32 if kind is F32 else kind.width
    build.store(value, pointer(build, address, 0, value.type), align=bits // 8)


def _picked(build: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """Those lanes of a and then b, one behind the other."""
    return build.shuffle_vector(a, b, ir.Constant(_lanes(I32, len(lanes)), list(lanes)))


def _joined(build: Any, a: Any, b: Any) -> Any:
    return _picked(build, a, b, range(a.type.count + b.type.count))


def _part(build: Any, value: Any, first: int, count: int) -> Any:
    return _picked(build, value, value, range(first, first + count))


def _lane(build: Any, value: Any, lane: int) -> Any:
    return build.extract_element(value, ir.Constant(I32, lane))


def _vector(build: Any, values: Sequence[Any]) -> Any:
    """A vector of these numbers."""
    out: Any = ir.Constant(_lanes(values[0].type, len(values)), ir.Undefined)
    for lane, value in enumerate(values):
        out = build.insert_element(out, value, ir.Constant(I32, lane))
    return out


def _real(build: Any, whole: Any) -> Any:
    """Integers as float32."""
    count = whole.type.count
    if whole.type.element is not I32:
        extended = build.zext if whole.type.element is I8 else build.sext
        whole = extended(whole, _lanes(I32, count))
    return build.sitofp(whole, _lanes(F32, count))


def _signed_as(build: Any, magnitude: Any, like: Any) -> Any:
    """A float vector's magnitudes with another one's signs."""
    kind = ir.FunctionType(like.type, [like.type] * 2)
    of = build.module.declare_intrinsic(f"llvm.copysign.v{like.type.count}f32", (), kind)
    return build.call(of, [magnitude, like])


# --- Tiles --------------------------------------------------------------------------------------------------


def _tiles(
    build: Any, first: Any, last: Any, channels: Any, of_channels: Callable[[Any], Any], tile: Tile
) -> None:
    """Positions first..last of all channels. of_channels: what 4 channels from one on have."""
    with loop(build, first, last, TOGETHER) as begin:
        end = least(build, build.add(begin, number(TOGETHER)), last)
        eights = build.and_(build.sub(end, begin), number(-LANES))
        left = build.add(begin, eights)
        with loop(build, number(0), channels, CHANNELS) as channel:
            they_have = of_channels(channel)
            with loop(build, begin, left, LANES) as position:
                tile(channel, position, LANES, they_have)
            with loop(build, left, end) as position:
                tile(channel, position, 1, they_have)


def _by_position(build: Any, columns: Sequence[Any]) -> list[Any]:
    """A tile's 4 channels, vectors of 8 positions, as vectors of 4 channels at positions 0 and 1, 2 and 3,
    .. . Of a single position: a vector of its 4 channels."""
    if columns[0].type.count == 1:
        return [_vector(build, [_lane(build, each, 0) for each in columns])]
    a, b, c, d = columns
    out = []
    for half in (0, 4):
        pairs = [half + n // 2 + LANES * (n % 2) for n in range(LANES)]
        ab, cd = _picked(build, a, b, pairs), _picked(build, c, d, pairs)
        out += [
            _picked(build, ab, cd, (n, n + 1, n + 8, n + 9, n + 2, n + 3, n + 10, n + 11)) for n in (0, 4)
        ]
    return out


def _by_channel(build: Any, rows: Sequence[Any]) -> list[Any]:
    """A tile's vectors of 4 channels at positions 0 and 4, 1 and 5, .. as 4 channels, vectors of 8 positions.
    Of a single position: vectors of one."""
    if len(rows) == 1:
        return [_part(build, rows[0], channel, 1) for channel in range(CHANNELS)]
    a, b, c, d = rows
    out = []
    for half in (0, 2):
        pairs = [half + n for n in (0, 8, 1, 9, 4, 12, 5, 13)]
        ab, cd = _picked(build, a, b, pairs), _picked(build, c, d, pairs)
        out += [_picked(build, ab, cd, [n + k for k in (0, 1, 8, 9, 4, 5, 12, 13)]) for n in (0, 2)]
    return out


def _all_rows(build: Any, count: int, row: Callable[[int], Any], apart: int) -> list[Any]:
    """A tile's vectors of 4 channels: of positions n and n + apart, those of `_by_position` (1) or of
    `_by_channel` (4), or of a single position."""
    if count == 1:
        return [row(0)]
    firsts = [n for n in range(LANES) if not n & apart]
    return [_joined(build, row(n), row(n + apart)) for n in firsts]


def _rows_from(build: Any, at: Any, row: Any, kind: Any) -> Callable[[int], Any]:
    """4 channels of rows from an address on."""
    return lambda n: _load(build, _along(build, at, number(n), row), kind, CHANNELS)


def _for_rows(build: Any, of_channels: Any, count: int) -> Any:
    """What 4 channels have, for the vectors of a tile of so many positions."""
    return of_channels if count == 1 else _joined(build, of_channels, of_channels)


def _floats_of(build: Any, *addresses: Any) -> Callable[[Any], list[Any]]:
    """What 4 channels have of each array float32 [channels]."""
    return lambda channel: [
        _load(build, _along(build, each, channel, 4), F32, CHANNELS) for each in addresses
    ]


# --- Between symbols by channel and rows by position --------------------------------------------------------


def _define_magnitudes(module: Any) -> None:
    """Positions first..last. Arguments: the addresses of symbols int16 [channels, n] and of the table int16
    [256], that of rows int16 [n, .. channels] and the bytes to the next row; channels, n."""
    build, (symbols, table, out, out_row, channels, n), first, last = _job(module, "magnitudes", 6)
    column = build.shl(n, number(1))

    def looked_up(of: Any) -> Any:
        at = build.add(table, build.shl(build.zext(of, I64), number(1)))
        return build.load(pointer(build, at, 0, I16), align=2)

    def tile(channel: Any, position: Any, count: int, _: Any) -> None:
        at = build.add(_along(build, symbols, channel, column), build.shl(position, number(1)))
        kind, columns = _lanes(I16, count), []
        for which in range(CHANNELS):
            each = _load(build, _along(build, at, number(which), column), I16, count)
            zero, most = every_lane(kind, 0), every_lane(kind, 255)
            each = build.select(build.icmp_signed("<", each, zero), build.sub(zero, each), each)
            columns.append(build.select(build.icmp_unsigned("<", each, most), each, most))
        target = build.add(_along(build, out, position, out_row), build.shl(channel, number(1)))
        for lane in range(count):
            found = _vector(build, [looked_up(_lane(build, each, lane)) for each in columns])
            _store(build, found, _along(build, target, number(lane), out_row))

    _tiles(build, first, last, channels, lambda _: None, tile)
    build.ret_void()


def _define_indices(module: Any) -> None:
    """Positions first..last. Arguments: the address of rows int16 [n, .. channels] and the bytes to the next
    one, the addresses of int32 [channels] first tables and of uint8 [channels, n]; channels, n."""
    build, (rows, row_bytes, first_table, out, channels, n), first, last = _job(module, "indices", 6)

    def of_channels(channel: Any) -> tuple[Any, Any]:
        tables = _load(build, _along(build, first_table, channel, 4), I32, CHANNELS)
        none = build.icmp_signed("<", tables, every_lane(tables.type, 0))
        kind = _lanes(I16, CHANNELS)
        return build.trunc(tables, kind), build.sext(none, kind)

    def tile(channel: Any, position: Any, count: int, they_have: tuple[Any, Any]) -> None:
        at = build.add(_along(build, rows, position, row_bytes), build.shl(channel, number(1)))
        tables, none = (_for_rows(build, each, count) for each in they_have)
        zero = every_lane(tables.type, 0)
        found = []
        for scale in _all_rows(build, count, _rows_from(build, at, row_bytes, I16), 4):
            nothing = build.or_(none, build.sext(build.icmp_signed("==", scale, zero), none.type))
            found.append(build.or_(build.add(scale, tables), nothing))
        target = build.add(_along(build, out, channel, n), position)
        for which, each in enumerate(_by_channel(build, found)):
            low = build.trunc(each, _lanes(I8, count))
            _store(build, low, _along(build, target, number(which), n))

    _tiles(build, first, last, channels, of_channels, tile)
    build.ret_void()


def _define_settle(module: Any) -> None:
    """Positions first..last. Arguments: the address of means float32 [n, .. channels] and the bytes to the
    next row, that of symbols int16, the bytes to their next channel and position, the address of float32
    [channels] symbols per unit; that of the targets and their number; channels. Of a target, int64 each: its
    address, that of int64 [n] bytes from there to each position, and that of float32 [channels] steps per
    unit."""
    build, given, first, last = _job(module, "settle", 9)
    means, means_row, symbols, symbols_row, symbols_step, per, targets, target_count, channels = given

    def tile(channel: Any, position: Any, count: int, they_have: list[Any]) -> None:
        at = build.add(_along(build, symbols, channel, symbols_row), build.mul(position, symbols_step))
        columns = [
            _load(build, _along(build, at, number(c), symbols_row), I16, count) for c in range(CHANNELS)
        ]
        mean_at = build.add(_along(build, means, position, means_row), build.shl(channel, number(2)))
        mean = _all_rows(build, count, _rows_from(build, mean_at, means_row, F32), 1)
        divisor = _for_rows(build, they_have[0], count)
        values = [
            build.fadd(a, build.fdiv(_real(build, q), divisor))
            for a, q in zip(mean, _by_position(build, columns), strict=True)
        ]
        with loop(build, number(0), target_count) as target:
            of_target = _along(build, targets, target, 24)
            base, offsets, factors = (build.load(pointer(build, of_target, 8 * k, I64)) for k in range(3))
            factor = _load(build, _along(build, factors, channel, 4), F32, CHANNELS)
            factor = _for_rows(build, factor, count)
            base = build.add(base, build.shl(channel, number(1)))
            offsets = _along(build, offsets, position, 8)
            steps = [in_steps(build, build.fmul(value, factor)) for value in values]
            for n in range(count):
                offset = build.load(pointer(build, offsets, 8 * n, I64))
                own = _part(build, steps[n // 2], CHANNELS * (n % 2), CHANNELS)
                _store(build, own, build.add(base, offset))

    _tiles(build, first, last, channels, _floats_of(build, per), tile)
    build.ret_void()


def _define_choose(module: Any) -> None:
    """Positions first..last. Arguments: the address of values, that of int64 [n] bytes from there to each
    position's, float32 [channels] one behind the other; that of means float32 [n, .. channels] and the bytes
    to the next row; the addresses of float32 [channels] symbols per unit, of uint8 [channels, n] table
    indices, of float32 [channels] bits that a symbol's error is worth, of float32 [256, 257] what the next
    smaller magnitude saves, and of int16 [channels, n]; channels, n."""
    build, given, first, last = _job(module, "choose", 11)
    values, offsets, means, means_row, per, index, worth, savings, out, channels, n = given

    def symbols(value: Any, table: Any, error: Any) -> Any:
        """See `checkerboard_layout.choose_symbols`."""
        count = value.type.count
        kind = _lanes(I32, count)

        def real(constant: float) -> Any:
            return every_lane(value.type, constant)

        magnitude = each_lane(build, "fabs", value)
        large = build.fcmp_ordered(">", magnitude, real(0.5))
        most = real(float(SYMBOL_MAX))
        magnitude = build.select(build.fcmp_ordered("<", magnitude, most), magnitude, most)
        nearest = each_lane(build, "rint", magnitude)
        beyond = real(float(SAVINGS - 1))
        known = build.select(build.fcmp_ordered("<", nearest, beyond), nearest, beyond)
        place = build.add(build.mul(table, every_lane(kind, SAVINGS)), build.fptosi(known, kind))
        saved = []
        for lane in range(count):
            at = _along(build, savings, build.zext(_lane(build, place, lane), I64), 4)
            saved.append(build.load(pointer(build, at, 0, F32), align=4))
        more = build.fadd(build.fmul(real(2.0), build.fsub(magnitude, nearest)), real(1.0))
        smaller = build.fcmp_ordered(">", _vector(build, saved), build.fmul(error, more))
        whole = build.add(build.fptosi(nearest, kind), build.sext(smaller, kind))
        coded = build.icmp_signed("!=", table, every_lane(kind, NOT_CODED))
        whole = build.select(build.and_(large, coded), whole, every_lane(kind, 0))
        negative = build.fcmp_ordered("<", value, real(0.0))
        signed = build.select(negative, build.sub(every_lane(kind, 0), whole), whole)
        return build.trunc(signed, _lanes(I16, count))

    def tile(channel: Any, position: Any, count: int, they_have: list[Any]) -> None:
        factor = _for_rows(build, they_have[0], count)
        first_value = build.add(values, build.shl(channel, number(2)))
        offset_at = _along(build, offsets, position, 8)
        mean_at = build.add(_along(build, means, position, means_row), build.shl(channel, number(2)))

        def value(n: int) -> Any:
            offset = build.load(pointer(build, offset_at, 8 * n, I64))
            return _load(build, build.add(first_value, offset), F32, CHANNELS)

        mean = _all_rows(build, count, _rows_from(build, mean_at, means_row, F32), 4)
        rows = [
            build.fsub(a, build.fmul(b, factor))
            for a, b in zip(_all_rows(build, count, value, 4), mean, strict=True)
        ]
        from_start = build.add(build.mul(channel, n), position)
        index_at, out_at = build.add(index, from_start), build.add(out, build.shl(from_start, number(1)))
        twice = build.shl(n, number(1))
        for which, column in enumerate(_by_channel(build, rows)):
            table = _load(build, _along(build, index_at, number(which), n), I8, count)
            error = _picked(build, they_have[1], they_have[1], [which] * count)
            made = symbols(column, build.zext(table, _lanes(I32, count)), error)
            _store(build, made, _along(build, out_at, number(which), twice))

    _tiles(build, first, last, channels, _floats_of(build, per, worth), tile)
    build.ret_void()


# --- Pixels and blocks of 4x4 -------------------------------------------------------------------------------


def _lines(build: Any, corner: Any, row: Any) -> list[tuple[Any, int]]:
    """Where the 48 bytes of a block stand, 12 in each of 4 rows: addresses and how many from there on."""
    out = []
    for line in range(4):
        at = _along(build, corner, number(line), row)
        sizes = (8, 4) if line % 2 == 0 else (4, 8)
        out += [(at, sizes[0]), (build.add(at, number(sizes[0])), sizes[1])]
    return out


def _define_to_steps(module: Any, name: str, lacking: bool) -> None:
    """Rows first..last of blocks. Arguments: the address of pixels uint8 [.., .., 3] and the bytes to their
    next row, the address of float32 [48] steps per unit, that of int16 [48] of the first block, the bytes to
    the next row and column of blocks; columns. Of what is `lacking` where int16 blocks are shown, theirs:
    address, bytes to the next row and column."""
    build, given, first, last = _job(module, name, 10 if lacking else 7)
    planes, row, factors, out, out_row, out_step, columns, *shown = given
    vectors = range(QUARTER // LANES)
    per = [_load(build, build.add(factors, number(32 * n)), F32, LANES) for n in vectors]
    most, half = (every_lane(_lanes(F32, LANES), value) for value in (255.0, 0.5))
    with loop(build, first, last) as line, loop(build, number(0), columns) as column:
        corner = _along(build, _along(build, planes, build.shl(line, number(2)), row), column, 12)
        target = _along(build, _along(build, out, line, out_row), column, out_step)
        parts = [_load(build, at, I8, count) for at, count in _lines(build, corner, row)]
        for which, pixels in enumerate(_in_eights(build, parts)):
            value = build.fsub(build.fdiv(_real(build, pixels), most), half)
            if lacking:
                base, shown_row, shown_step = shown
                block = _along(build, _along(build, base, line, shown_row), column, shown_step)
                value = build.fsub(value, _shown(build, block, which))
            steps = in_steps(build, build.fmul(value, per[which]))
            _store(build, steps, build.add(target, number(2 * LANES * which)))
    build.ret_void()


def _shown(build: Any, block: Any, which: int) -> Any:
    """8 values of a block that stand there in steps of SHOWN_STEP."""
    steps = _load(build, build.add(block, number(2 * LANES * which)), I16, LANES)
    real = build.sitofp(build.sext(steps, _lanes(I32, LANES)), _lanes(F32, LANES))
    return build.fmul(real, every_lane(real.type, SHOWN_STEP))


def _in_eights(build: Any, parts: Sequence[Any]) -> list[Any]:
    """Vectors of 8, 4, 4 and 8, and so on, as vectors of 8."""
    out = []
    for n in range(0, len(parts), 4):
        a, b, c, d = parts[n : n + 4]
        out += [a, _joined(build, b, c), d]
    return out


def _define_pixels(module: Any) -> None:
    """Rows first..last of blocks. Arguments: the address of int16 [48] of the first block, the bytes to the
    next row and column of blocks, the address of pixels uint8 [.., .., 3] and the bytes to their next row;
    columns."""
    build, given, first, last = _job(module, "pixels", 6)
    shown, shown_row, shown_step, planes, row, columns = given
    real, bytes_of = _lanes(F32, LANES), _lanes(I8, LANES)
    with loop(build, first, last) as line, loop(build, number(0), columns) as column:
        block = _along(build, _along(build, shown, line, shown_row), column, shown_step)
        corner = _along(build, _along(build, planes, build.shl(line, number(2)), row), column, 12)
        made = []
        for which in range(QUARTER // LANES):
            value = _shown(build, block, which)
            value = build.fadd(build.fmul(value, every_lane(real, 255.0)), every_lane(real, 128.0))
            whole = build.fptosi(between(build, value, 0.0, 255.0), _lanes(I32, LANES))
            made.append(build.trunc(whole, bytes_of))
        parts = []
        for n in range(0, len(made), 3):
            a, b, c = made[n : n + 3]
            parts += [a, _part(build, b, 0, 4), _part(build, b, 4, 4), c]
        for value, (at, _) in zip(parts, _lines(build, corner, row), strict=True):
            _store(build, value, at)
    build.ret_void()


# --- Rows of latents ----------------------------------------------------------------------------------------


def _row(build: Any, channels: Any, some: Callable[[Any, int], None]) -> None:
    """All channels of a row, multiples of 4; some: (the first of so many, how many)."""
    eights = build.and_(channels, number(-LANES))
    with loop(build, number(0), eights, LANES) as channel:
        some(channel, LANES)
    with loop(build, eights, channels, CHANNELS) as channel:
        some(channel, CHANNELS)


def _large_enough(build: Any, value: Any) -> Any:
    """Zero where a symbol is nearly that."""
    bound, zero = (every_lane(value.type, each) for each in (NEARLY_ZERO, 0.0))
    return build.select(build.fcmp_ordered(">", each_lane(build, "fabs", value), bound), value, zero)


def _define_kept(module: Any) -> None:
    """Rows first..last. Arguments: the address of float32 [rows, channels], those of float32 [channels] and
    of int16 [rows, channels], and of another two; channels."""
    build, (s, factors, out, more_factors, more_out, channels), first, last = _job(module, "kept", 6)
    with loop(build, first, last) as row:
        before = build.mul(row, channels)

        def some(channel: Any, count: int, before: Any = before) -> None:
            place = build.add(before, channel)
            value = _large_enough(build, _load(build, _along(build, s, place, 4), F32, count))
            for per, to in ((factors, out), (more_factors, more_out)):
                factor = _load(build, _along(build, per, channel, 4), F32, count)
                _store(build, in_steps(build, build.fmul(value, factor)), _along(build, to, place, 2))

        _row(build, channels, some)
    build.ret_void()


def _define_refined(module: Any) -> None:
    """Rows first..last of positions. Arguments: the address of float32 [rows, width, channels], that of what
    was found, float32 [.., .., channels], the bytes to its next row and column, the addresses of float32
    [channels] that it is multiplied by, of float32 [channels] steps and of float32 [rows, width, channels];
    width, channels."""
    build, given, first, last = _job(module, "refined", 9)
    s, found, found_row, found_step, inverse, step, out, width, channels = given
    with loop(build, first, last) as row, loop(build, number(0), width) as column:
        before = build.mul(build.add(build.mul(row, width), column), channels)
        found_here = _along(build, _along(build, found, row, found_row), column, found_step)

        def some(channel: Any, count: int, before: Any = before, found_here: Any = found_here) -> None:
            place = build.add(before, channel)
            value = _load(build, _along(build, s, place, 4), F32, count)
            lacking, per, part = (
                _load(build, _along(build, each, channel, 4), F32, count)
                for each in (found_here, inverse, step)
            )
            wished = build.fadd(_large_enough(build, value), build.fmul(lacking, per))
            moved = build.fadd(value, build.fmul(part, build.fsub(wished, value)))
            _store(build, moved, _along(build, out, place, 4))

        _row(build, channels, some)
    build.ret_void()


def _define_expected(module: Any) -> None:
    """Positions first..last. Arguments: the address of int64 [n] bytes to each position, of those from which
    they count in float32 [.., channels] symbols before rounding; that of means float32 [n, .. channels] and
    the bytes to the next row; those of uint8 [.., channels] table indices, from which a quarter as many bytes
    count, of float32 [256, 257] what the next smaller magnitude saves, of float32 [channels] symbols per
    unit, what a symbol's variance costs, and one over the curvature; that of the targets and their number, as
    of `settle`; of float32 [.., channels], from which as many bytes count, the rise of the expectation and
    the slope of its price; the bits of float32 steepness; channels."""
    build, given, first, last = _job(module, "expected", 15)
    offsets, s, means, means_row, index, savings, units, variance, flat, *rest = given
    targets, target_count, rise, slope, steepness, channels = rest
    steepness = build.bitcast(build.trunc(steepness, I32), F32)
    with loop(build, first, last) as position:
        offset = build.load(pointer(build, _along(build, offsets, position, 8), 0, I64))
        s_here, rise_here, slope_here = (build.add(each, offset) for each in (s, rise, slope))
        index_here = build.add(index, build.lshr(offset, number(2)))
        means_here = _along(build, means, position, means_row)

        def some(
            channel: Any,
            count: int,
            position: Any = position,
            s_here: Any = s_here,
            rise_here: Any = rise_here,
            slope_here: Any = slope_here,
            index_here: Any = index_here,
            means_here: Any = means_here,
        ) -> None:
            real, whole = _lanes(F32, count), _lanes(I32, count)
            zero, one = every_lane(real, 0.0), every_lane(real, 1.0)
            mean, value, per, spread, per_curve = (
                _load(build, _along(build, each, channel, 4), F32, count)
                for each in (means_here, s_here, units, variance, flat)
            )
            value = build.fsub(value, build.fmul(mean, per))
            low = each_lane(build, "floor", between(build, value, -float(SYMBOL_MAX), float(SYMBOL_MAX)))
            table = _load(build, build.add(index_here, channel), I8, count)
            coded = build.icmp_signed("!=", table, every_lane(table.type, NOT_CODED - 256))

            half = every_lane(real, 0.5)
            along = build.fsub(build.fsub(value, low), half)
            steep = _vector(build, [steepness] * count)
            along = build.fadd(half, build.fmul(along, steep))
            along = between(build, along, 0.0, 1.0)
            left = build.fsub(one, along)
            squared = build.fmul(along, along)
            p = build.fmul(squared, build.fadd(one, build.fadd(left, left)))
            rising = build.fmul(build.fmul(along, left), build.fmul(steep, every_lane(real, 6.0)))
            rising = build.select(coded, rising, zero)

            upward = build.fcmp_ordered(">=", low, zero)
            magnitude = build.select(upward, build.fadd(low, one), build.fsub(zero, low))
            magnitude = between(build, magnitude, 0.0, float(SAVINGS - 1))
            at = build.fptosi(magnitude, whole)
            of_table = build.mul(build.zext(table, whole), every_lane(whole, SAVINGS))
            at = build.add(at, of_table)
            saved = []
            for lane in range(count):
                which = build.zext(_lane(build, at, lane), I64)
                saved.append(build.load(pointer(build, _along(build, savings, which, 4), 0, F32), align=4))
            more = _vector(build, saved)
            more = build.select(upward, more, build.fsub(zero, more))
            more = build.fadd(more, build.fmul(spread, build.fsub(one, build.fadd(p, p))))
            _store(build, rising, _along(build, rise_here, channel, 4))
            price = build.fmul(build.fmul(more, rising), per_curve)
            _store(build, price, _along(build, slope_here, channel, 4))
            symbol = build.select(coded, build.fadd(low, p), zero)
            value = build.fadd(mean, build.fdiv(symbol, per))
            with loop(build, number(0), target_count) as target:
                of_target = _along(build, targets, target, 24)
                base, there, factors = (build.load(pointer(build, of_target, 8 * k, I64)) for k in range(3))
                factor = _load(build, _along(build, factors, channel, 4), F32, count)
                place = build.load(pointer(build, _along(build, there, position, 8), 0, I64))
                to = _along(build, build.add(base, place), channel, 2)
                _store(build, in_steps(build, build.fmul(value, factor)), to)

        _row(build, channels, some)
    build.ret_void()


def _define_returned(module: Any) -> None:
    """Positions first..last. Arguments: the address of int64 [n] bytes to each position, of those from which
    they count in float32 [.., channels] what is lacking, the rise of expectations and the slope of prices;
    those of int16 [.., channels] what else lacks, each followed by that of int64 [n] bytes to each position,
    twice; of float32 [channels] what it counts, steps per unit of what lacks and of prices; the address of
    rows int16 [n, .. channels] and the bytes to the next one; channels."""
    build, given, first, last = _job(module, "returned", 14)
    offsets, lacking, rise, slope, back, back_at, own, own_at, counts, steps, prices, *rest = given
    out, out_row, channels = rest
    with loop(build, first, last) as position:
        here, back_here, own_here = (
            build.load(pointer(build, _along(build, each, position, 8), 0, I64))
            for each in (offsets, back_at, own_at)
        )
        lacking_here, rise_here, slope_here = (build.add(each, here) for each in (lacking, rise, slope))
        back_here, own_here = build.add(back, back_here), build.add(own, own_here)
        row = _along(build, out, position, out_row)

        def some(
            channel: Any,
            count: int,
            lacking_here: Any = lacking_here,
            rise_here: Any = rise_here,
            slope_here: Any = slope_here,
            more: tuple[Any, Any] = (back_here, own_here),
            row: Any = row,
        ) -> None:
            value, rising, price, counting, per, per_price = (
                _load(build, _along(build, each, channel, 4), F32, count)
                for each in (lacking_here, rise_here, slope_here, counts, steps, prices)
            )
            a, b = (_real(build, _load(build, _along(build, each, channel, 2), I16, count)) for each in more)
            value = build.fadd(value, build.fmul(build.fadd(a, b), counting))
            _store(build, value, _along(build, lacking_here, channel, 4))
            rest = build.fsub(every_lane(value.type, 1.0), rising)
            value = build.fadd(build.fmul(build.fmul(value, rest), per), build.fmul(price, per_price))
            _store(build, in_steps(build, value), _along(build, row, channel, 2))

        _row(build, channels, some)
    build.ret_void()


def _define_moved(module: Any) -> None:
    """Rows first..last of positions. Arguments: the address of float32 [rows, width, channels], that of what
    was found, float32 [.., .., channels], the bytes to its next row and column, the addresses of float32
    [channels] that it is multiplied by, of float32 [rows, width, channels] rise and slope, the bits of
    float32 farthest and reach, and the address of float32 [rows, width, channels]; width, channels."""
    build, given, first, last = _job(module, "moved", 12)
    s, found, found_row, found_step, inverse, rise, slope, farthest, reach, out, width, channels = given
    far, part = (build.bitcast(build.trunc(each, I32), F32) for each in (farthest, reach))
    with loop(build, first, last) as row, loop(build, number(0), width) as column:
        before = build.mul(build.add(build.mul(row, width), column), channels)
        found_here = _along(build, _along(build, found, row, found_row), column, found_step)

        def some(channel: Any, count: int, before: Any = before, found_here: Any = found_here) -> None:
            place = build.add(before, channel)
            value, rising, price = (
                _load(build, _along(build, each, place, 4), F32, count) for each in (s, rise, slope)
            )
            lacking, per = (
                _load(build, _along(build, each, channel, 4), F32, count) for each in (found_here, inverse)
            )
            most, share = (_vector(build, [each] * count) for each in (far, part))
            way = build.fsub(build.fmul(rising, build.fmul(lacking, per)), price)
            least_way = build.fneg(most)
            way = build.select(build.fcmp_ordered("<", way, most), way, most)
            way = build.select(build.fcmp_ordered(">", way, least_way), way, least_way)
            _store(build, build.fadd(value, build.fmul(share, way)), _along(build, out, place, 4))

        _row(build, channels, some)
    build.ret_void()


def _logarithm(build: Any, x: Any) -> Any:
    """Of 1 and more, to 1e-7: 2^e m with m around 1, of which the series of 2 atanh((m - 1) / (m + 1))."""
    real, whole = x.type, _lanes(I32, x.type.count)
    bits, shift = build.bitcast(x, whole), every_lane(whole, MANTISSA_BITS)
    exponent = build.ashr(build.sub(bits, every_lane(whole, ROOT_OF_HALF)), shift)
    m = build.bitcast(build.sub(bits, build.shl(exponent, shift)), real)
    one = every_lane(real, 1.0)
    s = build.fdiv(build.fsub(m, one), build.fadd(m, one))
    squared, twice = build.fmul(s, s), build.fadd(s, s)
    series = every_lane(real, 1 / 9)
    for odd in (7, 5, 3):
        series = build.fadd(build.fmul(series, squared), every_lane(real, 1 / odd))
    of_m = build.fadd(twice, build.fmul(twice, build.fmul(series, squared)))
    return build.fadd(build.fmul(_real(build, exponent), every_lane(real, LN_2)), of_m)


def _define_asinh_in_steps(module: Any) -> None:
    """Rows first..last. Arguments: the addresses of float32 [rows, channels], of float32 [channels] steps per
    unit and of int16 [rows, channels]; channels."""
    build, (y, factors, out, channels), first, last = _job(module, "asinh_in_steps", 4)
    with loop(build, first, last) as row:
        before = build.mul(row, channels)

        def some(channel: Any, count: int, before: Any = before) -> None:
            place = build.add(before, channel)
            value = _load(build, _along(build, y, place, 4), F32, count)
            factor = _load(build, _along(build, factors, channel, 4), F32, count)
            root = each_lane(build, "sqrt", build.fadd(build.fmul(value, value), every_lane(value.type, 1.0)))
            level = _logarithm(build, build.fadd(each_lane(build, "fabs", value), root))
            steps = in_steps(build, build.fmul(_signed_as(build, level, value), factor))
            _store(build, steps, _along(build, out, place, 2))

        _row(build, channels, some)
    build.ret_void()

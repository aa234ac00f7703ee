"""The loops of `coder` in the compiler's intermediate language; `coder_compiled` runs them.

    collect  which positions of a pass are coded, and how often each table is
    gather   values of positions in decoding order: by table, then by position
    scatter  the inverse
    pop      symbols of a pass, in decoding order
    choose   entries of a pass's symbols in their tables
    push     a pass onto the coder, last symbol first

Addresses and lengths are the caller's; with them, whatever bytes, words and table indices there are, no loop
reads or writes anything else, and none takes more steps than its lengths say.

Of an entry of a table loops know the interval of 2^24 that it has in the coder, and its number in the table:

    bits 0..23  where it begins     24..39  number     40..63  its length
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llvmlite import ir

from .tables import NOT_CODED

TOGETHER: Final = 8
"""Table indices that are looked at in one step: most positions of most passes are not coded."""
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WIDE = ir.IntType(128)


def module_text() -> str:
    """The module that holds them all."""
    module = ir.Module("coder")
    _define_collect(module)
    _define_move(module, "gather")
    _define_move(module, "scatter")
    _define_pop(module)
    _define_choose(module)
    _define_push(module)
    return str(module)


# --- Building blocks ----------------------------------------------------------------------------------------


def _number(value: int, kind: Any = _I64) -> Any:
    return ir.Constant(kind, value)


def _function(module: Any, name: str, count: int) -> tuple[Any, list[Any]]:
    """Of `count` arguments and one result, all int64."""
    of = ir.Function(module, ir.FunctionType(_I64, [_I64] * count), name)
    return ir.IRBuilder(of.append_basic_block("entry")), list(of.args)


def _at(build: Any, address: Any, place: Any, kind: Any) -> Any:
    """The pointer to a place of an array of integers."""
    size = _number((kind.width // 8).bit_length() - 1)
    return build.inttoptr(build.add(address, build.shl(place, size)), kind.as_pointer())


def _load(build: Any, address: Any, place: Any, kind: Any) -> Any:
    return build.load(_at(build, address, place, kind), align=kind.width // 8)


def _unsigned(build: Any, address: Any, place: Any, kind: Any) -> Any:
    """An element as int64."""
    return build.zext(_load(build, address, place, kind), _I64)


def _store(build: Any, value: Any, address: Any, place: Any) -> None:
    build.store(value, _at(build, address, place, value.type), align=value.type.width // 8)


@dataclass
class _Round:
    """One round of a loop: its number, and what goes from round to round. The body sets `carried` anew;
    afterwards it is what the last round left."""

    number: Any
    carried: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def _loop(build: Any, first: Any, last: Any, *carried: Any, step: int = 1) -> Iterator[_Round]:
    """The body of a loop over first, first + step, .. below last."""
    before = build.basic_block
    body, after = (build.append_basic_block(name) for name in ("body", "after"))
    build.cbranch(build.icmp_signed("<", first, last), body, after)
    build.position_at_end(body)
    number, *inside = (build.phi(each.type) for each in (first, *carried))
    made = _Round(number, list(inside))
    yield made
    following = build.add(number, _number(step))
    end = build.basic_block
    for phi, start, new in zip((number, *inside), (first, *carried), (following, *made.carried), strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(new, end)
    build.cbranch(build.icmp_signed("<", following, last), body, after)
    build.position_at_end(after)
    left = [build.phi(each.type) for each in carried]
    for phi, start, new in zip(left, carried, made.carried, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(new, end)
    made.carried = left


@contextlib.contextmanager
def _where(build: Any, condition: Any, otherwise: Sequence[Any]) -> Iterator[list[Any]]:
    """What rarely happens, under a condition; the list is of what it changes, and afterwards of either."""
    before = build.basic_block
    inside, after = (build.append_basic_block(name) for name in ("where", "joined"))
    build.cbranch(condition, inside, after).set_weights([1, 1000])
    build.position_at_end(inside)
    changed = list(otherwise)
    yield changed
    end = build.basic_block
    build.branch(after)
    build.position_at_end(after)
    for place, old in enumerate(otherwise):
        phi = build.phi(old.type)
        phi.add_incoming(old, before)
        phi.add_incoming(changed[place], end)
        changed[place] = phi


# --- Order --------------------------------------------------------------------------------------------------


def _define_collect(module: Any) -> None:
    """Coded positions of a pass, ascending. Returns how many there are.

    Arguments: the address of uint8 [n] index, n; that of uint8 [256, 8], which bits of a byte are set, lowest
    first, and then the others; those of uint32 [n] positions, which get anything behind what there is, and
    of uint8 [n] their tables; of int64 [256] zeros, which become the beginnings of the tables' groups in
    decoding order, and what there is.
    """
    build, (index, n, bits_set, positions, tables, sizes) = _function(module, "collect", 6)
    zero, one = _number(0), _number(1)
    whole = build.and_(n, _number(-TOGETHER))
    few, many = ir.VectorType(_I8, TOGETHER), ir.VectorType(_I32, TOGETHER)
    none = ir.Constant(few, [NOT_CODED] * TOGETHER)
    kind = ir.FunctionType(_I8, [_I8])
    ones = module.declare_intrinsic("llvm.ctpop.i8", (), kind)
    nothing, lanes = ir.Constant(many, ir.Undefined), ir.Constant(many, [0] * TOGETHER)
    with _loop(build, zero, whole, zero, step=TOGETHER) as each:
        (count,) = each.carried
        of = build.load(build.inttoptr(build.add(index, each.number), few.as_pointer()), align=1)
        coded = build.bitcast(build.icmp_unsigned("!=", of, none), _I8)
        row = build.shl(build.zext(coded, _I64), _number(3))
        which = build.load(build.inttoptr(build.add(bits_set, row), few.as_pointer()), align=1)
        first = build.insert_element(nothing, build.trunc(each.number, _I32), _number(0, _I32))
        found = build.add(build.zext(which, many), build.shuffle_vector(first, nothing, lanes))
        target = build.add(positions, build.shl(count, _number(2)))
        build.store(found, build.inttoptr(target, many.as_pointer()), align=4)
        each.carried = [build.add(count, build.zext(build.call(ones, [coded]), _I64))]
    with _loop(build, whole, n, each.carried[0]) as last:
        (count,) = last.carried
        _store(build, build.trunc(last.number, _I32), positions, count)
        there = build.icmp_unsigned("!=", _load(build, index, last.number, _I8), _number(NOT_CODED, _I8))
        last.carried = [build.add(count, build.zext(there, _I64))]
    (coded,) = last.carried
    with _loop(build, zero, coded) as each:
        table = _load(build, index, _unsigned(build, positions, each.number, _I32), _I8)
        _store(build, table, tables, each.number)
        size = build.zext(table, _I64)
        _store(build, build.add(_load(build, sizes, size, _I64), one), sizes, size)
    with _loop(build, zero, _number(NOT_CODED + 1), zero) as group:
        (begin,) = group.carried
        group.carried = [build.add(begin, _load(build, sizes, group.number, _I64))]
        _store(build, begin, sizes, group.number)
    build.ret(coded)


def _define_move(module: Any, name: str) -> None:
    """`gather` or `scatter`.

    Arguments: how many positions are coded, the addresses of them and of their tables as `collect` gives
    them; of int64 [256], where the next of each table stands in decoding order, which changes; of int16 [n]
    by position and of int16 [coded] in decoding order.
    """
    build, (coded, positions, tables, nexts, by_position, ordered) = _function(module, name, 6)
    with _loop(build, _number(0), coded) as each:
        table = _unsigned(build, tables, each.number, _I8)
        position = _unsigned(build, positions, each.number, _I32)
        place = _load(build, nexts, table, _I64)
        if name == "gather":
            _store(build, _load(build, by_position, position, _I16), ordered, place)
        else:
            _store(build, _load(build, ordered, place, _I16), by_position, position)
        _store(build, build.add(place, _number(1)), nexts, table)
    build.ret(coded)


# --- Decoding -----------------------------------------------------------------------------------------------


def _define_pop(module: Any) -> None:
    """Symbols of a pass. Returns how many of them are escapes.

    Arguments: the number of tables; the addresses of int64 [tables] first entries, of uint8 [tables] limits,
    of uint16 [..] all tables' frequencies; that of int64 [tables << bits] hints, the entries in which the
    parts of 2^24 begin, and bits; the addresses of int64 [2], the state and how many words are left, both
    changed, and of uint32 words; that of int64 [tables + 1] beginnings of groups; those of int16 [coded] for
    symbols, and of int64 [coded] for the places of escapes among them.
    """
    build, arguments = _function(module, "pop", 11)
    tables, firsts, limits, frequencies, hints, bits, coder, words, groups, ordered, escaped = arguments
    zero, one, low24, low32 = (_number(value) for value in (0, 1, 2**24 - 1, 2**32 - 1))
    shift = build.sub(_number(24), bits)
    part = build.sub(build.shl(one, bits), one)
    opened = [_load(build, coder, _number(place), _I64) for place in range(2)]
    with _loop(build, zero, tables, *opened, zero) as table:
        first, last = (_load(build, groups, build.add(table.number, _number(k)), _I64) for k in (0, 1))
        own = build.add(frequencies, build.shl(_load(build, firsts, table.number, _I64), one))
        hint = build.add(hints, build.shl(build.shl(table.number, bits), _number(3)))
        limit = _unsigned(build, limits, table.number, _I8)
        escape = build.add(build.shl(limit, one), one)
        with _loop(build, first, last, *table.carried) as symbol:
            state, left, count = symbol.carried
            entry = _load(build, hint, build.and_(build.lshr(state, shift), part), _I64)
            number, rest, length = _found(build, own, entry, build.and_(state, low24))
            state = build.add(build.mul(build.lshr(state, _number(24)), length), rest)
            small = build.icmp_unsigned("<=", state, low32)
            more = build.and_(small, build.icmp_signed(">", left, zero))
            with _where(build, more, [state, left]) as changed:
                fewer = build.sub(left, one)
                word = _unsigned(build, words, fewer, _I32)
                changed[:] = [build.or_(build.shl(state, _number(32)), word), fewer]
            _store(build, build.trunc(build.sub(number, limit), _I16), ordered, symbol.number)
            with _where(build, build.icmp_unsigned("==", number, escape), [count]) as counted:
                _store(build, symbol.number, escaped, count)
                counted[:] = [build.add(count, one)]
            symbol.carried = [*changed, *counted]
        table.carried = symbol.carried
    for place in range(2):
        _store(build, table.carried[place], coder, _number(place))
    build.ret(table.carried[2])


def _found(build: Any, frequencies: Any, hint: Any, value: Any) -> tuple[Any, Any, Any]:
    """Number of the entry whose interval a value is in, how far in, and the interval's length. Searched from
    the hint on; the last interval of a table ends at 2^24."""
    before = build.basic_block
    look, further, done = (build.append_basic_block(name) for name in ("look", "further", "found"))
    numbered = build.and_(build.lshr(hint, _number(24)), _number(65535))
    length_of = build.lshr(hint, _number(40))
    far = build.sub(value, build.and_(hint, _number(2**24 - 1)))
    build.branch(look)
    build.position_at_end(look)
    number, rest, length = (build.phi(_I64) for _ in range(3))
    build.cbranch(build.icmp_unsigned("<", rest, length), done, further)
    build.position_at_end(further)
    following, less = build.add(number, _number(1)), build.sub(rest, length)
    next_length = build.shl(_unsigned(build, frequencies, following, _I16), _number(8))
    build.branch(look)
    each = ((number, numbered, following), (rest, far, less), (length, length_of, next_length))
    for phi, start, new in each:
        phi.add_incoming(start, before)
        phi.add_incoming(new, further)
    build.position_at_end(done)
    return number, rest, length


# --- Encoding -----------------------------------------------------------------------------------------------


def _define_choose(module: Any) -> None:
    """Entries of a pass's symbols, among those of all tables. Returns how many of them are escapes.

    Arguments: the number of tables; the addresses of int64 [tables] first entries, of uint8 [tables] limits,
    of int64 [tables + 1] beginnings of groups, of int16 [coded] symbols in order; those of int32 [coded] for
    their entries, and of int64 [coded] for the places of escapes.
    """
    build, arguments = _function(module, "choose", 7)
    tables, firsts, limits, groups, ordered, entries, escaped = arguments
    zero, one = _number(0), _number(1)
    with _loop(build, zero, tables, zero) as table:
        first, last = (_load(build, groups, build.add(table.number, _number(k)), _I64) for k in (0, 1))
        own, limit = _load(build, firsts, table.number, _I64), _unsigned(build, limits, table.number, _I8)
        most = build.shl(limit, one)
        with _loop(build, first, last, *table.carried) as symbol:
            (count,) = symbol.carried
            value = build.sext(_load(build, ordered, symbol.number, _I16), _I64)
            code = build.add(value, limit)
            beyond = build.icmp_unsigned(">", code, most)  # negative ones are large too
            entry = build.add(own, build.select(beyond, build.add(most, one), code))
            _store(build, build.trunc(entry, _I32), entries, symbol.number)
            with _where(build, beyond, [count]) as changed:
                _store(build, symbol.number, escaped, count)
                changed[:] = [build.add(count, one)]
            symbol.carried = changed
        table.carried = symbol.carried
    build.ret(table.carried[0])


def _define_push(module: Any) -> None:
    """Entries of a pass onto the coder, the last one first. Returns how many words that gave.

    A quotient by 256 f is one by f of the upper bits: the upper half of a product with r = floor((2^64 - 1) /
    f), or one more. For x < 2^56, x / f - x r / 2^64 <= x / 2^64 < 1 / 256.

    Arguments: the addresses of int64 [..] what all tables' entries are and of uint64 [..] their reciprocals
    r; how many there are to push, and the address of them, int32; those of int64 [1], the state, which
    changes, and of uint32 [coded] for words.
    """
    build, (entries, reciprocals, coded, chosen, coder, words) = _function(module, "push", 6)
    zero, one, low8, low24 = (_number(value) for value in (0, 1, 255, 2**24 - 1))
    with _loop(build, zero, coded, _load(build, coder, zero, _I64), zero) as each:
        state, count = each.carried
        place = _unsigned(build, chosen, build.sub(build.sub(coded, one), each.number), _I32)
        entry = _load(build, entries, place, _I64)
        reciprocal = _load(build, reciprocals, place, _I64)
        start, length = build.and_(entry, low24), build.lshr(entry, _number(40))
        frequency = build.lshr(entry, _number(48))
        full = build.icmp_unsigned(">=", build.lshr(state, _number(40)), length)
        with _where(build, full, [state, count]) as changed:
            _store(build, build.trunc(state, _I32), words, count)
            changed[:] = [build.lshr(state, _number(32)), build.add(count, one)]
        state, count = changed
        upper = build.lshr(state, _number(8))
        product = build.mul(build.zext(upper, _WIDE), build.zext(reciprocal, _WIDE))
        quotient = build.trunc(build.lshr(product, _number(64, _WIDE)), _I64)
        remainder = build.sub(upper, build.mul(quotient, frequency))
        one_more = build.icmp_unsigned(">=", remainder, frequency)
        quotient = build.select(one_more, build.add(quotient, one), quotient)
        remainder = build.select(one_more, build.sub(remainder, frequency), remainder)
        inside = build.or_(build.shl(remainder, _number(8)), build.and_(state, low8))
        pushed = build.add(build.shl(quotient, _number(24)), build.add(start, inside))
        each.carried = [pushed, count]
    state, count = each.carried
    _store(build, state, coder, zero)
    build.ret(count)

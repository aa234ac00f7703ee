"""What definitions of loops in the compiler's intermediate language are built of. Imported where they must be
compiled, not where they run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from llvmlite import ir

from licodec.exact.fixed_point import LARGEST

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32: Final = ir.FloatType()


def number(value: int) -> Any:
    return ir.Constant(I64, value)


def every_lane(kind: Any, value: int | float) -> Any:
    """The vector of that kind that is the same constant everywhere."""
    return ir.Constant(kind, [value] * kind.count)


def splat(build: Any, value: Any, kind: Any) -> Any:
    """The vector of that kind that is the same value everywhere."""
    nothing = ir.Constant(kind, ir.Undefined)
    one = build.insert_element(nothing, value, ir.Constant(I32, 0))
    return build.shuffle_vector(one, nothing, every_lane(ir.VectorType(I32, kind.count), 0))


def pointer(build: Any, address: Any, offset: int, kind: Any) -> Any:
    return build.inttoptr(build.add(address, number(offset)), kind.as_pointer())


def least(build: Any, a: Any, b: Any) -> Any:
    return build.select(build.icmp_signed("<", a, b), a, b)


@contextlib.contextmanager
def loop(build: Any, first: Any, last: Any, step: int = 1) -> Iterator[Any]:
    """The body of a loop over first, first + step, .. below last."""
    before = build.basic_block
    body, after = (build.append_basic_block(name) for name in ("body", "after"))
    build.cbranch(build.icmp_signed("<", first, last), body, after)
    build.position_at_end(body)
    counted = build.phi(I64)
    counted.add_incoming(first, before)
    yield counted
    following = build.add(counted, number(step))
    counted.add_incoming(following, build.basic_block)
    build.cbranch(build.icmp_signed("<", following, last), body, after)
    build.position_at_end(after)


def function(module: Any, name: str, kinds: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Of arguments of these kinds, and no result."""
    of = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    build = ir.IRBuilder(of.append_basic_block("entry"))
    return build, list(of.args)


def each_lane(build: Any, name: str, value: Any) -> Any:
    """What the compiler's function of that name (rint, sqrt, fabs) makes of each lane of a float vector."""
    kind = ir.FunctionType(value.type, [value.type])
    of = build.module.declare_intrinsic(f"llvm.{name}.v{value.type.count}f32", (), kind)
    return build.call(of, [value])


def between(build: Any, value: Any, low: float, high: float) -> Any:
    """Each lane of a float vector, or the bound that it is beyond."""
    for order, bound in ((">", low), ("<", high)):
        limit = every_lane(value.type, bound)
        value = build.select(build.fcmp_ordered(order, value, limit), value, limit)
    return value


def in_steps(build: Any, real: Any) -> Any:
    """A float vector rounded and saturated to 16 bits."""
    rounded = each_lane(build, "rint", between(build, real, -float(LARGEST), float(LARGEST)))
    whole = build.fptosi(rounded, ir.VectorType(I32, real.type.count))
    return build.trunc(whole, ir.VectorType(I16, real.type.count))

"""Immutable records: frozen data classes without the cost of importing `dataclasses`.

Opening a picture needs this package and nothing else, and `dataclasses` (through `inspect`) costs more than
all the rest of it together. A type checker sees the real thing; at run time this module gives the part of it
that is used here, and `dataclasses.replace`, `fields` and `asdict` work on the records as on any other.
"""

from __future__ import annotations

__all__ = ["record"]

TYPE_CHECKING = (
    False  # type checkers take the name for true; importing it from typing would cost milliseconds
)
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as record
    from typing import Any
else:

    def record(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Class decorator: the annotated names become the fields of an immutable record with slots."""
        assert frozen and slots, "records are frozen and have slots"
        return _build


_LONGEST_BYTES_SHOWN = 24


class _Record:
    """What all records share; `_fields` and `_defaults` are filled in by `_build`."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _defaults: dict[str, object] = {}  # noqa: RUF012 (never changed after the class is built)

    def __init__(self, *values: object, **named: object) -> None:
        if len(values) > len(self._fields):
            raise TypeError(f"{type(self).__name__} has {len(self._fields)} fields, got {len(values)}")
        given = dict(zip(self._fields, values, strict=False))
        if twice := given.keys() & named.keys():
            raise TypeError(f"{type(self).__name__}: {', '.join(sorted(twice))} given twice")
        given = {**self._defaults, **given, **named}
        if given.keys() != set(self._fields):
            missing = [name for name in self._fields if name not in given]
            unknown = [name for name in given if name not in self._fields]
            raise TypeError(
                f"{type(self).__name__}: missing {missing or 'none'}, unknown {unknown or 'none'}"
            )
        for name in self._fields:
            object.__setattr__(self, name, given[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make another with dataclasses.replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        shown = (f"{name}={_show(value)}" for name, value in zip(self._fields, _values(self), strict=True))
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), _values(self)


def _values(item: Any) -> tuple[object, ...]:
    return tuple(getattr(item, name) for name in item._fields)


def _show(value: object) -> str:
    if isinstance(value, bytes) and len(value) > _LONGEST_BYTES_SHOWN:
        return f"<{len(value)} bytes>"
    return repr(value)


class _DataclassFields:
    """Answers `dataclasses.fields` and its kin, by importing `dataclasses` only when somebody asks."""

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        twin: Any = dataclasses.make_dataclass(owner.__name__, owner._fields)
        fields: dict[str, Any] = twin.__dataclass_fields__
        return fields


def _build(cls: Any) -> type:
    fields = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
    body = {
        name: value
        for name, value in cls.__dict__.items()
        if name not in defaults and name not in ("__dict__", "__weakref__")
    }
    body |= {
        "__slots__": fields,
        "_fields": fields,
        "_defaults": defaults,
        "__match_args__": fields,
        "__dataclass_fields__": _DataclassFields(),
    }
    return type(cls.__name__, (_Record,), body)

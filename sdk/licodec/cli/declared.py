"""Command line options from the table in `licodec.options`: same names, ranges and errors as in the SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click

from lic_format.errors import UsageError
from licodec.options import OPTIONS, Option, understood_by

Command = TypeVar("Command", bound=Callable[..., Any])

# `--device` has no short form: -d is distance in one peer's tool and depth in another's.
_SHORT = {"quality": "-q", "codec": "-c"}
_METAVAR = {"region": "X0,Y0,X1,Y1"}


class Declared(click.ParamType[Any]):
    """A value of a declared option."""

    def __init__(self, option: Option) -> None:
        self.option = option
        self.name = option.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            if isinstance(value, str):
                return self.option.read(value)
            return self.option.check(self.option.name, value)
        except UsageError as error:
            raise click.BadParameter(f"expected {self.option.expects}, got {value!r}", ctx, param) from error


class CommaList(click.ParamType[Any]):
    """Values of another type, separated by commas."""

    name = "list"

    def __init__(self, of: click.ParamType[Any]) -> None:
        self.of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(self.of.convert(part.strip(), param, ctx) for part in value.split(",") if part.strip())


def declared_options(direction: Literal["encode", "decode"]) -> Callable[[Command], Command]:
    """Give a command every option that the command line takes in this direction, in the table's order."""

    def add(command: Command) -> Command:
        for option in reversed(understood_by("cli", direction)):
            command = declared_option(option.name)(command)
        return command

    return add


def declared_option(name: str) -> Callable[[Command], Command]:
    """Give a command one option of the table."""
    option = OPTIONS[name]
    flags = [f"--{name.replace('_', '-')}", *([_SHORT[name]] if name in _SHORT else [])]
    if isinstance(option.default, bool):
        return click.option(*flags, name, is_flag=True, default=option.default, help=option.doc)
    return click.option(
        *flags,
        name,
        type=Declared(option),
        default=option.default,
        show_default=option.default is not None,
        metavar=_METAVAR.get(name, name.upper()),
        help=option.doc,
    )


def shared_options(command: Command) -> Command:
    """Give a command what all commands over many files have: -j, --json, --quiet."""
    for add in (
        click.option(
            "-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Files at a time."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file."),
        click.option("--quiet", is_flag=True, help="Print errors only."),
    ):
        command = add(command)
    return command

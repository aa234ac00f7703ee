"""The group of commands, and how what ends a command becomes one line on stderr and an exit status."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Final, TextIO

import click

from lic_format.errors import LicError, UsageError
from licodec.version import __version__

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


COMMANDS: Final = {
    "encode": "encode",
    "decode": "decode",
    "inspect": "inspect",
    "codecs": "codecs",
    "compare": "compare",
    "bench": "bench",
    "train": "train",
    "weights": "weights",
    "integrate": "integrate",
    "thumbnail": "integrate",
}
"""Modules of this package by command, in the order of the help."""


class Commands(click.Group):
    """Loads the module of the command that is called; of all of them for the help alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"licodec.cli.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="licodec")
def licodec() -> None:
    """Images in the .lic format, coded by learned codecs."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; nothing but a bug escapes as an exception."""
    warnings.showwarning = _show_warning
    try:
        status = licodec.main(args=list(arguments), prog_name="licodec", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        # A bare `licodec` is a question, not a mistake: the whole help, but the status of an incomplete
        # command.
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "licodec"
        return _say(f"{error.format_message()} (see {where} --help)", USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    except UsageError as error:
        return _say(str(error), USAGE)
    except (LicError, OSError) as error:
        return _say(str(error), FAILED)
    return int(status or OK)


def _say(message: str, status: int) -> int:
    click.echo(f"licodec: {' '.join(message.split())}", err=True)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Who reads a terminal has no use for the source line that Python would print.
    print(f"licodec: warning: {message}", file=file or sys.stderr)

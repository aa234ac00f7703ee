"""The group of commands, and how what ends a command becomes one line on stderr and an exit status."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import click

from lic_format.errors import LicError, UsageError
from licodec.cli.bench import bench
from licodec.cli.codecs import codecs
from licodec.cli.compare import compare
from licodec.cli.decode import decode
from licodec.cli.encode import encode
from licodec.cli.inspect import inspect
from licodec.cli.integrate import integrate, thumbnail
from licodec.cli.train import train
from licodec.cli.weights import weights
from licodec.version import __version__

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="licodec")
def licodec() -> None:
    """Images in the .lic format, coded by learned codecs."""


for _command in (encode, decode, inspect, codecs, compare, bench, train, weights, integrate, thumbnail):
    licodec.add_command(_command)


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

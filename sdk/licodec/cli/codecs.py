"""`licodec codecs`: the codecs of this version."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a codec.")
def codecs(as_json: bool) -> None:
    """List the codecs of this version, the default one first."""
    import licodec

    for info in licodec.list_codecs():
        click.echo(
            json.dumps(dataclasses.asdict(info)) if as_json else f"{info.token}  {info.title} ({info.tag})"
        )

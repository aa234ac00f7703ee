"""`licodec weights`: the networks that files were coded with; what is here, and how it gets from place to
place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from lic_format.errors import WeightsError


@click.group()
def weights() -> None:
    """List, fetch, verify and publish weights.

    NAME is CODEC/TAG, or the decode digest that `licodec inspect` prints.
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object each.")
def list_(as_json: bool) -> None:
    """List the weights that are known, or are on this machine."""
    from licodec import store
    from licodec.store import inventory

    here = list(inventory.copies())
    names = dict.fromkeys([*(entry.name for entry in store.known()), *(copy.name for copy in here)])
    for name in names:
        entry = next((entry for entry in store.known() if entry.name == name), None)
        report: dict[str, Any] = {
            "name": name,
            "decoder": entry.decoder if entry else None,
            "decode_digest": entry.ref.decode_digest.hex() if entry else None,
            "bytes": entry.size if entry else None,
            "here": [
                {"where": copy.where, "path": str(copy.path), "bytes": copy.path.stat().st_size}
                for copy in here
                if copy.name == name
            ],
            "hub": [str(place) for place in entry.hub] if entry else [],
        }
        click.echo(json.dumps(report) if as_json else _line(report))


def _line(report: dict[str, Any]) -> str:
    here = [f"{copy['where']} {copy['path']}{_apart(copy, report)}" for copy in report["here"]]
    places = here or report["hub"] or ["nowhere: not published yet"]
    known = f"{report['bytes']} bytes, {report['decode_digest']}" if report["bytes"] else "not in the table"
    if report["decoder"] not in (None, "fast"):
        known += f", for decoder {report['decoder']}"
    return f"{report['name']}  {known}\n  " + "\n  ".join(places)


def _apart(copy: dict[str, Any], report: dict[str, Any]) -> str:
    if report["bytes"] in (None, copy["bytes"]):
        return ""
    return f" ({copy['bytes']} bytes: not these; `licodec weights verify` tells more)"


@weights.command()
@click.argument("name", metavar="NAME")
def path(name: str) -> None:
    """Print where weights are on this machine; never fetches."""
    from licodec.store import inventory

    click.echo(inventory.path_of(inventory.named(name)))


@weights.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="All that are known and published.")
def fetch(names: tuple[str, ...], everything: bool) -> int:
    """Fetch weights that are not on this machine into the cache of the Hub's client, and print where they
    are. Meant for images of containers and for machines that will have no network.
    """
    from licodec import store
    from licodec.store import inventory

    if bool(names) == everything:
        raise click.UsageError("name weights, or give --all")
    status = 0
    entries = [entry for entry in store.known() if entry.hub] if everything else map(inventory.named, names)
    if everything and not entries:
        click.echo("licodec: no weights are published yet, so there are none to fetch", err=True)
    for entry in entries:
        try:
            click.echo(inventory.path_of(entry, "auto", again=True))
        except WeightsError as error:
            status = 1
            click.echo(f"licodec: {error}", err=True)
    return status


@weights.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH...]")
def verify(paths: tuple[Path, ...]) -> int:
    """Read every byte of the weights on this machine, or of files and folders, and say what is damaged."""
    from licodec.store import inventory
    from licodec.store.table import FILE_NAME

    files: dict[Path, str | None] = {}
    for path in paths:
        files |= dict.fromkeys(sorted(path.rglob(FILE_NAME)) if path.is_dir() else [path])
    if not paths:
        files = {copy.path: copy.name for copy in inventory.copies()}
    if not files:
        raise WeightsError("there are no weights files here")
    status = 0
    for file, name in files.items():
        fault = inventory.fault_of(file.absolute(), name)
        if fault is None:
            click.echo(f"{file}: whole")
        else:
            status = 1
            click.echo(f"licodec: {file}: {fault.removeprefix(f'{file.absolute()}').lstrip(': ')}", err=True)
    return status


@weights.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.argument("names", nargs=-1, metavar="[NAME...]")
def bundle(folder: Path, names: tuple[str, ...]) -> None:
    """Write weights into DIR, all that are known or those named, for a machine without a network.

    There LICODEC_WEIGHTS=DIR is all it needs.
    """
    from licodec.store import inventory

    entries = [inventory.named(name) for name in names] if names else inventory.obtainable()
    for written in inventory.bundle(folder, entries):
        click.echo(written)


@weights.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Where the repository has to be made.")
def push(folder: Path, repository: str, private: bool) -> None:
    """Publish DIR (weights/CODEC/TAG) on the Hub, fetch it back, and print its entry for known.json.

    Log in before (`hf auth login`, or HF_TOKEN). A tag that is published never changes.
    """
    from licodec.store.publish import push as publish

    click.echo(json.dumps(publish(folder, repository, private=private).as_json(), indent=1))

"""`licodec inspect`: what the headers of .lic files say."""

from __future__ import annotations

import os
from typing import Any

import click

from licodec.cli.batch import Batch
from licodec.cli.files import STREAM, Job, check_sources


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a file.")
def inspect(sources: tuple[str, ...], as_json: bool) -> int:
    """Print the headers of .lic files; - is stdin.

    Reads neither payload nor weights, and works where torch is not installed.
    """
    check_sources(sources)
    return Batch(_text, as_json=as_json).run([Job(source) for source in sources], _inspected)


def _inspected(job: Job) -> dict[str, Any]:
    import licodec

    if job.source == STREAM:
        data = job.read()
        size, info = len(data), licodec.inspect(data)
    else:
        size, info = os.path.getsize(job.source), licodec.inspect(job.source)
    rate = round(8 * size / (info.width * info.height), 4)
    return {"input": job.source, "bytes": size, "bpp": rate, **info.as_dict()}


def _text(report: dict[str, Any]) -> str:
    hidden = {"input", "quality"} if report["lossless"] else {"input"}
    fields = {key: value for key, value in report.items() if key not in hidden}
    width = max(len(key) for key in fields)
    lines = [f"  {key:<{width}}  {_value(value)}" for key, value in fields.items()]
    return "\n".join([report["input"], *lines])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)

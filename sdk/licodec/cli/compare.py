"""`licodec compare`: a page that shows a picture, ours and peers at equal bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from licodec.cli.batch import Batch
from licodec.cli.declared import CommaList, Declared, declared_option
from licodec.cli.files import STREAM, Job, plan
from licodec.options import OPTIONS


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="PHOTO...")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The folder for the pages; else each lies beside its picture.",
)
@declared_option("quality")
@click.option(
    "--bytes",
    "max_bytes",
    type=Declared(OPTIONS["target_size"]),
    metavar="N",
    help="The most bytes of our file, instead of a quality.",
)
@click.option(
    "--peers",
    type=CommaList(click.STRING),
    help="Of jpeg, jpeg444, jpeg2000, webp, avif, avif444, jxl; webp,avif,jxl, as far as installed.",
)
@click.option(
    "--crop",
    type=Declared(OPTIONS["region"]),
    metavar="X0,Y0,X1,Y1",
    help="The part of the picture that is shown; of pictures above two megapixels else the middle.",
)
@declared_option("effort")
@declared_option("codec")
@declared_option("weights")
@declared_option("device")
@declared_option("threads")
@declared_option("download")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def compare(
    sources: tuple[str, ...],
    out: str | None,
    quality: float | None,
    max_bytes: int | None,
    peers: tuple[str, ...] | None,
    crop: tuple[int, int, int, int] | None,
    effort: int | None,
    codec: str,
    weights: str | None,
    device: str | None,
    threads: int | None,
    download: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write a page that compares our files with those of peers, at equal bytes.

    PHOTO is any picture that Pillow reads, or - for stdin. Our file has the quality or the bytes that are
    asked for; each peer gets its largest file that is not larger. The page needs nothing but itself: a slider
    between any two of them, zoom, error maps, and a table.
    """
    if quality is not None and max_bytes is not None:
        raise click.UsageError("--quality and --bytes are both given; one of them decides")
    import torch

    import licodec
    from licodec import options
    from licodec.devices import resolve_device
    from licodec.evaluation import compare as room
    from licodec.evaluation.bench import environment
    from licodec.evaluation.report import environment_line
    from licodec.evaluation.views import comparison_page

    names = room.DEFAULT_PEERS if peers is None else room.known_peers(peers)
    _refuse_missing(peers or ())
    planned = plan(sources, None if out is None else f"{out}{os.sep}", ".html")
    place: dict[str, Any] = {"weights": weights, "device": device, "threads": threads, "download": download}
    encoder = licodec.Encoder(codec, quality=quality, **place)
    decoder = licodec.Decoder(**place)
    count = options.setting("threads", threads).value or torch.get_num_threads()
    where = environment_line(environment(count, resolve_device(options.setting("device", device).value)))

    def work(job: Job) -> dict[str, Any]:
        found = room.compare(
            room.read(job.read()),
            encoder,
            decoder,
            quality=quality,
            max_bytes=max_bytes,
            effort=effort,
            peers=names,
            region=crop,
            threads=count,
        )
        name = "stdin" if job.source == STREAM else Path(job.source).name
        job.write(comparison_page(found, name, where))
        return {"input": job.source, "output": job.target, **found.as_dict()}

    return Batch(_line, as_json=as_json, quiet=quiet).run(planned, work)


def _refuse_missing(asked: tuple[str, ...]) -> None:
    from licodec.evaluation.peers import PEERS

    for name in asked:
        if need := PEERS[name].missing():
            raise click.ClickException(f"peer {name} needs {need}; leave it out of --peers, or install that")


def _line(report: dict[str, Any]) -> str:
    each = (f"{one['name']} {one['bytes']} bytes, {_decibel(one['psnr'])}" for one in report["renditions"])
    return f"{report['output']}: {'; '.join(each)}"


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.2f} dB"

"""`licodec bench`: rate, distortion and time of codecs on a set of pictures."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from licodec.atomic import write_atomic
from licodec.cli.batch import progress_bar
from licodec.cli.declared import CommaList, Declared, declared_option
from licodec.options import OPTIONS

_NEEDS = ("matplotlib", "pytorch_msssim", "scipy")


@click.command()
@click.option(
    "--images", required=True, metavar="DIR|ZIP|FILE", help="The pictures: a folder, a zip or one file."
)
@click.option("--codecs", type=CommaList(click.STRING), help="Learned codecs and peers, separated by commas.")
@click.option(
    "--qualities", type=CommaList(Declared(OPTIONS["quality"])), help="For learned codecs; 0,5,...,100."
)
@click.option(
    "--tunes",
    type=CommaList(Declared(OPTIONS["tune"])),
    help="For learned codecs: each of these as a codec of its own; psnr,ms-ssim.",
)
@click.option(
    "--efforts",
    type=CommaList(Declared(OPTIONS["effort"])),
    help="For learned codecs: each of these efforts as a codec of its own; 1,3,9.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write JSON, table, plot and crops here."
)
@click.option(
    "--html", is_flag=True, help="Write bench.html into --out, or here: a report that needs no other file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many pictures.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch and of peers that have any.")
@click.option("--no-ms-ssim", is_flag=True, help="Leave MS-SSIM out.")
@click.option("--quick", is_flag=True, help="Two pictures and few settings, to see that everything works.")
@click.option("--environments", is_flag=True, help="Also exchange files with differently set up processes.")
@click.option("--lossless", is_flag=True, help="Compare lossless codecs: bits a sample and MB/s.")
@click.option("--halve", is_flag=True, help="With --lossless: halve pictures first, means of 2 x 2 pixels.")
@click.option("--quiet", is_flag=True, help="Draw no progress bar.")
@declared_option("weights")
@declared_option("device")
def bench(
    images: str,
    codecs: tuple[str, ...] | None,
    qualities: tuple[float, ...] | None,
    tunes: tuple[str, ...] | None,
    efforts: tuple[int, ...] | None,
    out: Path | None,
    html: bool,
    as_json: bool,
    limit: int | None,
    threads: int | None,
    no_ms_ssim: bool,
    quick: bool,
    environments: bool,
    lossless: bool,
    halve: bool,
    quiet: bool,
    weights: str | None,
    device: str | None,
) -> None:
    """Compare codecs on a set of pictures.

    Rates are those of whole files, PSNR and MS-SSIM those of 8-bit RGB. Deltas against published curves
    appear for the 24 Kodak pictures. Peers: jpeg, jpeg444, jpeg2000, webp, avif, avif444, jxl.
    """
    if lossless:
        _refuse_with_lossless(
            codecs=codecs,
            qualities=qualities,
            tunes=tunes,
            efforts=efforts,
            out=out,
            html=html,
            environments=environments,
        )
        _bench_lossless(images, limit, threads, weights, halve, as_json, quiet)
        return
    if halve:
        raise click.UsageError("--halve goes with --lossless; leave it out")
    _require(_NEEDS)
    from licodec.evaluation import bench as room
    from licodec.evaluation import crops, report

    options = room.BenchOptions(
        images=images,
        codecs=codecs or room.DEFAULT_CODECS,
        qualities=qualities,
        tunes=tunes or (),
        efforts=efforts or (),
        device=device,
        weights=weights,
        threads=threads,
        limit=limit,
        ms_ssim=not no_ms_ssim,
        quick=quick,
        environments=environments,
    )
    with _progress(quiet) as progress:
        result = room.bench(options, progress)
    if out is not None:
        report.write(result, out)
        crops.write_sheet(result, options, out / "crops.png")
    if html:
        from licodec.evaluation.views import bench_page

        write_atomic(Path(out or ".") / "bench.html", bench_page(result))
    click.echo(json.dumps(report.to_json(result)) if as_json else report.markdown(result), nl=as_json)


def _refuse_with_lossless(**given: Any) -> None:
    if named := [name for name, value in given.items() if value]:
        raise click.UsageError(f"--{named[0]} means nothing with --lossless; leave it out")


def _bench_lossless(
    images: str,
    limit: int | None,
    threads: int | None,
    weights: str | None,
    halve: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from licodec.evaluation import lossless
    from licodec.evaluation.pictures import open_pictures

    with _progress(quiet) as progress:
        rows = lossless.compare(
            open_pictures(images, limit), threads=threads, weights=weights, halve=halve, progress=progress
        )
    click.echo(json.dumps(lossless.to_json(rows)) if as_json else lossless.markdown(rows), nl=as_json)


def _require(modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"bench needs {', '.join(missing)}: pip install 'licodec[bench]'")


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as bars:
        drawn: dict[str, Callable[[str], None]] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in drawn:
                bars.close()  # one codec, one bar
                drawn[name] = bars.enter_context(progress_bar(total))
            drawn[name](name)

        yield progress

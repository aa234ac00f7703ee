"""`licodec encode`: pictures to .lic files."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import click

from licodec.cli.batch import Batch
from licodec.cli.declared import declared_options, shared_options
from licodec.cli.files import STREAM, Job, plan


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", metavar="OUT|DIR", help="A file, a folder, or - for stdout.")
@declared_options("encode")
@click.option(
    "--no-overwrite", is_flag=True, help="Leave files that exist as they are; that counts as a failure."
)
@shared_options
def encode(
    sources: tuple[str, ...],
    output: str | None,
    codec: str,
    quality: float | None,
    target_size: int | None,
    target_bpp: float | None,
    target_psnr: float | None,
    lossless: bool,
    digest: bool,
    order: str | None,
    tune: str | None,
    effort: int | None,
    tile_modes: str | None,
    weights: str | None,
    device: str | None,
    threads: int | None,
    download: str | None,
    strip: bool,
    no_overwrite: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Encode pictures as .lic files.

    IN is any picture that Pillow reads, or - for stdin. Without -o the result lies beside the input.
    """
    jobs_planned = plan(sources, output, ".lic", overwrite=not no_overwrite)
    for job in jobs_planned:
        _refuse_other_format(job)
    import licodec
    from licodec import api, images, targets

    own = {"digest": digest or None, "effort": effort, "tile_modes": tile_modes}
    given = {"target_size": target_size, "target_bpp": target_bpp, "target_psnr": target_psnr, **own}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    # Refuses two that contradict each other.
    goal = targets.chosen({"quality": quality, "lossless": lossless, **wanted})
    codec = api.codec_for(codec, lossless=lossless)
    api.refuse_unfit(codec, {"digest": digest, "effort": effort, "tile_modes": tile_modes})
    encoder = licodec.Encoder(
        codec,
        quality=quality,
        order=order,
        tune=tune,
        device=device,
        threads=threads,
        weights=weights,
        download=download,
    )

    def work(job: Job) -> dict[str, Any]:
        from PIL import Image

        job.check_target()
        with Image.open(io.BytesIO(job.read())) as image:
            images.check_depth(image)
            image.load()
            start = time.perf_counter()
            data = encoder(image, strip=strip, **wanted)
            milliseconds = 1000 * (time.perf_counter() - start)
            width, height = image.size
        job.write(data)
        return {
            "input": job.source,
            "output": job.target,
            "bytes": len(data),
            "bpp": round(8 * len(data) / (width * height), 4),
            "width": width,
            "height": height,
            "codec": codec,
            "quality": licodec.inspect(data).quality if goal.target or lossless else goal.quality,
            "ms": round(milliseconds, 1),
        }

    return Batch(_line, jobs, as_json, quiet).run(jobs_planned, work)


def _refuse_other_format(job: Job) -> None:
    """click.UsageError where a result would be named as a picture of another format."""
    from PIL import Image

    suffix = "" if job.target in (None, STREAM) else Path(str(job.target)).suffix.lower()
    if suffix not in ("", ".lic") and Image.registered_extensions().get(suffix, "LIC") != "LIC":
        raise click.UsageError(
            f"{job.target}: what is written is a .lic file, whatever its name; end it in .lic"
        )


def _line(report: dict[str, Any]) -> str:
    size = f"{report['width']}x{report['height']}"
    return (
        f"{report['output']}: {size}, {report['bytes']} bytes, {report['bpp']:.3f} bpp, {report['ms']:.0f} ms"
    )

"""`licodec decode`: .lic files to pictures of other formats."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from licodec.cli.batch import Batch
from licodec.cli.declared import declared_option, declared_options, shared_options
from licodec.cli.files import STREAM, Job, plan

if TYPE_CHECKING:
    from PIL import Image

# Decoding should not lose much once more; who wants small files of another format has better tools for it.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Z_RLE: photographs within 2 % of the default's size, in a quarter of its time.
    "PNG": {"compress_type": 3},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
}
_DEEP_FORMATS = {"JPEG2000", "JXL", "PNG", "PPM", "TIFF"}
"""Formats that keep grey of 16 bits as Pillow writes them; others fail or clip it to 8 without a word."""
_METADATA = ("icc_profile", "exif", "xmp", "dpi")
_XMP_TAG = 700
_WITH_EXIF = {"AVIF", "HEIF", "JPEG", "JXL", "MPO", "PNG", "TIFF", "WEBP"}
"""Formats whose files say how the picture is turned; for others it is turned here."""


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="IN...")
@click.option(
    "-o", "--output", metavar="OUT|DIR", help="A file (its suffix names the format), a folder, or -."
)
@click.option(
    "-f", "--format", "suffix", default="png", show_default=True, help="Format without a named file."
)
@declared_options("decode")
@declared_option("strip")
@click.option(
    "--no-overwrite", is_flag=True, help="Leave files that exist as they are; that counts as a failure."
)
@shared_options
def decode(
    sources: tuple[str, ...],
    output: str | None,
    suffix: str,
    weights: str | None,
    device: str | None,
    threads: int | None,
    download: str | None,
    decoder: str,
    max_pixels: int | None,
    max_pixels_per_byte: int | None,
    reduce: int,
    region: tuple[int, int, int, int] | None,
    strip: bool,
    no_overwrite: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Decode .lic files into pictures, PNG by default.

    IN is a .lic file, or - for stdin; the result is of any format that Pillow writes. Without -o it lies
    beside the input.
    """
    jobs_planned = plan(sources, output, f".{suffix.lstrip('.')}", overwrite=not no_overwrite, reads=".lic")
    formats = {job: _format(job, suffix) for job in jobs_planned}
    from PIL import ImageOps

    import licodec

    opened = licodec.Decoder(
        device=device, threads=threads, weights=weights, download=download, decoder=decoder
    )

    def work(job: Job) -> dict[str, Any]:
        job.check_target()
        # Of a file that is named only what a rectangle needs is read.
        by_name = region is not None and job.source != STREAM
        data = Path(job.source) if by_name else job.read()
        start = time.perf_counter()
        image = opened(
            data,
            max_pixels=max_pixels,
            max_pixels_per_byte=max_pixels_per_byte,
            reduce=reduce,
            region=region,
        )
        milliseconds = 1000 * (time.perf_counter() - start)
        shown = image if formats[job] in _WITH_EXIF else ImageOps.exif_transpose(image)
        job.write(_saved(shown, formats[job], strip))
        return {
            "input": job.source,
            "output": job.target,
            "format": formats[job],
            "width": shown.width,
            "height": shown.height,
            "mode": shown.mode,
            "ms": round(milliseconds, 1),
        }

    return Batch(_line, jobs, as_json, quiet).run(jobs_planned, work)


def _format(job: Job, suffix: str) -> str:
    """Return Pillow's name of the format that a job writes; click.UsageError for a suffix it can't write."""
    from PIL import Image

    # The suffix of a stream is the one asked for.
    wanted = f".{suffix.lstrip('.')}" if job.target == STREAM else Path(str(job.target)).suffix
    Image.preinit()  # the five formats that most want; all forty take a while to import
    name = Image.EXTENSION.get(wanted.lower()) or Image.registered_extensions().get(wanted.lower())
    if name is None or name not in Image.SAVE:
        raise click.UsageError(
            f"{job.target}: Pillow writes no format with the suffix {wanted!r}; .png always works"
        )
    if name == "LIC":
        raise click.UsageError(
            f"{job.target}: decoding into a .lic file again only loses quality; copy the file"
        )
    return name


def _saved(image: Image.Image, name: str, strip: bool) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    from lic_format.errors import UnsupportedError
    from licodec import metadata

    if image.mode == "I;16" and name not in _DEEP_FORMATS:
        raise UnsupportedError(
            f"Pillow keeps no 16 bits a sample in {name} files; it does in PNG and TIFF files"
        )
    if strip:
        turned = metadata.as_info(*metadata.to_store(image, {"strip": True}))
        image.info.clear()
        image.info.update(turned)
    carried: dict[str, Any] = {key: image.info[key] for key in _METADATA if key in image.info}
    if name == "PNG" and "xmp" in carried:  # Pillow reads XMP from PNG files, but writes none
        carried["pnginfo"] = PngInfo()
        carried["pnginfo"].add_itxt("XML:com.adobe.xmp", carried.pop("xmp"))
    if name == "TIFF" and "xmp" in carried:  # the same, but for a tag among those of EXIF
        carried["exif"] = image.getexif()
        carried["exif"][_XMP_TAG] = carried.pop("xmp")
    sink = io.BytesIO()
    try:
        image.save(sink, name, **carried, **_SAVE_OPTIONS.get(name, {}))
    except OSError as error:
        if not image.mode.endswith("A"):
            raise
        raise UnsupportedError(f"{name} files hold no alpha; PNG, WebP and TIFF files do") from error
    return sink.getvalue()


def _line(report: dict[str, Any]) -> str:
    return (
        f"{report['output']}: {report['width']}x{report['height']}, {report['mode']}, {report['ms']:.0f} ms"
    )

"""`licodec integrate` makes a desktop know .lic files; its file manager then calls `licodec thumbnail`."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click

from licodec.atomic import write_atomic


@dataclass(frozen=True)
class Part:
    """A file for a host of the system: its name in this package, and where hosts look for it (below the data
    folder; empty: no host looks anywhere)."""

    name: str
    folder: str
    what: str

    def text(self) -> str:
        return resources.files("licodec.desktop").joinpath(self.name).read_text(encoding="utf-8")


PARTS = {
    "mime": Part("licodec.xml", "mime/packages", "shared-mime-info: image/x-lic by its first bytes"),
    "thumbnailer": Part("licodec.thumbnailer", "thumbnailers", "file managers: thumbnails of .lic files"),
    "magic": Part("lic.magic", "", "file(1): file -m lic.magic PICTURE"),
}


@click.command()
@click.option("--print", "printed", type=click.Choice(list(PARTS)), help="Print one of the files.")
@click.option("--install", is_flag=True, help="Install for this user (or into --data-dir).")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of $XDG_DATA_HOME, or ~/.local/share; /usr/local/share for all users.",
)
def integrate(printed: str | None, install: bool, data_dir: Path | None) -> int:
    """Make this system know .lic files: MIME type, thumbnails, file(1).

    Without options it lists what there is. --install writes files and nothing else but the database of MIME
    types; to undo it delete what it names.
    """
    if printed and install:
        raise click.UsageError("--print and --install are two things; give one of them")
    if printed:
        click.echo(PARTS[printed].text(), nl=False)
        return 0
    if not install:
        for name, part in PARTS.items():
            click.echo(f"{name:12} {part.what}")
        return 0
    folder = data_dir or Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    for part in PARTS.values():
        if part.folder:
            target = folder / part.folder / part.name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, part.text().encode())
            click.echo(target)
    update = shutil.which("update-mime-database")
    if update is None:
        click.echo(f"update-mime-database is not installed; run it on {folder / 'mime'} when it is", err=True)
        return 0
    done = subprocess.run([update, str(folder / "mime")], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"update-mime-database failed: {done.stderr.strip()}")
    return 0


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("size", type=click.IntRange(1, 4096), default=256)
def thumbnail(source: Path, target: Path, size: int) -> None:
    """Write a PNG of a .lic file that fits into SIZE x SIZE pixels, turned as it is to be seen."""
    from PIL import Image, ImageOps

    from licodec.plugins.pillow import FORMAT

    with Image.open(source, formats=[FORMAT]) as image:
        image.thumbnail((size, size))
        sink = io.BytesIO()
        ImageOps.exif_transpose(image).save(sink, "PNG")
    write_atomic(target, sink.getvalue())

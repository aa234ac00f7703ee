"""`licodec train`: train a codec's network from pictures."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("codec")
@click.option("--preset", help="Size of the network, as the codec names it.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), required=True, help="Length of the schedule."
)
@click.option("--out", type=_FOLDER, required=True, help="Folder of checkpoints and log.")
@click.option("--data", type=_FOLDER, help="Folder of zip shards with pictures.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--init", metavar="TAG", help="Start from exported weights.")
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), help="Of the plateau.")
@click.option("--hold", metavar="NAME", multiple=True, help="A parameter or module that stays as it is.")
@click.option("--distortion", type=click.Choice(["mse", "ms-ssim"]), help="What errors are measured by.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option("--device", help="cpu, cuda or cuda:N.")
def train(codec: str, resume: bool, **given: object) -> None:
    """Train CODEC. Can be stopped at any time and resumed."""
    from licodec.training.loop import TrainOptions
    from licodec.training.loop import train as run

    # What is not given keeps the default that TrainOptions declares.
    options = {name: value for name, value in given.items() if value is not None}
    run(TrainOptions(codec=codec, resume=resume, **options))  # type: ignore[arg-type]

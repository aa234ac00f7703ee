"""Files that travel: the same weights on differently set up machines, in both directions.

Float networks give other last bits under other instruction sets, thread counts, libraries and devices.
Symbols must not change by that: a file coded in one environment has to decode in every other, which the seal
in its stream proves symbol by symbol. Pixels may differ a little, and how much is stated.

Each environment is a process of its own, because libraries read their settings when they start. The reference
is float32 on the CPU with this machine's own settings.

    rows = compare(open_pictures("kodak"), codec="fhic")
    print(markdown(rows))
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from licodec.codecs.registry import CODECS

from .metrics import psnr
from .pictures import Source

QUALITIES = (10.0, 50.0, 90.0)
SAME_PRECISION_DB = 60.0
OTHER_PRECISION_DB = 46.0
FLOAT32, FIXED16 = {"LICODEC_PRECISION": "float32"}, {"LICODEC_PRECISION": "fixed16"}


@dataclass(frozen=True)
class Environment:
    """A process: environment variables before it starts, and what its program does before it codes.

    `closeness` is the least PSNR in dB between its pixels and the reference's.
    """

    name: str
    variables: Mapping[str, str] = field(default_factory=lambda: FLOAT32)
    threads: int | None = None
    onednn: bool = True
    exact: str = "auto"
    device: str = "cpu"
    careless_caller: bool = False
    lists: bool = False
    closeness: float = SAME_PRECISION_DB


REFERENCE = Environment("reference: float32 on the CPU")
ENVIRONMENTS = (
    Environment("1 thread", threads=1),
    Environment("3 threads", threads=3),
    Environment("oneDNN limited to AVX2", {**FLOAT32, "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Environment("oneDNN limited to SSE4.1", {**FLOAT32, "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Environment("torch without vector instructions", {**FLOAT32, "ATEN_CPU_CAPABILITY": "default"}),
    Environment("MKL in its compatible mode", {**FLOAT32, "MKL_CBWR": "COMPATIBLE"}),
    Environment("oneDNN off", onednn=False),
    Environment("oneDNN off, MKL compatible", {**FLOAT32, "MKL_CBWR": "COMPATIBLE"}, onednn=False),
    Environment("exact nets in float32", exact="float32"),
    Environment("exact nets in int64", exact="int64"),
    Environment("exact nets in float64", exact="float64-rounded"),
    Environment("caller with autocast and float64 as default dtype", careless_caller=True),
    Environment("lists of pictures", lists=True),
    Environment("bfloat16", {"LICODEC_PRECISION": "bfloat16"}, closeness=OTHER_PRECISION_DB),
    Environment("fixed16", FIXED16, closeness=OTHER_PRECISION_DB),
    Environment("fixed16, 1 thread", FIXED16, threads=1, closeness=OTHER_PRECISION_DB),
    Environment("fixed16, 3 threads, lists", FIXED16, threads=3, lists=True, closeness=OTHER_PRECISION_DB),
)
CUDA = (
    Environment("CUDA, float32", device="cuda"),
    Environment(
        "CUDA, bfloat16", {"LICODEC_PRECISION": "bfloat16"}, device="cuda", closeness=OTHER_PRECISION_DB
    ),
)


@dataclass(frozen=True)
class Row:
    """What one environment did.

    `there` and `back` are the least PSNR in dB between both sides' pixels, for files coded by the reference
    and files coded in the environment. `refused` lists files that did not decode, with the reason.
    `same_bytes` counts files that both coded alike.
    """

    name: str
    files: int
    same_bytes: int
    refused: tuple[str, ...]
    there: float
    back: float
    closeness: float
    lossless: bool = False

    @property
    def holds(self) -> bool:
        """No refusal, and pixels as close as promised; of a lossless codec equal ones, and equal bytes."""
        if self.lossless and (self.same_bytes != self.files or math.isfinite(min(self.there, self.back))):
            return False
        return not self.refused and min(self.there, self.back) >= self.closeness


def available() -> tuple[Environment, ...]:
    """Return the environments of this machine: CUDA's where torch sees a device."""
    import torch

    return ENVIRONMENTS + (CUDA if torch.cuda.is_available() else ())


def compare(
    pictures: Sequence[Source],
    *,
    codec: str = "fhic",
    weights: str | None = None,
    qualities: Sequence[float] = QUALITIES,
    environments: Sequence[Environment] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Code every picture in every environment and decode it in the reference, and the other way round; of a
    lossless codec once, without a quality.

    Raises RuntimeError, with the process's last words, where an environment cannot run at all.
    """
    chosen = available() if environments is None else environments
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for number, picture in enumerate(pictures):
            np.save(_folder(work / "pictures") / f"{number:05d}.npy", picture.pixels())
        lossless = codec in CODECS and CODECS[codec].lossless
        rates = [None] if lossless else list(qualities)
        job = {"codec": codec, "weights": weights, "qualities": rates, "work": name}
        _in_process(REFERENCE, {**job, "encode": "reference", "keep": "reference"})
        rows = []
        for number, environment in enumerate(chosen):
            files = f"environment{number}"
            there = _in_process(environment, {**job, "encode": files, "keep": files, "check": "reference"})
            back = _in_process(REFERENCE, {**job, "check": files})
            rows.append(_row(environment, work, files, there, back, lossless))
            if progress:
                progress("environments", number + 1, len(chosen))
        return rows


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| environment | files | same bytes | symbols | pixels there, dB | pixels back, dB | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        symbols = "identical" if not row.refused else f"{len(row.refused)} files refused: {row.refused[0]}"
        there, back = (
            f"{decibel:.1f}" if math.isfinite(decibel) else "equal" for decibel in (row.there, row.back)
        )
        expected = "equal files and pixels" if row.lossless else f"{row.closeness:g} dB"
        verdict = "yes" if row.holds else f"NO, expected {expected} and no refusal"
        lines.append(
            f"| {row.name} | {row.files} | {row.same_bytes} | {symbols} | {there} | {back} | {verdict} |"
        )
    return "\n".join(lines)


def _row(
    environment: Environment,
    work: Path,
    files: str,
    there: Mapping[str, Any],
    back: Mapping[str, Any],
    lossless: bool,
) -> Row:
    coded = sorted((work / files).glob("*.lic"))
    return Row(
        name=environment.name,
        files=len(coded),
        same_bytes=sum(file.read_bytes() == (work / "reference" / file.name).read_bytes() for file in coded),
        refused=(*there["refused"], *back["refused"]),
        there=min(there["decibels"], default=math.inf),
        back=min(back["decibels"], default=math.inf),
        closeness=environment.closeness,
        lossless=lossless,
    )


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


# --- the process
# -----------------------------------------------------------------------------------------------------


def _in_process(environment: Environment, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job in a new process: code into `encode`, keep its pixels in `keep`, compare those of `check`."""
    message = json.dumps({"job": dict(job), "environment": asdict(environment)})
    done = subprocess.run(
        [sys.executable, "-m", "licodec.evaluation.environments"],
        input=message,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment.variables},
    )
    if done.returncode:
        raise RuntimeError(f"environment {environment.name!r} did not run:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _work(job: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    import licodec

    threads = environment.threads
    encoder = licodec.Encoder(
        job["codec"], device=environment.device, threads=threads, weights=job["weights"]
    )
    decoder = licodec.Decoder(device=environment.device, threads=threads, weights=job["weights"])
    work = Path(job["work"])
    if "encode" in job:
        _encode_all(encoder, work, job["encode"], job["qualities"], environment.lists)
    if "keep" in job:
        for file in sorted((work / job["keep"]).glob("*.lic")):
            np.save(file.with_suffix(".npy"), decoder(file, output="numpy"))
    decibels, refused = [], []
    for file in sorted((work / job["check"]).glob("*.lic")) if "check" in job else ():
        try:
            found = decoder(file, output="numpy")
        except licodec.FormatError as error:  # what a broken seal raises
            refused.append(f"{file.stem}: {error}")
        else:
            decibels.append(psnr(np.load(file.with_suffix(".npy")), found))
    return {"decibels": decibels, "refused": refused}


def _encode_all(encoder: Any, work: Path, files: str, qualities: Sequence[float | None], lists: bool) -> None:
    sources = sorted((work / "pictures").glob("*.npy"))
    for quality in qualities:
        pictures = [np.load(source) for source in sources]
        coded = (
            encoder(pictures, quality=quality) if lists else [encoder(p, quality=quality) for p in pictures]
        )
        for source, data in zip(sources, coded, strict=True):
            name = "lossless" if quality is None else f"{quality:g}"
            (_folder(work / files) / f"{source.stem}-{name}.lic").write_bytes(data)


def _main() -> None:
    message = json.load(sys.stdin)
    environment = Environment(**message["environment"])
    import torch

    if environment.threads is not None:
        torch.set_num_threads(environment.threads)
    if environment.exact != "auto":
        _force_exact_path(message["job"]["codec"], environment.exact)
    with contextlib.ExitStack() as settings:
        if not environment.onednn:
            settings.enter_context(torch.backends.mkldnn.flags(enabled=False))
        if environment.careless_caller:
            torch.set_default_dtype(torch.float64)
            settings.enter_context(torch.autocast("cpu", torch.bfloat16))
        answer = _work(message["job"], environment)
    print(json.dumps(answer))


def _force_exact_path(codec: str, path: str) -> None:
    """Make this process build models on one path of the exact nets, which is no option of the SDK."""
    import functools
    import importlib

    module: Any = importlib.import_module(CODECS[codec].module)
    module.build = functools.partial(module.build, exact=path)


if __name__ == "__main__":
    _main()

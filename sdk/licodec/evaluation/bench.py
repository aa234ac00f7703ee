"""The bench: code pictures at several settings, measure files, pixels and time.

Every figure comes from whole files through the public API: `encode` gives bytes, `decode` gives pixels, and
nothing is taken from inside a codec but the milliseconds of its stages and its own estimate of the bits,
which are reported beside the real ones.

Times are wall-clock milliseconds of one call. The first call for every size of picture is left out: it loads
weights and lets libraries plan. A median and a minimum are taken over at least `MIN_TIMES` calls a setting.

    result = bench(BenchOptions(images="kodak", codecs=("fhic", "webp", "avif444")))
    result.codecs[0].curve.psnr
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol

from lic_format.errors import UsageValueError
from licodec import options as declared
from licodec.devices import resolve_device

from .environments import Row, compare
from .metrics import Pixels, bits_per_pixel, ms_ssim, psnr
from .peers import PEERS
from .pictures import Source, is_kodak, open_pictures
from .rate_distortion import Curve

STAGES = ("pixels", "network", "exact", "entropy", "container")
"""What a learned codec's time is spent on, in the order of encoding."""

TUNED = ", tune "
AT_EFFORT = ", effort "
"""Between a codec's name and what it is tuned to and its effort, where they are named."""
MIN_TIMES = 8
DEFAULT_CODECS = ("fhic", "jpeg", "webp", "avif", "avif444", "jxl")
DEFAULT_QUALITIES = tuple(float(quality) for quality in range(0, 101, 5))
QUICK_QUALITIES = (0.0, 25.0, 50.0, 75.0, 100.0)
QUICK_PICTURES = 2

Direction = Literal["encode", "decode"]
DIRECTIONS: tuple[Direction, ...] = ("encode", "decode")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchOptions:
    """What to run.

    `images` is a folder, a zip archive or a file. `codecs` are tokens of learned codecs and names of peers.
    `qualities` (0..100), `tunes` (psnr, ms-ssim) and `efforts` (1..9; each is measured as a codec of its own,
    none is the usual one) are for the learned codecs; peers keep their own settings. `threads` sets the
    threads of this process, None is LICODEC_THREADS, or leaves them. `quick` takes two pictures, five
    qualities and a third of the peers' settings: enough to see that everything works, not for figures.
    `environments` also codes and decodes in differently set up processes (see `environments`), which takes
    longer than the rest.
    """

    images: str | Path
    codecs: tuple[str, ...] = DEFAULT_CODECS
    qualities: tuple[float, ...] | None = None
    tunes: tuple[str, ...] = ()
    efforts: tuple[int, ...] = ()
    device: str | None = None
    weights: str | None = None
    threads: int | None = None
    limit: int | None = None
    ms_ssim: bool = True
    quick: bool = False
    environments: bool = False


class Subject(Protocol):
    """A codec under test. `settings` go from low to high rate; `kind` is "learned" or "classical"."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def settings(self) -> tuple[float, ...]: ...

    def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes: ...
    def decode(self, data: bytes, stages: dict[str, float]) -> Pixels: ...


class Learned:
    """A `.lic` codec through the public API, its weights loaded once. `settings` are qualities."""

    kind = "learned"

    def __init__(
        self,
        codec: str,
        settings: tuple[float, ...] = DEFAULT_QUALITIES,
        *,
        device: str | None = None,
        threads: int | None = None,
        weights: str | None = None,
        tune: str | None = None,
        effort: int | None = None,
    ) -> None:
        from licodec import Decoder, Encoder
        from licodec.codecs.registry import CODECS

        entry = CODECS[codec]
        self.name = codec if tune is None else f"{codec}{TUNED}{tune}"
        # Files and figures belong to one set of weights, so the tag is part of the name in tables.
        self.title = f"{codec} {entry.default_tag if tune is None else entry.tune_tags[tune]}"
        if effort is not None:
            self.name, self.title = f"{self.name}{AT_EFFORT}{effort}", f"{self.title}{AT_EFFORT}{effort}"
        self.settings = settings
        self._effort = effort
        self._encoder = Encoder(codec=codec, tune=tune, device=device, threads=threads, weights=weights)
        self._decoder = Decoder(device=device, threads=threads, weights=weights)

    def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
        return self._encoder(pixels, quality=setting, stages=stages, effort=self._effort)

    def decode(self, data: bytes, stages: dict[str, float]) -> Pixels:
        return self._decoder(data, output="numpy", stages=stages)


class Classical:
    """A peer as a subject."""

    kind = "classical"

    def __init__(self, name: str, settings: tuple[float, ...] | None = None, *, threads: int = 1) -> None:
        self.peer = PEERS[name]
        self.name, self.title = self.peer.name, self.peer.title
        self.settings = settings or self.peer.settings
        self._threads = threads

    def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
        return self.peer.encode(pixels, setting, threads=self._threads)

    def decode(self, data: bytes, stages: dict[str, float]) -> Pixels:
        return self.peer.decode(data)


@dataclass(frozen=True)
class Trial:
    """One picture at one setting.

    `pixels` is width x height, `bytes` the whole file's size, `psnr` dB after 8-bit rounding, `ms_ssim` 0..1,
    times and stages milliseconds, one entry a call, `estimated_bits` what the codec's own model says the
    symbols cost, where it tells.
    """

    picture: str
    setting: float
    pixels: int
    bytes: int
    psnr: float
    ms_ssim: float | None
    encode_ms: tuple[float, ...]
    decode_ms: tuple[float, ...]
    encode_stages: tuple[Mapping[str, float], ...]
    decode_stages: tuple[Mapping[str, float], ...]
    estimated_bits: float | None

    @property
    def bpp(self) -> float:
        return bits_per_pixel(self.bytes, self.pixels)


@dataclass(frozen=True)
class CodecResult:
    """All trials of one codec, and its curve over the pictures."""

    name: str
    title: str
    kind: str
    settings: tuple[float, ...]
    trials: tuple[Trial, ...]

    def at(self, setting: float) -> list[Trial]:
        """Return the trials at one setting, in the order of the pictures."""
        return [trial for trial in self.trials if trial.setting == setting]

    @property
    def pictures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(trial.picture for trial in self.trials))

    @property
    def curve(self) -> Curve:
        """The means over the pictures, one point a setting; MS-SSIM only where every picture has it."""
        points = [self.at(setting) for setting in self.settings]
        scores = [[trial.ms_ssim for trial in point if trial.ms_ssim is not None] for point in points]
        complete = all(len(score) == len(point) for score, point in zip(scores, points, strict=True))
        return Curve(
            self.title,
            tuple(statistics.fmean(trial.bpp for trial in point) for point in points),
            tuple(statistics.fmean(trial.psnr for trial in point) for point in points),
            tuple(statistics.fmean(score) for score in scores) if complete else None,
            self.settings,
        )

    def times(self, direction: Direction, setting: float | None = None) -> list[float]:
        """Return the milliseconds of all calls in one direction, at one setting or at all."""
        return [
            ms
            for trial in self.trials
            if setting is None or trial.setting == setting
            for ms in (trial.encode_ms if direction == "encode" else trial.decode_ms)
        ]

    def stage_times(self, direction: Direction) -> dict[str, float]:
        """Return the median milliseconds of each stage over all calls; empty for codecs that don't tell."""
        calls = [
            stages
            for trial in self.trials
            for stages in (trial.encode_stages if direction == "encode" else trial.decode_stages)
        ]
        known = [stage for stage in STAGES if any(stage in call for call in calls)]
        return {stage: statistics.median(call.get(stage, 0.0) for call in calls) for stage in known}


@dataclass(frozen=True)
class BenchResult:
    """One run: where it ran, on which pictures, and what every codec did.

    `kodak`: published curves apply. `left_out`: peers that need what is not installed. `across`: for every
    learned codec, its files in other environments, where asked for.
    """

    environment: Mapping[str, str | int | float]
    images: str
    shapes: Mapping[str, tuple[int, ...]]
    kodak: bool
    codecs: tuple[CodecResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    across: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def bench(options: BenchOptions, progress: Progress | None = None) -> BenchResult:
    """Run the bench. Raises UsageValueError for an unknown codec or a path without pictures.

    Peers whose library is not installed are left out and named in the result's `left_out`. `progress` is
    called with the codec's name, calls done and calls in all.
    """
    names = _known(options.codecs)
    if options.efforts and options.environments:
        raise UsageValueError("efforts: not together with environments; run the bench twice", "efforts")
    pictures = open_pictures(options.images, QUICK_PICTURES if options.quick else options.limit)
    with _threads(options.threads) as threads:
        missing = {name: PEERS[name].missing() for name in names if name in PEERS}
        left_out = {name: f"needs {need}" for name, need in missing.items() if need}
        subjects = [
            subject for name in names if name not in left_out for subject in _subjects(name, options, threads)
        ]
        result = run(subjects, pictures, options, progress, threads=threads, left_out=left_out)
    if options.environments:
        learned = [codec.name for codec in result.codecs if codec.kind == "learned"]
        across = {
            name: compare(pictures, codec=name, weights=options.weights, progress=progress)
            for name in learned
        }
        result = dataclasses.replace(result, across=across)
    return result


def run(
    subjects: Sequence[Subject],
    pictures: Sequence[Source],
    options: BenchOptions,
    progress: Progress | None = None,
    *,
    threads: int = 1,
    left_out: Mapping[str, str] | None = None,
) -> BenchResult:
    """Measure ready-made subjects on ready-made pictures; what `bench` does after it has resolved names."""
    repeats = 1 if options.quick else math.ceil(MIN_TIMES / len(pictures))
    shapes = {picture.name: picture.pixels().shape for picture in pictures}
    results = []
    for subject in subjects:
        trials = _measure(subject, pictures, repeats, options.ms_ssim, progress)
        results.append(
            CodecResult(subject.name, subject.title, subject.kind, subject.settings, tuple(trials))
        )
    return BenchResult(
        environment(threads, resolve_device(declared.setting("device", options.device).value)),
        Path(options.images).name,
        shapes,
        is_kodak(tuple(shapes), tuple(shapes.values())),
        tuple(results),
        dict(left_out or {}),
    )


def environment(threads: int, device: str) -> dict[str, str | int | float]:
    """Return what the times depend on: processor, threads, device, load, versions."""
    found: dict[str, str | int | float] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "device": device,
        "python": platform.python_version(),
    }
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    for package in ("licodec", "torch", "numpy", "pillow", "pillow-jxl-plugin", "constriction"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _measure(
    subject: Subject,
    pictures: Sequence[Source],
    repeats: int,
    with_ms_ssim: bool,
    progress: Progress | None,
) -> Iterator[Trial]:
    total = len(pictures) * len(subject.settings)
    warm: set[tuple[int, ...]] = set()
    done = 0
    for picture in pictures:
        pixels = picture.pixels()
        if pixels.shape not in warm:
            warm.add(pixels.shape)
            subject.decode(subject.encode(pixels, subject.settings[len(subject.settings) // 2], {}), {})
        for setting in subject.settings:
            yield _trial(subject, picture.name, pixels, setting, repeats, with_ms_ssim)
            done += 1
            if progress:
                progress(subject.name, done, total)


def _trial(
    subject: Subject, name: str, pixels: Pixels, setting: float, repeats: int, with_ms_ssim: bool
) -> Trial:
    encode_stages: list[dict[str, float]] = [{} for _ in range(repeats)]
    decode_stages: list[dict[str, float]] = [{} for _ in range(repeats)]
    encode_ms, decode_ms = [], []
    for stages in encode_stages:
        start = time.perf_counter()
        data = subject.encode(pixels, setting, stages)
        encode_ms.append(1000 * (time.perf_counter() - start))
    for stages in decode_stages:
        start = time.perf_counter()
        decoded = subject.decode(data, stages)
        decode_ms.append(1000 * (time.perf_counter() - start))
    return Trial(
        picture=name,
        setting=setting,
        pixels=pixels.shape[0] * pixels.shape[1],
        bytes=len(data),
        psnr=psnr(pixels, decoded),
        ms_ssim=ms_ssim(pixels, decoded) if with_ms_ssim else None,
        encode_ms=tuple(encode_ms),
        decode_ms=tuple(decode_ms),
        encode_stages=tuple(encode_stages),
        decode_stages=tuple(decode_stages),
        estimated_bits=encode_stages[0].get("estimated_bits"),
    )


def _known(codecs: Sequence[str]) -> list[str]:
    from licodec.codecs.registry import CODECS

    names = list(dict.fromkeys(codecs))
    for name in names:
        if name not in PEERS and name not in CODECS:
            known = ", ".join([*CODECS, *PEERS])
            raise UsageValueError(f"codecs: expected some of {known}, got {name!r}", argument="codecs")
    return names


def _subjects(name: str, options: BenchOptions, threads: int) -> Iterator[Subject]:
    if name in PEERS:
        settings = PEERS[name].settings
        yield Classical(name, settings[::3] if options.quick else settings, threads=threads)
        return
    qualities = options.qualities or (QUICK_QUALITIES if options.quick else DEFAULT_QUALITIES)
    qualities = tuple(sorted(qualities))
    from licodec.codecs.registry import CODECS

    tunes: tuple[str | None, ...] = (options.tunes if CODECS[name].tune_tags else ()) or (None,)
    for tune, effort in itertools.product(tunes, options.efforts or (None,)):
        yield Learned(
            name,
            qualities,
            device=options.device,
            threads=threads,
            weights=options.weights,
            tune=tune,
            effort=effort,
        )


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    import torch

    wanted = declared.setting("threads", wanted).value
    before = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    # platform.processor() is empty or only the architecture on Linux.
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

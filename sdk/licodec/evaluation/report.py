"""What a bench run leaves behind: a table in Markdown, JSON with every trial, a plot, and crops to look at.

    write(result, Path("out"))          # bench.json, table.md, rd.png

Deltas against published curves appear only for the 24 Kodak pictures; on other pictures codecs are compared
with each other.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from licodec.atomic import write_atomic

from . import environments
from .bench import DIRECTIONS, BenchResult, CodecResult, Direction
from .checks import checks
from .environments import Row
from .rate_distortion import (
    DEFAULT_ANCHOR,
    MS_SSIM_ANCHOR,
    WINDOW_DB,
    Curve,
    Delta,
    Metric,
    anchor,
    bd_psnr,
    bd_rate,
    rate_at,
)

Rows: TypeAlias = tuple[list[str], list[list[str]]]
"""A table: the names of its columns, and its rows."""

RATE_AT_DB = (30.0, 34.0, 38.0)
# Times are compared where the pictures look alike: at the setting whose mean PSNR is nearest to this.
TIMES_NEAR_DB = 34.0
CONVENTIONS = (
    "bpp of whole files; PSNR and MS-SSIM of 8-bit RGB, mean over pictures; wall-clock ms of one call, "
    "the first for every size of picture left out"
)


def deltas(reference: Curve, test: Curve) -> dict[str, Any]:
    """Return the Bjontegaard deltas of one curve against another: PSNR (overlap, window), MS-SSIM.

    Values are None where the curves share no range, and `msssim` is missing where either has no such points.
    """
    lo, hi = WINDOW_DB
    reference_psnr, test_psnr = reference.usable(), test.usable()
    found = {
        "psnr": _delta(reference_psnr, test_psnr, "psnr"),
        f"psnr_{lo:g}_{hi:g}": _delta(reference_psnr, test_psnr, "psnr", lo, hi),
        "bd_psnr_db": _gain(reference_psnr, test_psnr),
    }
    if reference.msssim is not None and test.msssim is not None:
        found["msssim"] = _delta(reference.usable("msssim"), test.usable("msssim"), "msssim")
    return found


def _delta(
    reference: Curve, test: Curve, metric: Metric, lo: float = -math.inf, hi: float = math.inf
) -> dict[str, float] | None:
    if min(len(reference.bpp), len(test.bpp)) < 2:
        return None
    return _plain(bd_rate(reference, test, metric=metric, lo=lo, hi=hi))


def _gain(reference: Curve, test: Curve) -> dict[str, float] | None:
    return None if min(len(reference.bpp), len(test.bpp)) < 2 else _plain(bd_psnr(reference, test))


def _plain(delta: Delta | None) -> dict[str, float] | None:
    return None if delta is None else {key: round(value, 4) for key, value in asdict(delta).items()}


def to_json(result: BenchResult) -> dict[str, Any]:
    """Return the run as plain values; infinite dB (equal pictures) are null."""
    return {
        "environment": dict(result.environment),
        "images": {
            "source": result.images,
            "kodak": result.kodak,
            "pictures": {name: list(shape) for name, shape in result.shapes.items()},
        },
        "conventions": CONVENTIONS,
        "left_out": dict(result.left_out),
        "codecs": {codec.name: _codec_json(result, codec) for codec in result.codecs},
        "environments": {name: [_row_json(row) for row in rows] for name, rows in result.across.items()},
    }


def _codec_json(result: BenchResult, codec: CodecResult) -> dict[str, Any]:
    curve = codec.curve
    return {
        "title": codec.title,
        "kind": codec.kind,
        "settings": list(codec.settings),
        "bpp": _rounded(curve.bpp, 5),
        "psnr": _rounded(curve.psnr, 4),
        "msssim": None if curve.msssim is None else _rounded(curve.msssim, 6),
        "times_ms": {direction: _times_json(codec, direction) for direction in DIRECTIONS},
        "bd_rate": {reference.name: deltas(reference, curve) for reference in _references(result, codec)},
        "checks": checks(codec),
        "per_picture": {
            picture: {
                "bytes": [trial.bytes for trial in trials],
                "psnr": _rounded((trial.psnr for trial in trials), 4),
                "msssim": [None if t.ms_ssim is None else round(t.ms_ssim, 6) for t in trials],
                "estimated_bits": [t.estimated_bits and round(t.estimated_bits, 1) for t in trials],
            }
            for picture, trials in _by_picture(codec)
        },
    }


def _row_json(row: Row) -> dict[str, Any]:
    there, back = _rounded((row.there, row.back), 2)
    return {**asdict(row), "there": there, "back": back, "holds": row.holds}


def _times_json(codec: CodecResult, direction: Direction) -> dict[str, Any]:
    per_setting = [codec.times(direction, setting) for setting in codec.settings]
    return {
        "median": round(statistics.median(codec.times(direction)), 3),
        "median_by_setting": _rounded(map(statistics.median, per_setting), 3),
        "minimum_by_setting": _rounded(map(min, per_setting), 3),
        "calls_by_setting": len(per_setting[0]),
        "stages_median": {stage: round(ms, 3) for stage, ms in codec.stage_times(direction).items()},
    }


def _by_picture(codec: CodecResult) -> Iterator[tuple[str, list[Any]]]:
    for picture in codec.pictures:
        yield picture, [trial for trial in codec.trials if trial.picture == picture]


def _rounded(values: Iterable[float], digits: int) -> list[float | None]:
    return [round(value, digits) if math.isfinite(value) else None for value in values]


def _references(result: BenchResult, codec: CodecResult) -> list[Curve]:
    published = [anchor(DEFAULT_ANCHOR), anchor(MS_SSIM_ANCHOR)] if result.kodak else []
    return [*published, *(other.curve for other in result.codecs if other.name != codec.name)]


# --- Markdown
# --------------------------------------------------------------------------------------------------------


def markdown(result: BenchResult) -> str:
    """Return the run as Markdown: deltas, times, checks, and the points of the learned codecs."""
    learned = [codec for codec in result.codecs if codec.kind == "learned"]
    parts = [_heading(result), _table(*summary(result))]
    if learned and len(result.codecs) > 1:
        parts.append(_table(*against_peers(result)))
    parts.append("\n\n".join([_table(*times(result)), *_stages(result)]))
    for codec in learned:
        parts += [_points_table(codec), "\n".join(f"- {line}" for line in check_lines(codec))]
        if rows := result.across.get(codec.name):
            parts.append(environments.markdown(rows))
    return "\n\n".join(parts) + "\n"


def picture_curve(codec: CodecResult, picture: str) -> Curve:
    """Return a codec's curve on one picture."""
    trials = [trial for trial in codec.trials if trial.picture == picture]
    bpp, distortion = (tuple(getattr(trial, name) for trial in trials) for name in ("bpp", "psnr"))
    return Curve(codec.title, bpp, distortion, None, codec.settings)


def _heading(result: BenchResult) -> str:
    first = f"{len(result.shapes)} pictures of {result.images}. {environment_line(result.environment)}."
    return "\n".join([first, *remarks(result)])


def environment_line(environment: Mapping[str, str | int | float]) -> str:
    """Return what times depend on, in one line."""
    return ", ".join(f"{key} {value}" for key, value in environment.items())


def remarks(result: BenchResult) -> list[str]:
    """Return what the run does not have, a sentence each."""
    kodak = [] if result.kodak else ["Not the 24 Kodak pictures: no comparison with published curves."]
    return [*kodak, *(f"{name} left out: {why}." for name, why in result.left_out.items())]


def summary(result: BenchResult) -> Rows:
    """Return the table of the codecs: rates, distortions, deltas against published curves on Kodak."""
    lo, hi = WINDOW_DB
    head = ["codec", "bpp", "PSNR dB", *(f"bpp at {decibel:g} dB" for decibel in RATE_AT_DB)]
    if result.kodak:
        head += [f"BD-rate vs {DEFAULT_ANCHOR}", f"{lo:g}-{hi:g} dB", f"MS-SSIM vs {MS_SSIM_ANCHOR}"]
    rows = []
    for codec in result.codecs:
        curve = codec.curve
        row = [codec.title, _span(curve.bpp, 2), _span(curve.psnr, 1)]
        row += [_rate_text(curve, decibel) for decibel in RATE_AT_DB]
        if result.kodak:
            against = deltas(anchor(DEFAULT_ANCHOR), curve)
            scores = deltas(anchor(MS_SSIM_ANCHOR), curve)
            row += [
                _percent(against["psnr"], ranged=True),
                _percent(against[f"psnr_{lo:g}_{hi:g}"]),
                _percent(scores.get("msssim")),
            ]
        rows.append(row)
    return head, rows


def against_peers(result: BenchResult) -> Rows:
    """Return the table of deltas of every learned codec against every other codec of the run."""
    lo, hi = WINDOW_DB
    head = ["BD-rate of", "against", "PSNR, overlap", f"PSNR, {lo:g}-{hi:g} dB", "MS-SSIM"]
    rows = []
    for codec in result.codecs:
        for other in result.codecs if codec.kind == "learned" else ():
            if other.name != codec.name:
                found = deltas(other.curve, codec.curve)
                window = found[f"psnr_{lo:g}_{hi:g}"]
                row = [codec.title, other.title, _percent(found["psnr"], ranged=True), _percent(window)]
                rows.append([*row, _percent(found.get("msssim"))])
    return head, rows


def times(result: BenchResult) -> Rows:
    """Return the table of milliseconds a picture."""
    near = f"near {TIMES_NEAR_DB:g} dB"
    head = ["ms a picture, median (minimum)", "encode", "decode", f"encode {near}", f"decode {near}"]
    rows = []
    for codec in result.codecs:
        setting = _setting_near(codec, TIMES_NEAR_DB)
        calls = [codec.times(direction, at) for at in (None, setting) for direction in DIRECTIONS]
        rows.append([codec.title, *map(_ms, calls)])
    return head, rows


def _stages(result: BenchResult) -> Iterator[str]:
    for codec in result.codecs:
        for direction in DIRECTIONS:
            if found := codec.stage_times(direction):
                each = ", ".join(f"{stage} {ms:.1f}" for stage, ms in found.items())
                yield f"{codec.title}, {direction} by stage, median ms: {each}"


def _setting_near(codec: CodecResult, decibel: float) -> float:
    points = zip(codec.curve.psnr, codec.settings, strict=True)
    return min(points, key=lambda point: abs(point[0] - decibel))[1]


def _points_table(codec: CodecResult) -> str:
    curve = codec.curve
    scores = curve.msssim or [None] * len(curve.bpp)
    rows = [
        [f"{setting:g}", f"{bpp:.4f}", f"{psnr:.3f}", "" if score is None else f"{score:.5f}"]
        for setting, bpp, psnr, score in zip(codec.settings, curve.bpp, curve.psnr, scores, strict=True)
    ]
    return _table([f"{codec.title}: quality", "bpp", "PSNR dB", "MS-SSIM"], rows)


def check_lines(codec: CodecResult) -> list[str]:
    """Return what the checks found, one line each."""
    lines = []
    for name, found in checks(codec).items():
        words = name.replace("_", " ")
        violations = found["violations"]
        verdict = "holds" if found["holds"] else f"FAILS {len(violations)} times, first {violations[0]}"
        if "total_surplus_share" in found:
            mean, largest = found["mean_surplus_bytes"], found["largest_surplus_bytes"]
            share = f"{found['total_surplus_share']:+.2%} in all"
            verdict += f" ({share}, {mean:+.0f} bytes a file, at most {largest:+.0f})"
        lines.append(f"{codec.title}, {words}: {verdict}")
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(delta: dict[str, float] | None, *, ranged: bool = False) -> str:
    if delta is None:
        return "-"
    text = f"{delta['value']:+.1f} %"
    return f"{text} ({delta['lo']:.1f}-{delta['hi']:.1f} dB)" if ranged else text


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def _rate_text(curve: Curve, decibel: float) -> str:
    usable = curve.usable()
    rate = rate_at(usable, decibel) if len(usable.bpp) >= 2 else None
    return "-" if rate is None else f"{rate:.3f}"


def _ms(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f})"


# --- files
# -----------------------------------------------------------------------------------------------------------


def write(result: BenchResult, folder: Path) -> list[Path]:
    """Write bench.json, table.md and rd.png into `folder`, which is made where needed; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, table, picture = folder / "bench.json", folder / "table.md", folder / "rd.png"
    write_atomic(data, (json.dumps(to_json(result), indent=1, allow_nan=False) + "\n").encode())
    write_atomic(table, markdown(result).encode())
    plot(result, picture)
    return [data, table, picture]


def plot(result: BenchResult, path: Path | BinaryIO, kind: Literal["png", "svg"] = "png") -> None:
    """Draw the curves: PSNR over bpp, and MS-SSIM (dB) over bpp where there are such points."""
    from matplotlib.figure import Figure

    metrics: list[Metric] = ["psnr"]
    if any(codec.curve.msssim for codec in result.codecs):
        metrics.append("msssim")
    figure = Figure(figsize=(7 * len(metrics), 5.5), layout="constrained")
    for position, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(1, len(metrics), position)
        for curve, style in _lines(result, metric):
            points = curve.usable(metric)
            axes.plot(points.bpp, points.distortion(metric), label=curve.name, **style)
        axes.set_xscale("log")
        axes.set_xlabel("bits per pixel, whole file")
        axes.set_ylabel("PSNR, dB" if metric == "psnr" else "MS-SSIM, dB")
        ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 4]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(*_rate_limits(result))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    # A name may be anything: no formula, and half of another encoding has no glyph.
    name = result.images.encode("utf-8", "replace").decode()
    figure.suptitle(f"{name}, {len(result.shapes)} pictures", parse_math=False)
    figure.savefig(path, dpi=110, format=kind)


def _lines(result: BenchResult, metric: Metric) -> Iterator[tuple[Curve, dict[str, Any]]]:
    if result.kodak:
        published = anchor(DEFAULT_ANCHOR if metric == "psnr" else MS_SSIM_ANCHOR)
        yield published, {"color": "black", "linestyle": ":", "linewidth": 1.5}
    for codec in result.codecs:
        curve = codec.curve
        if metric == "psnr" or curve.msssim is not None:
            own = codec.kind == "learned"
            yield curve, {"marker": "o" if own else ".", "linewidth": 2.2 if own else 1.0, "markersize": 4}


def _rate_limits(result: BenchResult) -> tuple[float, float]:
    """The range of the learned codecs with some room: what lies beyond is not what a reader came for."""
    codecs = [codec for codec in result.codecs if codec.kind == "learned"] or result.codecs
    rates = [rate for codec in codecs for rate in codec.curve.bpp]
    return min(rates) / 1.4, max(rates) * 1.4

"""The pages of `licodec compare` and `licodec bench --html`.

Path("photo.html").write_bytes(comparison_page(found, "photo.png", "AMD EPYC, 2 threads"))
Path("bench.html").write_bytes(bench_page(result))
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator

from . import report
from .bench import BenchResult, CodecResult, Trial
from .compare import Comparison, Rendition
from .page import Cell, Html, data_uri, fill, page, part, picture_uri, table
from .peers import PEERS
from .rate_distortion import Curve

_NONE, _TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


# --- one picture ----------------------------------------------------------------------------------


def comparison_page(found: Comparison, name: str, environment: str) -> bytes:
    """The page of one comparison. `name` is the picture's, `environment` a line on what times depend on."""
    pictures = [("Original", found.pixels)]
    pictures += [(_short(rendition), rendition.pixels) for rendition in found.renditions]
    x0, y0, x1, y1 = found.shown
    body = fill(
        part("compare.html"),
        name=name,
        summary=_summary(found),
        choices=_joined(
            fill('<option value="$value">$text</option>', value=value, text=title)
            for value, (title, _) in enumerate(pictures)
        ),
        width=x1 - x0,
        height=y1 - y0,
        pictures=_joined(
            fill(
                '<img src="$source" width="$width" height="$height" alt="$title">',
                source=picture_uri(pixels, found.original.profile),
                width=x1 - x0,
                height=y1 - y0,
                title=title,
            )
            for title, pixels in pictures
        ),
        table=_renditions_table(found),
        notes=_list(_notes(found)),
        footer=environment,
    )
    return page(f"{name}: {found.ours.title} and peers", body, script=part("compare.js"))


def _summary(found: Comparison) -> str:
    width, height = found.original.size
    text = f"{width} {_TIMES} {height} pixels, {found.ours.size:,} bytes by {found.ours.title}"
    return f"{text}; peers at no more" if len(found.renditions) > 1 else text


def _short(rendition: Rendition) -> str:
    return rendition.title.split(" (")[0]


def _renditions_table(found: Comparison) -> Html:
    head = ["", "setting", "bytes", "bpp", "PSNR dB", "MS-SSIM", "encode ms", "decode ms"]
    fitting = [rendition for rendition in found.renditions if rendition.fits]
    best_psnr = max(rendition.psnr for rendition in fitting)
    best_score = max(rendition.ms_ssim or -math.inf for rendition in fitting)
    rows: list[list[str | Cell]] = [
        [
            rendition.title,
            f"{rendition.setting:g}",
            Cell(f"{rendition.size:,}", look="" if rendition.fits else "over"),
            f"{rendition.bpp:.3f}",
            Cell(_decibel(rendition.psnr), look=_best(rendition.psnr == best_psnr and rendition.fits)),
            Cell(_score(rendition.ms_ssim), look=_best(rendition.ms_ssim == best_score and rendition.fits)),
            _milliseconds(rendition.encode_ms),
            _milliseconds(rendition.decode_ms),
        ]
        for rendition in found.renditions
    ]
    return table(head, rows, caption="Whole files")


def _notes(found: Comparison) -> Iterator[str]:
    for note in (*found.original.notes, *found.notes):
        yield f"{note[0].upper()}{note[1:]}."
    for rendition in found.renditions:
        if not rendition.fits:
            more = rendition.size - found.ours.size
            yield f"{rendition.title}: its smallest file has {more:,} bytes more than ours."
        elif rendition.name in PEERS and rendition.setting == PEERS[rendition.name].search[-1]:
            yield f"{rendition.title}: its best setting; there is no larger file."
    for name, why in found.left_out.items():
        yield f"{PEERS[name].title} is left out: {why}."


def _decibel(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "equal"


def _score(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _best(holds: bool) -> str:
    return "best" if holds else ""


# --- a bench --------------------------------------------------------------------------------------


def bench_page(result: BenchResult) -> bytes:
    """The page of a bench run: curves, deltas, times, and what every picture gave."""
    count = len(result.shapes)
    tables = [
        _plain_table(report.summary(result), "Codecs"),
        _plain_table(report.against_peers(result), "BD-rate; below zero: fewer bits"),
        _pictures_table(result),
        _plain_table(report.times(result), "Times"),
    ]
    body = fill(
        part("bench.html"),
        title=f"{result.images}, {count} {'pictures' if count > 1 else 'picture'}",
        summary=" ".join([f"Figures: {report.CONVENTIONS}.", *report.remarks(result)]),
        plot=_plot(result),
        plot_text="Rate-distortion curves of all codecs",
        tables=_joined(tables),
        points=_points_table(result),
        checks=_list(line for codec in _learned(result) for line in report.check_lines(codec)),
        footer=report.environment_line(result.environment),
    )
    return page(f"licodec bench: {result.images}", body, script=part("sort.js"))


def _plot(result: BenchResult) -> str:
    sink = io.BytesIO()
    report.plot(result, sink, "svg")
    return data_uri(sink.getvalue(), "image/svg+xml")


def _plain_table(rows: report.Rows, caption: str) -> Html:
    return table(*rows, caption=caption) if rows[1] else Html("")


def _learned(result: BenchResult) -> list[CodecResult]:
    return [codec for codec in result.codecs if codec.kind == "learned"]


def _pictures_table(result: BenchResult) -> Html:
    """The BD-rate of the first learned codec against every other codec, picture by picture."""
    learned = _learned(result)
    others = [codec for codec in result.codecs if learned and codec is not learned[0]]
    if not others:
        return Html("")
    head = ["picture", "pixels", *(f"against {codec.title}" for codec in others)]
    rows = []
    for picture, shape in result.shapes.items():
        own = report.picture_curve(learned[0], picture)
        found = [_against(report.picture_curve(codec, picture), own) for codec in others]
        rows.append([Cell(picture), Cell(f"{shape[1]} {_TIMES} {shape[0]}", shape[0] * shape[1]), *found])
    return table(head, rows, caption=f"BD-rate of {learned[0].title}, picture by picture", sortable=True)


def _against(reference: Curve, test: Curve) -> Cell:
    delta = report.deltas(reference, test)["psnr"]
    if delta is None:
        return Cell(_NONE)
    return Cell(f"{delta['value']:+.1f} %", delta["value"])


def _points_table(result: BenchResult) -> Html:
    head = ["picture", "codec", "setting", "bytes", "bpp", "PSNR dB", "MS-SSIM", "encode ms", "decode ms"]
    rows: list[list[str | Cell]] = [
        [
            trial.picture,
            codec.title,
            f"{trial.setting:g}",
            f"{trial.bytes:,}",
            f"{trial.bpp:.4f}",
            Cell(_decibel(trial.psnr), trial.psnr if math.isfinite(trial.psnr) else 1e9),
            _score(trial.ms_ssim),
            *_least_times(trial),
        ]
        for codec in result.codecs
        for trial in codec.trials
    ]
    return table(head, rows, caption="Milliseconds: the least of all calls", sortable=True)


def _least_times(trial: Trial) -> list[str]:
    return [f"{min(calls):.1f}" for calls in (trial.encode_ms, trial.decode_ms)]


# --- both -----------------------------------------------------------------------------------------


def _joined(parts: Iterable[Html]) -> Html:
    return Html("\n".join(part for part in parts if part))


def _list(lines: Iterable[str]) -> Html:
    items = _joined(fill("<li>$line</li>", line=line) for line in lines)
    return fill('<ul class="notes">$items</ul>', items=items) if items else Html("")

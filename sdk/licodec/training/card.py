"""The model card of a weights folder: written from what was measured, never by hand.

    python -m licodec.training.card weights/fhic/s-1 out/bench/bench.json --data DATA/train
    python -m licodec.training.card weights/fhic/s-serial-1 --base s-1 --data DATA/train

Reads `export.json`, `training.jsonl`, `bench.json` files made by `licodec bench`, and the index of the
training crops; writes `card.md`. `licodec weights push` takes a card that was made with all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INTRODUCTION = """\
One model for all rates of the codec `{codec}` ({title}), preset `{preset}`. Its integer networks choose
probability tables, the same on every machine; the rest is floating point. Files name these weights by the
decode digest.
"""

LIMITS = """\
Trained for {measure} on photographs. Screenshots, text and drawings cost more bits than they should. Not
lossless at any quality.
"""


MEASURES = {"mse": "PSNR", "ms-ssim": "MS-SSIM"}


def card(folder: Path, benches: Sequence[Path], data: Path | None = None) -> str:
    """Markdown of the card, with front matter that model hubs read. `data`: the folder of training crops."""
    facts = json.loads((folder / "export.json").read_text())
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    reports = [json.loads(bench.read_text()) for bench in benches]
    sources = _sources(data) if data else Counter()
    parts = [_front_matter(folder, reports, sources), f"# fhic / {folder.name}\n"]
    parts.append(
        INTRODUCTION.format(
            codec="fhic", title="checkerboard context, exact scale nets", preset=facts.get("preset", "s")
        )
    )
    parts.append(_facts(facts))
    parts += [_bench(report, folder.name) for report in reports]
    parts += ["## Training\n", _training(rows)]
    if sources:
        parts.append(_crops(sources))
    measure = MEASURES[facts.get("distortion", "mse")]
    parts += ["## Limits\n", LIMITS.format(measure=measure)]
    return "\n".join(parts)


ALTERNATE = """\
A wider synthesis for files of fhic / {tag}: what `decoder="best"` decodes them with. It sees the same
latents as the synthesis of {tag} and grew from it; nothing but the pixels of decoded pictures changes, and
encoders do not use it.
"""


def alternate_card(folder: Path, tag: str, data: Path) -> str:
    """The same for an alternate synthesis of the weights `tag`."""
    facts = json.loads((folder / "export.json").read_text())
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    sources = _sources(data)
    gained = [
        (str(rate), f"{psnr:.2f}", f"{db:+.3f}")
        for rate, psnr, db in zip(facts["rates"], facts["psnr"], facts["db"], strict=True)
    ]
    trained = [
        (f"{row['minutes']:.0f}", str(row["step"]), f"{row['mean']:+.3f}") for row in rows if "mean" in row
    ]
    return "\n".join(
        [
            _front_matter(folder, (), sources).replace("---\n", '---\nmetrics: ["psnr"]\n', 1),
            f"# fhic / {folder.name}\n",
            ALTERNATE.format(tag=tag),
            table(
                ("", ""),
                [
                    ("decode digest", f"`{facts['decode_digest']}`, that of {tag}"),
                    ("synthesis digest", f"`{facts['synthesis_digest']}`"),
                    ("bytes", f"{facts['bytes']:,}"),
                    ("parameters", f"{facts['parameters'] / 1e6:.2f} M"),
                ],
            ),
            f"Validation crops (never trained on), the same latents: PSNR of {tag}, and what is gained.\n",
            table(("rate index", "PSNR dB", "gain dB"), gained),
            "## Training\n",
            table(("minutes", "steps", "mean gain dB on every eighth validation crop"), trained),
            _crops(sources),
            "## Limits\n",
            LIMITS.format(measure="PSNR"),
        ]
    )


SERIAL = """\
The weights of fhic / {tag} and the networks of decode order 2 beside them (docs/decode_orders.md): what
`order="serial"` takes. Transforms, gains and the other orders are those of {tag}.
"""


def serial_card(folder: Path, tag: str, data: Path) -> str:
    """The same for weights that have order 2 beside what the weights `tag` have."""
    facts = json.loads((folder / "export.json").read_text())
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    sources, before = _sources(data), next(row for row in rows if "bpp1" in row)
    trained = [row for row in rows if "bpp2" in row]
    last = trained[-1]
    compared = [
        (str(rate), f"{one:.4f}", f"{two:.4f}", f"{100 * (two / one - 1):+.1f} %")
        for rate, one, two in zip(before["rates"], before["bpp1"], last["bpp2"], strict=True)
    ]
    chosen = trained[:: max(1, len(trained) // 12)]
    chosen += [last] if chosen[-1] is not last else []
    curve = [(str(row["step"]), f"{row['loss']:.4f}", f"{row['bpp2'][1]:.4f}") for row in chosen]
    exact, total = facts["exact_parameters"] / 1e6, facts["parameters"] / 1e6
    return "\n".join(
        [
            _front_matter(folder, (), sources).replace("---\n", '---\nmetrics: ["bpp"]\n', 1),
            f"# fhic / {folder.name}\n",
            SERIAL.format(tag=tag),
            table(
                ("", ""),
                [
                    ("decode digest", f"`{facts['decode_digest']}`"),
                    ("synthesis digest", f"`{facts['synthesis_digest']}`, that of {tag}"),
                    ("bytes", f"{facts['bytes']:,}"),
                    (
                        "order 2 has",
                        f"{total:.2f} M parameters in float networks, {exact:.2f} M in integer ones",
                    ),
                    ("table families, order 2 (Gauss, t8, Laplace)", _families(facts["families_serial"])),
                ],
            ),
            "Validation crops (never trained on), the same latents: model bits per pixel of the latents.\n",
            table(("rate index", "order 1", "order 2", "bits"), compared),
            "## Training\n",
            table(("steps", "loss", f"bpp at rate index {before['rates'][1]}"), curve),
            _crops(sources),
            "## Limits\n",
            LIMITS.format(measure="PSNR"),
        ]
    )


def _sources(data: Path) -> Counter[str]:
    lines = (data / "index.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["source"] for line in lines)


def _crops(sources: Counter[str]) -> str:
    rows = [(source, str(count)) for source, count in sources.most_common()]
    return table(("source of training crops", "crops"), rows)


def _front_matter(folder: Path, reports: Sequence[dict[str, Any]], sources: Counter[str]) -> str:
    """What a hub shows and finds a model by, with every point of the evaluations; JSON is YAML."""
    learned = [_learned(report, folder.name) for report in reports]
    metrics = ["psnr", "ms-ssim"] if any(codec["msssim"] for codec in learned) else ["psnr"]
    results = [_result(report, codec) for report, codec in zip(reports, learned, strict=True)]
    said: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "licodec",
        "pipeline_tag": "image-to-image",
        "tags": ["image-compression", "learned-codec"],
        "metrics": metrics if reports else [],
        "datasets": [source for source, _ in sources.most_common()],
        "model-index": [{"name": f"fhic-{folder.name}", "results": results}] if results else [],
    }
    lines = [
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in said.items()
        if value
    ]
    return "\n".join(["---", *lines, "---\n"])


def _learned(report: dict[str, Any], tag: str) -> dict[str, Any]:
    """The tag's own codec in a report, or else the first learned one."""
    every: list[dict[str, Any]] = [c for c in report["codecs"].values() if c["kind"] == "learned"]
    return next((c for c in every if tag in c["title"].split()), every[0])


def _result(report: dict[str, Any], codec: dict[str, Any]) -> dict[str, Any]:
    source, count = report["images"]["source"], len(report["images"]["pictures"])
    metrics = [
        {"type": kind, "name": f"{kind} at quality {setting:g}, {bpp:.3f} bpp", "value": round(value, 5)}
        for kind, values in (("psnr", codec["psnr"]), ("ms-ssim", codec["msssim"]))
        for setting, bpp, value in zip(codec["settings"], codec["bpp"], values or (), strict=bool(values))
    ]
    return {
        "task": {"type": "image-to-image", "name": "Image compression"},
        "dataset": {"type": source, "name": f"{source}, {count} pictures"},
        "metrics": metrics,
    }


def _facts(facts: dict[str, Any]) -> str:
    exact, total = facts["exact_parameters"] / 1e6, facts["parameters"] / 1e6
    return table(
        ("", ""),
        [
            ("decode digest", f"`{facts['decode_digest']}`"),
            ("synthesis digest", f"`{facts['synthesis_digest']}`"),
            ("bytes", f"{facts['bytes']:,}"),
            ("parameters", f"{total:.2f} M, of which {exact:.2f} M in integer networks"),
            ("table families, one step (Gauss, t8, Laplace)", _families(facts["families_direct"])),
            ("table families, checkerboard", _families(facts["families_context"])),
        ],
    )


def _families(row: dict[str, Any]) -> str:
    return f"{row['gauss_t8_laplace']} channels, {100 * row['bits_saved']:.1f} % smaller than Gauss alone"


def _bench(report: dict[str, Any], tag: str) -> str:
    """Points of the learned codec, and the deltas of all codecs of the run against its first references."""
    codecs, learned = report["codecs"], _learned(report, tag)
    rows = []
    reference = next(iter(learned["bd_rate"]), "")  # VTM-18.0 on Kodak, a peer elsewhere
    likest = next((name for name, found in learned["bd_rate"].items() if found.get("msssim")), "")
    for codec in codecs.values():
        if (deltas := codec["bd_rate"].get(reference)) is not None:
            scores = codec["bd_rate"].get(likest, {}).get("msssim")
            row = (codec["title"], reference, _percent(deltas["psnr"]), _percent(deltas["psnr_30_38"]))
            rows.append((*row, _percent(scores)) if likest else row)
    head = ("codec", "BD-rate against", "whole overlap", "30-38 dB")
    scored = learned["msssim"] or [None] * len(learned["bpp"])
    points = [
        (f"{setting:g}", f"{bpp:.3f}", f"{psnr:.2f}", "" if score is None else f"{score:.5f}")
        for setting, bpp, psnr, score in zip(
            learned["settings"], learned["bpp"], learned["psnr"], scored, strict=True
        )
    ]
    return "\n".join(
        [
            f"## Whole files: {report['images']['source']}, {len(report['images']['pictures'])} pictures\n",
            table((*head, f"MS-SSIM, against {likest}") if likest else head, rows),
            table(("quality", "bpp", "PSNR dB", "MS-SSIM"), points[:: max(1, len(points) // 10)]),
        ]
    )


def _percent(delta: dict[str, Any] | float | None) -> str:
    value = delta["value"] if isinstance(delta, dict) else delta
    return "-" if value is None else f"{value:+.1f} %"


def _training(rows: Sequence[dict[str, Any]]) -> str:
    points = [row for row in rows if "val_loss" in row]
    chosen = points[:: max(1, len(points) // 12)]
    if points and chosen[-1] is not points[-1]:
        chosen.append(points[-1])
    lines = [
        "Validation crops (never trained on), rounded symbols, averaged weights: model bits per pixel in "
        "decode order 1 and PSNR at rate index 96.\n"
    ]
    lines.append(
        table(
            ("minutes", "steps", "loss", "bpp", "PSNR dB"),
            [
                (
                    f"{r['minutes']:.0f}",
                    str(r["step"]),
                    f"{r['val_loss']:.4f}",
                    f"{r['r96']['bpp1']:.3f}",
                    f"{r['r96']['psnr']:.2f}",
                )
                for r in chosen
            ],
        )
    )
    searched = [row for row in rows if "rate_change" in row]
    if searched:
        lines.append(
            "\nThen what decodes learnt from latents that went on being searched for as it changed "
            "(docs/training.md): bits at equal PSNR against its start, other validation crops.\n"
        )
        lines.append(
            table(
                ("minutes", "steps", *(f"r = {rate}" for rate in searched[0]["rates"])),
                [
                    (
                        f"{r['minutes']:.0f}",
                        str(r["step"]),
                        *(f"{change:+.2f} %" for change in r["rate_change"]),
                    )
                    for r in searched
                ],
            )
        )
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Write the card of a weights folder.")
    parser.add_argument("folder", type=Path, help="weights/CODEC/TAG")
    parser.add_argument("benches", type=Path, nargs="*", metavar="bench.json")
    parser.add_argument("--data", type=Path, help="folder of the training crops, with index.jsonl")
    parser.add_argument("--base", help="tag whose transforms weights with order 2 have")
    wish = parser.parse_args(arguments)
    facts = json.loads((wish.folder / "export.json").read_text())
    if "families_serial" in facts:
        if wish.data is None or wish.base is None:
            parser.error("weights with order 2 need --data and --base, the tag that they were made of")
        text = serial_card(wish.folder, wish.base, wish.data)
    else:
        text = card(wish.folder, wish.benches, wish.data)
    (wish.folder / "card.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])

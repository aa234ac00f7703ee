"""The model card: front matter that the Hub's own parser understands, figures that stand in the reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from licodec.store.publish import FRONT_MATTER
from licodec.training.card import card, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = ROOT / "weights" / "fhic" / "s-1" / "export.json"
    target = tmp_path / "fhic" / source.parent.name
    target.mkdir(parents=True)
    for name in ("export.json", "training.jsonl"):
        shutil.copy(source.with_name(name), target)
    return target


def report(path: Path, *, msssim: list[float] | None) -> Path:
    deltas = {"psnr": {"value": -12.5}, "psnr_30_38": {"value": -11.0}}
    codec: dict[str, Any] = {
        "title": "fhic",
        "kind": "learned",
        "settings": [10.0, 50.0],
        "bpp": [0.0598, 0.3625],
        "psnr": [25.544, 30.997],
        "msssim": msssim,
        "bd_rate": {"WebP": deltas},
    }
    images = {"source": path.stem, "pictures": {"one": [30, 20], "two": [30, 20]}}
    path.write_text(json.dumps({"images": images, "codecs": {"fhic": codec}}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"source": source} for source in ("cid22", "cameras", "cameras")]
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def test_what_nets_learnt_from_searches_is_in_a_table_of_its_own(folder: Path) -> None:
    log = folder / "training.jsonl"
    row = {"step": 835, "minutes": 10.01, "rates": [32, 96], "rate_change": [-2.322, 0.5]}
    log.write_text(log.read_text() + json.dumps(row) + "\n")
    text = card(folder, ())
    assert "| minutes | steps | r = 32 | r = 96 |" in text and "| 10 | 835 | -2.32 % | +0.50 % |" in text


def test_a_card_of_everything_says_what_the_hub_wants_to_know(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    benches = [
        report(tmp_path / "kodak.json", msssim=[0.8537, 0.96135]),
        report(tmp_path / "val.json", msssim=None),
    ]
    main([str(folder), *map(str, benches), "--data", str(data)])
    text = (folder / "card.md").read_text()
    said: Any = ModelCard(text).data
    assert all(getattr(said, field) for field in FRONT_MATTER)
    assert said.license == "apache-2.0" and said.library_name == "licodec"
    assert said.datasets == ["cameras", "cid22"] and said.metrics == ["psnr", "ms-ssim"]
    assert said.eval_results is not None
    found = {
        (result.dataset_type, result.metric_type, result.metric_name): result.metric_value
        for result in said.eval_results
    }
    assert found["kodak", "psnr", "psnr at quality 50, 0.362 bpp"] == 30.997
    assert found["kodak", "ms-ssim", "ms-ssim at quality 10, 0.060 bpp"] == 0.8537
    assert len(found) == 6
    assert "| cameras | 2 |" in text and "-12.5 %" in text
    assert json.loads((folder / "export.json").read_text())["decode_digest"] in text


def test_a_card_leaves_out_what_nobody_has_measured(folder: Path) -> None:
    from huggingface_hub import ModelCard

    said: Any = ModelCard(card(folder, ())).data
    assert said.license == "apache-2.0"
    assert not said.metrics and not said.datasets and not said.eval_results


def test_a_card_of_order_2_compares_it_with_order_1(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "fhic" / "s-serial-1"
    shutil.copytree(ROOT / "weights" / "fhic" / "s-serial-1", folder, ignore=shutil.ignore_patterns("*.md"))
    main([str(folder), "--base", "s-1", "--data", str(data)])
    text = (folder / "card.md").read_text()
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    one, two = rows[-1]["bpp2"][0], next(row["bpp1"] for row in rows if "bpp1" in row)[0]
    assert f"| 32 | {two:.4f} | {one:.4f} | {100 * (one / two - 1):+.1f} % |" in text
    assert "| cameras | 2 |" in text
    front = text.split("---\n")[1]
    assert all(f"{name}:" in front for name in FRONT_MATTER)
    with pytest.raises(SystemExit):
        main([str(folder), "--data", str(data)])

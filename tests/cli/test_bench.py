from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import picture

Command = Callable[..., tuple[int, bytes, str]]


def test_bench_prints_a_table_and_fills_the_folder(licodec_command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    out_folder = tmp_path / "out"
    status, out, err = licodec_command(
        "bench", "--images", tmp_path, "--codecs", "jpeg, webp", "--out", out_folder, "--quick"
    )
    assert (status, err) == (0, "")
    assert "| WebP m6 |" in out.decode()
    assert {"bench.json", "table.md", "rd.png"} <= {file.name for file in out_folder.iterdir()}
    assert json.loads((out_folder / "bench.json").read_text())["images"]["pictures"] == {"a": [20, 30, 3]}


def test_bench_prints_json_when_asked(licodec_command: Command, photo: Path) -> None:
    status, out, _ = licodec_command("bench", "--images", photo, "--codecs", "webp", "--quick", "--json")
    assert status == 0 and list(json.loads(out)["codecs"]) == ["webp"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--codecs", "jpeg,mozjpeg"), "mozjpeg"),
        (("--images", "nowhere"), "nowhere"),
        (("--qualities", "10,200"), "200"),
        (("--efforts", "1,10"), "10"),
        (("--efforts", "1,2", "--environments"), "efforts"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    licodec_command: Command, photo: Path, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = licodec_command("bench", "--images", photo, "--codecs", "jpeg", *arguments)
    assert (status, out) == (2, b"") and words in err and err.count("\n") == 1


def test_a_missing_library_is_named_with_the_way_to_get_it(
    licodec_command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = licodec_command("bench", "--images", photo)
    assert status == 1 and "matplotlib" in err and "licodec[bench]" in err

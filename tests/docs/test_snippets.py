"""What README.md and docs/ show is run as it stands.

Every `python` and `console` block runs, in the order of its page, in a temporary folder that holds
`photo.png`. The blocks of a page share their names. A console block's commands are its lines that begin with
`$ `; the other lines are output, for readers. A block is left out only by a comment right above it: `<!-- not
run: the reason -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.is_file()]
FENCE = re.compile(
    r"^(?P<reason><!-- not run: .+? -->\n)?```(?P<language>python|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    runs: bool


def blocks_of(page: str) -> list[Block]:
    return [
        Block(
            found["language"],
            found["text"],
            page.count("\n", 0, found.start("text")) + 1,
            found["reason"] is None,
        )
        for found in FENCE.finditer(page)
    ]


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    code = "\n" * (block.line - 1) + block.text  # so that a traceback shows the page's line
    exec(compile(code, str(page), "exec"), names)


def run_console(block: Block, page: Path, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}",
    }
    commands = "\n".join(line[2:] for line in block.text.splitlines() if line.startswith("$ "))
    assert commands, f"{page.name}:{block.line} has no line that begins with '$ '"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout}\n{done.stderr}"


def photograph(path: Path) -> None:
    example = ROOT / "examples" / "photo.png"
    if example.is_file():
        shutil.copy(example, path)
        return
    y, x = np.mgrid[0:256, 0:384]
    planes = [127 + 90 * np.sin(x / (19 + 5 * channel)) * np.cos(y / 23) for channel in range(3)]
    PIL.Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photograph(tmp_path / "photo.png")
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks_of(page.read_text()):
        if not block.runs:
            continue
        if block.language == "python":
            run_python(block, page, names)
        else:
            run_console(block, page, tmp_path)


def test_blocks_are_found_with_their_lines_and_left_out_only_with_a_reason() -> None:
    page = (
        "text\n```python\na = 1\n```\n\n<!-- not run: hours -->\n```console\n$ train\n```\n```text\nno\n```\n"
    )
    assert blocks_of(page) == [Block("python", "a = 1\n", 3, True), Block("console", "$ train\n", 8, False)]


def test_a_failing_block_fails_with_the_line_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (block,) = blocks_of("one\n\n```python\nx = 1\nraise ValueError(x)\n```\n")
    with pytest.raises(ValueError) as caught:
        run_python(block, page, {})
    assert caught.traceback[-1].lineno + 1 == 5
    (block,) = blocks_of("```console\n$ false\n$ true\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        run_console(block, page, tmp_path)

"""The chapter "Entropy stream" of the specification says what the code does: its numbers and examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from licodec.entropy.tables import LIMIT_MAX, SYMBOL_MAX, TOTAL, load_set
from tests.entropy.test_stream import GOLDEN_PASSES, GOLDEN_SEAL, GOLDEN_STREAM, GOLDEN_WORDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chapter() -> str:
    """The chapter, in SPEC.md or, until it is there, in the fragment."""
    for path in (ROOT / "SPEC.md", ROOT / "docs" / "spec_entropy_fragment.md"):
        if path.exists() and "### Order of symbols" in (text := path.read_text()):
            return text.split("## Entropy stream")[1].split("\n## ")[0]
    raise AssertionError("no document has the chapter on the entropy stream")


def test_the_chapter_names_set_1_by_its_digest(chapter: str) -> None:
    tables = load_set()
    row = next(line for line in chapter.splitlines() if line.startswith("| 1 |"))
    cells = [cell.strip(" `") for cell in row.strip("|").split("|")]
    assert cells[1] == str(tables.count)
    assert cells[3:] == [str(len(tables.to_bytes())), tables.digest.hex()]


def test_the_chapter_has_the_golden_words(chapter: str) -> None:
    for case, (bits, _, _, seal, words) in GOLDEN_WORDS.items():
        row = next(line for line in chapter.splitlines() if line.startswith(f"| {case} |"))
        assert f"`{words}`" in row
        assert case == "E" or f"| {bits}: " in row
        assert not seal or f"`{seal:08x}`" in row


def test_the_chapter_has_the_golden_stream(chapter: str) -> None:
    example = chapter.split("A stream of two passes")[1]
    digits = "".join(re.findall(r"\b[0-9a-f]{2}\b", example.split("```")[1]))
    assert bytes.fromhex(digits) == GOLDEN_STREAM
    assert f"`{GOLDEN_SEAL:08x}`" in example
    for row, part in (("symbols", 0), ("table index", 1)):
        cells = next(x for x in example.splitlines() if x.startswith(f"| {row}")).strip("|").split("|")[1:]
        assert [[int(x) for x in cell.split()] for cell in cells] == [p[part] for p in GOLDEN_PASSES]


def test_the_chapter_has_the_limits(chapter: str) -> None:
    assert f"(integers -{SYMBOL_MAX}..{SYMBOL_MAX})" in chapter
    assert f"limit L (0..{LIMIT_MAX})" in chapter
    assert f"add up to {TOTAL}" in chapter

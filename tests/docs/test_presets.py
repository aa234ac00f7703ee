"""docs/presets.md says of the presets what they are."""

from __future__ import annotations

from pathlib import Path

from tools.presets import table

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"


def test_the_table_of_presets_is_the_one_that_is_counted() -> None:
    lines = "\n".join(table())
    assert f"\n\n{lines}\n\n" in PAGE.read_text(encoding="utf-8"), "print it again with tools/presets.py"

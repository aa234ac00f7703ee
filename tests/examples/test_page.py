"""examples/README.md names every example, and shows commands that exist and what they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import samples
from tests.examples.page import CONSOLE, PAGE, ROOT, masked, shown

PROGRAMS = sorted(path.name for path in PAGE.parent.glob("*.py"))


def test_every_example_is_described_shown_and_tested() -> None:
    page = PAGE.read_text()
    assert re.findall(r"^\| `(\w+\.\w+)` \|", page, re.MULTILINE) == [
        "demo.py", "photo.png", *re.findall(r"^## `(\w+\.py)`$", page, re.MULTILINE)
    ]  # fmt: skip
    for name in PROGRAMS:
        assert f"`{name}`" in page
        if name != "demo.py":  # which is its own page's first command, `make demo`
            assert shown(f"python examples/{name} "), f"{name} is run nowhere on the page"
        if name not in ("demo.py", "samples.py"):
            assert (Path(__file__).parent / f"test_{name}").is_file()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_says_at_its_head_how_it_is_run(name: str) -> None:
    text = (PAGE.parent / name).read_text()
    assert f"\npython examples/{name} " in text.split('"""')[1]


def test_every_command_of_the_page_names_a_file_of_this_folder() -> None:
    commands = shown("python ")
    assert len(commands) >= len(PROGRAMS) - 1 and all(
        "\n$ " in f"\n{each}" for each in CONSOLE.findall(PAGE.read_text())
    )
    for command in commands:
        assert (ROOT / command.command.split()[1]).is_file(), command


def test_the_samples_are_those_of_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = shown("python examples/samples.py")
    before = {path: path.read_bytes() for path in here.rglob("*.lic")}
    samples.main(command.arguments)
    assert masked(capsys.readouterr().out.splitlines()) == masked(command.lines)
    assert {path: path.read_bytes() for path in before} == before

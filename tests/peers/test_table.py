"""The table of peers: `.lic` keeps every row, others keep them too, and a careless plugin keeps none."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from tests.peers import careless
from tests.peers.formats import FORMATS
from tests.peers.probes import ROWS, Finding, Scale
from tools import peers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "peers.md"
HUNDRED_RUNS = Scale(medium=(320, 240), rounds=10, images=10)
QUICK = Scale(medium=(240, 180), large=(640, 480), rounds=1, images=3, damages=60, repeats=12)

# Rows that some format of Pillow's own keeps, and one that does: what is asked can be had.
ALSO_KEPT_BY = {
    "l": "png",
    "la": "png",
    "i16": "png",
    "f": "png",
    "cmyk": "jpeg",
    "p": "png",
    "rgb-key": "png",
    "exif-none": "png",
    "exif-object": "jpeg",
    "orientation": "webp",
    "dpi": "jpeg",
    "threads-own": "png",
    "pickle": "webp",
    "sink": "png",
    "failed-save-new": "png",
    "parser": "png",
    "parser-cut": "jpeg",
    "truncated": "png",
    "truncated-allowed": "jpeg",
    "damages": "png",
    "verify": "png",
    "after-with": "webp",
    "memory": "png",
    "quality": "webp",
    "lossless": "png",
    "save-all": "webp",
    "empty": "png",
}
# A plugin that knows nothing of these keeps them all the same: Pillow does it.
PILLOW_KEEPS = {"threads-own", "pickle", "failed-save-new"}


def found(row: str, name: str, scale: Scale = QUICK) -> Finding:
    FORMATS[name].prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ROWS[row].probe(FORMATS[name], scale)


@pytest.mark.parametrize("row", [row for row in ROWS if not ROWS[row].timing])
def test_lic_keeps_every_row(row: str) -> None:
    finding = found(row, "lic")
    assert finding.kept is not False, finding.seen


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if ROWS[row].long])
def test_lic_keeps_the_long_rows_at_full_scale(row: str) -> None:
    finding = found(row, "lic", Scale())
    assert finding.kept is not False, finding.seen


@pytest.mark.slow
def test_a_hundred_images_loaded_by_eight_threads_each() -> None:
    assert found("threads", "lic", HUNDRED_RUNS) == Finding("800/0/0", True)


@pytest.mark.parametrize("row", ALSO_KEPT_BY)
def test_what_is_asked_of_lic_another_format_keeps_too(row: str) -> None:
    finding = found(row, ALSO_KEPT_BY[row])
    assert finding.kept, finding.seen


@pytest.mark.parametrize("row", [row for row in ROWS if row not in PILLOW_KEEPS])
def test_every_probe_notices_a_careless_plugin(row: str) -> None:
    with careless.registered() as format, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finding = ROWS[row].probe(format, QUICK)
    assert finding.kept is False, finding.seen


# --- the page -------------------------------------------------------------------------------------


def cells_of_the_page() -> dict[str, str]:
    """The last column of the first table of docs/peers.md, by row."""
    titles = {row.title: name for name, row in ROWS.items()}
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    heading, *rest = [line.strip("| ").split(" | ") for line in lines]
    assert heading[-1] == FORMATS["lic"].title
    return {titles[line[0]]: line[-1] for line in rest[1:] if len(line) == len(heading)}


def test_the_page_has_every_row_and_no_failure_of_ours() -> None:
    cells = cells_of_the_page()
    assert list(cells) == list(ROWS)
    assert not [cell for cell in cells.values() if "**" in cell]


@pytest.mark.parametrize("row", [row for row in ROWS if not ROWS[row].long])
def test_our_column_says_what_the_probe_finds(row: str) -> None:
    assert cells_of_the_page()[row] == peers.shown(found(row, "lic", Scale()))


# --- the program ----------------------------------------------------------------------------------


def test_a_crash_a_hang_and_an_error_are_findings() -> None:
    def program(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    crash = peers.measured(program("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert crash == Finding("crash (SIGSEGV)", False)
    hang = peers.measured(program("import time; time.sleep(60)"), limit=0.5)
    assert hang == Finding("no end in 0.5 s", False)
    error = peers.measured(program("import decimal; raise decimal.DivisionByZero('at one')"))
    assert error == Finding("DivisionByZero", False)
    right = peers.measured(program('print(\'noise\'); print(\'{"seen": "ok", "kept": true}\')'))
    assert right == Finding("ok", True)


def test_a_table_of_two_cells_and_what_ours_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--rows", "l", "--formats", "png,jpeg", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == (
        "| behaviour | PNG | JPEG |\n| --- | --- | --- |\n| L saved and reopened | L | L |\n"
    )
    rows = {"l": ROWS["l"], "dpi": ROWS["dpi"]}
    findings = {("l", "lic"): Finding("RGB", False), ("dpi", "lic"): Finding("yes", True)}
    table = peers.Table(rows, ["lic"], findings)
    assert table.failures == ["L saved and reopened"]
    assert "| L saved and reopened | **RGB** |" in peers.page(table)
    assert "fails 1 of 2 rows" in peers.page(table)


def test_part_of_the_table_is_never_written_as_the_page(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--rows", "l", "--out", str(tmp_path / "x.md")])
    assert not (tmp_path / "x.md").exists()

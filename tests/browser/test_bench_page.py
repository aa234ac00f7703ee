"""The page of `licodec bench --html` as it is seen and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from licodec.evaluation.bench import BenchResult, CodecResult, Trial
from licodec.evaluation.views import bench_page

from .conftest import Driver, box, screenshot

pytestmark = pytest.mark.browser

Show = Callable[..., Driver]
NAMES = ("a <b>&amp;</b>", "b", "c")


def codec(name: str, kind: str, factors: tuple[float, ...]) -> CodecResult:
    """Measured on three pictures; its files are that many times as large as those of the others."""
    trials = [
        Trial(
            picture, setting, 10_000, round(factor * 200 * 2**i), 28.0 + 3 * i, 0.8 + 0.04 * i,
            (9.0 + i,), (4.0,), ({},), ({},), None,
        )
        for picture, factor in zip(NAMES, factors, strict=True)
        for i, setting in enumerate((10.0, 40.0, 70.0, 90.0))
    ]  # fmt: skip
    return CodecResult(name, f"Title of {name}", kind, (10.0, 40.0, 70.0, 90.0), tuple(trials))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = BenchResult(
        {"processor": "some <i>processor</i>"},
        "set",
        dict.fromkeys(NAMES, (100, 100, 3)),
        False,
        (codec("ours", "learned", (0.9, 0.5, 1.2)), codec("webp", "classical", (1.0, 1.0, 1.0))),
    )
    page = tmp_path_factory.mktemp("pages") / "bench.html"
    page.write_bytes(bench_page(result))
    return page


def column(driver: Driver, table: int, position: int) -> list[str]:
    rows = driver.find_elements("css selector", "table.sortable")[table].find_elements(
        "css selector", "tbody tr"
    )
    return [row.find_elements("css selector", "th, td")[position].text for row in rows]


def test_the_plot_is_drawn(show: Show, path: Path) -> None:
    driver = show(path, 1200, 900)
    left, top, right, bottom = box(driver, ".plot img")
    plot = screenshot(driver)[top : min(bottom, 900), left:right]
    assert right - left > 800 and len({tuple(pixel) for pixel in plot.reshape(-1, 3)[::7].tolist()}) > 20


def test_tables_are_sorted_by_a_click_on_a_column(show: Show, path: Path) -> None:
    driver = show(path)
    heads = driver.find_elements("css selector", "table.sortable")[0].find_elements(
        "css selector", "thead th"
    )
    assert [head.text for head in heads] == ["picture", "pixels", "against Title of webp"]
    assert column(driver, 0, 2) == ["-10.0 %", "-50.0 %", "+20.0 %"]
    against = heads[2].find_element("tag name", "button")
    against.click()
    assert column(driver, 0, 2) == ["-50.0 %", "-10.0 %", "+20.0 %"]
    assert column(driver, 0, 0) == ["b", NAMES[0], "c"]
    assert heads[2].get_attribute("aria-sort") == "ascending"
    against.click()
    assert column(driver, 0, 2) == ["+20.0 %", "-10.0 %", "-50.0 %"]
    heads[0].find_element("tag name", "button").click()
    assert column(driver, 0, 0) == list(NAMES)
    assert (heads[0].get_attribute("aria-sort"), heads[2].get_attribute("aria-sort")) == ("ascending", None)


def test_every_point_is_there_when_asked_for_and_sorts_as_numbers(show: Show, path: Path) -> None:
    driver = show(path)
    driver.find_element("tag name", "summary").click()
    assert len(column(driver, 1, 0)) == 2 * 3 * 4
    driver.find_elements("css selector", "table.sortable")[1].find_elements("tag name", "button")[3].click()
    sizes = [int(text.replace(",", "")) for text in column(driver, 1, 3)]
    assert sizes == sorted(sizes) and min(sizes) < 1000 < max(sizes)


def test_a_phone_needs_no_scrolling_sideways(show: Show, path: Path) -> None:
    driver = show(path, 360, 740)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 360


def test_names_are_text(show: Show, path: Path) -> None:
    driver = show(path)
    assert column(driver, 0, 0)[0] == NAMES[0]
    assert driver.find_element("tag name", "footer").text == "processor some <i>processor</i>"

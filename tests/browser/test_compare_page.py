"""The page of `licodec compare` as it is seen and used: the screen is held against the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from licodec.evaluation.compare import Comparison, Original, compare
from licodec.evaluation.views import comparison_page

from .conftest import ROOT, Driver, Samples, box, screenshot

pytestmark = pytest.mark.browser

Show = Callable[..., Driver]
HEIGHT, WIDTH = 240, 360
NEAR_LINE = 26
"""Pixels beside the line that its handle and its shadow cover."""
TAGS, CORNERS = 40, 8
"""Rows at the top of the stage that names may cover, and at its end those that are not rectangular."""
ORIGINAL, OURS, WEBP, AVIF = range(4)


@pytest.fixture(scope="module")
def found() -> Comparison:
    """A part of a photograph, coded by fhic and two peers."""
    from licodec import Decoder, Encoder

    with Image.open(ROOT / "examples" / "photo.png") as image:
        pixels = np.asarray(image.convert("RGB"))[130 : 130 + HEIGHT, 300 : 300 + WIDTH].copy()
    coders = Encoder(device="cpu"), Decoder(device="cpu")
    return compare(Original(pixels), *coders, quality=15, peers=["webp", "avif"])


@pytest.fixture(scope="module")
def path(found: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("pages"), found)


def written(folder: Path, found: Comparison, name: str = "photo.png") -> Path:
    page = folder / "page.html"
    page.write_bytes(comparison_page(found, name, "on this machine"))
    return page


@pytest.fixture(scope="module")
def samples(found: Comparison) -> list[Samples]:
    """What the page holds, in its order."""
    return [found.pixels, *(rendition.pixels for rendition in found.renditions)]


def click(driver: Driver, name: str) -> None:
    driver.find_element("id", name).click()


def choose(driver: Driver, side: str, index: int) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", side)).select_by_index(index)


def drag(driver: Driver, selector: str, by: tuple[int, int], start: tuple[int, int] = (0, 0)) -> None:
    """Drag an element, held at `start` from its middle."""
    from selenium.webdriver import ActionChains

    element = driver.find_element("css selector", selector)
    chain = ActionChains(driver, duration=50).move_to_element_with_offset(element, *start)
    chain.click_and_hold().move_by_offset(*by).release().perform()


def press(driver: Driver, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def text(driver: Driver, name: str) -> str:
    return str(driver.find_element("id", name).text)


def line(driver: Driver) -> int:
    left, _, right, _ = box(driver, "#divider")
    return (left + right) // 2


def assert_shown(driver: Driver, left: Samples, right: Samples, scale: int) -> None:
    """The stage shows one picture left of the line and the other right of it, each sample as a square."""
    window = screenshot(driver)
    x0, y0, x1, y1 = box(driver, "#stage")
    at_x, at_y, end_x, _ = box(driver, "#world img")
    assert end_x - at_x == scale * WIDTH
    rows = np.arange(max(y0 + TAGS, at_y), min(y1 - CORNERS, at_y + scale * HEIGHT))
    seen = 0
    for picture, first, last in (
        (left, max(x0, at_x), min(x1, end_x, line(driver) - NEAR_LINE)),
        (right, max(x0, at_x, line(driver) + NEAR_LINE), min(x1, end_x)),
    ):
        columns = np.arange(first, max(first, last))
        expected = picture[np.ix_((rows - at_y) // scale, (columns - at_x) // scale)]
        assert np.array_equal(window[np.ix_(rows, columns)], expected)
        seen += columns.size
    assert rows.size > 100 and seen > 250


# --- the line -------------------------------------------------------------------------------------


def test_left_of_the_line_is_the_original_and_right_of_it_is_ours(
    show: Show, path: Path, samples: list[Samples]
) -> None:
    driver = show(path)
    x0, _, x1, _ = box(driver, "#stage")
    assert line(driver) == (x0 + x1) // 2
    assert (text(driver, "left-tag"), text(driver, "right-tag")) == ("Original", "fhic s-1")
    assert not np.array_equal(samples[ORIGINAL], samples[OURS])
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 2)


def test_the_line_goes_where_it_is_dragged_and_the_pictures_follow(
    show: Show, path: Path, samples: list[Samples]
) -> None:
    driver = show(path)
    start = line(driver)
    for by in (-170, 300):
        before = line(driver)
        drag(driver, "#divider", (by, 15))
        assert line(driver) == before + by
        assert_shown(driver, samples[ORIGINAL], samples[OURS], 2)
    assert line(driver) == start + 130
    drag(driver, "#divider", (20 - line(driver), 0))
    drag(driver, "#divider", (-15, 0))
    assert driver.find_element("id", "divider").get_attribute("aria-valuenow") == "0"
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 2)


def test_a_click_on_a_picture_that_fits_puts_the_line_there(show: Show, path: Path) -> None:
    driver = show(path)
    before = line(driver)
    drag(driver, "#stage", (0, 0), start=(-200, 30))
    assert line(driver) == before - 200


def test_the_line_moves_by_keys(show: Show, path: Path, samples: list[Samples]) -> None:
    from selenium.webdriver import Keys

    driver = show(path)
    divider = driver.find_element("id", "divider")
    driver.find_element("id", "stage").send_keys(Keys.TAB)
    assert driver.switch_to.active_element == divider
    for keys, value in (
        ((Keys.ARROW_LEFT,) * 3, "47"),
        ((Keys.ARROW_RIGHT,), "48"),
        ((Keys.PAGE_UP,), "58"),
        ((Keys.END,), "100"),
        ((Keys.HOME,), "0"),
        ((Keys.SHIFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.SHIFT), "20"),
    ):
        divider.send_keys(*keys)
        assert divider.get_attribute("aria-valuenow") == value
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 2)


# --- which two ------------------------------------------------------------------------------------


def test_any_two_are_shown_beside_each_other(show: Show, path: Path, samples: list[Samples]) -> None:
    driver = show(path)
    choose(driver, "left", WEBP)
    choose(driver, "right", AVIF)
    assert_shown(driver, samples[WEBP], samples[AVIF], 2)
    assert (text(driver, "left-tag"), text(driver, "right-tag")) == ("WebP m6", "AVIF default")
    click(driver, "swap")
    assert_shown(driver, samples[AVIF], samples[WEBP], 2)
    choose(driver, "right", AVIF)
    assert_shown(driver, samples[AVIF], samples[AVIF], 2)


# --- zoom -----------------------------------------------------------------------------------------


def test_zoomed_in_samples_are_squares_and_the_middle_stays(
    show: Show, path: Path, samples: list[Samples]
) -> None:
    driver = show(path)
    click(driver, "actual")
    assert text(driver, "zoom") == "100 %"
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 1)
    for _ in range(3):
        click(driver, "in")
    assert text(driver, "zoom") == "800 %"
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 8)
    x0, y0, x1, y1 = box(driver, "#stage")
    at_x, at_y, end_x, end_y = box(driver, "#world img")
    assert abs((x0 + x1) - (at_x + end_x)) <= 2 and abs((y0 + y1) - (at_y + end_y)) <= 2
    click(driver, "out")
    assert text(driver, "zoom") == "400 %"
    click(driver, "fit")
    assert text(driver, "zoom") == "200 %"
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 2)


def test_a_picture_larger_than_the_stage_is_panned_and_never_leaves_it(
    show: Show, path: Path, samples: list[Samples]
) -> None:
    from selenium.webdriver import Keys

    driver = show(path)
    for _ in range(2):
        click(driver, "in")
    before, split = box(driver, "#world img"), line(driver)
    drag(driver, "#stage", (-90, 47), start=(200, 50))
    after = box(driver, "#world img")
    assert (after[0] - before[0], after[1] - before[1]) == (-90, 47) and line(driver) == split
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 8)
    press(driver, Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    moved = box(driver, "#world img")
    assert moved[0] > after[0] and moved[1] < after[1]
    for _ in range(8):
        drag(driver, "#stage", (400, 200), start=(-200, -100))
    assert box(driver, "#world img")[:2] == box(driver, "#stage")[:2]
    assert_shown(driver, samples[ORIGINAL], samples[OURS], 8)


def test_the_wheel_with_ctrl_zooms_where_it_points_and_alone_scrolls_the_page(show: Show, path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.support.ui import WebDriverWait

    driver = show(path, 1000, 500)
    stage = driver.find_element("id", "stage")
    origin = ScrollOrigin.from_element(stage, 100, -60)
    middle = [sum(box(driver, "#stage")[side::2]) / 2 for side in (0, 1)]
    point = middle[0] + 100, middle[1] - 60

    def sample_at_point() -> list[float]:
        left, top, right, bottom = box(driver, "#world img")
        return [(point[0] - left) / (right - left) * WIDTH, (point[1] - top) / (bottom - top) * HEIGHT]

    for _ in range(2):
        click(driver, "in")
    assert text(driver, "zoom") == "400 %"
    before = sample_at_point()
    wheel = (
        ActionChains(driver).key_down(Keys.CONTROL).scroll_from_origin(origin, 0, -240).key_up(Keys.CONTROL)
    )
    wheel.perform()
    assert int(text(driver, "zoom").split()[0]) > 600
    assert sample_at_point() == pytest.approx(before, abs=1)
    assert driver.execute_script("return scrollY") == 0
    ActionChains(driver).scroll_from_origin(origin, 0, 120).perform()
    WebDriverWait(driver, 30).until(lambda driver: driver.execute_script("return scrollY") > 0)


def test_two_fingers_zoom(show: Show, path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions import interaction

    driver = show(path)
    x0, y0, x1, y1 = box(driver, "#stage")
    x, y = (x0 + x1) // 2 + 150, (y0 + y1) // 2
    builder = ActionBuilder(driver)
    fingers = [builder.add_pointer_input(interaction.POINTER_TOUCH, name) for name in ("one", "two")]
    for finger, way in zip(fingers, (-1, 1), strict=True):
        finger.create_pointer_move(duration=0, x=x + 30 * way, y=y)
        finger.create_pointer_down(button=0)
        finger.create_pointer_move(duration=100, x=x + 60 * way, y=y)
        finger.create_pointer_up(button=0)
    builder.perform()
    assert text(driver, "zoom") == "400 %"


# --- errors ---------------------------------------------------------------------------------------


def error_map(original: Samples, coded: Samples, factor: int) -> Samples:
    difference = np.abs(original.astype(np.int32) - coded)
    amplified: Samples = np.minimum(factor * difference, 255).astype(np.uint8)
    return amplified


def test_the_error_map_shows_amplified_differences_from_the_original(
    show: Show, path: Path, samples: list[Samples]
) -> None:
    driver = show(path)
    click(driver, "error")
    wait_for_maps(driver, 1)
    assert (text(driver, "left-tag"), text(driver, "right-tag")) == ("Original", "Error of fhic s-1, \u00d78")
    assert_shown(driver, samples[ORIGINAL], error_map(samples[ORIGINAL], samples[OURS], 8), 2)
    choose(driver, "left", WEBP)
    wait_for_maps(driver, 2)
    choose(driver, "factor", 1)
    wait_for_maps(driver, 2, factor=4)
    assert text(driver, "left-tag") == "Error of WebP m6, \u00d74"
    assert_shown(
        driver,
        error_map(samples[ORIGINAL], samples[WEBP], 4),
        error_map(samples[ORIGINAL], samples[OURS], 4),
        2,
    )
    click(driver, "error")
    assert_shown(driver, samples[WEBP], samples[OURS], 2)


def wait_for_maps(driver: Driver, count: int, factor: int = 8) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return document.querySelectorAll(`#world canvas.seen[data-factor='${arguments[0]}']`).length"
    WebDriverWait(driver, 30).until(lambda driver: driver.execute_script(script, factor) == count)


def test_a_profile_changes_colours_but_no_errors(
    show: Show, found: Comparison, samples: list[Samples], tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Red's primary is blue's, and the other way round.
    swapped = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    original = dataclasses.replace(found.original, profile=swapped)
    driver = show(written(tmp_path, dataclasses.replace(found, original=original)))
    left, top, _, _ = box(driver, "#world img")
    shown = screenshot(driver)[top + TAGS : top + 300 : 2, left : left + 300 : 2].astype(int)
    expected = samples[ORIGINAL][TAGS // 2 : 150, :150, ::-1].astype(int)
    assert np.abs(shown - expected).mean() < 2
    click(driver, "error")
    wait_for_maps(driver, 1)
    right = screenshot(driver)
    at = line(driver) + NEAR_LINE
    columns = np.arange(at, left + 2 * WIDTH)
    rows = np.arange(top + TAGS, top + 2 * HEIGHT)
    map_of = error_map(samples[ORIGINAL], samples[OURS], 8)
    assert np.array_equal(
        right[np.ix_(rows, columns)], map_of[np.ix_((rows - top) // 2, (columns - left) // 2)]
    )


# --- the page -------------------------------------------------------------------------------------


def test_the_table_shows_what_was_measured(show: Show, path: Path, found: Comparison) -> None:
    driver = show(path)
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in driver.find_elements("css selector", "tbody tr")
    ]
    assert [row[0] for row in rows] == [one.title for one in found.renditions]
    for row, one in zip(rows, found.renditions, strict=True):
        assert row[1:5] == [f"{one.setting:g}", f"{one.size:,}", f"{one.bpp:.3f}", f"{one.psnr:.2f}"]
        assert row[5] == f"{one.ms_ssim:.4f}"


@pytest.mark.parametrize("width", [320, 390, 700])
def test_a_phone_needs_no_scrolling_sideways(show: Show, path: Path, width: int) -> None:
    driver = show(path, width, 740)
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    for name in ("left", "right", "swap", "in", "out", "fit", "actual", "error", "factor", "stage"):
        left, _, right, _ = box(driver, f"#{name}")
        assert 0 <= left < right <= width
    x0, _, x1, _ = box(driver, "#stage")
    at_x, _, end_x, _ = box(driver, "#world img")
    assert x0 <= at_x < end_x <= x1


def test_a_window_that_changes_keeps_the_picture_fitting(show: Show, path: Path) -> None:
    driver = show(path, 1000, 800)
    assert text(driver, "zoom") == "200 %"
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 300, "height": 600, "deviceScaleFactor": 1, "mobile": False},
    )
    screenshot(driver)
    assert int(text(driver, "zoom").split()[0]) < 80
    assert box(driver, "#world img")[2] <= 300


def test_the_page_follows_a_dark_system(show: Show, path: Path) -> None:
    driver = show(path)
    assert screenshot(driver)[2, 2].min() > 240
    features = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    try:
        assert screenshot(driver)[2, 2].max() < 40
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_loaded_from_elsewhere(show: Show, path: Path) -> None:
    driver = show(path)
    names = driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_a_name_that_is_a_script_stays_a_name(show: Show, found: Comparison, tmp_path: Path) -> None:
    name = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>\"' $stage.png"
    driver = show(written(tmp_path, found, name))
    assert driver.find_element("tag name", "h1").text == name
    assert driver.title == f"{name}: fhic s-1 and peers"
    assert len(driver.find_elements("tag name", "script")) == 1


def test_without_scripts_the_pictures_stand_below_each_other(show: Show, path: Path) -> None:
    driver = show(path)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(path.as_uri())
        shown = driver.find_elements("css selector", "#world img")
        tops = [picture.location["y"] for picture in shown]
        assert all(picture.is_displayed() for picture in shown) and tops == sorted(set(tops))
        assert not driver.find_element("id", "swap").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_picture_of_one_pixel_is_shown(show: Show, found: Comparison, tmp_path: Path) -> None:
    pixels = [np.array([[colour]], np.uint8) for colour in ((200, 30, 10), (190, 40, 20))]
    ours = dataclasses.replace(found.ours, pixels=pixels[1], ms_ssim=None)
    one = Comparison(Original(pixels[0]), (0, 0, 1, 1), (ours,))
    driver = show(written(tmp_path, one))
    left, top, right, bottom = box(driver, "#world img")
    assert (right - left, bottom - top) == (64, 64)
    drag(driver, "#divider", (100, 0))
    assert screenshot(driver)[(top + bottom) // 2, (left + right) // 2].tolist() == [200, 30, 10]
    drag(driver, "#divider", (-200, 0))
    assert screenshot(driver)[(top + bottom) // 2, (left + right) // 2].tolist() == [190, 40, 20]
    assert "\N{EN DASH}" in driver.find_element("tag name", "table").text

"""Pages in a real browser: Debian's chromium, steered by its driver. `make test-browser` runs these tests.

They are skipped where selenium, chromium or chromedriver is missing. Pages are opened from files, and nothing
is loaded from anywhere else.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-color-profile=srgb", "--force-device-scale-factor=1",
)  # fmt: skip

Samples = npt.NDArray[np.uint8]
Driver = Any


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A browser with a profile of its own, for all tests."""
    pytest.importorskip("selenium", reason="selenium is not installed; make test-browser")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"{' and '.join(missing)} not installed; make test-browser INSTALL=1")
    # Selenium would otherwise look for a driver, and tell of its use, on the network.
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(found["chromedriver"]))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def show(browser: Driver) -> Iterator[Callable[..., Driver]]:
    """Open a page in a window of so many pixels; its console must stay empty until the test is over."""

    def call(page: Path, width: int = 1000, height: int = 800) -> Driver:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(page.as_uri())
        browser.execute_async_script(
            "const done = arguments[0];"
            "Promise.all([...document.images].map((image) => image.decode())).then(() => settle(done));"
            "function settle(then) { requestAnimationFrame(() => requestAnimationFrame(then)); }"
        )
        return browser

    browser.get_log("browser")
    yield call
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def settled(driver: Driver) -> None:
    """Wait until what was done is drawn."""
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def screenshot(driver: Driver) -> Samples:
    """What the window shows, uint8 H x W x 3."""
    settled(driver)
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
        return np.asarray(image.convert("RGB"))


def box(driver: Driver, selector: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of an element in the window, in whole pixels."""
    found = driver.execute_script(
        "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [box.left, box.top, box.right, box.bottom]",
        selector,
    )
    left, top, right, bottom = map(round, found)
    return left, top, right, bottom

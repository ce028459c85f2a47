"""Small pages for tests, and the browser that opens them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from darklens.page.builder import write_page
from darklens.page.row import PageInfo, PageRow
from darklens.page.strip import Pictures, draw_strip

CLASSES = ["no", "sphere", "vort"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()


def lens(number: int, **changes) -> PageRow:
    """A row whose figures all follow from its number, in different orders."""
    rng = np.random.default_rng(number)
    p = rng.dirichlet([0.5] * 3)
    image = rng.normal(100, 5, (40, 40)) + 100 * np.exp(-((np.hypot(*np.mgrid[-20:20, -20:20]) - 10) ** 2) / 8)
    values = {
        "name": f"lens_{number}.npy",
        "strip": draw_strip(Pictures(image, np.round(image, -1), rng.normal(size=(40, 40)))),
        "class_name": CLASSES[p.argmax()],
        "probabilities": tuple(p),
        "flag": ["", "unlike training data", "smooth lens: poor fit; unlike training data"][number % 3],
        "novelty": float(rng.gamma(4, 0.2)),
        "chi_square": float(rng.uniform(0.9, 1.5)),
        "einstein_radius": float(rng.uniform(0.8, 1.8)),
        "einstein_radius_sd": float(rng.uniform(0.001, 0.01)),
        "columns": {"id": f"J{rng.integers(1000):04d}", "ra": f"{rng.uniform(0, 360):.3f}"},
    }
    return PageRow(**values | changes)


def build(path: Path, rows, classes=CLASSES, source: str | None = None, **limits) -> Path:
    """Write a page of the rows."""
    with write_page(
        path, PageInfo("predictions.csv", classes, listed=("id", "ra"), source=source or str(path.parent)), **limits
    ) as page:
        for row in rows:
            page.add(row)
    return path


@contextmanager
def open_browser() -> Iterator:
    """A browser context without any network; skips the test where there is no browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright in this environment")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=QUIET)
        yield browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
        browser.close()


class OpenPage:
    """A page in a browser, and what a user does with it. Anything that goes wrong in it is in `problems`."""

    def __init__(self, context, path: Path):
        self.tab, self.problems, self.addresses = context.new_page(), [], []
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("console", lambda message: self.problems.append(message.text))
        self.tab.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.tab.on("request", lambda request: self.addresses.append(request.url))
        self.tab.goto(path.as_uri())

    def names(self) -> list[str]:
        """Of the rows or tiles in the document, from the top."""
        return self.tab.evaluate(
            "[...document.querySelectorAll('.cell')].sort((a, b) => a.dataset.place - b.dataset.place)"
            ".map(cell => cell.querySelector('.name').textContent)"
        )

    def selected(self) -> str:
        """The name of the selected lens, in the pane beside the list."""
        return self.tab.locator("#detail h2").inner_text()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.tab.keyboard.press(key)

    def export(self) -> str:
        """The text of the exported labels."""
        with self.tab.expect_download() as download:
            self.tab.keyboard.press("e")
        assert download.value.suggested_filename == "labels.csv"
        return Path(download.value.path()).read_bytes().decode()

"""How quickly does a page of many lenses open, sort and scroll in a browser?

    python benchmarks/page.py --lenses 2000
    python benchmarks/page.py --lenses 20000

Noisy pictures of three panels, 105 pixels a side. Needs Chromium and Playwright (`pip install ".[test]"`). Each of 200
frames scrolls 300 pixels, three lenses: 18,000 pixels a second, as fast as a flick of the finger. The reference is an
empty page. Headless Chromium draws without a GPU.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from darklens.page.builder import INLINE_BYTES, write_page  # noqa: E402
from darklens.page.row import PageInfo, PageRow  # noqa: E402
from darklens.page.strip import Pictures, Strip, draw_strip  # noqa: E402

CLASSES = ["no", "sphere", "vort"]
PICTURES = 200  # different ones
FRAMES = """async step => {
  const scroller = document.querySelector("#scroller") || document.documentElement, times = [];
  for (let k = 0; k < 200; k++) {
    scroller.scrollTop += step;
    times.push(await new Promise(requestAnimationFrame));
  }
  return times.slice(1).map((t, k) => t - times[k]);
}"""
SORT = """key => {
  const start = performance.now();
  const select = document.querySelector("#sort");
  select.value = key;
  select.dispatchEvent(new Event("change"));
  return performance.now() - start;
}"""


def main() -> None:
    """Build both kinds of page, open them, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=2000)
    lenses = parser.parse_args().lenses
    strips = draw_pictures()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>")
        pages = {"an empty page": empty}
        for kind, limit in {"one file": 2**40, "with a folder of pictures": 0}.items():
            pages[kind] = build(Path(folder) / f"{kind.split()[0]}.html", lenses, strips, limit)
        for kind, path in pages.items():
            print(f"{kind:<28}{measure(path)}")
    print(f"one file is written up to {INLINE_BYTES / 2**20:.0f} MB of pictures")


def draw_pictures() -> list[Strip]:
    """Strips of noisy rings; prints how long one takes."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    radius = np.hypot(*np.mgrid[-52:53, -52:53])
    strips = []
    for _ in range(PICTURES):
        smooth = 100 + 400 * np.exp(-((radius - rng.uniform(15, 35)) ** 2) / 50)
        residual = rng.normal(size=smooth.shape)
        strips.append(draw_strip(Pictures(smooth + np.sqrt(smooth) * residual, smooth, residual)))
    size = np.mean([len(strip.png) for strip in strips])
    print(f"pictures: {1e3 * (time.perf_counter() - start) / PICTURES:.1f} ms and {size / 1e3:.1f} kB a lens")
    return strips


def build(path: Path, lenses: int, strips: list[Strip], limit: int) -> Path:
    """Write a page; prints how long that takes."""
    rng, start = np.random.default_rng(1), time.perf_counter()
    info = PageInfo(path.stem, CLASSES)
    with write_page(path, info, max_rows=lenses, inline_bytes=limit) as page:
        for k in range(lenses):
            p = rng.dirichlet([0.5] * 3)
            figures = {"novelty": rng.gamma(4, 0.2), "chi_square": rng.uniform(0.9, 1.5)}
            cells = {name: f"{rng.uniform(0, 360):.5f}" for name in ("ra", "dec", "z", "shear", "axis_ratio")}
            strip, name, label = strips[k % PICTURES], f"lens_{k:05d}.fits", CLASSES[p.argmax()]
            page.add(PageRow(name, strip, label, tuple(p), **figures, columns=cells, embedding=rng.normal(size=64)))
    print(f"{path.name}: {time.perf_counter() - start:.1f} s to write, {path.stat().st_size / 1e6:.1f} MB")
    return path


def measure(path: Path) -> str:
    """Open a page three times, sort it, scroll it; what was found, as text."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        options = ["--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = driver.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=options)
        opened = []
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            start = time.perf_counter()
            tab.goto(path.as_uri())
            opened.append(time.perf_counter() - start)
        sort = f"sort {tab.evaluate(SORT, 'column_0'):.0f} ms, " if tab.query_selector("#sort") else ""
        frames = np.array(tab.evaluate(FRAMES, 300))
        browser.close()
    late = (frames > 34).mean()
    return (
        f"open {np.median(opened):.2f} s, {sort}frames {np.median(frames):.0f} ms in the median, "
        f"{np.percentile(frames, 95):.0f} ms at 95%, {late:.0%} later than 34 ms"
    )


if __name__ == "__main__":
    main()

"""report.html: the figures of metrics.json, in words and pictures, whatever the classes are called."""

import json
import re
from html import unescape

import numpy as np
import pytest
from page.pages import OpenPage, open_browser

from darklens.metrics.summary import evaluate
from darklens.page.run_page import scale_start, write_run_page

CLASSES = ["no", "<script>alert(1)</script>", "vort"]


@pytest.fixture
def folder(tmp_path):
    """A run as training leaves it, its pictures one white pixel each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = 2 * (labels[:, None] == np.arange(3)) + rng.normal(size=(300, 3))
    metrics = evaluate(logits, labels, CLASSES, bootstrap=200, temperature=1.3)
    metrics |= {"split": "val", "best_epoch": 4}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    record = {"arguments": {"lr": 0.005, "data_dir": "</dd><script>alert(2)</script>", "resume": None}, "seed": 3}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "ROC.png").write_bytes(
        bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55")
        + bytes.fromhex("0000000a49444154789c63f80f00010101001bb6ee560000000049454e44ae426082")
    )
    (tmp_path / "log_1.txt").write_text("epoch 1/1\n")
    return tmp_path


def text_of(path) -> str:
    """What a reader sees, tags and style left out."""
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(unescape(page).split())


def test_shows_the_figures_of_metrics_json(folder):
    text = text_of(write_run_page(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    shown = [metrics["accuracy"], *metrics["accuracy_interval"], metrics["auc"]["macro"]["value"], metrics["log_loss"]]
    shown += [one["value"] for one in metrics["auc"]["per_class"].values()]
    shown += [metrics["calibrated"][name] for name in ("log_loss", "brier_score", "expected_calibration_error")]
    assert all(f"{value:.4f}" in text for value in shown)
    counts = [f"{c} {c / sum(row):.1%}" for row in metrics["confusion_matrix"] for c in row]
    assert all(one in text for one in counts)
    assert f"{metrics['images']} images of the split val, epoch 4" in text
    assert "lr 0.005" in text and "seed 3" in text and "resume" not in text


def test_links_only_what_is_there(folder):
    page = write_run_page(folder).read_text()
    links = {link for link in re.findall(r'(?:href|src)="([^"#][^"]*)"', page) if not link.startswith("data:")}
    assert links == {"ROC.png", "ROC.pdf", "metrics.json", "run.json", "log_1.txt"}


def test_nothing_without_figures(tmp_path):
    assert write_run_page(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_run_without_intervals_and_classes_without_images(folder):
    labels = np.array([0, 1, 0, 1])
    metrics = evaluate(np.eye(3)[labels], labels, CLASSES, bootstrap=0)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "accuracy 1.0000" in text_of(write_run_page(folder))
    (folder / "metrics.json").write_text('{"images": 3}')  # of another program
    assert "3 images" in text_of(write_run_page(folder))


@pytest.mark.parametrize(
    "lowest, start", [(0.84, 0.8), (0.9, 0.9), (0.93, 0.9), (0.996, 0.995), (0.3, 0.0), (1.0, 0.9999)]
)
def test_scales_begin_at_a_round_number(lowest, start):
    assert scale_start(lowest) == pytest.approx(start)


def test_opens_in_a_browser_and_no_name_acts(folder):
    with open_browser() as context:
        page = OpenPage(context, write_run_page(folder))
        assert page.tab.locator("script").count() == 0
        assert "<script>alert(1)</script>" in page.tab.locator(".confusion").inner_text()
        widths = "[...document.querySelectorAll('img')].map(image => image.naturalWidth)"
        assert page.tab.evaluate(widths) == [1]
        assert not page.problems

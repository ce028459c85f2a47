"""Pictures that hold what they should."""

import errno
import gc
import os
import warnings

import numpy as np
import pytest
from scipy import special

from darklens.errors import ResultsError
from darklens.plots import roc, run, style

# Cut labels and empty means are faults; what a library deprecates in another library is not ours.
QUIET = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "ignore:.*deprecated")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


LONG = [f"an_unusually_long_class_name_{k}_of_dark_matter" for k in range(10)]


def network(classes, n=200, absent=None, perfect=False):
    """Probabilities (n, K), labels (n,), and a report with the keys that the pictures read."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(classes)
    labels[labels == absent] = 0
    logits = rng.normal(size=(n, len(classes)))
    logits[np.arange(n), labels] += 40 if perfect else 2
    entry = {"value": 0.97, "interval": [0.96, 0.98]}
    undefined = {"value": None, "interval": None}
    per_class = {name: undefined if k == absent else entry for k, name in enumerate(classes)}
    report = {
        "auc": {"macro": entry, "micro": {"value": 0.9, "interval": None}, "per_class": per_class},
        "expected_calibration_error": 0.02,
        "temperature": 1.3,
        "calibrated": {"expected_calibration_error": 0.01},
    }
    return special.softmax(logits, axis=1), labels, report


def symmetry(change=1e-6):
    exact = [{"name": f"turn {a}", "max": change, "mean": change / 9} for a in (90, 180, 270)]
    turned = [{"angle": a, "max": 0.1, "mean": 0.01} for a in (30, 15, 45)]
    return {"exact": exact, "interpolated": turned}


def curves(epochs):
    falling = np.linspace(1, 0.5, epochs).tolist()
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    return {name: falling for name in names}


def check(path, width, height):
    """A PNG of that many inches that is not blank, and a PDF beside it."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[:2] == pytest.approx((height * style.DPI, width * style.DPI), abs=1)
    assert 0.002 < (pixels[..., :3] < 0.9).any(axis=-1).mean() < 0.98
    pdf = path.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    assert not list(path.parent.glob(".*"))


@pytest.fixture
def figure(monkeypatch):
    """Plot functions return their figure instead of saving it."""
    monkeypatch.setattr(style, "save_figure", lambda figure, folder, stem: figure)


@QUIET
@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_pictures(tmp_path, epochs):
    paths = run.plot_curves(tmp_path, curves(epochs))
    assert [path.name for path in paths] == ["loss.png", "accuracy.png"]
    for path in paths:
        check(path, 6.4, 4.4)


def test_one_epoch_shows_markers_and_a_legend(figure):
    loss, accuracy = (f.axes[0] for f in run.plot_curves(".", curves(1)))
    assert all(line.get_marker() == "o" for line in (*loss.lines, *accuracy.lines))
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val"]
    assert loss.lines[0].get_xdata().tolist() == [1]
    assert run.plot_curves(".", {}) == []


@QUIET
@pytest.mark.parametrize(
    "classes, options",
    [
        (["no", "sphere", "vort"], {}),
        (["no_sub", "$ub"], {"perfect": True}),
        (LONG, {}),
        (["no", "sphere", "vort"], {"absent": 1}),
        (["no", "sphere", "vort"], {"n": 1}),
    ],
)
def test_roc_confusion_and_reliability(tmp_path, classes, options):
    probabilities, labels, report = network(classes, **options)
    check(roc.plot_roc(tmp_path, probabilities, labels, classes, report, resamples=4), 15, 5.4)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    side = 0.85 * len(classes)
    check(run.plot_confusion(tmp_path, counts.tolist(), classes), 2.4 + side, 2.2 + side)
    check(run.plot_reliability(tmp_path, probabilities, labels, report, probabilities**0.5), 5.6, 6.4)
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{stem}.{kind}" for stem in ("ROC", "CM", "reliability") for kind in ("png", "pdf")
    }


def test_roc_shows_the_curves_of_scikit_learn(figure):
    from sklearn.metrics import auc, roc_curve

    classes = ["no", "sphere", "vort"]
    probabilities, labels, report = network(classes)
    drawn = roc.plot_roc(".", probabilities, labels, classes, report, resamples=50)
    for axis in drawn.axes:
        for k in range(3):
            false, true, _ = roc_curve(labels == k, probabilities[:, k])
            assert np.array_equal(axis.lines[k].get_xdata(), false)
            assert np.array_equal(axis.lines[k].get_ydata(), true)
    macro = drawn.axes[0].lines[4]
    areas = [auc(*line.get_data()) for line in drawn.axes[0].lines[:3]]
    assert auc(*macro.get_data()) == pytest.approx(np.mean(areas), abs=2e-3)
    assert drawn.axes[1].get_xscale() == "log"
    texts = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert texts[1] == "sphere: 0.9700 [0.9600, 0.9800]"
    assert texts[3:] == ["micro average: 0.9000", "macro average: 0.9700 [0.9600, 0.9800]"]


def test_roc_band_holds_its_curve():
    classes = ["no", "sphere", "vort"]
    probabilities, labels, _ = network(classes, n=600)
    problems = [(labels == k, probabilities[:, k]) for k in range(3)]
    low, high = roc._macro_band(problems, 600, resamples=100, seed=0)
    middle = roc._macro_curve(problems)
    inside = (low <= middle) & (middle <= high)
    assert inside[style.GRID > 0.01].mean() > 0.95
    assert 0.005 < (high - low)[style.GRID > 0.01].max() < 0.2


def test_absent_class_is_named_in_the_legend(figure):
    classes = ["no", "sphere", "vort"]
    drawn = roc.plot_roc(".", *network(classes, absent=1)[:2], classes, network(classes, absent=1)[2], resamples=3)
    assert [text.get_text() for text in drawn.legends[0].get_texts()][1] == "sphere: not defined"


def test_confusion_cells(figure):
    axis = run.plot_confusion(".", [[90, 10], [0, 0]], ["no", "sub"]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["90\n90.0%", "10\n10.0%", "0\n–", "0\n–"]
    assert axis.texts[0].get_color() == "white" and axis.texts[1].get_color() == "black"
    assert axis.get_xlabel() == "predicted" and axis.get_ylabel() == "true"


def test_labels_fit_and_differ():
    labels = style.tick_labels(LONG, 16)
    assert len(set(labels)) == 10 and max(map(len, labels)) <= 18
    assert style.tick_labels(["no", "a$b$"]) == ["no", r"a\$b\$"]


def test_reliability_points(figure):
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.3, 0.7]] * 4)
    labels = np.array([0] * 9 + [1] + [1, 1, 0, 0])
    drawn = run.plot_reliability(".", probabilities, labels, {"expected_calibration_error": 0.1})
    points = drawn.axes[0].containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[0.7, 0.5], [0.95, 0.9]]))
    assert drawn.axes[0].get_legend().get_texts()[0].get_text() == "as trained: ECE 0.1000"


def test_reliability_intervals_are_wilson(figure):
    from scipy.stats import binomtest

    probabilities, labels = np.array([[0.95, 0.05]] * 10), np.array([0] * 9 + [1])
    drawn = run.plot_reliability(".", probabilities, labels, {"expected_calibration_error": 0.1})
    (segment,) = drawn.axes[0].containers[0].lines[2][0].get_segments()
    expected = binomtest(9, 10).proportion_ci(method="wilson")
    assert segment[:, 1] == pytest.approx([expected.low, expected.high], abs=2e-3)


@QUIET
@pytest.mark.parametrize("report, width", [(symmetry(), 11), (symmetry(0.0), 11), ({"exact": symmetry()["exact"]}, 6)])
def test_symmetry(tmp_path, report, width):
    check(run.plot_symmetry(tmp_path, report), width, 4)


def test_symmetry_says_what_is_interpolated(figure):
    exact, turned = run.plot_symmetry(".", symmetry()).axes
    assert exact.get_title().startswith("exact") and turned.get_title().startswith("interpolated")
    assert [text.get_text() for text in exact.get_yticklabels()] == ["turn 90", "turn 180", "turn 270"]
    assert turned.lines[0].get_xdata().tolist() == [15, 30, 45]
    assert exact.lines[0].get_xdata().tolist() == [1e-6] * 3


@QUIET
@pytest.mark.parametrize("wrong, height", [(0, 0.7), (1, 3.3), (20, 11.1)])
def test_mistakes(tmp_path, wrong, height):
    images = np.random.default_rng(0).random((20, 9, 9))
    predicted = np.where(np.arange(20) < wrong, 1, 0)
    true, probability = np.zeros(20, dtype=int), np.linspace(0.5, 1, 20)
    check(
        run.plot_mistakes(tmp_path, lambda k: (images[k], None), true, predicted, probability, ["no", "vort"]),
        8.8,
        height,
    )


def test_mistakes_are_the_most_confident(figure):
    images = np.arange(5)[:, None, None] * np.ones((5, 3, 3))
    true, predicted = np.array([0, 1, 1, 0, 1]), np.array([1, 1, 0, 1, 0])
    probability = np.array([0.6, 0.99, 0.9, 0.7, 0.8])
    drawn = run.plot_mistakes(".", lambda k: (images[k], None), true, predicted, probability, ["no", "vort"])
    assert [axis.images[0].get_array().max() for axis in drawn.axes] == [2, 4, 3, 0]
    assert drawn.axes[0].get_title() == "true: vort\nsays: no 90.0%"
    assert drawn.get_suptitle() == "the 4 most confident of 4 mistakes in 5 images"


def test_residuals_stand_beside_the_images_of_mistakes(figure):
    images, residuals = np.arange(4)[:, None, None] * np.ones((4, 3, 3)), -np.ones((4, 3, 3))
    true, predicted, probability = np.zeros(4, int), np.array([1, 0, 1, 1]), np.array([0.6, 0.99, 0.9, 0.7])
    drawn = run.plot_mistakes(
        ".", lambda k: (images[k], k * residuals[k]), true, predicted, probability, ["no", "vort"]
    )
    shown = [axis.images[0].get_array().max() for axis in drawn.axes]
    assert shown == [2, -2, 3, -3, 0, 0] and drawn.axes[1].images[0].get_clim() == (-5, 5)
    assert drawn.axes[0].get_title(loc="left").startswith("true: no") and "standard deviations" in drawn.get_suptitle()


def test_no_mistakes_without_images(figure):
    none = np.empty(0, dtype=int)
    drawn = run.plot_mistakes(".", pytest.fail, none, none, none, ["no", "vort"])
    assert drawn.get_suptitle() == "no mistakes in 0 images" and drawn.axes == []


def living_figures():
    from matplotlib.figure import Figure

    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(isinstance(thing, Figure) for thing in gc.get_objects())


@pytest.mark.slow
def test_pictures_leave_nothing_behind(tmp_path):
    """No figure stays open, their number does not grow (matplotlib may cache one), the backend stays."""
    import matplotlib
    from matplotlib import pyplot

    backend, classes, living = dict.__getitem__(matplotlib.rcParams, "backend"), ["no", "vort"], []
    before = living_figures()  # other tests may have left one in matplotlib's cache
    for _ in range(3):
        run.plot_confusion(tmp_path, [[3, 1], [0, 2]], classes)
        roc.plot_roc(tmp_path, *network(classes)[:2], classes, network(classes)[2], resamples=2)
        living.append(living_figures())
    assert living[0] <= before + 1 and living[2] <= living[0]
    assert pyplot.get_fignums() == []
    assert dict.__getitem__(matplotlib.rcParams, "backend") == backend


def test_same_data_same_bytes(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        run.plot_curves(folder, curves(3))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_picture_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ResultsError, match="loss.png: cannot be written"):
        run.plot_curves(tmp_path, curves(2))
    assert list(tmp_path.iterdir()) == []


def test_only_the_pictures_that_the_environment_names_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("LENS_PICTURES", "CM,loss")
    assert run.plot_confusion(tmp_path, [[3, 1], [0, 4]], ["no", "vort"]) == tmp_path / "CM.png"
    assert run.plot_curves(tmp_path, curves(2)) == [tmp_path / "loss.png"]
    assert run.plot_symmetry(tmp_path, symmetry()) is None
    assert {path.name for path in tmp_path.iterdir()} == {"CM.png", "CM.pdf", "loss.png", "loss.pdf"}

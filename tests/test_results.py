"""results.py: folders, log and files as a user finds them, and pictures that hold what they should."""

import errno
import gc
import json
import os
import subprocess
import sys
import threading
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import results
from results import ResultsError

NOW = datetime(2026, 11, 22, 10, 30, 0)
STAMP = "2026-11-22-10-30-00"
ROOT = Path(results.__file__).parent
# Cut labels and empty means are faults; what a library deprecates in another library is not ours.
QUIET = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "ignore:.*deprecated")


def run(folder, mark="best-model-parameters.pt"):
    """A folder that counts as a run."""
    folder.mkdir(parents=True)
    (folder / mark).touch()
    return folder


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- names ----


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("images_j", "Dihyderal", 8, False), "images_j_D_8"),
        (("images_f", "Circular", 4, False), "images_f_C_4"),
        (("images_j", "Circular", 4, True), "images_j_CNN"),
        (("/data/lenses/images_f/", "Circular", 16, False), "images_f_C_16"),
        (("somewhere/../images_f/.", "Circular", 4, False), "images_f_C_4"),
        ((Path("images_f"), "Circular", 4, False), "images_f_C_4"),
    ],
)
def test_run_folder_name(arguments, name):
    assert results.run_folder_name(*arguments) == name


def test_run_folder_name_of_this_folder_and_of_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "images_f").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    assert results.run_folder_name(".", "Circular", 4, False) == "real_C_4"
    assert results.run_folder_name(tmp_path / "images_f", "Circular", 4, False) == "images_f_C_4"


@pytest.mark.parametrize(
    "name, group",
    [
        ("Model_f_C4", ("Circular", 4)),
        ("Model_j_D8", ("Dihyderal", 8)),
        ("Model_f_CNN", "CNN"),
        ("images_j_D_16", ("Dihyderal", 16)),
        ("images_j_CNN", "CNN"),
        ("my_C4_data_D_2", ("Dihyderal", 2)),
        ("my_CNN_data_C_4", ("Circular", 4)),
        ("images_f", None),
        ("ABC4", None),
        ("images_f_C", None),
    ],
)
def test_original_group(name, group):
    assert results.original_group(name) == group


# ---- a new folder ----


def test_run_folder_is_new_and_empty(tmp_path):
    folder = results.make_run_folder(tmp_path / "deep" / "results", "images_f_C_4", NOW)
    assert folder == tmp_path / "deep" / "results" / "images_f_C_4" / STAMP
    assert list(folder.iterdir()) == []


def test_timestamp_is_that_of_now(tmp_path):
    before = datetime.now().replace(microsecond=0)
    folder = results.make_run_folder(tmp_path, "images_f_C_4")
    assert before <= datetime.strptime(folder.name, "%Y-%m-%d-%H-%M-%S") <= datetime.now()


def test_same_second(tmp_path):
    names = [results.make_run_folder(tmp_path, "images_f_C_4", NOW).name for _ in range(3)]
    assert names == [STAMP, f"{STAMP}-2", f"{STAMP}-3"]


def test_same_moment(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(results.make_run_folder(tmp_path, "images_f_C_4", NOW)))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 12 == len(list((tmp_path / "images_f_C_4").iterdir()))


def test_results_folder_that_is_a_file(tmp_path):
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(ResultsError, match="results.*expected a folder") as error:
        results.make_run_folder(tmp_path / "results", "images_f_C_4", NOW)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResultsError, match="Permission denied"):
            results.make_run_folder(tmp_path, "images_f_C_4", NOW)
    finally:
        tmp_path.chmod(0o700)


def test_full_disk_is_found_before_training(tmp_path, monkeypatch):
    """mkdir may work where there is no room for a file: the probe finds out."""
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ResultsError, match="No space left on device"):
        results.make_run_folder(tmp_path, "images_f_C_4", NOW)


# ---- finding a run ----


@pytest.mark.parametrize("mark", ["best-model-parameters.pt", "run.json", "last-state.pt"])
@pytest.mark.parametrize("name", ["images_j_D_8", "Model_j_D8", "Model_f_CNN"])
def test_find_by_timestamp(tmp_path, name, mark):
    folder = run(tmp_path / name / STAMP, mark)
    run(tmp_path / name / "2020-01-01-00-00-00")
    assert results.find_run(tmp_path, STAMP) == folder
    assert (
        results.find_run(str(tmp_path), STAMP, name="images_f_C_4") == folder
    )  # the only one with that timestamp


def test_find_by_path(tmp_path, monkeypatch):
    folder = run(tmp_path / "images_f_C_4" / STAMP)
    assert results.find_run(tmp_path / "nothing", str(folder)) == folder
    assert results.find_run(tmp_path, f"images_f_C_4/{STAMP}") == folder
    monkeypatch.chdir(tmp_path)
    assert results.find_run("elsewhere", f"images_f_C_4/{STAMP}").resolve() == folder.resolve()


def test_find_a_checkpoint_directly_in_the_original_folder(tmp_path):
    folder = run(tmp_path / "Model_f_C4")
    assert results.find_run(tmp_path, "Model_f_C4") == folder
    assert results.find_run(tmp_path, "latest") == folder


def test_find_the_second_run_of_a_second(tmp_path):
    first, second = (run(tmp_path / "images_f_C_4" / f"{STAMP}{suffix}") for suffix in ("", "-2"))
    assert results.find_run(tmp_path, STAMP) == first
    assert results.find_run(tmp_path, f"{STAMP}-2") == second


def test_find_latest(tmp_path):
    run(tmp_path / "images_f_C_4" / "2026-11-21-10-30-00")
    run(tmp_path / "images_f_C_4" / STAMP)
    run(tmp_path / "images_f_C_4" / f"{STAMP}-2")
    newest = run(tmp_path / "images_f_C_4" / f"{STAMP}-10")
    other = run(tmp_path / "images_j_D_8" / "2025-01-01-00-00-00")
    (tmp_path / "images_f_C_4" / "2027-01-01-00-00-00").mkdir()  # died before its first checkpoint
    assert results.find_run(tmp_path, "latest") == newest
    assert results.find_run(tmp_path, "latest", name="images_j_D_8") == other
    with pytest.raises(ResultsError, match="no run 'latest'.*2025-01-01-00-00-00"):
        results.find_run(tmp_path, "latest", name="images_j_C_4")


def test_same_timestamp_in_two_folders(tmp_path):
    one, two = (run(tmp_path / name / STAMP) for name in ("images_f_C_4", "images_j_D_8"))
    with pytest.raises(ResultsError) as error:
        results.find_run(tmp_path, STAMP)
    assert str(one) in str(error.value) and str(two) in str(error.value)
    assert results.find_run(tmp_path, STAMP, name="images_j_D_8") == two
    with pytest.raises(ResultsError, match="several runs"):
        results.find_run(tmp_path, STAMP, name="images_f_D_8")


def test_missing_run_lists_those_that_exist(tmp_path):
    for day in (3, 1, 2):
        run(tmp_path / f"images_f_C_{day}" / f"2026-11-0{day}-10-30-00")
    with pytest.raises(ResultsError) as error:
        results.find_run(tmp_path, STAMP)
    message = str(error.value)
    assert f"no run '{STAMP}'" in message and str(tmp_path) in message and "\n" not in message
    places = [message.index(f"2026-11-0{day}-10-30-00 (images_f_C_{day})") for day in (1, 2, 3)]
    assert places == sorted(places)


def test_missing_run_lists_no_more_than_twenty(tmp_path):
    for minute in range(25):
        run(tmp_path / "images_f_C_4" / f"2026-11-22-10-{minute:02}-00")
    with pytest.raises(ResultsError) as error:
        results.find_run(tmp_path, "2020-01-01-00-00-00")
    message = str(error.value)
    assert message.count("images_f_C_4") == 20 and "2026-11-22-10-24-00" in message
    assert "2026-11-22-10-04-00" not in message and "5 older" in message


@pytest.mark.parametrize("timestamp", [STAMP, "", "latest", "*", "../..", "no\0thing"])
def test_nothing_there(tmp_path, timestamp):
    (tmp_path / "images_f_C_4" / STAMP).mkdir(parents=True)
    with pytest.raises(ResultsError, match="there are none"):
        results.find_run(tmp_path, timestamp)
    with pytest.raises(ResultsError, match="there are none"):
        results.find_run(tmp_path / "absent", timestamp)


def test_list_runs(tmp_path):
    new = run(tmp_path / "images_f_C_4" / STAMP)
    results.save_curves(new, {"test_accuracy": [40.0, 97.5, 96.0]})
    auc = {
        "macro": {"value": 0.99, "interval": [0.98, 1.0]},
        "micro_logits": {"value": 0.97, "interval": None},
    }
    results.save_json(new / "metrics.json", {"accuracy_percent": 97.5, "auc": auc})
    run(tmp_path / "Model_f_C4" / "2021-08-01-10-00-00")
    old, found = results.list_runs(tmp_path)
    assert (
        old["name"] == "Model_f_C4" and old["epochs"] is old["macro_auc"] is old["accuracy_percent"] is None
    )
    assert found == {
        "name": "images_f_C_4",
        "timestamp": STAMP,
        "folder": str(new),
        "epochs": 3,
        "best_accuracy_percent": 97.5,
        "accuracy_percent": 97.5,
        "macro_auc": 0.99,
        "micro_auc_logits": 0.97,
    }


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"[1, 2]", b'{"auc": 3}', b'{"auc": {"macro": null}}', b"\xff"]
)
def test_list_runs_survives_damaged_files(tmp_path, content):
    folder = run(tmp_path / "images_f_C_4" / STAMP)
    (folder / "metrics.json").write_bytes(content)
    (folder / "test_accuracy.npy").write_bytes(content)
    (found,) = results.list_runs(tmp_path)
    assert found["macro_auc"] is None and found["epochs"] is None


def test_list_runs_executes_nothing_and_allocates_nothing(tmp_path):
    one, two = (run(tmp_path / "images_f_C_4" / f"{STAMP}{suffix}") for suffix in ("", "-2"))
    np.save(one / "test_accuracy.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117) + "\n"
    (two / "test_accuracy.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode())
    assert [found["epochs"] for found in results.list_runs(tmp_path)] == [None, None]


# ---- log, JSON, curves ----


def test_log_is_on_disk_at_once(tmp_path, capsys):
    path = tmp_path / f"log_{STAMP}.txt"
    with results.Log(path) as log:
        log.write("epoch 1: loss 1.1")
        assert path.read_text() == "epoch 1: loss 1.1\n"
    assert capsys.readouterr().out == "epoch 1: loss 1.1\n"
    with results.Log(path, echo=False) as log:
        log.write("resumed – 2 σ")
    assert path.read_text(encoding="utf-8") == "epoch 1: loss 1.1\nresumed – 2 σ\n"
    assert capsys.readouterr().out == ""


def test_log_keeps_a_progress_bar_whole(tmp_path, capsys):
    tqdm = pytest.importorskip("tqdm").tqdm
    with results.Log(tmp_path / "log.txt") as log:
        for _ in tqdm(range(2), file=sys.stdout):
            log.write("a line")
    lines = capsys.readouterr().out.replace("\r", "\n").split("\n")
    assert lines.count("a line") == 2


def test_log_survives_a_kill(tmp_path):
    code = f"import os, results; results.Log({str(tmp_path / 'log.txt')!r}).write('last words'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 9
    assert (tmp_path / "log.txt").read_text() == "last words\n"


def test_log_cannot_be_opened(tmp_path):
    with pytest.raises(ResultsError, match="cannot be written"):
        results.Log(tmp_path / "absent" / "log.txt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_log_on_a_full_disk(capsys):
    with pytest.raises(ResultsError, match="/dev/full: cannot be written .No space left"):
        with results.Log("/dev/full") as log:
            log.write("a line")


def test_json_holds_only_json(tmp_path):
    given = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": (np.nan, np.inf, 1.5),
        "d": Path("x") / "y",
        4: [np.int64(2), True, None],
    }
    results.save_json(tmp_path / "metrics.json", given)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": [None, None, 1.5],
        "d": str(Path("x") / "y"),
        "4": [2, True, None],
    }


def test_curves_are_plain_arrays(tmp_path):
    curves = {"train_loss": [1.0, 0.5], "test_loss": [1.1], "train_accuracy": [33.0], "test_accuracy": []}
    results.save_curves(tmp_path, curves)
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.npy" for name in curves}
    for name, values in curves.items():
        found = np.load(tmp_path / f"{name}.npy", allow_pickle=False)
        assert found.dtype == np.float64 and found.tolist() == values


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    results.save_curves(tmp_path, {"train_loss": [1.0]})
    monkeypatch.setattr(results.os, step, full_disk)
    with pytest.raises(
        ResultsError, match="train_loss.npy: cannot be written .No space left on device"
    ) as error:
        results.save_curves(tmp_path, {"train_loss": [1.0, 0.5]})
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["train_loss.npy"]
    assert np.load(tmp_path / "train_loss.npy").tolist() == [1.0]


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    results.save_json(tmp_path / "run.json", {"epoch": 1})
    monkeypatch.setattr(results.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        results.save_json(tmp_path / "run.json", {"epoch": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"epoch": 1}


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ResultsError, match="run.json"):
        results.save_json(tmp_path / "run.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


# ---- pictures ----

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
    assert pixels.shape[:2] == pytest.approx((height * results.DPI, width * results.DPI), abs=1)
    assert 0.002 < (pixels[..., :3] < 0.9).any(axis=-1).mean() < 0.98
    pdf = path.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.rstrip().endswith(b"%%EOF")
    assert not list(path.parent.glob(".*"))


@pytest.fixture
def figure(monkeypatch):
    """Plot functions return their figure instead of saving it."""
    monkeypatch.setattr(results, "_save", lambda figure, folder, stem: figure)


@QUIET
@pytest.mark.parametrize("epochs", [1, 30])
def test_curves_pictures(tmp_path, epochs):
    paths = results.plot_curves(tmp_path, curves(epochs))
    assert [path.name for path in paths] == ["loss.png", "accuracy.png"]
    for path in paths:
        check(path, 6.4, 4.4)


def test_one_epoch_shows_markers_and_a_legend(figure):
    loss, accuracy = (f.axes[0] for f in results.plot_curves(".", curves(1)))
    assert all(line.get_marker() == "o" for line in (*loss.lines, *accuracy.lines))
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "test"]
    assert loss.lines[0].get_xdata().tolist() == [1]
    assert results.plot_curves(".", {}) == []


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
    check(results.plot_roc(tmp_path, probabilities, labels, classes, report, resamples=4), 15, 5.4)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    side = 0.85 * len(classes)
    check(results.plot_confusion(tmp_path, counts.tolist(), classes), 2.4 + side, 2.2 + side)
    check(results.plot_reliability(tmp_path, probabilities, labels, report, probabilities**0.5), 5.6, 6.4)
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{stem}.{kind}" for stem in ("ROC", "CM", "reliability") for kind in ("png", "pdf")
    }


def test_roc_shows_the_curves_of_scikit_learn(figure):
    from sklearn.metrics import auc, roc_curve

    classes = ["no", "sphere", "vort"]
    probabilities, labels, report = network(classes)
    drawn = results.plot_roc(".", probabilities, labels, classes, report, resamples=50)
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
    low, high = results._macro_band(problems, 600, resamples=100, seed=0)
    middle = results._macro_curve(problems)
    inside = (low <= middle) & (middle <= high)
    assert inside[results.GRID > 0.01].mean() > 0.95
    assert 0.005 < (high - low)[results.GRID > 0.01].max() < 0.2


def test_absent_class_is_named_in_the_legend(figure):
    classes = ["no", "sphere", "vort"]
    drawn = results.plot_roc(".", *network(classes, absent=1)[:2], classes, network(classes, absent=1)[2], 3)
    assert [text.get_text() for text in drawn.legends[0].get_texts()][1] == "sphere: not defined"


def test_confusion_cells(figure):
    axis = results.plot_confusion(".", [[90, 10], [0, 0]], ["no", "sub"]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["90\n90.0%", "10\n10.0%", "0\n–", "0\n–"]
    assert axis.texts[0].get_color() == "white" and axis.texts[1].get_color() == "black"
    assert axis.get_xlabel() == "predicted" and axis.get_ylabel() == "true"


def test_labels_fit_and_differ():
    labels = results._labels(LONG, 16)
    assert len(set(labels)) == 10 and max(map(len, labels)) <= 18
    assert results._labels(["no", "a$b$"]) == ["no", r"a\$b\$"]


def test_reliability_points(figure):
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.3, 0.7]] * 4)
    labels = np.array([0] * 9 + [1] + [1, 1, 0, 0])
    drawn = results.plot_reliability(".", probabilities, labels, {"expected_calibration_error": 0.1})
    points = drawn.axes[0].containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[0.7, 0.5], [0.95, 0.9]]))
    assert drawn.axes[0].get_legend().get_texts()[0].get_text() == "as trained: ECE 0.1000"


def test_reliability_intervals_are_wilson(figure):
    from scipy.stats import binomtest

    probabilities, labels = np.array([[0.95, 0.05]] * 10), np.array([0] * 9 + [1])
    drawn = results.plot_reliability(".", probabilities, labels, {"expected_calibration_error": 0.1})
    (segment,) = drawn.axes[0].containers[0].lines[2][0].get_segments()
    expected = binomtest(9, 10).proportion_ci(method="wilson")
    assert segment[:, 1] == pytest.approx([expected.low, expected.high], abs=2e-3)


@QUIET
@pytest.mark.parametrize(
    "report, width", [(symmetry(), 11), (symmetry(0.0), 11), ({"exact": symmetry()["exact"]}, 6)]
)
def test_symmetry(tmp_path, report, width):
    check(results.plot_symmetry(tmp_path, report), width, 4)


def test_symmetry_says_what_is_interpolated(figure):
    exact, turned = results.plot_symmetry(".", symmetry()).axes
    assert exact.get_title().startswith("exact") and turned.get_title().startswith("interpolated")
    assert [text.get_text() for text in exact.get_yticklabels()] == ["turn 90", "turn 180", "turn 270"]
    assert turned.lines[0].get_xdata().tolist() == [15, 30, 45]
    assert exact.lines[0].get_xdata().tolist() == [1e-6] * 3


@QUIET
@pytest.mark.parametrize("wrong, height", [(0, 0.7), (1, 3.3), (20, 11.1)])
def test_mistakes(tmp_path, wrong, height):
    images = np.random.default_rng(0).random((20, 1, 9, 9))
    predicted = np.where(np.arange(20) < wrong, 1, 0)
    true, probability = np.zeros(20, dtype=int), np.linspace(0.5, 1, 20)
    check(results.plot_mistakes(tmp_path, images, true, predicted, probability, ["no", "vort"]), 8.8, height)


def test_mistakes_are_the_most_confident(figure):
    images = np.arange(5)[:, None, None] * np.ones((5, 3, 3))
    true, predicted = np.array([0, 1, 1, 0, 1]), np.array([1, 1, 0, 1, 0])
    probability = np.array([0.6, 0.99, 0.9, 0.7, 0.8])
    drawn = results.plot_mistakes(".", images, true, predicted, probability, ["no", "vort"])
    assert [axis.images[0].get_array().max() for axis in drawn.axes] == [2, 4, 3, 0]
    assert drawn.axes[0].get_title() == "true: vort\nsays: no 90.0%"
    assert drawn.get_suptitle() == "the 4 most confident of 4 mistakes in 5 images"


def test_no_mistakes_without_images(figure):
    none = np.empty(0, dtype=int)
    drawn = results.plot_mistakes(".", np.empty((0, 9, 9)), none, none, none, ["no", "vort"])
    assert drawn.get_suptitle() == "no mistakes in 0 images" and drawn.axes == []


def living_figures():
    from matplotlib.figure import Figure

    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(isinstance(thing, Figure) for thing in gc.get_objects())


def test_pictures_leave_nothing_behind(tmp_path):
    """No figure stays open, their number does not grow (matplotlib may cache one), the backend stays."""
    import matplotlib
    from matplotlib import pyplot

    backend, classes, living = dict.__getitem__(matplotlib.rcParams, "backend"), ["no", "vort"], []
    before = living_figures()  # other tests may have left one in matplotlib's cache
    for _ in range(3):
        results.plot_confusion(tmp_path, [[3, 1], [0, 2]], classes)
        results.plot_roc(tmp_path, *network(classes)[:2], classes, network(classes)[2], resamples=2)
        living.append(living_figures())
    assert living[0] <= before + 1 and living[2] <= living[0]
    assert pyplot.get_fignums() == []
    assert dict.__getitem__(matplotlib.rcParams, "backend") == backend


def test_same_data_same_bytes(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        results.plot_curves(folder, curves(3))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_picture_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(results.os, "replace", full_disk)
    with pytest.raises(ResultsError, match="loss.png: cannot be written"):
        results.plot_curves(tmp_path, curves(2))
    assert list(tmp_path.iterdir()) == []


def test_importing_results_is_light():
    heavy = ("matplotlib", "sklearn", "scipy", "torch")
    code = f"import sys, results; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

"""results.py: folders, log and files as a user finds them, and pictures that hold what they should."""

import errno
import json
import os
import subprocess
import sys
import threading
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from darklens.errors import ResultsError
from darklens.storage import files, records, runs
from darklens.storage.run_record import RunRecord
from darklens.storage.training_config import TrainingRecipe

NOW = datetime(2026, 11, 22, 10, 30, 0)
STAMP = "2026-11-22-10-30-00"
from conftest import ROOT  # noqa: E402


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
    assert runs.run_folder_name(*arguments) == name


def test_run_folder_name_of_this_folder_and_of_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "images_f").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    assert runs.run_folder_name(".", "Circular", 4, False) == "real_C_4"
    assert runs.run_folder_name(tmp_path / "images_f", "Circular", 4, False) == "images_f_C_4"


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
    assert runs.original_group(name) == group


# ---- a new folder ----


def test_run_folder_is_new_and_empty(tmp_path):
    folder = runs.make_run_folder(tmp_path / "deep" / "results", "images_f_C_4", NOW)
    assert folder == tmp_path / "deep" / "results" / "images_f_C_4" / STAMP
    assert list(folder.iterdir()) == []


def test_timestamp_is_that_of_now(tmp_path):
    before = datetime.now().replace(microsecond=0)
    folder = runs.make_run_folder(tmp_path, "images_f_C_4")
    assert before <= datetime.strptime(folder.name, "%Y-%m-%d-%H-%M-%S") <= datetime.now()


def test_same_second(tmp_path):
    names = [runs.make_run_folder(tmp_path, "images_f_C_4", NOW).name for _ in range(3)]
    assert names == [STAMP, f"{STAMP}-2", f"{STAMP}-3"]


def test_same_moment(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(runs.make_run_folder(tmp_path, "images_f_C_4", NOW)))
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
        runs.make_run_folder(tmp_path / "results", "images_f_C_4", NOW)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResultsError, match="Permission denied"):
            runs.make_run_folder(tmp_path, "images_f_C_4", NOW)
    finally:
        tmp_path.chmod(0o700)


def test_full_disk_is_found_before_training(tmp_path, monkeypatch):
    """mkdir may work where there is no room for a file: the probe finds out."""
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(ResultsError, match="No space left on device"):
        runs.make_run_folder(tmp_path, "images_f_C_4", NOW)


# ---- finding a run ----


@pytest.mark.parametrize("mark", ["best-model-parameters.pt", "run.json", "last-state.pt"])
@pytest.mark.parametrize("name", ["images_j_D_8", "Model_j_D8", "Model_f_CNN"])
def test_find_by_timestamp(tmp_path, name, mark):
    folder = run(tmp_path / name / STAMP, mark)
    run(tmp_path / name / "2020-01-01-00-00-00")
    assert runs.find_run(tmp_path, STAMP) == folder
    assert runs.find_run(str(tmp_path), STAMP, name="images_f_C_4") == folder  # the only one with that timestamp


def test_find_by_path(tmp_path, monkeypatch):
    folder = run(tmp_path / "images_f_C_4" / STAMP)
    assert runs.find_run(tmp_path / "nothing", str(folder)) == folder
    assert runs.find_run(tmp_path, f"images_f_C_4/{STAMP}") == folder
    monkeypatch.chdir(tmp_path)
    assert runs.find_run("elsewhere", f"images_f_C_4/{STAMP}").resolve() == folder.resolve()


def test_find_a_checkpoint_directly_in_the_original_folder(tmp_path):
    folder = run(tmp_path / "Model_f_C4")
    assert runs.find_run(tmp_path, "Model_f_C4") == folder
    assert runs.find_run(tmp_path, "latest") == folder


def test_find_the_second_run_of_a_second(tmp_path):
    first, second = (run(tmp_path / "images_f_C_4" / f"{STAMP}{suffix}") for suffix in ("", "-2"))
    assert runs.find_run(tmp_path, STAMP) == first
    assert runs.find_run(tmp_path, f"{STAMP}-2") == second


def test_find_latest(tmp_path):
    run(tmp_path / "images_f_C_4" / "2026-11-21-10-30-00")
    run(tmp_path / "images_f_C_4" / STAMP)
    run(tmp_path / "images_f_C_4" / f"{STAMP}-2")
    newest = run(tmp_path / "images_f_C_4" / f"{STAMP}-10")
    other = run(tmp_path / "images_j_D_8" / "2025-01-01-00-00-00")
    (tmp_path / "images_f_C_4" / "2027-01-01-00-00-00").mkdir()  # died before its first checkpoint
    assert runs.find_run(tmp_path, "latest") == newest
    assert runs.find_run(tmp_path, "latest", name="images_j_D_8") == other
    with pytest.raises(ResultsError, match="no run 'latest'.*2025-01-01-00-00-00"):
        runs.find_run(tmp_path, "latest", name="images_j_C_4")


def test_same_timestamp_in_two_folders(tmp_path):
    one, two = (run(tmp_path / name / STAMP) for name in ("images_f_C_4", "images_j_D_8"))
    with pytest.raises(ResultsError) as error:
        runs.find_run(tmp_path, STAMP)
    assert str(one) in str(error.value) and str(two) in str(error.value)
    assert runs.find_run(tmp_path, STAMP, name="images_j_D_8") == two
    with pytest.raises(ResultsError, match="several runs"):
        runs.find_run(tmp_path, STAMP, name="images_f_D_8")


def test_missing_run_lists_those_that_exist(tmp_path):
    for day in (3, 1, 2):
        run(tmp_path / f"images_f_C_{day}" / f"2026-11-0{day}-10-30-00")
    with pytest.raises(ResultsError) as error:
        runs.find_run(tmp_path, STAMP)
    message = str(error.value)
    assert f"no run '{STAMP}'" in message and str(tmp_path) in message and "\n" not in message
    places = [message.index(f"2026-11-0{day}-10-30-00 (images_f_C_{day})") for day in (1, 2, 3)]
    assert places == sorted(places)


def test_missing_run_lists_no_more_than_twenty(tmp_path):
    for minute in range(25):
        run(tmp_path / "images_f_C_4" / f"2026-11-22-10-{minute:02}-00")
    with pytest.raises(ResultsError) as error:
        runs.find_run(tmp_path, "2020-01-01-00-00-00")
    message = str(error.value)
    assert message.count("images_f_C_4") == 20 and "2026-11-22-10-24-00" in message
    assert "2026-11-22-10-04-00" not in message and "5 older" in message


@pytest.mark.parametrize("timestamp", [STAMP, "", "latest", "*", "../..", "no\0thing"])
def test_nothing_there(tmp_path, timestamp):
    (tmp_path / "images_f_C_4" / STAMP).mkdir(parents=True)
    with pytest.raises(ResultsError, match="there are none"):
        runs.find_run(tmp_path, timestamp)
    with pytest.raises(ResultsError, match="there are none"):
        runs.find_run(tmp_path / "absent", timestamp)


def test_list_runs(tmp_path):
    new = run(tmp_path / "images_f_C_4" / STAMP)
    records.save_curves(new, {"test_accuracy": [40.0, 97.5, 96.0]})
    auc = {
        "macro": {"value": 0.99, "interval": [0.98, 1.0]},
        "micro_logits": {"value": 0.97, "interval": None},
    }
    files.save_json(new / "metrics.json", {"accuracy_percent": 97.5, "auc": auc})
    run(tmp_path / "Model_f_C4" / "2021-08-01-10-00-00")
    old, found = runs.list_runs(tmp_path)
    assert old["name"] == "Model_f_C4" and old["epochs"] is old["macro_auc"] is old["accuracy_percent"] is None
    assert found == {
        "name": "images_f_C_4",
        "timestamp": STAMP,
        "folder": str(new),
        "group": "Circular",
        "order": 4,
        "arch": None,
        "head": None,
        "epochs": 3,
        "epochs_asked": None,
        "finished": None,
        "best_accuracy_percent": 97.5,
        "accuracy_percent": 97.5,
        "macro_auc": 0.99,
        "micro_auc_logits": 0.97,
    }


def trained(folder, epochs, asked, network, found=None):
    """A run that has been going for some epochs."""
    run(folder, "run.json")
    recipe = TrainingRecipe("adam", lr=5e-5, weight_decay=1e-5, schedule="constant", epochs=asked, batch_size=64)
    RunRecord(network=network, recipe=recipe).save(folder)
    if epochs:
        records.save_curves(folder, {"test_accuracy": [50.0] * epochs})
    if found:
        files.save_json(folder / "metrics.json", {"accuracy_percent": found[0], "auc": {"macro": {"value": found[1]}}})


def test_runs_table(tmp_path):
    steerable = {"kind": "equivariant", "sym_group": "Dihyderal", "N": 8, "arch": "full", "head": "orbit"}
    trained(tmp_path / "images_j_D_8" / "2026-11-22-10-30-00", 30, 30, steerable, (97.534, 0.99871))
    trained(tmp_path / "images_j_D_8" / "2026-11-22-10-30-01", 7, 30, steerable, (91.0, 0.95))  # tested on the way
    trained(tmp_path / "images_j_D_8" / "2026-11-22-10-30-02", 30, 30, steerable)  # stopped before its report
    trained(tmp_path / "images_j_CNN" / "2026-11-22-10-30-03", 0, 5, {"kind": "resnet"})
    run(tmp_path / "Model_f_C4")
    text = runs.runs_table(runs.list_runs(tmp_path))
    assert [line.split() for line in text.split("\n")] == [
        ["run", "group", "arch", "head", "epochs", "macro", "AUC", "accuracy", "state"],
        ["Model_f_C4", "C4", "-", "-", "0/?", "-", "-", "-"],
        ["images_j_D_8/2026-11-22-10-30-00", "D8", "full", "orbit", "30/30", "0.9987", "97.53%", "finished"],
        ["images_j_D_8/2026-11-22-10-30-01", "D8", "full", "orbit", "7/30", "0.9500", "91.00%", "unfinished"],
        ["images_j_D_8/2026-11-22-10-30-02", "D8", "full", "orbit", "30/30", "-", "-", "unfinished"],
        ["images_j_CNN/2026-11-22-10-30-03", "-", "ResNet-18", "-", "0/5", "-", "-", "unfinished"],
    ]
    columns = [line.index(word) for line, word in zip(text.split("\n")[2:4], ("full", "full"), strict=True)]
    assert columns[0] == columns[1] == text.index("arch")


def test_table_of_no_runs():
    assert runs.runs_table([]).split() == "run group arch head epochs macro AUC accuracy state".split()


@pytest.mark.parametrize("content", [b"", b"garbage", b"[1, 2]", b'{"auc": 3}', b'{"auc": {"macro": null}}', b"\xff"])
def test_list_runs_survives_damaged_files(tmp_path, content):
    folder = run(tmp_path / "images_f_C_4" / STAMP)
    (folder / "metrics.json").write_bytes(content)
    (folder / "test_accuracy.npy").write_bytes(content)
    (found,) = runs.list_runs(tmp_path)
    assert found["macro_auc"] is None and found["epochs"] is None


def test_list_runs_executes_nothing_and_allocates_nothing(tmp_path):
    one, two = (run(tmp_path / "images_f_C_4" / f"{STAMP}{suffix}") for suffix in ("", "-2"))
    np.save(one / "test_accuracy.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117) + "\n"
    (two / "test_accuracy.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode())
    assert [found["epochs"] for found in runs.list_runs(tmp_path)] == [None, None]


# ---- log, JSON, curves ----


def test_log_is_on_disk_at_once(tmp_path, capsys):
    path = tmp_path / f"log_{STAMP}.txt"
    with records.Log(path) as log:
        log.write("epoch 1: loss 1.1")
        assert path.read_text() == "epoch 1: loss 1.1\n"
    assert capsys.readouterr().out == "epoch 1: loss 1.1\n"
    with records.Log(path, echo=False) as log:
        log.write("resumed – 2 σ")
    assert path.read_text(encoding="utf-8") == "epoch 1: loss 1.1\nresumed – 2 σ\n"
    assert capsys.readouterr().out == ""


def test_log_keeps_a_progress_bar_whole(tmp_path, capsys):
    tqdm = pytest.importorskip("tqdm").tqdm
    with records.Log(tmp_path / "log.txt") as log:
        for _ in tqdm(range(2), file=sys.stdout):
            log.write("a line")
    lines = capsys.readouterr().out.replace("\r", "\n").split("\n")
    assert lines.count("a line") == 2


def test_log_survives_a_kill(tmp_path):
    code = "import os; from darklens.storage.records import Log; "
    code += f"Log({str(tmp_path / 'log.txt')!r}).write('last words'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 9
    assert (tmp_path / "log.txt").read_text() == "last words\n"


def test_log_cannot_be_opened(tmp_path):
    with pytest.raises(ResultsError, match="cannot be written"):
        records.Log(tmp_path / "absent" / "log.txt").write("first words")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_log_on_a_full_disk(capsys):
    with pytest.raises(ResultsError, match="/dev/full: cannot be written .No space left"):
        with records.Log("/dev/full") as log:
            log.write("a line")


def test_json_holds_only_json(tmp_path):
    given = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": (np.nan, np.inf, 1.5),
        "d": Path("x") / "y",
        4: [np.int64(2), True, None],
    }
    files.save_json(tmp_path / "metrics.json", given)
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
    records.save_curves(tmp_path, curves)
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.npy" for name in curves}
    for name, values in curves.items():
        found = np.load(tmp_path / f"{name}.npy", allow_pickle=False)
        assert found.dtype == np.float64 and found.tolist() == values


# ---- predictions ----


def predictions(n=6):
    labels = np.arange(n) % 2
    names = np.array([f"{'ab'[label]}/\u03c3 {i}.npy" for i, label in enumerate(labels)])
    logits = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return records.Predictions(logits, labels, names, ["a", "b"], "val", "", "0f")


def test_predictions_come_back(tmp_path):
    given = predictions()
    records.save_predictions(tmp_path, given)
    found = records.load_predictions(tmp_path)
    assert found.logits.dtype == np.float32 and found.labels.dtype == np.int64
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, given, strict=True))
    assert found[3:] == given[3:] and [type(text) for text in found[4:]] == [str, str, str]


def test_predictions_are_plain_arrays(tmp_path):
    given = predictions()
    records.save_predictions(tmp_path, given)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as archive:
        assert set(archive.files) == set(records.Predictions._fields)
        assert all(np.array_equal(archive[name], getattr(given, name)) for name in archive.files)


def test_same_predictions_same_bytes(tmp_path, monkeypatch):
    """At any time, and however the arrays lie in memory."""
    contents = []
    for order, year in (("C", 2026), ("F", 2031)):
        monkeypatch.setattr("time.time", lambda year=year: (year - 1970) * 31_556_952.0)
        monkeypatch.setattr("time.localtime", lambda *_, year=year: (year, 1, 1, 0, 0, 0, 0, 1, 0))
        given = predictions()
        records.save_predictions(tmp_path, given._replace(logits=np.asarray(given.logits, order=order)))
        contents.append((tmp_path / "predictions.npz").read_bytes())
    assert contents[0] == contents[1] and [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def write_arrays(path, replaced, **options):
    """predictions.npz with other arrays in it."""
    np.savez(path, **{**predictions()._asdict(), **replaced}, **options)


@pytest.mark.parametrize(
    "replaced",
    [
        {"logits": np.zeros((5, 2), np.float32)},
        {"logits": np.zeros((6, 3), np.float32)},
        {"logits": np.zeros(6, np.float32)},
        {"labels": np.zeros(6)},
        {"labels": np.int64(3)},
        {"names": np.arange(6)},
        {"classes": np.array("ab")},
        {"split": np.array(["val"])},
        {"names": np.array(["a/0.npy"] * 6, dtype=object)},
        {key: getattr(predictions(), key)[:0] for key in ("logits", "labels", "names")},
    ],
)
def test_other_arrays_are_refused(tmp_path, replaced):
    write_arrays(tmp_path / "predictions.npz", replaced)
    with pytest.raises(ResultsError, match="predictions.npz: expected") as error:
        records.load_predictions(tmp_path)
    assert "\n" not in str(error.value)


def huge_array():
    """The header of an array that the file does not hold."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 2), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + bytes(8)


def other_archives(tmp_path):
    """Files that are not what they should be, by name."""
    path = tmp_path / "made.npz"
    records.save_predictions(tmp_path, predictions())
    whole = (tmp_path / "predictions.npz").read_bytes()
    np.savez_compressed(path, **predictions()._asdict())
    compressed = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", huge_array())
    flipped = bytearray(whole)
    flipped[300] ^= 1
    return {
        "empty": b"",
        "garbage": b"garbage",
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "compressed": compressed,
        "huge": path.read_bytes(),
        "pickle": b"\x80\x04\x95.",
    }


@pytest.mark.parametrize("kind", ["empty", "garbage", "cut", "flipped", "compressed", "huge", "pickle"])
def test_damaged_predictions_are_refused(tmp_path, kind):
    (tmp_path / "predictions.npz").write_bytes(other_archives(tmp_path)[kind])
    with pytest.raises(ResultsError, match="predictions.npz: expected the arrays logits, .* damaged file") as error:
        records.load_predictions(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_predictions(tmp_path):
    with pytest.raises(ResultsError, match="expected a finished run with predictions.npz, found none"):
        records.load_predictions(tmp_path)


# ---- interruptions ----


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    records.save_curves(tmp_path, {"train_loss": [1.0]})
    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(ResultsError, match="train_loss.npy: cannot be written .No space left on device") as error:
        records.save_curves(tmp_path, {"train_loss": [1.0, 0.5]})
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["train_loss.npy"]
    assert np.load(tmp_path / "train_loss.npy").tolist() == [1.0]


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    files.save_json(tmp_path / "run.json", {"epoch": 1})
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save_json(tmp_path / "run.json", {"epoch": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"epoch": 1}


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ResultsError, match="run.json"):
        files.save_json(tmp_path / "run.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_importing_results_is_light():
    heavy = ("matplotlib", "sklearn", "scipy", "torch")
    code = "import sys; from darklens.storage import records, runs; "
    code += f"print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

"""The whole program as a user runs it: train, test, resume, and everything that can be typed wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, write_images
from e2cnn_reference import published
from programs import SMALL, final, run, start, trained, wait_for

from darklens import machine
from darklens.classifier import saved
from darklens.commands import flags
from darklens.errors import DataError
from darklens.factorised import backend
from darklens.networks import equivariant, heads
from darklens.reports import equivariance
from darklens.runs import evaluation
from darklens.storage import runs
from darklens.training import recipes

LONG = ["--data_dir", "images_t", *SMALL, "--epochs", "8"]
FILES = (
    "code.py best-model-parameters.pt train_loss.npy test_loss.npy train_accuracy.npy test_accuracy.npy metrics.json "
    "run.json last-state.pt"
).split()
PICTURES = [f"{name}.{kind}" for name in "accuracy loss ROC CM reliability mistakes".split() for kind in ("png", "pdf")]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a data set, which is the current one."""
    write_images(tmp_path / "images_t", size=40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A data set and a finished run."""
    here = tmp_path_factory.mktemp("template")
    write_images(here / "images_t", size=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("LENS_PICTURES", "none")
        trained(here)
    return here


@pytest.fixture
def finished(template, tmp_path, monkeypatch) -> Path:
    """The folder of a finished run, in a copy of the template that is the current folder."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (metrics,) = tmp_path.glob("*/*/metrics.json")
    return metrics.parent


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """Pictures take most of a small run's time: drawn only where a test is marked to look for them."""
    monkeypatch.setattr(equivariance, "MOST", 3)
    if "with_pictures" not in request.keywords:
        monkeypatch.setenv("LENS_PICTURES", "none")


def usage_error(capsys, *arguments) -> str:
    """The line that argparse prints after the usage; the exit status must be 2."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: main.py")
    return error.strip().splitlines()[-1]


# --- train, then test -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((), "images_t_C_4"),
        (("--sym_group", "Dihyderal", "--N", "8", "--head", "pooled"), "images_t_D_8"),
        (("--use_CNN", "True"), "images_t_CNN"),
        (("--head", "flatten", "--recipe", "fast"), "images_t_C_4"),
    ],
)
def test_train_then_test(here, capsys, arguments, name):
    folder = trained(here, *arguments)
    assert folder.parent.name == name and re.fullmatch(r"\d{4}(-\d\d){5}", folder.name)
    assert all((folder / file).stat().st_size > 0 for file in [*FILES, f"log_{folder.name}.txt"])
    assert np.load(folder / "test_accuracy.npy").shape == (2,)
    log = (folder / f"log_{folder.name}.txt").read_text()
    assert "epoch 2/2" in log and "no test split" in log
    before = json.loads((folder / "metrics.json").read_text())
    assert before["best_epoch"] in (1, 2) and before["arguments"]["batch_size"] == 8 and before["versions"]["torch"]
    assert run("--test_time", folder.name, "--quiet") == 0  # no group, order, network or data repeated
    after = json.loads((folder / "metrics.json").read_text())
    different = {"timing", "symmetry"}
    assert {k: v for k, v in after.items() if k not in different} == {
        k: v for k, v in before.items() if k not in different
    }
    symmetric = name != "images_t_CNN" and "flatten" not in arguments
    change = max(e["relative_logits"] for e in after["symmetry"]["exact"] if e["in_group"] or not symmetric)
    assert change <= 1e-5 if symmetric else change > 1e-4
    assert len(after["symmetry"]["interpolated"]) == 20
    assert "AUC macro average" in capsys.readouterr().out


@pytest.mark.with_pictures
def test_pictures(here):
    """Drawn as training goes and again by Test mode, which adds the symmetry."""
    folder = trained(here)
    assert all((folder / picture).stat().st_size > 2000 for picture in PICTURES)
    (folder / "ROC.png").unlink()
    assert run("--test_time", folder.name, "--quiet") == 0
    assert (folder / "ROC.png").exists() and (folder / "symmetry.png").stat().st_size > 2000


def test_same_seed_same_bytes(here):
    first, second = trained(here, "--seed", "3"), trained(here, "--seed", "3")
    assert first != second
    for file in ("best-model-parameters.pt", "train_loss.npy", "test_loss.npy"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    other = trained(here, "--seed", "4")
    assert (other / "train_loss.npy").read_bytes() != (first / "train_loss.npy").read_bytes()


def test_three_splits(tmp_path, monkeypatch):
    """val picks the epoch, test is reported."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", counts={"train": 6, "val": 3, "test": 5}, size=40)
    folder = trained(tmp_path)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["split"] == "test" and found["images"] == 15
    assert "no test split" not in (folder / f"log_{folder.name}.txt").read_text()


def test_other_data_are_reported_beside(finished, tmp_path):
    before = (finished / "metrics.json").read_bytes()
    write_images(tmp_path / "images_u", size=40, seed=9)
    assert run("--test_time", finished.name, "--data_dir", "images_u", "--quiet") == 0
    assert (finished / "metrics.json").read_bytes() == before
    assert (finished / "test_images_u" / "metrics.json").exists()


def test_a_smaller_window(here, capsys):
    """Known to the checkpoint: nothing to repeat."""
    folder = trained(here, "--crop", "33")
    record = json.loads((folder / "run.json").read_text())
    assert record["network"]["size"] == record["preprocess"]["crop"] == 33
    assert run("--test_time", folder.name, "--quiet") == 0
    assert "knows its own" in usage_error(capsys, "--test_time", folder.name, "--crop", "33")


def test_weights_without_a_run(finished, tmp_path, capsys):
    shutil.copy(finished / "best-model-parameters.pt", tmp_path / "mine.pt")
    assert run("--weights", "mine.pt", "--data_dir", "images_t", "--quiet") == 0
    found = json.loads(next(tmp_path.glob("weights_mine/*/metrics.json")).read_text())
    assert found["auc"] == json.loads((finished / "metrics.json").read_text())["auc"]
    assert run("--mode", "Predict", "--weights", "mine.pt", "--data_dir", "images_t/val", "--quiet") == 0
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 13
    message = usage_error(capsys, "--weights", "yours", "--data_dir", "images_t")
    assert "--weights yours: expected a checkpoint, or a network that comes with the program" in message


def test_training_starts_from_weights(here, capsys):
    """The first epoch's loss goes on where the trained network's was; another network is refused."""
    folder = trained(here, "--recipe", "fast", "--epochs", "6")
    shutil.copy(folder / "best-model-parameters.pt", here / "mine.pt")
    tuned = trained(
        here, "--mode", "Train", "--weights", "mine.pt", "--recipe", "fast", "--epochs", "1", "--lr", "1e-9"
    )
    fresh = trained(here, "--recipe", "fast", "--epochs", "1", "--lr", "1e-9")
    losses = [float(np.load(run / "train_loss.npy")[0]) for run in (tuned, fresh)]
    assert losses[0] < losses[1] - 0.1
    config = ["--config", str(tuned / "run.json"), "--quiet"]
    before = set(here.glob("*/*/run.json"))
    assert run(*config) == 0
    (again,) = set(here.glob("*/*/run.json")) - before
    assert (again.parent / "train_loss.npy").read_bytes() == (tuned / "train_loss.npy").read_bytes()
    command = ["--mode", "Train", "--weights", "mine.pt", "--data_dir", "images_t", "--arch", "compact", "--N", "8"]
    assert "--N 8 contradicts --weights mine.pt, which has 4" in usage_error(capsys, *command)


def test_export_is_the_same_network(here):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = trained(here, "--sym_group", "Dihyderal", "--N", "4")
    assert run("--test_time", folder.name, "--export", "--quiet") == 0
    network = saved.load_model(folder / "best-model-parameters.pt").network
    images = torch.randn(5, 1, 39, 39)
    with torch.no_grad():
        expected = network(images)
    exported = torch.export.load(folder / "network.pt2").module()(images)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_original_run_in_its_folder(tmp_path, monkeypatch, capsys):
    """A published checkpoint alone in Model_t_C4/TIMESTAMP; group and order from the file, checked against the name."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", counts={"train": 1, "val": 1}, size=130)
    folder = tmp_path / "Model_t_C4" / "2021-08-01-10-30-00"
    folder.mkdir(parents=True)
    torch.save(published("Circular", 4).state_dict(), folder / "best-model-parameters.pt")
    # slow for the full network, and tested elsewhere
    monkeypatch.setattr(evaluation, "equivariance_of", lambda *_: None)
    assert run("--data_dir", "images_t", "--mode", "Test", "--test_time", folder.name, "--precision", "fp32") == 0
    found = json.loads((folder / "metrics.json").read_text())
    assert found["images"] == 3 and found["classes"] == ["no", "sphere", "vort"]
    assert "contradicts" in usage_error(capsys, "--data_dir", "images_t", "--test_time", folder.name, "--N", "8")
    wrong = shutil.copytree(folder, tmp_path / "Model_t_D8" / "2021-08-02-10-30-00")
    assert "name says" in usage_error(capsys, "--data_dir", "images_t", "--test_time", wrong.name)


# --- resume -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict:
    """What a run that nobody disturbed ends with."""
    here = tmp_path_factory.mktemp("unbroken")
    write_images(here / "images_t", size=40)
    process = start(here, *LONG)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return final(next(here.glob("images_t_C_4/*")))


@pytest.mark.parametrize(
    "number, status, group",
    [(signal.SIGTERM, 143, True), pytest.param(signal.SIGINT, 130, False, marks=pytest.mark.slow)],
)
def test_signals_save_and_resume(here, unbroken, number, status, group):
    """To the process, or to its whole group as batch schedulers do."""
    broken = start(here, *LONG)
    wait_for("images_t_C_4/*/last-state.pt", here, broken)
    (os.killpg if group else os.kill)(broken.pid, number)
    output, _ = broken.communicate(timeout=120)
    assert broken.returncode == status, output
    assert "Traceback" not in output and "--resume" in output
    (folder,) = here.glob("images_t_C_4/*")
    resumed = start(here, "--resume", folder.name)
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    assert final(folder) == unbroken


def test_resume_refuses_other_settings(finished, capsys):
    assert "contradicts" in usage_error(capsys, "--resume", finished.name, "--lr", "0.1")
    assert "there are" in usage_error(capsys, "--resume", "2020-01-01-00-00-00")
    (finished / "run.json").write_text("{}")
    assert "run.json is missing or damaged" in usage_error(capsys, "--resume", finished.name)


def test_resume_of_a_finished_run_changes_nothing(finished):
    before = final(finished)
    assert run("--resume", finished.name, "--quiet") == 0
    assert final(finished) == before


# --- what can be typed wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--N", "0"], "at least 1|from 1"),
        (["--N", "-2"], "from 1"),
        (["--N", "four"], "whole number"),
        (["--sym_group", "Dihedron"], "invalid choice"),
        (["--lr", "nan"], "finite"),
        (["--lr", "0"], "above 0"),
        (["--lr", "fast"], "expected a number"),
        (["--epochs", "0"], "at least 1"),
        (["--batch_size", "-1"], "at least 1"),
        (["--use_cuda", "maybe"], "True or False"),
        (["--mode", "Predictt"], "invalid choice"),
        (["--epoch", "3"], "did you mean --epochs"),
        (["--data-dir", "x"], "did you mean --data_dir"),
        (["images_f"], "unrecognized"),
        (["--mode", "Test"], "--test_time"),
        (["--mode", "train", "--test_time", "x"], "--mode Test"),
        (["--resume", "x", "--demo"], "not with"),
        (["--weights", "x", "--test_time", "x", "--data_dir", "images_t"], "not both"),
        (["--weights", "x"], "needs --data_dir"),
        (["--mode", "Train", "--weights", "x", "--data_dir", "images_t"], "expected a checkpoint"),
        (["--mode", "Compare", "a", "b", "--weights", "x"], "not with --mode Compare"),
        (["--average", "1"], "below 1"),
        (["--average", "-0.5"], "above 0"),
        (["--crop", "30"], "odd"),
        (["--crop", "27"], "at least 29"),
        (["--crop", "41", "--data_dir", "images_t"], "40 pixels a side"),
        (["--export"], "--mode Test"),
        (["--seed", "-1"], "from 0"),
        (["--cuda_idx", "-1"], "at least 0"),
    ],
)
def test_wrong_flags(here, capsys, arguments, message):
    assert re.search(message, usage_error(capsys, *arguments))
    assert sorted(path.name for path in here.iterdir()) == ["images_t"]


def test_missing_run_lists_those_that_exist(here, capsys):
    assert "there are none" in usage_error(capsys, "--test_time", "2020-01-01-00-00-00")
    folder = trained(here)
    capsys.readouterr()
    assert folder.name in usage_error(capsys, "--test_time", "2020-01-01-00-00-00")


@pytest.mark.parametrize(
    "flag, value",
    [("--N", "8"), ("--sym_group", "Dihyderal"), ("--use_CNN", "True"), ("--head", "flatten"), ("--arch", "full")],
)
def test_flags_that_contradict_the_checkpoint(finished, capsys, flag, value):
    capsys.readouterr()
    assert "contradicts the checkpoint" in usage_error(capsys, "--test_time", finished.name, flag, value)


def test_mode_in_any_case(finished):
    assert run("--mode", "tESt", "--test_time", finished.name, "--quiet") == 0


def one_line(capsys, *arguments) -> str:
    capsys.readouterr()
    assert run(*arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_missing_data_offers_two_ways(here, capsys):
    line = one_line(capsys, "--data_dir", "images_f", "--quiet")
    assert "simulate.py" in line and "download" in line


def test_bad_image_is_named(here, capsys):
    (here / "images_t" / "train" / "no" / "0003.npy").write_bytes(b"not an image")
    assert "0003.npy" in one_line(capsys, "--data_dir", "images_t", *SMALL)
    assert sorted(path.name for path in here.iterdir()) == ["images_t"]


def test_small_images_are_refused_by_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images_t", size=30)
    assert "30 x 30" in usage_error(capsys, "--data_dir", "images_t", *SMALL, "--use_CNN")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "pickle"])
def test_damaged_checkpoint_is_refused(finished, tmp_path, capsys, damage):
    path = finished / "best-model-parameters.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    hostile = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    damaged = {"flip": content, "truncate": content[:1000], "empty": b"", "pickle": hostile}
    path.write_bytes(damaged[damage])
    assert "best-model-parameters.pt" in one_line(capsys, "--test_time", finished.name, "--quiet")
    assert not (tmp_path / "owned").exists()


def test_classes_must_be_those_of_the_network(finished, tmp_path, capsys):
    write_images(tmp_path / "images_x", classes=("axion", "cdm", "no_sub"), size=40)
    capsys.readouterr()
    line = usage_error(capsys, "--test_time", finished.name, "--data_dir", "images_x", "--quiet")
    assert "axion" in line and "vort" in line


def test_debug_shows_the_traceback(here):
    with pytest.raises(DataError):
        run("--data_dir", "nowhere", "--debug")


# --- the manual ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program, call",
    [
        ("main.py", "runpy.run_path('main.py', run_name='__main__')"),
        ("darklens", "runpy.run_module('darklens', run_name='__main__')"),
    ],
)
def test_help_is_light(program, call):
    """No heavy package is imported for --help."""
    code = f"import runpy, sys\nsys.argv = [{program!r}, '--help']\ntry: {call}\nexcept SystemExit: pass\n"
    code += "print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"{program} --demo" in done.stdout
    assert not {"torch", "numpy", "matplotlib", "e2cnn", "sklearn"} & set(eval(done.stdout.splitlines()[-1]))


def test_choices_are_the_registries():
    choices = {action.dest: action.choices for action in flags.build_parser()._actions}
    assert set(choices["head"]) == set(heads.HEADS) and set(choices["arch"]) == set(equivariant.ARCHITECTURES)
    assert set(choices["conv"]) == set(backend.CHOICES)
    assert set(choices["recipe"]) == set(recipes.RECIPES) and set(choices["precision"]) == set(machine.PRECISIONS)


def test_run_folders_are_never_shared(here):
    names = {runs.make_run_folder(here, "images_t_C_4").name for _ in range(4)}
    assert len(names) == 4

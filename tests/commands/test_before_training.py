"""What is refused before anything is trained, since the network could not be loaded again; spellings of paths."""

import json

import pytest
from conftest import write_images
from programs import SMALL, run

from darklens.metrics.auc import without_substructure


@pytest.mark.parametrize(
    "classes, size, flags, reason",
    [
        (("CDM", "cdm"), 40, [], "classes"),
        (("a", "B", "b"), 40, [], "classes"),
        (("no", "sphere"), 2055, ["--crop", "2049"], "size"),
    ],
)
def test_a_network_that_could_not_be_loaded_again(tmp_path, monkeypatch, capsys, classes, size, flags, reason):
    write_images(tmp_path / "images_t", classes=classes, counts={"train": 1, "val": 1}, size=size)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run("--data_dir", "images_t", *SMALL, *flags)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and reason in said and "could not be loaded again" in said
    assert not list(tmp_path.glob("images_t_*"))


@pytest.mark.parametrize(
    "name", ["no", "No_Sub", "nosub", "no_substructure", "None", "no substructure", "no-sub", "SMOOTH"]
)
def test_spellings_of_no_substructure(name):
    assert without_substructure(["axion", name, "cdm"]) == 1


@pytest.mark.parametrize("name", ["nothing", "sub", "node", "north"])
def test_other_names_mean_something_else(name):
    assert without_substructure(["axion", name]) is None


def test_a_home_folder_and_a_byte_order_mark(tmp_path, monkeypatch):
    write_images(tmp_path / "images_t")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("--data_dir=~/images_t", *SMALL, "--epochs", "1", "--results_dir", "~/runs") == 0
    record = json.loads(next((tmp_path / "runs").glob("*/*/run.json")).read_text())
    (tmp_path / "settings.json").write_text(json.dumps(record), encoding="utf-8-sig")
    assert run("--config", "~/settings.json", "--quiet", "--use_cuda", "False", "--epochs", "1") == 0

"""Networks that see what a flexible source leaves: train, test, predict; and the Bayes factor beside other networks."""

import csv
import json
import shutil

import numpy as np
import pytest
from simulated import clumpy
from sklearn.metrics import roc_auc_score

import darklens
from darklens.commands.run import main
from darklens.data.folder import scan
from darklens.data.views import fit_table, open_views
from darklens.errors import UsageError
from darklens.reports import equivariance
from darklens.simulation.writer import write_dataset

SMALL = "--arch compact --sym_group Dihyderal --N 4 --recipe fast --batch_size 2 --precision fp32 --quiet".split()


def rows(path):
    return {row["file"]: row for row in csv.DictReader(open(path))}


@pytest.mark.slow
def test_train_test_and_predict(tmp_path, monkeypatch, capsys):
    """One epoch on lenses with clumpy sources; Test and Predict make the same views again from the run alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(equivariance, "FITTED", dict.fromkeys(equivariance.FITTED, 1))
    write_dataset(tmp_path / "images_c", clumpy(), {"train": 1, "val": 1}, seed=2, quiet=True)
    assert main(["--data_dir", "images_c", "--epochs", "1", *SMALL, "--view", "flexible"]) == 0
    folder = next((tmp_path / "images_c_D_4").iterdir())
    record, metrics = (json.loads((folder / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["preprocess"]["view"] == "flexible" and record["preprocess"]["lens"]["source"] == "flexible"
    network = darklens.load(folder / "best-model-parameters.pt")
    val = open_views(scan("images_c"), ("val",), network.preprocess).splits["val"]
    log_b = np.array(fit_table(val)["log_bayes_factor"])
    auc = metrics["auc"]["log_bayes_factor"]["value"]
    assert auc == roc_auc_score(val.labels != 0, log_b) and "no training" in (folder / "report.html").read_text()
    shutil.rmtree(tmp_path / "images_c" / "views")
    assert main(["--mode", "Test", "--test_time", "latest", "--precision", "fp32", "--quiet"]) == 0
    assert f"AUC the same, no training   {auc:7.4f}" in capsys.readouterr().out
    again = json.loads((folder / "metrics.json").read_text())
    assert again["auc"]["log_bayes_factor"]["value"] == auc and again["accuracy"] == metrics["accuracy"]
    assert main("--mode Predict --test_time latest --data_dir images_c/val/vort --quiet".split()) == 0
    names = [val.images.name(i) for i in range(len(val))]
    for file, row in rows("predictions.csv").items():
        place = next(i for i, name in enumerate(names) if name.endswith(f"vort/{file}"))
        np.testing.assert_allclose(float(row["log_bayes_factor"]), log_b[place], rtol=1e-3, atol=0.01)


def test_beside_a_network_of_another_view(tmp_path, monkeypatch):
    """`--source flexible` adds one column, that of `darklens.fit`; class and smooth lens are as without it."""
    monkeypatch.chdir(tmp_path)
    image = darklens.simulate("j", "no", [0])[0].astype("f4")
    np.save(tmp_path / "a.npy", image)
    command = "--mode Predict --weights compact-j --data_dir a.npy --precision fp32 --quiet".split()
    assert main([*command, "--output", "plain.csv"]) == 0 and main([*command, "--source", "flexible"]) == 0
    plain, (row,) = rows("plain.csv")["a.npy"], rows("predictions.csv").values()
    log_b = float(row.pop("log_bayes_factor"))
    assert row == plain and "residual_significance" in row
    window = darklens.fit(image[22:-22, 22:-22], source="flexible")  # all that Predict reads
    assert abs(log_b - window.log_bayes_factor[0]) < 0.01
    network = darklens.load("compact-j")
    table = network.classify(image, source="flexible")
    assert list(table) == network.columns_with("flexible") and abs(table["log_bayes_factor"][0] - log_b) < 0.5


def test_its_column_is_there_once():
    """Of a network that sees such fits anyway, too."""
    for name in ("compact-j", "compact-j_sources"):
        assert darklens.load(name).columns_with("flexible").count("log_bayes_factor") == 1


def test_sources_that_cannot_be(tmp_path):
    network = darklens.load("compact-j")
    with pytest.raises(UsageError, match="source: expected one of sersic, flexible"):
        network.classify(np.ones((1, 150, 150)), source="pixels")
    network.preprocess = darklens.data.transforms.default_preprocess(105)
    with pytest.raises(UsageError, match="this one sees the image"):
        network.classify(np.ones((1, 150, 150)), source="flexible")

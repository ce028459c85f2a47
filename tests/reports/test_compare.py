"""compare.py: the right tests on the right images, in words that follow from the numbers."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from data_sets import paths
from scipy import stats
from sklearn import metrics as sk

from darklens.classifier import saved as classifier_saved
from darklens.classifier.saved import new_classifier, save_model
from darklens.data import folder as data_folder
from darklens.data import pack
from darklens.errors import ResultsError
from darklens.metrics import probabilities as metrics_probabilities
from darklens.metrics import significance, summary
from darklens.plots import roc, style
from darklens.reports import compare, comparison, report
from darklens.reports import runs as analysis_runs
from darklens.storage import records
from darklens.storage import runs as storage_runs
from darklens.storage.records import Predictions
from darklens.storage.run_record import RunRecord
from darklens.storage.training_config import TrainingConfig, TrainingRecipe

CLASSES = ["no", "sphere", "vort"]


def run(number=0, skill=2.0, seed=0, n=300, group=("Circular", 4), root="results", noise=0.6, **arguments):
    """A run in name only: correlated logits, the better the higher the skill, and the record that it would have."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    logits = rng.normal(size=(n, 3)) + noise * np.random.default_rng(100 + number).normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    names = np.array([f"{CLASSES[label]}/{i:04d}.npy" for i, label in enumerate(labels)])
    predictions = Predictions(logits.astype(np.float32), labels, names, CLASSES, "val", "images_f", "0f")
    network = {"kind": "equivariant", "sym_group": group[0], "N": group[1], "arch": "compact", "head": "lifted"}
    network = network if group[1] else {"kind": "resnet"}
    arguments = {"data_dir": "images_f", "recipe": "fast", "seed": seed} | arguments
    recipe = TrainingRecipe("muon", lr=0.003, weight_decay=0.01, schedule="one-cycle", epochs=5, batch_size=32)
    record = RunRecord(config=TrainingConfig.of(**arguments), network=network, recipe=recipe)
    folder = f"images_f_{group[0][0]}_{group[1]}" if group[1] else "images_f_CNN"
    path = Path(root) / folder / f"2026-11-22-10-30-{number:02d}"
    return analysis_runs.Run(path, record, predictions)


def changed(one, **changes):
    return replace(one, predictions=one.predictions._replace(**changes))


def compared(runs, tmp_path, resamples=200):
    return compare.compare(runs, tmp_path, resamples)


@pytest.fixture
def undrawn(monkeypatch):
    """Comparisons without their picture."""
    monkeypatch.setattr(roc, "plot_compare", lambda *_: None)


# ---- figures and tests ----


def test_rows_agree_with_scikit_learn(tmp_path, undrawn):
    runs = [run(0), run(1, 2.5, group=("Dihyderal", 8)), run(2, 1.0, group=("CNN", None))]
    found = compared(runs, tmp_path)
    for one, row in zip(runs, found["runs"], strict=True):
        logits, labels = one.predictions[:2]
        probabilities = metrics_probabilities.softmax(logits)
        assert row["macro_auc"]["value"] == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))
        assert row["micro_auc"]["value"] == pytest.approx(
            sk.roc_auc_score(np.eye(3)[labels], probabilities, average="micro")
        )
        assert row["accuracy"]["value"] == sk.accuracy_score(labels, logits.argmax(1))
        assert row["log_loss"]["value"] == pytest.approx(sk.log_loss(labels, probabilities))
    described = [
        [row[key] for key in ("name", "group", "order", "arch", "head", "recipe", "seed")] for row in found["runs"]
    ]
    assert described == [
        ["C4", "Circular", 4, "compact", "lifted", "fast", 0],
        ["D8", "Dihyderal", 8, "compact", "lifted", "fast", 0],
        ["ResNet-18", None, None, "ResNet-18", None, "fast", 0],
    ]
    assert found["runs"][1]["run"] == "images_f_D_8/2026-11-22-10-30-01"
    assert json.loads((tmp_path / "compare.json").read_text()) == found


def test_intervals_are_those_of_the_report(tmp_path, undrawn):
    runs = [run(0), run(1)]
    found = compared(runs, tmp_path, 150)
    for one, row in zip(runs, found["runs"], strict=True):
        alone = summary.evaluate(*one.predictions[:2], CLASSES, bootstrap=150)
        assert row["macro_auc"] == alone["auc"]["macro"]
        assert row["micro_auc"] == alone["auc"]["micro"]
        assert row["accuracy"]["interval"] == alone["accuracy_interval"]


def test_pair_is_tested_as_it_would_be_alone(tmp_path, undrawn):
    a, b = run(0, 2.0), run(1, 2.4, group=("Dihyderal", 4))
    (pair,) = compared([a, b], tmp_path)["pairs"]
    labels, logits = a.predictions.labels, [one.predictions.logits for one in (a, b)]
    samples = [significance.bootstrap(one, labels, 200)["macro"] for one in logits]
    macro = [summary.evaluate(one, labels, CLASSES, bootstrap=0)["auc"]["macro"]["value"] for one in logits]
    alone = significance.difference(macro[0] - macro[1], samples[0] - samples[1])
    assert pair["macro_auc"] == {**alone, "difference": pytest.approx(alone["difference"]), "p_holm": alone["p"]}
    right = [one.argmax(1) == labels for one in logits]
    only = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    assert pair["accuracy"]["p"] == pytest.approx(stats.binomtest(int(only[0]), int(sum(only))).pvalue)
    assert pair["accuracy"]["difference"] == pytest.approx((only[0] - only[1]) / len(labels))
    for k, name in enumerate(CLASSES):
        auc_a, auc_b, z, p = significance.delong_test(
            *(metrics_probabilities.log_odds(one)[:, k] for one in logits), labels == k
        )
        expected = {"difference": auc_a - auc_b, "z": z, "p": p, "p_holm": p}
        assert pair["per_class"][name] == pytest.approx(expected)


def test_each_quantity_is_corrected_for_the_pairs(tmp_path, undrawn):
    found = compared([run(k, 2 + 0.15 * k) for k in range(4)], tmp_path)
    pairs = found["pairs"]
    assert [(pair["a"][-1], pair["b"][-1]) for pair in pairs] == [
        tuple(p) for p in ("01", "02", "03", "12", "13", "23")
    ]
    assert found["correction"].startswith("Holm, 6 pairs")
    quantities = [[pair[key] for pair in pairs] for key in ("macro_auc", "accuracy")]
    for tests in [*quantities, [pair["per_class"]["sphere"] for pair in pairs]]:
        assert [test["p_holm"] for test in tests] == significance.holm([test["p"] for test in tests])


def test_many_runs_are_tested_against_the_first(tmp_path, undrawn):
    pairs = compared([run(k, seed=k) for k in range(8)], tmp_path, 20)["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("C4 seed 0", f"C4 seed {k}") for k in range(1, 8)]


# ---- sentences ----


def test_a_real_difference_is_called_one_from_either_side(tmp_path, undrawn):
    worse, better = run(0, 1.0), run(1, 3.0, group=("Dihyderal", 8))
    (pair,) = compared([worse, better], tmp_path)["pairs"]
    (mirrored,) = compared([better, worse], tmp_path)["pairs"]
    assert pair["sentence"] == mirrored["sentence"]
    difference, (low, high) = mirrored["macro_auc"]["difference"], mirrored["macro_auc"]["interval"]
    assert pair["sentence"] == (
        f"D8 is better than C4 in macro AUC by {difference:.4f} [{low:.4f}, {high:.4f}], p = 0.01: a real difference"
    )
    assert 0 < low < difference < high


def test_chance_is_not_called_a_difference(tmp_path, undrawn):
    (pair,) = compared([run(0), run(1, group=("Dihyderal", 8))], tmp_path)["pairs"]
    assert pair["macro_auc"]["p"] > 0.05
    assert pair["sentence"].endswith(": no difference that 300 images could show")


def test_the_corrected_p_decides(tmp_path, undrawn):
    """One pair among many: a p that would do alone does not do among six."""
    runs = [
        run(0, 2.0),
        run(1, 2.1, group=("Circular", 8)),
        run(2, group=("Circular", 16)),
        run(3, group=("Circular", 2)),
    ]
    alone = compared(runs[:2], tmp_path, 1000)["pairs"][0]
    among = compared(runs, tmp_path, 1000)["pairs"][0]
    assert alone["macro_auc"]["p"] == among["macro_auc"]["p"] < comparison.LEVEL < among["macro_auc"]["p_holm"]
    assert alone["sentence"].endswith("a real difference") and "no difference" in among["sentence"]


def test_the_same_network_twice(tmp_path, undrawn):
    one = run(0)
    other = replace(one, folder=one.folder.with_name("2026-11-22-10-31-00"))
    found = compared([one, other, run(1, 2.5, seed=1)], tmp_path)
    pair = found["pairs"][0]
    names = "C4 seed 0 2026-11-22-10-30-00", "C4 seed 0 2026-11-22-10-31-00"
    assert pair["sentence"] == f"{names[0]} and {names[1]} are the same network: equal logits for all 300 images"
    assert pair["identical"] and pair["macro_auc"]["p"] == pair["accuracy"]["p"] == pair["per_class"]["no"]["p"] == 1
    assert [pair["identical"] for pair in found["pairs"]] == [True, False, False]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_perfect_and_random_networks(tmp_path, undrawn):
    perfect = [run(k, 60, group=("Dihyderal", k + 1)) for k in range(2)]
    random = run(2, 0, group=("CNN", None))
    found = compared([*perfect, random], tmp_path)
    assert [row["macro_auc"]["interval"] for row in found["runs"][:2]] == [[1, 1], [1, 1]]
    same, real = found["pairs"][:2]
    assert not same["identical"] and "by 0.000000 [0.000000, 0.000000], p = 1: no difference" in same["sentence"]
    assert real["sentence"].endswith("a real difference") and real["sentence"].startswith("D1 is better than ResNet-18")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_class_alone_has_no_auc(tmp_path):
    none = np.zeros(20, dtype=int)
    runs = [changed(run(k, n=20, seed=k), labels=none) for k in range(3)]
    found = compared(runs, tmp_path)
    assert found["runs"][0]["macro_auc"] == {"value": None, "interval": None}
    assert found["pairs"][0]["sentence"] == "C4 seed 0 and C4 seed 1: the macro AUC is not defined on these images"
    assert found["groups"][0]["macro_auc"] == {"mean": None, "spread": None}
    assert found["pairs"][0]["per_class"]["no"] == {"difference": None, "z": None, "p": None, "p_holm": None}
    assert "no test" in comparison.table(found) and json.loads((tmp_path / "compare.json").read_text()) == found


# ---- seeds and names ----


def test_runs_that_differ_in_the_seed_make_a_group(tmp_path, undrawn):
    runs = [run(k, 2 + 0.1 * k, seed=k, results_dir=f"somewhere/{k}", quiet=bool(k)) for k in range(3)]
    found = compared([*runs, run(4, group=("Dihyderal", 4)), run(5, seed=7, lr=0.01)], tmp_path)
    (group,) = found["groups"]
    assert group["seeds"] == 3 and group["runs"] == [row["name"] for row in found["runs"][:3]]
    for key in comparison.FIGURES:
        values = [row[key]["value"] for row in found["runs"][:3]]
        assert group[key]["mean"] == pytest.approx(statistics.mean(values))
        assert group[key]["spread"] == pytest.approx(statistics.stdev(values))


@pytest.mark.parametrize(
    "other",
    [{"lr": 0.01}, {"data_dir": "images_j"}, {"use_cuda": False}, {"group": ("Circular", 8)}, {"seed": 0}],
)
def test_other_runs_make_none(tmp_path, undrawn, other):
    """Other settings are another method; the same seed twice is one seed."""
    assert compared([run(0), run(1, **{"seed": 1} | other)], tmp_path, 10)["groups"] == []


def test_runs_without_a_record_make_none(tmp_path, undrawn):
    runs = [replace(run(k), record=RunRecord()) for k in range(2)]
    found = compared(runs, tmp_path, 10)
    assert found["groups"] == [] and found["runs"][0]["group"] == "Circular" and found["runs"][0]["recipe"] is None
    assert [row["name"] for row in found["runs"]] == [f"C4 2026-11-22-10-30-0{k}" for k in range(2)]


def test_names_say_what_differs_and_no_more():
    runs = [run(0), run(1, seed=1, recipe="seed"), run(2, group=("Dihyderal", 8)), run(3, group=("CNN", None))]
    assert analysis_runs.unique(analysis_runs.label_runs(runs), runs) == [
        "C4 fast seed 0",
        "C4 original seed 1",
        "D8",
        "ResNet-18",
    ]
    twins = [run(0), run(0, root="elsewhere")]
    assert len(set(analysis_runs.unique(analysis_runs.label_runs(twins), twins))) == 2


# ---- runs that do not fit together ----


def other_names():
    names = run().predictions.names.copy()
    names[17] = "sphere/x.npy"
    return {"names": names}


def other_labels():
    labels = run().predictions.labels.copy()
    labels[4] = 2
    return {"labels": labels}


@pytest.mark.parametrize(
    "changes, said",
    [
        (other_names(), "images_f/val has vort/0017.npy where images_f/val has sphere/x.npy"),
        (other_labels(), "sphere/0004.npy is labelled sphere and vort"),
        ({"classes": ["no", "sub", "vort"]}, "classes no, sphere, vort and no, sub, vort"),
        (
            {"sample": "1f", "data_dir": "images_j"},
            "the files of images_f/val and images_j/val have the same names but",
        ),
        ({key: getattr(run().predictions, key)[:99] for key in ("logits", "labels", "names")}, "images_f/val 99"),
    ],
)
def test_other_images_are_refused(tmp_path, changes, said):
    one, other = run(0), changed(run(1), **changes)
    with pytest.raises(ResultsError) as error:
        compared([one, run(2), other], tmp_path)
    message = str(error.value)
    assert said in message and str(one.folder) in message and str(other.folder) in message
    assert message.endswith("--data_dir DIR evaluates all of them on one set") and "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_the_images_is_the_same_images(tmp_path, undrawn):
    assert compared([run(0), changed(run(1), data_dir="copy", split="test")], tmp_path, 10)["images"] == 300


def test_one_run_and_the_same_run_are_refused(tmp_path):
    with pytest.raises(ResultsError, match="two runs or more"):
        compared([run()], tmp_path)
    with pytest.raises(ResultsError, match="10-30-00 is named twice"):
        compared([run(), run()], tmp_path)


def test_a_run_without_predictions(tmp_path):
    with pytest.raises(ResultsError, match="expected a finished run.*--data_dir DIR") as error:
        analysis_runs.load_run(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


# ---- for people ----


def test_table_holds_it_all(tmp_path, undrawn):
    found = compared([run(0), run(1, 2.5, seed=1), run(2, 1.0, group=("CNN", None))], tmp_path)
    text = comparison.table(found)
    assert text.startswith("3 networks, 300 images of images_f/val\n")
    row = found["runs"][1]["macro_auc"]
    assert "{:.4f} [{:.4f}, {:.4f}]".format(row["value"], *row["interval"]) in text
    group = found["groups"][0]["accuracy"]
    assert f"C4       2      {group['mean']:.4f} ± {group['spread']:.4f}" in text
    assert all(f"- {pair['sentence']}\n" in text for pair in found["pairs"]) and "corrected for 3 pairs (Holm)" in text
    assert max(map(len, text.split("\n"))) < 200


def test_comparison_is_no_run(tmp_path):
    folder = storage_runs.make_run_folder(tmp_path, "compare")
    compare.compare([run(0), run(1)], folder, 10)
    assert {path.name for path in folder.iterdir()} == {"compare.json", "compare.png", "compare.pdf"}
    assert storage_runs.list_runs(tmp_path) == []
    for name in ("latest", folder.name, str(folder)):
        with pytest.raises(ResultsError, match="there are none"):
            storage_runs.find_run(tmp_path, name)


def test_seeds_share_a_colour(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", lambda figure, folder, stem: drawn.append((figure, stem)))
    drawn = []
    runs = [run(k, seed=k) for k in range(3)] + [run(9, 3.0, group=("Dihyderal", 8))]
    found = compared(runs, tmp_path, 20)
    ((figure, stem),) = drawn
    lines = figure.axes[1].lines[:4]
    assert stem == "compare" and figure.axes[1].get_xscale() == "log"
    assert len({line.get_color() for line in lines[:3]}) == 1 and lines[3].get_color() != lines[0].get_color()
    assert len({line.get_linestyle() for line in lines[:3]}) == 3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    auc = found["runs"][3]["macro_auc"]
    assert texts[3] == "D8: {:.4f} [{:.4f}, {:.4f}]".format(auc["value"], *auc["interval"])
    for line, row in zip(lines, found["runs"], strict=True):
        assert sk.auc(*line.get_data()) == pytest.approx(row["macro_auc"]["value"], abs=3e-3)


# ---- real networks ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two small untrained networks as runs, and images for them."""
    root = tmp_path_factory.mktemp("compare")
    data = data_folder.scan(write_images(root / "images_t"))
    folders = []
    for order in (1, 2):
        folder = storage_runs.make_run_folder(root, f"images_t_C_{order}")
        config = {"sym_group": "Circular", "N": order, "arch": "compact"}
        classifier = new_classifier(data, config)
        classifier.record = RunRecord(config=TrainingConfig(data_dir=str(data.root)))
        save_model(classifier, folder / "best-model-parameters.pt")
        folders.append(folder)
    return root, data, folders


def test_runs_are_evaluated_now(trained):
    root, data, folders = trained
    runs = analysis_runs.evaluate_runs(folders, data, batch_size=5, progress=False)
    images = np.stack([np.load(path) for path in paths(data.splits["val"])])
    for one, folder in zip(runs, folders, strict=True):
        expected = classifier_saved.load_model(folder / "best-model-parameters.pt").predict(images)
        assert np.allclose(metrics_probabilities.softmax(one.predictions.logits), expected, atol=1e-5)
        assert one.predictions.names[4] == "sphere/0000.npy" and one.predictions.data_dir == "images_t"
    found = compare.compare(runs, root, 20)
    assert [row["name"] for row in found["runs"]] == ["C1", "C2"] and found["runs"][0]["arch"] == "compact"
    for one, folder in zip(runs, folders, strict=True):
        records.save_predictions(folder, one.predictions)
    saved = [analysis_runs.load_run(folder) for folder in folders]
    assert compare.compare(saved, root, 20)["pairs"] == found["pairs"]


def test_other_classes_are_refused(trained, tmp_path):
    _, _, folders = trained
    other = data_folder.scan(write_images(tmp_path / "images_o", classes=("no", "sub"), counts={"train": 1, "val": 1}))
    with pytest.raises(ResultsError) as error:
        analysis_runs.evaluate_runs(folders, other, progress=False)
    message = str(error.value)
    assert "images_o" in message and str(folders[0]) in message and "no, sphere, vort" in message
    assert "\n" not in message


def test_report_leaves_predictions(trained, tmp_path, monkeypatch):
    """What a run's report writes is what a comparison reads; other images of the same names are noticed."""
    monkeypatch.setenv("LENS_PICTURES", "none")
    _, data, folders = trained
    classifier, split = classifier_saved.load_model(folders[0] / "best-model-parameters.pt"), data.splits["val"]
    logits = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    report.write_report(tmp_path, classifier, logits, split, {"split": "val"})
    one = analysis_runs.load_run(tmp_path)
    assert np.array_equal(one.predictions.logits, logits) and one.predictions.classes == CLASSES
    assert one.predictions.labels.tolist() == split.labels.tolist() and one.predictions.split == "val"
    again = data_folder.scan(write_images(tmp_path / "images_t", seed=1)).splits["val"]
    other = report.predictions_of(logits, again, CLASSES)
    assert np.array_equal(other.names, one.predictions.names) and other.sample != one.predictions.sample


@pytest.mark.parametrize("how", ["(1, H, W)", "big-endian", "Fortran", "packed"])
def test_the_same_pixels_stored_otherwise_are_the_same_images(tmp_path, how):
    root, store = (
        write_images(tmp_path / "images_t"),
        {
            "(1, H, W)": lambda image: image[None],
            "big-endian": lambda image: image.astype(">u2"),
            "Fortran": np.asfortranarray,
            "packed": lambda image: np.asfortranarray(image.astype(">u2"))[None],
        },
    )
    logits = np.zeros((12, 3))
    one = report.predictions_of(logits, data_folder.scan(root).splits["val"], CLASSES)
    for path in root.rglob("*.npy"):
        np.save(path, store[how](np.load(path)))
    if how == "packed":
        pack.pack(root, tmp_path / "shards")
        root = tmp_path / "shards"
    other = report.predictions_of(logits, data_folder.scan(root).splits["val"], CLASSES)
    assert one.sample == other.sample
    assert analysis_runs._difference(one, other._replace(sample="0" * 64)) is None  # written before pixels counted

"""Training that begins with a trained network's weights, on other classes and on few images of one of them."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from programs import SMALL, final, run
from sklearn.metrics import recall_score
from trainers import RECIPE, make

from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.data.folder import LensFolder, scan
from darklens.data.transforms import Preprocess
from darklens.errors import CheckpointError, UsageError
from darklens.fit import SmoothModel
from darklens.networks.equivariant import build_network
from darklens.runs.weights import adopted_preprocess, describe
from darklens.simulation.recipes import RECIPES
from darklens.simulation.writer import write_dataset
from darklens.storage import records
from darklens.training import recipes
from darklens.training.loss import class_weights, cross_entropy
from darklens.training.trainer import Trainer

TUNE = [
    "--mode",
    "Train",
    "--weights",
    "mine.pt",
    "--epochs",
    "1",
    "--batch_size",
    "8",
    "--use_cuda",
    "False",
    "--quiet",
]
FROZEN = ["--recipe", "fast", "--lr", "1e-9"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with images_t and the weights of a network for them, mine.pt: D4, 33 pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENS_PICTURES", "none")
    data = scan(write_images(tmp_path / "images_t"))
    torch.manual_seed(7)
    config = {"sym_group": "Dihyderal", "N": 4, "arch": "compact", "head": "pooled"}
    network = saved.new_classifier(data, config, preprocess=Preprocess(33))
    saved.save_model(network, tmp_path / "mine.pt")
    return tmp_path


def tuned(here: Path, *arguments) -> tuple[Path, Classifier, Classifier, str]:
    """A new run's folder, its network, that of mine.pt, and the run's log."""
    before = set(here.glob("*/*/run.json"))
    assert run(*TUNE, *arguments) == 0
    (new,) = set(here.glob("*/*/run.json")) - before
    networks = [saved.load_model(path) for path in (new.with_name("best-model-parameters.pt"), here / "mine.pt")]
    return new.parent, *networks, next(new.parent.glob("log_*.txt")).read_text()


def parts(classifier: Classifier) -> tuple[dict, dict]:
    """The parameters of the trunk, and of the last layer."""
    found = dict(classifier.network.named_parameters())
    last = {name: found.pop(name) for name in list(found) if name.startswith("head.classify")}
    return found, last


def test_other_classes_get_a_new_last_layer(here):
    """Nothing of the network is repeated on the command line; nearly no step is taken: the trunk is that of before."""
    write_images(here / "few_labels", classes=("lens", "other"), counts={"train": 6, "val": 4})
    folder, new, old, log = tuned(here, "--data_dir", "few_labels", *FROZEN)
    (trunk, last), (before, there) = parts(new), parts(old)
    for name, value in trunk.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    assert [len(value) for value in last.values()] == [2, 2] != [len(value) for value in there.values()]
    assert new.classes == ["lens", "other"] and new.preprocess == old.preprocess
    assert "weights mine.pt: all layers but the last, which is new (its classes were no, sphere, vort)\n" in log
    arguments = json.loads((folder / "run.json").read_text())["arguments"]
    assert (arguments["sym_group"], arguments["head"], arguments["crop"]) == ("Dihyderal", "pooled", 33)
    assert run("--config", folder / "run.json", "--quiet") == 0  # the record is enough to do it again
    (again,) = set(here.glob("few_labels_D_4/*")) - {folder}
    assert (again / "train_loss.npy").read_bytes() == (folder / "train_loss.npy").read_bytes()


def test_same_classes_keep_the_last_layer(here):
    _, new, old, log = tuned(here, "--data_dir", "images_t", *FROZEN)
    torch.testing.assert_close(parts(new)[1], parts(old)[1], rtol=0, atol=1e-6)
    assert "weights mine.pt: all layers\n" in log


def test_same_classes_in_another_order_are_permuted(here):
    old = saved.load_model(here / "mine.pt")
    new = copy.deepcopy(old)
    new.classes, before = ["vort", "no", "sphere"], copy.deepcopy(new.network)
    torch.nn.init.zeros_(new.network.head.classify.weight)
    assert saved.start_from(new, old) == "reordered"
    images = torch.randn(4, 1, 33, 33)
    with torch.no_grad():
        assert torch.equal(new.network.eval()(images), before.eval()(images)[:, [2, 0, 1]])
    assert "the last in the order of these classes (there no, sphere, vort)" in describe(
        "x", old, old.preprocess, "reordered"
    )


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--N", "8"], "--N 8 contradicts --weights mine.pt, which has 4: leave --N out"),
        (["--arch", "full"], "--arch full contradicts --weights mine.pt, which has compact"),
        (["--view", "residual"], "--view residual contradicts --weights mine.pt, which has image"),
        (["--crop", "35"], "--crop 35 contradicts --weights mine.pt, which has 33"),
        (["--use_CNN"], "--use_CNN True contradicts --weights mine.pt, which has False"),
        (["--data_dir", "small"], "--weights mine.pt looks at 33 pixels a side; the images in small have 31"),
        (["--data_dir", "colour"], "--weights mine.pt takes images of 1 channels; those in colour: 3"),
    ],
)
def test_what_contradicts_the_weights(here, capsys, flags, complaint):
    write_images(here / "small", counts={"train": 1, "val": 1}, size=31)
    for path in write_images(here / "colour", counts={"train": 1, "val": 1}).rglob("*.npy"):
        np.save(path, np.stack([np.load(path)] * 3))
    with pytest.raises(SystemExit):
        run(*TUNE, "--data_dir", "images_t", *flags)
    assert complaint in capsys.readouterr().err
    assert not list(here.glob("*/*/run.json"))


def test_smooth_lens_is_that_of_the_data_or_of_the_weights(tmp_path):
    """A recipe in the folder is known better than the weights know it; other images are seen as those of before."""
    lens = SmoothModel(pixel_scale=0.08, psf_sigma=0.07, window=33)
    network = build_network({"arch": "compact", "head": "pooled", "size": 33})
    old = Classifier(network, ["no", "sphere", "vort"], Preprocess(33, view="residual", smooth_model=lens))
    own = scan(write_images(tmp_path / "own", size=150, counts={"train": 1, "val": 1}))
    assert adopted_preprocess(old, own, "mine", "residual") == old.preprocess
    assert (
        describe("mine", old, old.preprocess, "kept")
        == 'weights mine: all layers; its own smooth lens; pixels of 0.08"'
    )
    write_dataset(tmp_path / "f", RECIPES["f"], {"train": 1, "val": 1}, quiet=True, workers=1)
    found = adopted_preprocess(old, scan(tmp_path / "f"), "mine", "residual")
    assert found.smooth_model.pixel_scale == 0.05 and found.smooth_model.window == found.crop == 33
    assert 'data set\'s recipe; pixels of 0.05", it was trained on 0.08"' in describe("mine", old, found, "kept")
    flexible = adopted_preprocess(old, own, "mine", "flexible")
    assert flexible.view == "flexible" and flexible.smooth_model == dataclasses.replace(lens, source="flexible")
    with pytest.raises(UsageError, match="channels"):
        adopted_preprocess(old, LensFolder(tmp_path, ("a", "b"), 3, 150, {}, 0), "mine", "residual")


# --- unequal classes ----------------------------------------------------------------------------------------------


def test_weights_are_inverse_frequencies_of_mean_one():
    labels = np.repeat([0, 1, 2], [300, 30, 70])
    weights = class_weights(labels, 3)
    np.testing.assert_allclose(weights, [400 / 900, 400 / 90, 400 / 210])
    np.testing.assert_allclose(weights[labels].mean(), 1)
    np.testing.assert_allclose([weights[labels][labels == k].sum() for k in range(3)], 400 / 3)  # all count the same


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_loss(smoothing):
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0.5, 2.0, 3.0])
    target = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    each = -(target * logits.log_softmax(1)).sum(1) * torch.tensor([0.5, 2, 3, 3, 2, 0.5])
    torch.testing.assert_close(cross_entropy(logits, labels, smoothing, weights, mean=False), each)
    torch.testing.assert_close(cross_entropy(logits, labels, smoothing, weights), each.mean())
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(logits, labels, smoothing), plain)


def unequal(folder: Path, rare: int, many: int, val: int) -> Path:
    """Two classes that overlap: the rare one has a faint lump more."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :30] - 14.5
    for split, counts in (("train", (many, rare)), ("val", (val, val))):
        for name, count in zip(("common", "rare"), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0, 30) * (name == "rare")
                lump = height * np.exp(-((x - 7 * np.cos(angle)) ** 2 + (y - 7 * np.sin(angle)) ** 2) / 6)
                np.save(folder / split / name / f"{i:03d}.npy", rng.poisson(100 + lump).astype(np.uint16))
    return folder


def test_recall_of_a_rare_class_rises(tmp_path):
    """300 images of one class and 30 of the other to learn from, 50 of each to be measured on."""
    unequal(tmp_path / "images_t", 30, 300, 50)
    recipe, recalls = recipes.choose_recipe("fast", epochs=2), []
    for weights in (None, {"common": 330 / 600, "rare": 330 / 60}):
        run = make(tmp_path / "images_t", tmp_path / "r", recipe, class_weights=weights)
        run.fit()
        recalls.append(recall_score(run.val.labels, run.evaluate_val().argmax(1), pos_label=1))
    assert recalls[1] > recalls[0] + 0.1, recalls


def test_balanced_run_resumes_to_the_same_bits(here, monkeypatch):
    for path in list((here / "images_t" / "train" / "vort").iterdir())[:5]:
        path.unlink()
    flags = ["--data_dir", "images_t", *SMALL, "--balance"]
    assert run(*flags, "--results_dir", "whole") == 0
    real, steps = Trainer._train_step, []

    def stop(self, batch):
        steps.append(1)
        if len(steps) == 3:
            self.signals.append(15)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop)
        assert run(*flags, "--results_dir", "broken") == 143
    assert run("--resume", "latest", "--results_dir", "broken", "--quiet") == 0
    whole, broken = (next((here / name).glob("*/*/run.json")).parent for name in ("whole", "broken"))
    first, second = final(whole), final(broken)
    assert first["train_loss"] == second["train_loss"]
    record = json.loads((broken / "run.json").read_text())
    assert record["arguments"]["balance"] and record["class_weights"]["vort"] == 19 / 9  # 19 images, 3 of them
    line = "balance: an image counts in the training loss, by its class, no 0.792, sphere 0.792, vort 2.11"
    assert line in next(broken.glob("log_*")).read_text()
    labels = records.load_predictions(broken).labels
    logits = records.load_predictions(broken).logits
    assert first["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())  # of all images alike


def test_a_state_of_other_weights_is_refused(tmp_path):
    folder = write_images(tmp_path / "images_t", counts={"train": 3, "val": 2}, size=36)
    weights = {"no": 0.5, "sphere": 0.5, "vort": 2.0}
    runs = [make(folder, tmp_path / "r", RECIPE, class_weights=weights) for _ in range(2)]
    runs[0].save()
    runs[1].resume()  # of the same weights: nothing is raised
    with pytest.raises(CheckpointError, match="class weights"):
        make(folder, tmp_path / "r", RECIPE, class_weights=weights | {"no": 1.0}).resume()

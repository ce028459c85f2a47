"""trainer.py and classifier.py: learning, exact resumption, what stops a run."""

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from conftest import write_images
from data_sets import paths
from trainers import RECIPE, assert_same, make

from darklens.classifier.classifier import Classifier, evaluator
from darklens.classifier.saved import load_model, save_model
from darklens.data.transforms import default_preprocess
from darklens.errors import CheckpointError, Interrupted, TrainingError
from darklens.networks.equivariant import build_network
from darklens.training import evaluate, recipes, trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images_t", counts={"train": 7, "val": 3}, size=36)


AVERAGED = dataclasses.replace(RECIPE, average=0.9, recalibrate=0)
MUON = dataclasses.replace(RECIPE, optimiser="muon")


@pytest.mark.parametrize("cnn", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_same_bits(folder, tmp_path, cnn, precision):
    runs = [make(folder, tmp_path / name, cnn=cnn, precision=precision) for name in "ab"]
    for run in runs:
        run.fit()
    assert_same(*runs)
    assert (tmp_path / "a" / "train_loss.npy").read_bytes() == (tmp_path / "b" / "train_loss.npy").read_bytes()


def resnet(*arguments):
    return pytest.param(*arguments, True, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "steps, recipe, precision, cnn",
    [
        (1, RECIPE, "fp32", False),
        (5, RECIPE, "fp32", False),
        (7, RECIPE, "bf16", False),
        (3, AVERAGED, "fp32", False),
        (4, MUON, "fp32", False),
        resnet(5, RECIPE, "bf16"),
        resnet(3, AVERAGED, "fp32"),
        resnet(4, MUON, "fp32"),
    ],
)
def test_resumed_run_is_the_unbroken_one(folder, tmp_path, monkeypatch, steps, recipe, precision, cnn):
    """Stopped by SIGTERM after some steps (5: the last of the first epoch), then resumed in a fresh trainer."""
    whole = make(folder, tmp_path / "whole", recipe, cnn=cnn, precision=precision)
    whole.fit()
    broken = make(folder, tmp_path / "broken", recipe, cnn=cnn, precision=precision)
    step, done = trainer.Trainer._train_step, []

    def stop_after(self, batch):
        done.append(step(self, batch))
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return done[-1]

    monkeypatch.setattr(trainer.Trainer, "_train_step", stop_after)
    with pytest.raises(Interrupted) as stopped:
        broken.fit()
    assert stopped.value.status == 143
    torch.rand(7), np.random.rand(3)  # whatever else draws random numbers
    resumed = make(folder, tmp_path / "broken", recipe, cnn=cnn, precision=precision, seed=0)
    resumed.resume()
    resumed.fit()
    assert_same(whole, resumed)
    best = [(tmp_path / name / "best-model-parameters.pt").read_bytes() for name in ("whole", "broken")]
    assert best[0] == best[1]


def test_averaged_weights_are_what_is_kept(folder, tmp_path):
    """The running average of the weights after each step, begun with those after the first."""
    run, seen = make(folder, tmp_path / "r", dataclasses.replace(AVERAGED, epochs=1)), []
    step = run.optimiser.step
    run.optimiser.step = lambda: (step(), seen.append([p.detach().clone() for p in run.network.parameters()]))
    run.fit()
    expected = seen[0]
    for weights in seen[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    kept = load_model(tmp_path / "r" / "best-model-parameters.pt").network
    for found, value, last in zip(kept.parameters(), expected, seen[-1], strict=True):
        torch.testing.assert_close(found, value)
        assert not torch.equal(found, last)


def test_learns(folder, tmp_path):
    run = make(folder, tmp_path / "r", recipes.TrainingRecipe("adamw", 3e-3, 1e-2, "one-cycle", 12, 7, recalibrate=3))
    run.fit()
    assert run.curves["train_loss"][-1] < 0.75 * run.curves["train_loss"][0]


def test_nan_loss_stops_and_names_the_files(folder, tmp_path):
    lines = []
    run = make(folder, tmp_path / "r")
    run.log = lines.append
    with torch.no_grad():
        run.network.head.classify.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match="epoch 1, step 1, learning rate"):
        run.fit()
    assert any(".npy" in line and "images_t" in line for line in lines)
    assert not (tmp_path / "r" / "best-model-parameters.pt").exists()


def test_diverged_network_keeps_the_last_good_one(folder, tmp_path):
    run = make(folder, tmp_path / "r")
    run.fit()
    good = (tmp_path / "r" / "best-model-parameters.pt").read_bytes()
    with pytest.raises(TrainingError, match="not finite"):
        run.keep_best([1.0, 0.0], np.full((9, 3), np.nan))
    assert (tmp_path / "r" / "best-model-parameters.pt").read_bytes() == good


@pytest.mark.parametrize("counts, batch", [({"train": 1, "val": 1}, 1), ({"train": 3, "val": 1}, 4)])
@pytest.mark.parametrize("classes", [2, 10])
def test_odd_numbers_work(tmp_path, counts, batch, classes):
    """A batch of one, a last short batch of one, a class with one image, 2 and 10 classes."""
    names = [f"class {k}" for k in range(classes)]
    folder = write_images(tmp_path / "data", names, counts, size=36)
    run = make(folder, tmp_path / "r", recipes.TrainingRecipe("adam", 1e-3, 0.0, "constant", 1, batch))
    run.fit()
    assert all(len(curve) == 1 and np.isfinite(curve[0]) for curve in run.curves.values())


def test_best_checkpoint_is_that_of_the_best_epoch(folder, tmp_path):
    run = make(folder, tmp_path / "r", recipes.TrainingRecipe("adamw", 3e-3, 0.0, "constant", 4, 8))
    run.fit()
    model = load_model(tmp_path / "r" / "best-model-parameters.pt")
    assert model.epoch == run.best["epoch"] and model.classes == ["no", "sphere", "vort"]
    logits = evaluate.evaluate(model.network, run.val, "fp32")
    torch.testing.assert_close(torch.from_numpy(logits), run.best["logits"])


def test_checkpoint_of_d8_is_small(tmp_path):
    network = build_network({"sym_group": "Dihyderal", "N": 8, "head": "flatten"})
    save_model(Classifier(network, ["no", "sphere", "vort"], default_preprocess(150)), tmp_path / "d8.pt")
    assert (tmp_path / "d8.pt").stat().st_size < 30e6


def test_checkpoint_with_another_networks_weights_is_refused(folder, tmp_path):
    run = make(folder, tmp_path / "r")
    payload_of = {"sym_group": "Dihyderal", "N": 4}
    model = run.classifier
    model.network.config |= payload_of
    save_model(model, tmp_path / "r" / "m.pt")
    with pytest.raises(CheckpointError, match="m.pt: not a usable network"):
        load_model(tmp_path / "r" / "m.pt")


def test_predict_is_one_call(folder, tmp_path):
    run = make(folder, tmp_path / "r")
    run.fit()
    model = load_model(tmp_path / "r" / "best-model-parameters.pt")
    raw = np.stack([np.load(path) for path in paths(run.val.split)])
    probabilities = model.predict(raw)
    expected = torch.softmax(run.best["logits"] / model.temperature, 1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(raw.astype(float) * 1e-9), probabilities, atol=1e-5)


def test_evaluator_leaves_the_network_alone(folder, tmp_path):
    run = make(folder, tmp_path / "r")
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    run.network.train()
    evaluate.evaluate(run.network, run.val, "bf16")
    assert run.network.training
    assert all(torch.equal(before[key], value) for key, value in run.network.state_dict().items())


def test_evaluator_is_frozen_in_time(folder, tmp_path):
    network = make(folder, tmp_path / "r").network
    run, x = evaluator(network, "cpu", "fp32"), torch.randn(2, 1, 35, 35)
    before = run(x)
    with torch.no_grad():
        network.blocks[2].conv.weight.add_(1.0)
    assert torch.equal(run(x), before)


def test_one_cycle_rises_and_falls():
    values = [recipes.one_cycle(p) for p in np.linspace(0, 1, 101)]
    assert max(values) == pytest.approx(1) and np.argmax(values) == 20 and values[0] <= 1e-3 and values[-1] <= 1e-3


def test_curves_are_percent_and_per_epoch(folder, tmp_path):
    run = make(folder, tmp_path / "r")
    run.fit()
    accuracy = np.load(tmp_path / "r" / "test_accuracy.npy")
    assert accuracy.shape == (2,) and accuracy[-1] == run.curves["test_accuracy"][-1]
    assert accuracy[-1] in [100 * k / 9 for k in range(10)] or np.isclose(accuracy[-1] * 9 % 100, 0)
    assert json.dumps(run.timing())


def test_the_baseline_has_a_fast_recipe_of_its_own():
    steerable, baseline = recipes.choose_recipe("fast"), recipes.choose_recipe("fast", cnn=True)
    assert (steerable.optimiser, baseline.optimiser) == ("muon", "adamw") and baseline.lr < steerable.lr
    assert recipes.choose_recipe("fast", cnn=True, lr=0.5, epochs=None) == dataclasses.replace(baseline, lr=0.5)
    assert recipes.choose_recipe("seed", cnn=True) == recipes.choose_recipe("seed")

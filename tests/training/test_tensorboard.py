"""board.py: what a TensorBoard reader finds in the events."""

import pytest

from darklens.errors import PackageError
from darklens.training.tensorboard import Board, _parameters

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    return events.Reload()


def test_curves_pictures_and_figures(tmp_path):
    from PIL import Image

    board = Board(tmp_path)
    curves = {"train_loss": [], "test_loss": [], "train_accuracy": [], "test_accuracy": []}
    for value in (1.0, 0.5):
        for points in curves.values():
            points.append(value)
        board.epoch(curves, 3e-3)
    Image.new("RGB", (2400, 1800), "red").save(tmp_path / "ROC.png")
    found = {"accuracy": 0.75, "auc": {"macro": {"value": None}}, "confusion_matrix": [[3, 1], [0, 4]]}
    arguments = {"N": 4, "lr": None, "use_CNN": False, "quiet": True}
    board.finish(found | {"classes": ["no", "vort"], "arguments": arguments, "recipe": {"lr": 3e-3}})
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss/train")] == [(1, 1.0), (2, 0.5)]
    names = {f"{quantity}/{split}" for quantity in ("loss", "accuracy") for split in ("train", "val")}
    assert names | {"learning_rate", "best/accuracy"} == set(events.Tags()["scalars"])
    assert events.Scalars("best/accuracy")[0].value == 0.75  # as in metrics.json
    (picture,) = events.Images("pictures/ROC")
    assert (picture.width, picture.height) == (1200, 900)
    assert any("confusion" in tag for tag in events.Tags()["tensors"])


def test_parameters_are_what_tells_runs_apart():
    found = {"arguments": {"N": 4, "lr": None, "quiet": True}, "recipe": {"lr": 3e-3, "epochs": 5}, "precision": "bf16"}
    assert _parameters(found) == {"N": 4, "precision": "bf16", "lr": 3e-3, "epochs": 5}


def test_missing_package_is_one_line(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PackageError, match="pip install tensorboard"):
        Board(tmp_path)

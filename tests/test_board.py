"""board.py: what a TensorBoard reader finds in the events."""

import pytest

from board import Board

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
    board.finish(found | {"classes": ["no", "vort"], "arguments": {"N": 4, "lr": None, "use_CNN": False}})
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss/train")] == [(1, 1.0), (2, 0.5)]
    assert {"loss/test", "accuracy/train", "accuracy/test", "learning_rate", "best/accuracy"} <= set(
        events.Tags()["scalars"]
    )
    (picture,) = events.Images("ROC")
    assert (picture.width, picture.height) == (1200, 900)
    assert any("confusion" in tag for tag in events.Tags()["tensors"])


def test_missing_package_is_one_line(tmp_path, monkeypatch):
    import sys

    from board import BoardError

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BoardError, match="pip install tensorboard"):
        Board(tmp_path)

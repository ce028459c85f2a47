"""Small trainers for tests."""

import torch

from darklens.classifier.classifier import Classifier
from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.transforms import default_preprocess
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.storage.run_record import RunRecord
from darklens.training import recipes, trainer

RECIPE = recipes.TrainingRecipe("adamw", 1e-3, 1e-2, "one-cycle", epochs=2, batch_size=5, recalibrate=2)


def make(folder, out, recipe=RECIPE, cnn=False, precision="fp32", seed=0, **options) -> trainer.Trainer:
    torch.manual_seed(seed)
    data = scan(folder)
    preprocess = default_preprocess(data.size)
    config = {"channels": 1, "classes": len(data.classes), "size": preprocess.crop}
    network = build_resnet(config) if cnn else build_network({**config, "arch": "compact", "head": "pooled"})
    batches = [
        Batches(data.splits[name], data, preprocess, recipe.batch_size, train=name == "train", seed=seed, workers=0)
        for name in ("train", "val")
    ]
    out.mkdir(exist_ok=True)
    model = Classifier(network, list(data.classes), preprocess, record=RunRecord(seed=seed))
    options = {"log": lambda line: None, "precision": precision, "quiet": True, **options}
    return trainer.Trainer(model, *batches, recipe, out, **options)


def everything(run: trainer.Trainer) -> dict:
    return {**run.network.state_dict(), "best": run.best["logits"], "curves": torch.tensor(list(run.curves.values()))}


def assert_same(a: trainer.Trainer, b: trainer.Trainer) -> None:
    first, second = everything(a), everything(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)

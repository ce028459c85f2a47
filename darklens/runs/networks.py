"""The untrained network of a run, and the record of what it is trained with."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.data.provenance import simulation_of
from darklens.machine import choose_precision
from darklens.posterior.training import check_inferable
from darklens.runs import weights
from darklens.runs.data import RunData
from darklens.runs.fingerprint import fingerprints
from darklens.runs.run import Run
from darklens.simulation.recipes import recipe_dict
from darklens.storage.run_record import RunRecord
from darklens.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = "torch", "torchvision", "e2cnn", "numpy", "scikit-learn", "matplotlib"


def build_equivariant(run: Run, data: RunData) -> Classifier:
    """An untrained steerable network, equivariant under the group C_N or D_N of the settings; with `--weights`, theirs.

    Raises UsageError for a network that does not fit the images.
    """
    return _build(run, data, {key: getattr(run.config, key) for key in ("sym_group", "N", "arch", "head")})


def build_resnet(run: Run, data: RunData) -> Classifier:
    """An untrained ResNet-18, the baseline; with `--weights`, theirs. Raises UsageError as `build_equivariant`."""
    return _build(run, data, {}, cnn=True)


def _build(run: Run, data: RunData, network: dict[str, Any], cnn: bool = False) -> Classifier:
    torch.manual_seed(run.config.seed)
    classifier = saved.new_classifier(
        data.folder, network, run.device, cnn, preprocess=data.preprocess, conv=run.config.conv
    )
    saved.check_savable(classifier)
    if run.config.infer:
        check_inferable(classifier, data.folder)
    if run.trained:
        last_layer = saved.start_from(classifier, run.trained)
        note = weights.describe(run.config.weights, run.trained, data.preprocess, last_layer)
        classifier.record = RunRecord(weights=note)
    return classifier


def new_record(run: Run, data: RunData, classifier: Classifier) -> RunRecord:
    """All that is needed to understand and repeat the run: `run.json`, and part of every checkpoint."""
    simulation, network = data.simulation or simulation_of(data.folder), classifier.config
    decided = {"batch_size": run.recipe.batch_size, "view": data.preprocess.view, "head": network.get("head")}
    return RunRecord(
        config=run.config.replace(**decided),
        recipe=run.recipe,
        network={"kind": classifier.kind, **network},
        simulation=None if simulation is None else recipe_dict(simulation),
        classes=list(classifier.classes),
        preprocess=data.preprocess.to_dict(),
        images={name: len(split) for name, split in data.folder.splits.items()},
        fingerprints=run.ranks.broadcast(lambda: fingerprints(data.folder)),
        seed=run.config.seed,
        precision=choose_precision(run.config.precision, run.device),
        device=str(run.device) if run.device.type == "cpu" else torch.cuda.get_device_name(run.device),
        threads=torch.get_num_threads(),
        ranks=run.ranks.world,
        package={"version": __version__, "sources": source_hash()},
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        weights=classifier.record.weights,
    )


def source_hash() -> str:
    """SHA-256 of the package's sources: names and contents, in order."""
    digest = hashlib.sha256()
    for path in sorted(path for end in ("*.py", "*.cpp") for path in PACKAGE.rglob(end)):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()

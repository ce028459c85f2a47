"""The trained network that a command is about, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model
from darklens.data.folder import LensFolder
from darklens.errors import ResultsError, UsageError
from darklens.networks.conv import set_convolution
from darklens.storage import runs
from darklens.training.state import BEST


@dataclass(frozen=True)
class NetworkChoice:
    """Which trained network is meant.

    weights: a network that comes with the program, or a checkpoint's path; else timestamp: a run's, its folder, or
    latest, in results_dir; run_name: restricts `latest` and picks between equal timestamps; network: settings, such as
    N, that the network must have.
    """

    weights: str = ""
    timestamp: str = ""
    results_dir: str = "."
    run_name: str | None = None
    network: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network from its checkpoint at `path`, on `device`."""

    path: Path
    classifier: Classifier
    device: torch.device


def open_network(choice: NetworkChoice, device: torch.device, conv: str = "auto") -> TrainedNetwork:
    """Load it. Raises UsageError where there is none, or it is another than was meant, CheckpointError."""
    path = saved.find_weights(choice.weights) if choice.weights else _find_run(choice) / BEST
    classifier = load_model(path, device)
    set_convolution(classifier.network, conv)
    _check_agreement(choice, classifier, path.parent)
    return TrainedNetwork(path, classifier, device)


def check_classes(classifier: Classifier, folder: LensFolder) -> None:
    """Raise UsageError unless the data are of the kind that the network was trained on."""
    classes, channels = list(folder.classes), classifier.channels
    if classifier.record.original and len(classes) == len(classifier.classes):
        classifier.classes = classes  # the original's checkpoints do not name their classes
    if classes != classifier.classes:
        names = ", ".join(classifier.classes)
        raise UsageError(f"{folder.root} has the classes {', '.join(classes)}, the network {names}")
    if folder.channels != channels:
        raise UsageError(f"{folder.root} has images of {folder.channels} channels, the network takes {channels}")


def _find_run(choice: NetworkChoice) -> Path:
    try:
        folder = runs.find_run(choice.results_dir, choice.timestamp, choice.run_name, BEST)
    except ResultsError as error:
        raise UsageError(f"--test_time: {error}") from error
    if not (folder / BEST).exists():
        raise UsageError(f"--test_time: {folder} has no {BEST}: its first epoch was never finished")
    return folder


def _check_agreement(choice: NetworkChoice, classifier: Classifier, folder: Path) -> None:
    """Flags, and the name of an original run's folder, must not contradict the checkpoint."""
    config, cnn = classifier.config, classifier.kind == "resnet"
    actual = {"use_CNN": cnn, **config}
    for name, value in choice.network.items():
        if actual.get(name, value) != value:
            raise UsageError(f"--{name} {value} contradicts the checkpoint in {folder}, which has {actual[name]}")
    names = [runs.original_group(part) for part in (folder.name, folder.parent.name)]
    named = next((group for group in names if group), None)
    group = "CNN" if cnn else (config["sym_group"], config["N"])
    if named and named != group:
        raise UsageError(
            f"{folder}: the folder's name says {_spell(named)}, the checkpoint in it is of {_spell(group)}"
        )


def _spell(group: str | tuple[str, int]) -> str:
    return "ResNet-18" if isinstance(group, str) else f"{group[0]} group of order N = {group[1]}"

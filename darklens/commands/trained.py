"""The network that a command is about, and what it says of itself."""

from argparse import Namespace
from pathlib import Path

import torch

from darklens import machine
from darklens.classifier import saved
from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model
from darklens.commands import flags
from darklens.errors import ResultsError, UsageError
from darklens.networks.conv import set_convolution
from darklens.storage import runs

BEST = "best-model-parameters.pt"


def load_network(settings: Namespace, given: set[str]) -> tuple[Path, Classifier, torch.device]:
    """The checkpoint that is asked for, its network, and the device that it is now on."""
    path = saved.find_weights(settings.weights) if settings.weights else _find_run(settings, given) / BEST
    device = machine.choose_device(settings.use_cuda, settings.cuda_idx, settings.cuda_asked)
    classifier = load_model(path, device)
    set_convolution(classifier.network, settings.conv)
    _check_agreement(settings, given, classifier, path.parent)
    return path, classifier, device


def _find_run(settings: Namespace, given: set[str]) -> Path:
    named = {"sym_group", "N", "use_CNN", *(["data_dir"] if settings.mode == "Test" else [])} & given
    name = runs.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    try:
        folder = runs.find_run(settings.results_dir, settings.test_time, name if named else None, BEST)
    except ResultsError as error:
        raise UsageError(f"--test_time: {error}") from error
    if not (folder / BEST).exists():
        raise UsageError(f"--test_time: {folder} has no {BEST}: its first epoch was never finished")
    return folder


def _check_agreement(settings: Namespace, given: set[str], classifier: Classifier, folder: Path) -> None:
    """Flags, and the name of an original run's folder, must not contradict the checkpoint."""
    config, cnn = classifier.network.config, classifier.kind == "resnet"
    known = {"use_CNN": cnn, **{key: config[key] for key in flags.NETWORK_FLAGS if key in config}}
    for name in [name for name in flags.NETWORK_FLAGS if name in given]:
        if known.get(name, getattr(settings, name)) != getattr(settings, name):
            raise UsageError(
                f"--{name} {getattr(settings, name)} contradicts the checkpoint in {folder}, which has {known[name]}"
            )
    said = [runs.original_group(part) for part in (folder.name, folder.parent.name)]
    said = next((group for group in said if group), None)
    found = "CNN" if cnn else (config["sym_group"], config["N"])
    if said and said != found:
        raise UsageError(f"{folder}: the folder's name says {_spell(said)}, the checkpoint in it is of {_spell(found)}")


def _spell(group: str | tuple[str, int]) -> str:
    return "ResNet-18" if group == "CNN" else f"{group[0]} group of order N = {group[1]}"

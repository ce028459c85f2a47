"""Trained networks on disk: ours, and those that the original project published."""

import json
import math
from pathlib import Path

import torch
from torch import nn

from darklens.classifier.classifier import Classifier, last_linear
from darklens.classifier.exposure import OutlierDetector
from darklens.classifier.features import feature_count
from darklens.classifier.novelty import BINS, Novelty
from darklens.classifier.posterior import Inference
from darklens.data.folder import LensFolder
from darklens.data.transforms import ORIGINAL, Preprocess, default_preprocess
from darklens.errors import CheckpointError, PublishedError, UsageError
from darklens.machine import PRECISIONS
from darklens.networks import published
from darklens.networks.conv import set_convolution
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.storage import checkpoint
from darklens.storage.run_record import RunRecord

NETWORKS = {"equivariant": build_network, "resnet": build_resnet}
LIMITS = {"N": 64, "channels": 3, "classes": 1000, "size": 2048}  # of what a checkpoint may ask to be built
PUBLISHED_CLASSES = ["no", "sphere", "vort"]  # of the original's checkpoints, which do not name them


def save_model(classifier: Classifier, path: str | Path) -> None:
    """Write parameters and statistics (no bases) with their description. Raises CheckpointError.

    Equal classifiers give equal bytes: the description goes through JSON, since pickle writes strings that happen to
    be one object differently from equal ones.
    """
    extras = {key: getattr(classifier, key) for key in ("novelty", "inference", "outliers")}
    parts = {key: value.to_dict() for key, value in extras.items() if value}
    checkpoint.save({**_describe(classifier), **parts, "state": classifier.network.state_dict()}, path)


def check_savable(classifier: Classifier) -> None:
    """Raise UsageError for a network that could be trained and saved but not loaded again: before it is trained."""
    try:
        _check_description(_describe(classifier))
    except ValueError as error:
        limits = ", ".join(f"{name} at most {limit}" for name, limit in LIMITS.items())
        hint = f"{limits}; class names must differ in more than their case"
        raise UsageError(f"this network could not be loaded again: {error} ({hint})") from error


def _describe(classifier: Classifier) -> dict:
    """What a checkpoint says of a classifier, as JSON gives it back."""
    description = {
        "kind": classifier.kind,
        "network": classifier.config,
        "classes": list(classifier.classes),
        "preprocess": classifier.preprocess.to_dict(),
        "temperature": classifier.temperature,
        "record": classifier.record.to_dict(),
        "epoch": classifier.epoch,
    }
    return json.loads(json.dumps(description, sort_keys=True))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """The classifier in a checkpoint of ours, or in one that the original project published; evaluation mode.

    Raises CheckpointError, in one line, for a file that is damaged, unsafe, of another kind or not consistent.
    """
    try:
        classifier = _ours(path) if checkpoint.is_ours(path) else _published(path)
        _check_weights(classifier.network)
    except (PublishedError, AttributeError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: not a usable network: {reason}") from error
    move(classifier.network, device).eval()
    return classifier


def move(network: nn.Module, device: str | torch.device) -> nn.Module:
    """The network on a device, in the memory format that its convolutions work in."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub omits it


def _ours(path: str | Path) -> Classifier:
    payload = checkpoint.load(path)
    if payload.get("kind") not in NETWORKS:
        raise ValueError(f"expected a network of kind {' or '.join(NETWORKS)}, found {payload.get('kind')!r}")
    _check_description(payload)
    network = NETWORKS[payload["kind"]](payload["network"])
    fresh = network.state_dict()
    for key, value in payload["state"].items():
        if key in fresh and value.dtype != fresh[key].dtype:
            raise ValueError(f"{key} holds {value.dtype}, expected {fresh[key].dtype}")
    network.load_state_dict(payload["state"])
    preprocess = Preprocess.from_dict(payload["preprocess"])
    details = {"temperature": payload["temperature"], "epoch": payload["epoch"]}
    details["record"] = RunRecord.from_dict(payload["record"])
    if "novelty" in payload:  # older checkpoints have none
        sizes = last_linear(network).in_features, payload["network"].get("channels", 1) * 2 * BINS
        details["novelty"] = Novelty.from_dict(payload["novelty"], sizes)
    if "inference" in payload:
        details["inference"] = Inference.from_dict(payload["inference"], payload["classes"], feature_count(network))
    if "outliers" in payload:
        details["outliers"] = OutlierDetector.from_dict(payload["outliers"])
    return Classifier(network, payload["classes"], preprocess, **details)


def _check_description(payload: dict) -> None:
    """Raises ValueError where the parts of a checkpoint contradict each other, or ask for the impossible."""
    config, classes, temperature = payload["network"], payload["classes"], payload["temperature"]
    record = RunRecord.from_dict(payload["record"])
    batch_size = record.config.batch_size if record.config else None
    checks = {
        **{f"network {name}": config.get(name, 1) in range(1, limit + 1) for name, limit in LIMITS.items()},
        "classes": isinstance(classes, list) and len(classes) == len(set(map(str.lower, classes))) == config["classes"],
        "crop": payload["preprocess"]["crop"] == config["size"],
        "temperature": temperature is None or 0 < temperature < math.inf,
        "batch_size": batch_size is None or batch_size < 2**31,
        "precision": record.precision is None or record.precision in PRECISIONS,
    }
    if wrong := [name for name, passed in checks.items() if not passed]:
        raise ValueError(f"its {' and '.join(wrong)} cannot be right")


def _check_weights(network: nn.Module) -> None:
    for key, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers")


def _published(path: str | Path) -> Classifier:
    state = checkpoint.load_foreign(path)
    if "cnn" in published.describe(state):
        config = {
            "channels": state["conv1.weight"].shape[1],
            "classes": len(state["fc.weight"]),
            "size": published.SIZE,
        }
        network = published.load_resnet(state, build_resnet(config))
    else:
        network = published.load_equivariant(state)
    classifier = Classifier(network, [], ORIGINAL, record=RunRecord(original=True))
    count = classifier.config["classes"]
    classifier.classes = PUBLISHED_CLASSES if count == len(PUBLISHED_CLASSES) else [f"class {k}" for k in range(count)]
    return classifier


PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"  # networks that come with the program


def new_classifier(
    data: LensFolder,
    config: dict,
    device: str | torch.device = "cpu",
    cnn: bool = False,
    preprocess: Preprocess | None = None,
    conv: str = "auto",
) -> Classifier:
    """An untrained network for these images: ResNet-18 if `cnn`, else equivariant, as `config` says.

    conv: how its steerable layers compute, see `set_convolution`. Raises UsageError for a network that does not fit
    the images.
    """
    preprocess = preprocess or default_preprocess(data.size)
    config = {
        "channels": preprocess.channels(data.channels),
        "classes": len(data.classes),
        "size": preprocess.crop,
    } | config
    try:
        network = NETWORKS["resnet" if cnn else "equivariant"](config)
    except ValueError as error:
        raise UsageError(f"{error} (images of {data.size} x {data.size} pixels)") from error
    set_convolution(network, conv)
    return Classifier(move(network, device), list(data.classes), preprocess)


def find_weights(name: str) -> Path:
    """The network of that name that comes with the program, or the checkpoint that it is the path of.

    Raises UsageError where there is neither.
    """
    candidates = [path for path in (PRETRAINED / f"{name}.pt", Path(name).expanduser()) if path.is_file()]
    if not candidates:
        names = ", ".join(sorted(path.stem for path in PRETRAINED.glob("*.pt"))) or "none"
        raise UsageError(f"--weights {name}: expected a checkpoint, or a network that comes with the program: {names}")
    return candidates[0]


def start_from(classifier: Classifier, trained: Classifier) -> str:
    """Give a new network the weights and statistics of a trained one that differs in its classes at most.

    Returns what became of the last layer: "kept"; "reordered", where the same classes come in another order; "new",
    where they differ in number or name: then the new network keeps its own. Raises UsageError for other networks.
    """
    target, source = ({**one.config, "classes": 0, "kind": one.kind} for one in (classifier, trained))
    if target != source:
        description = ", ".join(f"{key} {value}" for key, value in source.items() if key != "classes")
        raise UsageError(f"expected weights of the network that is to be trained, found {description}")
    names = list(classifier.network.state_dict())[-2:]  # weight (K, D) and bias (K,) of the last layer
    state = dict(trained.network.state_dict())
    if set(classifier.classes) == set(trained.classes):
        order = [trained.classes.index(name) for name in classifier.classes]
        state |= {name: state[name][order] for name in names}
        classifier.network.load_state_dict(state)
        return "kept" if classifier.classes == trained.classes else "reordered"
    fresh = classifier.network.state_dict()
    classifier.network.load_state_dict(state | {name: fresh[name] for name in names})
    return "new"

"""A trained network with all that is needed to use it again: classes, preprocessing, temperature, record.

classifier = load_model("images_f_D_8/2026-11-22-10-30-00/best-model-parameters.pt")
probabilities = classifier.predict(images)      # images: (n, H, W), counts or any positive multiple of them
"""

import contextlib
import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import checkpoint
import original
from dataset import ORIGINAL, Preprocess
from model import Equivariant_Network, build_network
from novelty import BINS, Novelty, describe
from resnet_model import build_resnet

NETWORKS = {"equivariant": build_network, "resnet": build_resnet}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIMITS = {"N": 64, "channels": 3, "classes": 1000, "size": 2048}  # of what a checkpoint may ask to be built
PUBLISHED_CLASSES = ["no", "sphere", "vort"]  # of the original's checkpoints, which do not name them


@dataclass
class Classifier:
    """network: (B, C, crop, crop) preprocessed images -> logits (B, len(classes)).

    temperature: of the calibrated probabilities; record: how it was trained; novelty: what tells images unlike the
    training data. None where unknown.
    """

    network: nn.Module
    classes: list[str]
    preprocess: Preprocess
    temperature: float | None = None
    record: dict = field(default_factory=dict)
    epoch: int | None = None
    novelty: Novelty | None = None

    @property
    def kind(self) -> str:
        return "equivariant" if isinstance(self.network, Equivariant_Network) else "resnet"

    def predict(self, images: np.ndarray | Tensor, batch_size: int = 64, precision: str = "fp32") -> np.ndarray:
        """Class probabilities (n, K) of raw images (n, H, W) or (n, C, H, W), cropped about their centre.

        Calibrated where the checkpoint holds a temperature. Raises DataError for images smaller than the crop.
        """
        images = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
        images = images.unsqueeze(1) if images.ndim == 3 else images
        run = evaluator(self.network, next(self.network.parameters()).device, precision)
        batches = [run(self.preprocess(batch)) for batch in images.split(batch_size)]
        return torch.softmax(torch.cat(batches) / (self.temperature or 1.0), 1).cpu().numpy()

    def observer(
        self, precision: str = "fp32", device: str | torch.device | None = None
    ) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
        """A function as that of `evaluator`, (B, C, S, S) -> logits (B, K) and the parts that `novelty` scores.

        Parts, float32: what the last linear layer reads (B, D), and the image's own statistics, `novelty.describe`.
        device: None: where the network is.
        """
        device = device or next(self.network.parameters()).device
        frozen, caught = _frozen(self.network).to(device), []
        _last_linear(frozen).register_forward_pre_hook(lambda layer, inputs: caught.append(inputs[0].float()))
        run = _runner(frozen, device, precision)

        @torch.inference_mode()
        def observe(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            images = images.to(device)
            return run(images), [caught.pop(), describe(images)]

        return observe


def evaluator(network: nn.Module, device: str | torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """A function (B, C, S, S) -> logits (B, K) of the network as it is now, in evaluation mode, at full speed.

    An equivariant network has its batch norms folded into its filters; `network` itself is left as it was.
    """
    return _runner(_frozen(network), device, precision)


@torch.no_grad()
def _frozen(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, folded into plain convolutions where the network can be."""
    return network.folded() if hasattr(network, "folded") else copy.deepcopy(network).eval()


def _runner(frozen: nn.Module, device: str | torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return frozen(images.to(device, memory_format=torch.channels_last)).float()

    return run


def _last_linear(network: nn.Module) -> nn.Linear:
    """The layer that gives the logits, of either kind of network."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def autocast(device: str | torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision where `precision` asks for it; statistics, losses and weights stay in float32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def save_model(classifier: Classifier, path: str | Path) -> None:
    """Write parameters and statistics (no bases) with their description. Raises CheckpointError.

    Equal classifiers give equal bytes: the description goes through JSON, since pickle writes strings that happen to
    be one object differently from equal ones.
    """
    description = {
        "kind": classifier.kind,
        "network": classifier.network.config,
        "classes": list(classifier.classes),
        "preprocess": classifier.preprocess.to_dict(),
        "temperature": classifier.temperature,
        "record": classifier.record,
        "epoch": classifier.epoch,
    }
    description = json.loads(json.dumps(description, sort_keys=True))
    novelty = {"novelty": classifier.novelty.to_dict()} if classifier.novelty else {}
    checkpoint.save({**description, **novelty, "state": classifier.network.state_dict()}, path)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """The classifier in a checkpoint of ours, or in one that the original project published; evaluation mode.

    Raises CheckpointError, in one line, for a file that is damaged, unsafe, of another kind or not consistent.
    """
    try:
        classifier = _ours(path) if checkpoint.is_ours(path) else _published(path)
        _check_weights(classifier.network)
    except (original.OriginalError, AttributeError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, checkpoint.CheckpointError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise checkpoint.CheckpointError(f"{path}: not a usable network: {reason}") from error
    classifier.network.to(device, memory_format=torch.channels_last).eval()
    return classifier


def _ours(path: str | Path) -> Classifier:
    payload = checkpoint.load(path)
    if payload.get("kind") not in NETWORKS:
        raise ValueError(f"expected a network of kind {' or '.join(NETWORKS)}, found {payload.get('kind')!r}")
    _check_description(payload)
    network = NETWORKS[payload["kind"]](payload["network"])
    own = network.state_dict()
    for key, value in payload["state"].items():
        if key in own and value.dtype != own[key].dtype:
            raise ValueError(f"{key} holds {value.dtype}, expected {own[key].dtype}")
    network.load_state_dict(payload["state"])
    preprocess = Preprocess.from_dict(payload["preprocess"])
    details = {key: payload[key] for key in ("temperature", "record", "epoch")}
    if "novelty" in payload:  # older checkpoints have none
        sizes = _last_linear(network).in_features, network.config["channels"] * 2 * BINS
        details["novelty"] = Novelty.from_dict(payload["novelty"], sizes)
    return Classifier(network, payload["classes"], preprocess, **details)


def _check_description(payload: dict) -> None:
    """Raises ValueError where the parts of a checkpoint contradict each other, or ask for the impossible."""
    config, classes, temperature = payload["network"], payload["classes"], payload["temperature"]
    arguments = payload["record"].get("arguments", {"data_dir": "", "batch_size": 1})
    checks = {
        **{f"network {name}": config.get(name, 1) in range(1, most + 1) for name, most in LIMITS.items()},
        "classes": isinstance(classes, list) and len(classes) == len(set(map(str.lower, classes))) == config["classes"],
        "crop": payload["preprocess"]["crop"] == config["size"],
        "temperature": temperature is None or 0 < temperature < math.inf,
        "data_dir": isinstance(arguments.get("data_dir", ""), str),
        "batch_size": arguments.get("batch_size", 1) in range(1, 2**31),
        "precision": payload["record"].get("precision", "fp32") in PRECISIONS,
    }
    if wrong := [name for name, right in checks.items() if not right]:
        raise ValueError(f"its {' and '.join(wrong)} cannot be right")


def _check_weights(network: nn.Module) -> None:
    for key, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinite numbers")


def _published(path: str | Path) -> Classifier:
    state = checkpoint.load_foreign(path)
    if "cnn" in original.describe(state):
        config = {"channels": state["conv1.weight"].shape[1], "classes": len(state["fc.weight"]), "size": original.SIZE}
        network = original.load_resnet(state, build_resnet(config))
    else:
        network = original.load_equivariant(state)
    count = network.config["classes"]
    classes = PUBLISHED_CLASSES if count == len(PUBLISHED_CLASSES) else [f"class {k}" for k in range(count)]
    return Classifier(network, classes, ORIGINAL, record={"original": True})

"""Writes a trained network so that it runs where e2cnn, and even PyTorch, isn't."""

import warnings
from pathlib import Path

import torch

from darklens.classifier.classifier import Classifier
from darklens.networks.equivariant import Equivariant_Network


def export_network(classifier: Classifier, folder: Path) -> list[Path]:
    """`network.pt2` (torch.export) and, if onnx and onnxscript are there, `network.onnx`, of the folded network.

    Both map preprocessed images (B, C, S, S) float32, any B, to logits (B, K). Returns the paths written.
    """
    network, config = classifier.network.cpu().eval(), classifier.config
    folded = network.folded(plain=True) if isinstance(network, Equivariant_Network) else network
    example = torch.zeros(2, config["channels"], config["size"], config["size"])
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(folded, (example,), dynamic_shapes=({0: batch},))
    paths = [folder / "network.pt2"]
    torch.export.save(program, paths[0])
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        print("warning: no network.onnx: it needs the packages onnx and onnxscript")
        return paths
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
    assert onnx_program is not None  # as with dynamo=True
    onnx_program.save(str(folder / "network.onnx"))
    return [*paths, folder / "network.onnx"]

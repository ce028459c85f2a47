"""How far a network is from the symmetry it was built for, measured on images."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from darklens.classifier.classifier import Classifier, evaluator
from darklens.data.batches import Batches
from darklens.data.views import network_inputs
from darklens.networks.basis import Symmetry
from darklens.networks.equivariant import Equivariant_Network
from darklens.networks.grid import transform

STEP = 15  # degrees, of the interpolated turns
BUDGET = 400  # 1e9 multiplications in the network per element measured; sets how many images are used
MOST = 64
FITTED = {"residual": 6, "both": 6, "flexible": 2}  # images whose turned copies are fitted, by the view


def measure_equivariance(
    run: Callable[[Tensor], Tensor], images: Tensor, symmetry: Symmetry | None, *, interpolated: bool = True
) -> dict:
    """The change of the network's outputs when its input is turned or mirrored.

    Args:
        run: preprocessed images (B, C, S, S) -> logits (B, K), in float32 or better.
        symmetry: the group of the network; None for one that has none (ResNet-18).
        interpolated: False leaves those turns out.

    Returns:
        dict: `exact`, one entry for each of the eight turns and mirrors of the pixel grid ("name", "in_group", "max"
        and "mean" change of the probabilities, "relative_logits": largest change of a logit over the largest logit),
        and `interpolated`, turns by multiples of 15 degrees with bilinear resampling ("angle", "max", "mean").
    """
    reference = run(images)
    group_elements = symmetry.exact_elements() if symmetry else [(False, 0)]
    elements = [(mirror, turns) for mirror in (False, True) for turns in range(4) if mirror or turns]
    exact: list[dict[str, Any]] = []
    for element in elements:
        change = _change(run(transform(images, *element)), reference)
        exact.append({"name": _name(*element), "in_group": element in group_elements, **change})
    angles = [angle for angle in range(STEP, 360, STEP) if angle % 90 and interpolated]
    turned = [{"angle": angle, **_change(run(turn(images, angle)), reference)} for angle in angles]
    largest = max((e["max"] for e in exact if e["in_group"]), default=0.0)
    return {"images": len(images), "largest_exact_change": largest, "exact": exact, "interpolated": turned}


def sample_size(multiplications: float) -> int:
    """Images to measure with, for a network of that many multiplications an image: 2 to 64."""
    return max(2, min(MOST, int(BUDGET * 1e9 / max(multiplications, 1.0))))


def turn(images: Tensor, degrees: float) -> Tensor:
    """Images (B, C, S, S) turned counter-clockwise about their centre, bilinear, edges continued outwards."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], dtype=images.dtype, device=images.device)
    grid = F.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def _name(mirror: bool, turns: int) -> str:
    return " + ".join([*(["mirror"] if mirror else []), *([f"turn {90 * turns}"] if turns else [])])


def _change(logits: Tensor, reference: Tensor) -> dict[str, float]:
    change = (logits.softmax(1) - reference.softmax(1)).abs()
    relative = (logits - reference).abs().max() / reference.abs().max().clamp(min=1e-30)
    return {"max": change.max().item(), "mean": change.mean().item(), "relative_logits": relative.item()}


def equivariance_of(classifier: Classifier, batches: Batches) -> dict:
    """How well the classifier keeps its symmetry on some of the images, evenly taken from the split.

    Where it sees residuals, it is the image that is turned, and the fit of the smooth lens is part of what is measured.
    Interpolation correlates noise, which takes a flexible source seconds to fit: such turns are left out there.
    """
    config, source, view = classifier.config, batches.split.images, classifier.preprocess.view
    run = evaluator(classifier.network, batches.device, "fp32")
    count = min(len(source), sample_size(multiplications(classifier)), FITTED.get(view, MOST))
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    group = Symmetry(config["sym_group"], config["N"]) if "N" in config else None
    if view == "image":
        inputs = network_inputs(source, chosen, classifier.preprocess).to(batches.device)
        return measure_equivariance(run, inputs, group)
    images = torch.from_numpy(
        np.stack([source.originals.read(i, classifier.preprocess.window).values.astype("f8") for i in chosen])
    )  # (n, 1, H, W)
    report = measure_equivariance(
        lambda turned: run(classifier.preprocess(turned)), images, group, interpolated=view != "flexible"
    )
    return report | {"includes": "fit"}


def multiplications(classifier: Classifier) -> float:
    """Of one image's way through the network, its convolutions counted as dense ones."""
    config, network = classifier.config, classifier.network
    plain = network.folded(plain=True) if isinstance(network, Equivariant_Network) else network
    example = torch.zeros(1, config["channels"], config["size"], config["size"])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        plain(example.to(next(network.parameters()).device))
    return counter.get_total_flops() / 2

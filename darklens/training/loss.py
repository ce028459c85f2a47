"""The loss, and what an image of a rare class counts in it."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Inverse frequencies (classes,) whose mean over the images is 1: n / (classes n_k).

    labels: (n,) of the training images, each class among them (King & Zeng 2001, Political Analysis 9, 137).
    """
    return len(labels) / (classes * np.bincount(labels, minlength=classes))


def cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, mean: bool = True
) -> Tensor:
    """Of logits (B, K) and labels (B,): the batch's mean (), or of each image (B,).

    weights: (K,), of an image by its class. The mean is over images, not over weights: a batch with more of a rare
    class counts more, so that an epoch's sum does not depend on how its images were put into batches.
    """
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="mean" if mean else "none")
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none") * weights[labels]
    return loss.mean() if mean else loss


def as_weights(values: dict[str, float] | None, device: torch.device) -> Tensor | None:
    """Weights by class name, in the order of the labels, as a tensor (K,)."""
    return None if values is None else torch.tensor([*values.values()], device=device)

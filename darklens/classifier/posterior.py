"""How much dark matter is in a lens: the posterior of its quantities, from what a trained network knows of it.

    inference.posteriors(features, fits)["sphere"]["log_mass_fraction"]       # a `Posterior` of n lenses

For each class with substructure, and each quantity of it that the training data vary, a small network turns invariant
features (`features.py`) into the probabilities of bins that are equally likely in the training data: a posterior given
the class, with the training data's distribution for a prior (neural posterior estimation: Papamakarios & Murray 2016,
arXiv:1605.06376; Cranmer, Brehmer & Louppe 2020, arXiv:1911.01429). The trained classifier stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from darklens.classifier.features import lens_features
from darklens.metrics.posterior import Posterior
from darklens.simulation.posterior_targets import LABELS, NEAR_RING

BINS = 40  # that the network tells apart, equally likely in the training data
FINE = 8  # parts of each bin, equally likely too: within a bin the posterior has the prior's shape
HIDDEN = 128
DROPOUT = 0.3
TILTS = 4  # weights that correct the shape of the posteriors
CLIP = 6.0  # standard deviations of the training data; features that are further off count as this far


class PosteriorHead(nn.Module):
    """Features (B, D) -> logits (B, BINS) of the bins of one quantity.

    edges: (BINS * FINE + 1,) float64, quantiles of the quantity in the training data. temperature: of the softmax.
    tilt: (TILTS,) what makes the ranks of other lenses even, see `legendre`.
    """

    mean: Tensor
    scale: Tensor
    edges: Tensor
    temperature: Tensor
    tilt: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("edges", torch.zeros(BINS * FINE + 1, dtype=torch.float64))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("tilt", torch.zeros(TILTS))
        sizes = [features, HIDDEN, HIDDEN]
        hidden = [(nn.Linear(a, b), nn.GELU(), nn.Dropout(DROPOUT)) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers = nn.Sequential(*(layer for part in hidden for layer in part), nn.Linear(HIDDEN, BINS))

    def forward(self, features: Tensor) -> Tensor:
        logits = self.layers(((features - self.mean) / self.scale).clamp(-CLIP, CLIP)) / self.temperature
        return logits + legendre(logits) @ self.tilt

    @torch.inference_mode()
    def posterior(self, features: Tensor, label: str) -> Posterior:
        """The posterior of each of the B lenses."""
        coarse = self(features).double().softmax(1).numpy()  # (B, BINS)
        return Posterior(label, self.edges.numpy(), np.repeat(coarse / FINE, FINE, axis=1))


def legendre(logits: Tensor) -> Tensor:
    """(B, BINS) -> (B, BINS, TILTS): Legendre polynomials 1 to TILTS of the distribution function, at bins' centres.

    Adding them to the logits, with weights, changes the ranks of the truths from even ones to any smooth distribution:
    the alternatives of Neyman's smooth test (1937, Skandinavisk Aktuarietidskrift 20, 149), used to correct it.
    """
    shares = logits.softmax(1)
    x = 2 * (shares.cumsum(1) - shares / 2) - 1
    return torch.stack([x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2, (35 * x**4 - 30 * x**2 + 3) / 8], 2)


@dataclass(eq=False)
class Inference:
    """Heads by class and quantity, in evaluation mode on the CPU.

    limit: the detection limit, log10 of the mass fraction near the ring that 99% of lenses without substructure seem to
    stay below, by the medians of their posteriors; None where that is not known.
    """

    heads: dict[str, dict[str, PosteriorHead]]
    limit: float | None = None

    def posteriors(self, features: Tensor, fits: Mapping[str, np.ndarray]) -> dict[str, dict[str, Posterior]]:
        """Class -> quantity -> posterior of B lenses. features: (B, D) of `FeatureHooks`; fits: their table."""
        joined = join_features(features, fits)
        return {
            class_name: {name: head.posterior(joined, LABELS[name]) for name, head in heads.items()}
            for class_name, heads in self.heads.items()
        }

    def columns(self) -> list[str]:
        """Names of the numbers that `rows` gives."""
        names = []
        for class_name, quantity in self._pairs():
            names += [f"{class_name}_{quantity}{ending}" for ending in ("", "_16", "_84")]
            if quantity == NEAR_RING and self.limit is not None:
                names.append(f"{class_name}_above_limit")
        return names

    def rows(self, features: Tensor, fits: Mapping[str, np.ndarray]) -> np.ndarray:
        """(B, len(columns)): median, 16% and 84% of each quantity, and the probability of more than the limit."""
        posteriors = self.posteriors(features, fits)
        return np.stack([values for c, q in self._pairs() for values in self._numbers(q, posteriors[c][q])], 1)

    def _pairs(self) -> list[tuple[str, str]]:
        """(class, quantity) of each head."""
        return [(class_name, quantity) for class_name, heads in self.heads.items() for quantity in heads]

    def _numbers(self, quantity: str, posterior: Posterior) -> list[np.ndarray]:
        """What `columns` names, of B lenses: (B,) each."""
        numbers = [posterior.quantile(level) for level in (0.5, 0.16, 0.84)]
        if quantity == NEAR_RING and self.limit is not None:
            numbers.append(posterior.above(self.limit))
        return numbers

    def to_dict(self) -> dict:
        """Tensors and plain numbers, for checkpoints."""
        states = {c: {q: dict(head.state_dict()) for q, head in heads.items()} for c, heads in self.heads.items()}
        return {"heads": states, "limit": self.limit}

    @classmethod
    def from_dict(cls, values: dict, classes: list[str], count: int) -> Inference:
        """The inverse of `to_dict`. count: of the features, `feature_count`. Raises ValueError where it can't be."""
        if set(values) != {"heads", "limit"} or not set(values["heads"]) <= set(classes):
            raise ValueError("inference: expected the heads of its classes and a limit")
        limit = values["limit"]
        if limit is not None and not (type(limit) is float and math.isfinite(limit)):
            raise ValueError(f"inference: expected a finite limit, found {limit!r}")
        heads = {c: {q: _load(q, state, count) for q, state in heads.items()} for c, heads in values["heads"].items()}
        return cls(heads, limit)


def join_features(features: Tensor, fits: Mapping[str, np.ndarray]) -> Tensor:
    """(B, D) float32: what the network and the smooth lens know of B lenses."""
    return torch.cat([features.float(), torch.from_numpy(lens_features(fits)).float()], 1)


def _load(quantity: str, state: dict, count: int) -> PosteriorHead:
    """The head in a checkpoint, if it can be used. Raises ValueError."""
    if quantity not in LABELS or not count:
        raise ValueError(f"inference: expected heads of {', '.join(LABELS)}, of an equivariant network")
    head = PosteriorHead(count)
    fresh = head.state_dict()
    if any(state[key].dtype != value.dtype for key, value in fresh.items() if key in state):
        raise ValueError("inference: expected float32 weights and float64 edges")
    head.load_state_dict({"tilt": fresh["tilt"]} | state)  # older heads have none
    if not all(value.isfinite().all() for value in head.state_dict().values()):
        raise ValueError("inference: expected finite numbers")
    if not (head.scale > 0).all() or not head.temperature > 0 or (head.edges.diff() < 0).any():
        raise ValueError("inference: expected positive scales and temperature, and ascending edges")
    return head.eval()

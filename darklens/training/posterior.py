"""Train the posterior heads of a trained network, on the features of simulated lenses whose dark matter is known."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darklens.classifier.posterior import BINS, FINE, TILTS, PosteriorHead, legendre
from darklens.metrics.posterior import bins_of
from darklens.metrics.probabilities import fit_temperature

EPOCHS, BATCH, RATE, DECAY = 15, 128, 2e-3, 1.0
KERNEL = 1.0  # bins: the truth counts as this wide, since neighbouring bins mean neighbouring values
LEAST = 2 * BINS  # lenses of a class, with fewer there is nothing to learn


def fit_head(
    features: Tensor, values: np.ndarray, others: Tensor, other_values: np.ndarray, seed: int = 0
) -> PosteriorHead:
    """A head trained on features (n, D) with the quantity's values (n,), its temperature and tilt fitted on others.

    AdamW with one cycle of the learning rate and dropout; the same bits for the same seed. Takes seconds. In
    evaluation mode. Raises ValueError for fewer than LEAST lenses.
    """
    if len(values) < LEAST:
        raise ValueError(f"expected {LEAST} training lenses of a class or more, found {len(values)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = _prepared(features, values)
        _train(head, features, _bins(head, values))
    head.eval()
    with torch.inference_mode():
        logits = head(others).double().numpy()
    bins = _bins(head, other_values)
    head.temperature.fill_(fit_temperature(logits, bins.numpy()))
    head.tilt.copy_(_fit_tilt(torch.from_numpy(logits) / head.temperature.double(), bins))
    return head


def _fit_tilt(logits: Tensor, bins: Tensor) -> Tensor:
    """(TILTS,) weights of `legendre` that make the true bins (n,) likeliest: a convex problem. logits: (n, BINS)."""
    basis, tilt = legendre(logits), torch.zeros(TILTS, dtype=logits.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([tilt], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(logits + basis @ tilt, bins)
        value.backward()
        return value

    optimiser.step(loss)
    return tilt.detach()


def _prepared(features: Tensor, values: np.ndarray) -> PosteriorHead:
    """An untrained head that knows the features' spread and the quantity's quantiles."""
    head, spread = PosteriorHead(features.shape[1]), features.std(0)
    head.mean.copy_(features.mean(0))
    head.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
    head.edges.copy_(torch.from_numpy(np.quantile(values, np.linspace(0, 1, BINS * FINE + 1))))
    return head


def _bins(head: PosteriorHead, values: np.ndarray) -> Tensor:
    """(n,) int64: the bin of each value."""
    return torch.from_numpy(bins_of(head.edges.numpy(), values) // FINE)


def _train(head: PosteriorHead, features: Tensor, bins: Tensor) -> None:
    number = torch.arange(BINS)
    kernel = torch.softmax(-((number[:, None] - number) / KERNEL).square() / 2, 1)  # (BINS, BINS)
    optimiser = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(bins) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    head.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(bins)).split(BATCH):
            loss = F.cross_entropy(head(features[rows]), kernel[bins[rows]])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

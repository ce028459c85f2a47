"""How networks are trained: optimiser, schedule, epochs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from darklens.training.muon import Muon

OPTIMISERS: dict[str, Callable[[nn.Module, float, float], torch.optim.Optimizer]] = {  # learning rate, weight decay
    "adam": lambda network, lr, decay: torch.optim.Adam(network.parameters(), lr, weight_decay=decay, fused=True),
    "adamw": lambda network, lr, decay: torch.optim.AdamW(network.parameters(), lr, weight_decay=decay, fused=True),
    "muon": Muon,
}
WARMUP = 0.2  # share of a one-cycle run in which the learning rate rises


def one_cycle(progress: float) -> float:
    """Rise to 1 over the first `WARMUP` of the run, then fall to 0, both along a cosine (Smith & Topin 2017,
    arXiv:1708.07120). progress: 0 to 1."""
    rise = progress / WARMUP if progress < WARMUP else 1 - (progress - WARMUP) / (1 - WARMUP)
    return max(0.5 - 0.5 * math.cos(math.pi * rise), 1e-3)


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "one-cycle": one_cycle}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    lr: the peak learning rate; smoothing: of the labels; recalibrate: training batches from which the batch norms'
    statistics are taken anew before each evaluation (0: the running ones, which lag behind a fast learner); shift:
    pixels by which training crops may be off centre (None: as far as the image goes); average: what a step leaves of
    the running average of the weights, which is then what is evaluated and kept (0: the last weights).
    """

    optimiser: str
    lr: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    smoothing: float = 0.0
    recalibrate: int = 0
    shift: int | None = None
    average: float = 0.0


RECIPES = {
    "seed": Recipe("adam", lr=5e-5, weight_decay=1e-5, schedule="constant", epochs=30, batch_size=64),
    "fast": Recipe(
        "muon", lr=5e-3, weight_decay=1e-2, schedule="one-cycle", epochs=5, batch_size=32, recalibrate=20, shift=1
    ),
}
BASELINE_RECIPES = RECIPES | {  # of ResNet-18: Muon's products would cost it more than the rest of a step
    "fast": replace(RECIPES["fast"], optimiser="adamw", lr=1e-3)
}


def choose_recipe(name: str, cnn: bool = False, **changes: float | None) -> Recipe:
    """The recipe of that name, for ResNet-18 if `cnn`, changed in the fields that are given and not None."""
    changes = {key: value for key, value in changes.items() if value is not None}
    return replace((BASELINE_RECIPES if cnn else RECIPES)[name], **changes)

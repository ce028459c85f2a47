"""How networks are trained: optimisers, schedules, and the recipes of the flag `--recipe`."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from darklens.storage.training_config import KINDS, TrainingConfig, TrainingRecipe
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

RECIPES = {
    "original": TrainingRecipe("adam", lr=5e-5, weight_decay=1e-5, schedule="constant", epochs=30, batch_size=64),
    "fast": TrainingRecipe(
        "muon", lr=5e-3, weight_decay=1e-2, schedule="one-cycle", epochs=5, batch_size=32, recalibrate=20, shift=1
    ),
}
BASELINE_RECIPES = RECIPES | {  # of ResNet-18: Muon's products would cost it more than the rest of a step
    "fast": replace(RECIPES["fast"], optimiser="adamw", lr=1e-3)
}


def choose_recipe(name: str, cnn: bool = False, **changes: Any) -> TrainingRecipe:
    """The recipe of that name, for ResNet-18 if `cnn`, changed in the fields that are given and not None."""
    key = str(KINDS["recipe"].check(name))  # "seed" is what "original" was called
    changes = {field: value for field, value in changes.items() if value is not None}
    return replace((BASELINE_RECIPES if cnn else RECIPES)[key], **changes)


def recipe_of(config: TrainingConfig) -> TrainingRecipe:
    """The recipe that a run is asked for, with its settings in place."""
    changes = {"epochs": config.epochs, "batch_size": config.batch_size, "lr": config.lr, "average": config.average}
    return choose_recipe(config.recipe, config.use_CNN, **changes)

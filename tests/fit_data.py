"""Simulated lenses for the tests of the fit: the one place that knows where the simulator lives."""

import dataclasses

import numpy as np
import torch

from darklens.lenses import draw, recipes, render

CLASSES = recipes.CLASSES
F = dataclasses.replace(recipes.RECIPES["f"], vortex_length=(1.0, 4.0))
J = dataclasses.replace(
    F,
    name="j",
    z_lens=(0.4, 0.6),
    z_source=(0.8, 1.2),
    axis_ratio=(0.4, 1.0),
    sky=12.5,
    source_counts=102.0,
    effective_radius=(0.5, 0.5),
)
RECIPES = {"f": F, "j": J}


def images(recipe: recipes.Recipe, class_name: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts (count, 150, 150) and true smooth parameters (count, 8) in the order of the fit."""
    drawn = draw.draw(recipe, class_name, seed, "test", range(count))
    return render.simulate(recipe, class_name, range(count), seed, "test"), truth(drawn, recipe)


def truth(p: draw.Parameters, recipe: recipes.Recipe) -> np.ndarray:
    """(B, 8) Einstein radius of the halo, shear, source."""
    theta = p.theta_e * np.sqrt(np.maximum(1 - recipe.conserve_mass * p.substructure_mass / recipe.total_mass, 0))
    eta = -np.log(p.axis_ratio)
    angles = 2 * p.shear_angle, 2 * p.source_angle
    columns = (
        theta,
        p.shear * np.cos(angles[0]),
        p.shear * np.sin(angles[0]),
        p.source_x,
        p.source_y,
        np.log(p.source_radius),
        eta * np.cos(angles[1]),
        eta * np.sin(angles[1]),
    )
    return np.stack(columns, 1)


def clean(recipe: recipes.Recipe, class_name: str, count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Expected counts without noise (count, 150, 150), float64, and the true parameters (count, 8)."""
    drawn = draw.draw(recipe, class_name, seed, "test", range(count))
    return render.render(drawn, recipe, dtype=torch.float64), truth(drawn, recipe)

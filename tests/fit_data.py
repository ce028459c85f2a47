"""Simulated lenses for the tests of the fit: the one place that knows where the simulator lives."""

import dataclasses

import numpy as np
import torch

from darklens.simulation import draw, recipes, render

CLASSES = recipes.CLASSES
RECIPES = {name: recipes.RECIPES[name] for name in ("f", "j")}
F, J = RECIPES.values()


def images(
    recipe: recipes.SimulationConfig, class_name: str, count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (count, 150, 150) and true smooth parameters (count, 8) in the order of the fit."""
    drawn = draw.draw(recipe, class_name, seed, "test", range(count))
    return render.simulate(recipe, class_name, range(count), seed, "test"), truth(drawn, recipe)


def truth(p: draw.LensSample, recipe: recipes.SimulationConfig) -> np.ndarray:
    """(B, 8) Einstein radius of the halo, shear, source."""
    eta = -np.log(p["source.axis_ratio"])
    angles = 2 * np.radians(p["lens.shear_angle"]), 2 * np.radians(p["source.angle"])
    columns = (
        p["halo.einstein_radius"],
        p["lens.shear"] * np.cos(angles[0]),
        p["lens.shear"] * np.sin(angles[0]),
        p["source.x"],
        p["source.y"],
        np.log(p["source.effective_radius"]),
        eta * np.cos(angles[1]),
        eta * np.sin(angles[1]),
    )
    return np.stack(columns, 1)


def clean(
    recipe: recipes.SimulationConfig, class_name: str, count: int, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """Expected counts without noise (count, 150, 150), float64, and the true parameters (count, 8)."""
    drawn = draw.draw(recipe, class_name, seed, "test", range(count))
    return render.render(drawn, recipe, dtype=torch.float64), truth(drawn, recipe)


def with_subhalo(
    recipe: recipes.SimulationConfig, masses: np.ndarray, positions: np.ndarray, seed: int = 0, profile: str = "point"
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy counts and those expected (B, 150, 150) of smooth lenses with one subhalo (Msun) each, at (B, 2) arcsec.

    The halo has what the subhalo leaves.
    """
    drawn = draw.draw(recipe, "no", seed, "test", range(len(masses)))
    zero = np.zeros((len(masses), 1))
    subhalos = dict.fromkeys(drawn.subhalos, zero) | {"x": positions[:, :1], "y": positions[:, 1:]}
    subhalos["mass"] = subhalos["bound_mass"] = masses[:, None]
    halo = drawn["lens.einstein_radius"] * np.sqrt(1 - masses / drawn["lens.total_mass"])
    values = drawn.values | {"halo.einstein_radius": halo}
    lenses = dataclasses.replace(drawn, values=values, subhalos=subhalos, profile=profile)
    expected = render.render(lenses, recipe, dtype=torch.float64)
    return np.random.default_rng(seed).poisson(expected.numpy()), expected.numpy()

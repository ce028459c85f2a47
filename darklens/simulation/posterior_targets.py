"""The dark matter that a posterior is asked for: its quantities, by class, from the simulator's truth."""

import numpy as np

from darklens.simulation.truth import NEAR, Truth, mass_near_ring

MIN_FRACTION = 1e-6  # of the total mass: less in subhalos, or nothing, counts as this
MASS, NEAR_RING = "log_mass_fraction", "log_mass_near_ring"  # of subhalos; the second has a detection limit
LABELS = {
    MASS: "log10 of the mass in subhalos over the total mass",
    NEAR_RING: f"log10 of the mass in subhalos within {NEAR}″ of the ring, over the total mass",
    "mass_fraction": "mass of the vortex over the total mass",
    "length": "length of the vortex (arcsec)",
}


def target_values(truth: Truth) -> dict[str, np.ndarray]:
    """Name of a quantity (`LABELS`) to its value in each lens (n,), of lenses of one class.

    Nothing for lenses without substructure; quantities that do not vary are left out.
    """
    lenses = truth.parameters
    total = lenses["lens.total_mass"]
    targets: dict[str, np.ndarray] = {}
    if lenses["vortex.mass"].any():
        targets = {"mass_fraction": lenses["vortex.mass"] / total, "length": lenses["vortex.length"]}
    elif lenses.subhalos["mass"].any():
        masses = {MASS: lenses["substructure.mass"], NEAR_RING: mass_near_ring(lenses)}
        targets = {name: np.log10(np.maximum(mass / total, MIN_FRACTION)) for name, mass in masses.items()}
    return {name: values for name, values in targets.items() if np.ptp(values) > 1e-9 * abs(values).max()}

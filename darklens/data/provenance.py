"""Where do the images of a data set come from, and what may the fit of a smooth lens assume of them?"""

import dataclasses

import numpy as np

from darklens.data.folder import LensFolder, Split
from darklens.errors import DataError, DatasetError, RecipeError
from darklens.fit import SmoothModel
from darklens.fit.assumptions import is_smooth, smooth_model, true_parameters
from darklens.simulation.manifest import read_manifest
from darklens.simulation.recipe_file import parse_recipe
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.truth import is_simulated, read_truth

PUBLISHED = 150  # pixels a side of Models F and J, whose images describe themselves by nothing else


def simulation_of(data: LensFolder) -> SimulationConfig | None:
    """The recipe that simulate.py drew these images from; None where they came from elsewhere."""
    try:
        return parse_recipe(read_manifest(data.root)["recipe"])
    except (OSError, DatasetError, RecipeError):
        return None


def fit_assumptions(data: LensFolder) -> dict | None:
    """What the fit of a smooth lens may assume, as fields of `SmoothModel`; None where nothing is known.

    Images of 150 x 150 pixels that don't say what they are are taken for those of Models F and J.
    """
    recipe = simulation_of(data)
    if recipe is not None:
        return dataclasses.asdict(smooth_model(recipe))
    return {} if data.size == PUBLISHED and data.channels == 1 else None


def true_start(data: LensFolder, split: Split, model: SmoothModel) -> np.ndarray | None:
    """(n, P) where the fits of a split's images may start, to save the search; None: nothing is known.

    Only of images to train with, of lens galaxies that shine, which simulate.py wrote: there the search is most of the
    time. What a network is tested on is fitted as any image is.
    """
    if split.name != "train" or not model.free_light or not is_simulated(data.root):
        return None
    try:
        truth = read_truth(data.root, split.name, split.images.names())
    except DataError:
        return None
    return true_parameters(truth.parameters, model)


def is_all_smooth(data: LensFolder) -> bool:
    """Whether a smooth lens is known that explains these images but for their substructure."""
    recipe = simulation_of(data)
    return fit_assumptions(data) is not None and (recipe is None or is_smooth(recipe))

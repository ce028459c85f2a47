"""What is known of the lenses of a data set."""

import dataclasses

from darklens.data.folder import LensFolder
from darklens.errors import DatasetError, RecipeError
from darklens.lenses.manifest import read_manifest
from darklens.lenses.recipe_file import parse_recipe
from darklens.lenses.recipe_tables import Recipe
from darklens.lenses.smooth import is_smooth, smooth_model

PUBLISHED = 150  # pixels a side of Models F and J, whose images describe themselves by nothing else


def known_recipe(data: LensFolder) -> Recipe | None:
    """The recipe that simulate.py drew these images from; None where they came from elsewhere."""
    try:
        return parse_recipe(read_manifest(data.root)["recipe"])
    except (OSError, DatasetError, RecipeError):
        return None


def known_lens(data: LensFolder) -> dict | None:
    """What the fit of a smooth lens may assume, as fields of `SmoothModel`; None where nothing is known.

    Images of 150 x 150 pixels that don't say what they are are taken for those of Models F and J.
    """
    recipe = known_recipe(data)
    if recipe is not None:
        return dataclasses.asdict(smooth_model(recipe))
    return {} if data.size == PUBLISHED and data.channels == 1 else None


def is_all_smooth(data: LensFolder) -> bool:
    """Whether a smooth lens is known that explains these images but for their substructure."""
    recipe = known_recipe(data)
    return known_lens(data) is not None and (recipe is None or is_smooth(recipe))

"""Images of real lenses that a network does not know: no class, but the fit that knows a lens galaxy's light."""

from __future__ import annotations

from typing import NamedTuple

from darklens.classifier.classifier import Classifier
from darklens.page.strip import Pictures
from darklens.simulation.recipes import RECIPES
from darklens.survey.lens_fit import SMOOTH_NAMES, LensImage, LensPictures, fit_lens

NO_CLASS = "no class: this network knows no lens galaxy's light"
NO_TELESCOPE = "no class: this network knows no telescope's images"


class TelescopeFit(NamedTuple):
    """What is written of such an image: columns of the smooth lens, flags, notes; and the pictures of a page."""

    row: dict[str, float]
    flags: list[str]
    notes: list[str]
    pictures: Pictures | None


def knows_galaxies(classifier: Classifier) -> bool:
    """Whether a network may be meant for images with a lens galaxy's light; those of a preset without one are not."""
    model, simulation = classifier.preprocess.smooth_model, classifier.record.simulation or {}
    preset = RECIPES.get(str(simulation.get("name")))
    return model is None or model.free_light or preset is None or bool(preset.lens_lights)


def fit_telescope(image: LensImage, pictures: bool = False, source: str = "sersic") -> TelescopeFit:
    """Fit an image, the lens galaxy's light too where it shows, as `--mode Fit` does; columns as of the network's fit.

    source: one of `settings.SOURCES`. Raises ValueError for what can't be fitted.
    """
    fit = fit_lens(image, pictures=pictures, source=source)
    names = {column: name for name, column in SMOOTH_NAMES.items()}
    row = {names.get(name, name): value for name, value in fit.values.items() if not isinstance(value, str)}
    no_class = NO_CLASS if fit.values.get("lens_light") == "mge" else NO_TELESCOPE
    flags = [no_class, *(f"smooth lens: {flag.replace('_', ' ')}" for flag in fit.flags)]
    return TelescopeFit(row, flags, fit.notes, None if fit.pictures is None else _pictures(fit.pictures))


def _pictures(pictures: LensPictures) -> Pictures:
    return Pictures(pictures.data, pictures.light + pictures.arcs, pictures.residual, pictures.source)

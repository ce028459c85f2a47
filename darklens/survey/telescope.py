"""Images of real lenses that a network does not know: no class, but the fit that knows a lens galaxy's light."""

from __future__ import annotations

from typing import NamedTuple

from darklens.classifier.classifier import Classifier
from darklens.survey.lens_fit import SMOOTH_NAMES, LensImage, fit_lens

NO_CLASS = "no class: this network knows no lens galaxy's light"
WITHOUT_GALAXY = ("f", "j", "wide", "j_wide")  # recipes of shipped networks, in which no lens galaxy shines


class TelescopeFit(NamedTuple):
    """What is written of such an image: columns of the smooth lens, flags, notes."""

    row: dict[str, float]
    flags: list[str]
    notes: list[str]


def knows_galaxies(classifier: Classifier) -> bool:
    """Whether a network may be meant for images with a lens galaxy's light; those of Models F and J are not."""
    model, simulation = classifier.preprocess.smooth_model, classifier.record.simulation or {}
    return model is None or model.free_light or simulation.get("name") not in WITHOUT_GALAXY


def fit_telescope(image: LensImage) -> TelescopeFit:
    """Fit an image, the lens galaxy's light included, as `--mode Fit` does; columns as those of the network's fit."""
    fit = fit_lens(image, "mge")
    names = {column: name for name, column in SMOOTH_NAMES.items()}
    row = {names.get(name, name): value for name, value in fit.values.items() if not isinstance(value, str)}
    return TelescopeFit(row, [NO_CLASS, *(f"smooth lens: {flag.replace('_', ' ')}" for flag in fit.flags)], fit.notes)

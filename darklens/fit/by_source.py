"""The fit that a model asks for by its source: a Sersic profile, or splines, which go with a lens galaxy's light."""

import dataclasses

import numpy as np
from torch import Tensor

from darklens.fit.model import SmoothModel
from darklens.fit.observed.batch import fit_behind_galaxies
from darklens.fit.result import Fit
from darklens.fit.run import fit
from darklens.fit.structured import fit_structured


def fit_by_source(
    images: np.ndarray | Tensor,
    model: SmoothModel | None = None,
    *,
    start: np.ndarray | None = None,
    noise: np.ndarray | Tensor | str | None = None,
    mask: np.ndarray | Tensor | None = None,
    pictures: bool = True,
    score_test: bool = True,
) -> Fit:
    """`fit`, or with `model.source` "flexible" the fit of `fit_structured`, which has a `log_bayes_factor`; behind the
    light of a lens galaxy that of `fit_behind_galaxies`, which has one, too.

    Arguments and errors as of `fit`; a flexible source takes no notice of start: it needs none near the truth. It frees
    what the score test would ask about; without score_test, `fit_structured` leaves out its own tests.
    """
    if model is None or model.source == "sersic":
        return fit(images, model, start=start, noise=noise, mask=mask, pictures=pictures, score_test=score_test)
    if model.light_of_gaussians:
        result = fit_behind_galaxies(images, model, noise=noise, mask=mask)
    else:
        result = fit_structured(images, model, noise=noise, mask=mask, view_only=not score_test).fit
    empty = np.zeros((len(result), 0, 0), dtype=np.float32)
    return result if pictures else dataclasses.replace(result, image=empty, deviation=empty)

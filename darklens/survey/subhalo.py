"""The strongest subhalo in a lens with a flexible source: columns of its row, a panel of its picture."""

from __future__ import annotations

import numpy as np

from darklens.fit.flexible import FlexibleLens
from darklens.fit.perturber import search_maps, strongest
from darklens.plots.lens import DetectionPanel

COLUMNS = (  # a point mass: place in arcsec from the image's centre, Einstein radius in arcsec, mass over the halo's
    "subhalo_x",
    "subhalo_y",
    "subhalo_einstein_radius",
    "subhalo_mass_fraction",  # within the halo's Einstein radius
    "subhalo_log_bayes_factor",  # of it against none
)


def strongest_subhalo(lens: FlexibleLens) -> tuple[dict[str, float], DetectionPanel]:
    """The cells by column, and the detection map of a thousandth of the halo's mass with the place in it."""
    search = search_maps(lens)
    fit = strongest(lens, search)
    x, y = fit.place.tolist()
    halo = fit.parameters[lens.renderer.table.index["einstein_radius"]]
    cells = x, y, float(np.sqrt(max(fit.square, 0.0))), fit.square / halo**2, fit.log_bayes_factor
    panel = DetectionPanel(search.positions, search.observed[0], fit.place)
    return dict(zip(COLUMNS, map(float, cells), strict=True)), panel

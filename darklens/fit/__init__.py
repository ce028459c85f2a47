"""Fit the best smooth lens to many images and look at what it leaves.

    from darklens.fit import SmoothModel, fit

    found = fit(images)              # (B, H, W) in any unit -> Fit
    found.residual                   # (B, S, S) data minus the best smooth lens, in standard deviations
    found.table()                    # einstein_radius, einstein_radius_sd, shear, ...
    detect(found).observed           # (B, M, G) how far the residual favours a subhalo, in standard deviations

References: Warren & Dye 2003, ApJ 590, 673 (amplitudes solved linearly); Golub & Pereyra 1973, SIAM J. Numer. Anal.
10, 413 (variable projection); Marquardt 1963, J. SIAM 11, 431; Vegetti & Koopmans 2009, MNRAS 392, 945 (substructure
from what a smooth lens leaves); Immerkaer 1996, CVIU 64, 300, and Janesick 2007, Photon Transfer (noise).
"""

import sys
import types

from darklens.fit.arrays import fit_arrays
from darklens.fit.detect import DetectionMap, detect, highest_by_chance, peak
from darklens.fit.model import NAMES, SmoothModel
from darklens.fit.pool import fit_many
from darklens.fit.result import Fit
from darklens.fit.run import fit

__all__ = ["NAMES", "DetectionMap", "Fit", "SmoothModel", "detect", "fit", "fit_many", "highest_by_chance", "peak"]


class _Room(types.ModuleType):
    """This room is also the function `darklens.fit`: Python binds a package's rooms to its names once imported."""

    __call__ = staticmethod(fit_arrays)


sys.modules[__name__].__class__ = _Room

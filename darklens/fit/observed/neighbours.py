"""Other objects in the image: found in what the galaxy's model leaves, and left out where no arc can be."""

import dataclasses

import numpy as np
from scipy import ndimage

from darklens.fit.observed.cutout import Cutout

THRESHOLD = 3.0  # standard deviations of a pixel
MIN_AREA = 9  # pixels
GROWN = 2  # pixels: a mask grown more cuts into arcs
FACTOR, MARGIN = 2.0, 0.35  # an isothermal lens has no images beyond two Einstein radii, but they have a size, arcsec


@dataclasses.dataclass(frozen=True)
class Objects:
    """What was detected, with the places of the brightest pixels."""

    segments: np.ndarray  # (n, n) int, 0 where nothing is
    peaks: np.ndarray  # (M, 2) arcsec

    def beyond(self, centre: np.ndarray, radius: float) -> tuple[np.ndarray, int]:
        """(n, n) bool, the objects farther than `radius` arcsec from a centre, grown; how many they are."""
        far = np.flatnonzero(np.hypot(*(self.peaks - centre).T) > radius) + 1
        if not len(far):
            return np.zeros(self.segments.shape, bool), 0
        return ndimage.binary_dilation(np.isin(self.segments, far), iterations=GROWN), len(far)


def detect(cutout: Cutout, rest: np.ndarray, sigma: np.ndarray) -> Objects:
    """Objects in a residual (n, n) of standard deviation sigma (n, n), by SExtractor's algorithm (Bertin & Arnouts
    1996, A&AS 117, 393; Barbary 2016, JOSS 1, 58)."""
    import sep

    significance = np.ascontiguousarray(np.where(cutout.good, rest / sigma, 0.0))
    try:
        objects, segments = sep.extract(
            significance, THRESHOLD, mask=~cutout.good, minarea=MIN_AREA, segmentation_map=True, deblend_cont=0.005
        )
    except Exception as error:  # sep has no exception of its own: its buffers overflow on crowded fields
        if "sep" not in str(error) and "deblend" not in str(error) and "buffer" not in str(error):
            raise
        return Objects(np.zeros(rest.shape, int), np.zeros((0, 2)))
    steps = cutout.steps
    peaks = np.stack((steps[objects["xpeak"]], -steps[objects["ypeak"]]), 1)
    return Objects(segments, peaks)


def farthest_image(einstein_radius: float) -> float:
    """Arcsec from the lens beyond which an object isn't an image of its source."""
    return FACTOR * einstein_radius + MARGIN

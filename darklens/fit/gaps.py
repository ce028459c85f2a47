"""Pixels without data, in files that do not say which: one value that too many of them share exactly.

A drizzled mosaic is 0 where no exposure saw the sky, a cutout beyond the detector's edge is filled with a constant, and
saturated pixels have all the same value. Noise gives hardly any pixel another's value, where it isn't in steps.
"""

import numpy as np

SHARED = 4  # times as many pixels as have the most common value of noise
KINDS = 3  # such values at most
DISTINCT = 0.5  # of the other pixels at least must have values of their own: the others are in steps


def gaps(image: np.ndarray) -> np.ndarray:
    """(..., H, W) bool: which pixels of an image in any unit have a value that stands for none; none where the values
    come in steps, as 8 bits or counts do."""
    nothing = np.zeros(image.shape, dtype=bool)
    values, counts = np.unique(image[np.isfinite(image)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if len(order) <= KINDS:
        return nothing
    fillers = values[order[:KINDS][counts[order[:KINDS]] >= SHARED * counts[order[KINDS]]]]
    filled = np.isin(image, fillers)
    others = np.isfinite(image) & ~filled
    return filled if len(values) - len(fillers) >= DISTINCT * others.sum() else nothing

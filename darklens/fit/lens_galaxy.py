"""Does an image show the lens galaxy? In its middle it is brightest, where a lens without light has its dark hole."""

import numpy as np

CORE, RING = 0.12, 0.3  # arcsec: the middle's disk, and from where rings are looked at
WIDTH = 0.1  # arcsec, of a ring
BRIGHTER = 1.5  # the middle over the brightest ring, the sky subtracted
DEEP = 5.0  # standard deviations of the mean in the middle


def shows_galaxy(image: np.ndarray, pixel_scale: float, good: np.ndarray | None = None) -> bool:
    """Whether the middle of an image (H, W) outshines every ring about it. good: (H, W) bool; pixel_scale: arcsec."""
    good = np.isfinite(image) if good is None else good & np.isfinite(image)
    height, width = image.shape
    y, x = np.mgrid[:height, :width] - (np.array([height, width])[:, None, None] - 1) / 2
    radius = np.hypot(x, y) * pixel_scale
    if not good.any():
        return False
    sky = np.median(image[good & (radius > np.quantile(radius[good], 0.75))])
    spread = 1.48 * np.median(np.abs(image[good & (radius > np.quantile(radius[good], 0.75))] - sky))
    reach = max(CORE, 1.1 * pixel_scale, radius[good].min() + pixel_scale)  # a saturated middle does not count
    core = good & (radius <= reach)
    middle = image[core].mean() - sky
    step = max(WIDTH, pixel_scale)
    edges = np.arange(max(RING, 3 * pixel_scale, reach + step), radius.max(), step)
    rings = [good & (radius >= low) & (radius < low + step) for low in edges]
    brightest = max((image[ring].mean() - sky for ring in rings if ring.any()), default=0.0)
    return bool(middle > BRIGHTER * max(brightest, 0.0) and middle > DEEP * spread / np.sqrt(core.sum()))

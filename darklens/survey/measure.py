"""A recipe to start from, measured on a survey's own cutouts.

    survey = measure("my_cutouts")
    Path("my_survey.toml").write_text(recipe_text(survey, "my_survey"))

What is measured: size, pixel scale, sky, noise and its correlation, counts a unit, peak signal to noise, the ring's
radius, light of the lens. Padding, neighbours and blank images are left out, and the recipe's comments say so. It is a
beginning: look at `write_comparison` and edit the file.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from darklens.data.image import as_square, find_extension, read_picture
from darklens.data.pixel_scale import mean_scale
from darklens.errors import DataError

SIDE_FILES = ("noise", "rms", "psf", "weight", "mask", "wht", "ivar")  # in names of files that aren't the image itself
TREND = 4.0  # pixels
GALAXY = 0.3  # of the rest: above, the light in the middle is a lens galaxy's
MIN_VALID = 0.4  # of an image's pixels: with less of the sky in it, it is left out
FLAT = 5  # pixels
BRIGHT = 5.0  # standard deviations of the sky: what is brighter is light of something
SMOOTH = 0.15  # of the bright pixels, those of the least curvature: where the noise is told from structure
CHI2_MEDIAN = 0.4549  # of a chi-square with one degree of freedom
UNEQUAL = 5.0  # times the median noise of the images: that of one image, as of another unit


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of n cutouts of one size; per image (n,), in the unit of the pixels."""

    images: np.ndarray  # (n, S, S)
    files: list[str]
    pixel_scale: float | None  # arcsec
    unit: str | None
    sky: np.ndarray
    noise: np.ndarray  # standard deviation of the empty sky
    correlation: float  # pixels, standard deviation of the smoothing that correlates the noise
    variance_per_unit: float  # of the noise, for each unit of signal; 0: not seen
    peak_snr: np.ndarray
    ring: np.ndarray  # pixels, NaN where no ring is seen
    central: np.ndarray  # light within half the ring over that of the rest
    psf: Path | None  # a kernel beside the images
    notes: list[str]


class Cutout(NamedTuple):
    """An image as its file has it, and the pixels (S, S) that show the sky."""

    path: Path
    pixels: np.ndarray  # (S, S)
    unit: str | None
    scale: float | None  # arcsec
    valid: np.ndarray  # (S, S) bool


def measure(folder: str | Path) -> Survey:
    """Measure the cutouts of a folder, those of the most frequent size.

    Raises DataError if there are none, or if they are of several pixel scales or units.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file() and find_extension(p))
    cutouts, notes = _read([p for p in paths if not any(word in p.name.lower() for word in SIDE_FILES)])
    cutouts = _alike(folder, cutouts, notes)
    sky, noise = np.array([_background(cutout.pixels, cutout.valid) for cutout in cutouts]).T
    alike = _alike_noise(noise, notes)
    cutouts, sky, noise = [cutouts[i] for i in alike], sky[alike], noise[alike]
    images, files = np.stack([cutout.pixels for cutout in cutouts]), [cutout.path for cutout in cutouts]
    maps = [_noise_map(path, paths, notes) for path in files]
    floors = [None if noise_map is None else np.percentile(noise_map, 1) for noise_map in maps]
    noise = np.array([n if floor is None else floor for n, floor in zip(noise, floors, strict=True)])
    light = images - sky[:, None, None]
    valid = np.stack([_without_neighbours(*one) for one in zip(light, noise, [c.valid for c in cutouts], strict=True)])
    correlation = _correlation(images, noise, valid)
    slope = _variance_per_unit(light, noise, maps, valid, correlation)
    rings = np.array([_ring(*one) for one in zip(light, noise, valid, strict=True)])
    peak = np.array([_peak(image, ring, mask) for image, ring, mask in zip(light, rings, valid, strict=True)])
    scales = [cutout.scale for cutout in cutouts if cutout.scale]
    return Survey(
        images=images,
        files=[str(path) for path in files],
        pixel_scale=float(np.median(scales)) if scales else None,
        unit=next((cutout.unit for cutout in cutouts if cutout.unit), None),
        sky=sky,
        noise=noise,
        correlation=correlation,
        variance_per_unit=slope,
        peak_snr=peak / np.sqrt(noise**2 + slope * np.maximum(peak, 0)),
        ring=rings[:, 0],
        central=rings[:, 1],
        psf=_psf(paths, files),
        notes=notes,
    )


def _read(paths: list[Path]) -> tuple[list[Cutout], list[str]]:
    """What can be read, and why the rest can't."""
    cutouts, notes = [], []
    for path in paths:
        try:
            picture = read_picture(path)
        except DataError as error:
            notes.append(str(error))
            continue
        pixels = as_square(picture.pixels).mean(0).astype(float)
        scale = mean_scale(picture.scale) if picture.scale else None
        cutouts.append(Cutout(path, pixels, picture.unit, scale, ~_padding(pixels)))
    return cutouts, notes


def _padding(image: np.ndarray) -> np.ndarray:
    """Where an image (S, S) repeats one value: pixels that nothing was observed in, or whose NaN were filled.

    Those of a block of FLAT x FLAT equal values, which noise hardly makes, even on a few levels.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    flat = maximum_filter(image, FLAT, mode="nearest") == minimum_filter(image, FLAT, mode="nearest")
    return maximum_filter(flat, FLAT)


def _alike(folder: str | Path, cutouts: list[Cutout], notes: list[str]) -> list[Cutout]:
    """Those of one size that show something, noting what was left out. Raises DataError."""
    if not cutouts:
        raise DataError(f"{folder}: no cutout in it can be read" + "".join(f"; {note}" for note in notes[:1]))
    size = Counter(len(cutout.pixels) for cutout in cutouts).most_common(1)[0][0]
    same_size = [cutout for cutout in cutouts if len(cutout.pixels) == size]
    if others := len(cutouts) - len(same_size):
        notes.append(f"{others} of {len(cutouts)} images are not {size} x {size} pixels and were left out")
    for kind, key in (("pixel scales", _scale_key), ("units", _unit_key)):
        same_size = _of_one_kind(folder, same_size, notes, kind, key)
    useful = [cutout for cutout in same_size if cutout.valid.mean() >= MIN_VALID]
    if blank := len(same_size) - len(useful):
        notes.append(f"{blank} of {len(same_size)} images are blank, or for the most part padding, and were left out")
    if not useful:
        raise DataError(f"{folder}: all {len(same_size)} images are blank, or for the most part padding")
    if padded := sum(not cutout.valid.all() for cutout in useful):
        notes.append(f"{padded} of {len(useful)} images have padding, which was not measured")
    return useful


def _of_one_kind(
    folder: str | Path, cutouts: list[Cutout], notes: list[str], kind: str, key: Callable[[Cutout], str | None]
) -> list[Cutout]:
    """Those whose key is that of most, or that have none; a note of the others. Raises DataError if none has most."""
    values = Counter(filter(None, map(key, cutouts)))
    if len(values) < 2:
        return cutouts
    ((majority, number),) = values.most_common(1)
    if 2 * number <= values.total():
        several = " and ".join(f"{value} ({number} images)" for value, number in values.most_common(3))
        raise DataError(f"{folder}: images of {len(values)} {kind}, {several}: measure those of one at a time")
    notes.append(
        f"{values.total() - number} of {len(cutouts)} images have other {kind} than {majority} and were left out"
    )
    return [cutout for cutout in cutouts if key(cutout) in (majority, None)]


def _scale_key(cutout: Cutout) -> str | None:
    return f"{cutout.scale:.3g} arcsec" if cutout.scale else None


def _unit_key(cutout: Cutout) -> str | None:
    return " ".join(cutout.unit.lower().split()) if cutout.unit else None


def _alike_noise(noise: np.ndarray, notes: list[str]) -> np.ndarray:
    """Numbers of the images whose noise is not another's as that of other units is; a note of those left out."""
    alike = np.abs(np.log(noise / np.median(noise))) <= math.log(UNEQUAL)
    if strangers := int((~alike).sum()):
        notes.append(
            f"{strangers} of {len(noise)} images have a noise {UNEQUAL:g} times as large or small as the median, as if "
            "their unit were another, and were left out"
        )
    return np.flatnonzero(alike)


def _border(image: np.ndarray) -> np.ndarray:
    """Mask of the outer eighth on each side."""
    edge = max(len(image) // 8, 2)
    mask = np.ones(image.shape, bool)
    mask[edge:-edge, edge:-edge] = False
    return mask


def _clipped(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, what lies beyond 3 sigma left out."""
    for _ in range(8):
        middle = np.median(values)
        sigma = 1.4826 * np.median(np.abs(values - middle))
        inliers = values[np.abs(values - middle) <= 3 * sigma] if sigma > 0 else values
        if len(inliers) == len(values):
            break
        values = inliers
    return float(np.mean(values)), float(sigma)


def _detrended(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The image less what varies over more than some pixels, wings of galaxies say; 0 where it isn't valid."""
    from scipy.ndimage import gaussian_filter

    weight = np.maximum(gaussian_filter(valid.astype(float), TREND), 1e-9)
    return np.where(valid, image - gaussian_filter(np.where(valid, image, 0), TREND) / weight, 0)


def _background(image: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Sky, of the faintest corner (or side, where corners are padding), and its noise, from the border."""
    edge, border = max(len(image) // 8, 2), _border(image) & valid
    if border.sum() < 4 * edge:  # padding all around
        border = valid
    middle = slice((len(image) - edge) // 2, (len(image) + edge) // 2)
    ends = slice(edge), slice(-edge, None)
    corners = [np.s_[rows, columns] for rows in ends for columns in ends]
    sides = [np.s_[end, middle] for end in ends] + [np.s_[middle, end] for end in ends]
    blocks = [[image[at][valid[at]] for at in places if valid[at].mean() > 0.5] for places in (corners, sides)]
    patches = next((some for some in blocks if some), [image[border]])
    sky = min(_clipped(patch)[0] for patch in patches)
    sigma = _clipped(_detrended(image, valid)[border])[1] / math.sqrt(1 - 3 / (4 * math.pi * TREND**2))
    return sky, max(sigma, 1e-12 * float(np.ptp(image)), 1e-300)


def _without_neighbours(light: np.ndarray, noise: float, valid: np.ndarray) -> np.ndarray:
    """The valid pixels but those of bright objects that do not reach into the central half: stars, galaxies."""
    from scipy.ndimage import binary_dilation, gaussian_filter, label

    size = len(light)
    rows, columns = np.indices(light.shape) - (size - 1) / 2
    central = np.hypot(rows, columns) < size / 4
    objects, count = label((gaussian_filter(light, 1) > BRIGHT * noise) & valid, np.ones((3, 3)))
    outer = np.setdiff1d(np.arange(1, count + 1), np.unique(objects[central]))
    return valid & ~binary_dilation(np.isin(objects, outer), iterations=3)


def _correlation(images: np.ndarray, noise: np.ndarray, valid: np.ndarray) -> float:
    """Width of the Gaussian whose smoothing correlates neighbours as they are: r = exp(-1 / 4 width^2)."""
    pulls = np.stack([_detrended(*one) for one in zip(images, valid, strict=True)]) / noise[:, None, None]
    mask = _border(images[0]) & valid & (np.abs(pulls) < 4)
    pulls, products, counts = np.where(mask, pulls, 0), 0.0, 0
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        products, counts = products + (pulls[a] * pulls[b]).sum(), counts + (mask[a] & mask[b]).sum()
    r = products / max(counts, 1) / max((pulls**2).sum() / max(mask.sum(), 1), 1e-30)
    return float(1 / (2 * math.sqrt(-math.log(min(r, 0.95))))) if r > 0.05 else 0.0


def _noise_map(path: Path, paths: list[Path], notes: list[str]) -> np.ndarray | None:
    """The noise map of a cutout: the file of its name with noise_map for data; a note if it can't be read."""
    other = path.with_name(path.name.replace("data", "noise_map"))
    if other == path or other not in paths:
        return None
    try:
        return as_square(read_picture(other).pixels).mean(0).astype(float)
    except DataError as error:
        notes.append(f"noise map passed over: {error}")
        return None


def _variance_per_unit(
    light: np.ndarray, noise: np.ndarray, maps: list[np.ndarray | None], valid: np.ndarray, correlation: float
) -> float:
    """How the noise's variance grows with the signal: from noise maps, else from pixels against their neighbours."""
    slopes: list[float] = []
    r = math.exp(-1 / (4 * correlation**2)) if correlation > 0 else 0.0  # of neighbours
    passed = (1 - 4 / 3 * r + r**4 / 3) ** 2  # of the noise's variance, by second differences along rows and columns
    for image, sigma, noise_map, mask in zip(light, noise, maps, valid, strict=True):
        bright = (image > BRIGHT * sigma) & mask
        if bright.sum() <= 20:
            continue
        if noise_map is not None and noise_map.shape == image.shape:
            slopes.append(float(np.median((noise_map[bright] ** 2 - sigma**2) / image[bright])))
        else:  # Immerkaer 1996: this operator takes planes out and leaves 36 times the noise's variance
            y = image[:-2] - 2 * image[1:-1] + image[2:]
            variance = np.pad((y[:, :-2] - 2 * y[:, 1:-1] + y[:, 2:]) ** 2 / (36 * passed), 1)
            curvature = _curvature(image)
            smooth = bright & (curvature <= np.quantile(curvature[bright], SMOOTH))
            slopes.append(_slope_of_squares(variance[smooth], image[smooth], sigma))
    return max(float(np.median(slopes)), 0.0) if slopes else 0.0


def _curvature(image: np.ndarray) -> np.ndarray:
    """How much the light bends over a few pixels, of itself: noise is told from structure where it is small."""
    from scipy.ndimage import gaussian_laplace

    return np.abs(gaussian_laplace(image, 2)) / np.maximum(image, 1e-300)


def _slope_of_squares(squares: np.ndarray, light: np.ndarray, sigma: float) -> float:
    """The s at which squares / (sigma^2 + s light) have the median of a chi-square: structure in few pixels is passed
    over."""
    from scipy.optimize import brentq

    def excess(slope: float) -> float:
        return float(np.median(squares / (sigma**2 + slope * light))) - CHI2_MEDIAN

    top = float((squares / light).max()) / CHI2_MEDIAN
    return brentq(excess, 0.0, top) if top > 0 and excess(0.0) > 0 > excess(top) else 0.0


def _ring(light: np.ndarray, noise: float, valid: np.ndarray) -> tuple[float, float]:
    """Radius (pixels) of a peak of the light's profile about the middle, and central light over the rest."""
    from scipy.signal import find_peaks

    middle = (len(light) - 1) / 2
    rows, columns = np.indices(light.shape) - middle
    radius, light = np.hypot(rows, columns), np.where(valid, light, 0)
    number = radius.astype(int).ravel()
    counts = np.bincount(number, valid.ravel())[: len(light) // 2]
    profile = np.bincount(number, light.ravel())[: len(light) // 2] / np.maximum(counts, 1)
    smooth = np.convolve(np.pad(profile, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    peaks, properties = find_peaks(smooth, prominence=5 * noise / np.sqrt(max(counts[3:].mean(), 1)))
    has_ring = len(peaks) > 0
    ring = float(peaks[np.argmax(properties["prominences"] * peaks)]) + 0.5 if has_ring else len(light) / 4
    inner = light[radius < ring / 2].sum()
    return ring if has_ring else math.nan, float(max(inner, 0) / max(light[radius < 2 * ring].sum() - inner, 1e-300))


def _peak(light: np.ndarray, ring_and_central: np.ndarray, valid: np.ndarray) -> float:
    """The fifth brightest pixel (four may be hot), outside of half the ring where a lens galaxy shines."""
    size, (ring, central) = len(light), ring_and_central
    rows, columns = np.indices(light.shape) - (size - 1) / 2
    inside = np.hypot(rows, columns) < (ring if np.isfinite(ring) else size / 4) / 2
    pixels = np.sort(light[valid & ~inside] if central > GALAXY else light[valid])
    return float(pixels[-min(5, len(pixels))]) if len(pixels) else 0.0


def _psf(paths: list[Path], files: list[Path]) -> Path | None:
    """The PSF beside the images: the one of their name, else the only one."""
    kernels = [p for p in paths if "psf" in p.name.lower()]
    same = [p for p in kernels if p.name == files[0].name.replace("data", "psf")]
    return same[0] if same else kernels[0] if len(kernels) == 1 else None

"""A recipe to start from, measured on a survey's own cutouts.

    survey = measure("my_cutouts")
    Path("my_survey.toml").write_text(recipe_text(survey, "my_survey"))

What is measured: size, pixel scale, sky, noise and its correlation, counts a unit, peak signal to noise, the ring's
radius, light of the lens. It is a beginning: look at `write_comparison` and edit the file.
"""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np

from darklens.data.image import as_square, find_extension, read_picture
from darklens.data.pixel_scale import mean_scale
from darklens.errors import DataError

SIDE_FILES = ("noise", "rms", "psf", "weight", "mask", "wht", "ivar")  # in names of files that aren't the image itself
TREND = 4.0  # pixels
GALAXY = 0.3  # of the rest: above, the light in the middle is a lens galaxy's


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


def measure(folder: str | Path) -> Survey:
    """Measure the cutouts of a folder, those of the most frequent size. Raises DataError if there are none."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file() and find_extension(p))
    cutouts = [p for p in paths if not any(word in p.name.lower() for word in SIDE_FILES)]
    read, notes = _read(cutouts)
    if not read:
        raise DataError(f"{folder}: no cutout in it can be read" + "".join(f"; {note}" for note in notes[:1]))
    size = Counter(pixels.shape[0] for _, pixels, *_ in read).most_common(1)[0][0]
    same_size = [one for one in read if one[1].shape[0] == size]
    if len(same_size) < len(read):
        notes.append(
            f"{len(read) - len(same_size)} of {len(read)} images are not {size} x {size} pixels and were left out"
        )
    images, files = np.stack([pixels for _, pixels, *_ in same_size]), [path for path, *_ in same_size]
    maps = [_noise_map(path, paths) for path in files]
    sky, noise = np.array([_background(image) for image in images]).T
    noise = np.array(
        [n if noise_map is None else np.percentile(noise_map, 1) for n, noise_map in zip(noise, maps, strict=True)]
    )
    slope = _variance_per_unit(images - sky[:, None, None], noise, maps)
    rings = np.array([_ring(image - s, n) for image, s, n in zip(images, sky, noise, strict=True)])
    peak = np.array([_peak(image, *ring) for image, ring in zip(images, rings, strict=True)]) - sky
    scales = [mean_scale(scale) for *_, scale in same_size if scale]
    return Survey(
        images,
        [str(path) for path in files],
        float(np.median(scales)) if scales else None,
        next((unit for *_, unit, _ in same_size if unit), None),
        sky,
        noise,
        _correlation(images, noise),
        slope,
        peak / np.sqrt(noise**2 + slope * np.maximum(peak, 0)),
        rings[:, 0],
        rings[:, 1],
        _psf(paths, files),
        notes,
    )


def _read(paths: list[Path]) -> tuple[list[tuple], list[str]]:
    """(path, (S, S) pixels, unit, pixel scale) of what can be read, and why the rest can't."""
    cutouts, notes = [], []
    for path in paths:
        try:
            picture = read_picture(path)
            cutouts.append((path, as_square(picture.pixels).mean(0).astype(float), picture.unit, picture.scale))
        except DataError as error:
            notes.append(str(error))
    return cutouts, notes


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


def _detrended(image: np.ndarray) -> np.ndarray:
    """The image less what varies over more than some pixels, wings of galaxies say."""
    from scipy.ndimage import gaussian_filter

    return image - gaussian_filter(image, TREND)


def _background(image: np.ndarray) -> tuple[float, float]:
    """Sky, of the faintest corner, and its noise, from the border."""
    edge, border = max(len(image) // 8, 2), _border(image)
    ends = slice(edge), slice(-edge, None)
    sky = min(_clipped(image[rows, columns].ravel())[0] for rows in ends for columns in ends)
    sigma = _clipped(_detrended(image)[border])[1] / math.sqrt(1 - 3 / (4 * math.pi * TREND**2))
    return sky, max(sigma, 1e-12 * float(np.ptp(image)), 1e-300)


def _correlation(images: np.ndarray, noise: np.ndarray) -> float:
    """Width of the Gaussian whose smoothing correlates neighbours as they are: r = exp(-1 / 4 width^2)."""
    pulls = np.stack([_detrended(image) for image in images]) / noise[:, None, None]
    mask = _border(images[0]) & (np.abs(pulls) < 4)
    pulls, products, counts = np.where(mask, pulls, 0), 0.0, 0
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        products, counts = products + (pulls[a] * pulls[b]).sum(), counts + (mask[a] & mask[b]).sum()
    r = products / max(counts, 1) / max((pulls**2).sum() / max(mask.sum(), 1), 1e-30)
    return float(1 / (2 * math.sqrt(-math.log(min(r, 0.95))))) if r > 0.05 else 0.0


def _noise_map(path: Path, paths: list[Path]) -> np.ndarray | None:
    """The noise map of a cutout: the file of its name with noise_map for data."""
    other = path.with_name(path.name.replace("data", "noise_map"))
    return as_square(read_picture(other).pixels).mean(0).astype(float) if other != path and other in paths else None


def _variance_per_unit(light: np.ndarray, noise: np.ndarray, maps: list[np.ndarray | None]) -> float:
    """How the noise's variance grows with the signal: from noise maps, else from pixels against their neighbours."""
    slopes = []
    for image, sigma, noise_map in zip(light, noise, maps, strict=True):
        bright = image > 5 * sigma
        if noise_map is not None and noise_map.shape == image.shape:
            variance = noise_map**2
        else:  # Immerkaer 1996: this operator takes planes out and leaves 36 times the noise's variance
            y = image[:-2] - 2 * image[1:-1] + image[2:]
            variance = np.pad((y[:, :-2] - 2 * y[:, 1:-1] + y[:, 2:]) ** 2 / 36, 1)
        if bright.sum() > 20:
            slopes.append(
                float(np.median((variance[bright] - sigma**2) / image[bright]))
                if noise_map is not None
                else float(((variance - sigma**2)[bright]).sum() / image[bright].sum())
            )
    return max(float(np.median(slopes)), 0.0) if slopes else 0.0


def _ring(light: np.ndarray, noise: float) -> tuple[float, float]:
    """Radius (pixels) of a peak of the light's profile about the middle, and central light over the rest."""
    from scipy.signal import find_peaks

    middle = (len(light) - 1) / 2
    rows, columns = np.indices(light.shape) - middle
    radius = np.hypot(rows, columns)
    number = radius.astype(int).ravel()
    counts = np.bincount(number)[: len(light) // 2]
    profile = np.bincount(number, light.ravel())[: len(light) // 2] / np.maximum(counts, 1)
    smooth = np.convolve(np.pad(profile, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    peaks, properties = find_peaks(smooth, prominence=5 * noise / np.sqrt(max(counts[3:].mean(), 1)))
    has_ring = len(peaks) > 0
    ring = float(peaks[np.argmax(properties["prominences"] * peaks)]) + 0.5 if has_ring else len(light) / 4
    inner = light[radius < ring / 2].sum()
    return ring if has_ring else math.nan, float(max(inner, 0) / max(light[radius < 2 * ring].sum() - inner, 1e-300))


def _peak(image: np.ndarray, ring: float, central: float) -> float:
    """The fifth brightest pixel (four may be hot), outside of half the ring where a lens galaxy shines."""
    size = len(image)
    rows, columns = np.indices(image.shape) - (size - 1) / 2
    inside = np.hypot(rows, columns) < (ring if np.isfinite(ring) else size / 4) / 2
    return float(np.sort(image[~inside] if central > GALAXY else image.ravel())[-5])


def _psf(paths: list[Path], files: list[Path]) -> Path | None:
    """The PSF beside the images: the one of their name, else the only one."""
    kernels = [p for p in paths if "psf" in p.name.lower()]
    same = [p for p in kernels if p.name == files[0].name.replace("data", "psf")]
    return same[0] if same else kernels[0] if len(kernels) == 1 else None

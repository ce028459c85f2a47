"""How drawn galaxies with structure compare with real ones: asymmetry, concentration and power spectrum, side by side.

    python benchmarks/structure.py GALAXIES --picture structure.png      # a folder of FITS stamps, 20 s
    python benchmarks/structure.py GALAXIES --recipe hst_sky --draws 20

For every stamp galaxies are drawn from the recipe's [source.structure] with its half-light radius and axis ratio, on
its pixels, blurred (FWHM 0.1") and with its noise, as strong and as correlated, and measured as the stamp is:
A: rotational asymmetry, the least over the centre, less that of the background (Conselice, Bershady & Jangren 2000,
ApJ 529, 886); C: 5 log10(r80 / r20) (Bershady et al. 2000, AJ 119, 2645); P(k): power of what an elliptical model
leaves, over the light squared, at 1/4 to 2 cycles a half-light radius, the noise's taken off.
"""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, label, shift

from darklens.simulation.detector import correlate
from darklens.simulation.draw import STRUCTURE_KEYS, structure_values
from darklens.simulation.recipes import load_recipe
from darklens.simulation.structure import EXTENT, SIZE, Galaxy, draw_galaxy

FWHM = 0.1  # arcsec, of the stamps' PSF
BANDS = (0.25, 0.5, 1.0, 2.0)  # cycles a half-light radius


@dataclasses.dataclass(frozen=True)
class Stamp:
    """A galaxy less its background: its noise, centre, half-light radius (pixels) and ellipse."""

    image: np.ndarray
    noise: float
    centre: tuple[float, float]  # row, column
    radius: float
    axis_ratio: float
    angle: float  # radians from the columns


def measure(image: np.ndarray) -> Stamp:
    """Background, centre and half-light radius of the object in the middle of a stamp (H, W)."""
    border = np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, :3].ravel(), image[:, -3:].ravel()])
    sky = np.median(border)
    noise = 1.4826 * float(np.median(np.abs(border - sky)))
    image = image - sky
    smooth = gaussian_filter(image, 2)
    objects, _ = label(smooth > max(1.0 * noise, 0.01 * smooth.max()))
    rows, columns = np.indices(image.shape)
    near_middle = np.hypot(rows - image.shape[0] / 2, columns - image.shape[1] / 2) < min(image.shape) / 3
    brightest = np.argmax(smooth * near_middle)
    mask = objects == objects.ravel()[brightest]
    light = np.where(mask, np.maximum(smooth, 0), 0)
    row, column = (float((light * steps).sum() / light.sum()) for steps in (rows, columns))
    dy, dx = rows - row, columns - column
    yy, xx, xy = (float((light * a * b).sum() / light.sum()) for a, b in ((dy, dy), (dx, dx), (dx, dy)))
    spread = math.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    ratio = math.sqrt(max((xx + yy) / 2 - spread, 1e-3) / ((xx + yy) / 2 + spread))
    stamp = Stamp(image, noise, (row, column), 1.0, max(ratio, 0.2), math.atan2(2 * xy, xx - yy) / 2)
    return dataclasses.replace(stamp, radius=light_radius(stamp, 0.5))


def elliptical_radius(stamp: Stamp) -> np.ndarray:
    """(H, W) pixels from the centre, the geometric mean of an ellipse's axes."""
    rows, columns = np.indices(stamp.image.shape)
    dy, dx = rows - stamp.centre[0], columns - stamp.centre[1]
    u = dx * math.cos(stamp.angle) + dy * math.sin(stamp.angle)
    v = dy * math.cos(stamp.angle) - dx * math.sin(stamp.angle)
    return np.sqrt(u**2 * stamp.axis_ratio + v**2 / stamp.axis_ratio)


def light_radius(stamp: Stamp, share: float) -> float:
    """Elliptical radius (pixels) with a share of the light, which ends where a ring's mean sinks into the noise."""
    r = elliptical_radius(stamp)
    number = r.astype(int).ravel()
    count, total = np.bincount(number), np.bincount(number, stamp.image.ravel())
    ends = np.flatnonzero(total / count < 0.5 * stamp.noise)
    end = int(ends[0]) if len(ends) else min(stamp.image.shape) // 2
    growth = np.cumsum(total[: max(end, 2)])
    return float(np.interp(share * growth[-1], growth, np.arange(1, len(growth) + 1)))


def asymmetry(stamp: Stamp) -> float:
    """Sum of |I - I turned by 180 degrees| over that of I within three half-light radii, less the background's."""
    inside = elliptical_radius(stamp) < 3 * stamp.radius
    middle = [(n - 1) / 2 for n in stamp.image.shape]
    scores = []
    for dy in np.arange(-2, 2.1, 0.5):
        for dx in np.arange(-2, 2.1, 0.5):
            moved = shift(stamp.image, (middle[0] - stamp.centre[0] + dy, middle[1] - stamp.centre[1] + dx), order=1)
            there = shift(inside.astype(float), (middle[0] - stamp.centre[0], middle[1] - stamp.centre[1]), order=0) > 0
            scores.append(np.abs(moved - moved[::-1, ::-1])[there].sum() / 2)
    background = inside.sum() * stamp.noise / math.sqrt(math.pi)
    return float((min(scores) - background) / stamp.image[inside].sum())


def power(stamp: Stamp) -> np.ndarray:
    """(len(BANDS),) power of what the elliptical mean leaves, less the noise's; light and half-light radius are 1."""
    r = elliptical_radius(stamp)
    number = (r * 2).astype(int)
    count = np.maximum(np.bincount(number.ravel()), 1)
    model = gaussian_filter(np.bincount(number.ravel(), stamp.image.ravel()) / count, 1, mode="nearest")[number]
    inside = r < 3 * stamp.radius
    rest = np.where(inside, stamp.image - model, 0) / stamp.image[inside].sum()
    size = 2 ** math.ceil(math.log2(2 * max(rest.shape)))
    spectrum = np.abs(np.fft.fft2(rest, s=(size, size))) ** 2
    noise = inside.sum() * (stamp.noise / stamp.image[inside].sum()) ** 2
    k = np.hypot(np.fft.fftfreq(size), np.fft.fftfreq(size)[:, None]) * stamp.radius
    bands = [(k > band / math.sqrt(2)) & (k <= band * math.sqrt(2)) for band in BANDS]
    return np.array([spectrum[band].mean() - noise if band.any() else np.nan for band in bands])


def figures(image: np.ndarray) -> np.ndarray:
    """A, C, and log10 of the power in each band (NaN below the noise)."""
    stamp = measure(image)
    concentration = 5 * math.log10(light_radius(stamp, 0.8) / light_radius(stamp, 0.2))
    strengths = power(stamp)
    return np.array([asymmetry(stamp), concentration, *np.where(strengths > 0, np.log10(np.abs(strengths)), np.nan)])


def noise_width(stamp: Stamp) -> float:
    """Width (pixels) of the Gaussian that correlates the border's noise as it is: r = exp(-1 / 4 width^2)."""
    strips = [np.clip(strip / stamp.noise, -4, 4) for strip in (stamp.image[:3], stamp.image[-3:])]
    products = np.concatenate([(strip[:, 1:] * strip[:, :-1]).ravel() for strip in strips]).mean()
    r = float(products / np.mean([np.square(strip).mean() for strip in strips]))
    return 1 / (2 * math.sqrt(-math.log(min(r, 0.8)))) if r > 0.05 else 0.0


def like(stamp: Stamp, galaxy: Galaxy, rng: np.random.Generator) -> np.ndarray:
    """A drawn galaxy on a stamp's pixels: its radius, axis ratio, angle, light, PSF (FWHM in pixels) and noise."""
    from scipy.ndimage import map_coordinates

    light = draw_galaxy(galaxy, rng)
    rows, columns = np.indices(stamp.image.shape)
    dy, dx = rows - stamp.centre[0], columns - stamp.centre[1]
    u = (dx * math.cos(stamp.angle) + dy * math.sin(stamp.angle)) / stamp.radius
    v = (dy * math.cos(stamp.angle) - dx * math.sin(stamp.angle)) / stamp.radius
    step = 2 * EXTENT / SIZE
    image = map_coordinates(light, [(v + EXTENT) / step - 0.5, (u + EXTENT) / step - 0.5], order=1)
    image = gaussian_filter(image, FWHM / 2.355 / 0.03)
    inside = elliptical_radius(stamp) < 3 * stamp.radius
    image *= stamp.image[inside].sum() / image[inside].sum()
    return image + correlate(rng.normal(0, stamp.noise, image.shape), noise_width(stamp))


def drawn(recipe_name: str, stamp: Stamp, seed: int) -> tuple[Galaxy, np.random.Generator]:
    """A galaxy of a recipe's priors with the stamp's axis ratio."""
    recipe, rng = load_recipe(recipe_name), np.random.default_rng(seed)
    values = structure_values(recipe.source.structure, rng.random((1, len(STRUCTURE_KEYS))))
    index = float(recipe.source.sersic_index.draw(rng))
    numbers = {key: float(value[0]) for key, value in values.items()}
    return Galaxy(sersic_index=index, axis_ratio=stamp.axis_ratio, **numbers), rng


def read_stamps(folder: Path) -> dict[str, np.ndarray]:
    """The images of a folder's FITS files, by name."""
    from astropy.io import fits

    return {path.stem: np.squeeze(fits.getdata(path)).astype(float) for path in sorted(folder.glob("*.fits"))}


def picture(path: Path, pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Real galaxies above drawn ones, each pair in one stretch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * len(pairs), 4.4), layout="constrained")
    for column, (title, *images) in zip(figure.subplots(2, len(pairs)).T, pairs, strict=True):
        noise = measure(images[0]).noise
        for axes, image in zip(column, images, strict=True):
            stretched = np.arcsinh((image - np.median(images[0][:3])) / (3 * noise))
            axes.imshow(stretched, cmap="gray", origin="lower", vmin=-0.5, vmax=np.percentile(stretched, 99.8))
            axes.set_axis_off()
        column[0].set_title(title, fontsize=7)
    figure.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare drawn galaxies with real ones.")
    parser.add_argument("galaxies", type=Path, help="a folder of FITS stamps of 0.03 arcsec a pixel")
    parser.add_argument("--recipe", default="hst_sky")
    parser.add_argument("--draws", type=int, default=10, help="drawn galaxies for each real one (default: 10)")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    real, fake, pairs = [], [], []
    for number, (name, image) in enumerate(read_stamps(args.galaxies).items()):
        stamp = measure(image)
        draws = [like(stamp, *drawn(args.recipe, stamp, 1000 * number + i)) for i in range(args.draws)]
        real.append(figures(image))
        fake += [figures(one) for one in draws]
        pairs.append((name, image, draws[0]))
        print(
            f"{name:24} r50 {stamp.radius:5.1f} px q {stamp.axis_ratio:.2f}  A {real[-1][0]:5.2f}  C {real[-1][1]:4.1f}"
        )
    titles = ["A", "C", *(f"log P({band:g})" for band in BANDS)]
    print(f"{'':12} {'real: 16, 50, 84%':>24} {'drawn: 16, 50, 84%':>26}")
    for title, a, b in zip(titles, np.array(real).T, np.array(fake).T, strict=True):
        both = [" ".join(f"{v:7.2f}" for v in np.nanpercentile(x, [16, 50, 84])) for x in (a, b)]
        print(f"{title:12} {both[0]:>24} {both[1]:>26}")
    if args.picture:
        picture(args.picture, pairs)


if __name__ == "__main__":
    main()

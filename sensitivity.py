"""Which dark matter can a network see? Completeness against what the simulator put into each image.

    found = sensitivity("images_f", "test", names, labels, logits, classes, folder)

writes `sensitivity.png`, `.pdf` and `.json`: the fraction of the images with substructure that are classified right,
and the fraction told from those without at 1% false positives, against the mass of the substructure and its place.

Conventions as in simulate.py: arcsec from the halo, x with the column, y against the row, masses in solar masses.

References
  Wilson 1927, J. Am. Stat. Assoc. 22:209 (binomial interval)
  Narayan & Bartelmann 1996, astro-ph/9606001 (NB: the lens equation)
"""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from scipy import stats

from files import save_json
from images import DataError
from metrics import NO_SUBSTRUCTURE, log_odds
from plots import _figure, _labels, _save
from simulate import DatasetError, Parameters, Recipe, read_manifest

FALSE_POSITIVES = 0.01  # share of the images without substructure that may be called substructure
BINS, PER_BIN = 8, 30  # bins at most, images in each at least (but for one bin)
NEAR = 0.25  # arcsec: "near" the ring of light
LEVEL = 0.95  # of the intervals
LEVELS = (0.5, 0.9)  # completeness at which a mass is quoted


# --- what the simulator knows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What the simulator put into n images: its parameters, (n,) and (n, S), and the recipe they were drawn from."""

    parameters: Parameters
    recipe: Recipe


def is_simulated(data_root: str | Path) -> bool:
    """Whether the folder holds the simulator's parameters."""
    return (Path(data_root) / "manifest.json").is_file() and (Path(data_root) / "parameters").is_dir()


def read_truth(data_root: str | Path, split_name: str, names: Sequence[str]) -> Truth:
    """What is in the images `names` (CLASS/FILE.npy) of a split, in that order.

    Raises DataError where simulate.py did not write the data set, its files are damaged, or an image is not in them.
    """
    root = Path(data_root)
    recipe = _read_recipe(root)
    images = [PurePosixPath(name) for name in names]
    stored = {name: _read_parameters(root, split_name, name) for name in sorted({i.parent.name for i in images})}
    rows = [_row(root, image, stored[image.parent.name][0]) for image in images]
    width = max((p.subhalo_mass.shape[1] for _, p in stored.values()), default=0)

    def gather(field: str) -> np.ndarray:
        values = [getattr(stored[i.parent.name][1], field)[row] for i, row in zip(images, rows, strict=True)]
        return np.array([np.pad(v, (0, width - len(v))) if np.ndim(v) else v for v in values])

    return Truth(Parameters(**{field: gather(field) for field in Parameters.__dataclass_fields__}), recipe)


def _read_recipe(root: Path) -> Recipe:
    path = root / "manifest.json"
    try:
        recipe = read_manifest(root)["recipe"]
        return Recipe(**{key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()})
    except OSError:
        raise DataError(f"{path}: not found: only data sets that simulate.py wrote have known dark matter") from None
    except DatasetError as error:
        raise DataError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a recipe of this simulator ({error}): simulate the data set again") from None


def _read_parameters(root: Path, split: str, class_name: str) -> tuple[dict[int, int], Parameters]:
    """Row of each image number, and the parameters of all images of a class."""
    path = root / "parameters" / f"{split}_{class_name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("index", *Parameters.__dataclass_fields__)}
    except FileNotFoundError:
        raise DataError(f"{path}: not found: the dark matter in {split}/{class_name} is not known") from None
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected the simulator's parameters, found a damaged file ({error})") from None
    index = arrays.pop("index")
    for name, values in arrays.items():
        if values.ndim != 1 + name.startswith("subhalo") or len(values) != len(index) or values.dtype.kind != "f":
            raise DataError(f"{path}: expected {len(index)} numbers {name}, found {values.dtype} {values.shape}")
    return {int(number): row for row, number in enumerate(index)}, Parameters(**arrays)


def _row(root: Path, image: PurePosixPath, rows: dict[int, int]) -> int:
    number = int(image.stem) if image.stem.isdecimal() and image.stem.isascii() else None
    if number not in rows:
        raise DataError(f"{root}: the simulator's parameters know no image {image}: it was not simulated with the rest")
    return rows[number]


# --- geometry ---------------------------------------------------------------------------------------------------


def ring_radius(parameters: Parameters, angle: np.ndarray) -> np.ndarray:
    """Where along a direction from the halo the ring is brightest, in arcsec.

    A ray at r n, n = (cos a, sin a), comes from r (1 - Gamma) n - theta_E n in the source plane (NB: SIS and external
    shear Gamma, without substructure); it passes closest to the source's centre s at r = v (theta_E n + s) / v^2 with
    v = (1 - Gamma) n. Without shear and offset that is the Einstein radius.

    angle: (n,) or (n, m), radians from +x; the result has its shape.
    """
    p = {key: _like(value, angle) for key, value in vars(parameters).items() if value.ndim == 1}
    cos, sin = np.cos(angle), np.sin(angle)
    gamma1, gamma2 = p["shear"] * np.cos(2 * p["shear_angle"]), p["shear"] * np.sin(2 * p["shear_angle"])
    vx, vy = cos - gamma1 * cos - gamma2 * sin, sin - gamma2 * cos + gamma1 * sin
    along = vx * (p["theta_e"] * cos + p["source_x"]) + vy * (p["theta_e"] * sin + p["source_y"])
    return along / (vx**2 + vy**2)


def ring_distance(parameters: Parameters, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far outside the ring (inside: negative) places lie, along the direction from the halo; arcsec.

    x, y: (n,) or (n, m), arcsec.
    """
    return np.hypot(x, y) - ring_radius(parameters, np.arctan2(y, x))


def _like(values: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return values[:, None] if np.ndim(angle) == 2 else values


def heaviest(parameters: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and mass of the most massive subhalo of each image, (n,); NaN where there is none."""
    p = parameters
    if not p.subhalo_mass.size:
        return tuple(np.full(len(p), np.nan) for _ in range(3))
    best = (np.arange(len(p)), p.subhalo_mass.argmax(1))
    mass = p.subhalo_mass[best]
    return tuple(np.where(mass > 0, values, np.nan) for values in (p.subhalo_x[best], p.subhalo_y[best], mass))


def mass_near_ring(parameters: Parameters) -> np.ndarray:
    """(n,) Msun of subhalos and of the vortex within `NEAR` of the ring of light."""
    p, steps = parameters, (np.arange(64) + 0.5) / 64 - 0.5  # of the rod's length
    s = steps * p.vortex_length[:, None]
    x = p.vortex_x[:, None] + s * np.cos(p.vortex_angle)[:, None]
    y = p.vortex_y[:, None] + s * np.sin(p.vortex_angle)[:, None]
    rod = p.vortex_mass * (abs(ring_distance(p, x, y)) < NEAR).mean(1)
    return rod + (p.subhalo_mass * (abs(ring_distance(p, p.subhalo_x, p.subhalo_y)) < NEAR)).sum(1)


# --- the quantities, by kind of dark matter ---------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """Something that completeness may depend on: its value in each image (NaN: it has none), and how to draw it."""

    label: str
    of: Callable[[Truth], np.ndarray]
    threshold: bool = False  # quote where completeness is reached


def _fraction(mass: Callable[[Parameters], np.ndarray]) -> Callable[[Truth], np.ndarray]:
    return lambda truth: mass(truth.parameters) / truth.recipe.total_mass


MASSES = {
    "mass_fraction": Quantity(
        "substructure, fraction of the total mass", _fraction(lambda p: p.substructure_mass), threshold=True
    ),
    "mass_fraction_near_ring": Quantity(
        f"the same within {NEAR}″ of the ring of light", _fraction(mass_near_ring), threshold=True
    ),
}
SUBHALOS = {
    **MASSES,
    "heaviest_mass_1e9_msun": Quantity(
        "most massive subhalo ($10^9\\,M_\\odot$)", lambda t: heaviest(t.parameters)[2] / 1e9, threshold=True
    ),
    "heaviest_from_ring": Quantity(
        "its distance outside the ring (″)", lambda t: ring_distance(t.parameters, *heaviest(t.parameters)[:2])
    ),
    "heaviest_from_centre": Quantity(
        "its distance from the centre (″)", lambda t: np.hypot(*heaviest(t.parameters)[:2])
    ),
}
VORTEX = {
    **MASSES,
    "length": Quantity("length of the vortex (″)", lambda t: t.parameters.vortex_length),
    "centre_from_ring": Quantity(
        "its centre's distance outside the ring (″)",
        lambda t: ring_distance(t.parameters, t.parameters.vortex_x, t.parameters.vortex_y),
    ),
    "centre_from_centre": Quantity(
        "its centre's distance from the halo (″)", lambda t: np.hypot(t.parameters.vortex_x, t.parameters.vortex_y)
    ),
}


def _quantities(truth: Truth) -> dict[str, Quantity]:
    """What to plot for these images, by the kind of dark matter that they hold."""
    return VORTEX if truth.parameters.vortex_mass.any() else SUBHALOS


# --- completeness -----------------------------------------------------------------------------------------------


def wilson(found: np.ndarray, images: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a binomial fraction (Wilson 1927). found of images, both (n,), images > 0 -> two (n,)."""
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    fraction = found / images
    centre = (fraction + z2 / (2 * images)) / (1 + z2 / images)
    half = np.sqrt(z2 * fraction * (1 - fraction) / images + z2**2 / (4 * images**2)) / (1 + z2 / images)
    return np.clip(centre - half, 0, fraction), np.clip(centre + half, fraction, 1)


def completeness(values: np.ndarray, found: dict[str, np.ndarray]) -> dict:
    """Fractions found in bins of equal count of a quantity.

    values: (n,), those that are not finite are left out; found: name -> (n,) bool. Returns lists of one entry a bin:
    "low", "high", "median" of the values, "images", and for each name "found", "completeness" and "interval".
    """
    bins = _equal_count(values)
    images = np.array([len(b) for b in bins])
    curve = {"low": [values[b[0]] for b in bins], "high": [values[b[-1]] for b in bins]}
    curve |= {"median": [np.median(values[b]) for b in bins], "images": images}
    for name, flags in found.items():
        curve[name] = _share(np.array([flags[b].sum() for b in bins], dtype=int), images)
    return curve


def _equal_count(values: np.ndarray) -> list[np.ndarray]:
    """Indices of the finite values, sorted, in up to `BINS` bins of about equal count; equal values share a bin."""
    used = np.flatnonzero(np.isfinite(values))
    used = used[np.argsort(values[used], kind="stable")]
    parts = np.array_split(values[used], np.clip(len(used) // PER_BIN, 1, BINS))
    starts = np.unique([part[0] for part in parts if len(part)])
    return np.split(used, np.searchsorted(values[used], starts[1:])) if len(used) else []


def _share(found: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    return {"found": found, "completeness": found / images, "interval": np.stack(wilson(found, images), 1)}


def reached(curve: dict, name: str) -> dict[str, float | None]:
    """The value at which completeness rises to each of `LEVELS`, between the medians of the bins; None if it
    never gets there, or is above it from the beginning."""
    x, y = np.asarray(curve["median"]), np.asarray(curve[name]["completeness"])
    return {f"{level:g}": _crossing(x, y, level) for level in LEVELS}


def _crossing(x: np.ndarray, y: np.ndarray, level: float) -> float | None:
    """Where the polyline (x, y) last rises to a level for good."""
    below = np.flatnonzero(y < level)
    if not len(below) or below[-1] == len(y) - 1:
        return None
    i = below[-1]
    return float(x[i] + (level - y[i]) / (y[i + 1] - y[i]) * (x[i + 1] - x[i]))


def threshold(scores: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """The lowest score above which at most that share of these (m,) scores lies."""
    return float(np.sort(scores)[len(scores) - 1 - int(rate * len(scores))])


def sensitivity(
    data_root: str | Path,
    split_name: str,
    names: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    folder: str | Path,
) -> dict:
    """Measure and draw which dark matter a network sees in simulated images; `sensitivity.json`, `.png`, `.pdf`.

    Args:
        data_root, split_name: a data set that simulate.py wrote.
        names: n times CLASS/FILE.npy. labels: (n,) int, the true classes. logits: (n, K).
        classes: K names. folder: to write into.

    Returns:
        dict: what `sensitivity.json` holds. For each class with substructure the number of images, the fraction found
        with its interval, and a curve for each quantity (see `completeness`), each by two criteria: "classified" as
        its own class, and "detected", where p(substructure) exceeds what 1% of the images without it reach (left out
        where there are none).

    Raises DataError where the simulator's parameters are missing, ValueError where the arguments don't fit each
    other, ResultsError where the folder can't be written.
    """
    labels, logits = _checked(names, labels, logits, classes)
    truth = read_truth(data_root, split_name, names)
    found, detection = _found(labels, logits, classes)
    report = {"split": split_name, "level_of_intervals": LEVEL, "near_ring_arcsec": NEAR, "detection": detection}
    report["classes"] = {}
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        here = Truth(truth.parameters[rows], truth.recipe)
        if here.parameters.substructure_mass.any():
            report["classes"][classes[k]] = _measure(here, {name: flags[rows] for name, flags in found.items()})
    if not report["classes"]:
        raise DataError(f"{data_root}: expected images with dark-matter substructure in {split_name}, found none")
    save_json(Path(folder) / "sensitivity.json", report)
    plot_sensitivity(folder, report)
    return report


def _checked(names, labels, logits, classes) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if labels.shape != (len(names),) or logits.shape != (len(names), len(classes)) or not len(names):
        raise ValueError(
            f"sensitivity: expected labels (n,) and logits (n, {len(classes)}) of {len(names)} images, "
            f"found {labels.shape} and {logits.shape}"
        )
    return labels, logits


def _found(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> tuple[dict, dict | None]:
    """Which images are found, by criterion -> (n,) bool; and how detection was set."""
    found = {"classified": logits.argmax(1) == labels}
    none = next((k for k, name in enumerate(classes) if name.lower() in NO_SUBSTRUCTURE), None)
    if none is None or not (labels == none).any():
        return found, None
    scores = -log_odds(logits)[:, none]  # (n,) log odds of substructure
    limit = threshold(scores[labels == none])
    found["detected"] = scores > limit
    false = float(found["detected"][labels == none].mean())
    return found, {"log_odds_above": limit, "false_positive_rate": false, "images_without": int((labels == none).sum())}


def _measure(truth: Truth, found: dict[str, np.ndarray]) -> dict:
    """Totals and curves of the images of one class."""
    n = len(truth.parameters)
    total = {name: _share(np.array([flags.sum()]), np.array([n])) for name, flags in found.items()}
    curves = {}
    for key, quantity in _quantities(truth).items():
        curve = completeness(quantity.of(truth), found)
        if quantity.threshold:
            curve["reached"] = {name: reached(curve, name) for name in found}
        curves[key] = {"label": quantity.label, **curve}
    return {"images": n, "total": total, "curves": curves}


# --- the picture ------------------------------------------------------------------------------------------------

CRITERIA = {  # name -> legend, style
    "classified": ("classified as its own class", {"color": "#3f90da", "marker": "s", "markersize": 4}),
    "detected": ("told from no substructure, 1% false positives", {"color": "#bd1f01", "marker": "o", "markersize": 5}),
}


def plot_sensitivity(folder: str | Path, report: dict) -> Path:
    """sensitivity.png: one row a class, one column a quantity; bars are 95% intervals, and how wide the bins are."""
    classes = report["classes"]
    columns = max(len(one["curves"]) for one in classes.values())
    figure = _figure(3.1 * columns, 0.7 + 3.2 * len(classes))
    axes = figure.subplots(len(classes), columns, squeeze=False)
    for row, name, one in zip(axes, _labels(list(classes)), classes.values(), strict=True):
        for axis, curve in zip(row, one["curves"].values(), strict=False):
            _draw_curve(axis, curve)
        for axis in row[len(one["curves"]) :]:
            axis.remove()
        row[0].set_ylabel(f"{name}: completeness")
        row[0].set_title(f"{one['images']} images: {_totals(one['total'])}", loc="left", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return _save(figure, folder, "sensitivity")


def _totals(total: dict) -> str:
    """`classified 74.7%, detected 84.4%`."""
    return ", ".join(f"{name} {share['completeness'][0]:.1%}" for name, share in total.items())


def _draw_curve(axis, curve: dict) -> None:
    """Completeness at the median of each bin, and where it reaches the levels that are quoted."""
    x = np.asarray(curve["median"])
    wide = [x - curve["low"], curve["high"] - x]
    drawn = [name for name in CRITERIA if name in curve]
    for name in drawn:
        label, style = CRITERIA[name]
        y, interval = curve[name]["completeness"], curve[name]["interval"]
        tall = np.clip([y - interval[:, 0], interval[:, 1] - y], 0, None)
        axis.errorbar(x, y, tall, wide, label=label, linewidth=1.2, elinewidth=0.8, **style)
    _draw_reached(axis, curve.get("reached", {}).get(drawn[-1], {}), CRITERIA[drawn[-1]][1]["color"])
    axis.set(xlabel=curve["label"], ylim=(-0.03, 1.03))
    axis.grid(alpha=0.3)


def _draw_reached(axis, levels: dict[str, float | None], colour: str) -> None:
    """Where completeness reaches the levels that are quoted."""
    known = {float(level): value for level, value in levels.items() if value is not None}
    for level, value in known.items():
        axis.plot([value, value], [-0.03, level], color=colour, linestyle=":", linewidth=1)
    text = "\n".join(f"{level:.0%} at {value:.2g}" for level, value in known.items())
    axis.text(0.97, 0.04, text, color=colour, fontsize=9, ha="right", va="bottom", transform=axis.transAxes)

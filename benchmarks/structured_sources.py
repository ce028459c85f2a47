"""Substructure or none behind sources with structure, without training: log Bayes factors of the flexible source.

    python benchmarks/structured_sources.py                                  # clumpy sources, 20 lenses a class
    python benchmarks/structured_sources.py --kind weak --count 100
    python benchmarks/structured_sources.py --stamps FOLDER                  # pictures of galaxies as sources
    python benchmarks/structured_sources.py --count 4 --picture flexible.png

Lenses of Model J (its noise, halo, substructure and the flux of its source) whose source is not a Sersic. The noise is
measured in each image. Prints AUC, quantiles of ln B, chi-square a pixel with a Sersic and a flexible source, seconds
of one core (run it with OMP_NUM_THREADS=1).
"""

import argparse
import math
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from darklens.fit import SmoothModel, fit
from darklens.fit.structured import ONE_PERCENT, StructuredFit, fit_structured
from darklens.simulation.profiles import sersic_area
from darklens.simulation.recipe_file import parse_recipe, recipe_dict
from darklens.simulation.recipes import CLASSES, RECIPES, SimulationConfig
from darklens.simulation.render import simulate

KINDS = {  # [source.structure] of each
    "clumpy": {"clumps": [3, 12], "clump_fraction": 0.4, "clump_radius": [0.05, 0.2]},
    "weak": {"clumps": [3, 12], "clump_fraction": 0.1, "clump_radius": [0.05, 0.2]},
    "galaxies": recipe_dict(RECIPES["hst_sky"])["source"]["structure"],
}
SEED = 11
ZERO_POINT = 25.0  # any: the source has the counts of Model J


def recipe(kind: str, stamps: str | None) -> SimulationConfig:
    """Model J with other sources."""
    tables = recipe_dict(RECIPES["j"])
    source = tables["source"]
    area = float(sersic_area(source["sersic_index"], source["effective_radius"]))  # arcsec^2
    flux = source.pop("brightness") * area / tables["image"]["pixel_scale"] ** 2
    tables["noise"]["zero_point"] = ZERO_POINT
    source["magnitude"] = ZERO_POINT - 2.5 * math.log10(flux)
    tables["source"] |= {"stamps": stamps, "stamp_scale": 0.02} if stamps else {"structure": KINDS[kind]}
    return parse_recipe(tables)


def measure(images: np.ndarray) -> tuple[StructuredFit, float, float]:
    """The fits, the median chi-square with a Sersic source, and seconds a lens."""
    start = time.process_time()
    structured = fit_structured(images)
    seconds = (time.process_time() - start) / len(images)
    sersic = fit(images, SmoothModel(free_centre=True, free_halo=True), score_test=False, pictures=False)
    return structured, float(np.median(sersic.chi_square)), seconds


def draw(path: str, images: np.ndarray, structured: StructuredFit) -> None:
    """Image, source, residual with the Sersic source and with the flexible one, a row a lens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sersic = fit(images, SmoothModel(free_centre=True, free_halo=True), score_test=False)
    figure, axes = plt.subplots(len(images), 4, figsize=(8, 2.1 * len(images)), layout="constrained")
    for row, image, source, before, after, log_b in zip(
        axes,
        images,
        structured.source,
        sersic.residual,
        structured.fit.residual,
        structured.log_bayes_factor,
        strict=True,
    ):
        for axis, picture in zip(row, (image, source, before, after), strict=True):
            residual = picture is before or picture is after
            light = {
                "cmap": "inferno",
                "vmin": min(0.0, np.quantile(picture, 0.01)),
                "vmax": np.quantile(picture, 0.999),
            }
            style = {"cmap": "RdBu_r", "vmin": -5, "vmax": 5} if residual else light
            axis.imshow(picture, **style)
            axis.set(xticks=[], yticks=[])
        row[3].set_xlabel(f"ln B = {log_b:.0f}")
    titles = "image", "source, as fitted", "residual, Sersic source", "residual, flexible source"
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="clumpy")
    parser.add_argument("--stamps", help="folder of pictures of galaxies, 0.02 arcsec a pixel")
    parser.add_argument("--count", type=int, default=20, help="lenses a class (20)")
    parser.add_argument("--picture", help="file for a picture of the first lens of each class")
    args = parser.parse_args()
    config, log_b, levels, shown = recipe(args.kind, args.stamps), {}, {}, []
    for name in CLASSES:
        images = simulate(config, name, range(args.count), SEED).astype(float)
        structured, sersic, seconds = measure(images)
        log_b[name], levels[name] = structured.log_bayes_factor, structured.fit.residual_significance
        shown.append((images[0], structured))
        low, middle, high = np.quantile(log_b[name], (0.1, 0.5, 0.9))
        print(
            f"{name:7} ln B at 10, 50, 90%: {low:8.1f} {middle:8.1f} {high:8.1f}; chi-square a pixel, medians: Sersic "
            f"{sersic:.2f}, flexible {np.median(structured.fit.chi_square):.3f} (expected of none: "
            f"{1 - np.median(structured.determined / structured.fit.pixels):.3f}); {seconds:.2f} s a lens",
            flush=True,
        )
    labels = np.repeat([name != "no" for name in CLASSES], args.count)
    auc, of_residual = (roc_auc_score(labels, np.concatenate(list(of.values()))) for of in (log_b, levels))
    print(f"AUC of `no` against the rest: ln B {auc:.4f}, residual {of_residual:.4f}, {args.count} lenses a class")
    for name in CLASSES:
        by_mass, by_residual = log_b[name] > ONE_PERCENT[1], levels[name] > ONE_PERCENT[0]
        both = (by_mass & by_residual).sum()
        print(f"{name:7} above the level of 1%: ln B {by_mass.sum()}, residual {by_residual.sum()}, both {both}")
    if args.picture:
        images = np.stack([image for image, _ in shown])
        draw(args.picture, images, fit_structured(images))


if __name__ == "__main__":
    main()

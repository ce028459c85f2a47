"""How fast and how sure is the fit of smooth lenses?

    PYTHONPATH=. python benchmarks/fit.py speed --count 600        # images/s on all cores
    PYTHONPATH=. python benchmarks/fit.py lenstronomy --count 6    # against scipy's least squares through lenstronomy
    PYTHONPATH=. python benchmarks/fit.py starts --count 100       # how many end in the best of 30 starts' optimum
    PYTHONPATH=. python benchmarks/fit.py starts --recipes wide    # the same of another recipe's lenses
    PYTHONPATH=. python benchmarks/fit.py moments                  # the coefficients of darklens/fit/start.py

`--count` is images a class and recipe.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import fit_data  # noqa: E402

from darklens.fit import SmoothModel, fit, fit_many  # noqa: E402
from darklens.fit import start as starts  # noqa: E402
from darklens.fit.assumptions import smooth_model, true_parameters  # noqa: E402
from darklens.fit.model import NAMES  # noqa: E402
from darklens.fit.window import middle  # noqa: E402
from darklens.machine import usable_cores  # noqa: E402
from darklens.simulation import draw, render  # noqa: E402
from darklens.simulation.recipes import RECIPES, changed, with_quirks  # noqa: E402

NEAR = np.array([0.03, 0.03, 0.03, 0.03, 0.03, 0.1, 0.1, 0.1])
SPREAD = dict(zip(NAMES, [*NEAR, 0.2, 0.03, 0.03, 0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], strict=True))


def sample(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images of all classes of both recipes, true parameters (B, 8), and the name of each group."""
    pairs = {f"{name} {c}": (r, c) for name, r in fit_data.RECIPES.items() for c in fit_data.CLASSES}
    images, truth = zip(*(fit_data.images(r, c, count, seed) for r, c in pairs.values()), strict=True)
    return np.concatenate(images), np.concatenate(truth), [name for name in pairs for _ in range(count)]


def speed(count: int) -> None:
    """Images a second on all cores, the start of the processes included, and the CPU time of one."""
    images, truth, _ = sample(count)
    near = truth + NEAR * np.random.default_rng(0).normal(size=truth.shape)
    fit(images[:4])
    for name, start in (("unknown", None), ("from perturbed truth", near)):
        options = {"score_test": start is None}  # images to train with are fitted without the score test
        few, cpu = slice(0, None, max(len(images) // 120, 1)), time.process_time()
        fit(images[few], start=None if start is None else start[few], **options)
        cpu = (time.process_time() - cpu) / len(images[few])
        begin = time.perf_counter()
        found = fit_many(images, start=start, **options)
        wall = time.perf_counter() - begin
        print(
            f"{name}: {len(images) / wall:.0f} images/s on {usable_cores()} cores ({1e3 * cpu:.1f} ms of a core each),"
            f" {found.good.mean():.2%} unflagged, steps {found.steps.mean():.1f} (at most {found.steps.max()})"
        )


def lenstronomy_model(size: int, scale: float, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """p (10,): eight parameters of the fit, amplitude, sky -> image, by lenstronomy, which repeats the edges."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    edge = 9  # pixels the PSF reaches
    corner = -(size + 2 * edge - 1) / 2 * scale
    where = {"transform_pix2angle": np.eye(2) * scale, "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(np.zeros([size + 2 * edge] * 2), background_rms=1, exposure_time=1, **where)
    psf = PSF(psf_type="GAUSSIAN", fwhm=sigma * math.sqrt(8 * math.log(2)), truncation=5)
    numerics = {"supersampling_factor": 2, "supersampling_convolution": False}
    lens, light = LensModel(["SIS", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"])
    model = ImageModel(data, psf, lens, light, kwargs_numerics=numerics)

    def image(p: np.ndarray) -> np.ndarray:
        eta, twice = math.hypot(p[6], p[7]), math.atan2(p[7], p[6])
        e = math.tanh(eta / 2)
        source = {"amp": p[8], "R_sersic": math.exp(p[5]), "n_sersic": 1.5, "center_x": p[3], "center_y": p[4]}
        source |= {"e1": e * math.cos(twice), "e2": e * math.sin(twice)}
        lenses = [{"theta_E": p[0], "center_x": 0, "center_y": 0}, {"gamma1": p[1], "gamma2": p[2]}]
        return model.image(lenses, [source])[::-1][edge:-edge, edge:-edge] / scale**2 + p[9]

    return image


def grid_search(solve: Callable) -> object:
    """The best fit from nothing: two Einstein radii by nine source positions, three steps each, then the best three."""
    starts = [
        [radius, 0, 0, 0.25 * x, 0.25 * y, math.log(0.5), 0.1, 0.1]
        for radius, x, y in itertools.product((1.1, 1.4), (-1, 0, 1), (-1, 0, 1))
    ]
    tried = sorted((solve(start, max_nfev=4) for start in starts), key=lambda found: found.cost)
    return min((solve(found.x[:8]) for found in tried[:3]), key=lambda found: found.cost)


def lenstronomy(count: int) -> None:
    """Time of the same fits by scipy.optimize.least_squares through lenstronomy: from one start and from none."""
    from scipy.optimize import least_squares

    images, truth, _ = sample(count)
    near = truth + NEAR * np.random.default_rng(0).normal(size=truth.shape)
    fit(images[:4])
    times = {}
    for name, start in (("unknown", None), ("from perturbed truth", near)):
        begin = time.perf_counter()
        found = fit(images, start=start)
        times[name] = [(time.perf_counter() - begin) / len(images)]
    model, excess = lenstronomy_model(106, 0.05, 0.085), []
    for i, image in enumerate(images):
        data, deviation = middle(torch.as_tensor(image.astype(float)), 106).numpy(), found.deviation[i]

        def solve(start: np.ndarray, data: np.ndarray = data, sigma: np.ndarray = deviation, **options: int) -> object:
            ends = data.max() / 10, np.median(data)
            scale = [*NEAR, 10, 1]
            return least_squares(
                lambda p: ((data - model(p)) / sigma).ravel(), [*start, *ends], x_scale=scale, **options
            )

        for name, search in (("unknown", grid_search), ("from perturbed truth", lambda s, i=i: s(near[i]))):
            begin = time.perf_counter()
            best = search(solve)
            times[name].append(time.perf_counter() - begin)
            excess.append(found.chi_square[i] * data.size - 2 * best.cost)
    for name, (ours, *theirs) in times.items():
        ratio = np.mean(theirs) / ours
        print(f"{name}: lenstronomy {np.mean(theirs):.2f} s an image, ours {1e3 * ours:.1f} ms: {ratio:.0f} times")
    print(f"chi-square, ours minus theirs: {np.min(excess):.3f} to {np.max(excess):.3f}")


def starts_agree(count: int, name: str, tries: int = 30) -> None:
    """How many images of a recipe end, from an unknown start, within delta chi-square 1 of the best of 30 starts."""
    recipe, model = RECIPES[name], smooth_model(RECIPES[name])
    drawn = [draw.draw(recipe, kind, 11, "test", range(count)) for kind in recipe.classes]
    images = np.concatenate([render.simulate(recipe, kind, range(count), 11, "test") for kind in recipe.classes])
    truth = np.concatenate([true_parameters(lenses, model) for lenses in drawn])
    spread = np.array([SPREAD[key] for key in model.names])
    rng, found = np.random.default_rng(5), fit_many(images, model)
    size = found.deviation.shape[-1]
    noise = np.ones(images.shape, dtype=np.float32)  # the same for all starts, else chi-squares can't be compared
    edge = (images.shape[1] - size) // 2
    noise[:, edge : edge + size, edge : edge + size] = found.deviation

    def chi_square(start: np.ndarray) -> np.ndarray:
        again = fit_many(images, model, start=start, noise=noise, score_test=False)
        return again.chi_square * again.pixels

    ours = chi_square(found.free)
    best = ours.copy()
    for i in range(tries):
        start = truth + rng.normal(size=truth.shape) * spread * (0, 1, 5)[min(i, 1 + i % 2)]
        if i % 3 == 2:  # anywhere
            start[:, 3:5] = rng.uniform(-0.6, 0.6, (len(images), 2))
            start[:, 0], start[:, 1:3] = truth[:, 0] * rng.uniform(0.8, 1.2, len(images)), 0
        best = np.minimum(best, chi_square(start))
    excess = ours - best
    for kind, here in zip(recipe.classes, excess.reshape(-1, count), strict=True):  # (K * count,) -> (K, count)
        print(f"{name} {kind}: {(here <= 1).sum()} of {len(here)} within 1 of the best of {tries} starts,", end=" ")
        print(f"worst {here.max():.3f}")
    print(f"{name}: {(excess <= 1).sum()} of {len(excess)}, of those without a flag", end=" ")
    print(f"{(excess[found.good] <= 1).sum()} of {found.good.sum()}", flush=True)


def moments(count: int) -> None:
    """Print the coefficients of the start, from images of F, of J, and of J with any axis and radius."""
    wide = with_quirks(
        changed(fit_data.J, {"source.effective_radius": [0.25, 0.8]}),
        {"random_shear_axis": True, "random_source_axis": True},
    )
    pairs = [(r, c) for r in (fit_data.F, fit_data.J, wide) for c in fit_data.CLASSES]
    images, truth = zip(*(fit_data.images(r, c, count, 7) for r, c in pairs), strict=True)
    images = middle(torch.as_tensor(np.concatenate(images).astype(float)), 102)
    bins = images.reshape(-1, 34, 3, 34, 3).mean((2, 4))  # (B, 102, 102) -> (B, 34, 34)
    truth = torch.as_tensor(np.concatenate(truth))
    for name, values in zip(("RADIUS", "SOURCE", "SHEAR"), starts.regress(bins, truth, 0.15), strict=True):
        print(name, "=", tuple(values.round(3).tolist()))
    error = (starts.from_moments(bins, 0.15, SmoothModel())[:, :5] - truth[:, :5]).square().mean(0).sqrt()
    print("rms error with those in the file:", error.numpy().round(3).tolist())


def main() -> None:
    """Run what is asked for."""
    tasks = {
        "speed": (speed, 100),
        "lenstronomy": (lenstronomy, 2),
        "starts": (starts_agree, 50),
        "moments": (moments, 250),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--count", type=int, help="images a class and recipe")
    parser.add_argument("--recipes", nargs="+", default=["f", "j"], help="of `starts`")
    args = parser.parse_args()
    task, count = tasks[args.task]
    if task is not starts_agree:
        task(args.count or count)
        return
    for name in args.recipes:
        starts_agree(args.count or count, name)


if __name__ == "__main__":
    main()

"""What do lens light, PSF and noise cost on a survey's images? For each change of the recipe alone:

    python benchmarks/survey_costs.py --recipe euclid --signal 100
    python benchmarks/survey_costs.py --recipe euclid --views residual
    python benchmarks/survey_costs.py --recipe my_survey.toml --views image residual --changes "no lens light"

`--signal N` trains nothing: of N lenses a class it prints how much chi-square the best smooth lens leaves of the image
without noise, in units of the noise: what an ideal observer has to tell substructure by. Otherwise the recipe is
simulated with the change, a compact C4 network is trained on the images with the program's own commands, and tested on
images that chose nothing; in brackets 95% bootstrap intervals over the test images, one seed. Noise is halved by four
times the exposures. What is in --out is not done again.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from darklens.commands.run import main as program
from darklens.fit import fit_many
from darklens.fit.assumptions import smooth_model, true_parameters
from darklens.simulation.draw import draw
from darklens.simulation.recipes import SimulationConfig, changed, load_recipe, recipe_dict
from darklens.simulation.render import render, simulate
from darklens.simulation.writer import write_dataset

GAUSSIAN = {"psf.kind": "gaussian", "psf.beta": None}
SEEN = 25  # chi-square: five standard deviations, of one known pattern


def scaled(prior: object, factor: float) -> object:
    """A prior's plain value, [low, high] or {normal = [mean, sd]}, with all its numbers times a factor."""
    if isinstance(prior, dict):
        return {name: scaled(value, factor) for name, value in prior.items()}
    return [scaled(value, factor) for value in prior] if isinstance(prior, list) else prior * factor


def less_noise(raw: dict) -> dict:
    """Keys of a recipe (plain values) with which the noise is half of what it was."""
    noise = {"exposure_time": 1.0, "exposures": 1} | raw["noise"]
    factors = {"exposure_time": 4, "exposures": 4, "background_rms": 0.5, "peak_snr": 2}
    return {f"noise.{key}": scaled(noise[key], factor) for key, factor in factors.items() if key in noise}


def changes(recipe: SimulationConfig) -> dict[str, dict]:
    """Name of each change -> keys for `changed`."""
    raw, found = recipe_dict(recipe), {"as it is": {}}
    if recipe.lens_light is not None:
        found["no lens light"] = {"lens_light": None}
    if raw["psf"]["kind"] == "moffat":
        found["Gaussian PSF of the same width"] = GAUSSIAN
    if "fwhm" in raw["psf"]:
        found["PSF half as wide"] = {"psf.fwhm": scaled(raw["psf"]["fwhm"], 0.5)}
    found["noise halved"] = less_noise(raw)
    found["all of these"] = {key: value for change in found.values() for key, value in change.items()}
    return found


def signal(recipe: SimulationConfig, name: str, count: int, seed: int) -> np.ndarray:
    """(count,) chi-square that the best smooth lens leaves of noise-free images of a class."""
    model, lenses = smooth_model(recipe), draw(recipe, name, seed, "test", range(count))
    start = true_parameters(lenses, model)
    noisy = simulate(recipe, name, range(count), seed, "test").astype(float)
    deviation = fit_many(noisy, model, start=start, workers=1).deviation
    clean = fit_many(
        render(lenses, recipe, dtype=torch.float64).numpy(), model, start=start, noise=deviation, workers=1
    )
    return clean.chi_square * clean.pixels


def signal_row(name: str, found: dict[str, np.ndarray]) -> str:
    """One line of the table of signals: medians, and the share above SEEN."""
    cells = [f"{np.median(values):.1f} | {100 * np.mean(values > SEEN):.0f}" for values in found.values()]
    return f"| {name} | {' | '.join(cells)} |"


def print_signals(recipe: SimulationConfig, names: Iterable[str], args: argparse.Namespace) -> None:
    """The table of `--signal`."""
    classes, todo = sorted(set(recipe.classes) - {"no"}), changes(recipe)
    titles = " | ".join(f"{name}: median | above {SEEN}, %" for name in classes)
    print(f"| {recipe.name} | {titles} |\n|---{'|---' * 2 * len(classes)}|")
    for name in names:
        other = changed(recipe, todo[name])
        found = {kind: signal(other, kind, args.signal, args.seed) for kind in classes}
        print(signal_row(name, found), flush=True)


def measure(recipe: SimulationConfig, folder: Path, view: str, args: argparse.Namespace) -> dict:
    """What a network of this view reaches on the recipe's test images: its `metrics.json`."""
    counts = {"train": args.train, "val": args.val, "test": args.test}
    write_dataset(folder / "images", recipe, counts, seed=args.seed, workers=1, quiet=True)
    command = ["--data_dir", folder / "images", "--results_dir", folder / view, "--view", view, "--seed", args.seed]
    command += ["--epochs", args.epochs, "--arch", "compact", "--recipe", "fast"]
    done = list((folder / view).glob("*/*/metrics.json"))
    if not done and program([*map(str, command), "--num_workers", "0", "--use_cuda", "False", "--quiet"]):
        raise SystemExit(f"{folder}: not trained")
    (path,) = (folder / view).glob("*/*/metrics.json")
    return json.loads(path.read_text())


def row(name: str, view: str, found: dict) -> str:
    """One line of the table."""
    low, high = (100 * limit for limit in found["accuracy_interval"])
    macro, each = found["auc"]["macro"], found["auc"]["per_class"].values()
    return (
        f"| {name} | {view} | {100 * found['accuracy']:.1f} [{low:.1f}, {high:.1f}] "
        f"| {macro['value']:.3f} [{macro['interval'][0]:.3f}, {macro['interval'][1]:.3f}] "
        f"| {' / '.join(format(one['value'], '.3f') for one in each)} |"
    )


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="euclid", help="a recipe's name, or a .toml file")
    parser.add_argument("--changes", nargs="+", metavar="CHANGE", help="some of them (all)")
    parser.add_argument("--signal", type=int, metavar="N", help="the signal in N lenses a class; no training")
    parser.add_argument("--views", nargs="+", default=["image"], choices=("image", "residual", "both"))
    parser.add_argument("--train", type=int, default=1000, help="training images a class (1000)")
    parser.add_argument("--val", type=int, default=100, help="images a class that choose the epoch (100)")
    parser.add_argument("--test", type=int, default=500, help="test images a class (500)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("survey_costs"), help="folder of images and runs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe)
    todo, rows = changes(recipe), []
    if args.signal:
        return print_signals(recipe, args.changes or todo, args)
    for name in args.changes or todo:
        folder = args.out / recipe.name / name.replace(" ", "_")
        for view in args.views:
            rows.append(row(name, view, measure(changed(recipe, todo[name]), folder, view, args)))
            print(rows[-1], flush=True)
    print(f"\n{recipe.name}, {args.train} images a class, {args.epochs} passes, {args.test} test images a class\n")
    classes = " / ".join(sorted(recipe.classes))
    print(f"| change | view | accuracy % | macro AUC | AUC {classes} |\n|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()

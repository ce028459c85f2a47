"""What do lens light, PSF and noise cost on a survey's images? One network a change of the recipe.

    python benchmarks/survey_costs.py --recipe euclid --views residual
    python benchmarks/survey_costs.py --recipe my_survey.toml --views image residual --changes "no lens light"

For each change: the recipe is simulated with it, a compact C4 network is trained on the images with the program's own
commands, and tested on images that chose nothing; in brackets 95% bootstrap intervals over the test images, one seed.
Noise is halved by four times the exposures. What is in --out is not done again. The fit of the residual view knows no
lens light: with it an image takes half a second of a core.
"""

import argparse
import json
from pathlib import Path

import torch

from darklens.commands.run import main as program
from darklens.lenses.recipes import Recipe, changed, load_recipe, recipe_dict
from darklens.lenses.writer import write_dataset

GAUSSIAN = {"psf.kind": "gaussian", "psf.beta": None}


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


def changes(recipe: Recipe) -> dict[str, dict]:
    """Name of each change -> keys for `changed`: the lens light is taken away first, and away in what follows."""
    raw, found = recipe_dict(recipe), {"as it is": {}}
    bare, less = {"lens_light": None}, "no lens light"
    found[less] = bare
    if raw["psf"]["kind"] == "moffat":
        found[f"{less}, Gaussian PSF of the same width"] = bare | GAUSSIAN
    if "fwhm" in raw["psf"]:
        found[f"{less}, PSF half as wide"] = bare | {"psf.fwhm": scaled(raw["psf"]["fwhm"], 0.5)}
    found[f"{less}, noise halved"] = bare | less_noise(raw)
    found["all of these"] = {key: value for change in found.values() for key, value in change.items()}
    return found


def measure(recipe: Recipe, folder: Path, view: str, args: argparse.Namespace) -> dict:
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

"""Are wrong answers flagged where something happened to the images? Trains the detectors, and prints the table.

    PYTHONPATH=. python benchmarks/faults.py collect compact-f --model f --count 1200 --output train.npz
    PYTHONPATH=. python benchmarks/faults.py collect compact-f --model f --clean 500 --output clean.npz
    PYTHONPATH=. python benchmarks/faults.py train compact-f train.npz clean.npz --output compact-f.pt
    PYTHONPATH=. python benchmarks/faults.py collect compact-f --model f --tested 30 --output tested.npz
    PYTHONPATH=. python benchmarks/faults.py table compact-f tested.npz                    # that of docs/residual.md
    PYTHONPATH=. python benchmarks/faults.py kinds train.npz clean.npz                     # each family left out

`collect` simulates lenses, changes them as darklens/simulation/faults.toml says, or (`--tested`) so many by each line
of faults.toml beside this file, or not at all, and keeps what the network says of them. `train` fits the detector of
outliers and writes the network with it. `table`: what Predict would flag. Intervals are Wilson's, 95%.
"""

import argparse
import math
import zlib
from pathlib import Path

import numpy as np

import darklens
from darklens.classifier.changed_lenses import observe, training_plan
from darklens.classifier.exposure import Exposure, fit_detector, fit_trees, threshold
from darklens.classifier.saved import save_model
from darklens.simulation.faults import Change, read_changes
from darklens.simulation.recipes import load_recipe

SEEDS = {"train": 777_001, "tested": 777_002, "clean": 777_004}  # of no data set
TESTED = Path(__file__).with_name("faults.toml")


def interval(hits: int, count: int) -> str:
    """hits of count in percent, with Wilson's interval at 95% (1927, J. Am. Stat. Assoc. 22, 209)."""
    if not count:
        return "-"
    z, p = 1.96, hits / count
    middle, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return f"{100 * p:.0f} [{100 * low:.0f}, {100 * high:.0f}] of {count}"


def save(exposure: Exposure, path: Path) -> None:
    figures = {f"figure_{name}": values for name, values in exposure.figures.items()}
    kinds = exposure.kinds.astype(str)
    np.savez_compressed(path, wrong=exposure.wrong, flagged=exposure.flagged, kinds=kinds, **figures)


def load(path: Path) -> Exposure:
    data = np.load(path)
    figures = {name.removeprefix("figure_"): data[name] for name in data.files if name.startswith("figure_")}
    return Exposure(figures, data["wrong"], data["flagged"], data["kinds"])


def collect(args) -> None:
    classifier, recipe = darklens.load(args.network), load_recipe(args.model)
    seed = SEEDS["clean" if args.clean else "tested" if args.tested else "train"]
    rng = np.random.default_rng([seed, args.first, zlib.crc32(args.model.encode())])
    if args.clean:
        plan: list[Change | None] = [None] * args.clean
    elif args.tested:
        plan = [change for change in read_changes(TESTED).values() for _ in range(args.tested)]
    else:
        changes = {name: one for name, one in read_changes().items() if name in (args.only or [name])}
        plan = training_plan(changes, args.count, rng)
    save(observe(classifier, recipe, plan, first=args.first, seed=seed, quiet=False), args.output)


def train(args) -> None:
    classifier = darklens.load(args.network)
    classifier.outliers = fit_detector(load(args.exposure), load(args.clean))
    save_model(classifier, args.output)


def kinds(args) -> None:
    """Detectors that have not seen a family of changes, on the images of that family, threshold on clean images."""
    exposure, clean, changes = load(args.exposure), load(args.clean), read_changes()
    families = np.array([changes[kind].family if kind else "" for kind in exposure.kinds])
    unused = np.arange(len(exposure)) % 5 == 0  # clean ones to check the threshold with
    print("| left out | of the wrong ones flagged, % | of the right ones, % |\n|---|---|---|")
    totals = np.zeros(4, dtype=int)
    for family in dict.fromkeys(change.family for change in changes.values()):
        trees = fit_trees(exposure, (families != family) & ~(unused & (families == "")))
        limit = threshold(trees.logits(clean.matrix), clean.flagged)
        rows = families == family
        caught = (trees.logits(exposure.matrix) > limit) | exposure.flagged
        numbers = [int(part.sum()) for part in (caught[rows & exposure.wrong], caught[rows & ~exposure.wrong])]
        counts = int((rows & exposure.wrong).sum()), int((rows & ~exposure.wrong).sum())
        print(f"| {family} | {interval(numbers[0], counts[0])} | {interval(numbers[1], counts[1])} |", flush=True)
        totals += [numbers[0], counts[0], numbers[1], counts[1]]
    print(f"| all | {interval(*totals[:2])} | {interval(*totals[2:])} |")


def table(args) -> None:
    detector, exposure = darklens.load(args.network).outliers, load(args.exposure)
    if detector is None:
        raise SystemExit(f"{args.network} has no detector of outliers")
    flagged = exposure.flagged | (detector.score(exposure.figures) > 1)
    print("| change | accuracy % | of the wrong ones flagged, % | of the right ones, % |\n|---|---|---|---|")
    for kind in dict.fromkeys(exposure.kinds):
        rows = exposure.kinds == kind
        cells = [rows & exposure.wrong, rows & ~exposure.wrong]
        texts = [interval(int(flagged[part].sum()), int(part.sum())) for part in cells]
        accuracy = 100 * (1 - exposure.wrong[rows].mean())
        print(f"| {kind or 'none'} | {accuracy:.1f} | {' | '.join(texts)} |")
    print(f"all flagged: {interval(int(flagged.sum()), len(flagged))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("collect", help="what a network says of changed lenses")
    command.add_argument("network")
    command.add_argument("--model", default="f", help="recipe of the lenses (f)")
    command.add_argument("--count", type=int, default=1200, help="images to train on (1200)")
    command.add_argument("--only", nargs="+", metavar="NAME", help="with these of the changes")
    command.add_argument("--clean", type=int, default=0, metavar="COUNT", help="so many images without changes instead")
    command.add_argument("--tested", type=int, default=0, metavar="COUNT", help="so many of each change that tests")
    command.add_argument("--first", type=int, default=0, help="number of the first lens (0)")
    command.add_argument("--output", type=Path, required=True, help=".npz")
    command = commands.add_parser("table", help="what Predict flags of images collected with --tested or --clean")
    command.add_argument("network")
    command.add_argument("exposure", type=Path)
    command = commands.add_parser("train", help="write a network with a detector of outliers")
    command.add_argument("network")
    command.add_argument("exposure", type=Path)
    command.add_argument("clean", type=Path)
    command.add_argument("--output", type=Path, required=True, help="the checkpoint")
    command = commands.add_parser("kinds", help="leave each family of changes out in turn")
    command.add_argument("exposure", type=Path)
    command.add_argument("clean", type=Path)
    args = parser.parse_args()
    {"table": table, "collect": collect, "train": train, "kinds": kinds}[args.command](args)


if __name__ == "__main__":
    main()

"""Which head, group, recipe or width learns fastest? A small deterministic study of the compact network.

  python simulate.py --model f --out images_f --train 4000 --val 700 --seed 11
  python benchmarks/study.py --data_dir images_f --vary head=flatten,pooled,orbit --seeds 0 1 2 --epochs 3

  python benchmarks/study.py --data_dir images_f --vary cnn=False,True images=3000,12000 steps=750    data efficiency

Every combination of the varied settings is trained with every seed and measured on `val`, which has nothing to do
with the test images of any other figure. One line of JSON a run goes to --out; runs found there are not repeated.
Prints a table of mean and spread (standard deviation over the seeds) of the last epoch's macro AUC and accuracy.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from darklens.classifier import saved
from darklens.data import batches as data_batches
from darklens.data import folder as data_folder
from darklens.data import transforms
from darklens.data.source import Files
from darklens.metrics import summary
from darklens.training import evaluate, muon, recipes, trainer

NETWORK = {"sym_group": "Circular", "N": 4, "arch": "compact", "head": "orbit"}


def run_one(data_dir: str, setting: dict, seed: int, precision: str) -> dict:
    """Train one network; its figures after the last epoch."""
    import torch

    data = data_folder.scan(data_dir)
    train = first_images(data.splits["train"], setting.get("images"))
    changes = {field.name: setting.get(field.name) for field in fields(recipes.TrainingRecipe)}
    cnn = bool(setting.get("cnn"))
    recipe = recipes.choose_recipe("fast", cnn, **changes)
    if "steps" in setting:
        recipe = replace(recipe, epochs=max(1, round(setting["steps"] * recipe.batch_size / len(train))))
    data = replace(data, splits=data.splits | {"train": train})
    preprocess = transforms.choose_preprocess(data, setting.get("crop"))
    preprocess = replace(preprocess, stretch=setting.get("stretch", preprocess.stretch))
    torch.manual_seed(seed)
    config = {} if cnn else {key: setting.get(key, value) for key, value in NETWORK.items()}
    classifier = saved.new_classifier(data, config, cnn=cnn, preprocess=preprocess)
    options = {"seed": seed, "shift": recipe.shift, "progress": False}
    batches = data_batches.open_batches(data, ("train", "val"), preprocess, recipe.batch_size, **options)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer.Trainer(
            classifier,
            batches["train"],
            batches["val"],
            recipe,
            Path(folder),
            precision=precision,
            quiet=True,
            save_every=1e9,
        )
        if not setting.get("irreps", True):  # Muon without them
            run.optimiser.ways = dict.fromkeys(run.optimiser.ways, muon.as_matrix)
        run.fit()
        logits = evaluate.evaluate(classifier.network, batches["val"], precision)
    found = summary.evaluate(logits, batches["val"].labels, classifier.classes, bootstrap=0)
    return {
        "auc": found["auc"]["macro"]["value"],
        "accuracy": found["accuracy"],
        "log_loss": found["log_loss"],
        "parameters": sum(p.numel() for p in classifier.network.parameters()),
        "images_per_second": run.timing()["training_images_per_second"],
        "curve": run.curves["test_accuracy"],
    }


def first_images(split, images: int | None):
    """A split with that many of its images (None: all), as many of each class, the first ones."""
    import numpy as np

    if images is None:
        return split
    kinds = np.unique(split.labels)
    kept = np.concatenate([np.flatnonzero(split.labels == kind)[: images // len(kinds)] for kind in kinds])
    names = [split.images.name(i) for i in kept]
    return replace(split, images=Files(split.images.folder, names, split.images.shape), labels=split.labels[kept])


def finished(out: Path) -> list[dict]:
    """The runs that a file of one line of JSON a run holds."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def has(runs: list[dict], key: dict) -> bool:
    return any(all(run.get(k) == v for k, v in key.items()) for run in runs)


def keep(out: Path, run: dict) -> None:
    with out.open("a") as file:
        file.write(json.dumps(run) + "\n")


def number(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"True": True, "False": False}.get(text, text)


def settings(varied: list[str]) -> list[dict]:
    """["head=orbit,pooled", "N=4,8"] -> the four combinations."""
    axes = [(text.split("=")[0], [number(v) for v in text.split("=")[1].split(",")]) for text in varied]
    return [
        dict(zip([name for name, _ in axes], values, strict=True))
        for values in itertools.product(*[v for _, v in axes])
    ]


def table(runs: list[dict]) -> str:
    rows = ["| setting | seeds | macro AUC | accuracy % | images/s |", "|---|---|---|---|---|"]
    for setting in dict.fromkeys(json.dumps(run["setting"], sort_keys=True) for run in runs):
        mine = [run for run in runs if json.dumps(run["setting"], sort_keys=True) == setting]
        spread = {
            key: statistics.stdev([r[key] for r in mine]) if len(mine) > 1 else 0.0 for key in ("auc", "accuracy")
        }
        mean = {key: statistics.mean(r[key] for r in mine) for key in ("auc", "accuracy", "images_per_second")}
        label = ", ".join(f"{k} {v}" for k, v in json.loads(setting).items())
        rows.append(
            f"| {label} | {len(mine)} | {mean['auc']:.4f} ± {spread['auc']:.4f} | {100 * mean['accuracy']:.1f} ± "
            f"{100 * spread['accuracy']:.1f} | {mean['images_per_second']:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--vary", nargs="+", default=["head=flatten,pooled,rings,orbit,lifted"], metavar="NAME=A,B")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--out", default="study.jsonl")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads or torch.get_num_threads())
    out = Path(args.out)
    runs = finished(out)
    for seed, setting in itertools.product(args.seeds, settings(args.vary)):
        key = {
            "setting": setting,
            "seed": seed,
            "epochs": args.epochs,
            "data": args.data_dir,
            "precision": args.precision,
        }
        if has(runs, key):
            continue
        print(key, flush=True)
        found = run_one(args.data_dir, {**setting, "epochs": args.epochs}, seed, args.precision)
        runs.append({**key, **found})
        keep(out, runs[-1])
        print(json.dumps(found), flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()

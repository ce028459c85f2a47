"""AUC against images and against minutes: how fast does each network learn?

  taskset -c 0 python benchmarks/learning.py --threads 1 --networks C4 D4 C8 D8 ResNet-18     one core, all of it
  python benchmarks/learning.py --plot docs/learning_curves.png

Trains the compact networks and the baseline on endless simulated lenses (`--simulate`), with the fast recipe, and
measures the macro AUC on held-out images of another seed. The minutes are those of training with its simulation, not
of measuring. One line of JSON a run goes to --out; runs found there are not repeated.
"""

import argparse
import tempfile
import time
from pathlib import Path

from study import finished, has, keep

from darklens import machine
from darklens.classifier import saved
from darklens.data import batches, transforms
from darklens.data import folder as data_folder
from darklens.data.endless import Endless
from darklens.metrics import summary
from darklens.training import recipes, trainer

NETWORKS = ("C4", "D4", "C8", "D8", "ResNet-18")


def train(name: str, seed: int, args: argparse.Namespace) -> dict:
    """One network's points: [images, seconds, macro AUC] after every share of the images."""
    import torch

    class Timed(trainer.Trainer):
        """Notes down what has been learnt, and when."""

        seconds_spent, points = 0.0, ()

        def _train_epoch(self) -> None:
            start = time.perf_counter()
            super()._train_epoch()
            self.seconds_spent += time.perf_counter() - start

        def evaluate_val(self):
            logits = super().evaluate_val()
            found = summary.evaluate(logits, self.val.labels, self.classifier.classes, bootstrap=0)
            images, auc = (self.epoch + 1) * len(self.train.labels), found["auc"]["macro"]["value"]
            self.points += ([images, round(self.seconds_spent, 1), auc],)
            print(name, seed, *self.points[-1], flush=True)
            return logits

    cnn, groups = name == "ResNet-18", {"C": "Circular", "D": "Dihyderal"}
    recipe = recipes.choose_recipe("fast", cnn, epochs=args.points)
    data, device = data_folder.scan(args.data_dir), machine.choose_device()
    preprocess = transforms.choose_preprocess(data)
    torch.manual_seed(seed)
    config = {} if cnn else {"sym_group": groups[name[0]], "N": int(name[1:]), "arch": args.arch}
    classifier = saved.new_classifier(data, config, device, cnn, preprocess)
    options = {"seed": seed, "shift": recipe.shift}
    some = args.images // args.points
    endless = Endless(args.model, some, data, preprocess, recipe.batch_size, device, workers=args.workers, **options)
    val = batches.open_batches(data, ("val",), preprocess, 64, device, progress=False)["val"]
    precision = machine.choose_precision(None, device)
    with tempfile.TemporaryDirectory() as folder:
        parts = classifier, endless, val, recipe, Path(folder), lambda line: None, precision
        run = Timed(*parts, quiet=True, save_every=1e9)
        run.fit()
    waited = 1 - run.seconds / run.seconds_spent  # for images, of the time in which it trained
    return {"points": run.points, "images_per_second": args.images / run.seconds_spent, "waited": waited}


def plot(runs: list[dict], path: str) -> None:
    """Two panels, one line a network: against thousands of images, and against minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for number, name in enumerate(dict.fromkeys(run["network"] for run in runs)):
        for run in (run for run in runs if run["network"] == name):
            images, seconds, auc = zip(*run["points"], strict=True)
            label = name if run["seed"] == min(r["seed"] for r in runs if r["network"] == name) else None
            style = {"marker": "o", "markersize": 3, "color": f"C{number}", "label": label}
            panels[0].plot([n / 1000 for n in images], auc, **style)
            panels[1].plot([s / 60 for s in seconds], auc, **style)
    panels[0].set(xlabel="training images, thousands", ylabel="macro AUC, held-out images")
    cores = "one core" if runs[0]["threads"] == 1 else f"{runs[0]['threads']} cores"
    panels[1].set(xlabel=f"minutes of training on {cores}, simulation included")
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", choices=("f", "j"), default="f")
    parser.add_argument("--data_dir", default="simulated_f", help="held-out images: its val split")
    parser.add_argument("--arch", choices=("compact", "full"), default="compact")
    parser.add_argument("--images", type=int, default=24000, help="to train on")
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    parser.add_argument("--out", default="learning.jsonl")
    parser.add_argument("--plot", metavar="FILE", help="draw all runs in --out")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    out = Path(args.out)
    runs = finished(out)
    for seed in args.seeds:
        for name in args.networks:
            key = {"network": name, "seed": seed, "images": args.images, "model": args.model, "threads": args.threads}
            if has(runs, key):
                continue
            runs.append(key | train(name, seed, args))
            print(f"{name}: {runs[-1]['images_per_second']:.0f} images/s, {runs[-1]['waited']:.0%} of the time waiting")
            keep(out, runs[-1])
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()

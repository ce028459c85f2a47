"""Train and test classifiers of strong-lens images: which dark matter bent this light?

  python main.py --demo                                                    simulate, train, test: 10 minutes
  python main.py --data_dir images_j --sym_group Dihyderal --N 8           train
  python main.py --mode Test --test_time 2026-11-22-10-30-00               test what was trained then
  python main.py --resume latest                                           go on after an interruption

Data: DATA_DIR/train/CLASS/*.npy and DATA_DIR/val/CLASS/*.npy, one square image a file; `simulate.py` makes them.
Results: DATASET_GROUP_ORDER/TIMESTAMP/ with log, curves, pictures, metrics.json and best-model-parameters.pt.
"""

import json
import os
import platform
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import flags  # everything heavy is imported once the command line is known to be right

PACKAGES = "torch", "torchvision", "e2cnn", "numpy", "scikit-learn", "matplotlib"


class UsageError(Exception):
    """A command line that is wrong in a way only the files could tell."""


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    settings, given, parser = flags.parse(__doc__, argv)
    try:
        (test if settings.mode == "Test" else train)(settings, given)
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _explain(error, settings)
    return 0


def _explain(error: Exception, settings: Namespace) -> int:
    """One line for an error that a user can mend, the traceback for one of ours."""
    import torch

    import trainer

    if isinstance(error, torch.OutOfMemoryError):
        error = trainer.TrainingError(
            f"the GPU's memory is full at batch size {settings.batch_size}: lower --batch_size, or take --arch compact"
        )
    expected = "DataError", "DatasetError", "CheckpointError", "ResultsError", "TrainingError", "Interrupted"
    if settings.debug or type(error).__name__ not in expected:
        raise error
    print(f"error: {error}", file=sys.stderr)
    return getattr(error, "status", 1)


# --- train ------------------------------------------------------------------------------------------------


def train(settings: Namespace, given: set[str]) -> None:
    """Train a network, or go on training one, and report its best epoch."""
    import torch

    import results
    import trainer

    folder = record = None
    if settings.resume:
        folder, settings, record = _resumed(settings, given)
    settings.recipe = _recipe(settings)
    if settings.demo:
        _simulate(settings)
    torch.manual_seed(settings.seed)
    device = choose_device(settings)
    data, batches = open_data(settings, device, ("train", "val", "test"))
    classifier = new_classifier(settings, data, device)
    folder = folder or _new_folder(settings)
    record = _same_data(record, data) if record else _record(settings, data, classifier, device)
    with results.Log(folder / f"log_{folder.name}.txt") as log:
        _begin(folder, log.write, record, data, batches)
        classifier.record = record
        options = {"precision": record["precision"], "compiled": settings.compile, "quiet": settings.quiet}
        run = trainer.Trainer(
            classifier, batches["train"], batches["val"], settings.recipe, folder, log.write, **options
        )
        if settings.resume:
            _go_on(run, log.write)
        try:
            run.fit()
        except trainer.Interrupted:
            log.write(f"stopped; go on with: python main.py --resume {folder.name}")
            raise
        except trainer.TrainingError as error:
            log.write(f"stopped: {error}")
            raise
        _finish(run, batches, log.write)


def _recipe(settings: Namespace):
    """The chosen recipe, changed where a flag was given by hand."""
    from trainer import RECIPES

    fields = ("epochs", "batch_size", "lr")
    changes = {name: getattr(settings, name) for name in fields if getattr(settings, name, None) is not None}
    recipe = replace(RECIPES[settings.recipe], **changes)
    settings.batch_size = recipe.batch_size
    settings.recipe_name = settings.recipe
    return recipe


def _simulate(settings: Namespace) -> None:
    """The demo's data set; kept and used again."""
    import simulate

    print(f"simulating Model F lenses into {settings.data_dir} (kept and used again)", flush=True)
    simulate.write_dataset(settings.data_dir, simulate.RECIPES["f"], flags.DEMO_IMAGES, seed=0, quiet=settings.quiet)


def open_data(settings: Namespace, device, splits: tuple[str, ...], preprocess=None):
    """The contents of the data folder, and the batches of those of its splits that are asked for."""
    import dataset

    data = dataset.scan(settings.data_dir)
    preprocess = preprocess or dataset.default_preprocess(data.size)
    options = {"device": device, "workers": settings.num_workers, "progress": not settings.quiet, "seed": settings.seed}
    shift = getattr(settings.recipe, "shift", None)
    return data, {
        name: dataset.Batches(
            split, data, preprocess, settings.batch_size, train=name == "train", shift=shift, **options
        )
        for name, split in data.splits.items()
        if name in splits
    }


def new_classifier(settings: Namespace, data, device):
    """An untrained network that fits the flags and the images."""
    import torch

    from classifier import NETWORKS, Classifier
    from dataset import default_preprocess

    preprocess = default_preprocess(data.size)
    config = {"channels": data.channels, "classes": len(data.classes), "size": preprocess.crop}
    if not settings.use_CNN:
        config |= {key: getattr(settings, key) for key in ("sym_group", "N", "arch", "head")}
    try:
        network = NETWORKS["resnet" if settings.use_CNN else "equivariant"](config)
    except ValueError as error:
        raise UsageError(f"{error} (images of {data.size} x {data.size} pixels)") from error
    return Classifier(network.to(device, memory_format=torch.channels_last), list(data.classes), preprocess)


def _new_folder(settings: Namespace) -> Path:
    import results

    name = results.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    return results.make_run_folder(settings.results_dir, name)


def _record(settings: Namespace, data, classifier, device) -> dict:
    """All that is needed to understand and repeat the run: `run.json`, and part of every checkpoint."""
    import torch

    arguments = {key: value for key, value in vars(settings).items() if key != "recipe_name"}
    arguments["recipe"] = settings.recipe_name
    arguments["head"] = classifier.network.config.get("head")
    return {
        "arguments": arguments,
        "recipe": asdict(settings.recipe),
        "network": {"kind": classifier.kind, **classifier.network.config},
        "classes": classifier.classes,
        "preprocess": classifier.preprocess.to_dict(),
        "images": {name: len(split.paths) for name, split in data.splits.items()},
        "seed": settings.seed,
        "precision": choose_precision(settings, device),
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _begin(folder: Path, log: Callable[[str], None], record: dict, data, batches: dict) -> None:
    """Write down what this run is, before anything is trained."""
    import results

    if not (folder / "run.json").exists():
        results.save_json(folder / "run.json", record)
        shutil.copyfile(__file__, folder / "code.py")
    network, counts = record["network"], ", ".join(f"{n} {name}" for name, n in record["images"].items())
    log(f"{data.root}: {counts} images of {data.size} x {data.size}, classes {', '.join(data.classes)}")
    if data.skipped:
        log(f"{data.skipped} stray files and folders skipped")
    if "test" not in batches:
        log("no test split: val both picks the best epoch and is what is reported, as in the original")
    log("network: " + ", ".join(f"{key} {value}" for key, value in network.items()))
    log(f"recipe: {', '.join(f'{key} {value}' for key, value in record['recipe'].items())}")
    log(f"seed {record['seed']}, {record['precision']}, {record['device']}, {record['threads']} threads")
    for warning in (line for split in batches.values() for line in split.warnings):
        log(f"warning: {warning}")


def _finish(run, batches: dict, log: Callable[[str], None]) -> None:
    """Report the best epoch: on val from the logits it had then, on a test split with one pass over it."""
    import report
    import trainer
    from classifier import load_model

    best = load_model(run.folder / "best-model-parameters.pt", run.train.device)
    logits, split = run.best["logits"].numpy(), batches["val"].split
    if "test" in batches:
        logits = trainer.evaluate(best.network, batches["test"], run.precision)
        split = batches["test"].split
    found = report.write_report(run.folder, best, logits, split, _details(best.record, run.timing()))
    log(report.table(found))
    log(f"results: {run.folder}")


def _details(record: dict, timing: dict) -> dict:
    """What `metrics.json` says besides the figures."""
    kept = ("arguments", "network", "recipe", "seed", "precision", "device", "threads", "versions")
    return {key: record[key] for key in kept if key in record} | {"timing": timing}


# --- go on ------------------------------------------------------------------------------------------------


def _resumed(settings: Namespace, given: set[str]) -> tuple[Path, Namespace, dict]:
    """The run to go on with, the settings it was started with, and its record."""
    import results

    try:
        folder = results.find_run(settings.results_dir, settings.resume)
    except results.ResultsError as error:
        raise UsageError(f"--resume: {error}") from error
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text())
        arguments = record["arguments"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--resume: {path} is missing or damaged: this run cannot be resumed") from error
    free = {"resume", "results_dir", "quiet", "debug", "num_workers"}
    for name in sorted(given - free):
        if arguments.get(name) != getattr(settings, name):
            raise UsageError(f"--{name} {getattr(settings, name)} contradicts the run, which has {arguments.get(name)}")
    old = Namespace(**flags.DEFAULTS | arguments | {name: getattr(settings, name) for name in free})
    old.demo = False
    old.cuda_asked = False
    return folder, old, record


def _same_data(record: dict, data) -> dict:
    """The record of a run that goes on, if its images are still those it was started with."""
    found = {name: len(split.paths) for name, split in data.splits.items()}
    if record.get("images") != found or record.get("classes") != list(data.classes):
        raise UsageError(f"--resume: {data.root} has changed: the run began with {record.get('images')}, found {found}")
    return record


def _go_on(run, log: Callable[[str], None]) -> None:
    """Return to the saved state, or start again where the run was stopped before it saved one."""
    import checkpoint

    state = run.folder / "last-state.pt"
    if state.exists() or checkpoint.previous_of(state).exists():
        note = run.resume()
        log(f"{note}; " * bool(note) + f"going on at epoch {run.epoch + 1}, step {run.step + 1}")
    else:
        log("no state was saved: starting again")


# --- test -------------------------------------------------------------------------------------------------


def test(settings: Namespace, given: set[str]) -> None:
    """Measure a trained network: its figures, and how well it keeps its symmetry."""
    import report
    import trainer
    from classifier import load_model

    folder = _find_run(settings, given)
    device = choose_device(settings)
    classifier = load_model(folder / "best-model-parameters.pt", device)
    _check_agreement(settings, given, classifier, folder)
    trained = classifier.record.get("arguments", {})
    if "data_dir" not in given:
        settings.data_dir = trained.get("data_dir", settings.data_dir)
    settings.batch_size = getattr(settings, "batch_size", None) or trained.get("batch_size", 64)
    settings.precision = settings.precision or classifier.record.get("precision")
    data, batches = open_data(settings, device, ("val", "test"), classifier.preprocess)
    _check_classes(classifier, data)
    tested = batches.get("test", batches["val"])
    start = time.perf_counter()
    precision = choose_precision(settings, device)
    logits = trainer.evaluate(classifier.network, tested, precision)
    seconds = time.perf_counter() - start
    timing = {"seconds": seconds, "images_per_second": len(logits) / seconds}
    target = _test_folder(folder, settings, trained)
    details = _details(classifier.record | {"precision": precision}, timing)
    found = report.write_report(target, classifier, logits, tested.split, details, symmetry_of(classifier, tested))
    print(report.table(found))
    if settings.export:
        _export(classifier, target)
    print(f"results: {target}")


def _find_run(settings: Namespace, given: set[str]) -> Path:
    import results

    named = {"data_dir", "sym_group", "N", "use_CNN"} & given
    name = results.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    try:
        folder = results.find_run(settings.results_dir, settings.test_time, name if named else None)
    except results.ResultsError as error:
        raise UsageError(f"--test_time: {error}") from error
    if not (folder / "best-model-parameters.pt").exists():
        raise UsageError(f"--test_time: {folder} has no best-model-parameters.pt: its first epoch was never finished")
    return folder


def _check_agreement(settings: Namespace, given: set[str], classifier, folder: Path) -> None:
    """Flags, and the name of an original run's folder, must not contradict the checkpoint."""
    import results

    config, cnn = classifier.network.config, classifier.kind == "resnet"
    known = {"use_CNN": cnn, **{key: config[key] for key in flags.NETWORK_FLAGS if key in config}}
    for name in [name for name in flags.NETWORK_FLAGS if name in given]:
        if known.get(name, getattr(settings, name)) != getattr(settings, name):
            raise UsageError(
                f"--{name} {getattr(settings, name)} contradicts the checkpoint in {folder}, which has {known[name]}"
            )
    said = [results.original_group(part) for part in (folder.name, folder.parent.name)]
    said = next((group for group in said if group), None)
    found = "CNN" if cnn else (config["sym_group"], config["N"])
    if said and said != found:
        raise UsageError(f"{folder}: the folder's name says {_spell(said)}, the checkpoint in it is of {_spell(found)}")


def _spell(group: str | tuple[str, int]) -> str:
    return "ResNet-18" if group == "CNN" else f"{group[0]} group of order N = {group[1]}"


def _check_classes(classifier, data) -> None:
    """The data must be of the kind that the network was trained on."""
    found, channels = list(data.classes), classifier.network.config["channels"]
    if classifier.record.get("original") and len(found) == len(classifier.classes):
        classifier.classes = found  # the original's checkpoints do not name their classes
    if found != classifier.classes:
        raise UsageError(f"{data.root} has the classes {', '.join(found)}, the network {', '.join(classifier.classes)}")
    if data.channels != channels:
        raise UsageError(f"{data.root} has images of {data.channels} channels, the network takes {channels}")


def _test_folder(folder: Path, settings: Namespace, trained: dict) -> Path:
    """The run's own folder, or one inside it where other data than the run's are tested."""
    import results

    def name(path: str) -> str:
        return Path(path).resolve().name

    if not trained or name(trained["data_dir"]) == name(settings.data_dir):
        return folder
    target = folder / f"test_{name(settings.data_dir)}"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise results.ResultsError(f"{target}: cannot be created: {error.strerror}") from error
    return target


def symmetry_of(classifier, batches) -> dict:
    """How well the network keeps its symmetry on some of the images, evenly taken from the split."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from classifier import evaluator
    from dataset import read_image
    from steerable import Symmetry
    from symmetry import measure_symmetry, sample_size

    config, paths = classifier.network.config, batches.split.paths
    run = evaluator(classifier.network, batches.device, "fp32")
    with FlopCounterMode(display=False) as counter:
        run(torch.zeros(1, config["channels"], config["size"], config["size"]))
    count = min(len(paths), sample_size(counter.get_total_flops() / 2))
    chosen = np.linspace(0, len(paths) - 1, count).astype(int)
    images = [classifier.preprocess(torch.from_numpy(read_image(paths[i]).astype("f4"))[None]) for i in chosen]
    group = Symmetry(config["sym_group"], config["N"]) if "N" in config else None
    return measure_symmetry(run, torch.cat(images).to(batches.device), group)


def _export(classifier, folder: Path) -> None:
    from export import export_network

    for path in export_network(classifier, folder):
        print(f"exported: {path}")


# --- machine ----------------------------------------------------------------------------------------------


def choose_device(settings: Namespace):
    """The GPU that was asked for, or the CPU with a warning."""
    import torch

    if not settings.use_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if getattr(settings, "cuda_asked", False):
            print("warning: --use_cuda True, but there is no GPU that PyTorch can use: on the CPU", file=sys.stderr)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if settings.cuda_idx >= count:
        names = ", ".join(f"{i}: {torch.cuda.get_device_name(i)}" for i in range(count))
        raise UsageError(f"--cuda_idx {settings.cuda_idx}: there are only the GPUs {names}")
    return torch.device("cuda", settings.cuda_idx)


def choose_precision(settings: Namespace, device) -> str:
    """What was asked for, else bf16 where the hardware computes in it."""
    import torch

    if settings.precision:
        return settings.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "fp32"


if __name__ == "__main__":
    sys.exit(main())

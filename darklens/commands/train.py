"""Train a network, or go on training one."""

import contextlib
import hashlib
import platform
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from darklens import machine
from darklens.classifier import calibrate, saved
from darklens.classifier.classifier import Classifier
from darklens.classifier.saved import load_model, save_model
from darklens.commands import fine_tune, flags
from darklens.commands.resume import check_same_data, go_on, resumed_run
from darklens.data import endless, transforms
from darklens.data.batches import open_batches
from darklens.data.endless import Endless
from darklens.data.folder import scan
from darklens.data.provenance import fit_assumptions, is_all_smooth, simulation_of
from darklens.data.views import make_views
from darklens.errors import Interrupted, ResultsError, TrainingError, UsageError
from darklens.machine import choose_precision
from darklens.networks.conv import set_convolution
from darklens.posterior import training as inference
from darklens.reports import report
from darklens.simulation import writer
from darklens.simulation.recipe_file import parse_recipe
from darklens.simulation.recipes import RECIPES, SimulationConfig, load_recipe, named, recipe_dict
from darklens.storage import files, records, runs
from darklens.training import evaluate, recipes, tensorboard, trainer
from darklens.training import ranks as processes
from darklens.training.loss import class_weights
from darklens.training.tensorboard import Board
from darklens.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = "torch", "torchvision", "e2cnn", "numpy", "scikit-learn", "matplotlib"


def train(settings: Namespace, given: set[str]) -> None:
    """Train a network, or go on training one, and report its best epoch."""
    run_training(settings, given)


def run_training(settings: Namespace, given: set[str]) -> Path:
    """`train`; returns the run's folder."""
    folder = record = begin = None
    if settings.resume:
        folder, settings, record = resumed_run(settings, given)
    elif settings.weights:
        begin = fine_tune.begin_with(settings, given)
    several = processes.world_size() > 1
    if several and (settings.compile or "cuda_idx" in given):
        raise UsageError("with torchrun, no --compile, and no --cuda_idx: each process takes the GPU of its number")
    if settings.tensorboard:
        tensorboard.check()
    index = processes.local_rank() if several else settings.cuda_idx
    device = machine.choose_device(settings.use_cuda, index, settings.cuda_asked)
    with processes.ranks(device, settings.deterministic_ranks) as ranks:
        return _train(settings, folder, record, begin, device, ranks)


def _train(settings: Namespace, folder: Path | None, record: dict | None, begin, device, ranks) -> Path:
    """One process's part in it. folder, record: of the run to go on with; begin: a Classifier to start from."""
    changes = {name: getattr(settings, name) for name in ("epochs", "batch_size", "lr", "average")}
    recipe = recipes.choose_recipe(settings.recipe, settings.use_CNN, **changes)
    settings.batch_size = recipe.batch_size
    settings.quiet |= not ranks.first
    if settings.deterministic_ranks and settings.conv == "auto" and device.type == "cuda":
        settings.conv = "dense"  # there, auto looks at the clock
    lenses = _lenses(settings, record)
    ranks.broadcast(lambda: _simulate(settings, lenses))
    torch.manual_seed(settings.seed)
    data = scan(settings.data_dir)
    preprocess = _preprocess(settings, data, record, begin)
    classifier = _classifier(settings, data, preprocess, device)
    start = begin and saved.start_from(classifier, begin)
    folder, batches = _open(settings, recipe, lenses, data, preprocess, device, folder, ranks)
    check_same_data(record, data)
    classifier.record = record or _record(settings, lenses, data, classifier, recipe, device, ranks)
    if begin:
        classifier.record["weights"] = fine_tune.describe(settings.weights, begin, preprocess, start)
    if settings.balance and not record:
        values = class_weights(batches["train"].labels, len(data.classes)).tolist()
        classifier.record["class_weights"] = dict(zip(classifier.classes, values, strict=True))
    with _log(folder, ranks) as log:
        if ranks.first:
            _begin(folder, log, data, batches, classifier.record)
        board = _board(settings, folder) if ranks.first else None
        run = _trainer(settings, recipe, folder, batches, classifier, log, ranks)
        run.on_epoch = board.epoch if board else None
        _fit(run, settings, log)
        found = _finish(run, data, batches, log)
        if board:
            board.finish(found)
        if settings.demo:
            log(
                "trained for longer, and shipped: python main.py --mode Test --weights compact-f --data_dir images_demo"
            )
    return folder


@contextlib.contextmanager
def _log(folder: Path, ranks) -> Iterator[Callable[[str], None]]:
    """The run's log, which only the first process writes."""
    if not ranks.first:
        yield lambda line: None
        return
    with records.Log(folder / f"log_{folder.name}.txt") as log:
        yield log.write


def _preprocess(settings: Namespace, data, record: dict | None, begin) -> transforms.Preprocess:
    """What the run, or the weights to begin with, have; else the usual one for these images."""
    if record:
        return transforms.Preprocess.from_dict(record["preprocess"])
    if begin:
        return fine_tune.adopted_preprocess(begin, data, settings.weights)
    settings.view = settings.view or _usual_view(settings, data)
    return transforms.choose_preprocess(data, settings.crop, settings.view, fit_assumptions(data))


def _classifier(settings: Namespace, data, preprocess: transforms.Preprocess, device) -> Classifier:
    """An untrained network."""
    config = {} if settings.use_CNN else {key: getattr(settings, key) for key in ("sym_group", "N", "arch", "head")}
    options = {"preprocess": preprocess, "conv": settings.conv}
    classifier = saved.new_classifier(data, config, device, settings.use_CNN, **options)
    saved.check_savable(classifier)
    if settings.infer:
        inference.check_inferable(classifier, data)
    return classifier


def _open(
    settings: Namespace, recipe, lenses: SimulationConfig | None, data, preprocess, device, folder, ranks
) -> tuple:
    """The run's folder and its images. No folder is left behind where an image is bad."""
    options = {"seed": settings.seed, "shift": recipe.shift, "workers": settings.num_workers}
    options["progress"] = not settings.quiet
    if not ranks.alone:
        options |= {"share": ranks.share, "memory_limit": machine.available_memory() // 2 // ranks.neighbours}
    # before the images are read: it may not be writable
    new = None if folder else ranks.broadcast(lambda: _new_folder(settings))
    try:
        if preprocess.view != "image":
            _make_views(settings, data, preprocess, ranks)
        batches = _batches(settings, lenses, data, preprocess, recipe.batch_size, device, **options)
    except BaseException:
        if new:
            _remove_empty(new)
        raise
    return folder or new, batches


def _make_views(settings: Namespace, data, preprocess, ranks) -> None:
    """The first process makes the residuals for all, which hear of each file of them and so don't give it up."""
    names = [name for name in data.splits if name != "train" or not settings.simulate]
    made = make_views(data, names, preprocess, settings.num_workers, not settings.quiet)
    while ranks.broadcast(lambda: next(made, False)):
        pass


def _usual_view(settings: Namespace, data) -> str:
    """Compact networks see residuals where the smooth lens is known."""
    compact = settings.arch == "compact" and not settings.use_CNN
    return "residual" if compact and is_all_smooth(data) and data.channels == 1 else "image"


def _batches(
    settings: Namespace, lenses: SimulationConfig | None, data, preprocess, batch_size: int, device, **options
) -> dict:
    """The batches of each split; those of training from the simulator if it is asked for."""
    if lenses is None:
        return open_batches(data, ("train", "val", "test"), preprocess, batch_size, device, **options)

    of_training = {name: options[name] for name in ("seed", "workers", "shift", "share") if name in options}
    train = Endless(lenses, settings.epoch_images, data, preprocess, batch_size, device, **of_training)
    return {"train": train} | open_batches(data, ("val", "test"), preprocess, batch_size, device, **options)


def _remove_empty(folder: Path) -> None:
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return


def _trainer(settings: Namespace, recipe, folder: Path, batches: dict, classifier, log: Callable[[str], None], ranks):
    options = {"compiled": settings.compile, "quiet": settings.quiet, "precision": classifier.record["precision"]}
    options |= {"ranks": ranks, "class_weights": classifier.record.get("class_weights")}
    return trainer.Trainer(classifier, batches["train"], batches["val"], recipe, folder, log, **options)


def _board(settings: Namespace, folder: Path):
    """TensorBoard's writer if it is asked for."""
    if not settings.tensorboard:
        return None

    return Board(folder)


def _simulate(settings: Namespace, lenses: SimulationConfig | None) -> None:
    """The images of the demo, or those that --simulate validates on; kept and used again."""
    own = settings.simulate and settings.data_dir == flags.simulated_folder(settings.simulate)
    if not (settings.demo or own):
        return

    lenses, counts = lenses or RECIPES["f"], flags.DEMO_IMAGES if settings.demo else endless.HELD
    print(f"simulating {named(lenses)} lenses into {settings.data_dir} (kept and used again)", flush=True)
    writer.write_dataset(settings.data_dir, lenses, counts, seed=0, quiet=settings.quiet)


def _lenses(settings: Namespace, record: dict | None) -> SimulationConfig | None:
    """What --simulate draws from: the recipe that the run began with, or that of the name or file."""
    if not settings.simulate:
        return None
    return parse_recipe(record["lenses"]) if record and record.get("lenses") else load_recipe(settings.simulate)


def _new_folder(settings: Namespace) -> Path:
    name = runs.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    return runs.make_run_folder(settings.results_dir, name)


def _record(settings: Namespace, lenses: SimulationConfig | None, data, classifier, recipe, device, ranks) -> dict:
    """All that is needed to understand and repeat the run: `run.json`, and part of every checkpoint."""
    lenses = lenses or simulation_of(data)
    return {
        "arguments": vars(settings) | {"head": classifier.network.config.get("head")},
        "recipe": asdict(recipe),
        "network": {"kind": classifier.kind, **classifier.network.config},
        "lenses": None if lenses is None else recipe_dict(lenses),
        "classes": classifier.classes,
        "preprocess": classifier.preprocess.to_dict(),
        "images": {name: len(split) for name, split in data.splits.items()},
        "seed": settings.seed,
        "precision": choose_precision(settings.precision, device),
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "ranks": ranks.world,
        "package": {"version": __version__, "sources": source_hash()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def source_hash() -> str:
    """SHA-256 of the package's sources: names and contents, in order."""
    digest = hashlib.sha256()
    for path in sorted(path for end in ("*.py", "*.cpp") for path in PACKAGE.rglob(end)):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _begin(folder: Path, log: Callable[[str], None], data, batches: dict, record: dict) -> None:
    """Write down what this run is, before anything is trained."""
    if not (folder / "run.json").exists():
        _copy_code(folder / "code.py")
        files.save_json(folder / "run.json", record)
    network, counts = record["network"], ", ".join(f"{n} {name}" for name, n in record["images"].items())
    if batches["train"].identity.get("simulate"):
        train = batches["train"]
        log(f"training images: {len(train.labels)} to the epoch, simulated ({named(train.recipe)})")
    log(f"{data.root}: {counts} images of {data.size} x {data.size}, classes {', '.join(data.classes)}")
    if data.skipped:
        log(f"{data.skipped} stray files and folders skipped")
    if "test" not in batches:
        log("no test split: val both picks the best epoch and is what is reported, as in the original")
    log("network: " + ", ".join(f"{key} {value}" for key, value in network.items()))
    if "weights" in record:
        log(record["weights"])
    if "class_weights" in record:
        each = ", ".join(f"{name} {weight:.3g}" for name, weight in record["class_weights"].items())
        log(f"balance: an image counts in the training loss, by its class, {each}")
    log(f"recipe: {', '.join(f'{key} {value}' for key, value in record['recipe'].items())}")
    several = f"{record['ranks']} processes, each with " if record.get("ranks", 1) > 1 else ""
    log(f"seed {record['seed']}, {record['precision']}, {several}{record['device']}, {record['threads']} threads")
    for warning in (line for split in batches.values() for line in split.warnings):
        log(f"warning: {warning}")


def _copy_code(path: Path) -> None:
    try:
        shutil.copyfile(__file__, path)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({error.strerror}); free some space") from error


def _fit(run, settings: Namespace, log: Callable[[str], None]) -> None:
    """Train from the beginning, or from the saved state; the log says why it stopped."""
    if settings.resume:
        go_on(run, log)
    try:
        run.fit()
    except Interrupted:
        program = "python" if run.ranks.world == 1 else f"torchrun --nproc_per_node={run.ranks.neighbours}"
        log(f"stopped; go on with: {program} main.py --resume {run.folder.name}")
        raise
    except TrainingError as error:
        log(f"stopped: {error}")
        raise


def _finish(run, data, batches: dict, log: Callable[[str], None]) -> dict | None:
    """Report the best epoch: on val from the logits it had then, on a test split with one pass over it."""
    path = run.folder / "best-model-parameters.pt"
    best = load_model(path, run.train.device)
    set_convolution(best.network, best.record["arguments"].get("conv", "auto"))
    logits, split = run.best["logits"].numpy(), batches["val"].split
    if "test" in batches:
        logits = evaluate.evaluate(best.network, batches["test"], run.precision, ranks=run.ranks)
        split = batches["test"].split
    if not run.ranks.first:
        return None
    paths = [split.split.images for split in (run.train, run.val)]
    try:
        best.novelty = calibrate.fit_on(best, *paths, precision=run.precision, quiet=run.quiet)
        save_model(best, path)
    except ValueError as error:
        log(f"no novelty score: {error}")
    details = report.details(best.record, run.timing())
    if best.record["arguments"].get("infer"):
        best.inference = inference.train_inference(best, data, seed=best.record["seed"], quiet=run.quiet)
        save_model(best, path)
        details |= inference.coverage_details(best, data.root, split, run.folder, run.quiet)
    found = report.write_report(run.folder, best, logits, split, details)
    log(report.table(found))
    log(f"results: {run.folder}")
    return found

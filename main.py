"""Train and test classifiers of strong-lens images: which dark matter bent this light?

  python main.py --demo                                                    simulate, train, test: 5 minutes
  python main.py --data_dir images_j --sym_group Dihyderal --N 8           train
  python main.py --mode Test --test_time 2026-11-22-10-30-00               test what was trained then
  python main.py --resume latest                                           go on after an interruption
  python main.py --mode Predict --test_time latest --data_dir my_images    classify images without labels
  python main.py --mode Compare RUN RUN                                    is one network better than another?
  python main.py --list                                                    all runs
  torchrun --nproc_per_node=4 main.py --data_dir images_j                  train on four GPUs (docs/scale.md)

Data: DATA_DIR/train/CLASS/*.npy and DATA_DIR/val/CLASS/*.npy, one square image a file; `simulate.py` makes them.
Results: DATASET_GROUP_ORDER/TIMESTAMP/ with log, curves, pictures, metrics.json and best-model-parameters.pt.
"""

import contextlib
import json
import os
import platform
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import flags  # everything heavy is imported once the command line is known to be right
from flags import UsageError

PACKAGES = "torch", "torchvision", "e2cnn", "numpy", "scikit-learn", "matplotlib"
MODULES = "torch", "torchvision", "e2cnn", "numpy", "sklearn", "matplotlib", "scipy", "tqdm"
EXPECTED = (  # the errors that a user can mend
    "DataError DatasetError CheckpointError ResultsError TrainingError Interrupted BoardError CompareError RankError"
).split()


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be of any alphabet
    settings, given, parser = flags.parse(__doc__, argv)
    try:
        status = _mode(settings)(settings, given) or 0
        sys.stdout.flush()  # a full disk is found here rather than after the end
        return status
    except UsageError as error:
        parser.error(_one_line(error))
    except BrokenPipeError:  # the reader of our output has gone
        _silence()
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _explain(error, settings)


def _mode(settings: Namespace) -> Callable[[Namespace, set[str]], int | None]:
    if settings.mode == "Train" and not settings.list:
        return train
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"torchrun is for training: start --mode {settings.mode} with `python main.py`")
    import modes

    return modes.list_runs if settings.list else modes.MODES[settings.mode]


def _explain(error: Exception, settings: Namespace) -> int:
    """One line for an error that a user can mend, the traceback for one of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in MODULES and not settings.debug:
        error = f"the package {error.name} is missing here: run `bash create_env.sh`, and see README.md"
        print(f"error: {error}", file=sys.stderr)
        return 1
    if settings.debug or not (type(error).__name__ in EXPECTED or isinstance(error, OSError)):
        raise error
    if isinstance(error, OSError):
        _silence()
        error = f"{error.filename or 'the output'}: {error.strerror or error}"
    if type(error).__name__ != "Interrupted" or os.environ.get("RANK", "0") == "0":  # the first says it for all
        print(f"error: {_one_line(error)}", file=sys.stderr)
    return getattr(error, "status", 1)


def _silence() -> None:
    """Nothing more can be printed: nor at the end, when Python tries it again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception | str) -> str:
    """A message in one printable line, whatever is in the names of files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


def train(settings: Namespace, given: set[str]) -> None:
    """Train a network, or go on training one, and report its best epoch."""
    import assemble
    import distributed

    folder = record = None
    if settings.resume:
        folder, settings, record = _resumed(settings, given)
    several = distributed.world_size() > 1
    if several and (settings.compile or "cuda_idx" in given):
        raise UsageError("with torchrun, no --compile, and no --cuda_idx: each process takes the GPU of its number")
    if settings.tensorboard:
        import board

        board.check()
    index = distributed.local_rank() if several else settings.cuda_idx
    device = assemble.choose_device(settings.use_cuda, index, settings.cuda_asked)
    with distributed.ranks(device, settings.deterministic_ranks) as ranks:
        _train(settings, folder, record, device, ranks)


def _train(settings: Namespace, folder: Path | None, record: dict | None, device, ranks) -> None:
    """One process's part in it. folder, record: of the run to go on with."""
    import torch

    import assemble

    changes = {name: getattr(settings, name) for name in ("epochs", "batch_size", "lr", "average")}
    recipe = assemble.choose_recipe(settings.recipe, settings.use_CNN, **changes)
    settings.batch_size = recipe.batch_size
    settings.quiet |= not ranks.first
    if settings.deterministic_ranks and settings.conv == "auto" and device.type == "cuda":
        settings.conv = "dense"  # there, auto looks at the clock
    ranks.tell(lambda: _simulate(settings))
    torch.manual_seed(settings.seed)
    folder, data, batches, classifier = _open(settings, recipe, device, folder, ranks)
    _check_same_data(record, data)
    classifier.record = record or _record(settings, data, classifier, recipe, device, ranks)
    with _log(folder, ranks) as log:
        if ranks.first:
            _begin(folder, log, data, batches, classifier.record)
        board = _board(settings, folder) if ranks.first else None
        run = _trainer(settings, recipe, folder, batches, classifier, log, ranks)
        run.on_epoch = board.epoch if board else None
        _fit(run, settings, log)
        found = _finish(run, batches, log)
        if board:
            board.finish(found)
        if settings.demo:
            log("trained for longer, in the box: python main.py --mode Test --weights compact-f --data_dir images_demo")


@contextlib.contextmanager
def _log(folder: Path, ranks) -> Iterator[Callable[[str], None]]:
    """The run's log, which only the first process writes."""
    import results

    if not ranks.first:
        yield lambda line: None
        return
    with results.Log(folder / f"log_{folder.name}.txt") as log:
        yield log.write


def _open(settings: Namespace, recipe, device, folder: Path | None, ranks) -> tuple:
    """The run's folder, its images and an untrained network. No folder is left behind where an image is bad."""
    import assemble
    import dataset

    data = dataset.scan(settings.data_dir)
    config = {} if settings.use_CNN else {key: getattr(settings, key) for key in ("sym_group", "N", "arch", "head")}
    options = {"preprocess": assemble.choose_preprocess(data, settings.crop), "conv": settings.conv}
    classifier = assemble.new_classifier(data, config, device, settings.use_CNN, **options)
    if settings.weights and not folder:
        assemble.start_from(classifier, assemble.find_weights(settings.weights))
    options = {"seed": settings.seed, "shift": recipe.shift, "workers": settings.num_workers}
    options["progress"] = not settings.quiet
    if not ranks.alone:
        options |= {"share": ranks.share, "memory_limit": dataset.available_memory() // 2 // ranks.neighbours}
    # before the images are read: it may not be writable
    new = None if folder else ranks.tell(lambda: _new_folder(settings))
    try:
        parts = data, classifier.preprocess, recipe.batch_size, device
        batches = _batches(settings, *parts, **options)
    except BaseException:
        if new:
            _remove_empty(new)
        raise
    return folder or new, data, batches, classifier


def _batches(settings: Namespace, data, preprocess, batch_size: int, device, **options) -> dict:
    """The batches of each split; those of training from the simulator if it is asked for."""
    import assemble

    if not settings.simulate:
        return assemble.open_batches(data, ("train", "val", "test"), preprocess, batch_size, device, **options)
    from endless import Endless

    train = Endless(settings.simulate, settings.epoch_images, data, preprocess, batch_size, device, **options)
    return {"train": train} | assemble.open_batches(data, ("val", "test"), preprocess, batch_size, device, **options)


def _remove_empty(folder: Path) -> None:
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return


def _trainer(settings: Namespace, recipe, folder: Path, batches: dict, classifier, log: Callable[[str], None], ranks):
    import trainer

    options = {"compiled": settings.compile, "quiet": settings.quiet, "precision": classifier.record["precision"]}
    options["ranks"] = ranks
    return trainer.Trainer(classifier, batches["train"], batches["val"], recipe, folder, log, **options)


def _board(settings: Namespace, folder: Path):
    """TensorBoard's writer if it is asked for."""
    if not settings.tensorboard:
        return None
    from board import Board

    return Board(folder)


def _simulate(settings: Namespace) -> None:
    """The images of the demo, or those that --simulate validates on; kept and used again."""
    own = settings.simulate and settings.data_dir == f"simulated_{settings.simulate}"
    if not (settings.demo or own):
        return
    import endless
    import simulate

    model, counts = settings.simulate or "f", flags.DEMO_IMAGES if settings.demo else endless.HELD
    print(f"simulating Model {model.upper()} lenses into {settings.data_dir} (kept and used again)", flush=True)
    simulate.write_dataset(settings.data_dir, simulate.RECIPES[model], counts, seed=0, quiet=settings.quiet)


def _new_folder(settings: Namespace) -> Path:
    import results

    name = results.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    return results.make_run_folder(settings.results_dir, name)


def _record(settings: Namespace, data, classifier, recipe, device, ranks) -> dict:
    """All that is needed to understand and repeat the run: `run.json`, and part of every checkpoint."""
    import torch

    from assemble import choose_precision

    return {
        "arguments": vars(settings) | {"head": classifier.network.config.get("head")},
        "recipe": asdict(recipe),
        "network": {"kind": classifier.kind, **classifier.network.config},
        "classes": classifier.classes,
        "preprocess": classifier.preprocess.to_dict(),
        "images": {name: len(split.paths) for name, split in data.splits.items()},
        "seed": settings.seed,
        "precision": choose_precision(settings.precision, device),
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "ranks": ranks.world,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _begin(folder: Path, log: Callable[[str], None], data, batches: dict, record: dict) -> None:
    """Write down what this run is, before anything is trained."""
    import results

    if not (folder / "run.json").exists():
        _copy_code(folder / "code.py")
        results.save_json(folder / "run.json", record)
    network, counts = record["network"], ", ".join(f"{n} {name}" for name, n in record["images"].items())
    if model := batches["train"].identity.get("simulate"):
        log(f"training images: {len(batches['train'].labels)} to the epoch, simulated (Model {model.upper()})")
    log(f"{data.root}: {counts} images of {data.size} x {data.size}, classes {', '.join(data.classes)}")
    if data.skipped:
        log(f"{data.skipped} stray files and folders skipped")
    if "test" not in batches:
        log("no test split: val both picks the best epoch and is what is reported, as in the original")
    log("network: " + ", ".join(f"{key} {value}" for key, value in network.items()))
    log(f"recipe: {', '.join(f'{key} {value}' for key, value in record['recipe'].items())}")
    several = f"{record['ranks']} processes, each with " if record.get("ranks", 1) > 1 else ""
    log(f"seed {record['seed']}, {record['precision']}, {several}{record['device']}, {record['threads']} threads")
    for warning in (line for split in batches.values() for line in split.warnings):
        log(f"warning: {warning}")


def _copy_code(path: Path) -> None:
    import results

    try:
        shutil.copyfile(__file__, path)
    except OSError as error:
        raise results.ResultsError(f"{path}: cannot be written ({error.strerror}); free some space") from error


def _fit(run, settings: Namespace, log: Callable[[str], None]) -> None:
    """Train from the beginning, or from the saved state; the log says why it stopped."""
    import trainer

    if settings.resume:
        _go_on(run, log)
    try:
        run.fit()
    except trainer.Interrupted:
        program = "python" if run.ranks.world == 1 else f"torchrun --nproc_per_node={run.ranks.neighbours}"
        log(f"stopped; go on with: {program} main.py --resume {run.folder.name}")
        raise
    except trainer.TrainingError as error:
        log(f"stopped: {error}")
        raise


def _finish(run, batches: dict, log: Callable[[str], None]) -> dict | None:
    """Report the best epoch: on val from the logits it had then, on a test split with one pass over it."""
    import novelty
    import report
    import trainer
    from classifier import load_model, save_model
    from model import set_convolution

    path = run.folder / "best-model-parameters.pt"
    best = load_model(path, run.train.device)
    set_convolution(best.network, best.record["arguments"].get("conv", "auto"))
    logits, split = run.best["logits"].numpy(), batches["val"].split
    if "test" in batches:
        logits = trainer.evaluate(best.network, batches["test"], run.precision, ranks=run.ranks)
        split = batches["test"].split
    if not run.ranks.first:
        return None
    paths = [split.split.paths for split in (run.train, run.val)]
    try:
        best.novelty = novelty.fit_on(best, *paths, run.precision, quiet=run.quiet)
        save_model(best, path)
    except ValueError as error:
        log(f"no novelty score: {error}")
    found = report.write_report(run.folder, best, logits, split, report.details(best.record, run.timing()))
    log(report.table(found))
    log(f"results: {run.folder}")
    return found


# --- go on after an interruption --------------------------------------------------------------------------------


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
        flags.check(arguments)
        record["images"], record["classes"], record["precision"], record["threads"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise UsageError(f"--resume: {path} is missing or damaged: this run cannot be resumed ({error})") from error
    free = {"resume", "results_dir", "quiet", "debug", "num_workers"}
    for name in sorted(given - free):
        if arguments.get(name) != getattr(settings, name):
            raise UsageError(f"--{name} {getattr(settings, name)} contradicts the run, which has {arguments.get(name)}")
    _check_same_ranks(record, bool(arguments.get("deterministic_ranks")))
    same = {name: getattr(settings, name) for name in free} | {"demo": False, "cuda_asked": False}
    return folder, Namespace(**flags.DEFAULTS | arguments | same), record


def _check_same_ranks(record: dict, deterministic: bool) -> None:
    """Another number of processes would add in another order, unless that order is fixed."""
    from distributed import world_size

    then, now = record.get("ranks", 1), world_size()
    if then != now and not deterministic:
        raise UsageError(
            f"--resume: the run has {then} process{'es' * (then > 1)}, here are {now}: other bits; start as many with "
            "torchrun --nproc_per_node (a run begun with --deterministic_ranks goes on with 1, 2, 4 or 8)"
        )


def _check_same_data(record: dict | None, data) -> None:
    """A run goes on only with the images it was started with. record: None for a new run."""
    found = {name: len(split.paths) for name, split in data.splits.items()}
    if record and (record.get("images") != found or record.get("classes") != list(data.classes)):
        raise UsageError(f"--resume: {data.root} has changed: the run began with {record.get('images')}, found {found}")


def _go_on(run, log: Callable[[str], None]) -> None:
    """Return to the saved state, or start again where the run was stopped before it saved one."""
    import torch

    import checkpoint

    then, now = run.classifier.record["threads"], torch.get_num_threads()
    if then != now:
        log(f"warning: the run began with {then} threads and goes on with {now}: it may end with other bits")
    state = run.folder / "last-state.pt"
    if os.path.lexists(state) or os.path.lexists(checkpoint.previous_of(state)):
        note = run.resume()
        log(f"{note}; " * bool(note) + f"going on at epoch {run.epoch + 1}, step {run.step + 1}")
    else:
        log("no state was saved: starting again")


if __name__ == "__main__":
    sys.exit(main())

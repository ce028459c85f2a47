"""What can be done with networks that are already trained: test, predict, compare, list.

Each mode takes the settings of `flags.parse` and the names of those given by hand, and returns an exit status.
"""

import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import assemble
import compare
import dataset
import flags
import report
import results
import trainer
from classifier import Classifier, evaluator, load_model
from explain import explain
from flags import UsageError
from model import set_convolution
from predict import predict_folder
from sensitivity import is_simulated, sensitivity
from steerable import Symmetry
from symmetry import measure_symmetry, sample_size

BEST = "best-model-parameters.pt"


# --- test ---------------------------------------------------------------------------------------------------


def test(settings: Namespace, given: set[str]) -> None:
    """Measure a trained network: its figures, and how well it keeps its symmetry."""
    path, classifier, device = _load(settings, given)
    trained = classifier.record.get("arguments", {})
    data_dir = settings.data_dir if "data_dir" in given else trained.get("data_dir", settings.data_dir)
    data = dataset.scan(data_dir)
    _check_classes(classifier, data)
    tested = _tested_batches(data, classifier, settings, device)
    precision = assemble.choose_precision(settings.precision or classifier.record.get("precision"), device)
    start = time.perf_counter()
    logits = trainer.evaluate(classifier.network, tested, precision)
    seconds = time.perf_counter() - start
    timing = {"seconds": seconds, "images_per_second": len(logits) / seconds}
    target = _new_folder(settings, path) if settings.weights else _test_folder(path.parent, data.root, trained)
    details = report.details(classifier.record | {"precision": precision}, timing)
    found = report.write_report(target, classifier, logits, tested.split, details, symmetry_of(classifier, tested))
    print(report.table(found))
    _look_closer(settings, classifier, data, tested.split, logits, target)
    print(f"results: {target}")


def _look_closer(settings: Namespace, classifier: Classifier, data, split: dataset.Split, logits, folder: Path) -> None:
    """What depends on flags, or on the data having been simulated."""
    if is_simulated(data.root):
        names = report.predictions_of(logits, split, data.classes).names
        try:
            sensitivity(data.root, split.name, names, split.labels, logits, classifier.classes, folder)
        except dataset.DataError as error:
            print(f"warning: no sensitivity.png: {error}")
    if settings.explain:
        scored = sample_size(_multiplications(classifier)) // 4  # a map takes 32 passes forward and back
        explain(classifier, split, logits, folder, scored=max(scored, 2))
    if settings.export:
        _export(classifier, folder)


def _load(settings: Namespace, given: set[str]) -> tuple[Path, Classifier, torch.device]:
    """The checkpoint that is asked for, its network, and the device that it is now on."""
    path = assemble.find_weights(settings.weights) if settings.weights else _find_run(settings, given) / BEST
    device = assemble.choose_device(settings.use_cuda, settings.cuda_idx, settings.cuda_asked)
    classifier = load_model(path, device)
    set_convolution(classifier.network, settings.conv)
    _check_agreement(settings, given, classifier, path.parent)
    return path, classifier, device


def _new_folder(settings: Namespace, path: Path) -> Path:
    """A folder for the figures of a network that belongs to no run here."""
    return results.make_run_folder(settings.results_dir, f"weights_{path.stem}")


def _tested_batches(data: dataset.LensFolder, classifier: Classifier, settings: Namespace, device) -> dataset.Batches:
    """The batches of the test split, or of val where there is none."""
    batch_size = settings.batch_size or classifier.record.get("arguments", {}).get("batch_size", 64)
    name = "test" if "test" in data.splits else "val"
    options = {"workers": settings.num_workers, "progress": not settings.quiet}
    return assemble.open_batches(data, (name,), classifier.preprocess, batch_size, device, **options)[name]


def _find_run(settings: Namespace, given: set[str]) -> Path:
    named = {"sym_group", "N", "use_CNN", *(["data_dir"] if settings.mode == "Test" else [])} & given
    name = results.run_folder_name(settings.data_dir, settings.sym_group, settings.N, settings.use_CNN)
    try:
        folder = results.find_run(settings.results_dir, settings.test_time, name if named else None, BEST)
    except results.ResultsError as error:
        raise UsageError(f"--test_time: {error}") from error
    if not (folder / BEST).exists():
        raise UsageError(f"--test_time: {folder} has no {BEST}: its first epoch was never finished")
    return folder


def _check_agreement(settings: Namespace, given: set[str], classifier: Classifier, folder: Path) -> None:
    """Flags, and the name of an original run's folder, must not contradict the checkpoint."""
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


def _check_classes(classifier: Classifier, data: dataset.LensFolder) -> None:
    """The data must be of the kind that the network was trained on."""
    found, channels = list(data.classes), classifier.network.config["channels"]
    if classifier.record.get("original") and len(found) == len(classifier.classes):
        classifier.classes = found  # the original's checkpoints do not name their classes
    if found != classifier.classes:
        raise UsageError(f"{data.root} has the classes {', '.join(found)}, the network {', '.join(classifier.classes)}")
    if data.channels != channels:
        raise UsageError(f"{data.root} has images of {data.channels} channels, the network takes {channels}")


def _test_folder(folder: Path, data_dir: Path, trained: dict) -> Path:
    """The run's own folder, or one inside it where other data than the run's are tested."""

    def name(path: str | Path) -> str:
        return Path(path).resolve().name

    if not trained or name(trained["data_dir"]) == name(data_dir):
        return folder
    target = folder / f"test_{name(data_dir)}"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise results.ResultsError(f"{target}: cannot be created: {error.strerror}") from error
    return target


def symmetry_of(classifier: Classifier, batches: dataset.Batches) -> dict:
    """How well the network keeps its symmetry on some of the images, evenly taken from the split."""
    config, paths = classifier.network.config, batches.split.paths
    run = evaluator(classifier.network, batches.device, "fp32")
    count = min(len(paths), sample_size(_multiplications(classifier)))
    chosen = np.linspace(0, len(paths) - 1, count).astype(int)
    raw = (torch.from_numpy(dataset.read_image(paths[i]).astype("f4"))[None] for i in chosen)
    images = torch.cat([classifier.preprocess(image) for image in raw])  # (n, C, S, S)
    group = Symmetry(config["sym_group"], config["N"]) if "N" in config else None
    return measure_symmetry(run, images.to(batches.device), group)


def _multiplications(classifier: Classifier) -> float:
    """Of one image's way through the network, its convolutions counted as dense ones."""
    config, network = classifier.network.config, classifier.network
    plain = network.folded(plain=True) if hasattr(network, "folded") else network
    example = torch.zeros(1, config["channels"], config["size"], config["size"])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        plain(example.to(next(network.parameters()).device))
    return counter.get_total_flops() / 2


def _export(classifier: Classifier, folder: Path) -> None:
    from export import export_network  # takes torch.export along

    for path in export_network(classifier, folder):
        print(f"exported: {path}")


# --- predict, compare, list ---------------------------------------------------------------------------------


def predict(settings: Namespace, given: set[str]) -> None:
    """Classify images without labels, one row of a table a file."""
    _, classifier, device = _load(settings, given)
    precision = assemble.choose_precision(settings.precision or classifier.record.get("precision"), device)
    options = {"batch_size": settings.batch_size} if settings.batch_size else {}
    counts = predict_folder(
        classifier, settings.data_dir, settings.output, precision, device=device, quiet=settings.quiet, **options
    )
    print(counts.summary())
    if classifier.novelty is None:
        print("no novelty scores: this network was saved without them (by the original, or before training had ended)")
    print(f"predictions: {settings.output}")


def compare_runs(settings: Namespace, given: set[str]) -> None:
    """Put finished runs side by side: on the images they were tested on, or now on those of --data_dir."""
    folders = [_find(settings, run) for run in settings.runs]
    if "data_dir" in given:
        device = assemble.choose_device(settings.use_cuda, settings.cuda_idx, settings.cuda_asked)
        precision = assemble.choose_precision(settings.precision, device)
        options = {"batch_size": settings.batch_size or 64, "workers": settings.num_workers}
        options["progress"] = not settings.quiet
        runs = compare.evaluate_runs(folders, dataset.scan(settings.data_dir), device, precision, **options)
    else:
        runs = [compare.load_run(folder) for folder in folders]
    compare.check_same_images(runs)
    folder = results.make_run_folder(settings.results_dir, "compare")
    print(compare.table(compare.compare(runs, folder)))
    print(f"results: {folder}")


def _find(settings: Namespace, run: str) -> Path:
    try:
        return results.find_run(settings.results_dir, run, holding="metrics.json")
    except results.ResultsError as error:
        raise UsageError(f"--mode Compare: {error}") from error


def list_runs(settings: Namespace, given: set[str]) -> None:
    """One line a run."""
    runs = results.list_runs(settings.results_dir)
    print(results.runs_table(runs) if runs else f"no runs under {Path(settings.results_dir).resolve()}")


MODES = {"Test": test, "Predict": predict, "Compare": compare_runs}

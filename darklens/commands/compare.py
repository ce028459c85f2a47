"""Put runs side by side."""

from pathlib import Path

from darklens import machine
from darklens.commands.flags import Settings
from darklens.commands.network import device_of
from darklens.data.folder import scan
from darklens.errors import ResultsError, UsageError
from darklens.reports import comparison
from darklens.reports.compare import compare as compare_runs
from darklens.reports.runs import check_same_images, evaluate_runs, load_run
from darklens.storage.runs import find_run, make_run_folder


def compare(settings: Settings) -> None:
    """Put finished runs side by side: on the images they were tested on, or now on those of --data_dir."""
    folders = [_find(settings, run) for run in settings.runs]
    if "data_dir" in settings.explicit:
        device = device_of(settings)
        precision = machine.choose_precision(settings.precision, device)
        options = {"batch_size": settings.batch_size or 64, "workers": settings.num_workers}
        options["progress"] = not settings.quiet
        runs = evaluate_runs(folders, scan(settings.data_dir), device, precision, **options)
    else:
        runs = [load_run(folder) for folder in folders]
    check_same_images(runs)
    folder = make_run_folder(settings.results_dir, "compare")
    print(comparison.table(compare_runs(runs, folder)))
    print(f"results: {folder}")


def _find(settings: Settings, run: str) -> Path:
    try:
        return find_run(settings.results_dir, run, holding="metrics.json")
    except ResultsError as error:
        raise UsageError(f"--mode Compare: {error}") from error

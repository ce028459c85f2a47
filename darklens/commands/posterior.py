"""Teach a trained network how much dark matter there is."""

from argparse import Namespace

from darklens.classifier.saved import save_model
from darklens.commands.test import check_classes
from darklens.commands.trained import BEST, load_network
from darklens.data.folder import scan
from darklens.posterior.training import train_inference
from darklens.storage import runs


def infer(settings: Namespace, given: set[str]) -> None:
    """Add a posterior of the dark matter to a run's network, or to a copy of one that comes with the program."""
    path, classifier, _ = load_network(settings, given)
    trained = classifier.record.get("arguments", {}).get("data_dir", settings.data_dir)
    data = scan(settings.data_dir if "data_dir" in given else trained)
    check_classes(classifier, data)
    classifier.inference = train_inference(classifier, data, settings.num_workers, settings.seed, settings.quiet)
    if settings.weights:
        path = runs.make_run_folder(settings.results_dir, f"weights_{path.stem}") / BEST
    save_model(classifier, path)
    print(f"posterior of {', '.join(classifier.inference.columns())}: {path}")
    print(
        f"its coverage: python main.py --mode Test --weights {path} --data_dir FOLDER, lenses that were not trained on"
    )

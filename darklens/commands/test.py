"""Test a trained network."""

from darklens.commands.flags import Settings
from darklens.commands.network import network_of
from darklens.runs.evaluation import TestConfig
from darklens.runs.evaluation import test as measure


def test(settings: Settings) -> None:
    """Measure a trained network and print its main figures."""
    keys = ("batch_size", "num_workers", "precision", "results_dir", "explain", "export", "page", "quiet")
    config = TestConfig(
        data_dir=settings.data_dir if "data_dir" in settings.explicit else None,
        of_run=not settings.weights,
        **{key: getattr(settings, key) for key in keys},
    )
    folder, table = measure(network_of(settings), config)
    print(table)
    print(f"results: {folder}" + (f", page: {config.page}" if config.page else ""))

"""Teach a trained network how much dark matter there is."""

from darklens.commands.flags import Settings
from darklens.commands.network import network_of
from darklens.runs.posterior import add_posterior


def infer(settings: Settings) -> None:
    """Add a posterior of the dark matter to a run's network, or to a copy of one that comes with the program."""
    trained = network_of(settings)
    path = add_posterior(
        trained,
        data_dir=settings.data_dir if "data_dir" in settings.explicit else None,
        copy_to=settings.results_dir if settings.weights else None,
        workers=settings.num_workers,
        seed=settings.seed,
        quiet=settings.quiet,
    )
    posterior = trained.classifier.inference
    print(f"posterior of {', '.join(posterior.columns() if posterior else [])}: {path}")
    print(
        f"its coverage: python main.py --mode Test --weights {path} --data_dir FOLDER, lenses that were not trained on"
    )

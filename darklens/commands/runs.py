"""Show the runs that there are."""

from pathlib import Path

from darklens.commands.flags import Settings
from darklens.storage.runs import list_runs, runs_table


def show_runs(settings: Settings) -> None:
    """One line a run."""
    runs = list_runs(settings.results_dir)
    print(runs_table(runs) if runs else f"no runs under {Path(settings.results_dir).resolve()}")

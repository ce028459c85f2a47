"""The images of a training run: which there are, how they are prepared, and in batches."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from darklens import machine
from darklens.data import endless, transforms
from darklens.data.batches import Batches, open_batches
from darklens.data.endless import Endless
from darklens.data.folder import LensFolder, scan
from darklens.data.provenance import fit_assumptions, is_all_smooth
from darklens.data.transforms import Preprocess
from darklens.data.views import make_views
from darklens.runs import resume, weights
from darklens.runs.run import Run
from darklens.simulation import writer
from darklens.simulation.recipe_file import parse_recipe
from darklens.simulation.recipes import RECIPES, SimulationConfig, load_recipe, named
from darklens.storage.training_config import simulated_folder

DEMO_IMAGES = {"train": 900, "val": 700}  # per class


@dataclass(frozen=True)
class RunData:
    """folder: the splits and classes; preprocess: what the network sees of an image; simulation: what --simulate draws
    its training images from, else None."""

    folder: LensFolder
    preprocess: Preprocess
    simulation: SimulationConfig | None


def open_data(run: Run) -> RunData:
    """Find the images, those of --demo and --simulate made first, and settle how they are prepared; none is read yet.

    Raises DataError where they are not in order, UsageError where they are not what the run, or the weights, need.
    """
    simulation = _simulation(run)
    run.ranks.broadcast(lambda: _simulate(run, simulation))
    folder = scan(run.config.data_dir)
    resume.check_same_data(run.record, folder, run.log)
    return RunData(folder, _preprocess(run, folder), simulation)


def read_images(run: Run, data: RunData) -> dict[str, Batches]:
    """The batches of each split: in memory where they fit; those of training from the simulator if it is asked for.

    Residuals that the network sees are made first, once for all runs. Raises DataError for a bad image.
    """
    config, single = run.config, run.ranks.single_process
    if data.preprocess.view != "image":
        _make_views(run, data)
    open_splits = functools.partial(
        open_batches,
        data.folder,
        preprocess=data.preprocess,
        batch_size=run.recipe.batch_size,
        device=run.device,
        seed=config.seed,
        workers=config.num_workers,
        memory_limit=None if single else machine.available_memory() // 2 // run.ranks.neighbours,
        progress=not config.quiet,
        shift=run.recipe.shift,
        share=None if single else run.ranks.share,
    )
    if data.simulation is None:
        return open_splits(("train", "val", "test"))
    train = Endless(
        data.simulation,
        config.epoch_images,
        data.folder,
        data.preprocess,
        run.recipe.batch_size,
        run.device,
        seed=config.seed,
        workers=config.num_workers,
        shift=run.recipe.shift,
        share=None if single else run.ranks.share,
    )
    return {"train": train, **open_splits(("val", "test"))}


def _preprocess(run: Run, folder: LensFolder) -> Preprocess:
    """What the run, or the weights to begin with, have; else the usual one for these images."""
    if run.record and run.record.preprocess:
        return Preprocess.from_dict(run.record.preprocess)
    if run.trained:
        return weights.adopted_preprocess(
            run.trained, folder, run.config.weights, run.config.view or run.trained.preprocess.view
        )
    view = run.config.view or _usual_view(run, folder)
    return transforms.choose_preprocess(folder, run.config.crop, view, fit_assumptions(folder))


def _usual_view(run: Run, folder: LensFolder) -> str:
    """Compact networks see residuals where the smooth lens is known."""
    compact = run.config.arch == "compact" and not run.config.use_CNN
    return "residual" if compact and is_all_smooth(folder) and folder.channels == 1 else "image"


def _simulation(run: Run) -> SimulationConfig | None:
    """What --simulate draws from: the recipe that the run began with, or that of the name or file."""
    if not run.config.simulate:
        return None
    if run.record and run.record.simulation:
        return parse_recipe(run.record.simulation)
    return load_recipe(run.config.simulate)


def _simulate(run: Run, simulation: SimulationConfig | None) -> None:
    """The images of the demo, or those that --simulate validates on; kept and used again."""
    config = run.config
    validation = config.simulate and config.data_dir == simulated_folder(config.simulate)
    if not (config.demo or validation):
        return
    simulation, counts = simulation or RECIPES["f"], DEMO_IMAGES if config.demo else endless.HELD
    print(f"simulating {named(simulation)} lenses into {config.data_dir} (kept and used again)", flush=True)
    writer.write_dataset(config.data_dir, simulation, counts, seed=0, quiet=config.quiet)


def _make_views(run: Run, data: RunData) -> None:
    """The first process makes the residuals for all, which hear of each file of them and so don't give it up."""
    names = [name for name in data.folder.splits if name != "train" or data.simulation is None]
    parts = make_views(data.folder, names, data.preprocess, run.config.num_workers, not run.config.quiet)
    while run.ranks.broadcast(lambda: next(parts, False)):
        pass

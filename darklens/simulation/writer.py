"""Writes data sets of simulated images, in parallel; a call that was cut short goes on where it stopped."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from darklens.errors import DatasetError
from darklens.machine import start_worker, usable_cores
from darklens.simulation.draw import draw
from darklens.simulation.manifest import (
    check_folder,
    images_in,
    library_versions,
    manifest_identity,
    read_journal,
    read_manifest,
)
from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.recipes import SPLITS
from darklens.simulation.render import image_dtype, simulate
from darklens.storage.files import npy_bytes, replacing
from darklens.storage.progress import progress


@dataclasses.dataclass(frozen=True)
class _Job:
    """Some images of one class and split, for one worker."""

    folder: Path
    recipe: SimulationConfig
    seed: int
    device: str
    split: str
    class_name: str
    indices: tuple[int, ...]
    published: bool = False


def _name(split: str, class_name: str, index: int) -> str:
    return f"{split}/{class_name}/{index:06d}.npy"


def _write(path: Path, data: bytes, sync: bool = False) -> None:
    with replacing(path, "wb", sync) as file:
        file.write(data)


def _store(path: Path, image: np.ndarray) -> str:
    """Write an image unless it's there already; its SHA-256. Raises DatasetError if another one is there."""
    data = npy_bytes(image)
    if not path.exists():
        _write(path, data)
    elif path.read_bytes() != data:
        raise DatasetError(
            f"{path} is not the image that this recipe and seed give: move it away or choose another --out"
        )
    return hashlib.sha256(data).hexdigest()


def as_published(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (1, H, W) float64, smallest to largest value on 0 to 1, as DeepLense's test sets have it."""
    low, high = float(image.min()), float(image.max())
    return (image[None].astype(np.float64) - low) / max(high - low, np.finfo(float).tiny)


def _image_size(recipe: SimulationConfig, published: bool) -> int:
    """Bytes of an image's file."""
    blank = np.zeros((recipe.image.pixels, recipe.image.pixels), image_dtype(recipe))
    return len(npy_bytes(as_published(blank) if published else blank))


def _write_images(job: _Job) -> dict[str, str]:
    """Simulate and write a job's images; file name -> SHA-256."""
    images = simulate(job.recipe, job.class_name, job.indices, job.seed, job.split, job.device)
    if job.published:
        images = np.stack([as_published(image) for image in images])  # (B, H, W) -> (B, 1, H, W)
    names = [_name(job.split, job.class_name, i) for i in job.indices]
    paths = [job.folder / name for name in names]
    if job.device == "cpu":
        return dict(zip(names, map(_store, paths, images), strict=True))
    with ThreadPoolExecutor(8) as threads:
        return dict(zip(names, threads.map(_store, paths, images), strict=True))


def _results(jobs: list[_Job], workers: int) -> Generator[dict[str, str], None, None]:
    """The jobs' results as they come, from this process or from spawned ones."""
    if workers <= 1:
        yield from map(_write_images, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, start_worker)
    try:
        for done in as_completed([pool.submit(_write_images, job) for job in jobs]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(names: Iterable[str], chunk: int, make: Callable[..., _Job]) -> list[_Job]:
    """Group image names by split and class, in their order, `chunk` at a time."""
    groups: dict[tuple[str, str], list[int]] = {}
    for split, class_name, file in (name.split("/") for name in names):
        groups.setdefault((split, class_name), []).append(int(file[:-4]))
    return [
        make(split=split, class_name=class_name, indices=tuple(indices[i : i + chunk]))
        for (split, class_name), indices in groups.items()
        for i in range(0, len(indices), chunk)
    ]


def _check_space(folder: Path, images: int, size: int) -> None:
    free, needed = shutil.disk_usage(folder).free, images * (-(-size // 4096) * 4096)
    if needed > free:
        raise DatasetError(f"{folder} has {free / 1e9:.1f} GB free, {images} images need {needed / 1e9:.1f} GB")


def _manifest_bytes(identity: dict, versions: list, files: dict[str, str], complete: bool) -> bytes:
    counts: dict[str, dict[str, int]] = {}
    for name in sorted(files):
        split, class_name, _ = name.split("/")
        of_split = counts.setdefault(split, {})
        of_split[class_name] = of_split.get(class_name, 0) + 1
    body = {
        **identity,
        "versions": versions,
        "complete": complete,
        "images": counts,
        "files": dict(sorted(files.items())),
    }
    return (json.dumps(body, indent=1) + "\n").encode()


def _write_parameters(folder: Path, recipe: SimulationConfig, seed: int, names: Iterable[str]) -> None:
    """`parameters/SPLIT_CLASS.npz`: the index of each image and `LensSample.arrays`."""
    (folder / "parameters").mkdir(exist_ok=True)
    for job in _jobs(sorted(names), sys.maxsize, functools.partial(_Job, folder, recipe, seed, "cpu")):
        lenses, buffer = draw(recipe, job.class_name, seed, job.split, job.indices), io.BytesIO()
        arrays: dict[str, Any] = {"index": np.array(job.indices)} | lenses.arrays()
        np.savez_compressed(buffer, **arrays)
        _write(folder / "parameters" / f"{job.split}_{job.class_name}.npz", buffer.getvalue())


def _prepare(folder: Path, recorded: Iterable[str], size: int, classes: Iterable[str]) -> None:
    """Make the class folders, drop what a killed call left half-written, and check the images' sizes.

    Raises DatasetError for an image of another size: it was damaged since.
    """
    for split in {name.split("/")[0] for name in recorded}:
        for class_name in classes:
            (folder / split / class_name).mkdir(parents=True, exist_ok=True)
            for leftover in (folder / split / class_name).glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
    for name in recorded:
        path = folder / name
        if path.exists() and path.stat().st_size != size:
            raise DatasetError(
                f"{path} is damaged ({path.stat().st_size} bytes, expected {size}): delete it and run again"
            )


@dataclasses.dataclass
class _Plan:
    """Image names of a data set: all of them, those still to write, and the SHA-256 of those written."""

    names: list[str]
    todo: list[str]
    files: dict[str, str]
    versions: list[dict]
    complete: bool


def _plan(folder: Path, identity: dict, counts: dict[str, int]) -> _Plan:
    """Compare what is asked with what is there. Raises DatasetError if the folder holds other data."""
    on_disk = images_in(folder)
    manifest = check_folder(folder, identity, on_disk)
    recorded = {**manifest["files"], **read_journal(folder / "journal.jsonl")} if manifest else {}
    requested = [_name(s, c, i) for s in SPLITS for c in identity["recipe"]["classes"] for i in range(counts.get(s, 0))]
    names = [*requested, *sorted(on_disk.union(recorded).difference(requested))]
    todo = [name for name in names if name not in recorded or name not in on_disk]
    versions = manifest.get("versions", [])
    versions += [v for v in [library_versions()] if todo and v not in versions]
    files = {name: recorded[name] for name in names if name in recorded}
    return _Plan(names, todo, files, versions, manifest.get("complete", False) and not todo)


def _write_missing(folder: Path, plan: _Plan, jobs: list[_Job], workers: int, quiet: bool) -> None:
    """Run the jobs, with a journal of what they wrote."""
    total, done = len(plan.names), len(plan.names) - len(plan.todo)
    bar = progress(total, "simulating", "img", quiet, done, leave=True)
    journal = open(folder / "journal.jsonl", "w", encoding="utf-8")
    with bar, journal, contextlib.closing(_results(jobs, workers)) as results:
        for written in results:
            plan.files.update(written)
            journal.write(json.dumps(written) + "\n")
            journal.flush()
            bar.update(len(written))


def write_dataset(
    folder: str | Path,
    recipe: SimulationConfig,
    counts: dict[str, int],
    *,
    seed: int = 0,
    device: str = "cpu",
    workers: int | None = None,
    quiet: bool = False,
    published: bool = False,
) -> dict:
    """Write, finish or extend a data set of counts[split] images a class; its manifest.

    workers: processes on a CPU (None: one a core; a script that asks for more than one needs the usual
    `if __name__ == "__main__"`). published: write each image as float64 (1, pixels, pixels) from 0 to 1.
    Nothing that is there is overwritten: DatasetError if the folder holds other images, OSError if it can't be
    written. A call that was cut short ends with the same bytes when run again.
    """
    folder, device = Path(folder), torch.device(device).type
    identity = manifest_identity(recipe, seed, device, published)
    plan = _plan(folder, identity, counts)
    size = _image_size(recipe, published)
    _prepare(folder, plan.names, size, recipe.classes)
    if plan.complete:
        return read_manifest(folder)
    _check_space(folder, len(plan.todo), size)

    def write_manifest(complete: bool) -> None:
        data = _manifest_bytes(identity, plan.versions, plan.files, complete)
        _write(folder / "manifest.json", data, sync=True)

    write_manifest(complete=False)
    make = functools.partial(_Job, folder, recipe, seed, device, published=published)
    jobs = _jobs(plan.todo, 32 if device == "cpu" else 256, make)
    many = device == "cpu" and len(plan.todo) > 200  # fewer don't repay starting processes
    _write_missing(folder, plan, jobs, (workers or usable_cores()) if many else 1, quiet)
    _write_parameters(folder, recipe, seed, plan.files)
    write_manifest(complete=True)
    (folder / "journal.jsonl").unlink()
    return read_manifest(folder)

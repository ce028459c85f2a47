"""Simulate strong-lens images with and without dark-matter substructure.

    python simulate.py --model f                                 # images_f: 25,000 train, 2,500 val a class
    python simulate.py --model j --out images_j --train 100 --val 20 --test 20 --seed 1
    python simulate.py --model f --out round_f --random_shear_axis --train 100 --val 20
    python simulate.py --model f --sheet model_f.png             # a picture of 25 images, no data set

Images are uint16 counts, one (150, 150) `.npy` each, in `OUT/{train,val,test}/{no,sphere,vort}/`.
`OUT/manifest.json` holds the recipe, seed, versions and the SHA-256 of each image;
`OUT/parameters/SPLIT_CLASS.npz` what was drawn. A call that was cut short goes on where it stopped, and more
images of the same seed extend a folder.

From Python: `draw` the parameters, `render` them without noise, or `simulate` uint16 counts in memory.

Conventions: angles in radians counter-clockwise from +x, lengths in arcsec, masses in solar masses; x grows
with the column, y falls with the row (row 0 is the top: that way up the 25 published rings lean by
+2.8 +- 0.6 degrees, where the shear's 0 to 6.28 make +3.1); the halo sits at the origin, amid the image.

References: Alexander et al. 2020, ApJ 893, 15 (arXiv:1909.07346) and arXiv:2008.12731, whose "Model A" and
"Model B" are F and J here; those of the formulas in physics.py.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physics import einstein_radius, external_shear, gaussian_blur, point_masses, rod, sersic, sis

CLASSES = ("no", "sphere", "vort")
TITLES = {"no": "No Sub", "sphere": "Spherical", "vort": "Vortex"}
SPLITS = ("train", "val", "test")
DISTANCES = ("luminosity", "angular")
SIMULATOR = 1  # raise it whenever the same recipe and seed give other images


class DatasetError(ValueError):
    """The folder can't take these images; the message says why and what to do."""


# ---------------------------------------------------------------------------------------------------- recipes
@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a data set is drawn from; pairs are the bounds of a uniform prior. The defaults are Model F.

    Sources: P = forward fits to 25 published images of Model F, C = the authors' public PyAutoLens code,
    T = a transcription of the papers' tables (second-hand), A = our assumption. Model F is thus recovered
    from pictures. Model J rests on second-hand tables and no image of it was available: no fidelity is
    claimed beyond those.
    """

    name: str = "f"
    pixels: int = 150  # on a side (P, C)
    pixel_scale: float = 0.05  # arcsec (P, C)
    supersample: int = 2  # rays a pixel, each way (P, C)
    z_lens: tuple[float, float] = (0.5, 0.5)  # (C, T)
    z_source: tuple[float, float] = (1.0, 1.0)  # (C, T)
    total_mass: float = 1e12  # Msun, halo and substructure within the Einstein radius (C)
    shear: tuple[float, float] = (0.0, 0.3)  # magnitude (C, T)
    source_offset: tuple[float, float] = (0.0, 0.5)  # arcsec from the halo, any direction (P)
    sersic_index: float = 1.5  # (P; J: T)
    effective_radius: tuple[float, float] = (0.5, 0.5)  # arcsec, geometric mean of the axes (P; J: T)
    axis_ratio: tuple[float, float] = (1.0, 1.0)  # of the source (P; J: T)
    psf_sigma: float = 0.085  # arcsec, 1.7 pixels (P; J: A)
    sky: float = 29.0  # counts a pixel (P; J: A)
    source_counts: float = 94.5  # counts a pixel at the effective radius, unlensed (P; J: A)
    peak_snr: tuple[float, float] | None = None  # None: exposure as given; else scaled so the brightest pixel has it
    subhalo_count: float = 25.0  # mean of a Poisson (C, T)
    subhalo_mass: tuple[float, float] = (1e6, 1e10)  # Msun (C, T)
    subhalo_radius: tuple[float, float] = (0.0, 2.0)  # arcsec from the halo, any direction (P)
    vortex_fraction: tuple[float, float] = (0.03, 0.055)  # of the total mass (T)
    vortex_length: tuple[float, float] = (0.5, 2.0)  # arcsec (T)
    vortex_scatter: float = 0.5  # arcsec, standard deviation of the centre in x and in y (T)
    # Quirks of the published sets: the default is their choice.
    random_shear_axis: bool = False  # False: U(0, 2 pi) read as degrees (P): rings are stretched along one axis
    random_source_axis: bool = False  # False: likewise for the axis of an elliptical source (A)
    random_vortex_axis: bool = True  # True: any angle (T)
    distances: str = "luminosity"  # in the Einstein radius, with D_ls = D_s - D_l (C, P); "angular" is the physics
    subhalo_slope: float = -0.9  # dN/dm ~ m^slope (P); the papers print -1.9, which leaves nothing visible
    conserve_mass: bool = True  # halo mass = total - substructure (P)

    def __post_init__(self) -> None:
        if self.distances not in DISTANCES:
            raise ValueError(f"distances must be one of {', '.join(DISTANCES)}, not {self.distances!r}")
        if not -10 < self.subhalo_slope < 10:
            raise ValueError(f"subhalo_slope must lie between -10 and 10, not {self.subhalo_slope}")


RECIPES = {
    "f": Recipe(),
    "j": Recipe(
        name="j",
        z_lens=(0.4, 0.6),  # (T)
        z_source=(0.8, 1.2),  # (T)
        effective_radius=(0.25, 1.0),  # (T)
        axis_ratio=(0.4, 1.0),  # (T)
        peak_snr=(10.0, 30.0),  # (A)
    ),
}

QUIRKS = {
    "random_shear_axis": "draw the shear's axis from all directions, not from 0 to 6.28 degrees",
    "random_source_axis": "draw an elliptical source's axis from all directions, not from 0 to 6.28 degrees",
    "random_vortex_axis": "draw the vortex's axis from all directions, not from 0 to 6.28 degrees",
    "conserve_mass": "take the mass of the substructure from the halo",
    "distances": "distances in the Einstein radius",
    "subhalo_slope": "slope of the subhalos' mass function dN/dm",
}


# ---------------------------------------------------------------------------------------------------- drawing
@dataclasses.dataclass(frozen=True)
class Parameters:
    """A batch of B lenses: float64 arrays (B,), for subhalos (B, S), padded at the end with massless ones."""

    z_lens: np.ndarray
    z_source: np.ndarray
    theta_e: np.ndarray  # arcsec, Einstein radius of the recipe's total mass
    shear: np.ndarray
    shear_angle: np.ndarray  # radians
    source_x: np.ndarray  # arcsec
    source_y: np.ndarray
    source_radius: np.ndarray  # arcsec
    axis_ratio: np.ndarray
    source_angle: np.ndarray  # radians
    peak_snr: np.ndarray  # NaN where the recipe fixes the exposure
    vortex_mass: np.ndarray  # Msun, 0: none
    vortex_length: np.ndarray  # arcsec
    vortex_x: np.ndarray  # arcsec
    vortex_y: np.ndarray
    vortex_angle: np.ndarray  # radians
    subhalo_mass: np.ndarray  # Msun
    subhalo_x: np.ndarray  # arcsec
    subhalo_y: np.ndarray

    def __len__(self) -> int:
        return len(self.z_lens)

    def __getitem__(self, rows: slice | np.ndarray) -> "Parameters":
        """The lenses in `rows`, with no more padding than they need."""
        picked = {name: value[rows] for name, value in vars(self).items()}
        used = int(np.flatnonzero(picked["subhalo_mass"].any(0))[-1:].sum() + picked["subhalo_mass"].any())
        return Parameters(**{k: v[:, :used] if v.ndim == 2 else v for k, v in picked.items()})

    @property
    def substructure_mass(self) -> np.ndarray:
        """(B,) Msun, summed in a fixed order so that padding doesn't matter."""
        return sum(self.subhalo_mass.T, start=self.vortex_mass)


def stream(recipe: Recipe, class_name: str, seed: int, split: str, index: int, use: int) -> np.random.SeedSequence:
    """The random stream of one image: `use` 0 for its parameters, 1 for its noise."""
    key = (*recipe.name.encode(), SPLITS.index(split), CLASSES.index(class_name), index, use)
    return np.random.SeedSequence(seed, spawn_key=key)


def power_law(u: np.ndarray, low: float, high: float, slope: float) -> np.ndarray:
    """Quantiles u of dN/dm ~ m^slope on [low, high], by inversion."""
    k = slope + 1
    if abs(k) < 1e-9:
        return low * (high / low) ** u
    return (low**k + u * (high**k - low**k)) ** (1 / k)


def _angle(u: float, random_axis: bool) -> float:
    """U(0, 2 pi) radians, or (the quirk) the same number read as degrees."""
    return 2 * math.pi * u if random_axis else math.radians(2 * math.pi * u)


def _draw_common(recipe: Recipe, rng: np.random.Generator) -> dict[str, float]:
    u = rng.random(10).tolist()

    def between(bounds: tuple[float, float], k: int) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * u[k]

    offset, towards = between(recipe.source_offset, 4), 2 * math.pi * u[5]
    return {
        "z_lens": between(recipe.z_lens, 0),
        "z_source": between(recipe.z_source, 1),
        "shear": between(recipe.shear, 2),
        "shear_angle": _angle(u[3], recipe.random_shear_axis),
        "source_x": offset * math.cos(towards),
        "source_y": offset * math.sin(towards),
        "source_radius": between(recipe.effective_radius, 6),
        "axis_ratio": between(recipe.axis_ratio, 7),
        "source_angle": _angle(u[8], recipe.random_source_axis),
        "peak_snr": between(recipe.peak_snr, 9) if recipe.peak_snr else math.nan,
    }


def _draw_subhalos(recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    u = rng.random((3, rng.poisson(recipe.subhalo_count)))
    low, high = recipe.subhalo_radius
    radius, angle = low + (high - low) * u[1], 2 * np.pi * u[2]
    mass = power_law(u[0], *recipe.subhalo_mass, recipe.subhalo_slope)
    return {"subhalo_mass": mass, "subhalo_x": radius * np.cos(angle), "subhalo_y": radius * np.sin(angle)}


def _draw_vortex(recipe: Recipe, rng: np.random.Generator) -> dict[str, float]:
    x, y = rng.normal(0, recipe.vortex_scatter, 2)
    return {
        "vortex_mass": recipe.total_mass * rng.uniform(*recipe.vortex_fraction),
        "vortex_length": rng.uniform(*recipe.vortex_length),
        "vortex_x": x,
        "vortex_y": y,
        "vortex_angle": _angle(rng.random(), recipe.random_vortex_axis),
    }


SUBSTRUCTURE: dict[str, Callable[[Recipe, np.random.Generator], dict]] = {
    "no": lambda recipe, rng: {},
    "sphere": _draw_subhalos,
    "vort": _draw_vortex,
}


def _stack(lenses: list[dict], name: str) -> np.ndarray:
    if not name.startswith("subhalo"):
        return np.array([lens.get(name, 0.0) for lens in lenses], dtype=float)
    rows = [lens.get(name, ()) for lens in lenses]
    padded = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def draw(recipe: Recipe, class_name: str, seed: int, split: str, indices: Iterable[int]) -> Parameters:
    """Draw the lenses `indices` of a class. Each has its own stream: image i is the same in any company.

    Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    lenses = []
    for index in indices:
        rng = np.random.Generator(np.random.Philox(stream(recipe, class_name, seed, split, int(index), 0)))
        lenses.append(_draw_common(recipe, rng) | SUBSTRUCTURE[class_name](recipe, rng))
    names = [f.name for f in dataclasses.fields(Parameters) if f.name != "theta_e"]
    arrays = {name: _stack(lenses, name) for name in names}
    theta_e = einstein_radius(recipe.total_mass, arrays["z_lens"], arrays["z_source"], recipe.distances)
    return Parameters(theta_e=theta_e, **arrays)


# -------------------------------------------------------------------------------------------------- rendering
def grid(
    recipe: Recipe, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """x (1, 1, n) and y (1, n, 1) in arcsec of the supersampled rays; y falls with the row."""
    n = recipe.pixels * recipe.supersample
    steps = torch.arange(n, device=device, dtype=dtype) - (n - 1) / 2
    steps = steps * (recipe.pixel_scale / recipe.supersample)
    return steps.reshape(1, 1, n), -steps.reshape(1, n, 1)


def _columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def deflection(parameters: Parameters, recipe: Recipe, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec), (B, h, w) each, at x and y (arcsec; they broadcast: (1, 1, w) and (1, h, 1)).

    Halo (SIS) + external shear + subhalos (point masses) + vortex (rod). A mass m has the squared Einstein
    radius theta_E^2 m / total mass; with `conserve_mass` the halo has what the substructure leaves.
    """
    p, to = parameters, functools.partial(_columns, like=x)
    square = p.theta_e**2 / recipe.total_mass  # arcsec^2 / Msun
    halo = np.maximum(recipe.total_mass - recipe.conserve_mass * p.substructure_mass, 0)
    parts = [
        sis(x, y, to(np.sqrt(square * halo))),
        external_shear(x, y, to(p.shear), to(p.shear_angle)),
    ]
    if p.subhalo_mass.any():
        theta2 = to(square[:, None] * p.subhalo_mass)
        parts.append(point_masses(x, y, to(p.subhalo_x), to(p.subhalo_y), theta2))
    if p.vortex_mass.any():
        dx, dy = x - to(p.vortex_x), y - to(p.vortex_y)
        parts.append(rod(dx, dy, to(square * p.vortex_mass), to(p.vortex_length), to(p.vortex_angle)))
    ax, ay = parts[0]
    for more_x, more_y in parts[1:]:
        ax, ay = ax.add_(more_x), ay.add_(more_y)
    return ax, ay


def render_batch(
    parameters: Parameters,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`render`, all lenses at once: for a GPU (a CPU is faster one by one, its cache being small)."""
    x, y = grid(recipe, device, dtype)
    ax, ay = deflection(parameters, recipe, x, y)
    p, to, s = parameters, functools.partial(_columns, like=x), recipe.supersample
    u, v = (x - to(p.source_x)) - ax, (y - to(p.source_y)) - ay
    light = sersic(u, v, recipe.sersic_index, to(p.source_radius), to(p.axis_ratio), to(p.source_angle))
    rows = functools.reduce(torch.add, (light[:, i::s] for i in range(s)))  # (B, n s, n s) -> (B, n, n s)
    pixels = functools.reduce(torch.add, (rows[:, :, i::s] for i in range(s)))  # -> (B, n, n)
    source = gaussian_blur(pixels * (recipe.source_counts / s**2), recipe.psf_sigma / recipe.pixel_scale)
    if recipe.peak_snr is None:
        return source + recipe.sky
    peak = source.amax((1, 2), keepdim=True)
    exposure = to(p.peak_snr) ** 2 * (peak + recipe.sky) / peak**2  # S/N = t peak / sqrt(t (peak + sky))
    return exposure * (source + recipe.sky)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: where threads split an array decides its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def render(
    parameters: Parameters,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Expected counts (B, pixels, pixels), sky included, without noise.

    On a CPU each lens is computed by itself in one thread, so its bits don't depend on the batch.
    """
    if torch.device(device).type != "cpu":
        return render_batch(parameters, recipe, device, dtype)
    torch.empty(1 << 22)  # freed at once: glibc then keeps freed memory instead of fetching it anew (3x faster)
    with _one_thread():
        images = [render_batch(parameters[i : i + 1], recipe, device, dtype) for i in range(len(parameters))]
    return torch.cat(images) if images else torch.zeros((0, recipe.pixels, recipe.pixels), dtype=dtype)


def add_noise(rate: Tensor, streams: Sequence[np.random.SeedSequence]) -> np.ndarray:
    """Poisson counts, uint16 (B, n, n), of the expected counts `rate`; counts above 65535 are cut to it.

    Each image has its own stream. On a CPU that is NumPy's Philox and Generator.poisson; elsewhere torch's
    generator of that device, seeded with 64 bits of the stream: the same distribution, other numbers.
    """
    if rate.device.type == "cpu":
        pairs = zip(rate.numpy(), streams, strict=True)
        noisy = [np.random.Generator(np.random.Philox(s)).poisson(r) for r, s in pairs]
        counts = np.array(noisy, dtype=np.int64).reshape(rate.shape)
    else:
        generator, counts = torch.Generator(rate.device), torch.empty_like(rate)
        for image, r, s in zip(counts, rate, streams, strict=True):
            image.copy_(torch.poisson(r, generator.manual_seed(int(s.generate_state(1, np.uint64)[0]))))
        counts = counts.clamp_(max=65535).int().cpu().numpy()
    return np.minimum(counts, 65535).astype(np.uint16)


def simulate(
    recipe: Recipe,
    class_name: str,
    indices: Iterable[int],
    seed: int = 0,
    split: str = "train",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Noisy images `indices` of a class: uint16 counts (B, pixels, pixels), as `write_dataset` writes them.

    Raises ValueError for an unknown class or split, or a negative seed or index.
    """
    indices = [int(i) for i in indices]
    rate = render(draw(recipe, class_name, seed, split, indices), recipe, device)
    return add_noise(rate, [stream(recipe, class_name, seed, split, i, 1) for i in indices])


# ---------------------------------------------------------------------------------------------------- writing
def _write_atomic(path: Path, data: bytes, sync: bool = False) -> None:
    """The whole file or none, also after a kill: a temporary file beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _store(path: Path, image: np.ndarray) -> str:
    """Write an image unless it's there already; its SHA-256. Raises DatasetError if another one is there."""
    data = _npy(image)
    if not path.exists():
        _write_atomic(path, data)
    elif path.read_bytes() != data:
        raise DatasetError(
            f"{path} is not the image that this recipe and seed give: move it away or choose another --out"
        )
    return hashlib.sha256(data).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Job:
    """Some images of one class and split, for one worker."""

    folder: Path
    recipe: Recipe
    seed: int
    device: str
    split: str
    class_name: str
    indices: tuple[int, ...]


def _name(split: str, class_name: str, index: int) -> str:
    return f"{split}/{class_name}/{index:06d}.npy"


def _write_images(job: _Job) -> dict[str, str]:
    """Simulate and write a job's images; file name -> SHA-256."""
    images = simulate(job.recipe, job.class_name, job.indices, job.seed, job.split, job.device)
    names = [_name(job.split, job.class_name, i) for i in job.indices]
    paths = [job.folder / name for name in names]
    if job.device == "cpu":
        return dict(zip(names, map(_store, paths, images), strict=True))
    with ThreadPoolExecutor(8) as threads:
        return dict(zip(names, threads.map(_store, paths, images), strict=True))


def _start_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; never outlive the parent."""

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=follow_parent, daemon=True).start()


def _results(jobs: list[_Job], workers: int) -> Iterator[dict[str, str]]:
    """The jobs' results as they come, from this process or from spawned ones."""
    if workers <= 1:
        yield from map(_write_images, jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker)
    try:
        for done in as_completed([pool.submit(_write_images, job) for job in jobs]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _identity(recipe: Recipe, seed: int, device: str) -> dict:
    """What must agree for two calls to share a folder, as JSON gives it back."""
    same = {"simulator": SIMULATOR, "recipe": dataclasses.asdict(recipe), "seed": seed, "device": device}
    return json.loads(json.dumps(same))


def _versions() -> dict[str, str]:
    vectors = torch.backends.cpu.get_cpu_capability()
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cpu": vectors,
    }


def _difference(old: dict, new: dict) -> str:
    """'seed is 1, not 0': the first thing in which two identities differ, or ''."""
    old, new = ({**d, **{f"recipe {k}": v for k, v in dict(d.get("recipe") or {}).items()}} for d in (old, new))
    keys = [k for k in new if k != "recipe" and old.get(k) != new[k]]
    return f"{keys[0]} is {old.get(keys[0])}, not {new[keys[0]]}" if keys else ""


def read_manifest(folder: Path) -> dict:
    """The manifest of a data set. Raises DatasetError if it can't be read, OSError if there is none."""
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        ok = isinstance(manifest, dict) and all(isinstance(manifest[k], dict) for k in ("recipe", "files"))
    except (ValueError, KeyError):
        ok = False
    if not ok:
        raise DatasetError(
            f"{path} is damaged (expected JSON with recipe and files): restore it or choose another --out"
        )
    return manifest


def _images_in(folder: Path) -> set[str]:
    """Names of all `.npy` below the folder's splits, and beside them."""
    found = [*folder.glob("*.npy"), *(f for split in SPLITS for f in (folder / split).rglob("*.npy"))]
    return {f.relative_to(folder).as_posix() for f in found if not f.name.startswith(".")}


def _check_folder(folder: Path, identity: dict, on_disk: set[str]) -> dict:
    """The manifest to go on from, {} in a new folder. Raises DatasetError if the folder holds other data."""
    path = folder / "manifest.json"
    if not path.exists():
        if on_disk:
            raise DatasetError(f"{folder} holds images ({min(on_disk)}) but no manifest.json: choose another --out")
        return {}
    manifest = read_manifest(folder)
    if difference := _difference(manifest, identity):
        raise DatasetError(f"{path} is of another data set ({difference}): choose another --out")
    pattern = re.compile(rf"({'|'.join(SPLITS)})/({'|'.join(CLASSES)})/\d{{6,}}\.npy")
    if strangers := sorted(n for n in on_disk if not pattern.fullmatch(n)):
        raise DatasetError(f"{folder / strangers[0]} is not of this data set: move it away or choose another --out")
    return manifest


def _read_journal(path: Path) -> dict[str, str]:
    """File name -> SHA-256 of what an unfinished call has written; a torn last line is left out."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {name: sha for line in lines for name, sha in json.loads(line).items()}


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


def _write_parameters(folder: Path, recipe: Recipe, seed: int, names: Iterable[str]) -> None:
    """`parameters/SPLIT_CLASS.npz`: the index of each image and the arrays of `Parameters`."""
    (folder / "parameters").mkdir(exist_ok=True)
    for job in _jobs(sorted(names), sys.maxsize, functools.partial(_Job, folder, recipe, seed, "cpu")):
        drawn, buffer = draw(recipe, job.class_name, seed, job.split, job.indices), io.BytesIO()
        np.savez_compressed(buffer, index=np.array(job.indices), **vars(drawn))
        _write_atomic(folder / "parameters" / f"{job.split}_{job.class_name}.npz", buffer.getvalue())


def _prepare(folder: Path, recorded: Iterable[str], size: int) -> None:
    """Make the class folders, drop what a killed call left half-written, and check the images' sizes.

    Raises DatasetError for an image of another size: it was damaged since.
    """
    for split in {name.split("/")[0] for name in recorded}:
        for class_name in CLASSES:
            (folder / split / class_name).mkdir(parents=True, exist_ok=True)
            for leftover in (folder / split / class_name).glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
    for name in recorded:
        path = folder / name
        if path.exists() and path.stat().st_size != size:
            raise DatasetError(
                f"{path} is damaged ({path.stat().st_size} bytes, expected {size}): delete it and run again"
            )


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass
class _Plan:
    """Image names of a data set: all of them, those still to write, and the SHA-256 of those written."""

    wanted: list[str]
    todo: list[str]
    files: dict[str, str]
    versions: list[dict]
    complete: bool


def _plan(folder: Path, identity: dict, counts: dict[str, int]) -> _Plan:
    """Compare what is asked with what is there. Raises DatasetError if the folder holds other data."""
    on_disk = _images_in(folder)
    manifest = _check_folder(folder, identity, on_disk)
    recorded = {**manifest["files"], **_read_journal(folder / "journal.jsonl")} if manifest else {}
    asked = [_name(s, c, i) for s in SPLITS for c in CLASSES for i in range(counts.get(s, 0))]
    wanted = [*asked, *sorted(on_disk.union(recorded).difference(asked))]
    todo = [name for name in wanted if name not in recorded or name not in on_disk]
    versions = manifest.get("versions", [])
    versions += [v for v in [_versions()] if todo and v not in versions]
    files = {name: recorded[name] for name in wanted if name in recorded}
    return _Plan(wanted, todo, files, versions, manifest.get("complete", False) and not todo)


def _write_missing(folder: Path, plan: _Plan, jobs: list[_Job], workers: int, quiet: bool) -> None:
    """Run the jobs, with a progress bar and a journal of what they wrote."""
    from tqdm import tqdm

    total, done = len(plan.wanted), len(plan.wanted) - len(plan.todo)
    bar = tqdm(total=total, initial=done, unit="image", disable=quiet, smoothing=0.05)
    journal = open(folder / "journal.jsonl", "w", encoding="utf-8")
    with bar, journal, contextlib.closing(_results(jobs, workers)) as results:
        for written in results:
            plan.files.update(written)
            journal.write(json.dumps(written) + "\n")
            journal.flush()
            bar.update(len(written))


def write_dataset(
    folder: str | Path,
    recipe: Recipe,
    counts: dict[str, int],
    seed: int = 0,
    device: str = "cpu",
    workers: int | None = None,
    quiet: bool = False,
) -> dict:
    """Write, finish or extend a data set of counts[split] images a class; its manifest.

    workers: processes on a CPU (None: one a core; a script that asks for more than one needs the usual
    `if __name__ == "__main__"`). Nothing that is there is overwritten: DatasetError if the folder holds other
    images, OSError if it can't be written. A call that was cut short ends with the same bytes when run again.
    """
    folder, device = Path(folder), torch.device(device).type
    identity = _identity(recipe, seed, device)
    plan = _plan(folder, identity, counts)
    size = len(_npy(np.zeros((recipe.pixels, recipe.pixels), np.uint16)))
    _prepare(folder, plan.wanted, size)
    if plan.complete:
        return read_manifest(folder)
    _check_space(folder, len(plan.todo), size)

    def write_manifest(complete: bool) -> None:
        data = _manifest_bytes(identity, plan.versions, plan.files, complete)
        _write_atomic(folder / "manifest.json", data, sync=True)

    write_manifest(complete=False)
    make = functools.partial(_Job, folder, recipe, seed, device)
    jobs = _jobs(plan.todo, 32 if device == "cpu" else 256, make)
    many = device == "cpu" and len(plan.todo) > 200  # fewer don't repay starting processes
    _write_missing(folder, plan, jobs, (workers or usable_cores()) if many else 1, quiet)
    _write_parameters(folder, recipe, seed, plan.files)
    write_manifest(complete=True)
    (folder / "journal.jsonl").unlink()
    return read_manifest(folder)


def write_sheet(path: str | Path, recipe: Recipe, seed: int = 0, device: str = "cpu") -> None:
    """A 5 x 5 picture of simulated images of all classes: random 128 x 128 crops, each scaled to its maximum.

    Raises OSError if it can't be written.
    """
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(15, 15), layout="tight")
    for index, axes in enumerate(figure.subplots(5, 5).flat):
        class_name, room = CLASSES[rng.integers(3)], max(recipe.pixels - 128, 0) + 1
        top, left = rng.integers(room), rng.integers(room)
        (image,) = simulate(recipe, class_name, [index], seed, "train", device)
        image = image[top : top + 128, left : left + 128]
        axes.imshow(image / max(image.max(), 1), cmap="gray", vmin=0, vmax=1)
        axes.set_title(TITLES[class_name])
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    _write_atomic(Path(path), buffer.getvalue())


# ----------------------------------------------------------------------------------------------- command line
def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, not {text!r}")
    return int(text)


def _add_quirks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quirks of the published data sets (default: as they have it)")
    for name, text in QUIRKS.items():
        default = getattr(RECIPES["f"], name)
        kind = {bool: {"action": argparse.BooleanOptionalAction}, float: {"type": float}}.get(type(default), {})
        choices = {"choices": DISTANCES} if name == "distances" else {}
        group.add_argument(f"--{name}", help=f"{text} (default: {default})", default=None, **kind, **choices)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulate.py", description="Simulate strong-lens images.", allow_abbrev=False)
    parser.add_argument("--model", choices=sorted(RECIPES), required=True, help="data set to simulate")
    parser.add_argument("--out", type=Path, help="folder (default: images_MODEL, none if only --sheet is asked for)")
    parser.add_argument("--train", type=_natural, default=25000, help="training images a class (default: 25000)")
    parser.add_argument("--val", type=_natural, default=2500, help="validation images a class (default: 2500)")
    parser.add_argument("--test", type=_natural, default=0, help="test images a class (default: 0)")
    parser.add_argument("--seed", type=_natural, default=0, help="random seed (default: 0)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a 5 x 5 picture of examples")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--workers", type=_natural, default=0, help="processes on a CPU (default: 0, one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_quirks(parser)
    return parser


def _check_writable(folder: Path) -> None:
    """Raises OSError unless files can be made in the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}.tmp"
    probe.touch()
    probe.unlink()


def _device(name: str) -> str:
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("argument --device: no CUDA device found; use --device cpu")
    return "cuda" if found and name != "cpu" else "cpu"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked, with `recipe` and a definite `device`; exits with 2 and the reason if need be."""
    parser = _parser()
    args = parser.parse_args(arguments)
    args.counts = {split: getattr(args, split) for split in SPLITS}
    if args.out is None and args.sheet is None:
        args.out = Path(f"images_{args.model}")
    if args.out is not None and not any(args.counts.values()):
        parser.error("nothing to simulate: --train, --val and --test are all 0")
    try:
        chosen = {k: getattr(args, k) for k in QUIRKS if getattr(args, k) is not None}
        args.recipe = dataclasses.replace(RECIPES[args.model], **chosen)
        args.device = _device(args.device)
        for folder in filter(None, (args.out, args.sheet and args.sheet.parent)):
            _check_writable(folder)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write to {error.filename}: {error.strerror}")
    return args


def _run(args: argparse.Namespace) -> None:
    if args.sheet is not None:
        write_sheet(args.sheet, args.recipe, args.seed, args.device)
        _say(args, f"{args.sheet}: 25 images")
    if args.out is not None:
        done = write_dataset(args.out, args.recipe, args.counts, args.seed, args.device, args.workers, args.quiet)
        counts = [f"{sum(of_split.values())} {split}" for split, of_split in done["images"].items()]
        _say(args, f"{args.out}: {', '.join(counts)} images of Model {args.model.upper()}")


def _say(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    args = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    again = "run the same command again to go on"
    try:
        _run(args)
    except DatasetError as error:
        print(f"simulate.py: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"simulate.py: error: cannot write to {error.filename or args.out}: {error.strerror}; {again}",
            file=sys.stderr,
        )
        return 1
    except BrokenProcessPool:
        print(f"simulate.py: error: a worker process died (killed, or out of memory); {again}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"simulate.py: interrupted; {again}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

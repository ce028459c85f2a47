"""Training batches of lenses that are drawn and rendered as they are needed, never the same twice.

    data = scan("simulated_f")                                               # val, and a sample of train
    batches = Endless("f", 12_000, data, default_preprocess(data.size), 32, seed=1)
    for images, labels, indices in batches.epoch(3):                         # (B, C, S, S) float32, (B,), (B,)
        ...

Image i, counted over all epochs, is number i // K of class i % K (of K, by name) of what `simulate.py --seed` would
write as training images: it depends on (recipe, seed, i) alone, so a run can stop anywhere and go on. Validation and
test images have random streams of their own (`draw.stream`). On a CPU, other processes render ahead of the training;
on a GPU they draw the parameters, and the GPU renders, with noise that depends on the batch too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens import machine
from darklens.data.batches import Batches
from darklens.data.folder import LensFolder
from darklens.data.reader import Reader, Remark
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.fit import SmoothModel
from darklens.fit.assumptions import true_parameters
from darklens.simulation import draw, noise, recipes, render
from darklens.simulation.recipes import SimulationConfig

HELD = {"train": 300, "val": 700}  # images a class that are kept on disk: to look at, and to validate on


def class_names(recipe: SimulationConfig) -> tuple[str, ...]:
    """The recipe's classes in the order in which a folder has them."""
    return tuple(sorted(recipe.classes))


def check_folder(data: LensFolder, recipe: SimulationConfig) -> None:
    """Raise DataError unless networks trained on lenses of that recipe fit these images."""
    names, size = class_names(recipe), recipe.image.pixels
    if (tuple(data.classes), data.channels, data.size) != (names, 1, size):
        raise DataError(
            f"{data.root}: expected classes {', '.join(names)} and images of 1 x {size} x {size}, as --simulate "
            f"{recipe.name} makes them, found {', '.join(data.classes)} and {data.channels} x {data.size} x {data.size}"
        )


class Endless(Batches):
    """The training batches of an endless data set, `images` of them to the epoch (rounded up to as many a class).

    model: a recipe, its name or its file.
    data: the folder that the network is validated on, of the same classes and size (`check_folder`). Other arguments
    and attributes are those of `Batches`; `path` names what an image is rather than a file.
    """

    def __init__(
        self,
        model: str | Path | SimulationConfig,
        images: int,
        data: LensFolder,
        preprocess: Preprocess,
        batch_size: int,
        device: str | torch.device = "cpu",
        *,
        seed: int = 0,
        workers: int | None = None,
        shift: int | None = None,
        share: Callable[[int], slice] | None = None,
    ):
        self.recipe = model if isinstance(model, SimulationConfig) else recipes.load_recipe(model)
        check_folder(data, self.recipe)
        workers = max(1, machine.usable_cores() // 2) if workers is None else workers
        super().__init__(
            data.splits["train"],
            data,
            preprocess,
            batch_size,
            device,
            train=True,
            seed=seed,
            workers=workers,
            shift=shift,
            share=share,
        )
        self.names = class_names(self.recipe)
        kinds = len(self.names)
        self.labels = np.arange(-(-images // kinds) * kinds) % kinds
        on_gpu = self.device.type == "cuda"
        self._reader = _Draw(self.recipe, seed) if on_gpu else _Render(self.recipe, seed, preprocess)
        self.is_view = preprocess.view != "image"

    def path(self, index: int) -> Path:
        """What to call an image: the file that `simulate.py` would write it to."""
        number, kind = divmod(int(index), len(self.names))
        return Path(f"images_{self.recipe.name}", "train", self.names[kind], f"{number:06d}.npy")

    @property
    def identity(self) -> dict[str, str | int]:
        """What else decides the images."""
        return {
            "simulate": self.recipe.name,
            "simulator": recipes.SIMULATOR,
            "lenses": hashlib.sha256(json.dumps(recipes.recipe_dict(self.recipe)).encode()).hexdigest(),
            "epoch images": len(self.labels),
        }

    def _load(self, reader: Reader, limit: int, progress: bool) -> None:
        return None

    def _order(self, epoch: int) -> np.ndarray:
        return epoch * len(self.labels) + np.arange(len(self.labels))

    def _stream(self, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, 1, H, W) pixels, for each chunk of indices."""
        if self.device.type != "cuda":
            yield from super()._stream(chunks)
            return
        for lenses, indices in zip(self._ahead(chunks), chunks, strict=True):
            counts = render_noisy(lenses, indices, self.recipe, self.seed, self.device)
            yield self.preprocess.with_fit(counts, training=True)[0] if self.is_view else counts


def render_noisy(
    samples: Sequence[draw.LensSample], indices: np.ndarray, recipe: SimulationConfig, seed: int, device: torch.device
) -> torch.Tensor:
    """Noisy images (B, 1, H, W) float32 of lenses drawn class by class, in the order of their indices (B,).

    One stream of noise serves the batch: that of its first image.
    """
    names = class_names(recipe)
    order = np.concatenate([np.flatnonzero(indices % len(names) == kind) for kind in range(len(names))])
    number, kind = divmod(int(indices[0]), len(names))
    source = draw.stream(recipe, names[kind], seed, "train", number, 1)
    generator = torch.Generator(device).manual_seed(int(source.generate_state(1, np.uint64)[0]))
    parts = [(lenses, *render.light_and_sky(lenses, recipe, device)) for lenses in samples if len(lenses)]
    images = torch.cat([noise.noisy(recipe, *part, generator) for part in parts])
    images = images.clamp_(max=65535) if noise.is_counts(recipe) else images
    return images[torch.from_numpy(np.argsort(order)).to(device)].unsqueeze(1)  # (B, H, W) -> (B, 1, H, W)


class _Simulation(Dataset):
    """The lenses of a batch."""

    def __init__(self, recipe: SimulationConfig, seed: int):
        self.recipe, self.seed, self.names = recipe, seed, class_names(recipe)

    def _numbers(self, indices: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Each class, which of the indices are of it, and their numbers in it."""
        for kind, name in enumerate(self.names):
            rows = indices % len(self.names) == kind
            yield name, rows, indices[rows] // len(self.names)


class _Render(_Simulation):
    """Renders the images of a batch."""

    def __init__(self, recipe: SimulationConfig, seed: int, preprocess: Preprocess):
        super().__init__(recipe, seed)
        self.preprocess = preprocess

    def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, list[Remark]]:
        """(B, 1, H, W) uint16 or float32, or views of them (B, C, S, S) float16; no constant images among them."""
        images, preprocess = self._images(indices), self.preprocess
        if preprocess.smooth_model is None:
            return images, []
        counts = torch.from_numpy(images.astype(np.float64))
        view, _ = preprocess.with_fit(counts, self._start(indices, preprocess.smooth_model), training=True)
        return view.half().numpy(), []

    def _start(self, indices: np.ndarray, model: SmoothModel) -> np.ndarray | None:
        """(B, P) where the fits start, as `provenance.true_start` has it."""
        if not model.free_light:
            return None
        start = np.empty((len(indices), len(model.free)))
        for name, rows, numbers in self._numbers(indices):
            start[rows] = true_parameters(draw.draw(self.recipe, name, self.seed, "train", numbers), model)
        return start

    def _images(self, indices: np.ndarray) -> np.ndarray:
        size = self.recipe.image.pixels
        images = np.empty((len(indices), 1, size, size), noise.image_dtype(self.recipe))
        for name, rows, numbers in self._numbers(indices):
            images[rows, 0] = render.simulate(self.recipe, name, numbers, self.seed)
        return images


class _Draw(_Simulation):
    """Draws the lenses of a batch."""

    def __getitem__(self, indices: np.ndarray) -> tuple[list[draw.LensSample], list[Remark]]:
        """Lenses, class by class."""
        classes = self._numbers(indices)
        return [draw.draw(self.recipe, name, self.seed, "train", numbers) for name, _, numbers in classes], []

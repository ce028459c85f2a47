"""Training batches of lenses that are drawn and rendered as they are needed, never the same twice.

    data = dataset.scan("simulated_f")                                       # val, and a sample of train
    batches = Endless("f", 12_000, data, dataset.default_preprocess(data.size), 32, seed=1)
    for images, labels, indices in batches.epoch(3):                         # (B, C, S, S) float32, (B,), (B,)
        ...

Image i, counted over all epochs, is number i // 3 of class i % 3 of what `simulate.py --seed` would write as training
images: it depends on (model, seed, i) alone, so a run can stop anywhere and go on. Validation and test images have
random streams of their own (`simulate.stream`). On a CPU, other processes render ahead of the training; on a GPU they
draw the parameters, and the GPU renders, with noise that depends on the batch too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens import machine
from darklens.data.batches import Batches
from darklens.data.folder import LensFolder
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.lenses import draw, recipes, render

KINDS = len(recipes.CLASSES)
HELD = {"train": 300, "val": 700}  # images a class that are kept on disk: to look at, and to validate on


def check_folder(data: LensFolder, model: str) -> None:
    """Raise DataError unless networks trained on lenses of that model fit these images."""
    recipe = recipes.RECIPES[model]
    found = tuple(data.classes), data.channels, data.size
    if found != (recipes.CLASSES, 1, recipe.pixels):
        raise DataError(
            f"{data.root}: expected classes {', '.join(recipes.CLASSES)} and images of 1 x {recipe.pixels} x "
            f"{recipe.pixels}, as --simulate {model} makes them, found {', '.join(found[0])} and "
            f"{data.channels} x {data.size} x {data.size}"
        )


class Endless(Batches):
    """The training batches of an endless data set, `images` of them to the epoch (rounded up to whole triples).

    data: the folder that the network is validated on, of the same classes and size (`check_folder`). Other arguments
    and attributes are those of `Batches`; `path` names what an image is rather than a file.
    """

    def __init__(
        self,
        model: str,
        images: int,
        data: LensFolder,
        preprocess: Preprocess,
        batch_size: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        workers: int | None = None,
        shift: int | None = None,
        share: Callable[[int], slice] | None = None,
        **unused: object,
    ):
        check_folder(data, model)
        workers = max(1, machine.usable_cores() // 2) if workers is None else workers
        options = {"train": True, "seed": seed, "workers": workers, "shift": shift, "share": share}
        super().__init__(data.splits["train"], data, preprocess, batch_size, device, **options)
        self.model, self.labels = model, np.arange(-(-images // KINDS) * KINDS) % KINDS
        self._reader = _Draw(model, seed) if self.device.type == "cuda" else _Render(model, seed, preprocess)
        self.viewed = preprocess.view != "image"

    def path(self, index: int) -> Path:
        """What to call an image: the file that `simulate.py` would write it to."""
        number, kind = divmod(int(index), KINDS)
        return Path(f"images_{self.model}", "train", recipes.CLASSES[kind], f"{number:06d}.npy")

    @property
    def identity(self) -> dict[str, str | int]:
        """What else decides the images."""
        return {"simulate": self.model, "simulator": recipes.SIMULATOR, "epoch images": len(self.labels)}

    def _load(self, limit: int, progress: bool) -> None:
        return None

    def _order(self, epoch: int) -> np.ndarray:
        return epoch * len(self.labels) + np.arange(len(self.labels))

    def _stream(self, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, 1, H, W) counts, for each chunk of indices."""
        if self.device.type != "cuda":
            yield from super()._stream(chunks)
            return
        for drawn, indices in zip(self._ahead(chunks), chunks, strict=True):
            counts = render_noisy(drawn, indices, self.model, self.seed, self.device)
            yield self.preprocess.with_fit(counts)[0] if self.viewed else counts


def render_noisy(
    drawn: Sequence[draw.Parameters], indices: np.ndarray, model: str, seed: int, device: torch.device
) -> torch.Tensor:
    """Noisy counts (B, 1, H, W) float32 of lenses drawn class by class, in the order of their indices (B,).

    One stream of noise serves the batch: that of its first image.
    """
    recipe = recipes.RECIPES[model]
    order = np.concatenate([np.flatnonzero(indices % KINDS == kind) for kind in range(KINDS)])
    rate = torch.cat([render.render(lenses, recipe, device) for lenses in drawn if len(lenses)])
    number, kind = divmod(int(indices[0]), KINDS)
    source = draw.stream(recipe, recipes.CLASSES[kind], seed, "train", number, 1)
    generator = torch.Generator(device).manual_seed(int(source.generate_state(1, np.uint64)[0]))
    counts = torch.poisson(rate, generator).clamp_(max=65535)
    return counts[torch.from_numpy(np.argsort(order)).to(device)].unsqueeze(1)  # (B, H, W) -> (B, 1, H, W)


class _Render(Dataset):
    """Renders the images of a batch."""

    def __init__(self, model: str, seed: int, preprocess: Preprocess | None = None):
        self.recipe, self.seed, self.preprocess = recipes.RECIPES[model], seed, preprocess

    def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """(B, 1, H, W) uint16 counts, or views of them (B, C, S, S) float16; no constant images among them."""
        counts = self._counts(indices)
        if self.preprocess is None or self.preprocess.view == "image":
            return counts, []
        view, _ = self.preprocess.with_fit(torch.from_numpy(counts.astype(np.float64)))
        return view.half().numpy(), []

    def _counts(self, indices: np.ndarray) -> np.ndarray:
        size = self.recipe.pixels
        counts = np.empty((len(indices), 1, size, size), np.uint16)
        for kind, name in enumerate(recipes.CLASSES):
            mine = indices % KINDS == kind
            counts[mine, 0] = render.simulate(self.recipe, name, indices[mine] // KINDS, self.seed)
        return counts


class _Draw(_Render):
    """Draws the parameters of the lenses of a batch."""

    def __getitem__(self, indices: np.ndarray) -> tuple[list[draw.Parameters], list[int]]:
        """Parameters, class by class."""
        numbers = [indices[indices % KINDS == kind] // KINDS for kind in range(KINDS)]
        return [
            draw.draw(self.recipe, name, self.seed, "train", mine)
            for name, mine in zip(recipes.CLASSES, numbers, strict=True)
        ], []

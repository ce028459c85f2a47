"""Views of many realisations of a lens, other noise and other substructure, by the linear problem of one fit.

    python benchmarks/realisations.py views OUT --lenses 300                     # OUT/00000.npy, one a lens
    python benchmarks/realisations.py views SMOOTH --lenses 60 --model j
    python benchmarks/realisations.py views WIDE --lenses 150 --model wide_sources
    python benchmarks/realisations.py train OUT SMOOTH WIDE --epochs 3           # OUT/best-model-parameters.pt

A flexible source takes seconds to fit; what its last linear problem leaves of another image of the same lens takes
milliseconds. Such residuals are those of one Gauss-Newton step under the prior of a smooth lens's source: they keep a
little more of strong substructure than the fits have. A network that has learned them is trained on in a few passes
over fits:

    python main.py --mode Train --data_dir js --view flexible --weights OUT/best-model-parameters.pt

Each lens gives as many images of each class; validation is by lenses that were not trained on. An interrupted call
goes on where it stopped. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from darklens.classifier import saved
from darklens.data.batches import Batches
from darklens.data.folder import LensFolder, Split
from darklens.data.residual import view_of_residual
from darklens.data.source import ImageSource, Pixels
from darklens.fit.assumptions import smooth_model
from darklens.fit.batch import prepare
from darklens.fit.flexible import FlexibleLens
from darklens.fit.model import SmoothModel
from darklens.fit.structured import fit_structured
from darklens.fit.window import Window, as_images, middle
from darklens.machine import choose_precision
from darklens.simulation.draw import LensSample, draw, generator, stream, with_substructure
from darklens.simulation.noise import add_noise
from darklens.simulation.recipes import CLASSES, RECIPES, SimulationConfig
from darklens.simulation.render import light_and_sky
from darklens.storage.files import replacing
from darklens.training.recipes import choose_recipe
from darklens.training.trainer import Trainer

SIZE = 105
SEED = 31  # of the lenses: none of a data set of `simulate.py` with another seed is among them
VAL = 20  # the share of lenses, one in so many, that validate


@dataclasses.dataclass(frozen=True)
class Realisations:
    """A recipe's lenses, and so many images of each class of every one."""

    config: SimulationConfig
    model: SmoothModel
    images: int

    def lens(self, number: int) -> LensSample:
        """Lens `number`, smooth, once for each image of a class."""
        lens = draw(self.config, "no", SEED, "train", [number])
        return lens[np.zeros(self.images, dtype=int)]

    def sample(self, number: int, name: str) -> LensSample:
        """That lens with the substructure of so many lenses of a class."""
        numbers = range(number * self.images, (number + 1) * self.images)
        return with_substructure(self.config, self.lens(number), draw(self.config, name, SEED, "train", numbers))

    def images_of(self, number: int, name: str) -> np.ndarray:
        """(images, H, W) with noise."""
        sample = self.sample(number, name)
        numbers = range(number * self.images, (number + 1) * self.images)
        noise = [generator(stream(self.config, name, SEED, "val", index, 1)) for index in numbers]
        return add_noise(self.config, sample, *light_and_sky(sample, self.config), noise)

    def views(self, number: int) -> np.ndarray | None:
        """(classes, images, SIZE, SIZE) float16 of a lens; None where its smooth image could not be fitted."""
        smooth = self.images_of(number, "no")[:1].astype(float)
        structured = fit_structured(smooth, self.model, lenses=True, view_only=True)
        lens = structured.lenses[0]
        if lens is None or structured.fit.flag[0]:
            return None
        window = prepare(as_images(smooth, torch.device("cpu")), structured.fit.model).window
        width = float(structured.fit.noise_width[0])
        return np.stack([self._class_views(lens, window, width, self.images_of(number, name)) for name in CLASSES])

    @staticmethod
    def _class_views(lens: FlexibleLens, window: Window, width: float, images: np.ndarray) -> np.ndarray:
        data = middle(as_images(images.astype(float), torch.device("cpu")), lens.data.shape[-1])
        data = (data - window.background) / window.scale  # the unit of the fit
        return view_of_residual(lens.residuals_of(data), SIZE, [width] * len(data))[:, 0].half().numpy()


class ViewFiles(ImageSource):
    """The views of some lenses' files, class by class."""

    is_view = True

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder, self.shape = folder, (1, SIZE, SIZE)
        views = np.stack([np.load(file) for file in files], 1)  # (classes, lenses, images, SIZE, SIZE)
        self.labels = np.repeat(np.arange(len(views)), views[0, :, :, 0, 0].size)
        self.views = views.reshape(-1, *self.shape)  # -> (n, 1, SIZE, SIZE)

    def __len__(self) -> int:
        return len(self.views)

    def name(self, index: int) -> str:
        return f"{index:07d}"

    def read(self, index: int, window: int | None = None) -> Pixels:
        return Pixels(self.views[index], False)

    def stamp(self, indices: range) -> str:
        return str(len(self))


def make_views(args: argparse.Namespace) -> None:
    """A file a lens, those left out that are there; an empty one where there is no fit."""
    config = RECIPES[args.model]
    model = dataclasses.replace(smooth_model(config), window=SIZE, source="flexible")
    realisations = Realisations(config, model, args.images)
    args.folders[0].mkdir(parents=True, exist_ok=True)
    for number in range(args.first, args.first + args.lenses):
        path = args.folders[0] / f"{number:05d}.npy"
        if path.exists():
            continue
        views = realisations.views(number)
        with replacing(path, "wb") as file:
            np.save(file, np.zeros(0) if views is None else views)
        print(number, "not fitted" if views is None else f"{views.astype(float).std((1, 2, 3)).round(3)}", flush=True)


def train(args: argparse.Namespace) -> None:
    """Train the network of --weights on the views."""
    files = [[file for file in sorted(folder.glob("[0-9]*.npy")) if np.load(file).size] for folder in args.folders]
    classifier = saved.load_model(saved.find_weights(args.weights))
    model = dataclasses.replace(smooth_model(RECIPES[args.model]), window=SIZE, source="flexible")
    classifier.preprocess = dataclasses.replace(classifier.preprocess, view="flexible", smooth_model=model)
    splits = {
        "train": [file for each in files for file in each[len(each) // VAL :]],
        "val": [file for each in files for file in each[: len(each) // VAL]],
    }
    precision = choose_precision(None, torch.device("cpu"))
    recipe = choose_recipe("fast", epochs=args.epochs, lr=args.lr)
    batches = {}
    for name, parts in splits.items():
        source = ViewFiles(args.folders[0], parts)
        folder = LensFolder(args.folders[0], tuple(CLASSES), 1, SIZE, {}, 0)
        split = Split(name, source, source.labels)
        batches[name] = Batches(
            split, folder, classifier.preprocess, recipe.batch_size, train=name == "train", workers=0
        )
    Trainer(classifier, batches["train"], batches["val"], recipe, args.folders[0], log=print, precision=precision).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("views", "train"))
    parser.add_argument("folders", type=Path, nargs="+", help="of the views; the network goes into the first")
    parser.add_argument("--model", default="j_sources", help="recipe (j_sources)")
    parser.add_argument("--lenses", type=int, default=800)
    parser.add_argument("--first", type=int, default=0, help="number of the first lens (0)")
    parser.add_argument("--images", type=int, default=20, help="of each class, a lens (20)")
    parser.add_argument("--weights", default="compact-j", help="where the network starts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="learning rate (that of the recipe fast)")
    args = parser.parse_args()
    (make_views if args.stage == "views" else train)(args)


if __name__ == "__main__":
    main()

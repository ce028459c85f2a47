"""A picture of 25 simulated images."""

import io
from pathlib import Path

import numpy as np

from darklens.simulation.recipe_tables import SimulationConfig
from darklens.simulation.render import simulate
from darklens.storage.files import replacing


def write_sheet(path: str | Path, recipe: SimulationConfig, seed: int = 0, device: str = "cpu") -> None:
    """A 5 x 5 picture of simulated images of all classes: random 128 x 128 crops, each scaled to its brightest pixels.

    Raises OSError if it can't be written.
    """
    from matplotlib.figure import Figure

    rng, classes = np.random.default_rng(seed), list(recipe.classes)
    figure = Figure(figsize=(15, 15), layout="tight")
    for index, axes in enumerate(figure.subplots(5, 5).flat):
        class_name, room = classes[rng.integers(len(classes))], max(recipe.image.pixels - 128, 0) + 1
        row, column = rng.integers(room), rng.integers(room)
        (image,) = simulate(recipe, class_name, [index], seed, "train", device)
        image = image[row : row + 128, column : column + 128]
        if recipe.lens_light is not None:  # or the lens galaxy's middle would be all that is seen
            image = stretched(image)
        axes.imshow(image, cmap="gray", vmin=min(image.min(), 0), vmax=np.percentile(image, 99.9))
        axes.set_title(recipe.classes[class_name].title or class_name)
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    with replacing(path, "wb", sync=False) as file:
        file.write(buffer.getvalue())


def stretched(image: np.ndarray) -> np.ndarray:
    """arcsinh of the image over three times the scatter of its pixels about their median: faint and bright are seen."""
    middle = np.median(image)
    scatter = 1.4826 * np.median(np.abs(image - middle))
    return np.arcsinh((image - middle) / max(3 * float(scatter), 1e-30))

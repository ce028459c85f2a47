"""Smooth lens images and their derivatives, many at once: one evaluation of each light, then blurs.

The lights are those of `components.build`: a Sersic source behind the mass, the lens galaxy's own. Each gives its
image and the derivatives by the parameters that move it. A pixel is the mean of its rays; then comes the PSF.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from darklens.fit.blur import WIDTH, HeldPsf, psf
from darklens.fit.components import build
from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Values
from darklens.fit.model import SmoothModel

SOURCE = 0  # the first of the lights


class Renderer:
    """Images of one camera: `size` pixels of `binning` image pixels each, amplitudes 1 and no sky.

    There are L lights: the source's, and the lens galaxy's where that is fitted. `lights` gives them, `columns` them
    and their derivatives, R in all, and `mixing` says how derivatives of an image follow from those: a parameter may
    move several lights, as the lens's centre does. All take all parameters, q (B, Q), Q = len(model.table).
    """

    def __init__(self, model: SmoothModel, size: int, binning: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.size, self.table = model, size, model.table
        self._psf = psf(model, size, binning, torch.empty(0, device=device, dtype=dtype))
        self.grid = Grid(self._psf.h, model.supersample, model.pixel_scale * binning, device, dtype)
        self.mass, self._source, self._lights = build(model, self.grid)
        self.free = model.free  # indices of the parameters that `mixing` has derivatives by
        self.mixing = functools.lru_cache(maxsize=4)(self._mixing)

    @property
    def x(self) -> Tensor:
        """(n,) arcsec of the rays."""
        return self.grid.x

    @property
    def y(self) -> Tensor:
        """(n,) arcsec of the rays."""
        return self.grid.y

    def light(self, q: Tensor, bend: Bend | None = None) -> Tensor:
        """The source's, q (B, Q) -> (B, size^2).

        bend: what else deflects the rays `x`, `y`, (B, s^2 h^2) arcsec each.
        """
        values = self.table.named(q)
        return self._blurred(self._source.light(values, bend), values)

    def lights(self, q: Tensor) -> Tensor:
        """q (B, Q) -> (B, L, size^2)."""
        values = self.table.named(q)
        return torch.stack([self._blurred(each.light(values), values) for each in self._lights], 1)

    def columns(self, q: Tensor, bends: Sequence[Bend] = ()) -> Tensor:
        """q (B, Q) -> (B, R, size, size): each light and its derivatives, as `_labels` has them.

        bends: K more deflections of the rays `x`, `y`, arcsec, each (B, s^2 h^2) or one for all: there are K more
        columns, the derivatives by how much of each there is.
        """
        values = self.table.named(q)
        lights, planes = [], []
        for k, each in enumerate(self._lights):
            light, by_name, by_bend = each.planes(values, bends if k == SOURCE else ())
            lights.append(light)
            planes += [by_name[name] for name in self._derived(k)] + by_bend
        images = self._psf(lights + planes, values[WIDTH], len(lights))
        if not self.model.free_psf or isinstance(self._psf, HeldPsf):
            return images
        return torch.cat((images, self._psf.derivative(lights, values[WIDTH])), 1)

    def _derived(self, light: int) -> list[str]:
        """The free parameters that move a light, in the order of its planes."""
        free = {self.table.names[i] for i in self.free}
        return [name for name in self._lights[light].names if name in free]

    def _labels(self, bends: int) -> list[tuple[int, str | int | None]]:
        """Of each of the columns: which light's it is, and by which parameter (its name, or the number of a bend; None:
        it is the light itself)."""
        numbers = range(len(self._lights))
        labels: list[tuple[int, str | int | None]] = [(k, None) for k in numbers]
        for k in numbers:
            labels += [(k, name) for name in self._derived(k)]
            labels += [(k, bend) for bend in range(bends)] if k == SOURCE else []
        return labels + [(k, WIDTH) for k in numbers] * self.model.free_psf

    def _mixing(self, bends: int = 0) -> tuple[list[int], Tensor]:
        """Which of the R columns are the L lights, and (R, P + bends, L) float64: the derivative of the image by a free
        parameter, or a bend, is the sum over the columns times this times each light's amplitude."""
        labels = self._labels(bends)
        parameters = [*(self.table.names[i] for i in self.free), *range(bends)]
        lights = [row for row, (_, by) in enumerate(labels) if by is None]
        mixing = torch.zeros(len(labels), len(parameters), len(lights), dtype=torch.float64, device=self.x.device)
        for row, (light, by) in enumerate(labels):
            if by is not None:
                mixing[row, parameters.index(by), light] = 1
        return lights, mixing

    def blur(self, planes: Tensor, log_width: Tensor) -> Tensor:
        """(B, h, h) -> (B, size^2) through PSFs of these widths (B,), natural logarithm over `psf_sigma`."""
        return self._psf([planes], log_width, 0)[:, 0].flatten(1)

    def _blurred(self, rays: Tensor, values: Values) -> Tensor:
        """(B, s^2 h^2) -> (B, size^2)."""
        return self._psf([self.grid.pixels(rays)], values[WIDTH], 1)[:, 0].flatten(1)


@functools.lru_cache(maxsize=16)
def renderer(model: SmoothModel, size: int, binning: int, device: str, dtype: torch.dtype) -> Renderer:
    """The `Renderer` of these settings, made once."""
    return Renderer(model, size, binning, torch.device(device), dtype)

"""Smooth lens images and their derivatives, many at once: one evaluation of the light, then blurs.

The light of the source at a ray is that of a `Profile` at

    u = (1 - g1) x - g2 y - theta_E cos - x_s
    v = (1 + g1) y - g2 x - theta_E sin - y_s

and the lens galaxy's that of another one at the ray itself, about the halo's centre. So every derivative is
dI / d(rho^2) times a polynomial in (u, v) and the ray. A pixel is the mean of its rays; then comes the PSF.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from darklens.fit import halo
from darklens.fit.blur import psf
from darklens.fit.model import LIGHT, NAMES, SmoothModel
from darklens.fit.sersic import Profile, form

SOURCE, GALAXY = 0, 1  # which of the lights a column is of
PSF_WIDTH = 11  # its place among the parameters
Bend = tuple[Tensor, Tensor]


class Renderer:
    """Images of one camera: `size` pixels of `binning` image pixels each, amplitudes 1 and no sky.

    There are L lights: the source's, and the lens galaxy's where that is fitted. `lights` gives them, `columns` them
    and their derivatives, R in all, and `mixing` says how derivatives of an image follow from those: a parameter may
    move both lights, as the lens's centre does. All take all parameters, q (B, Q), Q = len(model.NAMES).
    """

    def __init__(self, model: SmoothModel, size: int, binning: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.size, s = model, size, model.supersample
        self.free = model.free  # indices of the parameters that `mixing` has derivatives by
        to = functools.partial(torch.as_tensor, device=device, dtype=dtype)
        self._psf = psf(model, size, binning, torch.empty(0, device=device, dtype=dtype))
        self.h = h = self._psf.h
        scale = model.pixel_scale * binning
        steps = torch.arange(h * s, dtype=torch.float64, device=device) - (h * s - 1) / 2
        x = (steps * (scale / s)).reshape(h, s)
        x, y = x.T.reshape(1, s, 1, h), -x.T.reshape(s, 1, h, 1)
        x, y = x.expand(s, s, h, h).reshape(-1), y.expand(s, s, h, h).reshape(-1)  # rays of a pixel lie h^2 apart
        r = torch.hypot(x, y) + 1e-15
        self.x, self.y, self.cos, self.sin = to(x), to(y), to(x / r), to(y / r)
        self.basis = torch.stack((self.x, self.y, self.cos, self.sin, torch.ones_like(self.x)))  # (5, s^2 h^2)
        self.mixing = functools.lru_cache(maxsize=4)(self._mixing)

    def light(self, q: Tensor, bend: Bend | None = None) -> Tensor:
        """The source's, q (B, Q) -> (B, size^2).

        bend: what else deflects the rays `x`, `y`, (B, s^2 h^2) arcsec each.
        """
        u, v, _ = self._rays(q)
        if bend is not None:
            u, v = u - bend[0], v - bend[1]
        return self._blurred(self._source(q, u, v).light, q)

    def lights(self, q: Tensor) -> Tensor:
        """q (B, Q) -> (B, L, size^2)."""
        found = [self.light(q)]
        if self.model.free_light:
            found.append(self._blurred(self._galaxy(q)[0].light, q))
        return torch.stack(found, 1)

    def columns(self, q: Tensor, bends: Sequence[Bend] = ()) -> Tensor:
        """q (B, Q) -> (B, R, size, size): each light and its derivatives, as `_labels` has them.

        bends: K more deflections of the rays `x`, `y`, arcsec, each (B, s^2 h^2) or one for all: there are K more
        columns, the derivatives by how much of each there is.
        """
        light, *planes = self._by_source(q, bends)
        lights = [light]
        if self.model.free_light:
            light, *more = self._by_light(q)
            planes, lights = planes + more, [*lights, light]
        images = self._psf(lights + planes, q, len(lights))
        return torch.cat((images, self._psf.derivative(lights, q)), 1) if self.model.free_psf else images

    def _labels(self, bends: int) -> list[tuple[int, int | None]]:
        """Of each of the columns: which light's it is, and by which parameter (after the Q come the bends; None: it
        is the light itself)."""
        free, count = self.model.free, len(NAMES)
        lights = [SOURCE, GALAXY][: 1 + self.model.free_light]
        halos, lens = [i for i in free if i in (9, 10, 12, 13)], [i for i in free if i in (9, 10)]
        source = [*range(6), *(i for i in (6, 7, 8) if i in free), *halos, *range(count, count + bends)]
        galaxy = [*(i for i in free if i >= LIGHT), *lens] if self.model.free_light else []
        labels = [(light, None) for light in lights] + [(SOURCE, i) for i in source] + [(GALAXY, i) for i in galaxy]
        return labels + [(light, PSF_WIDTH) for light in lights] * self.model.free_psf

    def _mixing(self, bends: int = 0) -> tuple[list[int], Tensor]:
        """Which of the R columns are the L lights, and (R, P + bends, L) float64: the derivative of the image by a free
        parameter, or a bend, is the sum over the columns times this times each light's amplitude."""
        labels, q = self._labels(bends), len(NAMES)
        wanted = [*self.free, *range(q, q + bends)]
        lights = [row for row, (_, by) in enumerate(labels) if by is None]
        mixing = torch.zeros(len(labels), len(wanted), len(lights), dtype=torch.float64, device=self.x.device)
        for row, (light, by) in enumerate(labels):
            if by is not None:
                mixing[row, wanted.index(by), light] = 1
        return lights, mixing

    # ------------------------------------------------------------------------------------------------- the source
    def _source(self, q: Tensor, u: Tensor, v: Tensor) -> Profile:
        return Profile.at(u, v, *q[:, 5:9].unbind(1))

    def _by_source(self, q: Tensor, bends: Sequence[Bend]) -> list[Tensor]:
        """The source's light and its derivatives but by the PSF's width, (B, h, h) each."""
        u, v, (cos, sin, ellipsoid) = self._rays(q)
        source = self._source(q, u, v)
        slope = source.slope()
        gu, gv = source.by_place(u, v, slope)
        planes = [self._pixels(source.light), *self._by_rays(gu, gv, cos, sin)]
        planes += self._by_shape(source, slope, self.model.free_ellipticity, self.model.free_index)
        planes += self._by_halo(q, gu, gv, cos, sin, ellipsoid)
        return planes + [self._by_bend(gu, gv, bend) for bend in bends]

    def _by_shape(self, profile: Profile, slope: Tensor, ellipticity: bool, index: bool) -> list[Tensor]:
        """A light's derivatives by its log radius, ellipticity and log index, where wanted; (B, h, h) each."""
        by_squares = [self._pixels(slope * square) for square in profile.squares]
        shape, *by_ellipticity = profile.shapes
        planes = [form(by_squares, shape).mul_(-2)]
        planes += [form(by_squares, matrix) for matrix in by_ellipticity] if ellipticity else []
        return planes + ([self._pixels(profile.by_index())] if index else [])

    def _column(self, values: Tensor) -> Tensor:
        """(B,) float64 -> (B, 1) in the working precision."""
        return values.to(self.x.dtype)[:, None]

    def _rays(self, q: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, halo.Ellipsoid | None]]:
        """u, v (B, n) arcsec in the source plane about the source; the halo's deflection per arcsec of its Einstein
        radius, for a sphere cos and sin: (n,), or (B, n) about a free centre or of a free halo; and that halo."""
        zero, (t, g1, g2, xs, ys) = torch.zeros_like(q[:, 0]), q[:, :5].unbind(1)
        free = self.model.free_centre or self.model.free_halo
        bend = zero if free else -t
        u, v = (1 - g1, -g2, bend, zero, -xs), (-g2, 1 + g1, zero, bend, -ys)
        u, v = (torch.stack(row, 1).to(self.x.dtype) @ self.basis for row in (u, v))  # (B, 5) @ (5, n) -> (B, n)
        if not free:
            return u, v, (self.cos, self.sin, None)
        (dx, dy), ellipsoid = self.about(q), None
        if self.model.free_halo:
            ellipsoid = halo.Ellipsoid(dx, dy, *self.ellipticity(q))
            cos, sin = ellipsoid.deflection()
        else:
            inverse = (dx * dx + dy * dy + 1e-20).rsqrt_()
            cos, sin = dx.mul_(inverse), dy.mul_(inverse)
        return u.addcmul_(cos, self._column(-t)), v.addcmul_(sin, self._column(-t)), (cos, sin, ellipsoid)

    def _by_rays(self, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Derivatives by Einstein radius, shear and source position, (B, h, h) each."""
        x, y = self.x, self.y
        rays = [(gu * cos).addcmul_(gv, sin), (gu * x).addcmul_(gv, y, value=-1), (gu * y).addcmul_(gv, x), gu, gv]
        return [self._pixels(each).neg_() for each in rays]

    def about(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """x, y (B, n) arcsec of the rays about the halo's centre."""
        return self.x - self._column(q[:, 9]), self.y - self._column(q[:, 10])

    def ellipticity(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The halo's, (B, 1) each."""
        return self._column(q[:, 12]), self._column(q[:, 13])

    def _by_bend(self, gu: Tensor, gv: Tensor, bend: Bend) -> Tensor:
        """Derivative by how much there is of another deflection of the rays, (B, h, h)."""
        return self._pixels((gu * bend[0]).addcmul_(gv, bend[1])).neg_()

    def _by_halo(
        self, q: Tensor, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor, ellipsoid: halo.Ellipsoid | None
    ) -> list[Tensor]:
        """Derivatives by the halo's centre and by its ellipticity, where they are free, (B, h, h) each."""
        if ellipsoid is None:
            return self._by_centre(q, gu, gv, cos, sin) if self.model.free_centre else []
        theta = self._column(q[:, 0])
        found = ellipsoid.bends()
        wanted = ["centre_x", "centre_y"] * self.model.free_centre + ["halo_1", "halo_2"]
        gu, gv = gu * theta, gv * theta
        return [self._by_bend(gu, gv, found[name]) for name in wanted]

    def _by_centre(self, q: Tensor, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Derivatives by the lens's centre, (B, h, h) each: d(cos, sin)/dx = (-sin, cos) sin / r, and so on."""
        dx, dy = self.about(q)
        turn = (gu * sin).addcmul_(gv, cos, value=-1).mul_((dx * dx + dy * dy + 1e-20).rsqrt_())
        turn.mul_(self._column(q[:, 0]))
        return [self._pixels(turn * sin), self._pixels(turn * cos).neg_()]

    # ------------------------------------------------------------------------------------------------- the galaxy
    def _galaxy(self, q: Tensor) -> tuple[Profile, Tensor, Tensor]:
        """The lens galaxy's light, and x, y of the rays about it."""
        x, y = self.about(q)
        return Profile.at(x, y, *q[:, LIGHT:].unbind(1)), x, y

    def _by_light(self, q: Tensor) -> list[Tensor]:
        """The lens galaxy's light and its derivatives but by the PSF's width, (B, h, h) each."""
        galaxy, x, y = self._galaxy(q)
        slope = galaxy.slope()
        planes = [self._pixels(galaxy.light), *self._by_shape(galaxy, slope, True, self.model.free_light_index)]
        if self.model.free_centre:
            planes += [self._pixels(each).neg_() for each in galaxy.by_place(x, y, slope)]
        return planes

    # ------------------------------------------------------------------------------------------------- the camera
    def _pixels(self, rays: Tensor) -> Tensor:
        """The mean of each pixel's rays: (B, s^2 h^2) -> (B, h, h)."""
        return rays.unflatten(1, (self.model.supersample**2, self.h, self.h)).mean(1)

    def _blurred(self, rays: Tensor, q: Tensor) -> Tensor:
        """(B, s^2 h^2) -> (B, size^2)."""
        return self._psf([self._pixels(rays)], q, 1)[:, 0].flatten(1)


@functools.lru_cache(maxsize=16)
def renderer(model: SmoothModel, size: int, binning: int, device: str, dtype: torch.dtype) -> Renderer:
    """The `Renderer` of these settings, made once."""
    return Renderer(model, size, binning, torch.device(device), dtype)

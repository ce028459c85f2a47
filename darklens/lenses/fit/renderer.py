"""Smooth lens images and their derivatives, many at once: one evaluation of the light, then blurs.

The light at a ray is I(rho^2), with rho^2 = w^T M w / R^2 and w = (u, v) the ray in the source plane about the source:

    u = (1 - g1) x - g2 y - theta_E cos - x_s        M = cosh(eta) 1 - sinh(eta) [[cos 2f, sin 2f], [sin 2f, -cos 2f]]
    v = (1 + g1) y - g2 x - theta_E sin - y_s        (determinant 1, smooth at eta = 0, axis ratio exp(-eta))

so every derivative is dI/d(rho^2) times a polynomial in (u, v) and the ray. A pixel is the mean of its rays; the PSF
is a few products with banded matrices on either side.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from darklens.lenses.fit import halo
from darklens.lenses.fit.blur import FreePsf, HeldPsf
from darklens.lenses.fit.model import SmoothModel

SOFT = 1e-14  # added to rho^2: finite derivatives on top of a cusp


def sersic_b(log_n: Tensor) -> tuple[Tensor, Tensor]:
    """b_n of the Sersic profile and its derivative by log n (Ciotti & Bertin 1999, eq. 18)."""
    n = log_n.exp()
    terms = ((4 / 405, 1), (46 / 25515, 2), (131 / 1148175, 3))
    b = 2 * n - 1 / 3 + sum(c / n**p for c, p in terms)
    return b, 2 * n - sum(p * c / n**p for c, p in terms)


def shape_matrices(e1: Tensor, e2: Tensor) -> Tensor:
    """M = exp(-E) with E = [[e1, e2], [e2, -e1]], then dM/de1 and dM/de2: (B,) -> (3, 3, B), the last by xx, xy, yy.

    exp(-E) = cosh(eta) 1 - sinh(eta) / eta E, with eta^2 = e1^2 + e2^2.
    """
    eta2 = e1 * e1 + e2 * e2
    eta = (eta2 + 1e-24).sqrt()
    small = eta < 1e-2
    cosh, sinc = eta.cosh(), torch.where(small, 1 + eta2 / 6 + eta2**2 / 120, eta.sinh() / eta)
    slope = torch.where(small, 1 / 3 + eta2 / 30 + eta2**2 / 840, (cosh - sinc) / eta**2)  # d sinc / d eta / eta
    s1, s2, cross = slope * e1, slope * e2, -slope * e1 * e2
    rows = [cosh - sinc * e1, -sinc * e2, cosh + sinc * e1]
    rows += [sinc * e1 - s1 * e1 - sinc, cross, sinc * e1 + s1 * e1 + sinc]
    rows += [sinc * e2 + cross, -s2 * e2 - sinc, sinc * e2 - cross]
    return torch.stack(rows).reshape(3, 3, -1)


class Renderer:
    """Images of one camera: `size` pixels of `binning` image pixels each, amplitude 1 and no sky.

    `light` gives (B, size^2), `columns` (B, 1 + P, size, size): the light and its derivatives by the free parameters.
    Both take all parameters, q (B, 14).
    """

    def __init__(self, model: SmoothModel, size: int, binning: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.size, s = model, size, model.supersample
        to = functools.partial(torch.as_tensor, device=device, dtype=dtype)
        like = torch.empty(0, device=device, dtype=dtype)
        self._psf = (FreePsf if model.free_psf else HeldPsf)(model, size, binning, like)
        self.h = h = self._psf.blur.h
        scale = model.pixel_scale * binning
        steps = torch.arange(h * s, dtype=torch.float64, device=device) - (h * s - 1) / 2
        x = (steps * (scale / s)).reshape(h, s)
        x, y = x.T.reshape(1, s, 1, h), -x.T.reshape(s, 1, h, 1)
        x, y = x.expand(s, s, h, h).reshape(-1), y.expand(s, s, h, h).reshape(-1)  # rays of a pixel lie h^2 apart
        r = torch.hypot(x, y) + 1e-15
        self.x, self.y, self.cos, self.sin = to(x), to(y), to(x / r), to(y / r)
        self.basis = torch.stack((self.x, self.y, self.cos, self.sin, torch.ones_like(self.x)))  # (5, s^2 h^2)

    def light(self, q: Tensor, bend: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """q (B, 14) -> (B, size^2); bend: what else deflects the rays `x`, `y`, (B, s^2 h^2) arcsec each."""
        u, v, _, _ = self._rays(q)
        if bend is not None:
            u, v = u - bend[0], v - bend[1]
        _, _, light = self._profile(q, (u * u, u * v, v * v), self._shapes(q)[0])
        return self._psf(self._pixels(light)[:, :, None], q)[:, :, 0].flatten(1)

    def columns(self, q: Tensor, bends: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
        """q (B, 14) -> (B, 1 + P + K, size, size): the light, then its derivatives by the free parameters.

        bends: K more deflections of the rays `x`, `y`, arcsec, each (B, s^2 h^2) or one for all: the last K columns
        are the derivatives by how much of each there is.
        """
        u, v, cos, sin = self._rays(q)
        squares, (shape, *by_shape) = (u * u, u * v, v * v), self._shapes(q)
        rho2, power, light = self._profile(q, squares, shape)
        by_index = [self._by_index(q, rho2, power, light)] if self.model.free_index else []
        slope = (power * light).div_(rho2).mul_(self._column(-0.5 * (-q[:, 8]).exp()))  # dI / d(rho^2)
        xx, xy, yy = shape
        gu = (u * (2 * xx)).addcmul_(v, 2 * xy).mul_(slope)  # dI / du
        gv = (u * (2 * xy)).addcmul_(v, 2 * yy).mul_(slope)
        by_squares = [self._pixels(square.mul_(slope)) for square in squares]
        bare = self._pixels(light)
        planes = [bare, *self._by_rays(gu, gv, cos, sin), _form(by_squares, shape).mul_(-2)]
        if self.model.free_ellipticity:
            planes += [_form(by_squares, matrix) for matrix in by_shape]
        by_centre, by_halo = self._by_halo(q, gu, gv, cos, sin)
        by_halo += [self._by_bend(gu, gv, bend) for bend in bends]
        images = self._psf(torch.stack((*planes, *by_index, *by_centre, *by_halo), 2), q)
        if self.model.free_psf:
            own, more = images.tensor_split([images.shape[2] - len(by_halo)], 2)
            images = torch.cat((own, self._psf.derivative(bare[:, :, None], q), more), 2)
        return images.transpose(1, 2)

    def _column(self, values: Tensor) -> Tensor:
        """(B,) float64 -> (B, 1) in the working precision."""
        return values.to(self.x.dtype)[:, None]

    def _shapes(self, q: Tensor) -> list[list[Tensor]]:
        """M / R^2 and its derivatives by the ellipticity as xx, xy, yy, (B, 1) each."""
        matrices = shape_matrices(q[:, 6], q[:, 7]) * (-2 * q[:, 5]).exp()
        return [list(matrix) for matrix in matrices.to(self.x.dtype)[..., None]]  # (3, 3, B, 1)

    def _rays(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, v (B, n) arcsec in the source plane about the source; the halo's deflection per arcsec of its Einstein
        radius, for a sphere cos and sin: (n,), or (B, n) about a free centre or of a free halo."""
        zero, (t, g1, g2, xs, ys) = torch.zeros_like(q[:, 0]), q[:, :5].unbind(1)
        free = self.model.free_centre or self.model.free_halo
        bend = zero if free else -t
        u, v = (1 - g1, -g2, bend, zero, -xs), (-g2, 1 + g1, zero, bend, -ys)
        u, v = (torch.stack(row, 1).to(self.x.dtype) @ self.basis for row in (u, v))  # (B, 5) @ (5, n) -> (B, n)
        if not free:
            return u, v, self.cos, self.sin
        dx, dy = self.about(q)
        if self.model.free_halo:
            cos, sin = halo.deflection(dx, dy, *self.ellipticity(q))
        else:
            inverse = (dx * dx + dy * dy + 1e-20).rsqrt_()
            cos, sin = dx.mul_(inverse), dy.mul_(inverse)
        return u.addcmul_(cos, self._column(-t)), v.addcmul_(sin, self._column(-t)), cos, sin

    def _profile(self, q: Tensor, squares: tuple[Tensor, ...], shape: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """rho^2 (softened), b rho^(1/n) and the light over its value at the effective radius, (B, n) each."""
        rho2 = _form(squares, shape, 2).add_(SOFT)
        b, half = sersic_b(q[:, 8])[0], 0.5 * (-q[:, 8]).exp()
        power = rho2.log2().mul_(self._column(half)).add_(self._column(b.log2())).exp2_()  # faster than a power
        return rho2, power, (self._column(b) - power).mul_(1 / math.log(2)).exp2_()

    def _by_rays(self, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Derivatives by Einstein radius, shear and source position, (B, h, h) each."""
        x, y = self.x, self.y
        rays = [(gu * cos).addcmul_(gv, sin), (gu * x).addcmul_(gv, y, value=-1), (gu * y).addcmul_(gv, x), gu, gv]
        return [self._pixels(each).neg_() for each in rays]

    def _by_index(self, q: Tensor, rho2: Tensor, power: Tensor, light: Tensor) -> Tensor:
        """Derivative by the logarithm of the Sersic index, (B, h, h)."""
        b, slope = sersic_b(q[:, 8])
        by_log = rho2.log().mul_(self._column(-0.5 * (-q[:, 8]).exp())).add_(self._column(slope / b))
        return self._pixels(by_log.mul_(power).sub_(self._column(slope)).mul_(light)).neg_()

    def about(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """x, y (B, n) arcsec of the rays about the halo's centre."""
        return self.x - self._column(q[:, 9]), self.y - self._column(q[:, 10])

    def ellipticity(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The halo's, (B, 1) each."""
        return self._column(q[:, 12]), self._column(q[:, 13])

    def _by_bend(self, gu: Tensor, gv: Tensor, bend: tuple[Tensor, Tensor]) -> Tensor:
        """Derivative by how much there is of another deflection of the rays, (B, h, h)."""
        return self._pixels((gu * bend[0]).addcmul_(gv, bend[1])).neg_()

    def _by_halo(self, q: Tensor, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor) -> tuple[list, list]:
        """Derivatives by the halo's centre and by its ellipticity, where they are free, (B, h, h) each."""
        if not self.model.free_halo:
            return self._by_centre(q, gu, gv, cos, sin) if self.model.free_centre else [], []
        theta = self._column(q[:, 0])
        found = halo.bends(*self.about(q), *self.ellipticity(q)).items()
        planes = {name: self._by_bend(gu * theta, gv * theta, bend) for name, bend in found}
        centre = [planes["centre_x"], planes["centre_y"]] if self.model.free_centre else []
        return centre, [planes["halo_1"], planes["halo_2"]]

    def _by_centre(self, q: Tensor, gu: Tensor, gv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Derivatives by the lens's centre, (B, h, h) each: d(cos, sin)/dx = (-sin, cos) sin / r, and so on."""
        dx, dy = self.about(q)
        turn = (gu * sin).addcmul_(gv, cos, value=-1).mul_((dx * dx + dy * dy + 1e-20).rsqrt_())
        turn.mul_(self._column(q[:, 0]))
        return [self._pixels(turn * sin), self._pixels(turn * cos).neg_()]

    def _pixels(self, rays: Tensor) -> Tensor:
        """The mean of each pixel's rays: (B, s^2 h^2) -> (B, h, h)."""
        return rays.unflatten(1, (self.model.supersample**2, self.h, self.h)).mean(1)


def _form(squares: Sequence[Tensor], matrix: Sequence[Tensor], dims: int = 3) -> Tensor:
    """xx uu + 2 xy uv + yy vv, for squares (B, ...) of so many dimensions and a matrix of (B, 1) each."""
    (uu, uv, vv), (xx, xy, yy) = squares, (m if dims == 2 else m[..., None] for m in matrix)
    return (uu * xx).addcmul_(uv, 2 * xy).addcmul_(vv, yy)


@functools.lru_cache(maxsize=16)
def renderer(model: SmoothModel, size: int, binning: int, device: str, dtype: torch.dtype) -> Renderer:
    """The `Renderer` of these settings, made once."""
    return Renderer(model, size, binning, torch.device(device), dtype)

"""The elliptical Sersic profile on rays, and its derivatives: of a lensed source, or of the lens galaxy itself.

The light at a ray is I(rho^2) = exp(b - b rho^(1/n)), with rho^2 = d^T M d / R^2 and d the ray about the centre:

    M = cosh(eta) 1 - sinh(eta) [[cos 2f, sin 2f], [sin 2f, -cos 2f]]

(determinant 1, smooth at eta = 0, axis ratio exp(-eta)), so every derivative is dI/d(rho^2) times a polynomial in d.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

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


def form(squares: Sequence[Tensor], matrix: Sequence[Tensor], dims: int = 3) -> Tensor:
    """xx uu + 2 xy uv + yy vv, for squares (B, ...) of so many dimensions and a matrix of (B, 1) each."""
    (uu, uv, vv), (xx, xy, yy) = squares, (m if dims == 2 else m[..., None] for m in matrix)
    return (uu * xx).addcmul_(uv, 2 * xy).addcmul_(vv, yy)


@dataclasses.dataclass
class Profile:
    """Light at rays u, v (B, n) arcsec about its centre: `light`, its value at the effective radius 1, (B, n)."""

    log_n: Tensor  # (B,) float64
    rho2: Tensor  # (B, n), softened
    power: Tensor  # (B, n), b rho^(1/n)
    light: Tensor  # (B, n)
    squares: tuple[Tensor, Tensor, Tensor]  # u u, u v, v v
    shapes: list[list[Tensor]]  # M / R^2 and its derivatives by the ellipticity as xx, xy, yy, (B, 1) each

    @classmethod
    def at(cls, u: Tensor, v: Tensor, log_radius: Tensor, e1: Tensor, e2: Tensor, log_n: Tensor) -> "Profile":
        """The profile of these parameters, (B,) float64 each."""
        matrices = shape_matrices(e1, e2) * (-2 * log_radius).exp()
        shapes = [list(matrix) for matrix in matrices.to(u.dtype)[..., None]]  # (3, 3, B, 1)
        squares = u * u, u * v, v * v
        rho2 = form(squares, shapes[0], 2).add_(SOFT)
        b, half = (value.to(u.dtype)[:, None] for value in (sersic_b(log_n)[0], 0.5 * (-log_n).exp()))
        power = rho2.log2().mul_(half).add_(b.log2()).exp2_()  # faster than a power
        return cls(log_n, rho2, power, (b - power).mul_(1 / math.log(2)).exp2_(), squares, shapes)

    def slope(self) -> Tensor:
        """(B, n) dI / d(rho^2)."""
        return (self.power * self.light).div_(self.rho2).mul_(self._column(-0.5 * (-self.log_n).exp()))

    def by_index(self) -> Tensor:
        """(B, n) the derivative by the logarithm of the Sersic index."""
        b, slope = sersic_b(self.log_n)
        by_log = self.rho2.log().mul_(self._column(0.5 * (-self.log_n).exp())).sub_(self._column(slope / b))
        return by_log.mul_(self.power).add_(self._column(slope)).mul_(self.light)

    def by_place(self, u: Tensor, v: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) each: dI / du and dI / dv."""
        xx, xy, yy = self.shapes[0]
        gu = (u * (2 * xx)).addcmul_(v, 2 * xy).mul_(slope)
        return gu, (u * (2 * xy)).addcmul_(v, 2 * yy).mul_(slope)

    def by_shape(
        self,
        slope: Tensor,
        pixels: Callable[[Tensor], Tensor],
        names: Sequence[str],
        ellipticity: bool,
        index: bool,
    ) -> dict[str, Tensor]:
        """Derivatives by log radius, ellipticity and log index, where they are free: (B, h, h) each, by `names`.

        slope: as `slope()` gives it. pixels: takes the means of pixels' rays.
        """
        by_squares = [pixels(slope * square) for square in self.squares]
        shape, *matrices = self.shapes
        planes = {names[0]: form(by_squares, shape).mul_(-2)}
        if ellipticity:
            planes |= {name: form(by_squares, m) for name, m in zip(names[1:3], matrices, strict=True)}
        return planes | ({names[3]: pixels(self.by_index())} if index else {})

    def _column(self, values: Tensor) -> Tensor:
        return values.to(self.rho2.dtype)[:, None]

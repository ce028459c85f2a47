"""Deflection of a singular isothermal ellipsoid and its derivatives, regular where the halo is round.

The halo's ellipticity is h = eta (cos 2f, sin 2f), its axis ratio exp(-eta), f its major axis. With z = x + iy about
the centre and e = tanh(eta / 2) exp(2if), lenstronomy's e1 + i e2, the deflection per arcsec of the Einstein radius
(the geometric mean of the critical curve's axes) is

    alpha = C U F(w),   U = s / |s|,   s = z - e conj(z),   w = conj(e) U^2,   C = sech(eta / 2)

with F(w) = sum over n of (-w)^n / (2n + 1) = arctan(sqrt w) / sqrt w, which is Tessore & Metcalf 2015, A&A 580, A79,
eq. 13 and 23 for an isothermal slope; |w| = tanh(eta / 2) < 1. The series is that of dF / dw, cut where its
terms can't be told from rounding, and F = 1 / (1 + w) - 2 w dF / dw.
"""

import math

import torch
from torch import Tensor

MOST = 40  # terms of the series
CORE = 1e-20  # added to |s|^2, arcsec^2: finite in the middle
Bend = tuple[Tensor, Tensor]


class Ellipsoid:
    """What deflection and derivatives have in common, at rays x, y (n,) or (B, n) arcsec from the centre.

    h1, h2: (B, 1), the ellipticity.
    """

    def __init__(self, x: Tensor, y: Tensor, h1: Tensor, h2: Tensor) -> None:
        self.h1, self.h2, self.z = h1, h2, torch.complex(x, y)
        self.e, self.cosh, self.slopes = ellipticity(h1, h2)
        s = self.z - self.e * self.z.conj()
        self.inverse = (s.real.square() + s.imag.square() + CORE).rsqrt()  # 1 / |s|
        self.unit = s.mul_(self.inverse)  # U
        self.square = self.unit * self.unit
        self.w = self.e.conj() * self.square
        self.rate = _rate(self.w, self.e)
        self.value = (1 + self.w).reciprocal_().sub_(self.w * self.rate, alpha=2)

    def deflection(self) -> Bend:
        """x and y of the deflection, (B, n) each."""
        alpha = (self.unit * self.value).div_(self.cosh)
        return alpha.real, alpha.imag

    def bends(self) -> dict[str, Bend]:
        """Derivatives of the deflection by centre_x, centre_y (1 / arcsec), halo_1 and halo_2.

        With beta = Im(conj(U) ds) / |s|: dU = i beta U, d(U F) = U (i beta (F + 2 w F') + U^2 F' conj(de)), and
        F + 2 w F' = 1 / (1 + w).
        """
        z, e, h1, h2, (slope, curve) = self.z, self.e, self.h1, self.h2, self.slopes
        turned = (1j * self.unit).div_((1 + self.w).mul_(self.cosh)).mul_(self.inverse)
        sheared = (self.unit * self.square).mul_(self.rate).div_(self.cosh)
        scaled = (self.unit * self.value).div_(self.cosh)

        def moved(ds: Tensor) -> Tensor:
            return (self.unit.real * ds.imag).sub_(self.unit.imag * ds.real) * turned

        by_x, by_y = moved(e - 1), moved(-1j * (1 + e))
        by_e1, by_e2 = moved(-z.conj()).add_(sheared), moved(-1j * z.conj()).sub_(1j * sheared)
        cross = curve * h1 * h2
        by_h1 = (slope + curve * h1 * h1) * by_e1 + cross * by_e2 - slope * h1 / 2 * scaled
        by_h2 = (slope + curve * h2 * h2) * by_e2 + cross * by_e1 - slope * h2 / 2 * scaled
        derivatives = {"centre_x": by_x, "centre_y": by_y, "halo_1": by_h1, "halo_2": by_h2}
        return {name: (each.real, each.imag) for name, each in derivatives.items()}


def ellipticity(h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Bend]:
    """Of halo_1 and halo_2: e, complex; cosh(eta / 2); t = tanh(eta / 2) / eta and dt / d eta / eta, even in eta."""
    eta2 = h1 * h1 + h2 * h2
    eta = (eta2 + 1e-24).sqrt()
    tanh, small = (eta / 2).tanh(), eta < 0.05
    slope = torch.where(small, 1 / 2 - eta2 / 24 + eta2**2 / 240, tanh / eta)
    curve = torch.where(small, -1 / 12 + eta2 / 60 - 17 / 6720 * eta2**2, ((1 - tanh * tanh) / 2 - tanh / eta) / eta**2)
    return torch.complex(slope * h1, slope * h2), (eta / 2).cosh(), (slope, curve)


def _rate(w: Tensor, e: Tensor) -> Tensor:
    """dF / dw = sum over n > 0 of n (-1)^n w^(n-1) / (2n + 1), by Horner's rule; |w| is |e|."""
    size, epsilon = float(e.abs().max()) if e.numel() else 0.0, torch.finfo(w.dtype).eps / 8
    terms = min(max(math.ceil(math.log(epsilon) / math.log(max(size, 1e-30))), 4), MOST) if size < 1 else MOST
    rate = torch.full_like(w, (-1) ** terms * terms / (2 * terms + 1))
    for n in reversed(range(1, terms)):
        rate.mul_(w).add_((-1) ** n * n / (2 * n + 1))
    return rate

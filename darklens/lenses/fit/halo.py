"""Deflection of a singular isothermal ellipsoid and its derivatives, regular where the halo is round.

The halo's ellipticity is h = eta (cos 2f, sin 2f), its axis ratio exp(-eta), f its major axis. With z = x + iy about
the centre and e = tanh(eta / 2) exp(2if), lenstronomy's e1 + i e2, the deflection per arcsec of the Einstein radius
(the geometric mean of the critical curve's axes) is

    alpha = C U F(w),   U = s / |s|,   s = z - e conj(z),   w = conj(e) U^2,   C = sech(eta / 2)

with F(w) = sum over n of (-w)^n / (2n + 1) = arctan(sqrt w) / sqrt w, which is Tessore & Metcalf 2015, A&A 580, A79,
eq. 13 and 23 for an isothermal slope; |w| = tanh(eta / 2) < 1. The series is cut after TERMS: 1e-12 at an axis ratio of
0.7, 1e-7 at 0.4.
"""

import torch
from torch import Tensor

TERMS = 16
CORE = 1e-20  # added to |s|^2, arcsec^2: finite in the middle
Bend = tuple[Tensor, Tensor]


def deflection(x: Tensor, y: Tensor, h1: Tensor, h2: Tensor) -> Bend:
    """x and y of the deflection (B, n) at rays (n,) or (B, n) arcsec from the centre; h1, h2: (B, 1)."""
    e, cosh, _ = _ellipticity(h1, h2)
    _, _, unit = _about(torch.complex(x, y), e)
    alpha = unit * _series(e.conj() * unit * unit)[0] / cosh
    return alpha.real, alpha.imag


def bends(x: Tensor, y: Tensor, h1: Tensor, h2: Tensor) -> dict[str, Bend]:
    """Derivatives of `deflection` by centre_x, centre_y (1 / arcsec), halo_1 and halo_2, shapes as there.

    With beta = Im(conj(U) ds) / |s|: dU = i beta U, d(U F) = U (i beta (F + 2 w F') + U^2 F' conj(de)).
    """
    e, cosh, (slope, curve) = _ellipticity(h1, h2)
    z = torch.complex(x, y)
    _, inverse, unit = _about(z, e)
    square = unit * unit
    w = e.conj() * square
    value, rate = _series(w)
    turned, sheared, scaled = unit * (value + 2 * w * rate) / cosh, unit * square * rate / cosh, unit * value / cosh

    def moved(ds: Tensor) -> Tensor:
        return torch.complex(torch.zeros_like(inverse), (unit.conj() * ds).imag * inverse) * turned

    by_x, by_y = moved(e - 1), moved(-1j * (1 + e))
    by_e1, by_e2 = moved(-z.conj()) + sheared, moved(-1j * z.conj()) - 1j * sheared
    by_h1 = (slope + curve * h1 * h1) * by_e1 + curve * h1 * h2 * by_e2 - slope * h1 / 2 * scaled
    by_h2 = (slope + curve * h2 * h2) * by_e2 + curve * h1 * h2 * by_e1 - slope * h2 / 2 * scaled
    found = {"centre_x": by_x, "centre_y": by_y, "halo_1": by_h1, "halo_2": by_h2}
    return {name: (each.real, each.imag) for name, each in found.items()}


def _ellipticity(h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Bend]:
    """e, complex; cosh(eta / 2); t = tanh(eta / 2) / eta and dt / d eta / eta, even in eta."""
    eta2 = h1 * h1 + h2 * h2
    eta = (eta2 + 1e-24).sqrt()
    tanh, small = (eta / 2).tanh(), eta < 0.05
    slope = torch.where(small, 1 / 2 - eta2 / 24 + eta2**2 / 240, tanh / eta)
    curve = torch.where(small, -1 / 12 + eta2 / 60 - 17 / 6720 * eta2**2, ((1 - tanh * tanh) / 2 - tanh / eta) / eta**2)
    return torch.complex(slope * h1, slope * h2), (eta / 2).cosh(), (slope, curve)


def _about(z: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s, 1 / |s| and U."""
    s = z - e * z.conj()
    inverse = (s.real.square() + s.imag.square() + CORE).rsqrt()
    return s, inverse, s * inverse


def _series(w: Tensor) -> tuple[Tensor, Tensor]:
    """F and dF / dw, by Horner's rule."""
    value, rate = torch.zeros_like(w), torch.zeros_like(w)
    for n in reversed(range(TERMS)):
        rate = rate * w + value
        value = value * w + (-1) ** n / (2 * n + 1)
    return value, rate

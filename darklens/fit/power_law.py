"""A halo of another slope than the isothermal one: what an elliptical power law adds to the isothermal ellipsoid.

The three-dimensional density falls with r^-gamma and the convergence with R^-t, t = gamma - 1; gamma = 2 is isothermal.
In the words of `halo` (z about the centre, e, s = z - e conj(z), U = s / |s|, w = conj(e) U^2, eta) the deflection is

    alpha = (theta_E sech(eta / 2))^t |s|^(1 - t) U F(w),   F(w) = 2F1(1, t / 2; 2 - t / 2; -w) = sum a_n (-w)^n

with a_n = (t / 2)_n / (2 - t / 2)_n (Tessore & Metcalf 2015, A&A 580, A79, eq. 13 and 23; lenstronomy's EPL). Along ds,
with rho + i beta = conj(U) ds / |s|,

    d alpha = A U ((1 - t) rho F + i beta (F + 2 w F') + U^2 F' conj(de)),   A = alpha / (U F).
"""

import torch
from torch import Tensor

from darklens.fit import halo
from darklens.fit.grid import Grid
from darklens.fit.mass import Bend, Values
from darklens.fit.parameters import Column, Gaussian, Parameter
from darklens.fit.settings import ModelSettings

TERMS = 40  # of the series
SLOPE = "halo_slope"
SLOPE_PRIOR = Gaussian(2.08, 0.16, "Auger et al. 2010, ApJ 724, 511: 2.078, intrinsic scatter 0.16")


class PowerLaw:
    """At rays x, y (n,) or (B, n) arcsec from the centre. h1, h2: (B, 1) ellipticity, theta: Einstein radius (arcsec),
    t: slope of the convergence."""

    def __init__(self, x: Tensor, y: Tensor, h1: Tensor, h2: Tensor, *, theta: Tensor, t: Tensor) -> None:
        self.h1, self.h2, self.theta, self.t, self.z = h1, h2, theta, t, torch.complex(x, y)
        self.e, cosh, self.slopes = halo.ellipticity(h1, h2)
        s = self.z - self.e * self.z.conj()
        self.radius = (s.real.square() + s.imag.square() + halo.CORE).sqrt()
        self.unit, self.scale = s / self.radius, theta / cosh
        self.w = self.e.conj() * self.unit * self.unit
        self.value, self.rate, self.by_t = _series(self.w, t)
        self.strength = self.scale**t * self.radius ** (1 - t)  # A
        self.alpha = self.strength * self.unit * self.value

    def deflection(self) -> Bend:
        """x and y of the deflection, arcsec, (B, n) each."""
        return self.alpha.real, self.alpha.imag

    def bends(self) -> dict[str, Bend]:
        """Derivatives of the deflection by Einstein radius, centre, ellipticity and slope."""
        e, z, h1, h2, (slope, curve) = self.e, self.z, self.h1, self.h2, self.slopes
        by_e1, by_e2 = self._along(-z.conj(), 1.0), self._along(-1j * z.conj(), -1j)
        cross, scaled = curve * h1 * h2, slope * self.t / 2 * self.alpha
        by_slope = self.alpha * (self.scale / self.radius).log() + self.strength * self.unit * self.by_t
        derivatives = {
            "einstein_radius": self.t * self.alpha / self.theta,
            "centre_x": self._along(e - 1, 0.0),
            "centre_y": self._along(-1j * (1 + e), 0.0),
            "halo_1": (slope + curve * h1 * h1) * by_e1 + cross * by_e2 - h1 * scaled,
            "halo_2": (slope + curve * h2 * h2) * by_e2 + cross * by_e1 - h2 * scaled,
            SLOPE: by_slope,
        }
        return {name: (each.real, each.imag) for name, each in derivatives.items()}

    def _along(self, ds: Tensor, de: complex) -> Tensor:
        """Where s changes by ds and conj(e) by de."""
        turn = self.unit.conj() * ds / self.radius
        part = (1 - self.t) * turn.real * self.value + 1j * turn.imag * (self.value + 2 * self.w * self.rate)
        return self.strength * self.unit * (part + self.unit * self.unit * self.rate * de)


def _series(w: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F, dF / dw and dF / dt of w (B, n) for t (B, 1), by Horner's rule."""
    half, ratios = t / 2, []
    coefficient, growth = torch.ones_like(t), torch.zeros_like(t)  # a_n, d ln a_n / dt
    for n in range(TERMS):
        ratios.append((coefficient, coefficient * growth))
        growth = growth + 0.5 / (half + n) + 0.5 / (2 - half + n)
        coefficient = -coefficient * (half + n) / (2 - half + n)
    value, rate, by_t = (torch.zeros_like(w) for _ in range(3))
    for n, (a, a_t) in reversed(list(enumerate(ratios))):
        value, by_t = value * w + a, by_t * w + a_t
        if n:
            rate = rate * w + n * a
    return value, rate, by_t


class HaloSlope:
    """The halo's slope as a component of the lens (`components.COMPONENTS`)."""

    name = SLOPE
    parameters = (Parameter(SLOPE, "", 2.0, 1.2, 2.8, 0.1, SLOPE, SLOPE_PRIOR),)
    columns = (Column("value", (SLOPE,), (SLOPE,)),)

    def __init__(self, model: ModelSettings, grid: Grid) -> None:
        self.grid = grid

    def _halos(self, values: Values) -> tuple[PowerLaw, halo.Ellipsoid, Tensor]:
        """The power law, the isothermal ellipsoid that stands for it elsewhere, and its Einstein radius (B, 1)."""
        theta, x, y, h1, h2, slope = (
            self.grid.column(values[name])
            for name in ("einstein_radius", "centre_x", "centre_y", "halo_1", "halo_2", SLOPE)
        )
        dx, dy = self.grid.x - x, self.grid.y - y
        return PowerLaw(dx, dy, h1, h2, theta=theta, t=slope - 1), halo.Ellipsoid(dx, dy, h1, h2), theta

    def deflection(self, values: Values) -> Bend:
        """x and y (B, n) arcsec: the power law's less the isothermal ellipsoid's."""
        law, isothermal, theta = self._halos(values)
        (ax, ay), (bx, by) = law.deflection(), isothermal.deflection()
        return ax - theta * bx, ay - theta * by

    def derivatives(self, values: Values) -> dict[str, Bend]:
        """Of that by the halo's parameters and its slope."""
        law, isothermal, theta = self._halos(values)
        bends = law.bends()
        less = {name: (theta * x, theta * y) for name, (x, y) in isothermal.bends().items()}
        less["einstein_radius"] = isothermal.deflection()
        return bends | {name: (bends[name][0] - x, bends[name][1] - y) for name, (x, y) in less.items()}

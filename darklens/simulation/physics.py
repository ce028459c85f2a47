"""How light is bent, and what it looks like: pure functions with units.

Conventions: angles in radians counter-clockwise from +x, lengths in arcsec, masses in solar masses, distances in Mpc.

References: Narayan & Bartelmann 1996, astro-ph/9606001 (NB); Hogg 1999, astro-ph/9905116; Sersic 1963, BAAA 6, 41;
Ciotti & Bertin 1999, A&A 352, 447.
"""

import functools

import numpy as np
import torch
from torch import Tensor

TINY = 1e-30  # arcsec^2, keeps a grid point on top of a mass finite


@functools.cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(32)


def comoving_distance(z: np.ndarray | float, h0: float = 70.0, omega_m: float = 0.3) -> np.ndarray:
    """Comoving distance in Mpc to redshift z in flat LCDM (Hogg 1999, eqs. 14-16); h0 in km/s/Mpc."""
    nodes, weights = _legendre()
    half = np.asarray(z, dtype=float)[..., None] / 2
    inverse_e = 1 / np.sqrt(omega_m * (1 + half * (nodes + 1)) ** 3 + 1 - omega_m)
    return 299792.458 / h0 * (half * weights * inverse_e).sum(-1)


def lensing_distance(z_lens: np.ndarray, z_source: np.ndarray, distances: str = "luminosity") -> np.ndarray:
    """D_l D_s / D_ls in Mpc, from "angular" diameter distances (Hogg 1999, eqs. 18-19) or, as the data sets
    have it, from "luminosity" distances (eq. 21) with D_ls = D_s - D_l."""
    d_l, d_s = comoving_distance(z_lens), comoving_distance(z_source)
    if distances == "angular":
        return d_l / (1 + z_lens) * d_s / (d_s - d_l)
    d_l, d_s = d_l * (1 + z_lens), d_s * (1 + z_source)
    return d_l * d_s / (d_s - d_l)


def einstein_radius(
    mass: np.ndarray | float, z_lens: np.ndarray, z_source: np.ndarray, distances: str = "luminosity"
) -> np.ndarray:
    """Einstein radius in arcsec of a mass in Msun: sqrt(4 G M / c^2 * D_ls / (D_l D_s)) (NB eq. 21)."""
    gm_sun, c, mpc = 1.32712440018e20, 299792458.0, 3.0856775814913673e22  # m^3/s^2, m/s, m
    length = 4 * gm_sun * np.asarray(mass) / c**2 / mpc  # Mpc
    return np.degrees(np.sqrt(length / lensing_distance(z_lens, z_source, distances))) * 3600


def sis(x: Tensor, y: Tensor, theta_e: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a singular isothermal sphere at the origin: theta_E x / |x| (NB).

    x, y: arcsec, broadcast against theta_e (arcsec).
    """
    inverse = (x * x + (y * y + TINY)).rsqrt_()
    return inverse * (theta_e * x), inverse * (theta_e * y)


def shear_terms(x: Tensor, y: Tensor, gamma: Tensor, phi: Tensor) -> tuple[Tensor, ...]:
    """What `shear_deflection` needs of an external shear gamma along phi (radians) at x, y (arcsec)."""
    gamma1, gamma2 = gamma * torch.cos(2 * phi), gamma * torch.sin(2 * phi)
    return gamma1 * x, gamma2 * y, gamma2 * x, gamma1 * y


def shear_deflection(x1: Tensor, y2: Tensor, x2: Tensor, y1: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of an external shear of `shear_terms` (NB): images stretch along phi."""
    return x1 + y2, x2 - y1


def point_masses(x: Tensor, y: Tensor, px: Tensor, py: Tensor, theta2: Tensor) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of point masses: theta_E^2 d / |d|^2 (NB).

    x, y: (B or 1, ...) arcsec. px, py: positions (arcsec), theta2: squared Einstein radii (arcsec^2), each
    (S, B, 1, 1) with S > 0. The sum runs in the order given: trailing massless points don't change a bit.
    """
    dx, dy = x - px, y - py
    weight = dx[0] + dy[0]
    ax, ay = torch.zeros_like(weight), torch.zeros_like(weight)
    for dx2, dy2, mx, my in zip(dx * dx, dy * dy + TINY, theta2 * dx, theta2 * dy, strict=True):
        torch.add(dx2, dy2, out=weight).reciprocal_()
        ax.addcmul_(weight, mx)
        ay.addcmul_(weight, my)
    return ax, ay


def rod_terms(x: Tensor, y: Tensor, theta2: Tensor, length: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
    """What `rod_deflection` needs of a rod: parts of u and v, half-lengths, and the factors of both components.

    x, y: arcsec from its centre; theta2: squared Einstein radius of its mass (arcsec^2); length: arcsec; angle:
    radians.
    """
    cos, sin, a = torch.cos(angle), torch.sin(angle), length.clamp(min=1e-6) / 2
    scale = theta2 / (2 * a)
    c, s = scale * cos, scale * sin
    return cos * x, sin * y, cos * y, sin * x, a, 2 * a, 4 * a, c, -s, c / 2, s / 2


def rod_deflection(*terms: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a thin uniform rod of `rod_terms`: the point mass summed along it.

    With u along and v across the rod and a = length / 2, theta2 / 2a times the integral of
    (u - s, v) / |(u - s, v)|^2 over s from -a to a is theta2 / 2a times
        along:  ln(r+ / r-), r+ and r- the distances to the ends;   across: the angle that the rod subtends.
    Finite everywhere, also at the ends; a rod of no length is a point mass.
    """
    u_x, u_y, v_y, v_x, a, twice, four, c, minus_s, half_c, half_s = terms
    u, v = u_x + u_y, v_y - v_x
    above = u.abs()
    gap, v2 = above - a, v * v + TINY
    along = (above * four).div_(torch.addcmul(v2, gap, gap)).log1p_().copysign_(u)  # 2 ln(r+ / r-)
    across = torch.atan2(v.mul_(twice), above.add_(a).mul_(gap).add_(v2))
    return (along * half_c).addcmul_(across, minus_s), (along * half_s).addcmul_(across, c)


def sersic_b(n: np.ndarray | float) -> np.ndarray | float:
    """b_n of the Sersic profile, to 1e-5 or better above n = 0.5 (Ciotti & Bertin 1999, eq. 18)."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2) + 131 / (1148175 * n**3)


def gaussian_blur(image: Tensor, sigma: float, truncate: float = 5.0) -> Tensor:
    """Convolve (B, H, W) with a normalised Gaussian of sigma pixels, cut at `truncate` sigma; edges repeat.

    Sums pair by pair: the same bits whatever the batch, and no TF32 on a GPU.
    """
    taps = int(truncate * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(taps + 1) / sigma) ** 2)
    kernel = (kernel / (kernel[0] + 2 * kernel[1:].sum())).tolist()
    for _ in ("rows", "columns"):
        size = image.shape[1]
        padded = image[:, torch.arange(-taps, size + taps, device=image.device).clamp_(0, size - 1)]
        image = kernel[0] * image
        for k in range(1, taps + 1):
            pair = padded[:, taps - k : taps - k + size] + padded[:, taps + k : taps + k + size]
            image.add_(pair, alpha=kernel[k])
        image = image.transpose(1, 2).contiguous()  # (B, H, W) -> (B, W, H), and back in the second round
    return image

"""Mass and light profiles beyond physics.py: pure functions with units.

Conventions: those of physics.py: angles in radians counter-clockwise from +x, lengths in arcsec, masses in solar
masses, distances in Mpc.

References: Keeton & Kochanek 1998, ApJ 495, 157 (KK); Baltz, Marshall & Oguri 2009, JCAP 01, 015 (BMO);
Navarro, Frenk & White 1997, ApJ 490, 493 (NFW); Ciotti & Bertin 1999, A&A 352, 447 (CB).
"""

import math

import numpy as np
import torch
from torch import Tensor

from darklens.lenses.physics import comoving_distance, sersic_b, sis

CORE = 1e-10  # arcsec, keeps the centre of an ellipsoid finite; lenstronomy has the same
INNER = 1e-3  # scale radii: a truncated NFW halo's deflection is linear within, as lenstronomy has it
FAINT = -80.0  # logarithm of the faintest light: below, float32 has only denormal numbers, which are slow
ARCSEC = math.pi / 180 / 3600
NFW_ALPHA = 4 * (1 + math.log(0.5))  # alpha_rs = NFW_ALPHA rho0 rs^2


def sie(x: Tensor, y: Tensor, theta_e: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a singular isothermal ellipsoid at the origin (KK eq. 8 with a core of 1e-10").

    lenstronomy's convention: kappa = theta_e / 2 / sqrt(q u^2 + v^2 / q), u along the major axis at `angle`
    (radians), q = axis_ratio (minor over major), so theta_e is the geometric mean of the critical curve's axes.
    x, y: arcsec, broadcast against the others, (B, 1, 1). q = 1 everywhere is `physics.sis`, bit for bit.
    """
    if bool((axis_ratio == 1).all()):
        return sis(x, y, theta_e)
    cos, sin, q = torch.cos(angle), torch.sin(angle), axis_ratio
    q2, f = q * q, (1 - q * q).clamp(min=1e-12).sqrt()
    core, scale = CORE / q.sqrt(), theta_e * q.sqrt() / f
    xx, yy, xy = q2 * cos**2 + sin**2, q2 * sin**2 + cos**2, 2 * (q2 - 1) * sin * cos
    psi = (x * x * xx + (y * y * yy + q2 * core**2)).addcmul_(x * xy, y).sqrt_()  # sqrt(q^2 (u^2 + core^2) + v^2)
    u, v = (f * cos) * x + (f * sin) * y, (f * cos) * y - (f * sin) * x
    along = torch.atan2(u, psi + core)
    across = torch.div(v, psi.add_(q2 * core).sub_(v)).mul_(2).log1p_()  # 2 atanh(v / psi)
    c, s, half_c, half_s = scale * cos, scale * sin, scale * cos / 2, scale * sin / 2
    return (along * c).addcmul_(across, -half_s), across.mul_(half_c).addcmul_(along, s)


def sis_subhalos(x: Tensor, y: Tensor, px: Tensor, py: Tensor, theta_e: Tensor) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of singular isothermal spheres.

    x, y: (B or 1, ...) arcsec. px, py: positions, theta_e: Einstein radii (arcsec), each (S, B, 1, 1), S > 0.
    """
    ax, ay = 0.0, 0.0
    for one_x, one_y, one in zip(px, py, theta_e, strict=True):
        more_x, more_y = sis(x - one_x, y - one_y, one)
        ax, ay = more_x.add_(ax), more_y.add_(ay)
    return ax, ay


def _nfw_f(square: Tensor) -> Tensor:
    """arccosh(1/x) / sqrt(1 - x^2) of x^2 > 0, continued through x = 1 (BMO eq. A5)."""
    root = (square - 1).clamp_(min=1e-12).sqrt_()
    value = torch.atan2(root, torch.ones((), dtype=root.dtype, device=root.device)).div_(root)
    inner = (square < 1 + 1e-4).view(-1).nonzero()[:, 0]
    if len(inner):
        x2 = square.reshape(-1)[inner]
        d = 1 - x2
        root = d.clamp(min=1e-12).sqrt_()
        within = torch.log((1 + root) / x2.sqrt()).div_(root)
        value.view(-1)[inner] = torch.where(d < 1e-4, 1 + d / 3 + d * d / 5 + d**3 / 7, within)
    return value


def tnfw(x: Tensor, y: Tensor, rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a truncated NFW halo at the origin (BMO eqs. A3 and A9-A11, n = 1).

    rho = rho0 / (r/rs (1 + r/rs)^2) * r_trunc^2 / (r^2 + r_trunc^2). lenstronomy's convention: alpha_rs is the
    deflection at rs *without* the truncation. x, y, rs, r_trunc, alpha_rs: arcsec, broadcast. In float32 it is good
    to 1e-2 alpha_rs within 1e-3 rs and to 1e-5 alpha_rs at rs: terms cancel near the centre.
    """
    weight = _tnfw_weight(x * x + y * y, rs, alpha_rs, r_trunc)
    return weight * x, weight * y


def _tnfw_weight(r2: Tensor, rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor) -> Tensor:
    """Deflection over radius; r2 (arcsec^2) is written over."""
    tau = r_trunc / rs
    t2, square = tau * tau, r2.mul_(1 / (rs * rs)).clamp_(min=INNER**2)
    root = (square + t2).sqrt_()
    log = square.sqrt().div_(root + tau).log_()
    g = _nfw_f(square).mul_(2 * square + (t2 - 1)).add_(tau * math.pi + (t2 - 1) * torch.log(tau))
    g.addcmul_(root, log.mul_((t2 - 1) / tau).sub_(math.pi))
    return g.div_(square).mul_(4 * alpha_rs / (NFW_ALPHA * rs) * t2 / (t2 + 1) ** 2)


def tnfw_subhalos(
    x: Tensor, y: Tensor, px: Tensor, py: Tensor, rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of truncated NFW halos at px, py; all arcsec, (S, B, 1, 1), S > 0."""
    shape = torch.broadcast_shapes(x.shape, y.shape, px.shape[1:])
    ax, ay = x.new_zeros(shape), x.new_zeros(shape)
    for one_x, one_y, *one in zip(px, py, rs, alpha_rs, r_trunc, strict=True):
        dx, dy = x - one_x, y - one_y
        weight = _tnfw_weight(dx * dx + dy * dy, *one)
        ax.addcmul_(weight, dx)
        ay.addcmul_(weight, dy)
    return ax, ay


def critical_density(z: np.ndarray | float, h0: float = 70.0, omega_m: float = 0.3) -> np.ndarray:
    """Critical density in Msun/Mpc^3 at redshift z in flat LCDM; h0 in km/s/Mpc."""
    return 2.77536627e11 * (h0 / 100) ** 2 * (omega_m * (1 + np.asarray(z)) ** 3 + 1 - omega_m)


def critical_surface_density(z_lens: np.ndarray | float, z_source: np.ndarray | float) -> np.ndarray:
    """c^2 / (4 pi G) D_s / (D_l D_ls) in Msun/Mpc^2, from angular diameter distances."""
    c2_over_4_pi_g = 299792458.0**2 * 3.0856775814913673e22 / (4 * math.pi * 1.32712440018e20)  # Msun/Mpc
    near, far = comoving_distance(z_lens), comoving_distance(z_source)
    return c2_over_4_pi_g * far * (1 + z_lens) / (near * (far - near))


def nfw_angles(
    mass: np.ndarray, concentration: np.ndarray, z_lens: np.ndarray, z_source: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(rs, alpha_rs) in arcsec of an NFW halo of M200 (Msun, 200 times the critical density at z_lens) (NFW).

    concentration = r200 / rs; alpha_rs is the deflection at rs; flat LCDM, H0 = 70, Omega_m = 0.3.
    """
    c, density = np.asarray(concentration), critical_density(z_lens)
    rs = np.cbrt(3 * np.asarray(mass) / (800 * math.pi * density)) / c  # Mpc
    rho0 = 200 / 3 * density * c**3 / (np.log1p(c) - c / (1 + c))
    to_arcsec = 1 / (comoving_distance(z_lens) / (1 + z_lens) * ARCSEC)
    alpha = NFW_ALPHA * rho0 * rs**2 / critical_surface_density(z_lens, z_source)
    return rs * to_arcsec, alpha * to_arcsec


def tnfw_mass(mass: np.ndarray, concentration: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Total mass (Msun) of the truncated halo of M200 = mass; tau = r_trunc / rs (BMO eq. A4 at infinity)."""
    c, t2 = np.asarray(concentration), np.square(tau)
    shape = t2 / (t2 + 1) ** 2 * ((t2 - 1) * np.log(tau) + np.pi * tau - (t2 + 1))
    return mass * shape / (np.log1p(c) - c / (1 + c))


def sersic_light(x: Tensor, y: Tensor, n: float | Tensor, radius: Tensor, axis_ratio: Tensor, angle: Tensor) -> Tensor:
    """`physics.sersic` with a logarithm and an exponential for its power, which is faster; x and y may broadcast."""
    b, cos, sin = sersic_b(n), torch.cos(angle), torch.sin(angle)
    major, minor = axis_ratio * (b**n / radius) ** 2, (b**n / radius) ** 2 / axis_ratio
    xx, yy = major * cos**2 + minor * sin**2, major * sin**2 + minor * cos**2
    xy = 2 * (major - minor) * cos * sin
    r2 = (x * xx * x + y * y * yy).addcmul_(x * xy, y) if x.shape != y.shape else (x * xx).addcmul_(y, xy).mul_(x)
    r2 = r2 if x.shape != y.shape else r2.addcmul_(y * yy, y)
    return r2.log_().mul_(0.5 / n).exp_().neg_().add_(b).clamp_(min=FAINT).exp_()


def sersic_area(n: np.ndarray | float, radius: np.ndarray | float) -> np.ndarray:
    """Total flux of a Sersic profile over its surface brightness at the effective radius, in arcsec^2.

    2 pi n e^b b^-2n Gamma(2n) radius^2 (CB eq. 4); radius (arcsec) is the geometric mean of the axes.
    """
    from scipy.special import gamma

    n, b = np.asarray(n, dtype=float), sersic_b(np.asarray(n, dtype=float))
    return 2 * np.pi * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n) * np.square(radius)


def axion_vortex_length(axion_mass: np.ndarray | float) -> np.ndarray:
    """Whole length (arcsec) of the vortex of an axion of a mass in eV: 0.06" * 1e-22 / mass.

    DeepLense's Models I to III: half-length 0.06e-22 / (2 m), valid for a lens at redshift 0.5.
    """
    return 0.06e-22 / np.asarray(axion_mass)

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

from darklens.simulation.physics import TINY, comoving_distance, sersic_b, sis
from darklens.simulation.terms import columns

CORE = 1e-10  # arcsec, keeps the centre of an ellipsoid finite; lenstronomy has the same
INNER = 1e-3  # scale radii: a truncated NFW halo's deflection is linear within, as lenstronomy has it
FAINT = -80.0  # logarithm of the faintest light: below, float32 has only denormal numbers, which are slow
ARCSEC = math.pi / 180 / 3600
LOG2_E = 1 / math.log(2)
SCALE_RADIUS, TRUNCATION = 0.16, 5.0  # arcsec, of halos of 1e-3 arcsec^2; scale radii
NFW_ALPHA = 4 * (1 + math.log(0.5))  # alpha_rs = NFW_ALPHA rho0 rs^2


def sie_terms(x: Tensor, y: Tensor, theta_e: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
    """What `sie_deflection` needs: parts of psi, u and v, cores, the factors of both components, and of a sphere.

    x, y: arcsec from the centre; theta_e: arcsec; axis_ratio: minor over major; angle: radians; (B, 1, 1) broadcast.
    """
    cos, sin, q = torch.cos(angle), torch.sin(angle), axis_ratio
    q2, f = q * q, (1 - q * q).clamp(min=1e-12).sqrt()
    core, scale = CORE / q.sqrt(), theta_e * q.sqrt() / f
    xx, yy, xy = q2 * cos**2 + sin**2, q2 * sin**2 + cos**2, 2 * (q2 - 1) * sin * cos
    psi = x * x * xx, y * y * yy + q2 * core**2, x * xy
    uv = f * cos * x, f * sin * y, f * cos * y, f * sin * x
    c, s = scale * cos, scale * sin
    return *psi, *uv, core, q2 * core, c, s, c / 2, -s / 2, q, x, y, theta_e


def sie_deflection(*terms: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a singular isothermal ellipsoid of `sie_terms` (KK eq. 8 with a core of 1e-10").

    lenstronomy's convention: kappa = theta_e / 2 / sqrt(q u^2 + v^2 / q), u along the major axis and q the axis ratio,
    so theta_e is the geometric mean of the critical curve's axes. q = 1 everywhere is `physics.sis`, bit for bit.
    """
    psi_x, psi_y, psi_xy, u_x, u_y, v_y, v_x, core, q2_core, c, s, half_c, minus_half_s, q, x, y, theta_e = terms
    if bool((q == 1).all()):
        return sis(x, y, theta_e)
    psi = (psi_x + psi_y).addcmul_(psi_xy, y).sqrt_()  # sqrt(q^2 (u^2 + core^2) + v^2)
    u, v = u_x + u_y, v_y - v_x
    along = torch.atan2(u, torch.add(psi, core), out=u)
    across = v.div_(psi.add_(q2_core).sub_(v)).mul_(2).log1p_()  # 2 atanh(v / psi)
    return torch.mul(along, c, out=psi).addcmul_(across, minus_half_s), across.mul_(half_c).addcmul_(along, s)


def sis_subhalos(x: Tensor, y: Tensor, px: Tensor, py: Tensor, theta_e: Tensor) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of singular isothermal spheres.

    x, y: (B or 1, ...) arcsec. px, py: positions, theta_e: Einstein radii (arcsec), each (S, B, 1, 1), S > 0.
    """
    parts = (sis(x - one_x, y - one_y, one) for one_x, one_y, one in zip(px, py, theta_e, strict=True))
    ax, ay = next(parts)
    for more_x, more_y in parts:
        ax, ay = more_x.add_(ax), more_y.add_(ay)
    return ax, ay


def _nfw_f(square: Tensor) -> Tensor:
    """arccosh(1/x) / sqrt(1 - x^2) of x^2 > 0, continued through x = 1 (BMO eq. A5)."""
    inverse = (square - 1).rsqrt_()
    value = torch.atan2(square.new_ones(()), inverse).mul_(inverse)
    inner = _up_to_one(square)
    if len(inner):
        x2 = square.view(-1)[inner]
        root = (1 - x2).clamp_(min=1e-12).sqrt_()
        value.view(-1)[inner] = (2 * root * (1 + root)).div_(x2).log1p_().div_(2 * root)  # atanh(root) / root
    return value


def _up_to_one(values: Tensor) -> Tensor:
    """Where values are 1 or less, as indices into all of them; on a CPU by NumPy, which is five times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() <= 1))
    return (values <= 1).view(-1).nonzero()[:, 0]


def tnfw_terms(rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor) -> tuple[Tensor, ...]:
    """What `tnfw_subhalos` needs of halos: 1 / rs^2, tau, tau^2, and the factors in its sum.

    rs and r_trunc: arcsec; alpha_rs: the deflection (arcsec) at rs *without* the truncation, as lenstronomy has it.
    """
    tau = r_trunc / rs
    t2 = tau * tau
    scale = 4 * alpha_rs / (NFW_ALPHA * rs) * t2 / (t2 + 1) ** 2
    constant = scale * (tau * math.pi + (t2 - 1) * torch.log(tau))
    return 1 / (rs * rs), tau, t2, 2 * scale, scale * (t2 - 1), constant, scale * (t2 - 1) / (2 * tau), -math.pi * scale


def _tnfw_weight(x2: Tensor, y2: Tensor, *terms: Tensor) -> Tensor:
    """Deflection over radius of a halo, of its terms; x2, y2: squared distances from it over rs^2."""
    tau, t2, twice, offset, constant, by_log, by_root = terms
    square = (x2 + y2).clamp_(min=INNER**2)
    root = (square + t2).sqrt_()
    log = (root + tau).square_()
    log = torch.div(square, log, out=log).log_().mul_(by_log).add_(by_root)  # of 2 ln(x / (root + tau))
    weight = torch.addcmul(constant, _nfw_f(square), (square * twice).add_(offset))
    return weight.addcmul_(root, log).div_(square)


def tnfw_subhalos(x: Tensor, y: Tensor, px: Tensor, py: Tensor, *terms: Tensor) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of truncated NFW halos at px, py (arcsec) (BMO eqs. A3 and A9-A11, n = 1).

    rho = rho0 / (r/rs (1 + r/rs)^2) * r_trunc^2 / (r^2 + r_trunc^2). px, py and `tnfw_terms`: (S, B, 1, 1), S > 0.
    In float32 it is good to 1e-2 alpha_rs within 1e-3 rs and to 1e-5 alpha_rs at rs: terms cancel near the centre.
    """
    (inverse, *factors), dx, dy = terms, x - px, y - py
    ax = torch.zeros_like(dx[0] + dy[0])
    ay = torch.zeros_like(ax)
    for one_x, one_y, *one in zip(dx, dy, dx * dx * inverse, dy * dy * inverse, *factors, strict=True):
        weight = _tnfw_weight(*one)
        ax.addcmul_(weight, one_x)
        ay.addcmul_(weight, one_y)
    return ax, ay


def critical_density(z: np.ndarray | float, h0: float = 70.0, omega_m: float = 0.3) -> np.ndarray:
    """Critical density in Msun/Mpc^3 at redshift z in flat LCDM; h0 in km/s/Mpc."""
    return 2.77536627e11 * (h0 / 100) ** 2 * (omega_m * (1 + np.asarray(z)) ** 3 + 1 - omega_m)


def critical_surface_density(z_lens: np.ndarray | float, z_source: np.ndarray | float) -> np.ndarray:
    """c^2 / (4 pi G) D_s / (D_l D_ls) in Msun/Mpc^2, from angular diameter distances."""
    c2_over_4_pi_g = 299792458.0**2 * 3.0856775814913673e22 / (4 * math.pi * 1.32712440018e20)  # Msun/Mpc
    d_l, d_s = comoving_distance(z_lens), comoving_distance(z_source)  # comoving
    return c2_over_4_pi_g * d_s * (1 + z_lens) / (d_l * (d_s - d_l))


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
    c = np.asarray(concentration)
    return mass * tnfw_shape(tau) / (np.log1p(c) - c / (1 + c))


def tnfw_shape(tau: np.ndarray | float) -> np.ndarray:
    """Total mass of a truncated NFW halo over 4 pi rho0 rs^3; tau = r_trunc / rs (BMO eq. A4 at infinity)."""
    t2 = np.square(tau)
    return t2 / (t2 + 1) ** 2 * ((t2 - 1) * np.log(tau) + np.pi * tau - (t2 + 1))


def tnfw_from_square(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """rs, alpha_rs and r_trunc (arcsec) of truncated NFW halos that bend light from afar as points of squared Einstein
    radii `square` (arcsec^2): 4 G m D_ls / (c^2 D_l D_s) of their whole mass m (BMO eq. A4 at infinity).

    Radii go with the cube root of the mass, as at one concentration: rs is 0.16" at 1e-3 arcsec^2 (of either sign),
    that of halos of concentration 15 at redshift 0.5 before a source at 1, and r_trunc 5 rs.
    """
    rs = SCALE_RADIUS * (square.abs() / 1e-3).clamp(min=1e-6).pow(1 / 3)
    shape = float(tnfw_shape(TRUNCATION))
    return rs, square * NFW_ALPHA / (4 * shape * rs), TRUNCATION * rs


def sersic_terms(n: np.ndarray, radius: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
    """What `sersic_profile` needs of a galaxy: n (B,), radius (arcsec), axis ratio, angle (radians), (B, 1, 1) each."""
    b_n = np.asarray(sersic_b(np.asarray(n, dtype=float)))
    power, half, b = (columns(value, radius) for value in (b_n**n, 0.5 / n, b_n))
    cos, sin, square = torch.cos(angle), torch.sin(angle), (radius.reciprocal() * power) ** 2
    major, minor = axis_ratio * square, square / axis_ratio
    xx, yy = major * cos**2 + minor * sin**2, major * sin**2 + minor * cos**2
    return xx, yy, 2 * (major - minor) * cos * sin, half, b


def sersic_profile(x: Tensor, y: Tensor, *terms: Tensor) -> Tensor:
    """Sersic light over its value at the effective radius: exp(-b_n ((R / radius)^(1/n) - 1)) (Sersic 1963).

    R^2 = q u^2 + v^2 / q, with u along the major axis and q the axis ratio. x, y: arcsec from the centre; terms: of
    `sersic_terms`. A logarithm and exponentials are faster than a power.
    """
    xx, yy, xy, half, b = terms
    r2 = (x * xx).addcmul_(y, xy).mul_(x).addcmul_(y * yy, y)  # b^2n R^2 / radius^2
    power = r2.log_().mul_(half).exp_()
    return torch.sub(b, power, out=power).clamp_(min=FAINT).exp_()


def sersic_grid_terms(x: Tensor, y: Tensor, *terms: Tensor) -> tuple[Tensor, ...]:
    """What `sersic_grid` needs of `sersic_terms` at the rays x (B, 1, n) and y (B, n, 1)."""
    xx, yy, xy, half, b = terms
    return x * x * xx, y * y * yy, x * xy, y, half, b


def sersic_grid(xx: Tensor, yy: Tensor, xy: Tensor, y: Tensor, half: Tensor, b: Tensor) -> Tensor:
    """`sersic_profile` on a grid, of `sersic_grid_terms`. Powers of 2 are faster still; but those of e keep the bits
    of the sources in data sets that there are."""
    power = (xx + yy).addcmul_(xy, y).log2_().mul_(half).exp2_()
    return torch.sub(b, power, out=power).clamp_(min=FAINT).mul_(LOG2_E).exp2_()


def isophote_terms(n: np.ndarray, radius: Tensor, axis_ratio: Tensor, angle: Tensor, a4: Tensor) -> tuple[Tensor, ...]:
    """What `isophote_light` needs of a galaxy: those of `sersic_terms`, and a4 (B, 1, 1)."""
    b_n = np.asarray(sersic_b(np.asarray(n, dtype=float)))
    power, half, b = (columns(value, radius) for value in (b_n**n, 0.5 / n, b_n))
    root = axis_ratio.sqrt()
    return root * torch.cos(angle), root * torch.sin(angle), 1 / axis_ratio, (power / radius) ** 2, half, b, a4


def isophote_light(x: Tensor, y: Tensor, *terms: Tensor) -> Tensor:
    """`sersic_profile` with boxy (a4 < 0) or discy (a4 > 0) isophotes of radius R (1 + a4 cos 4 phi).

    R and phi are the elliptical radius and angle, R cos phi along the major axis (Bender, Doebereiner & Moellenhoff
    1988, A&AS 74, 385); cos 4 phi = 1 - 8 cos^2 phi sin^2 phi. x, y: arcsec from the centre; they broadcast.
    """
    cos, sin, inverse_q, scale, half, b, a4 = terms
    along, across = (cos * x + sin * y).square_(), (cos * y - sin * x).square_() * inverse_q**2
    square = along + across + TINY
    radius = 1 + a4 * (1 - 8 * along * across / square.square())
    power = (square * scale / radius.square_()).pow_(half)
    return torch.sub(b, power, out=power).clamp_(min=FAINT).exp_()


def sersic_area(n: np.ndarray | float, radius: np.ndarray | float, a4: np.ndarray | float = 0.0) -> np.ndarray:
    """Total flux of a Sersic profile over its surface brightness at the effective radius, in arcsec^2.

    2 pi n e^b b^-2n Gamma(2n) radius^2 (CB eq. 4); radius (arcsec) is the geometric mean of the axes. Isophotes of a4
    (`isophote_light`) have 1 + a4^2 / 2 times the area.
    """
    from scipy.special import gamma

    n, b = np.asarray(n, dtype=float), sersic_b(np.asarray(n, dtype=float))
    return 2 * np.pi * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n) * np.square(radius) * (1 + np.square(a4) / 2)


def axion_vortex_length(axion_mass: np.ndarray | float) -> np.ndarray:
    """Whole length (arcsec) of the vortex of an axion of a mass in eV: 0.06" * 1e-22 / mass.

    DeepLense's Models I to III: half-length 0.06e-22 / (2 m), valid for a lens at redshift 0.5.
    """
    return 0.06e-22 / np.asarray(axion_mass)

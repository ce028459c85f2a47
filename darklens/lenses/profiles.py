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
from darklens.lenses.terms import columns

CORE = 1e-10  # arcsec, keeps the centre of an ellipsoid finite; lenstronomy has the same
INNER = 1e-3  # scale radii: a truncated NFW halo's deflection is linear within, as lenstronomy has it
FAINT = -80.0  # logarithm of the faintest light: below, float32 has only denormal numbers, which are slow
ARCSEC = math.pi / 180 / 3600
LOG2_E = 1 / math.log(2)
NFW_ALPHA = 4 * (1 + math.log(0.5))  # alpha_rs = NFW_ALPHA rho0 rs^2


def sie_terms(theta_e: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
    """What `sie_deflection` needs of an ellipsoid."""
    cos, sin, q = torch.cos(angle), torch.sin(angle), axis_ratio
    q2, f = q * q, (1 - q * q).clamp(min=1e-12).sqrt()
    core, scale = CORE / q.sqrt(), theta_e * q.sqrt() / f
    xx, yy, xy = q2 * cos**2 + sin**2, q2 * sin**2 + cos**2, 2 * (q2 - 1) * sin * cos
    return theta_e, q, f * cos, f * sin, xx, yy, xy, core, q2 * core, q2 * core**2, scale * cos, scale * sin


def sie_deflection(x: Tensor, y: Tensor, *terms: Tensor) -> tuple[Tensor, Tensor]:
    """`sie` of its terms."""
    theta_e, q, f_cos, f_sin, xx, yy, xy, core, q2_core, soft, c, s = terms
    if bool((q == 1).all()):
        return sis(x, y, theta_e)
    psi = (x * x * xx + (y * y * yy + soft)).addcmul_(x * xy, y).sqrt_()  # sqrt(q^2 (u^2 + core^2) + v^2)
    u, v = f_cos * x + f_sin * y, f_cos * y - f_sin * x
    along = torch.atan2(u, torch.add(psi, core), out=u)
    across = v.div_(psi.add_(q2_core).sub_(v)).mul_(2).log1p_()  # 2 atanh(v / psi)
    return torch.mul(along, c, out=psi).addcmul_(across, -s / 2), across.mul_(c / 2).addcmul_(along, s)


def sie(x: Tensor, y: Tensor, theta_e: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a singular isothermal ellipsoid at the origin (KK eq. 8 with a core of 1e-10").

    lenstronomy's convention: kappa = theta_e / 2 / sqrt(q u^2 + v^2 / q), u along the major axis at `angle`
    (radians), q = axis_ratio (minor over major), so theta_e is the geometric mean of the critical curve's axes.
    x, y: arcsec, broadcast against the others, (B, 1, 1). q = 1 everywhere is `physics.sis`, bit for bit.
    """
    return sie_deflection(x, y, *sie_terms(theta_e, axis_ratio, angle))


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
    inverse = (square - 1).clamp_(min=1e-12).rsqrt_()
    value = torch.atan2(torch.ones((), dtype=square.dtype, device=square.device), inverse).mul_(inverse)
    inner = _below(square, 1.0)
    if len(inner):
        x2 = square.view(-1)[inner]
        root = (1 - x2).clamp_(min=1e-12).sqrt_()
        value.view(-1)[inner] = (2 * root * (1 + root)).div_(x2).log1p_().div_(2 * root)  # atanh(root) / root
    return value


def _below(values: Tensor, limit: float) -> Tensor:
    """Where values are less, as indices into all of them; on a CPU by NumPy, which is five times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() < limit))
    return (values < limit).view(-1).nonzero()[:, 0]


def tnfw_terms(rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor) -> tuple[Tensor, ...]:
    """What `tnfw_weight` needs of a halo: 1 / rs^2, tau, tau^2, and the factors in its sum."""
    tau = r_trunc / rs
    t2 = tau * tau
    scale = 4 * alpha_rs / (NFW_ALPHA * rs) * t2 / (t2 + 1) ** 2
    constant = scale * (tau * math.pi + (t2 - 1) * torch.log(tau))
    return 1 / (rs * rs), tau, t2, 2 * scale, scale * (t2 - 1), constant, scale * (t2 - 1) / (2 * tau), -math.pi * scale


def tnfw_weight(dx2: Tensor, dy2: Tensor, *terms: Tensor) -> Tensor:
    """Deflection over radius of a halo, of its terms; dx2, dy2: squared distances from it (arcsec^2)."""
    inverse, tau, t2, twice, offset, constant, by_log, by_root = terms
    square = (dx2 * inverse + dy2 * inverse).clamp_(min=INNER**2)
    root = (square + t2).sqrt_()
    log = (root + tau).square_().reciprocal_().mul_(square).log_()  # 2 ln(x / (root + tau))
    weight = _nfw_f(square).mul_(square * twice + offset).add_(constant)
    return weight.addcmul_(root, log.mul_(by_log).add_(by_root)).div_(square)


def tnfw(x: Tensor, y: Tensor, rs: Tensor, alpha_rs: Tensor, r_trunc: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection (arcsec) of a truncated NFW halo at the origin (BMO eqs. A3 and A9-A11, n = 1).

    rho = rho0 / (r/rs (1 + r/rs)^2) * r_trunc^2 / (r^2 + r_trunc^2). lenstronomy's convention: alpha_rs is the
    deflection at rs *without* the truncation. x, y, rs, r_trunc, alpha_rs: arcsec, broadcast. In float32 it is good
    to 1e-2 alpha_rs within 1e-3 rs and to 1e-5 alpha_rs at rs: terms cancel near the centre.
    """
    weight = tnfw_weight(x * x, y * y, *tnfw_terms(rs, alpha_rs, r_trunc))
    return weight * x, weight * y


def tnfw_subhalos(x: Tensor, y: Tensor, px: Tensor, py: Tensor, *terms: Tensor) -> tuple[Tensor, Tensor]:
    """Summed deflection (arcsec) of truncated NFW halos at px, py, of their `tnfw_terms`: (S, B, 1, 1), S > 0."""
    dx, dy = x - px, y - py
    ax = torch.zeros_like(dx[0] + dy[0])
    ay = torch.zeros_like(ax)
    for one_x, one_y, dx2, dy2, *one in zip(dx, dy, dx * dx, dy * dy, *terms, strict=True):
        weight = tnfw_weight(dx2, dy2, *one)
        ax.addcmul_(weight, one_x)
        ay.addcmul_(weight, one_y)
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


def sersic_terms(n: np.ndarray, radius: Tensor, axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
    """What `sersic_profile` needs of a galaxy; n: (B,), the others (B, 1, 1)."""
    b = sersic_b(np.asarray(n, dtype=float))
    power, half, b = (columns(value, radius) for value in (b**n, 0.5 / n, b))
    cos, sin, square = torch.cos(angle), torch.sin(angle), (radius.reciprocal() * power) ** 2
    major, minor = axis_ratio * square, square / axis_ratio
    xx, yy = major * cos**2 + minor * sin**2, major * sin**2 + minor * cos**2
    return xx, yy, 2 * (major - minor) * cos * sin, half, b


def sersic_profile(x: Tensor, y: Tensor, *terms: Tensor) -> Tensor:
    """`sersic_light` of its terms: with a logarithm and exponentials for its power, which is faster."""
    xx, yy, xy, half, b = terms
    if x.shape != y.shape:  # the lens's light: powers of 2 are faster still
        r2 = (x * xx * x + y * y * yy).addcmul_(x * xy, y)
        power = r2.log2_().mul_(half).exp2_()
        return torch.sub(b, power, out=power).clamp_(min=FAINT).mul_(LOG2_E).exp2_()
    r2 = (x * xx).addcmul_(y, xy).mul_(x).addcmul_(y * yy, y)  # b^2n R^2 / radius^2
    power = r2.log_().mul_(half).exp_()  # those of e keep the bits of the data sets that there are
    return torch.sub(b, power, out=power).clamp_(min=FAINT).exp_()


def sersic_light(x: Tensor, y: Tensor, n: float, radius: Tensor, axis_ratio: Tensor, angle: Tensor) -> Tensor:
    """Sersic light over its value at the effective radius: exp(-b_n ((R / radius)^(1/n) - 1)) (Sersic 1963).

    R^2 = q u^2 + v^2 / q, with u along the major axis at `angle` (radians) and q the axis ratio.
    x, y: arcsec from the centre; they may broadcast; radius: arcsec.
    """
    return sersic_profile(x, y, *sersic_terms(np.array([n]), radius, axis_ratio, angle))


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

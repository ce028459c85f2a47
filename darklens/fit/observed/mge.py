"""The lens galaxy's light as a multi-Gaussian expansion: columns of an image, linear in their amplitudes.

Two sets of elliptical Gaussians of log-spaced widths share a centre; each set has an ellipticity of its own, so that
a galaxy may twist and change its flattening outwards (Emsellem, Monnet & Bacon 1994, A&A 285, 723; Cappellari 2002,
MNRAS 333, 400). An ellipticity e = eta (cos 2f, sin 2f) means an axis ratio of exp(-eta) and a major axis along f.
The amplitudes are 0 or more. Terms in cos 4t and sin 4t, t the angle in elliptical coordinates, add what makes
isophotes boxy or disky (Bender & Moellenhoff 1987, A&A 177, 71), for which Gaussians alone have no freedom.
"""

import dataclasses

import numpy as np

from darklens.fit.observed.cutout import Cutout

NARROW = 4.0  # PSF widths: wider Gaussians take the PSF for a Gaussian of its own second moments
PIXEL = 1 / 12  # pixels^2, the variance of a square pixel along a side
HARMONICS = (0.125, 0.25, 0.5, 1.0)  # arcsec, widths of the cos 4t and sin 4t terms
WIDTHS = 0.5, 0.85  # the narrowest in pixels, the widest in sides of the window


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the light's columns depend on: arcsec and ellipticities."""

    centre: np.ndarray  # (2,) x, y
    ellipticity: np.ndarray  # (J, 2), one a set

    def vector(self) -> np.ndarray:
        """(2 + 2 J,)"""
        return np.concatenate((self.centre, self.ellipticity.ravel()))

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> "Shape":
        return cls(vector[:2], vector[2:].reshape(-1, 2))


def widths(cutout: Cutout, number: int) -> np.ndarray:
    """(number,) standard deviations in arcsec, log-spaced."""
    return np.geomspace(WIDTHS[0], WIDTHS[1] * cutout.size, number) * cutout.pixel_scale


def covariances(ellipticity: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, 2, 2) covariances sigma^2 exp(E), E = [[e1, e2], [e2, -e1]], and (2, K, 2, 2) their derivatives by e1, e2."""
    e1, e2 = ellipticity
    eta = np.sqrt(e1 * e1 + e2 * e2 + 1e-24)
    cosh, sinc = np.cosh(eta), np.sinh(eta) / eta
    slope = 1 / 3 if eta < 1e-4 else (cosh - sinc) / eta**2  # d sinc / d eta / eta
    one, matrix = np.eye(2), np.array([[e1, e2], [e2, -e1]])
    parts = np.array([[[1.0, 0], [0, -1]], [[0, 1.0], [1, 0]]])
    value = cosh * one + sinc * matrix
    by_e = [e * (sinc * one + slope * matrix) + sinc * part for e, part in zip((e1, e2), parts, strict=True)]
    square = sigmas[:, None, None] ** 2
    return square * value, np.array(by_e)[:, None] * square


class Gaussians:
    """The columns of one set of Gaussians in a cutout, each of sum 1 before the window cuts it."""

    def __init__(self, cutout: Cutout, sigmas: np.ndarray) -> None:
        """sigmas: (K,) arcsec, ascending."""
        self.cutout, self.sigmas = cutout, sigmas
        scale, psf = cutout.pixel_scale, cutout.psf
        self.narrow = int((sigmas < NARROW * psf.width * scale).sum())
        flip = np.array([[1, -1], [-1, 1]])  # rows go down, y goes up
        pixel = PIXEL * scale**2 * np.eye(2)
        wide = (np.arange(len(sigmas)) >= self.narrow)[:, None, None]
        self.added = pixel + wide * psf.covariance * flip * scale**2
        self.moved = wide[:, 0] * psf.offset * [scale, -scale]  # (K, 2)

    def sharp(self, centre: np.ndarray, ellipticity: np.ndarray) -> "Sharp":
        """The Gaussians, the narrow ones before the PSF."""
        covariance, by_e = covariances(ellipticity, self.sigmas)
        inverse = np.linalg.inv(covariance + self.added)
        x = self.cutout.steps - (centre[0] + self.moved[:, :1])  # (K, n)
        y = -self.cutout.steps - (centre[1] + self.moved[:, 1:])
        xx, xy, yy = inverse[:, 0, 0, None], inverse[:, 0, 1, None], inverse[:, 1, 1, None]
        planes = (y * (2 * xy))[:, :, None] * x[:, None]  # (K, n, n)
        planes += (xx * x * x)[:, None]
        planes += (yy * y * y)[:, :, None]
        planes *= -0.5
        np.exp(planes, out=planes)
        norm = self.cutout.pixel_scale**2 * np.sqrt(np.linalg.det(inverse)) / (2 * np.pi)
        planes *= norm[:, None, None]
        return Sharp(self, planes, inverse, by_e, x, y)

    def blur(self, planes: np.ndarray) -> np.ndarray:
        """(K, n, n) with the PSF where it isn't in yet, in place."""
        planes[: self.narrow] = self.cutout.psf.blur(planes[: self.narrow])
        return planes


@dataclasses.dataclass
class Sharp:
    """Planes (K, n, n), and what their derivatives need."""

    gaussians: Gaussians
    planes: np.ndarray
    inverse: np.ndarray  # (K, 2, 2)
    by_e: np.ndarray  # (2, K, 2, 2)
    x: np.ndarray  # (K, n)
    y: np.ndarray  # (K, n)

    def derivatives(self, amplitudes: np.ndarray) -> np.ndarray:
        """(4, n, n): of the sum with these amplitudes (K,) by centre_x, centre_y, e1, e2, blurred.

        dG/dc = G C^-1 d and dG/de = G (d^T Q d - tr(C^-1 dC)) / 2 with Q = C^-1 dC C^-1.
        """
        narrow, inverse = self.gaussians.narrow, self.inverse
        q = inverse @ self.by_e @ inverse / 2  # (2, K, 2, 2)
        trace = np.einsum("kij,akji->ak", inverse, self.by_e) / 2  # (2, K)
        sums = []
        for part in (slice(0, narrow), slice(narrow, None)):
            i = np.flatnonzero(amplitudes[part]) + (part.start or 0)
            x, y = self.x[i, None], self.y[i, :, None]
            planes = self.planes[i] * amplitudes[i, None, None]
            px, py = planes * x, planes * y
            sum_of = {"1": planes, "x": px, "y": py, "xx": px * x, "xy": px * y, "yy": py * y}
            flat = {name: value.reshape(len(i), self.planes[0].size) for name, value in sum_of.items()}  # (k, n^2)
            by_c = [inverse[i, a, 0] @ flat["x"] + inverse[i, a, 1] @ flat["y"] for a in range(2)]
            by_e = [
                q[a, i, 0, 0] @ flat["xx"]
                + 2 * q[a, i, 0, 1] @ flat["xy"]
                + q[a, i, 1, 1] @ flat["yy"]
                - trace[a, i] @ flat["1"]
                for a in range(2)
            ]
            sums.append(np.array(by_c + by_e).reshape(4, *self.planes.shape[1:]))
        return self.gaussians.cutout.psf.blur(sums[0]) + sums[1]


def harmonics(cutout: Cutout, centre: np.ndarray, ellipticity: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """(2 M, n, n): (r/s)^2 exp(-r^2 / 2 s^2) times cos 4t and sin 4t, blurred; r and t elliptical, s in `sigmas` (M,)
    arcsec. The angle counts from the major axis."""
    eta = np.hypot(*ellipticity)
    angle = np.arctan2(ellipticity[1], ellipticity[0]) / 2
    x, y = cutout.x - centre[0], cutout.y - centre[1]
    z = (x + 1j * y) * np.exp(-1j * angle)
    z = z.real * np.exp(-eta / 2) + 1j * z.imag * np.exp(eta / 2)
    r2 = np.abs(z) ** 2
    turned = (z * z / np.maximum(r2, 1e-12)) ** 2
    planes = [r2 / s**2 * np.exp(-r2 / (2 * s * s)) * part for s in sigmas for part in (turned.real, turned.imag)]
    return cutout.psf.blur(np.array(planes))

"""Smooth lens images and their derivatives, many at once: one evaluation of the light, then blurs.

The light at a ray is I(rho^2), with rho^2 = w^T M w / R^2 and w = (u, v) the ray in the source plane about the source:

    u = (1 - g1) x - g2 y - theta_E cos - x_s        M = cosh(eta) 1 - sinh(eta) [[cos 2f, sin 2f], [sin 2f, -cos 2f]]
    v = (1 + g1) y - g2 x - theta_E sin - y_s        (determinant 1, smooth at eta = 0, axis ratio exp(-eta))

so every derivative is dI/d(rho^2) times a polynomial in (u, v) and the ray. A pixel is the mean of its rays; the PSF
is a few products with banded matrices on either side.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from darklens.lenses.fit.model import SmoothModel, gaussian_kernel, separable

SOFT = 1e-14  # added to rho^2: finite derivatives on top of a cusp
BLOCK = 36  # rows of a banded matrix at a time: fewer zeros to multiply, still large enough for BLAS


def band(kernel: np.ndarray, size: int) -> np.ndarray:
    """(size, size + 2 pad): the convolution with a kernel of 2 pad + 1 taps as a matrix."""
    matrix = np.zeros((size, size + len(kernel) - 1))
    for row in range(size):
        matrix[row, row : row + len(kernel)] = kernel[::-1]
    return matrix


class Blur:
    """Convolution with products of columns and rows, (B, h, K, h) -> (B, size, K, size), h = size + 2 pad."""

    def __init__(self, pairs: list[tuple[np.ndarray, np.ndarray]], size: int, like: Tensor) -> None:
        taps, blocks = len(pairs[0][0]), -(-size // BLOCK)
        edges = np.linspace(0, size, blocks + 1).astype(int).tolist()
        self.size, self.h = size, size + taps - 1
        self.slices = [(slice(a, b + taps - 1), b - a) for a, b in zip(edges, edges[1:], strict=False)]
        self.passes = [[[like.new_tensor(band(k, n)) for _, n in self.slices] for k in pair] for pair in pairs]

    def __call__(self, planes: Tensor) -> Tensor:
        b, h, k, _ = planes.shape
        flat, total = planes.reshape(b, h, k * h), None  # (B, h, K, h) -> (B, h, K h)
        for down, across in self.passes:
            rows = [m @ flat[:, part] for (part, _), m in zip(self.slices, down, strict=True)]
            wide = torch.cat(rows, 1).reshape(-1, h)  # (B, size, K h) -> (B size K, h)
            out = torch.cat([wide[:, part] @ m.T for (part, _), m in zip(self.slices, across, strict=True)], 1)
            total = out if total is None else total.add_(out)
        return total.reshape(b, self.size, k, self.size)


def sersic_b(log_n: Tensor) -> tuple[Tensor, Tensor]:
    """b_n of the Sersic profile and its derivative by log n (Ciotti & Bertin 1999, eq. 18)."""
    n = log_n.exp()
    terms = ((4 / 405, 1), (46 / 25515, 2), (131 / 1148175, 3))
    b = 2 * n - 1 / 3 + sum(c / n**p for c, p in terms)
    return b, 2 * n - sum(p * c / n**p for c, p in terms)


def shape_matrix(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """M = cosh(eta) 1 - sinh(eta) [[cos 2f, sin 2f], [sin 2f, -cos 2f]] as (..., 3): xx, xy, yy; and dM/de1, dM/de2."""
    eta2 = e1 * e1 + e2 * e2
    eta = (eta2 + 1e-24).sqrt()
    small = eta < 1e-2
    cosh, sinc = eta.cosh(), torch.where(small, 1 + eta2 / 6 + eta2**2 / 120, eta.sinh() / eta)
    slope = torch.where(small, 1 / 3 + eta2 / 30 + eta2**2 / 840, (cosh - sinc) / eta**2)  # sinc' / eta
    zero, one = torch.zeros_like(e1), torch.ones_like(e1)

    def stack(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
        return torch.stack((xx, xy, yy), -1)

    traceless = stack(e1, e2, -e1)
    derivatives = []
    for e, unit in ((e1, stack(one, zero, -one)), (e2, stack(zero, one, zero))):
        trace = stack(e * sinc, zero, e * sinc)
        derivatives.append(trace - (e * slope)[..., None] * traceless - sinc[..., None] * unit)
    return stack(cosh, zero, cosh) - sinc[..., None] * traceless, *derivatives


class Renderer:
    """Images of one camera: `size` pixels of `binning` image pixels each, amplitude 1 and no sky.

    `light` gives (B, size^2), `columns` (B, 1 + P, size, size): the light and its derivatives by the free parameters.
    Both take all parameters, q (B, 11).
    """

    def __init__(self, model: SmoothModel, size: int, binning: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.size, s = model, size, model.supersample
        to = functools.partial(torch.as_tensor, device=device, dtype=dtype)
        self._blur = Blur(_psf(model, binning), size, torch.empty(0, device=device, dtype=dtype))
        self.h = h = self._blur.h
        scale = model.pixel_scale * binning
        steps = torch.arange(h * s, dtype=torch.float64, device=device) - (h * s - 1) / 2
        x = (steps * (scale / s)).reshape(h, s)
        x, y = x.T.reshape(1, s, 1, h), -x.T.reshape(s, 1, h, 1)
        x, y = x.expand(s, s, h, h).reshape(-1), y.expand(s, s, h, h).reshape(-1)  # rays of a pixel lie h^2 apart
        r = torch.hypot(x, y) + 1e-15
        self.x, self.y, self.cos, self.sin = to(x), to(y), to(x / r), to(y / r)
        self.basis = torch.stack((self.x, self.y, self.cos, self.sin, torch.ones_like(self.x)))  # (5, s^2 h^2)

    def _rays(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """u, v (B, n) arcsec in the source plane about the source; cos, sin (B, n) from a free centre."""
        one, zero, (t, g1, g2, xs, ys) = torch.ones_like(q[:, 0]), torch.zeros_like(q[:, 0]), q[:, :5].unbind(1)
        if not self.model.free_centre:
            u = torch.stack((one - g1, -g2, -t, zero, -xs), 1) @ self.basis  # (B, 5) @ (5, n) -> (B, n)
            v = torch.stack((-g2, one + g1, zero, -t, -ys), 1) @ self.basis
            return u, v, self.cos, self.sin
        u = torch.stack((one - g1, -g2, -xs), 1) @ self.basis[[0, 1, 4]]
        v = torch.stack((-g2, one + g1, -ys), 1) @ self.basis[[0, 1, 4]]
        dx, dy = self.x - q[:, 9:10], self.y - q[:, 10:11]
        inverse = (dx * dx + dy * dy + 1e-20).rsqrt_()
        cos, sin = dx.mul_(inverse), dy.mul_(inverse)
        return u.addcmul_(cos, -t[:, None]), v.addcmul_(sin, -t[:, None]), cos, sin

    def _profile(self, q: Tensor, uu: Tensor, uv: Tensor, vv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """rho^2 (softened), b rho^(1/n) and the light over its value at the effective radius, (B, n) each."""
        xx, xy, yy = (shape_matrix(q[:, 6], q[:, 7])[0] * (-2 * q[:, 5]).exp()[:, None]).unsqueeze(-1).unbind(1)
        rho2 = (uu * xx).addcmul_(uv, 2 * xy).addcmul_(vv, yy).add_(SOFT)
        b = sersic_b(q[:, 8])[0][:, None]
        power = rho2.log2().mul_(0.5 * (-q[:, 8]).exp()[:, None]).add_(b.log2()).exp2_()  # faster than a power
        return rho2, power, ((b - power).mul_(1 / math.log(2))).exp2_()

    def light(self, q: Tensor) -> Tensor:
        """q (B, 11) -> (B, size^2)."""
        u, v, _, _ = self._rays(q)
        _, _, light = self._profile(q, u * u, u * v, v * v)
        return self._blur(self._pixels(light)[:, :, None])[:, :, 0].flatten(1)

    def columns(self, q: Tensor) -> Tensor:
        """q (B, 11) -> (B, 1 + P, size, size): the light, then its derivatives by the free parameters."""
        u, v, cos, sin = self._rays(q)
        uu, uv, vv = u * u, u * v, v * v
        rho2, power, light = self._profile(q, uu, uv, vv)
        n = q[:, 8].exp()[:, None]
        slope = (power * light).div_(rho2).mul_(-0.5 / n)  # dI / d(rho^2)
        (xx, xy, yy), by_e1, by_e2 = (
            (m * (-2 * q[:, 5]).exp()[:, None]).unsqueeze(-1).unbind(1) for m in shape_matrix(q[:, 6], q[:, 7])
        )
        gu = (u * (2 * xx)).addcmul_(v, 2 * xy).mul_(slope)
        gv = (u * (2 * xy)).addcmul_(v, 2 * yy).mul_(slope)
        pixels, x, y = self._pixels, self.x, self.y
        planes = [
            pixels(light),
            pixels((gu * cos).addcmul_(gv, sin)).neg_(),
            pixels((gv * y).addcmul_(gu, x, value=-1)),
            pixels((gu * y).addcmul_(gv, x)).neg_(),
            pixels(gu).neg_(),
            pixels(gv).neg_(),
        ]
        suu, suv, svv = (pixels(square.mul_(slope)) for square in (uu, uv, vv))

        def form(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
            return (suu * xx[..., None]).addcmul_(suv, 2 * xy[..., None]).addcmul_(svv, yy[..., None])

        planes.append(form(xx, xy, yy).mul_(-2))
        if self.model.free_ellipticity:
            planes += [form(*by_e1), form(*by_e2)]
        if self.model.free_index:
            b, b_slope = (value[:, None] for value in sersic_b(q[:, 8]))
            by_n = power * (b_slope / b - 0.5 / n * rho2.log()) - b_slope
            planes.append(pixels(by_n.mul_(light)).neg_())
        if self.model.free_centre:
            turn = (gu * sin).addcmul_(gv, cos, value=-1)
            over_r = q[:, :1] * torch.rsqrt((x - q[:, 9:10]) ** 2 + (y - q[:, 10:11]) ** 2 + 1e-20)
            turn.mul_(over_r)
            planes += [pixels(turn * sin), pixels(turn * cos).neg_()]
        return self._blur(torch.stack(planes, 2)).transpose(1, 2)

    def _pixels(self, rays: Tensor) -> Tensor:
        """The mean of each pixel's rays: (B, s^2 h^2) -> (B, h, h)."""
        return rays.unflatten(1, (self.model.supersample**2, self.h, self.h)).mean(1)


def _psf(model: SmoothModel, binning: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The PSF as products of columns and rows; on binned pixels a Gaussian of the same width."""
    if model.psf_kernel is None:
        kernel = gaussian_kernel(model.psf_sigma / (model.pixel_scale * binning), model.psf_truncate)
        return [(kernel, kernel)]
    kernel = np.asarray(model.psf_kernel, dtype=float)[::-1]  # rows fall, y grows
    if binning == 1:
        return separable(kernel[::-1])
    steps = np.arange(len(kernel)) - len(kernel) // 2
    shares = kernel.sum(0) / kernel.sum(), kernel.sum(1) / kernel.sum()
    variance = sum((share * steps**2).sum() - (share * steps).sum() ** 2 for share in shares) / 2
    kernel = gaussian_kernel(math.sqrt(max(variance, 0.01)) / binning, model.psf_truncate)
    return [(kernel, kernel)]


@functools.lru_cache(maxsize=16)
def renderer(model: SmoothModel, size: int, binning: int, device: str, dtype: torch.dtype) -> Renderer:
    """The `Renderer` of these settings, made once."""
    return Renderer(model, size, binning, torch.device(device), dtype)

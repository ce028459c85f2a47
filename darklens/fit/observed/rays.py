"""Lensed light on a part of a cutout: rays, their deflection, a Sersic source or positive Gaussians on a grid.

The lens is a singular isothermal ellipsoid with external shear (`darklens.fit.halo`); rays run from its centre:
u = d - alpha(d) - Gamma d - s, with d the place from the lens's centre and s the source's from it.
"""

import math

import numpy as np
import torch
from torch import Tensor

from darklens.fit.halo import Ellipsoid
from darklens.fit.observed.cutout import Cutout
from darklens.fit.observed.parameters import LENS
from darklens.fit.sersic import Profile, form

FINE = 0.03  # arcsec between rays at most, where that needs no more than 4 a pixel each way
Pair = tuple[Tensor, Tensor]


class Rays:
    """s x s rays in each pixel of the middle part (m, m) of a cutout."""

    def __init__(self, cutout: Cutout, reach: float, supersample: int | None = None) -> None:
        """reach: arcsec from the middle to the part's edge."""
        scale, n = cutout.pixel_scale, cutout.size
        m = min(2 * math.ceil(reach / scale) + n % 2, n)
        self.cutout, self.m = cutout, m
        self.s = supersample or min(max(math.ceil(scale / FINE), 2), 4)
        self.part = slice((n - m) // 2, (n - m) // 2 + m)
        fine = (np.arange(self.s) - (self.s - 1) / 2) / self.s
        steps = ((np.arange(m) - (m - 1) / 2) + fine[:, None]) * scale  # (s, m)
        x = np.broadcast_to(steps[None, :, None, :], (self.s, self.s, m, m))
        y = np.broadcast_to(-steps[:, None, :, None], (self.s, self.s, m, m))
        self.x, self.y = (torch.as_tensor(each.reshape(1, -1).astype(np.float32)) for each in (x, y))

    def source_plane(self, q: np.ndarray) -> tuple[Pair, Ellipsoid, Pair, Pair]:
        """Rays in the source plane from the source's middle, (1, s s m m) each; the halo, its deflection, and d."""
        t = torch.as_tensor(q, dtype=torch.float32)
        dx, dy = self.x - t[5], self.y - t[6]
        halo = Ellipsoid(dx, dy, t[3].reshape(1, 1), t[4].reshape(1, 1))
        ax, ay = halo.deflection()
        u = dx - t[0] * ax - t[1] * dx - t[2] * dy - t[7]
        v = dy - t[0] * ay - t[2] * dx + t[1] * dy - t[8]
        return (u, v), halo, (ax, ay), (dx, dy)

    def by_lens(self, q: np.ndarray, gradient: Pair, halo: Ellipsoid, alpha: Pair, d: Pair) -> list[Tensor]:
        """Derivatives of the light by the lens's parameters and the source's place, from its gradient in u, v."""
        (gu, gv), (ax, ay), (dx, dy), bends = gradient, alpha, d, halo.bends()
        radius, g1, g2 = (float(value) for value in q[:3])

        def along(bend: Pair) -> Tensor:
            return (gu * bend[0]).addcmul_(gv, bend[1])

        planes = [-along((ax, ay)), -along((dx, -dy)), -along((dy, dx))]
        planes += [along(bends[name]).mul_(-radius) for name in ("halo_1", "halo_2")]
        planes.append(along(bends["centre_x"]).mul_(-radius) + gu * (g1 - 1) + gv * g2)
        planes.append(along(bends["centre_y"]).mul_(-radius) + gu * g2 - gv * (g1 + 1))
        return [*planes, -gu, -gv]

    def pixels(self, planes: list[Tensor] | Tensor) -> np.ndarray:
        """K planes (1, s s m m) -> (K, m, m) means over each pixel's rays."""
        stack = torch.cat(planes) if isinstance(planes, list) else planes
        return stack.reshape(len(stack), self.s**2, self.m, self.m).mean(1).numpy()

    def sersic(self, q: np.ndarray, derivatives: bool = True) -> np.ndarray:
        """(1 + P, m, m): the blurred image of a Sersic source of brightness 1 at its effective radius, then its
        derivatives by the parameters q (P,)."""
        (u, v), halo, alpha, d = self.source_plane(q)
        log_radius, e1, e2, log_n = torch.as_tensor(q[9:13, None], dtype=torch.float64)  # (1,) each
        profile = Profile.at(u, v, log_radius, e1, e2, log_n)
        planes = [profile.light]
        if derivatives:
            slope = profile.slope()
            planes += self.by_lens(q, profile.by_place(u, v, slope), halo, alpha, d)
            planes.append(profile.rho2 * slope * -2)
            planes += [form(profile.squares, matrix, 2).mul_(slope) for matrix in profile.shapes[1:]]
            planes.append(profile.by_index())
        return self.cutout.psf.blur(self.pixels(planes).astype(float))

    def grid(self, q: np.ndarray, grid: "SourceGrid") -> tuple[np.ndarray, tuple]:
        """(K, m, m): blurred images of Gaussians about the source's place; and what `by_grid` needs."""
        traced = self.source_plane(q)
        planes = self.pixels(grid.columns(*traced[0]))
        return self.cutout.psf.blur(planes).astype(float), traced

    def by_grid(self, q: np.ndarray, grid: "SourceGrid", source: np.ndarray, traced: tuple) -> np.ndarray:
        """(LENS, m, m): derivatives by the lens's parameters of the image of Gaussians with amplitudes (K,)."""
        (u, v), halo, alpha, d = traced
        planes = self.by_lens(q, grid.gradient(source, u, v), halo, alpha, d)[:LENS]
        return self.cutout.psf.blur(self.pixels(planes).astype(float))


class SourceGrid:
    """Positive Gaussians on a square grid in the source plane, within a circle about its middle."""

    def __init__(self, reach: float, step: float, sigma: float) -> None:
        """All in arcsec, or in any unit that the rays are in."""
        number = math.floor(reach / step + 1e-9)
        self.nodes = np.arange(-number, number + 1) * step
        gx, gy = np.meshgrid(self.nodes, self.nodes)
        self.inside = np.hypot(gx, gy).ravel() <= reach * (1 + 1e-9)
        self.places = np.stack((gx.ravel(), gy.ravel()), 1)[self.inside]  # (K, 2)
        self.sigma = sigma

    def factors(self, rays: Tensor) -> Tensor:
        """(n_nodes, N): exp(-(u - node)^2 / 2 sigma^2) for rays (1, N)."""
        nodes = torch.as_tensor(self.nodes, dtype=rays.dtype)[:, None]
        return (rays - nodes).div_(self.sigma).square_().mul_(-0.5).exp_()

    def columns(self, u: Tensor, v: Tensor) -> Tensor:
        """(K, N) the Gaussians at rays u, v (1, N)."""
        both = self.factors(v)[:, None] * self.factors(u)  # (n, n, N)
        return both.reshape(-1, u.shape[-1])[torch.as_tensor(self.inside)]

    def gradient(self, source: np.ndarray, u: Tensor, v: Tensor) -> Pair:
        """(1, N) each: the gradient by u and v of the Gaussians with amplitudes (K,)."""
        number = len(self.nodes)
        amplitudes = np.zeros(number * number)
        amplitudes[self.inside] = source
        table = torch.as_tensor(amplitudes.reshape(number, number), dtype=u.dtype)  # (rows of v, columns of u)
        nodes = torch.as_tensor(self.nodes, dtype=u.dtype)[:, None]
        fu, fv = self.factors(u), self.factors(v)
        gu = (fv * (table @ (fu * (nodes - u)))).sum(0, keepdim=True)
        gv = (fv * (nodes - v) * (table @ fu)).sum(0, keepdim=True)
        return gu / self.sigma**2, gv / self.sigma**2

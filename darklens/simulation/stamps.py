"""Galaxy stamps as sources: read, cleaned, turned and interpolated, their flux conserved."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def _read(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        from astropy.io import fits

        return np.asarray(fits.getdata(path, memmap=False))
    except (TypeError, OSError, IndexError, ValueError, EOFError) as error:  # a damaged file; astropy raises the first
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def clean_stamp(values: np.ndarray, name: str = "the stamp", cut: float = 3.0) -> np.ndarray:
    """(H, W) light of sum 1: the border's median taken off, what is below `cut` times its scatter set to zero.

    The scatter is 1.4826 times the border's median absolute deviation. Raises ValueError for what is not one
    finite image with light above that.
    """
    stamp = np.squeeze(np.asarray(values, dtype=np.float64))
    if stamp.ndim != 2 or min(stamp.shape) < 3 or not np.isfinite(stamp).all():
        raise ValueError(f"{name} is not one finite image (shape {np.shape(values)})")
    border = np.concatenate([stamp[0], stamp[-1], stamp[1:-1, 0], stamp[1:-1, -1]])
    stamp = stamp - np.median(border)
    stamp[stamp < cut * 1.4826 * np.median(np.abs(border - np.median(border)))] = 0
    if stamp.max() <= 0:
        raise ValueError(f"{name} has no light above its background")
    return np.maximum(stamp, 0) / np.maximum(stamp, 0).sum()


def stamp_files(folder: str | Path) -> list[Path]:
    """The `.npy` and FITS files of a folder, by name. Raises ValueError if there is none, OSError."""
    paths = [p for p in Path(folder).iterdir() if not p.name.startswith(".")]
    files = sorted(p for p in paths if p.suffix.lower() in (".npy", ".fits", ".fit"))
    if not files:
        raise ValueError(f"{folder} holds no .npy or .fits stamps")
    return files


def load_stamps(folder: str | Path, cut: float = 3.0) -> list[np.ndarray]:
    """`clean_stamp` of each of `stamp_files`. Raises ValueError or OSError with the file's name."""
    return [clean_stamp(_read(path), str(path), cut) for path in stamp_files(folder)]


def stamp_light(x: Tensor, y: Tensor, stamp: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
    """Surface brightness (flux/arcsec^2) at x, y of a stamp about the origin, bilinear between its pixels.

    x, y: (B, h, w) arcsec; stamp: (H, W), or (B, H, W), flux a pixel, row 0 at the top; scale: arcsec a pixel and
    angle: radians by which it is turned, (B, 1, 1). Nothing outside: the integral over the plane is the stamp's sum.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    height, width = stamp.shape[-2:]
    u = (cos * x + sin * y) / scale * (2 / width)  # -1 .. 1 across the stamp
    v = (sin * x - cos * y) / scale * (2 / height)  # y grows upwards, rows go down
    where = torch.stack([u, v], -1)  # (B, h, w, 2)
    source = stamp.to(x).reshape(-1, 1, height, width).expand(len(where), 1, height, width)
    light = torch.nn.functional.grid_sample(source, where, "bilinear", "zeros", align_corners=False)
    return light[:, 0] / scale**2  # (B, 1, h, w) -> (B, h, w)

"""Which pixels decide: maps of a network's attention, and their errors."""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from darklens.classifier.classifier import Classifier
from darklens.data.transforms import Preprocess
from darklens.networks.equivariant import Equivariant_Network
from darklens.simulation.truth import Truth, vortex_ends


def contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target less the mean of the others: (B, K), (B,) -> (B,)."""
    logit = logits.gather(1, targets[:, None])[:, 0]
    return logit - (logits.sum(1) - logit) / (logits.shape[1] - 1)


def integrated_gradients(score: Callable[[Tensor], Tensor], images: Tensor, steps: int = 32) -> Tensor:
    """The image times the mean gradient on the straight line from blank to it (arXiv:1703.01365, section 3).

    The mean is taken at the middles of `steps` equal pieces. A map's sum is score(image) - score(blank) but for the
    error of that. score: (B, C, S, S) -> (B,). Returns (B, S, S), channels added up.
    """
    total = torch.zeros_like(images)
    for step in range(steps):
        point = ((step + 0.5) / steps * images).requires_grad_()
        total += torch.autograd.grad(score(point).sum(), point)[0]
    return (images * total / steps).sum(1)


def attribute(
    classifier: Classifier,
    images: Tensor,
    targets: Sequence[int] | np.ndarray | Tensor | None = None,
    steps: int = 32,
    batch_size: int = 16,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """Integrated gradients: how much each pixel speaks for a class, maps (B, S, S), on the network's device.

    Args:
        images: preprocessed, (B, C, S, S).
        targets: (B,), the number of the class that each map is about; None: the predicted one.
        steps: of `integrated_gradients`. batch_size: images at a time.
        precision: float32 is 2 to 3 times faster, but where a ReLU stands at its kink rounding decides, and a map
            turns with its image to some 1e-3 of its largest value only; in float64 to 1e-14.

    The network is left as it was. Raises ValueError for targets that don't fit.
    """
    with torch.inference_mode(False), torch.enable_grad():
        if targets is None:
            targets = outputs(classifier, images, batch_size).argmax(1)
        network, images = _frozen(classifier.network, images, precision)
        targets = _checked(targets, len(images), len(classifier.classes)).to(images.device)
        maps = [torch.zeros_like(images[:0, 0])]
        for batch, chosen in zip(images.split(batch_size), targets.split(batch_size), strict=True):
            score = functools.partial(_contrast_of, network, targets=chosen)
            maps.append(integrated_gradients(score, batch, steps))
        return torch.cat(maps)


def outputs(classifier: Classifier, images: Tensor, batch_size: int = 16) -> Tensor:
    """Logits (B, K) of preprocessed images (B, C, S, S), float64."""
    network, images = _frozen(classifier.network, images, torch.float64)
    with torch.no_grad():
        return torch.cat([network(batch) for batch in images.split(batch_size)])


def _frozen(network: nn.Module, images: Tensor, precision: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A copy of the network in evaluation mode, as plain convolutions if it is equivariant, and images to match."""
    frozen = copy.deepcopy(network).eval().to(precision)
    with torch.no_grad():
        frozen = frozen.folded() if isinstance(frozen, Equivariant_Network) else frozen
    return frozen.requires_grad_(False), images.detach().to(next(frozen.parameters()).device, precision)


def _contrast_of(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return contrast(network(images), targets)


def _checked(targets: Sequence[int] | np.ndarray | Tensor, images: int, classes: int) -> Tensor:
    targets = torch.as_tensor(targets)
    if targets.shape != (images,) or not ((targets >= 0) & (targets < classes)).all():
        raise ValueError(
            f"attribute: expected {images} class numbers from 0 to {classes - 1}, found {targets.tolist()}"
        )
    return targets.long()


HEAVY = 1e9  # Msun: subhalos above it are drawn, and count as seen
SMOOTH = 1.5  # pixels, standard deviation of the blur with which maps are drawn (they are scored as they are)


def segments(truth: Truth, heavy: float = HEAVY) -> list[np.ndarray]:
    """The dark matter of each image as pieces of straight line, (m, 4): x and y of both ends.

    They are in arcsec from the image's middle. A subhalo above `heavy` Msun is a piece of no length, the vortex its
    rod.
    """
    lenses, pieces = truth.parameters, []
    s, (middle, half) = lenses.subhalos, vortex_ends(lenses)
    at = np.stack([lenses["image.x"], lenses["image.y"]], 1)  # (n, 2) the lens from the image's middle
    rods = np.concatenate([at + middle - half, at + middle + half], 1)  # (n, 4)
    for i in range(len(lenses)):
        place = at[i] + np.stack([s["x"][i], s["y"][i]], 1)[s["bound_mass"][i] > heavy]
        pieces.append(np.concatenate([np.tile(place, 2), rods[i : i + 1][lenses["vortex.mass"][i : i + 1] > 0]]))
    return pieces


def to_pixels(truth: Truth, preprocess: Preprocess, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row in the network's window of places in arcsec from the image's middle (row 0 is +y)."""
    image = truth.recipe.image
    margin = image.pixels - preprocess.window
    spare = margin // 2 if preprocess.view == "image" else margin / 2  # a view has the lens on its central pixel
    centre = (image.pixels - 1) / 2 - spare
    return centre + x / image.pixel_scale, centre - y / image.pixel_scale


def distances(truth: Truth, preprocess: Preprocess) -> np.ndarray:
    """From each pixel of the network's window to the nearest dark matter of `segments`: (n, S, S) arcsec, or inf."""
    rows, columns = np.mgrid[: preprocess.crop, : preprocess.crop]
    scale, maps = truth.recipe.image.pixel_scale, []
    for pieces in segments(truth):
        nearest = np.full(rows.shape, np.inf)
        for x0, y0, x1, y1 in pieces:
            (c0, c1), (r0, r1) = to_pixels(truth, preprocess, np.array([x0, x1]), np.array([y0, y1]))
            nearest = np.minimum(nearest, scale * _to_segment(columns, rows, c0, r0, c1, r1))
        maps.append(nearest)
    return np.stack(maps)


def _to_segment(x, y, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Distance of points to a piece of straight line."""
    dx, dy = x1 - x0, y1 - y0
    share = ((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12)
    share = np.clip(share, 0, 1)
    return np.hypot(x - x0 - share * dx, y - y0 - share * dy)


def alignment(maps: np.ndarray, on_matter: np.ndarray, seed: int = 0) -> dict:
    """How much more of the maps lies near an image's own dark matter than near that of others of its class.

    The others are the fair chance: maps crowd on the ring, and the ring is where much of the dark matter is; only
    one's own differs from theirs in nothing but belonging to the image.

    Args:
        maps: (n, S, S), not negative. on_matter: (n, S, S) bool, the pixels near each image's dark matter.

    Returns:
        dict: "fraction" of a map near its own, "chance" near others', their "ratio" with the 95% "interval" of a
        bootstrap over images, "p" that own is no better (permutation test, one-sided), "area": fraction of the
        window that is near. None where there are fewer than two images with anything to score.
    """
    weights, masks = maps.reshape(len(maps), -1).astype(np.float64), on_matter.reshape(len(on_matter), -1)
    used = (weights.sum(1) > 0) & masks.any(1)
    weights, masks = weights[used], masks[used]
    summary = {"images": int(used.sum()), "area": float(masks.mean()) if used.any() else None}
    if used.sum() < 2:
        return summary | dict.fromkeys(("fraction", "chance", "ratio", "interval", "p"))
    share = weights / weights.sum(1, keepdims=True) @ masks.T  # (n, n): of map i near the dark matter of image j
    return summary | _compare(share, np.random.default_rng(seed))


def _compare(share: np.ndarray, rng: np.random.Generator) -> dict:
    """share: (n, n), of map i near the dark matter of image j."""
    n = len(share)
    matched, chance = _matched_and_chance(share, np.ones((1, n)))
    counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)  # (R, n) times in a resample
    resampled = np.divide(*_matched_and_chance(share, counts))
    orders = rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)  # (R, n)
    shuffled = share[np.arange(n), orders].mean(1)
    return {
        "fraction": matched[0],
        "chance": chance[0],
        "ratio": matched[0] / chance[0] if chance[0] > 0 else None,
        "interval": np.nanpercentile(resampled, [2.5, 97.5]),
        "p": (1 + (shuffled >= matched[0] - 1e-12).sum()) / (1 + RESAMPLES),
    }


def _matched_and_chance(share: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the diagonal and of the rest, where image i counts weights[:, i] times: (R, n) -> two (R,)."""
    matched = weights @ np.diag(share) / weights.sum(1)
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    rest = np.einsum("ri,ij,rj->r", weights, share, weights, optimize=True) - weights**2 @ np.diag(share)
    return matched, np.divide(rest, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


NEAR = 0.25  # arcsec around the dark matter that counts as on it
RESAMPLES = 2000  # of the bootstrap, and permutations

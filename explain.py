"""Why does a network decide as it does? Maps of the pixels that speak for a class, scored against the dark matter.

    maps = attribute(classifier, classifier.preprocess(images))        # (B, S, S)
    found = explain(classifier, split, logits, folder)                 # explain.png, .pdf, .json

What is explained is the logit of a class less the mean of the others: adding a number to all logits changes no
probability, and doesn't change this either (a logit alone it would). Blank is an image of zeros: a standardised
image's mean level.

A map made of gradients turns with the image exactly as far as the network's output does not change with it: for the
turns and mirrors of the pixel grid that lie in the group of a network with an invariant head.

References
  Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks, arXiv:1703.01365 (integrated gradients)
  Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901 (occlusion)
  Adebayo et al. 2018, Sanity Checks for Saliency Maps, arXiv:1810.03292 (maps of an untrained network)
  Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval), ch. 15 (permutation test)
"""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from classifier import NETWORKS, Classifier
from dataset import Preprocess, Split
from files import save_json
from images import read_image
from metrics import softmax
from plots import _figure, _labels, _save
from sensitivity import Truth, is_simulated, read_truth

HEAVY = 1e9  # Msun: subhalos above it are drawn, and count as seen
NEAR = 0.25  # arcsec around the dark matter that counts as on it
RESAMPLES = 2000  # of the bootstrap, and permutations
SMOOTH = 1.5  # pixels, standard deviation of the blur with which maps are drawn (they are scored as they are)


# --- maps -------------------------------------------------------------------------------------------------------


def contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target less the mean of the others: (B, K), (B,) -> (B,)."""
    own = logits.gather(1, targets[:, None])[:, 0]
    return own - (logits.sum(1) - own) / (logits.shape[1] - 1)


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


@torch.no_grad()
def occlusion(score: Callable[[Tensor], Tensor], images: Tensor, patch: int = 15, stride: int = 8) -> Tensor:
    """How far the score falls when a square is blanked, averaged over the squares that cover a pixel.

    The squares lie `stride` apart, symmetrically about the centre, so that maps turn with the image. score, result:
    as for `integrated_gradients`. Raises ValueError where squares would leave gaps.
    """
    size = images.shape[-1]
    patch += (size - patch) % 2  # as odd or even as the image, so that one can lie in the middle
    if not 0 < stride <= patch:
        raise ValueError(f"occlusion: expected a stride of at most the patch, {patch} pixels, found {stride}")
    total, cover = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
    whole, reach = score(images), (size + patch) // 2 // stride
    starts = [(size - patch) // 2 + k * stride for k in range(-reach, reach + 1)]
    spans = [span for span in (slice(max(start, 0), max(start + patch, 0)) for start in starts) if span.start < size]
    for rows in spans:
        for columns in spans:
            blanked = images.clone()
            blanked[..., rows, columns] = 0
            total[:, rows, columns] += (whole - score(blanked))[:, None, None]
            cover[rows, columns] += 1
    return total / cover


METHODS: dict[str, Callable[..., Tensor]] = {"gradients": integrated_gradients, "occlusion": occlusion}


def attribute(
    classifier: Classifier,
    images: Tensor,
    targets: Sequence[int] | np.ndarray | Tensor | None = None,
    method: str = "gradients",
    batch_size: int = 16,
    precision: torch.dtype = torch.float64,
    **options: int,
) -> Tensor:
    """How much each pixel speaks for a class: maps (B, S, S), on the network's device.

    Args:
        images: preprocessed, (B, C, S, S).
        targets: (B,), the number of the class that each map is about; None: the predicted one.
        method: a key of METHODS. options: its own (steps; patch, stride). batch_size: images at a time.
        precision: float32 is 2 to 3 times faster, but where a ReLU stands at its kink rounding decides, and a map
            turns with its image to some 1e-3 of its largest value only; in float64 to 1e-14.

    The network is left as it was. Raises ValueError for an unknown method, or targets that don't fit.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    with torch.inference_mode(False), torch.enable_grad():
        if targets is None:
            targets = outputs(classifier, images, batch_size).argmax(1)
        network, images = _frozen(classifier.network, images, precision)
        targets = _checked(targets, len(images), len(classifier.classes)).to(images.device)
        maps = [torch.zeros_like(images[:0, 0])]
        for batch, chosen in zip(images.split(batch_size), targets.split(batch_size), strict=True):
            score = functools.partial(_contrast_of, network, targets=chosen)
            maps.append(METHODS[method](score, batch, **options))
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
        frozen = frozen.folded() if hasattr(frozen, "folded") else frozen
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


# --- where the dark matter is -----------------------------------------------------------------------------------


def segments(truth: Truth, heavy: float = HEAVY) -> list[np.ndarray]:
    """The dark matter of each image as pieces of straight line, (m, 4): x and y of both ends, arcsec.

    A subhalo above `heavy` Msun is a piece of no length, the vortex its rod.
    """
    p, found = truth.parameters, []
    along = np.stack([np.cos(p.vortex_angle), np.sin(p.vortex_angle)], 1) * p.vortex_length[:, None] / 2
    centre = np.stack([p.vortex_x, p.vortex_y], 1)
    rods = np.concatenate([centre - along, centre + along], 1)  # (n, 4)
    for i in range(len(p)):
        heavy_ones = p.subhalo_mass[i] > heavy
        place = np.stack([p.subhalo_x[i], p.subhalo_y[i]], 1)[heavy_ones]
        found.append(np.concatenate([np.tile(place, 2), rods[i : i + 1][p.vortex_mass[i : i + 1] > 0]]))
    return found


def to_pixels(truth: Truth, preprocess: Preprocess, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row in the network's window of places in arcsec from the halo (row 0 is +y)."""
    recipe = truth.recipe
    spare = recipe.pixels - preprocess.window
    centre = (recipe.pixels - 1) / 2 - spare // 2
    return centre + x / recipe.pixel_scale, centre - y / recipe.pixel_scale


def distances(truth: Truth, preprocess: Preprocess) -> np.ndarray:
    """From each pixel of the network's window to the nearest dark matter of `segments`: (n, S, S) arcsec, or inf."""
    rows, columns = np.mgrid[: preprocess.crop, : preprocess.crop]
    scale, found = truth.recipe.pixel_scale, []
    for pieces in segments(truth):
        nearest = np.full(rows.shape, np.inf)
        for x0, y0, x1, y1 in pieces:
            (c0, c1), (r0, r1) = to_pixels(truth, preprocess, np.array([x0, x1]), np.array([y0, y1]))
            nearest = np.minimum(nearest, scale * _to_segment(columns, rows, c0, r0, c1, r1))
        found.append(nearest)
    return np.stack(found)


def _to_segment(x, y, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Distance of points to a piece of straight line."""
    dx, dy = x1 - x0, y1 - y0
    share = ((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12)
    share = np.clip(share, 0, 1)
    return np.hypot(x - x0 - share * dx, y - y0 - share * dy)


# --- do the maps lie on it? -------------------------------------------------------------------------------------


def alignment(maps: np.ndarray, near: np.ndarray, seed: int = 0) -> dict:
    """How much more of the maps lies near an image's own dark matter than near that of others of its class.

    The others are the fair chance: maps crowd on the ring, and the ring is where much of the dark matter is; only
    one's own differs from theirs in nothing but belonging to the image.

    Args:
        maps: (n, S, S), not negative. near: (n, S, S) bool, the pixels near each image's dark matter.

    Returns:
        dict: "fraction" of a map near its own, "chance" near others', their "ratio" with the 95% "interval" of a
        bootstrap over images, "p" that own is no better (permutation test, one-sided), "area": fraction of the
        window that is near. None where there are fewer than two images with anything to score.
    """
    weights, masks = maps.reshape(len(maps), -1).astype(np.float64), near.reshape(len(near), -1)
    used = (weights.sum(1) > 0) & masks.any(1)
    weights, masks = weights[used], masks[used]
    found = {"images": int(used.sum()), "area": float(masks.mean()) if used.any() else None}
    if used.sum() < 2:
        return found | dict.fromkeys(("fraction", "chance", "ratio", "interval", "p"))
    share = weights / weights.sum(1, keepdims=True) @ masks.T  # (n, n): of map i near the dark matter of image j
    return found | _compare(share, np.random.default_rng(seed))


def _compare(share: np.ndarray, rng: np.random.Generator) -> dict:
    """share: (n, n), of map i near the dark matter of image j."""
    n = len(share)
    own, other = _own_and_other(share, np.ones((1, n)))
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)  # (R, n) times each is drawn
    resampled = np.divide(*_own_and_other(share, drawn))
    orders = rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)  # (R, n)
    shuffled = share[np.arange(n), orders].mean(1)
    return {
        "fraction": own[0],
        "chance": other[0],
        "ratio": own[0] / other[0] if other[0] > 0 else None,
        "interval": np.nanpercentile(resampled, [2.5, 97.5]),
        "p": (1 + (shuffled >= own[0] - 1e-12).sum()) / (1 + RESAMPLES),
    }


def _own_and_other(share: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the diagonal and of the rest, where image i counts weights[:, i] times: (R, n) -> two (R,)."""
    own = weights @ np.diag(share) / weights.sum(1)
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    rest = np.einsum("ri,ij,rj->r", weights, share, weights, optimize=True) - weights**2 @ np.diag(share)
    return own, np.divide(rest, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


# --- the whole of it --------------------------------------------------------------------------------------------


def most_confident(labels: np.ndarray, probabilities: np.ndarray, right: int = 2, wrong: int = 2) -> list[list[int]]:
    """For each class the images (by index) that the network is surest of: right ones, then mistakes.

    labels: (n,), probabilities: (n, K). Equal ones in the order of the split.
    """
    predicted, sureness = probabilities.argmax(1), probabilities.max(1)
    rows = []
    for k in range(probabilities.shape[1]):
        good, bad = (labels == k) & (predicted == k), (labels == k) & (predicted != k)
        rows.append([i for kind, most in ((good, right), (bad, wrong)) for i in _surest(kind, sureness)[:most]])
    return rows


def _surest(kind: np.ndarray, sureness: np.ndarray) -> list[int]:
    chosen = np.flatnonzero(kind)
    return chosen[np.argsort(-sureness[chosen], kind="stable")].tolist()


def explain(
    classifier: Classifier,
    split: Split,
    logits: np.ndarray,
    folder: str | Path,
    choose: Callable[[np.ndarray, np.ndarray], list[list[int]]] = most_confident,
    scored: int = 32,
    method: str = "gradients",
    batch_size: int = 16,
    precision: torch.dtype = torch.float32,
    **options: int,
) -> dict:
    """Draw why a network decides (`explain.png`, `.pdf`), and score it against simulated dark matter (`explain.json`).

    Args:
        split: images with their labels. logits: (n, K), the network's, of all of them. folder: to write into.
        choose: (labels, probabilities) -> rows of indices to draw, on maps of the predicted class.
        scored: images of each class, evenly taken, whose maps of the true class are scored; only where simulate.py
            wrote the data set.
        method, batch_size, precision, options: as `attribute` takes them.

    Returns:
        dict: what `explain.json` holds; "alignment" has for each class the scores of `alignment`, of "absolute" maps
        and of their "positive" part (what speaks for the class), and the same of an "untrained" network on the same
        images: dark matter bends light, and any map that follows the light gains from that. Empty where the dark
        matter is not known.

    Raises DataError for bad images or parameters, ResultsError where the folder can't be written.
    """
    chosen_way = {"method": method, "batch_size": batch_size, "precision": precision, **options}
    attributed = functools.partial(attribute, **chosen_way)
    report = {"split": split.name, "method": method, **options, "heavy_msun": HEAVY, "near_arcsec": NEAR}
    report["gallery"] = _gallery(classifier, split, np.asarray(logits), folder, choose, attributed)
    report["alignment"] = {}
    for k, name in enumerate(classifier.classes):
        members = np.flatnonzero(split.labels == k)
        chosen = members[np.unique(np.linspace(0, len(members) - 1, min(scored, len(members))).astype(int))]
        truth = _truth(split, chosen)
        if truth is not None and any(map(len, segments(truth))):
            report["alignment"][name] = _score(classifier, split, chosen, truth, attributed)
    save_json(Path(folder) / "explain.json", report)
    return report


def _truth(split: Split, chosen: Sequence[int]) -> Truth | None:
    """What the simulator put into these images of a split (ROOT/SPLIT/CLASS/FILE.npy), if it wrote them."""
    paths = [split.paths[i] for i in chosen]
    if not paths or not is_simulated(root := paths[0].parents[2]):
        return None
    return read_truth(root, split.name, [f"{path.parent.name}/{path.name}" for path in paths])


def _load(classifier: Classifier, split: Split, chosen: Sequence[int]) -> Tensor:
    """Preprocessed images (m, C, S, S)."""
    images = (torch.from_numpy(read_image(split.paths[i]).astype(np.float64)) for i in chosen)
    return torch.cat([classifier.preprocess(image[None]) for image in images])


def _score(classifier: Classifier, split: Split, chosen: np.ndarray, truth: Truth, attributed: Callable) -> dict:
    """The alignment of the maps of some images' true class with their dark matter."""
    images, targets = _load(classifier, split, chosen), split.labels[chosen]
    near = distances(truth, classifier.preprocess) < NEAR
    maps = attributed(classifier, images, targets).cpu()
    error = _completeness_error(classifier, images, targets, maps)
    control = _both(attributed(_untrained(classifier), images, targets).cpu(), near)
    return {**_both(maps, near), "untrained": control, "completeness_error": error}


def _both(maps: Tensor, near: np.ndarray) -> dict:
    kinds = {"absolute": maps.abs(), "positive": maps.clamp(min=0)}
    return {name: alignment(kind.numpy(), near) for name, kind in kinds.items()}


def _untrained(classifier: Classifier, seed: int = 0) -> Classifier:
    """The same network with the weights it may have begun with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[classifier.kind](classifier.network.config)
    network.to(next(classifier.network.parameters()).device)
    return Classifier(network, classifier.classes, classifier.preprocess)


def _completeness_error(classifier: Classifier, images: Tensor, targets: np.ndarray, maps: Tensor) -> float:
    """Largest |sum of a map - change of the output from blank to the image|, over the mean |change|.

    Small for integrated gradients with enough steps; occlusion makes no such promise.
    """
    targets = torch.as_tensor(targets)
    seen, blank = (contrast(outputs(classifier, x).cpu(), targets) for x in (images, torch.zeros_like(images)))
    change = seen - blank
    return ((maps.sum((1, 2)) - change).abs().max() / change.abs().mean().clamp(min=1e-30)).item()


# --- the picture ------------------------------------------------------------------------------------------------


def _gallery(
    classifier, split: Split, logits: np.ndarray, folder, choose: Callable, attributed: Callable
) -> list[dict]:
    """Draw the chosen images beside their maps; what was drawn."""
    probabilities = softmax(logits)
    rows = [row for row in choose(split.labels, probabilities) if row]
    chosen = [i for row in rows for i in row]
    predicted = probabilities[chosen].argmax(1)
    images = _load(classifier, split, chosen)
    maps = attributed(classifier, images, predicted).cpu().numpy()
    pieces = _pieces(split, chosen, classifier.preprocess)
    names, cells = _labels(classifier.classes, 12), {}
    for n, i in enumerate(chosen):
        title = f"true: {names[split.labels[i]]}\nsays: {names[predicted[n]]} {probabilities[i].max():.1%}"
        right = predicted[n] == split.labels[i]
        cells[i] = {"image": images[n].mean(0).numpy(), "map": maps[n], "title": title, "right": right} | pieces[n]
    _draw_gallery(folder, [[cells[i] for i in row] for row in rows])
    return [
        {
            "image": f"{split.paths[i].parent.name}/{split.paths[i].name}",
            "true": classifier.classes[split.labels[i]],
            "predicted": classifier.classes[k],
            "probability": probabilities[i, k],
        }
        for i, k in zip(chosen, predicted, strict=True)
    ]


def _pieces(split: Split, chosen: Sequence[int], preprocess: Preprocess) -> list[dict]:
    """What is known of the dark matter in each image, in pixels of the window: columns and rows (m, 2), radius."""
    truth = _truth(split, chosen)
    if truth is None:
        return [{} for _ in chosen]
    radius, found = NEAR / truth.recipe.pixel_scale, []
    for lines in segments(truth):
        columns, rows = to_pixels(truth, preprocess, lines[:, 0::2], lines[:, 1::2])
        found.append({"columns": columns, "rows": rows, "radius": radius})
    return found


def _draw_gallery(folder: str | Path, rows: list[list[dict]]) -> Path:
    """explain.png: pairs of an image and its map; circles and lines are the simulator's dark matter."""
    width = max(map(len, rows), default=1)
    figure = _figure(3.7 * width, 0.4 + 2.25 * len(rows))
    axes = figure.subplots(max(len(rows), 1), 2 * width, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for line, row in zip(axes, rows, strict=False):
        for number, cell in enumerate(row):
            _draw_pair(line[2 * number], line[2 * number + 1], cell)
    for axis in (axis for axis in axes.ravel() if not axis.images):
        axis.remove()
    known = any("columns" in cell for row in rows for cell in row)
    limit = f"$10^{{{np.log10(HEAVY):.0f}}}\\,M_\\odot$"
    note = f"; circles: subhalos above {limit}, lines: vortices" if known else ""
    figure.suptitle(f"red speaks for the predicted class, blue against it{note}")
    return _save(figure, folder, "explain")


def _draw_pair(left, right, cell: dict) -> None:
    smooth = gaussian_filter(cell["map"], SMOOTH)
    limit = np.percentile(abs(smooth), 99.8) or 1.0
    left.imshow(cell["image"], cmap="inferno")
    right.imshow(smooth, cmap="RdBu_r", vmin=-limit, vmax=limit)
    left.set_title(cell["title"], fontsize=9, color="black" if cell["right"] else "#bd1f01", loc="left")
    for axis, colour in ((left, "white"), (right, "black")):
        _draw_pieces(axis, cell, colour)


def _draw_pieces(axis, cell: dict, colour: str) -> None:
    """Circles for subhalos, lines for vortices."""
    from matplotlib.patches import Circle

    for columns, rows in zip(cell.get("columns", ()), cell.get("rows", ()), strict=True):
        if columns[0] == columns[1] and rows[0] == rows[1]:
            place = columns[0], rows[0]
            axis.add_patch(Circle(place, cell["radius"], fill=False, edgecolor=colour, linewidth=0.7))
        else:
            axis.plot(columns, rows, color=colour, linewidth=1.2, scalex=False, scaley=False)

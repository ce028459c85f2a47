"""What the formulas need of each lens, in torch: worked out for a whole batch at once, taken lens by lens.

Most of a small image's time would else be scalars: a hundred operations a lens, each as long as one on a row of rays.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Terms = dict[str, tuple[Tensor, ...]]  # by what they are of; (B, 1, 1), those of subhalos (S, B, 1, 1)


def columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def each(terms: Terms, subhalos: np.ndarray) -> Iterator[Terms]:
    """The terms of each lens, (1, 1, 1) or (S, 1, 1, 1); subhalos: (B,), how many each lens has."""
    split = {name: [one.split(1, -3) for one in found] for name, found in terms.items()}
    for i, count in enumerate(subhalos.tolist()):
        lens = {name: tuple(one[i] for one in found) for name, found in split.items()}
        some = {name: tuple(one[:count] for one in found) for name, found in lens.items() if found[0].ndim == 4}
        lens |= some
        yield {name: found for name, found in lens.items() if len(found[0])}

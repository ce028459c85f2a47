"""What the formulas need of each lens, in torch: worked out for a whole batch at once, taken lens by lens.

Most of a small image's time would else be scalars: a hundred operations a lens, each as long as one on a row of rays.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Terms = dict[str, tuple[Tensor, ...]]  # by what they are of: (B, 1, 1), (B, 1, n), (B, n, 1), of subhalos (S, B, 1, 1)


def columns(values: np.ndarray, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    if values.shape == (1,):
        return torch.full((1, 1, 1), float(values[0]), dtype=like.dtype, device=like.device)  # the fastest way
    return torch.as_tensor(np.ascontiguousarray(values.T), device=like.device).to(like.dtype)[..., None, None]


def each(terms: Terms, subhalos: np.ndarray) -> Iterator[Terms]:
    """The terms of each lens, B = 1; subhalos: (B,), how many each lens has, the others being padding."""
    alone = len(subhalos) == 1
    split = {name: [(one,) if alone else one.split(1, -3) for one in found] for name, found in terms.items()}
    for i, count in enumerate(subhalos.tolist()):
        lens = {name: [one[i] for one in found] for name, found in split.items()}
        for name, found in lens.items():
            if found[-1].ndim == 4:
                lens[name] = [one[:count] if one.ndim == 4 else one for one in found]
        yield {name: found for name, found in lens.items() if len(found[-1])}

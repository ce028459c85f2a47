"""What the formulas need of each lens, in torch: worked out for a whole batch at once, taken lens by lens.

Most of a small image's time would else be scalars: a hundred operations a lens, each as long as one on a row of rays.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Terms = dict[str, tuple[Tensor, ...]]  # by what they are of: (B, 1, 1), (B, 1, n), (B, n, 1), of subhalos (S, B, 1, 1)


def columns(values: np.ndarray, template: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1) or (B, S) -> (S, B, 1, 1), on the grid's device and in its dtype."""
    if values.shape == (1,):
        return torch.full((1, 1, 1), float(values[0]), dtype=template.dtype, device=template.device)  # the fastest way
    return torch.as_tensor(np.ascontiguousarray(values.T), device=template.device).to(template.dtype)[..., None, None]


def each(terms: Terms, subhalos: np.ndarray) -> Iterator[Terms]:
    """The terms of each lens, B = 1; subhalos: (B,), how many each lens has, the others being padding."""
    alone = len(subhalos) == 1
    split = {name: [(one,) if alone else one.split(1, -3) for one in parts] for name, parts in terms.items()}
    for i, count in enumerate(subhalos.tolist()):
        lens = {name: tuple(one[i] for one in parts) for name, parts in split.items()}
        for name, parts in lens.items():
            if parts[-1].ndim == 4:
                lens[name] = tuple(one[:count] if one.ndim == 4 else one for one in parts)
        yield {name: parts for name, parts in lens.items() if len(parts[-1])}

"""How much of a Gauss-Newton step to take: less once steps turn back.

A source that follows its own slopes answers a lens's step with finer detail, and full steps may then go to and fro
without arriving. Where a step points back along the last one the share is halved, where it goes on the share grows
again (adaptive step lengths by the sign of successive steps: Jacobs 1988, Neural Networks 1, 295).
"""

import dataclasses

import torch
from torch import Tensor

SLOWER, FASTER = 0.5, 1.5
LEAST = 0.1
TURN = 0.2  # cosine of the angle between two steps, beyond which they agree, or turn back


@dataclasses.dataclass
class Damping:
    """The share of the next step of one lens; changes with each."""

    _share: float = 1.0
    _before: Tensor | None = None  # (M,) the last step

    def share(self, step: Tensor, precision: Tensor) -> float:
        """Of a step (M,) whose covariance is the inverse of `precision` (M, M)."""
        if self._before is not None and len(self._before) == len(step):
            product = step @ precision @ self._before
            cosine = float(product / torch.sqrt((step @ precision @ step) * (self._before @ precision @ self._before)))
            if abs(cosine) > TURN:
                change = FASTER if cosine > 0 else SLOWER
                self._share = min(max(change * self._share, LEAST), 1.0)
        self._before = step
        return self._share

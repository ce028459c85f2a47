"""The exact symmetries of the pixel grid."""

import torch
from torch import Tensor, nn


def transform(images: torch.Tensor, mirror: bool, turns: int) -> torch.Tensor:
    """Mirror images (..., H, W) left-right if asked, then turn them by `turns` quarter turns: exact, no resampling."""
    images = images.flip(-1) if mirror else images
    return torch.rot90(images, turns, dims=(-2, -1))


class ExactModule(nn.Module):
    """A module whose constant tensors follow `.to()`, `.half()` and `.double()` from a float64 source.

    Rounding a basis to float32 and back would leave a float64 network equivariant to 1e-7 only. Constants are
    derived data: they are not in the state_dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        self._exact[name] = value.to(torch.float64)
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            rounded = getattr(self, name)
            if not rounded.is_meta:
                setattr(self, name, value.to(device=rounded.device, dtype=rounded.dtype))
        return self

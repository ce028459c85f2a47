"""What a trained network knows of a lens beyond its class: numbers that no turn or mirror changes.

    hooks = FeatureHooks()
    hooks.attach(frozen)                    # a `FoldedNetwork` of `networks.equivariant`
    logits = frozen(views)
    features = hooks.take()                 # (B, D)

Of each block's feature map, the maximum over the group (an invariant of each field), averaged in rings about the
centre; what the last layer reads; and, from the table of the smooth lens, its parameters that do not depend on
direction. The last layer alone has forgotten much: it needs to know the class only.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from darklens.networks.equivariant import ARCHITECTURES, Equivariant_Network, FoldedNetwork

RINGS = 5
LENS = ("einstein_radius", "einstein_radius_sd", "source_radius", "source_radius_sd", "axis_ratio", "chi_square")


class FeatureHooks:
    """Hooks on the layers of a network that keep the invariant features of its last call, see `take`."""

    def __init__(self) -> None:
        self._maps: list[Tensor] = []
        self._last: list[Tensor] = []

    def attach(self, frozen: FoldedNetwork) -> None:
        """Register the hooks on a network."""
        group = frozen.head.group
        for block in frozen.body:
            block.register_forward_hook(lambda _, inputs, output: self._maps.append(ring_means(output, group)))
        frozen.head.classify.register_forward_pre_hook(lambda _, inputs: self._last.append(inputs[0].float()))

    def take(self) -> Tensor:
        """The features of the last call, (B, D) float32 on the CPU; each once."""
        features = torch.cat([*self._maps, *self._last], 1).cpu()
        self._maps.clear()
        self._last.clear()
        return features


def ring_means(maps: Tensor, group: int) -> Tensor:
    """Means over rings of the maximum over the group: (B, F*G, H, H) -> (B, F*RINGS) float32."""
    fields = maps.float().unflatten(1, (-1, group)).amax(2)  # (B, F, H, H)
    return (fields.flatten(2) @ _rings(maps.shape[-1]).to(maps.device)).flatten(1)


def _rings(size: int) -> Tensor:
    """(H*H, RINGS) weights that average over rings of equal width out to the middle of an edge."""
    axis = torch.arange(size) - (size - 1) / 2
    number = (torch.hypot(axis[:, None], axis[None, :]) / (size / 2) * RINGS).floor().flatten()  # (H*H,)
    inside = torch.eq(number[:, None], torch.arange(RINGS)).float()
    return inside / inside.sum(0).clamp(min=1)


def lens_features(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(B, len(LENS) + 2) of a table of fits (`Fit.table`): logarithms, and size of the shear and of the offset."""
    columns = [np.log(np.clip(np.asarray(table[name], dtype=float), 1e-6, 1e6)) for name in LENS]
    offset = np.hypot(table["source_x"], table["source_y"])
    return np.nan_to_num(np.stack([*columns, np.asarray(table["shear"], dtype=float), offset], 1))


def feature_count(network: nn.Module) -> int:
    """D of the features of a lens, those of the smooth lens included; 0 for networks that have none."""
    if not isinstance(network, Equivariant_Network):
        return 0
    fields = sum(ARCHITECTURES[str(network.config["arch"])].fields)
    return fields * RINGS + network.head.classify.in_features + len(LENS) + 2

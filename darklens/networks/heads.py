"""From the last feature map to logits, invariant in different ways."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darklens.networks.basis import Symmetry, regular_permutation
from darklens.networks.grid import transform
from darklens.networks.norm import BatchNorm


class Head(nn.Module):
    """From the last map of regular fields to logits: (B, F*G, H, H) -> (B, classes).

    The tail (linear, batch norm, ELU, linear) is the original's; the subclasses differ in what they feed it.
    """

    copies = 1  # feature vectors per image that the second linear layer sees

    def __init__(self, symmetry: Symmetry, fields: int, size: int, hidden: int, classes: int):
        super().__init__()
        self.symmetry, self.group = symmetry, symmetry.order
        self.squeeze = nn.Linear(self.features(fields, size), hidden)
        self.norm = BatchNorm(hidden)
        self.classify = nn.Linear(self.copies * hidden, classes)

    def features(self, fields: int, size: int) -> int:
        return fields * size * size

    def scalars(self, x: Tensor) -> Tensor:
        """Max over the group, an invariant of each field: (B, F*G, H, H) -> (B, F, H, H)."""
        return x.unflatten(1, (-1, self.group)).amax(2)

    def embed(self, features: Tensor) -> Tensor:
        return F.elu(self.norm(self.squeeze(features)))  # (B, features) -> (B, hidden)


class FlattenHead(Head):
    """The original's head. It reads absolute positions, so the network is no longer invariant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(self.scalars(x).flatten(1)))


class PooledHead(Head):
    """The spatial mean: invariant, but blind to where things are."""

    def features(self, fields: int, size: int) -> int:
        return fields

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(self.scalars(x).mean((2, 3))))


class RingsHead(Head):
    """Mean and maximum over soft rings around the centre: invariant, and knows how far out things are."""

    weight: Tensor
    spacing = 1.0  # pixels

    def __init__(self, symmetry, fields, size, hidden, classes):
        super().__init__(symmetry, fields, size, hidden, classes)
        axis = torch.arange(size) - (size - 1) / 2
        radius = torch.hypot(axis[:, None], axis[None, :])  # (H, H)
        rings = torch.arange(self.rings(size))[:, None, None] * self.spacing
        weight = (1 - (radius - rings).abs() / self.spacing).clamp(min=0)  # (R, H, H), a hat of unit width
        self.register_buffer("weight", weight / weight.sum((1, 2), keepdim=True), persistent=False)

    def rings(self, size: int) -> int:
        return math.ceil(size / 2 / self.spacing)

    def features(self, fields: int, size: int) -> int:
        return 2 * fields * self.rings(size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scalars(x)
        weight = self.weight.to(x.dtype)
        mean = torch.einsum("bfhw,rhw->bfr", x, weight)
        peak = weight / weight.amax((1, 2), keepdim=True)
        highest = torch.stack([(x * ring).amax((2, 3)) for ring in peak], 2)  # (B, F, R)
        return self.classify(self.embed(torch.cat((mean, highest), 2).flatten(1)))


class OrbitHead(Head):
    """The flattened head, shared by every exact turn (and mirror image) of the map, then max and mean over them.

    It keeps where things are and is invariant under the exact elements by construction.
    """

    copies = 2

    def orbit(self, x: Tensor) -> Tensor:
        """(B, F*G, H, H) -> (B, E, F, H, H), the map as seen under each exact element."""
        x = self.scalars(x)
        return torch.stack([transform(x, *element) for element in self.symmetry.exact_elements()], 1)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.orbit(x)
        hidden = self.embed(turned.flatten(0, 1).flatten(1)).unflatten(0, turned.shape[:2])  # (B, E, hidden)
        return self.classify(torch.cat((hidden.amax(1), hidden.mean(1)), 1))


class LiftedHead(OrbitHead):
    """As OrbitHead, on the regular fields themselves: a steerable convolution as wide as the map.

    Each exact element turns the map and permutes the channels of its fields.
    """

    permutations: Tensor

    def __init__(self, symmetry, fields, size, hidden, classes):
        super().__init__(symmetry, fields, size, hidden, classes)
        elements = symmetry.exact_elements()
        permutations = torch.stack([regular_permutation(symmetry, *element) for element in elements])
        self.register_buffer("permutations", permutations, persistent=False)  # (E, G)

    def features(self, fields: int, size: int) -> int:
        return fields * self.group * size * size

    def orbit(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, self.group))  # (B, F, G, H, H)
        elements = zip(self.symmetry.exact_elements(), self.permutations, strict=True)
        turned = [transform(x[:, :, permutation], *element).flatten(1, 2) for element, permutation in elements]
        return torch.stack(turned, 1)  # (B, E, F*G, H, H)


HEADS = {
    "flatten": FlattenHead,
    "pooled": PooledHead,
    "rings": RingsHead,
    "orbit": OrbitHead,
    "lifted": LiftedHead,
}

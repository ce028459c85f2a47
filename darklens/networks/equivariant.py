"""The E(2)-equivariant network on plain tensors.

A feature map of F regular fields of a group of order G is an ordinary tensor (B, F*G, H, W), channel f*G + g.
Steerable weights are expanded to ordinary filters once per call, so everything PyTorch offers works unchanged:
autocast, channels_last, `torch.compile(fullgraph=True)`, deepcopy, `torch.export`.

    network = build_network({"sym_group": "Dihyderal", "N": 8})
    logits = network(images)                  # images: (B, 1, 129, 129) -> (B, 3)
    plain = network.eval().folded()           # the same map as plain convolutions, for evaluation and export

References
  Weiler & Cesa 2019, General E(2)-Equivariant Steerable CNNs, arXiv:1911.08251
  Zhang 2019, Making Convolutional Networks Shift-Invariant Again, arXiv:1904.11486 (antialiased pooling)
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darklens.factorised import algebra
from darklens.networks.basis import Symmetry, steerable_basis
from darklens.networks.conv import SteerableConv, at_least_float32, choose_entry
from darklens.networks.heads import HEADS, Head
from darklens.networks.layers import AntialiasedPool, Block, DiskMask
from darklens.networks.norm import FieldNormRelu


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    fields: regular fields after each block; kernels, paddings: of each block's convolution; pools: (block, stride)
    of the antialiased poolings (stride 1 pools without padding); reduce: stride of the pooling before the first
    block, left out where the image would become too small; margin: width of the masked border in percent of the
    image's radius; hidden: features between the head's linear layers; head: the one to take if none is asked for.
    """

    fields: tuple[int, ...]
    head: str = "orbit"
    kernels: tuple[int, ...] = (7, 5, 5, 5, 5, 5)
    paddings: tuple[int, ...] = (1, 2, 2, 2, 2, 1)
    pools: tuple[tuple[int, int], ...] = ((1, 2), (3, 2), (5, 1))
    reduce: int = 1
    margin: float = 1.0
    hidden: int = 64


SMALLEST = 29  # pixels that the blocks need to end with a map of at least one
ARCHITECTURES = {
    "full": Architecture(fields=(24, 48, 48, 96, 96, 64)),  # the original's
    "compact": Architecture(  # for CPUs and quick looks: half the resolution, pooled early
        fields=(8, 12, 16, 24, 24, 16), head="lifted", pools=((0, 2), (2, 2), (5, 1)), reduce=2
    ),
}


class Equivariant_Network(nn.Module):
    """Classifier of square images, equivariant under C_N ("Circular") or D_N ("Dihyderal") up to its head.

    images: (B, channels, size, size) -> logits (B, classes), float32 or better whatever the precision inside.
    `config` holds every argument, so that `build_network(network.config)` makes the same network again.
    Raises ValueError for an unknown group, architecture or head, an order below 1, or images too small for it.
    """

    head: Head

    def __init__(
        self,
        sym_group: str = "Circular",
        N: int = 4,
        *,
        arch: str = "full",
        head: str | None = None,
        channels: int = 1,
        classes: int = 3,
        size: int = 129,
    ):
        super().__init__()
        shape = choose_entry("architecture", ARCHITECTURES, arch)
        head = head or shape.head
        self.config: dict = {"sym_group": sym_group, "N": N, "arch": arch, "head": head}
        self.config |= {"channels": channels, "classes": classes, "size": size}
        symmetry = Symmetry(sym_group, N)
        self.mask = DiskMask(size, shape.margin)
        self.reduce: nn.Module = nn.Identity()
        if shape.reduce > 1 and size >= shape.reduce * SMALLEST - 1:
            self.reduce = pool = AntialiasedPool(size, shape.reduce)
            size = pool.size
        self.blocks, size = _blocks(shape, symmetry, channels, size)
        self.head = choose_entry("head", HEADS, head)(symmetry, shape.fields[-1], size, shape.hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.reduce(self.mask(images)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return at_least_float32(self.head(x))

    def folded(self, plain: bool = False) -> nn.Module:
        """A copy for evaluation with the batch norms inside the filters. plain: made of plain convolutions only."""
        return FoldedNetwork(self, plain)


class FoldedNetwork(nn.Module):
    """An `Equivariant_Network` in evaluation mode: the same logits, faster, free of e2cnn.

    plain: without its bases, as plain convolutions, to be exported or moved to another device.
    """

    prepare: nn.Sequential
    body: nn.Sequential
    head: Head

    def __init__(self, network: Equivariant_Network, plain: bool = False):
        super().__init__()
        with torch.no_grad():
            blocks = [block.folded(plain) for block in network.blocks if isinstance(block, Block)]
        parts = nn.Sequential(network.mask, network.reduce), nn.Sequential(*blocks), network.head
        self.prepare, self.body, self.head = copy.deepcopy(parts)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stub omits it
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prepare(images).contiguous(memory_format=torch.channels_last)
        return at_least_float32(self.head(self.body(x)))


def build_network(config: dict) -> Equivariant_Network:
    """The network that `config` (see `Equivariant_Network.config`) describes, freshly initialised."""
    return Equivariant_Network(**config)


def _blocks(shape: Architecture, symmetry: Symmetry, channels: int, size: int) -> tuple[nn.ModuleList, int]:
    """The blocks and the size of their last map. Each basis is computed, and factorised, once."""
    bases, blocks = {}, nn.ModuleList()
    source, pools, previous = "trivial", dict(shape.pools), channels
    for i, (fields, kernel, padding) in enumerate(zip(shape.fields, shape.kernels, shape.paddings, strict=True)):
        if (source, kernel) not in bases:
            basis = steerable_basis(symmetry, source, kernel)
            bases[source, kernel] = basis, algebra.factorise(basis.kernels, symmetry.N, symmetry.mirrored)
        size += 2 * padding - kernel + 1
        pool = AntialiasedPool(size, pools[i]) if i in pools else None
        basis, plan = bases[source, kernel]
        conv = SteerableConv(basis, previous, fields, padding, plan)
        blocks.append(Block(conv, FieldNormRelu(fields, symmetry.order), pool))
        size, source, previous = pool.size if pool else size, "regular", fields
    return blocks, size

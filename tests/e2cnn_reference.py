"""The original's network assembled from e2cnn's own modules: the truth that ours is measured against."""

import torch
from torch import nn

from darklens.networks import basis
from darklens.networks.equivariant import ARCHITECTURES


class E2cnnNetwork(nn.Module):
    """`original.md`'s network; submodule names as its checkpoints have them. images (B, 1, S, S) -> logits (B, 3)."""

    def __init__(self, symmetry, channels=1, classes=3, size=129, features=43264, arch="full", initialize=True):
        super().__init__()
        e2nn = basis.import_e2cnn().nn
        from e2cnn.nn.modules.masking_module import build_mask

        shape, gspace = ARCHITECTURES[arch], basis.build_gspace(symmetry)
        self.input_type = previous = e2nn.FieldType(gspace, channels * [gspace.trivial_repr])
        self.reduce = None
        if shape.reduce > 1:
            self.reduce = e2nn.PointwiseAvgPoolAntialiased(previous, 0.66, shape.reduce)
        pools = dict(shape.pools)
        for i, (fields, kernel, padding) in enumerate(zip(shape.fields, shape.kernels, shape.paddings, strict=True)):
            current = e2nn.FieldType(gspace, fields * [gspace.regular_repr])
            layers = [e2nn.MaskModule(previous, size, margin=shape.margin)] if i == 0 and self.reduce is None else []
            layers += [
                e2nn.R2Conv(
                    previous, current, kernel, padding=padding, bias=False, initialize=initialize, recompute=True
                ),  # recompute: e2cnn's cache hands out bases of whatever precision came first
                e2nn.InnerBatchNorm(current),
                e2nn.ReLU(current, inplace=True),
            ]
            setattr(self, f"block{i + 1}", e2nn.SequentialModule(*layers))
            if i in pools:
                pad = {"padding": 0} if pools[i] == 1 else {}
                pool = e2nn.PointwiseAvgPoolAntialiased(current, 0.66, pools[i], **pad)
                number = [p for p, _ in shape.pools].index(i) + 1
                setattr(self, f"pool{number}", pool if number == 3 else e2nn.SequentialModule(pool))
            previous = current
        if self.reduce is None and torch.get_default_dtype() == torch.float64:  # e2cnn rounds its mask to float32
            mask = next(self.block1.children()).mask
            mask.data = build_mask(size, shape.margin, torch.float64)
        self.pool_after = {i: f"pool{number}" for number, (i, _) in enumerate(shape.pools, 1)}
        self.gpool = e2nn.GroupPooling(previous)
        self.wrap = e2nn.GeometricTensor
        self.fully_net = nn.Sequential(
            nn.Linear(features, shape.hidden), nn.BatchNorm1d(shape.hidden), nn.ELU(), nn.Linear(shape.hidden, classes)
        )

    def forward(self, images):
        x = self.wrap(images, self.input_type)
        for i in range(6):
            x = getattr(self, f"block{i + 1}")(x)
            if i in self.pool_after:
                x = getattr(self, self.pool_after[i])(x)
        x = self.gpool.export()(x.tensor)  # e2cnn's plain-tensor form: GroupPooling itself always answers in float32
        return self.fully_net(x.flatten(1))


def initialise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a sensible size and statistics that are not the identity, so that nothing cancels."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("weights"):
            values.data.copy_(torch.randn(values.shape, generator=generator) * 0.05)
        elif name.endswith(("running_mean", "bias")) and values.is_floating_point():
            values.data.copy_(torch.randn(values.shape, generator=generator) * 0.1)
        elif name.endswith("running_var") or ("batch_norm" in name and name.endswith("weight")):
            values.data.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return network


def published(group: str, N: int) -> E2cnnNetwork:
    """The original's network in evaluation mode, as its state_dict was saved."""
    return initialise(E2cnnNetwork(basis.Symmetry(group, N), initialize=False)).train().eval()

"""Steerable convolutions between regular fields, and plain ones that they fold into."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darklens.factorised import algebra, backend, cpu, triton
from darklens.networks.basis import SteerableBasis
from darklens.networks.grid import ExactModule


def choose_entry(kind: str, registry: dict[str, Any], name: str) -> Any:
    """The entry of that name. Raises ValueError, which lists all names; kind: of entry, for the message."""
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


class SteerableConv(ExactModule):
    """Convolution with a steerable filter to `out_fields` regular fields.

    weight: (F_out, F_in, b) coefficients of the basis. plan: how the basis factorises, where it does; `convolution`,
    one of `backend.CHOICES`, says whether that is used: the same map, rounded differently. Zero padding, stride 1.
    """

    basis: Tensor
    mixing: Tensor
    convolution = "auto"

    def __init__(
        self,
        basis: SteerableBasis,
        in_fields: int,
        out_fields: int,
        padding: int,
        plan: algebra.Factorisation | None = None,
    ):
        super().__init__()
        self.padding, self.plan = padding, plan
        self.shape = basis.kernels.shape[1:]  # (G, G_in, k, k)
        self.constant("basis", basis.kernels.flatten(1))  # (b, G*G_in*k*k)
        if plan:
            self.constant("mixing", plan.mixing)
        std = (basis.he_std / math.sqrt(in_fields)).to(torch.get_default_dtype())  # (b,)
        self.weight = nn.Parameter(torch.randn(out_fields, in_fields, len(std)) * std)

    def filters(self) -> Tensor:
        """The expanded filter bank, (F_out*G, F_in*G_in, k, k), in the precision of the weights."""
        fields_out, fields_in, b = self.weight.shape
        group, group_in, k, _ = self.shape
        with torch.autocast(self.weight.device.type, enabled=False):
            bank = self.weight.reshape(-1, b) @ self.basis
        # (F_out*F_in, G*G_in*k*k) -> (F_out, F_in, G, G_in, k, k) -> (F_out, G, F_in, G_in, k, k)
        bank = bank.view(fields_out, fields_in, group, group_in, k, k).transpose(1, 2)
        return bank.reshape(fields_out * group, fields_in * group_in, k, k)

    def matrices(self) -> list[Tensor]:
        """The factorised filters, one matrix per irrep, in the precision of the weights."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return algebra.blocks(self.weight, self.mixing, self.factorisation)

    @property
    def factorisation(self) -> algebra.Factorisation:
        """The plan, of a layer that has one."""
        if self.plan is None:
            raise ValueError("these kernels do not factorise")
        return self.plan

    def algorithm(self, x: Tensor) -> str:
        """How the layer is computed for inputs like x, see `backend.choose`."""
        fields_out, fields_in, _ = self.weight.shape
        return backend.choose(self.convolution, self.plan, (fields_in, fields_out), x)

    def forward(self, x: Tensor) -> Tensor:
        algorithm = self.algorithm(x)
        if algorithm == backend.LOOPS:
            return cpu.convolve(x, self.matrices(), self.factorisation, len(self.weight), self.padding)
        return self.by_kernels(x) if algorithm == backend.KERNELS else self.dense(x)

    def dense(self, x: Tensor) -> Tensor:
        """The layer by its filter bank."""
        return F.conv2d(x, self.filters(), padding=self.padding)

    def by_kernels(self, x: Tensor) -> Tensor:
        """The layer by Triton's kernels."""
        return triton.convolve(x, self.weight, self.mixing, self.factorisation, self.padding)


def set_convolution(network: nn.Module, kind: str) -> None:
    """How the steerable layers of a network work from now on: "auto", "dense" or "factorised" where they can.

    Raises ValueError for another `kind`. Results differ by rounding only; neither config nor state knows of it.
    """
    if kind not in backend.CHOICES:
        raise ValueError(f"unknown convolution {kind!r}: expected one of {', '.join(backend.CHOICES)}")
    for layer in network.modules():
        if isinstance(layer, SteerableConv):
            layer.convolution = kind


class FoldedConv(nn.Module):
    """A factorised layer for evaluation, scaled by (F_out,) and shifted by (F_out*G,), its matrices computed once."""

    def __init__(self, conv: SteerableConv, scale: Tensor, shift: Tensor):
        super().__init__()
        self.conv = copy.deepcopy(conv)
        self.conv.weight.mul_(scale[:, None, None])
        self.matrices = nn.ParameterList(self.conv.matrices())
        self.shift = nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        conv, algorithm = self.conv, self.conv.algorithm(x)
        if algorithm == backend.DENSE:  # it was moved to another device, or is being traced
            return F.conv2d(x, conv.filters(), self.shift, padding=conv.padding)
        if algorithm == backend.LOOPS:
            y = cpu.convolve(x, list(self.matrices), conv.factorisation, len(conv.weight), conv.padding)
        else:
            y = conv.by_kernels(x)
        return y.add_(self.shift.to(y.dtype).view(-1, 1, 1))


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is in half precision, else as it is: (...) -> (...)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

"""Steerable convolutions between regular fields, and plain ones that they fold into."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darklens.factorised import algebra, backend, triton
from darklens.networks.basis import SteerableBasis
from darklens.networks.grid import ExactModule


def choose_entry(what: str, registry: dict[str, Any], name: str) -> Any:
    """The entry of that name. Raises ValueError, which lists all names; what: of what kind they are."""
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


class SteerableConv(ExactModule):
    """Convolution with a steerable filter to `out_fields` regular fields.

    weight: (F_out, F_in, b) coefficients of the basis. plan: how the basis factorises, where it does; `convolution`
    says whether that is used (a key of `factorised.CHOICES`): the same map, rounded differently. Raises nothing;
    padding is zero padding, stride 1.
    """

    convolution = "auto"
    gains = False  # by Triton's kernels, as measured at its last call on a GPU

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
            return algebra.blocks(self.weight, self.mixing, self.plan)

    @property
    def factorises(self) -> bool:
        """Whether the layer is to work without its filter bank where that is possible."""
        fields_out, fields_in, _ = self.weight.shape
        return backend.CHOICES[self.convolution](self.plan, (fields_in, fields_out))

    def forward(self, x: Tensor) -> Tensor:
        if self.factorises and backend.possible(x):
            return backend.convolve(x, self.matrices(), self.plan, len(self.weight), self.padding)
        return self.steered(x) if self.steers(x, self.dense) else self.dense(x)

    def dense(self, x: Tensor) -> Tensor:
        """The layer by its filter bank."""
        return F.conv2d(x, self.filters(), padding=self.padding)

    def steered(self, x: Tensor) -> Tensor:
        """The layer by Triton's kernels."""
        return triton.convolve(x, self.weight, self.mixing, self.plan, self.padding)

    def steers(self, x: Tensor, dense: Callable[[Tensor], Tensor]) -> bool:
        """Whether a GPU is to work on x without the filter bank, which `dense` does with it. Under torch.compile,
        where nothing can be measured, "auto" is what an earlier call has found."""
        if self.convolution == "dense" or not triton.possible(x, self.plan):
            return False
        if self.convolution == "auto" and not torch.compiler.is_compiling():
            ways = {"dense": dense, "factorised": self.steered}
            self.gains = triton.prefers(x, self.weight, self.plan, self.padding, ways)
        return self.convolution == "factorised" or self.gains

    @property
    def steerable(self) -> bool:
        """Whether it might be worked on by Triton's kernels where it is now."""
        possible = self.convolution != "dense" and triton.possible(self.weight, self.plan)
        return possible and (self.convolution == "factorised" or triton.promising(self.plan))


def set_convolution(network: nn.Module, kind: str) -> None:
    """How the steerable layers of a network work from now on: "auto", "dense" or "factorised" where they can.

    Raises ValueError for another `kind`. Results differ by rounding only; neither config nor state knows of it.
    """
    choose_entry("convolution", backend.CHOICES, kind)
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
        self.bank = None  # what a GPU on which this layer is no faster works with

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if backend.possible(x):
            y = backend.convolve(x, list(self.matrices), conv.plan, len(conv.weight), conv.padding)
        elif conv.steers(x, self._dense):
            y = conv.steered(x)
        else:  # it was moved to another device, is being traced, or is no faster
            return self._dense(x)
        return y.add_(self.shift.to(y.dtype).view(-1, 1, 1))

    def _dense(self, x: Tensor) -> Tensor:
        bank = self._kept() if x.is_cuda and not torch.compiler.is_compiling() else self.conv.filters()
        return F.conv2d(x, bank, self.shift, padding=self.conv.padding)

    def _kept(self) -> Tensor:
        """The filter bank, computed once on each device."""
        weight = self.conv.weight
        if self.bank is None or (self.bank.device, self.bank.dtype) != (weight.device, weight.dtype):
            with torch.inference_mode(False), torch.no_grad():
                self.bank = self.conv.filters()
        return self.bank


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it is in half precision, else as it is: (...) -> (...)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

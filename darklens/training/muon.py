"""Muon for steerable networks: each step of a layer is orthogonal, irrep by irrep of the group.

    optimiser = Muon(network, lr=1e-2, weight_decay=1e-2)

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum M = U S V' of a weight
matrix by U V', the steepest descent where a step is measured by its spectral norm: all directions learn at the same
pace. For a steerable layer the matrix to take is the one that acts on the features. It commutes with the group, so by
Schur's lemma it falls apart into one matrix an irrep (see factorised/algebra.py), and so does its U V': the step stays
equivariant, and has F_out * G directions rather than the F_out that the coefficients (F_out, F_in, b) would show.

Linear layers, plain convolutions and steerable ones that do not factorise are taken as matrices (out, rest); vectors
and the last layer, which makes the logits, are left to AdamW.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from darklens.factorised import algebra
from darklens.networks.conv import SteerableConv

MOMENTUM = 0.95
RMS = 0.2  # of a step's entries over the learning rate: that of AdamW, so that one rate serves both (arXiv:2502.16982)
QUINTIC = 3.4445, -4.7750, 2.0315  # Jordan et al.: brings singular values near 1 (0.7 to 1.2) in five steps


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V' of a matrix U S V', (m, n): its singular values become 0.7 to 1.2, those near zero stay small.

    Newton-Schulz iteration with the coefficients of Jordan et al. 2024, in the matrix's precision.
    """
    a, b, c = QUINTIC
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def as_matrix(momentum: Tensor) -> Tensor:
    """U V' of (out, ...) seen as a matrix (out, rest)."""
    return orthogonalise(momentum.flatten(1)).view_as(momentum)


def by_irreps(layer: SteerableConv) -> Callable[[Tensor], Tensor]:
    """U V' of the momentum (F_out, F_in, b) of a layer that factorises, irrep by irrep.

    The matrices' entries are linear in the coefficients, E = C P. A gradient of the coefficients is that of the
    entries seen through P', which (P P')^-1 undoes, before and after.
    """
    plan = layer.plan
    if plan is None:
        raise ValueError("expected a layer that factorises")
    gram = plan.mixing @ plan.mixing.mT  # (b, b) float64
    inverse = torch.linalg.pinv(gram).to(layer.weight)

    def undo(coefficients: Tensor) -> Tensor:
        return (coefficients.reshape(-1, len(inverse)) @ inverse).view_as(coefficients)

    def step(momentum: Tensor) -> Tensor:
        coefficients = undo(momentum).requires_grad_()
        with torch.enable_grad():
            matrices = algebra.blocks(coefficients, layer.mixing, plan)
        steps = [orthogonalise(matrix.detach()) for matrix in matrices]
        return undo(torch.autograd.grad(matrices, coefficients, steps)[0])

    return step


class Muon(torch.optim.AdamW):
    """Muon for the matrices of a network, AdamW for the rest, with one learning rate.

    Raises nothing of its own. Its state is ordinary: a momentum for each matrix, what AdamW keeps for the rest.
    """

    def __init__(self, network: nn.Module, lr: float, weight_decay: float):
        super().__init__(network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        steerable = [m for m in network.modules() if isinstance(m, SteerableConv) and m.plan]
        ways: dict[Tensor, Callable[[Tensor], Tensor]] = {layer.weight: by_irreps(layer) for layer in steerable}
        matrices = [p for p in network.parameters() if p.ndim > 1][:-1]  # the last one makes the logits
        self.ways: dict[Tensor, Callable[[Tensor], Tensor]] = {p: ways.get(p, as_matrix) for p in matrices}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing is evaluated again here
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.ways and parameter.grad is not None:
                    self._turn(parameter, group["lr"], group["weight_decay"])
        super().step(closure)  # passes over those without a gradient

    def _turn(self, parameter: Tensor, lr: float, weight_decay: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None  # `step` has looked
        parameter.grad = None
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = self.ways[parameter](gradient.lerp(state["momentum"], MOMENTUM))
        rms = step.square().mean().sqrt().clamp_min(1e-12)
        parameter.mul_(1 - lr * weight_decay).add_(step / rms, alpha=-lr * RMS)

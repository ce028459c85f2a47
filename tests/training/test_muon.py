"""Muon: orthogonal steps, irrep by irrep."""

import copy

import pytest
import torch

from darklens.factorised import algebra
from darklens.networks.basis import Symmetry, steerable_basis
from darklens.networks.conv import SteerableConv
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.training.muon import Muon, as_matrix, by_irreps, orthogonalise


def layer_of(sym_group: str, N: int, fields_in: int = 3, fields_out: int = 4) -> SteerableConv:
    symmetry = Symmetry(sym_group, N)
    basis = steerable_basis(symmetry, "regular", 5)
    plan = algebra.factorise(basis.kernels, symmetry.N, symmetry.mirrored)
    return SteerableConv(basis, fields_in, fields_out, 2, plan).double()


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (7, 7)])
def test_singular_values_become_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonalise(matrix) @ v.mT  # in the singular vectors of the matrix
    assert (found - found.diagonal().diag()).abs().max() < 1e-10
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3


@pytest.mark.parametrize("group", [("Circular", 4), ("Circular", 8), ("Dihyderal", 4), ("Dihyderal", 8)])
def test_a_step_is_orthogonal_in_every_irrep(group):
    """What the step does to the entries is U V' of what the gradient is in them."""
    torch.manual_seed(1)
    layer = layer_of(*group)
    entries = [block.requires_grad_() for block in algebra.blocks(layer.weight.detach(), layer.mixing, layer.plan)]
    pulls = [torch.randn_like(block) for block in entries]
    blocks = algebra.blocks(layer.weight, layer.mixing, layer.plan)
    (gradient,) = torch.autograd.grad(blocks, layer.weight, pulls)
    inverse = torch.linalg.pinv(layer.mixing @ layer.mixing.mT)
    seen = algebra.blocks((gradient.flatten(0, 1) @ inverse).view_as(gradient), layer.mixing, layer.plan)
    steps = algebra.blocks(by_irreps(layer)(gradient), layer.mixing, layer.plan)
    for block, step in zip(seen, steps, strict=True):
        torch.testing.assert_close(step, orthogonalise(block.detach()), rtol=1e-9, atol=1e-9)


def test_a_step_does_not_depend_on_the_basis():
    """The same layer in coefficients of another basis takes the same step."""
    torch.manual_seed(2)
    layer = layer_of("Dihyderal", 4)
    gradient, scales = torch.randn_like(layer.weight), torch.rand(layer.weight.shape[-1], dtype=torch.float64) + 0.5
    other = copy.deepcopy(layer)
    other.plan = copy.copy(layer.plan)
    other.plan.mixing = layer.plan.mixing / scales[:, None].to(layer.plan.mixing)
    other.constant("mixing", other.plan.mixing)
    other.double()
    there = by_irreps(other)(gradient / scales)
    torch.testing.assert_close(there / scales, by_irreps(layer)(gradient), rtol=1e-9, atol=1e-9)


def test_irreps_give_more_directions_than_coefficients():
    """As the map of the features that it is, the step of a D4 layer has F_out * G directions."""
    torch.manual_seed(3)
    layer = layer_of("Dihyderal", 4)
    gradient = torch.randn_like(layer.weight)

    def directions(step):
        bank = copy.deepcopy(layer)
        bank.weight.data = step
        values = torch.linalg.svdvals(bank.filters().detach().flatten(1))
        return float(values.sum().square() / values.square().sum())  # an effective rank

    assert directions(by_irreps(layer)(gradient)) > 0.9 * 32
    assert directions(by_irreps(layer)(gradient)) > directions(as_matrix(gradient))


@pytest.mark.parametrize("config", [("Circular", 4), ("Circular", 5), ("Dihyderal", 4)])
def test_matrices_and_vectors(config):
    """A step moves every parameter: matrices by 0.2 of the rate, vectors and the last layer as AdamW does."""
    torch.manual_seed(4)
    network = build_network({"sym_group": config[0], "N": config[1], "arch": "compact", "size": 29}).train()
    check(network, torch.randn(4, 1, 29, 29))


def test_of_the_baseline():
    torch.manual_seed(5)
    check(build_resnet({"classes": 3, "channels": 1, "size": 33}).train(), torch.randn(4, 1, 33, 33))


def check(network, images):
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    twin = copy.deepcopy(network)
    adamw = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    muon = Muon(network, lr=1e-2, weight_decay=0.1)
    for some, optimiser in ((network, muon), (twin, adamw)):
        torch.nn.functional.cross_entropy(some(images), torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
    theirs, last = dict(twin.named_parameters()), [name for name, p in before.items() if p.ndim > 1][-1]
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and name != last:
            step = parameter.detach() - before[name] * (1 - 1e-3)
            assert step.square().mean().sqrt() == pytest.approx(2e-3, rel=1e-3), name
        else:
            assert torch.equal(parameter, theirs[name]), name


def test_no_gradient_no_step():
    network = build_network({"sym_group": "Circular", "N": 4, "arch": "compact", "size": 29})
    before = [p.detach().clone() for p in network.parameters()]
    muon = Muon(network, lr=1e-2, weight_decay=0.0)
    muon.step()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    muon.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

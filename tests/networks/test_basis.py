"""networks/basis.py: bases against e2cnn's own expansion, exact elements, e2cnn on today's NumPy and PyTorch."""

import math

import pytest
import torch

from darklens.networks.basis import GROUPS, Symmetry, build_gspace, import_e2cnn, regular_permutation, steerable_basis
from darklens.networks.grid import transform

ALL = [Symmetry(group, N) for group in GROUPS for N in (1, 2, 3, 4, 6, 8)]
NAMED = {"ids": lambda symmetry: symmetry.name}


@pytest.mark.parametrize(
    "symmetry", [Symmetry("Circular", 4), Symmetry("Dihyderal", 4), Symmetry("Dihyderal", 8)], **NAMED
)
@pytest.mark.parametrize("source, size", [("trivial", 7), ("regular", 5), ("regular", 3), ("regular", 1)])
def test_basis_is_that_of_e2cnn(symmetry, source, size):
    """Same elements, order and scale as e2cnn's R2Conv expands, 1x1 kernels included (they broke on torch 2.13)."""
    e2nn, space = import_e2cnn().nn, build_gspace(symmetry)
    in_type = e2nn.FieldType(space, [space.trivial_repr if source == "trivial" else space.regular_repr])
    conv = e2nn.R2Conv(in_type, e2nn.FieldType(space, [space.regular_repr]), size, bias=False, initialize=False)
    expansion = getattr(conv.basisexpansion, f"block_expansion_{(in_type.representations[0].name, 'regular')}")
    ours = steerable_basis(symmetry, source, size).kernels.flatten(3)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours.float(), expansion.sampled_basis, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("symmetry", [Symmetry("Circular", 4), Symmetry("Dihyderal", 8)], **NAMED)
@pytest.mark.parametrize("source", ["trivial", "regular"])
def test_he_initialisation_has_the_spread_of_e2cnn(symmetry, source):
    import_e2cnn()
    from e2cnn.nn.init import _generalized_he_init_variances

    e2nn, space = import_e2cnn().nn, build_gspace(symmetry)
    in_type = e2nn.FieldType(space, 3 * [space.trivial_repr if source == "trivial" else space.regular_repr])
    conv = e2nn.R2Conv(in_type, e2nn.FieldType(space, 2 * [space.regular_repr]), 5, bias=False, initialize=False)
    ours = steerable_basis(symmetry, source, 5).he_std / math.sqrt(3)
    expected = _generalized_he_init_variances(conv.basisexpansion).view(6, -1)
    torch.testing.assert_close(ours.float().expand(6, -1), expected)


@pytest.mark.parametrize("symmetry", ALL, **NAMED)
def test_kernels_satisfy_the_constraint(symmetry):
    """K(gx) = rho_out(g) K(x) rho_in(g)^-1 for every exact element, to rounding."""
    kernels = steerable_basis(symmetry, "regular", 5).kernels  # (b, G, G, 5, 5)
    for element in symmetry.exact_elements():
        p = regular_permutation(symmetry, *element)
        torch.testing.assert_close(transform(kernels, *element)[:, p][:, :, p], kernels, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "group, N, count",
    [
        ("Circular", 4, 4),
        ("Circular", 8, 4),
        ("Circular", 6, 2),
        ("Circular", 3, 1),
        ("Dihyderal", 8, 8),
        ("Dihyderal", 2, 4),
        ("Dihyderal", 3, 2),
        ("Dihyderal", 1, 2),
    ],
)
def test_exact_elements(group, N, count):
    elements = Symmetry(group, N).exact_elements()
    assert len(set(elements)) == count and (False, 0) in elements


@pytest.mark.parametrize(
    "group, N", [("Spherical", 4), ("Circular", 0), ("Circular", -2), ("Dihyderal", 2.0), ("Circular", True)]
)
def test_impossible_groups_are_refused(group, N):
    with pytest.raises(ValueError, match="group"):
        Symmetry(group, N)


def test_transform_moves_pixels_only():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert transform(image, True, 0)[0, 0, 0].tolist() == [2, 1, 0]
    assert transform(image, False, 1)[0, 0, 0].tolist() == [2, 5, 8]
    assert torch.equal(transform(transform(image, False, 1), False, 3), image)


def test_basis_is_computed_afresh():
    """No cache that an edit could spoil."""
    first = steerable_basis(Symmetry("Circular", 4), "regular", 5)
    first.kernels.zero_()
    assert steerable_basis(Symmetry("Circular", 4), "regular", 5).kernels.abs().sum() > 1

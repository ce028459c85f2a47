"""symmetry.py: measures what it says, on functions whose symmetry is known."""

import torch

from darklens.networks.basis import Symmetry
from darklens.reports.equivariance import MOST, measure_equivariance, sample_size, turn


def logits_of(weight: torch.Tensor):
    """A network that sees each image through one fixed mask, and its negative."""
    return lambda images: torch.stack([(images * weight).sum((1, 2, 3)), -(images * weight).sum((1, 2, 3))], 1)


def disk(size: int = 21) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return (torch.hypot(axis[:, None], axis[None, :]) < size / 3).double() / size**2


def test_symmetric_function_has_no_exact_change():
    found = measure_equivariance(logits_of(disk()), torch.rand(3, 1, 21, 21).double(), Symmetry("Dihyderal", 4))
    assert found["images"] == 3 and len(found["exact"]) == 7 and all(e["in_group"] for e in found["exact"])
    assert found["largest_exact_change"] < 1e-12
    assert [e["angle"] for e in found["interpolated"]][:3] == [15, 30, 45] and len(found["interpolated"]) == 20


def test_change_is_that_of_the_probabilities():
    """Left half against right half: a turn by 180 degrees swaps the two logits."""
    weight = disk()
    weight[:, 10:] = 0
    images = torch.zeros(1, 1, 21, 21).double()
    images[..., :10] = 1.0
    found = measure_equivariance(logits_of(weight), images, Symmetry("Circular", 2))
    half = next(e for e in found["exact"] if e["name"] == "turn 180")
    total = (weight[:, :10]).sum()
    expected = (torch.sigmoid(2 * total) - 0.5).abs().item()
    assert abs(half["max"] - expected) < 1e-12 and half["in_group"] and found["largest_exact_change"] == half["max"]
    assert [e["name"] for e in found["exact"] if e["in_group"]] == ["turn 180"]


def test_network_without_a_group_has_no_exact_elements():
    found = measure_equivariance(logits_of(disk()), torch.rand(1, 1, 21, 21).double(), None)
    assert not any(e["in_group"] for e in found["exact"]) and found["largest_exact_change"] == 0.0


def test_turn_agrees_with_exact_turns():
    images = torch.rand(2, 1, 21, 21).double()
    torch.testing.assert_close(turn(images, 90), torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-9)
    torch.testing.assert_close(turn(images, 180), images.flip(2, 3), rtol=0, atol=1e-9)


def test_costly_networks_are_measured_on_fewer_images():
    assert sample_size(1e6) == MOST and sample_size(1e14) == 2 and 2 < sample_size(2e10) < MOST

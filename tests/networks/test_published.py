"""original.py: checkpoints as the original published them, made here by e2cnn's own modules."""

import pytest
import torch
from e2cnn_reference import published

from darklens.classifier.saved import load_model
from darklens.data.transforms import ORIGINAL
from darklens.errors import CheckpointError, PublishedError
from darklens.networks import published as networks_published
from darklens.networks.resnet import build_resnet


@pytest.fixture(scope="module")
def c4():
    return published("Circular", 4)


@pytest.fixture
def state(c4):
    return {key: value.clone() for key, value in c4.state_dict().items()}


def test_shapes_are_those_of_the_documentation(state):
    """Guards the reference itself: `original.md` lists these keys and shapes."""
    assert state["block1.0.mask"].shape == (1, 1, 129, 129)
    assert [len(state[f"block{i}.0.weights"]) for i in range(2, 7)] == [50688, 101376, 202752, 405504, 270336]
    assert len(state["block1.1.weights"]) == 432 and state["block1.1.filter"].shape == (96, 1, 7, 7)
    assert state["block1.1._basisexpansion.block_expansion_('irrep_0', 'regular').sampled_basis"].shape == (
        18,
        4,
        1,
        49,
    )
    assert state["block2.0._basisexpansion.block_expansion_('regular', 'regular').sampled_basis"].shape == (
        44,
        4,
        4,
        25,
    )
    assert state["block1.2.batch_norm_[4].running_var"].shape == (24,) and state["block1.2.indices_4"].shape == (2,)
    assert state["pool3.filter"].shape == (256, 1, 5, 5) and state["pool1.0.filter"].shape == (192, 1, 5, 5)
    assert state["fully_net.0.weight"].shape == (64, 43264) and state["gpool.in_indices_4"].shape == (2,)


def test_logits_are_those_of_the_original_network(c4, tmp_path):
    torch.save(c4.state_dict(), tmp_path / "best-model-parameters.pt")
    loaded = load_model(tmp_path / "best-model-parameters.pt")
    images = torch.rand(2, 1, 129, 129, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(images), c4(images), rtol=1e-5, atol=1e-5)
    assert loaded.preprocess == ORIGINAL and loaded.classes == ["no", "sphere", "vort"]
    assert loaded.network.config["sym_group"] == "Circular" and loaded.network.config["N"] == 4


def test_mirrored_group_is_told_by_its_keys():
    """D2 and C4 have the same shapes; a D_N network's first basis is named irrep_0,0."""
    state = published("Dihyderal", 2).state_dict()
    assert networks_published.describe(state) == {"sym_group": "Dihyderal", "N": 2}
    network = networks_published.load_equivariant(state)
    assert network.config["N"] == 2 and network.blocks[0].norm.group == 4


@pytest.mark.parametrize(
    "key, poison",
    [
        ("block2.0._basisexpansion.block_expansion_('regular', 'regular').sampled_basis", 1.01),
        ("block6.0.filter", 1.01),
        ("block1.1.filter", 0.99),
        ("block1.0.mask", 0.9),
        ("pool2.0.filter", 1.1),
        ("block3.0.weights", 1.01),
        ("block4.0.filter", float("nan")),
    ],
)
def test_poisoned_entries_are_refused(state, tmp_path, key, poison):
    state[key] = state[key] * poison
    torch.save(state, tmp_path / "poisoned.pt")
    with pytest.raises(CheckpointError, match="poisoned.pt.*does not match"):
        load_model(tmp_path / "poisoned.pt")


def test_one_poisoned_number_is_refused(state):
    state["block5.0.filter"].view(-1)[12345] += 1.0
    with pytest.raises(PublishedError, match="block5.0.filter"):
        networks_published.load_equivariant(state)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "weights"])
def test_other_contents_are_refused(state, tmp_path, change):
    if change == "missing":
        del state["block3.0.weights"]
    elif change == "unknown":
        state["block7.0.weights"] = torch.zeros(3)
    elif change == "shape":
        state["block2.0.filter"] = state["block2.0.filter"][:, :4]
    else:
        state["block2.0.weights"] = state["block2.0.weights"][:-1]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other.pt"):
        load_model(tmp_path / "other.pt")


def test_resnet_loads(tmp_path):
    network = build_resnet({"channels": 1, "classes": 3, "size": 129}).eval()
    torch.save(network.state_dict(), tmp_path / "cnn.pt")
    loaded = load_model(tmp_path / "cnn.pt")
    images = torch.rand(2, 1, 129, 129)
    torch.testing.assert_close(loaded.network(images), network(images))
    assert sum(p.numel() for p in loaded.network.parameters()) == 11171779


@pytest.mark.parametrize(
    "content", [{"a": torch.zeros(2)}, {"conv1.weight": torch.zeros(64, 1, 7, 7), "fc.weight": torch.zeros(3, 512)}]
)
def test_state_of_something_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "else.pt")
    with pytest.raises(CheckpointError, match="else.pt: not a usable network"):
        load_model(tmp_path / "else.pt")

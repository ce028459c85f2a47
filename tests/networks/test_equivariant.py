"""model.py: equal to e2cnn's modules, exactly symmetric, foldable, compilable, small on disk."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from e2cnn_reference import E2cnnNetwork, initialise

from darklens.networks.basis import Symmetry, import_e2cnn
from darklens.networks.equivariant import ARCHITECTURES, Equivariant_Network, build_network
from darklens.networks.grid import transform
from darklens.networks.heads import HEADS
from darklens.networks.layers import AntialiasedPool, DiskMask
from darklens.networks.norm import FieldNormRelu

GROUPS = [("Circular", 4), ("Circular", 8), ("Dihyderal", 4), ("Dihyderal", 8)]
SMALL = {"fields": (2, 3, 2, 3, 2, 2)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def small(monkeypatch):
    """The full architecture with few fields, so that float64 networks of all groups take seconds."""
    shape = ARCHITECTURES["full"]
    monkeypatch.setitem(ARCHITECTURES, "full", type(shape)(**SMALL))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lens(size: int, dtype=torch.float64) -> torch.Tensor:
    """Two rings with a lump each, off centre: (2, 1, size, size)."""
    axis = torch.linspace(-2, 2, size, dtype=dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rings = [torch.exp(-((torch.hypot(x - dx, y / 0.8) - 1) ** 2) / 0.05) for dx in (0.0, 0.2)]
    return torch.stack(rings)[:, None] + 3 * torch.exp(-((x - 0.7) ** 2 + (y - 0.7) ** 2) / 0.02)


# --- the same network as e2cnn's ------------------------------------------------------------------------------


@pytest.mark.parametrize("group, N", GROUPS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_e2cnn_modules(group, N, training, small, double):
    """Outputs, running statistics and every gradient, to 1e-10."""
    size, last = 65, 10  # pixels of the image, of the last map
    reference = initialise(E2cnnNetwork(Symmetry(group, N), size=size, features=2 * last**2, initialize=False))
    reference.train().eval()  # e2cnn: train() first, or the filters are stale
    ours = build_network({"sym_group": group, "N": N, "head": "flatten", "size": size})
    _copy_weights(reference, ours)
    reference.train(training), ours.train(training)
    images = torch.randn(8, 1, size, size)
    expected, found = reference(images), ours(images)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for i, block in enumerate(ours.blocks):
        theirs = list(getattr(reference, f"block{i + 1}").children())[2 if i == 0 else 1]
        theirs = getattr(theirs, f"batch_norm_[{block.norm.group}]")
        torch.testing.assert_close(block.norm.running_var, theirs.running_var, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(block.norm.running_mean, theirs.running_mean, rtol=1e-10, atol=1e-12)
    if training:
        weight = torch.randn_like(expected)
        (expected * weight).sum().backward(), (found * weight).sum().backward()
        for mine, theirs in _pairs(ours, reference):
            gradient = theirs.grad.view_as(mine.grad)
            assert (mine.grad - gradient).abs().max() <= 1e-10 * max(1.0, gradient.abs().max().item())


def _pairs(ours, reference):
    """(our parameter, the parameter in the network of e2cnn modules), all of them."""
    for i, block in enumerate(ours.blocks):
        layers = list(getattr(reference, f"block{i + 1}").children())[1 if i == 0 else 0 :]
        norm = getattr(layers[1], f"batch_norm_[{block.norm.group}]")
        yield block.conv.weight, layers[0].weights
        yield from zip(block.norm.parameters(), norm.parameters(), strict=True)
    tail = [reference.fully_net[k] for k in (0, 1, 3)]
    for mine, theirs in zip((ours.head.squeeze, ours.head.norm, ours.head.classify), tail, strict=True):
        yield from zip(mine.parameters(), theirs.parameters(), strict=True)


def _copy_weights(reference, ours):
    with torch.no_grad():
        for mine, theirs in _pairs(ours, reference):
            mine.copy_(theirs.view_as(mine))
        for i, block in enumerate(ours.blocks):
            norm = list(getattr(reference, f"block{i + 1}").children())[2 if i == 0 else 1]
            norm = getattr(norm, f"batch_norm_[{block.norm.group}]")
            block.norm.load_state_dict(norm.state_dict())
        ours.head.norm.load_state_dict(reference.fully_net[1].state_dict())


@pytest.mark.parametrize(
    "group, N, count",
    [("Circular", 4, 3801123), ("Circular", 8, 4831779), ("Dihyderal", 4, 4831779), ("Dihyderal", 8, 6893091)],
)
def test_parameters_are_counted_as_published(group, N, count):
    network = build_network({"sym_group": group, "N": N, "head": "flatten"})
    assert sum(p.numel() for p in network.parameters()) == count


# --- symmetry -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group, N", [*GROUPS, ("Circular", 6), ("Dihyderal", 3), ("Dihyderal", 1), ("Circular", 1)])
@pytest.mark.parametrize("head", [name for name in HEADS if name != "flatten"])
def test_exact_turns_leave_the_logits(group, N, head, small):
    size = {"pooled": 63, "rings": 65, "orbit": 75, "lifted": 61}[head]  # odd and even maps inside
    network = build_network({"sym_group": group, "N": N, "head": head, "size": size}).double()
    network(torch.randn(4, 1, size, size).double())  # statistics that are not the identity
    network.eval()
    for images in (lens(size), torch.randn(2, 1, size, size, dtype=torch.float64)):
        logits = network(images)
        for element in Symmetry(group, N).exact_elements():
            change = (network(transform(images, *element)) - logits).abs().max() / logits.abs().max()
            assert change <= 1e-10, element


@pytest.mark.parametrize("group, N", GROUPS)
@pytest.mark.parametrize("head", ["pooled", "orbit"])
def test_exact_turns_in_float32(group, N, head):
    network = build_network({"sym_group": group, "N": N, "head": head, "arch": "compact"}).eval()
    images = lens(129, torch.float32)
    logits = network(images)
    for element in Symmetry(group, N).exact_elements():
        assert (network(transform(images, *element)) - logits).abs().max() <= 1e-5 * logits.abs().max()


def test_flattened_head_is_not_invariant(small):
    """The defect that the other heads mend; also shows that these tests can fail."""
    network = build_network({"head": "flatten", "size": 65}).double().eval()
    change = network(transform(lens(65), False, 1)) - network(lens(65))
    assert change.abs().max() > 1e-3


def test_double_after_float_is_exact(small):
    """A network that was in float32 is as equivariant in float64 as one that was made in it."""
    network = (
        build_network({"sym_group": "Dihyderal", "N": 8, "head": "pooled", "size": 65}).float().half().double().eval()
    )
    logits = network(lens(65))
    assert (network(transform(lens(65), True, 1)) - logits).abs().max() <= 1e-10 * logits.abs().max()


# --- layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_field_norm_equals_batch_norm_3d(training, double):
    norm, plain = FieldNormRelu(3, 4), torch.nn.BatchNorm3d(3)
    for module in (norm, plain):
        torch.nn.init.uniform_(module.weight, generator=torch.Generator().manual_seed(1))
        torch.nn.init.uniform_(module.bias, -1, 1, generator=torch.Generator().manual_seed(2))
    norm.train(training), plain.train(training)
    a = torch.randn(5, 12, 7, 7, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    for _ in range(2):
        ours, theirs = norm(a), F.relu(plain(b.unflatten(1, (3, 4)))).flatten(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward(), (theirs * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_var, plain.running_var, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=1e-10, atol=1e-12)


def test_field_norm_in_bf16_has_float32_statistics():
    norm = FieldNormRelu(2, 4)
    x = (100 + torch.randn(8, 8, 31, 31)).bfloat16()
    norm(x)
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(
        norm.running_mean, 0.1 * x.float().unflatten(1, (2, 4)).mean((0, 2, 3, 4)), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("size, stride", [(33, 2), (29, 1), (65, 2)])
def test_pool_is_a_strided_gaussian_convolution(size, stride, double):
    x = torch.randn(2, 3, size, size)
    taps = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * 0.66**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 5, 5)
    expected = F.conv2d(x, kernel, stride=stride, padding=2 if stride > 1 else 0, groups=3)
    torch.testing.assert_close(AntialiasedPool(size, stride)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [30, 31, 32, 33])
def test_pool_commutes_with_turns(size, double):
    pool, x = AntialiasedPool(size, 2), torch.randn(1, 2, size, size)
    torch.testing.assert_close(pool(transform(x, True, 1)), transform(pool(x), True, 1), rtol=0, atol=1e-14)
    torch.testing.assert_close(pool(torch.ones_like(x))[..., 4, 4], torch.ones(1, 2), rtol=1e-12, atol=0)


def test_mask_is_that_of_e2cnn():

    import_e2cnn()
    from e2cnn.nn.modules.masking_module import build_mask

    torch.testing.assert_close(DiskMask(129, 1.0).mask, build_mask(129, margin=1.0)[0, 0], rtol=1e-5, atol=1e-7)


# --- on plain tensors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_folded_network_is_the_same_map(head, small):
    network = build_network({"sym_group": "Dihyderal", "N": 4, "head": head, "size": 65}).double()
    network(torch.randn(4, 1, 65, 65).double())
    before = copy.deepcopy(network.state_dict())
    folded = network.eval().folded()
    torch.testing.assert_close(folded(lens(65)), network(lens(65)), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any("basis" in name for name, _ in folded.named_buffers())


def test_compiles_without_a_graph_break(small):
    network = build_network({"size": 65, "head": "orbit"})
    images, labels = torch.randn(4, 1, 65, 65), torch.tensor([0, 1, 2, 0])
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend=backend)
    losses = [F.cross_entropy(n(images), labels) for n in (network, compiled)]
    for loss in losses:
        loss.backward()
    assert len(graphs) == 1
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(network.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_copies_and_state_are_independent(small):
    network = build_network({"size": 65})
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.blocks[0].conv.weight.zero_()
    assert network.blocks[0].conv.weight.abs().sum() > 0
    assert network.train().state_dict().keys() == network.eval().state_dict().keys()
    torch.save(network, io.BytesIO())  # whole modules pickle, too


def test_state_holds_parameters_and_statistics_only():
    network = build_network({"sym_group": "Dihyderal", "N": 8, "head": "flatten"})
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert size < 30e6


def test_config_rebuilds_the_network(small):
    network = build_network(
        {"sym_group": "Dihyderal", "N": 3, "head": "rings", "size": 65, "classes": 5, "channels": 3}
    )
    twin = build_network(network.config)
    twin.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 65, 65)
    assert torch.equal(twin.eval()(images), network.eval()(images)) and network(images).shape == (2, 5)


@pytest.mark.parametrize("batch", [1, 2])
def test_trains_on_a_batch_of_one(batch, small):
    network = build_network({"size": 65, "head": "orbit"})
    network(torch.randn(batch, 1, 65, 65)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_bf16_trains(small):
    network = build_network({"size": 65, "head": "lifted"})
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(4, 1, 65, 65))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    "config, message",
    [
        ({"head": "none"}, "head"),
        ({"arch": "huge"}, "architecture"),
        ({"N": 0}, "order"),
        ({"sym_group": "SO2"}, "group"),
        ({"size": 9}, "small"),
    ],
)
def test_wrong_configurations_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_network(config)


def test_random_state_of_the_caller_is_what_counts(small):
    torch.manual_seed(5)
    first = build_network({"size": 65})
    torch.manual_seed(5)
    second = Equivariant_Network(size=65)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

"""factorised/: the dense layer's results, gradients and symmetry, without its filter bank."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

from darklens.factorised import algebra, backend, cpu, library
from darklens.factorised.algebra import working_precision
from darklens.networks import equivariant
from darklens.networks.basis import Symmetry, steerable_basis
from darklens.networks.conv import FoldedConv, SteerableConv, set_convolution
from darklens.networks.equivariant import build_network
from darklens.networks.grid import transform

GROUPS = [("Circular", 4), ("Circular", 8), ("Dihyderal", 4), ("Dihyderal", 8)]
OTHERS = [("Circular", 2), ("Circular", 6), ("Dihyderal", 1), ("Dihyderal", 3)]
SMALL = {"fields": (2, 3, 2, 3, 2, 2)}

pytestmark = pytest.mark.skipif(library.library() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def small(monkeypatch):
    """The full architecture with few fields, all of whose layers but the first are factorised."""
    monkeypatch.setitem(equivariant.ARCHITECTURES, "full", equivariant.Architecture(**SMALL))
    monkeypatch.setattr(SteerableConv, "convolution", "factorised")


@pytest.fixture(scope="module")
def bases():
    found = {}

    def basis(group: str, N: int):
        if (group, N) not in found:
            kernels = steerable_basis(Symmetry(group, N), "regular", 5)
            found[group, N] = kernels, algebra.factorise(kernels.kernels, N, group == "Dihyderal")
        return found[group, N]

    return basis


def layer(bases, group, N, fields_in, fields_out, padding, dtype=torch.float64) -> SteerableConv:
    basis, plan = bases(group, N)
    return SteerableConv(basis, fields_in, fields_out, padding, plan).to(dtype)


def run(conv: SteerableConv, kind: str, x: torch.Tensor, dy: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Output, and the gradients of input and weight."""
    set_convolution(conv, kind)
    x = x.detach().clone().requires_grad_()
    y = conv(x)
    dy = torch.ones_like(y) if dy is None else dy.to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, conv.weight), dy)]


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def used(monkeypatch) -> list:
    """Fills with the precision of each factorised convolution."""
    calls, convolve = [], cpu.convolve
    monkeypatch.setattr(cpu, "convolve", lambda x, *rest: calls.append(working_precision(x)) or convolve(x, *rest))
    return calls


# --- the same layer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group, N", [*GROUPS, *OTHERS])
@pytest.mark.parametrize("batch, size, padding", [(1, (7, 7), 0), (2, (6, 9), 2), (3, (8, 5), 1), (2, (1, 4), 2)])
def test_equals_the_dense_layer(group, N, batch, size, padding, bases, monkeypatch):
    conv, calls = layer(bases, group, N, 3, 9, padding), used(monkeypatch)
    x = torch.randn(batch, 3 * conv.shape[0], *size, dtype=torch.float64)
    dy = torch.randn_like(run(conv, "dense", x)[0])
    assert not calls
    assert worst(run(conv, "factorised", x, dy), run(conv, "dense", x, dy)) < 1e-12
    assert calls == [torch.float64]


@pytest.mark.parametrize("tile", [1, 10**5])
def test_tiles_add_up(tile, bases, monkeypatch):
    """Whatever is worked on at a time: single rows, or several images with some left over."""
    monkeypatch.setattr(algebra, "TILE", tile)
    conv = layer(bases, "Circular", 4, 2, 3, 2)
    x, dy = torch.randn(5, 8, 7, 6, dtype=torch.float64), torch.randn(5, 12, 7, 6, dtype=torch.float64)
    assert worst(run(conv, "factorised", x, dy), run(conv, "dense", x, dy)) < 1e-12


@pytest.mark.parametrize("group, N", GROUPS)
@pytest.mark.parametrize("fields", [(16, 5), (3, 24)])
def test_float32(group, N, fields, bases):
    conv = layer(bases, group, N, *fields, 2, torch.float32)
    x = torch.randn(2, fields[0] * conv.shape[0], 9, 9)
    dy = torch.randn(2, fields[1] * conv.shape[0], 9, 9)
    assert worst(run(conv, "factorised", x, dy), run(conv, "dense", x, dy)) < 1e-5


@pytest.mark.parametrize("group, N", GROUPS)
@pytest.mark.parametrize("fields", [8, 16])
def test_bf16_is_as_near_to_float64_as_the_dense_layer(group, N, fields, bases):
    conv = layer(bases, group, N, fields, 8, 2, torch.float32)
    x = torch.randn(4, fields * conv.shape[0], 21, 21).bfloat16().float()
    dy = torch.randn(4, 8 * conv.shape[0], 21, 21).bfloat16()
    exact = run(copy.deepcopy(conv).double(), "dense", x.double(), dy)
    with torch.autocast("cpu", torch.bfloat16):
        found, dense = run(conv, "factorised", x, dy), run(conv, "dense", x, dy)
    assert found[0].dtype == torch.bfloat16 and found[2].dtype == torch.float32
    for ours, theirs, truth in zip(found, dense, exact, strict=True):
        error, usual = ((t.double() - truth).norm() / truth.norm() for t in (ours, theirs))
        assert error < 2.5 * usual and error < 0.01


def test_layouts_and_missing_gradients(bases):
    """Strided inputs, images that need no gradient, frozen weights."""
    conv = layer(bases, "Dihyderal", 4, 2, 2, 2)
    set_convolution(conv, "factorised")
    x = torch.randn(2, 9, 8, 16, dtype=torch.float64).permute(0, 3, 1, 2)[:, :, 1:, ::2]
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.filters(), padding=2), rtol=1e-12, atol=1e-12)
    conv(x).square().sum().backward()
    weight, conv.weight.grad = conv.weight.grad, None
    assert torch.equal(run(conv, "factorised", x, 2 * conv(x).detach())[2], weight)
    conv.requires_grad_(False)
    x = x.clone().requires_grad_()
    conv(x).sum().backward()
    assert x.grad.abs().max() > 0 and conv.weight.grad is None


def test_bits_repeat(bases):
    conv = layer(bases, "Dihyderal", 8, 4, 8, 2, torch.float32)
    x, dy = torch.randn(3, 64, 15, 15), torch.randn(3, 128, 15, 15)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = (run(conv, "factorised", x, dy) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_steering_does_not_depend_on_threads(bases):
    """Only the matrix products may: they are PyTorch's."""
    conv, threads = layer(bases, "Circular", 8, 8, 8, 2, torch.float32), torch.get_num_threads()
    work = cpu.Work(conv.plan, torch.zeros(2, 64, 9, 9), conv.matrices(), 8, 2)
    x, slots, found = torch.randn(2, 64, 9, 9).contiguous(memory_format=torch.channels_last), work.buffer("slots"), []
    for work.threads in (1, 3):
        spectrum, back = work.spectrum(2), work.spectrum(2)
        work.analyse(x, spectrum)
        work.steer("steer", spectrum, slots, 2, (0, 9))
        work.steer("unsteer", slots, back, 2, (0, 9))
        found.append((slots.clone(), back))
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) and found[0][1].abs().max() > 0


# --- what it is made of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group, N", GROUPS)
def test_products_are_as_counted(group, N, bases):
    """11 sum d^3 over the irreps, those of C_N that are complex counted as d = 2 with one column."""
    counted = {("Circular", 4): 66, ("Circular", 8): 154, ("Dihyderal", 4): 132, ("Dihyderal", 8): 308}
    assert bases(group, N)[1].products == counted[group, N]


@pytest.mark.parametrize("N, mirrored", [(8, True), (3, True), (8, False), (6, False)])
def test_transform_makes_irreps(N, mirrored):
    """Orthogonal, and a turn multiplies each pair of lanes by a number of modulus one."""
    transform, pairs = algebra.fourier(N, mirrored)
    torch.testing.assert_close(transform @ transform.T, torch.eye(len(transform), dtype=torch.float64))
    turned = torch.arange(N).roll(1)
    turned = torch.cat((turned, N + turned)) if mirrored else turned
    turn = transform @ transform[:, turned].T
    for pair, k in enumerate(pairs):
        angle = torch.tensor(2 * torch.pi * k / N, dtype=torch.float64)
        block = turn[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2]
        expected = torch.stack((angle.cos(), angle.cos())) if mirrored or k else torch.tensor([1.0, -1.0]).double()
        torch.testing.assert_close(block.diagonal(), expected)


@pytest.mark.parametrize("group, N", [("Circular", 3), ("Circular", 1)])
def test_groups_that_do_not_factorise_stay_dense(group, N, small):
    network = build_network({"sym_group": group, "N": N, "size": 65})
    assert {block.conv.algorithm(block.conv.weight) for block in network.blocks} == {backend.DENSE}
    network(torch.randn(2, 1, 65, 65)).sum().backward()


def test_kernels_of_another_group_are_refused(bases):
    kernels = bases("Dihyderal", 4)[0].kernels
    with pytest.raises(ValueError, match="commute"):
        algebra.factorise(kernels[:, torch.randperm(8)], 4, True)


# --- in the network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group, N", GROUPS)
def test_network_is_as_equivariant(group, N, small, monkeypatch):
    network = build_network({"sym_group": group, "N": N, "head": "orbit", "size": 75}).double()
    calls, images = used(monkeypatch), torch.randn(2, 1, 75, 75, dtype=torch.float64)
    network(images)  # statistics that are not the identity
    for trial in (network.eval(), network.folded()):
        logits = trial(images)
        for element in Symmetry(group, N).exact_elements():
            assert (trial(transform(images, *element)) - logits).abs().max() <= 1e-10 * logits.abs().max()
    assert set(calls) == {torch.float64} and len(calls) > 10


def test_training_step_is_that_of_the_dense_network(small):
    dense = build_network({"sym_group": "Dihyderal", "N": 4, "size": 65}).double()
    network, images = copy.deepcopy(dense), torch.randn(3, 1, 65, 65, dtype=torch.float64)
    set_convolution(dense, "dense")
    for each in (dense, network):
        F.cross_entropy(each(images), torch.tensor([0, 1, 2])).backward()
    for ours, theirs in zip(network.parameters(), dense.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() <= 1e-10 * max(1.0, theirs.grad.abs().max().item())


@pytest.mark.parametrize("precision, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_folded_network_is_the_same_map(precision, tolerance, small):
    network = build_network({"sym_group": "Dihyderal", "N": 8, "head": "lifted", "size": 65})
    images = torch.randn(4, 1, 65, 65)
    network(images)
    folded, plain = network.eval().folded(), network.folded(plain=True)
    assert sum(isinstance(part, FoldedConv) for part in folded.modules()) == 5
    assert not any("basis" in name for name, _ in plain.named_buffers())
    with torch.inference_mode():
        logits = plain(images)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            assert (folded(images) - logits).abs().max() <= tolerance * logits.abs().max()


def test_state_and_config_do_not_know(small, monkeypatch):
    network = build_network({"sym_group": "Dihyderal", "N": 4, "size": 65})
    monkeypatch.setattr(SteerableConv, "convolution", "dense")
    dense = build_network(network.config)
    assert dense.load_state_dict(network.state_dict()) and dense.config == network.config
    again = io.BytesIO()
    torch.save(network, again)
    again.seek(0)
    twin, images = torch.load(again, weights_only=False).eval(), torch.randn(1, 1, 65, 65)
    set_convolution(twin, "factorised"), set_convolution(network, "factorised")
    assert torch.equal(twin(images), network.eval()(images))
    torch.testing.assert_close(dense.eval()(images), network(images), rtol=1e-4, atol=1e-5)


def test_auto_takes_what_is_faster():
    def chosen(group, N):
        network = build_network({"sym_group": group, "N": N, "arch": "compact"})
        return [block.conv.algorithm(block.conv.weight) == backend.LOOPS for block in network.blocks]

    assert chosen("Dihyderal", 8) == [False] + 5 * [True]
    assert chosen("Circular", 4)[:2] == [False, False]


def test_unknown_choice_is_named():
    with pytest.raises(ValueError, match="expected one of auto, dense, factorised"):
        set_convolution(torch.nn.Identity(), "sparse")


@pytest.mark.parametrize("sight", ["export", "float16"])
def test_dense_where_it_cannot_be(sight, bases, monkeypatch):
    conv, calls = layer(bases, "Circular", 4, 2, 3, 2, torch.float32), used(monkeypatch)
    set_convolution(conv, "factorised")
    x = torch.randn(2, 8, 9, 9)
    if sight == "export":
        found = torch.export.export(conv, (x,)).module()(x)
    else:
        found = conv.half()(x.half()).float()
    assert not calls and worst([found], [F.conv2d(x, conv.float().filters(), padding=2)]) < 0.01


def test_traced_while_folded(small):
    network = build_network({"sym_group": "Circular", "N": 4, "size": 65}).eval()
    folded, images = network.folded(), torch.randn(2, 1, 65, 65)
    compiled = torch.compile(folded, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), folded(images), rtol=1e-4, atol=1e-5)


def test_without_a_compiler_it_is_dense(bases, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    conv, calls = layer(bases, "Circular", 4, 2, 3, 2), used(monkeypatch)
    run(conv, "factorised", torch.randn(1, 8, 9, 9, dtype=torch.float64))
    assert not calls and not list(tmp_path.rglob("*.so"))


def test_a_broken_library_is_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", [*library.FLAGS, "-O0"])  # seconds less
    path = library._cached()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    assert library.library.__wrapped__() is not None and path.stat().st_size > 10**4

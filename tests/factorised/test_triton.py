"""The tables of Triton's kernels; the kernels in Triton's interpreter, compiled for Hopper, and on a GPU if there is.

The interpreter has to be asked for before Triton is imported, so a process of its own runs the cases: this file.
"""

import copy
import functools
import json
import os
import subprocess
import sys
import traceback

import pytest
import torch
import torch.nn.functional as F

from darklens.factorised import algebra, backend, library, triton, triton_tables
from darklens.factorised.backend import DENSE, KERNELS
from darklens.factorised.triton import FIELDS, WARPS
from darklens.networks.basis import Symmetry, steerable_basis
from darklens.networks.conv import FoldedConv, SteerableConv, set_convolution
from darklens.networks.equivariant import build_network
from darklens.networks.layers import Block
from darklens.networks.norm import FieldNormRelu

GROUPS = {"C4": ("Circular", 4), "C8": ("Circular", 8), "D4": ("Dihyderal", 4), "D8": ("Dihyderal", 8)}
OTHERS = {"C2": ("Circular", 2), "C6": ("Circular", 6), "D1": ("Dihyderal", 1), "D3": ("Dihyderal", 3)}
SINGLE, HALF, DOUBLE = torch.float32, torch.bfloat16, torch.float64
CASES = {  # group, precision, (F_in, F_out), (B, H, W), padding, tile, most outputs at a time
    "C4 in chunks and blocks": ("C4", SINGLE, (17, 9), (1, 3, 4), 2, (4, 4), 16),
    "C4 bf16, in tiles": ("C4", HALF, (2, 3), (2, 4, 5), 2, (4, 4), 128),
    "C8": ("C8", SINGLE, (2, 3), (1, 9, 11), 1, (8, 16), 128),
    "D4 float64": ("D4", DOUBLE, (3, 2), (1, 8, 9), 0, (8, 8), 128),
    "D8": ("D8", SINGLE, (2, 3), (1, 7, 10), 2, (8, 16), 128),
}

needs_triton = pytest.mark.skipif(not triton_tables.INSTALLED, reason="Triton is not installed")


def layer(name: str, fields: tuple[int, int], padding: int) -> SteerableConv:
    symmetry = Symmetry(*(GROUPS | OTHERS)[name])
    basis = steerable_basis(symmetry, "regular", 5)
    plan = algebra.factorise(basis.kernels, symmetry.N, symmetry.mirrored)
    return SteerableConv(basis, *fields, padding, plan)


def gradients(y, x, weight, dy) -> list[torch.Tensor]:
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy.to(y.dtype))]


def errors(name, precision, fields, size, padding, device="cpu") -> dict[str, list[float]]:
    """Of output, gradient of input and of weight, relative to those of a dense layer in float64: of the kernels, and of
    the dense layer in the same precision. In bf16 by norm, else the largest."""
    torch.manual_seed(0)
    conv = layer(name, fields, padding).to(device)
    conv = conv.double() if precision == DOUBLE else conv
    batch, *shape = size
    x = torch.randn(batch, fields[0] * conv.plan.order, *shape).to(device, precision).requires_grad_()
    exact, wide = copy.deepcopy(conv).double(), x.detach().double().requires_grad_()
    y = exact.dense(wide)
    dy = torch.randn(y.shape).to(device, precision)
    truth = gradients(y, wide, exact.weight, dy)

    def compare(y):
        pairs = zip(gradients(y, x, conv.weight, dy), truth, strict=True)
        order = 2 if precision == HALF else torch.inf
        norms = [[torch.linalg.vector_norm(t.double(), order) for t in (a - b, b)] for a, b in pairs]
        return [(error / size).item() for error, size in norms]

    with torch.autocast(device, precision, enabled=precision == HALF):
        found = {"kernels": compare(conv.by_kernels(x)), "dense": compare(conv.dense(x))}
        again = [gradients(conv.by_kernels(x), x, conv.weight, dy) for _ in range(2)] if device == "cuda" else [[], []]
    return found | {"repeats": all(torch.equal(a, b) for a, b in zip(*again, strict=True))}


def compiled() -> dict[str, float]:
    """Differences of a layer under torch.compile from the same without, and of a folded one from the dense layer."""
    torch.manual_seed(0)
    conv, x = layer("C4", (2, 2), 2), torch.randn(1, 8, 6, 7, requires_grad=True)
    set_convolution(conv, "factorised")
    dy = torch.randn(1, 8, 6, 7)
    expected = gradients(conv.dense(x), x, conv.weight, dy)
    called = torch.compile(conv, fullgraph=True, backend="aot_eager")
    found = gradients(called(x), x, conv.weight, dy)
    with torch.no_grad():
        folded = FoldedConv(conv, torch.tensor([2.0, 3.0]), torch.arange(8.0))
        scaled = expected[0] * torch.tensor([2.0, 3.0]).repeat_interleave(4)[:, None, None]
        difference = torch.compile(folded, fullgraph=True, backend="eager")(x) - scaled - folded.shift[:, None, None]
    errors = [(a - b).abs().max().item() for a, b in zip(found, expected, strict=True)]
    return {"compiled": max(errors), "folded": difference.abs().max().item(), "order": conv.plan.order}


def cases() -> dict:
    """All cases in the interpreter; a traceback for one that fails."""
    found = {}
    triton.DEVICES, triton_tables.TYPES = ("cuda", "cpu"), (SINGLE, HALF, DOUBLE)
    for name, (*case, triton_tables.TILE, most) in CASES.items():
        triton.WIDEST = {"mix": most, "correlate": most}
        found[name] = _tried(lambda case=case: errors(*case))
    return found | {"compile": _tried(compiled)}


def _tried(work):
    try:
        return work()
    except Exception:
        return traceback.format_exc()


@pytest.fixture(scope="module")
def interpreted() -> dict:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# --- tables ---------------------------------------------------------------------------------------------------


def expand(conv: SteerableConv, entries: torch.Tensor) -> torch.Tensor:
    """The filter bank that entries (F_out, F_in, E) stand for, by the units and the transform: float64."""
    plan, tables = conv.plan, triton_tables.tables(conv.plan.key)
    lane = {place: number for number, place in enumerate(plan.lanes)}
    entry, _ = triton_tables._numbered(plan)
    kernels = torch.zeros(*entries.shape[:2], plan.order, plan.order, 5, 5, dtype=torch.float64)
    for unit in triton_tables.units(plan):
        for number, (irrep, row, column) in enumerate(unit.places):
            for output in range(plan.irreps[irrep][2]):
                numbers = entries[..., entry[irrep, column, output], None, None]
                for harmonic, source, factor in unit.terms(number):
                    kernels[:, :, lane[irrep, row, output], source] += factor * numbers * plan.filters[harmonic]
    u = tables.transform
    bank = torch.einsum("lg,oilkyx,kh->ogihyx", u, kernels, u)  # (F_out, G, F_in, G, 5, 5)
    return bank.flatten(2, 3).flatten(0, 1)


@pytest.mark.parametrize("name", [*GROUPS, *OTHERS])
def test_units_and_adjoint_are_those_of_the_filter_bank(name):
    torch.manual_seed(0)
    conv = layer(name, (2, 3), 2).double()
    entries = (conv.weight.detach().flatten(0, 1) @ conv.mixing).unflatten(0, (3, 2))
    bank, order = conv.filters().detach(), conv.plan.order
    torch.testing.assert_close(expand(conv, entries), bank, rtol=1e-10, atol=1e-11)
    turned = entries.transpose(0, 1) @ triton_tables.tables(conv.plan.key).adjoint
    assert bank.shape == (3 * order, 2 * order, 5, 5)
    torch.testing.assert_close(expand(conv, turned), bank.transpose(0, 1).flip(2, 3), rtol=1e-10, atol=1e-11)


def test_plans_are_known_by_what_they_hold():
    first, second = layer("C4", (1, 1), 2).plan, layer("C4", (1, 1), 2).plan
    assert first.key == second.key and first.key != layer("D4", (1, 1), 2).plan.key
    state = dict(first.__dict__)
    algebra.PLANS.pop(first.key)
    copied = algebra.Factorisation.__new__(algebra.Factorisation)
    copied.__setstate__(state)  # as unpickling does
    assert algebra.PLANS[first.key] is copied


# --- choice ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A CPU without a compiler that is taken for a GPU with Triton."""
    monkeypatch.setattr(triton_tables, "INSTALLED", True)
    monkeypatch.setattr(triton, "DEVICES", ("cpu",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(library, "library", library.library.__wrapped__)  # without its cache


@pytest.mark.parametrize("choice, algorithm", [("auto", DENSE), ("dense", DENSE), ("factorised", KERNELS)])
def test_a_gpu_takes_the_kernels_only_where_they_are_asked_for(choice, algorithm, gpu):
    conv, x = layer("D8", (16, 16), 2), torch.zeros(1, 256, 5, 5)
    set_convolution(conv, choice)
    assert conv.algorithm(x) == algorithm
    block = Block(conv, FieldNormRelu(16, 16), None)
    with torch.no_grad():
        assert isinstance(block.folded()[0], FoldedConv) == (algorithm == KERNELS)


def test_what_cannot_be_is_dense(gpu, monkeypatch):
    conv, x = layer("C4", (2, 2), 2), torch.zeros(1, 8, 5, 5)
    choose = functools.partial(backend.choose, "factorised", conv.plan, (2, 2))
    assert choose(x) == KERNELS
    assert choose(x.half()) == choose(x[:0]) == DENSE and backend.choose("factorised", None, (2, 2), x) == DENSE
    monkeypatch.setattr(triton_tables, "INSTALLED", False)
    assert choose(x) == DENSE
    with pytest.raises(ValueError, match="2 x 2 pixels is too small"):
        triton.convolve(torch.zeros(1, 8, 2, 2), conv.weight, conv.mixing, conv.plan, 1)


def test_importing_starts_nothing():
    code = "import sys, darklens.networks.equivariant, torch; "
    code += "print('triton' in sys.modules or torch.cuda.is_initialized())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


# --- kernels --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_give_the_dense_layer(name, interpreted):
    found, precision = interpreted[name], CASES[name][1]
    assert isinstance(found, dict), found
    limit = {SINGLE: 1e-5, DOUBLE: 1e-12, HALF: 0.02}[precision]  # the interpreter cuts bf16 off, instead of rounding
    assert max(found["kernels"]) < limit, found
    assert found["kernels"] != found["dense"]


@pytest.mark.slow
@needs_triton
def test_compiles_in_one_graph(interpreted):
    found = interpreted["compile"]
    assert isinstance(found, dict), found
    assert found["compiled"] < 1e-4 and found["folded"] < 1e-4, found


COMPILED = {  # kernel: what the calls for 48 to 48 fields of D8 pass
    "analyse": {"ORDER": 16, "WIDE": 16, "FIELDS": 16, "BLOCK": 256},
    "synthesise": {"ORDER": 16, "WIDE": 16, "BLOCK": 256},
    "correlate": {"ORDER": 1, "CHUNKS": 3, "ROWS": 8, "COLUMNS": 8, "FIELDS": 16, "BLOCKS": 1, "WIDTH": 128},
    "mix": {"PROGRAMS": 10, "CHUNKS": 3, "ROWS": 8, "COLUMNS": 8, "FIELDS": 16, "BLOCKS": 1, "WIDTH": 128},
}
POINTERS = {"matrix": "*fp32", "sums": "*fp32", "units": "*i32", "programs": "*i32"} | dict.fromkeys(
    ("x", "y", "spectrum", "lanes", "dlanes", "weights"), "*bf16"
)
ALIGNED = "line", "image", "plane", "lane", "fields", "split_size"  # multiples of 16, which calls find out


def hopper(name: str):
    """The kernel compiled for an H200, as it is called in bf16: needs ptxas, which comes with Triton, but no GPU."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from darklens.factorised import triton_kernels

    kernel, tile = getattr(triton_kernels, name), (triton_tables.TILE, FIELDS)
    coefficients = triton_tables.tables(layer("D8", (1, 1), 2).plan.key).coefficients
    constants = {"SUM": tl.float32, "DOT": tl.bfloat16, "COEFFICIENTS": coefficients, **COMPILED[name]}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    assert tile == ((constants.get("ROWS", 8), constants.get("COLUMNS", 8)), constants.get("FIELDS", 16))
    signature = {n: "constexpr" if n in constants else POINTERS.get(n, "i32") for n in kernel.arg_names}
    aligned = [i for i, n in enumerate(kernel.arg_names) if n in POINTERS or n in ALIGNED]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    options = {"num_warps": WARPS, "num_stages": 1}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@needs_triton
@pytest.mark.parametrize(
    "name", ["correlate", *(pytest.param(n, marks=pytest.mark.slow) for n in ("analyse", "synthesise", "mix"))]
)
def test_compiles_for_hopper(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = hopper(name)
    assert found.asm["cubin"][:4] == b"\x7fELF" and found.metadata.shared < 114 * 1024  # two to a multiprocessor
    assert ("wgmma.mma_async" in found.asm["ptx"]) == (name in ("mix", "correlate"))
    assert "atom" not in found.asm["ptx"]


# --- on a GPU -------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
REAL = [(24, 48, 63, 2), (48, 96, 31, 2), (96, 64, 31, 1), (5, 130, 20, 0)]


@needs_triton
@needs_gpu
@pytest.mark.cuda
@pytest.mark.parametrize("precision", [SINGLE, HALF])
@pytest.mark.parametrize("fields_in, fields_out, size, padding", REAL)
@pytest.mark.parametrize("name", ["C4", "C8", "D4", "D8", "C6", "D3"])
def test_gpu_gives_the_dense_layer(name, fields_in, fields_out, size, padding, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = errors(name, precision, (fields_in, fields_out), (3, size, size + 2), padding, "cuda")
    limits = [1e-5] * 3 if precision == SINGLE else [min(0.01, 2.5 * error) for error in found["dense"]]
    assert all(error < limit for error, limit in zip(found["kernels"], limits, strict=True)), found
    assert found["repeats"]


@needs_triton
@needs_gpu
@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["auto", "factorised"])
def test_gpu_trains_and_folds(kind):
    torch.manual_seed(0)
    dense = build_network({"sym_group": "Dihyderal", "N": 8, "head": "orbit"}).cuda()
    network = copy.deepcopy(dense)
    set_convolution(dense, "dense"), set_convolution(network, kind)
    images, labels = torch.randn(4, 1, 129, 129, device="cuda"), torch.tensor([0, 1, 2, 0], device="cuda")
    for each in (dense, network):
        with torch.autocast("cuda", torch.bfloat16):
            F.cross_entropy(each(images).float(), labels).backward()
    for ours, theirs in zip(network.parameters(), dense.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 0.2 * theirs.grad.norm() + 1e-3
    with torch.inference_mode():
        logits = network.eval()(images)
        torch.testing.assert_close(network.folded()(images), logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())


if __name__ == "__main__":
    print(json.dumps(cases()))

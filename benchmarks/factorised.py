"""Steerable convolutions without filter banks (darklens/factorised) against dense ones and e2cnn's modules, in one run.

  python benchmarks/factorised.py                             layers of D8, C8 and C4, forward and training step
  python benchmarks/factorised.py --groups D8 --parts         where the time of a factorised layer goes
  python benchmarks/factorised.py --network --groups D8 C8    whole networks: training step and evaluation
  python benchmarks/factorised.py --network --e2cnn           with e2cnn's modules, which take half a minute a step
  python benchmarks/factorised.py --device cuda --batch 64    the same layers on a GPU (Triton)
  python benchmarks/factorised.py --device cuda --batch 64 --network --groups D8 C8

Prints milliseconds (best of the rounds, in turn, so that a busy machine slows all alike), the products counted, and
the share of the matrix-product rate measured in the same run that those products were done at. On a GPU also the
bytes that have to be moved at least, as the share of the copying rate measured in the same run, and for the training
step what the dense layer's products alone would take at the full matrix-product rate: the time to beat.
"""

import argparse
import collections
import copy
import time

import network as whole
import torch

from darklens.classifier.classifier import evaluator
from darklens.factorised import algebra, backend, cpu, library, triton_tables
from darklens.machine import autocast
from darklens.networks.basis import Symmetry, build_gspace, import_e2cnn, steerable_basis
from darklens.networks.conv import SteerableConv, set_convolution
from darklens.networks.equivariant import build_network

LAYERS = {  # of the architectures, images of 129 pixels: (size, fields in, fields out)
    "full": [(63, 24, 48), (63, 48, 48), (31, 48, 96), (31, 96, 96), (31, 96, 64)],
    "compact": [(59, 8, 12), (28, 12, 16), (28, 16, 24), (28, 24, 24), (28, 24, 16)],
}
STEERINGS = 2  # of the input in a training step: forward, and again for the gradient of the weights
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def symmetry(name: str) -> Symmetry:
    return Symmetry(whole.LETTERS[name[0]], int(name[1:]))


def rounds(works: dict, count: int, device: str) -> dict[str, float]:
    """Least milliseconds of each, taken in turn after one run of each that isn't counted."""
    times = collections.defaultdict(list)
    for number in range(count + 1):
        for name, work in works.items():
            spent = 1000 * whole.seconds(work, device)
            if number:
                times[name].append(spent)
    return {name: min(values) for name, values in times.items()}


def copy_rate(device: str) -> float:
    """Bytes per second read and written by a copy: the best of ten."""
    source = torch.ones(2**28 if device == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / min(whole.seconds(lambda: target.copy_(source), device) for _ in range(10))


def step(layer, x, dy, precision: str):
    """Forward and backward pass; x: the tensor that layer is called with, which needs gradients."""

    def work():
        with autocast(x.device, precision):
            y = layer(x)
        torch.autograd.grad(getattr(y, "tensor", y), (x, *layer.parameters()), dy)

    return work


def forward(layer, x, precision: str):
    @torch.no_grad()
    def work():
        with autocast(x.device, precision):
            layer(x)

    return work


def e2cnn_layer(name: str, fields_in: int, fields_out: int):
    """The same layer of e2cnn, from tensor to tensor, in float32 as the original runs it."""
    e2nn, space = import_e2cnn().nn, build_gspace(symmetry(name))
    kinds = [e2nn.FieldType(space, fields * [space.regular_repr]) for fields in (fields_in, fields_out)]
    conv = e2nn.R2Conv(*kinds, 5, padding=2, bias=False, initialize=False)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(e2nn.GeometricTensor(x, kinds[0])).tensor

    return Layer().train()


def layers(name: str, args) -> None:
    basis = steerable_basis(symmetry(name), "regular", 5)
    plan = algebra.factorise(basis.kernels, symmetry(name).N, symmetry(name).mirrored)
    bytes_rate = copy_rate(args.device)
    for precision in args.precisions:
        rate = whole.matmul_rate(args.device, DTYPES[precision]) / 2
        print(f"{name}: {precision} {2 * rate / 1e12:.2f} TFLOP/s, copying {bytes_rate / 1e9:.0f} GB/s", flush=True)
        for shape in LAYERS[args.arch]:
            one_layer(name, basis, plan, shape, precision, (rate, bytes_rate), args)


def one_layer(name, basis, plan, shape, precision, rates, args) -> None:
    size, fields_in, fields_out = shape
    group, batch = plan.order, args.batch
    fast = SteerableConv(basis, fields_in, fields_out, 2, plan).to(args.device)
    dense = copy.deepcopy(fast)
    set_convolution(fast, "factorised"), set_convolution(dense, "dense")
    x = torch.randn(batch, fields_in * group, size, size, device=args.device)
    x = x.to(DTYPES[precision], memory_format=torch.channels_last)
    dy = torch.randn(batch, fields_out * group, size, size, device=args.device)
    dy = dy.to(DTYPES[precision], memory_format=torch.channels_last)
    x.requires_grad_()
    both = {"dense": (dense, x, dy, precision), "factorised": (fast, x, dy, precision)}
    if args.e2cnn:
        plain = x.detach().float().requires_grad_(), dy.float()
        both["e2cnn"] = e2cnn_layer(name, fields_in, fields_out).to(args.device), *plain, "fp32"
    for kind, times in (("forward", 1), ("step", 3)):
        make = {"forward": lambda layer, x, dy, p: forward(layer, x, p), "step": step}[kind]
        found = rounds({key: make(*value) for key, value in both.items()}, args.rounds, args.device)
        pixels = batch * size**2 * fields_in * fields_out * times
        counted = {"dense": pixels * 25 * group**2, "factorised": pixels * plan.products}
        moved = {"dense": times * (x.nbytes + dy.nbytes)}
        moved["factorised"] = 3 * moved["dense"]  # and the transforms, written and read
        ending = "" if chosen(fast, x, precision) else "   (auto: dense)"
        print(line(f"{name:<4}{size}x{size} {fields_in:>3} to {fields_out:<3}{precision:<6}{kind:<9}", found, counted,
                   moved, rates, args) + ending, flush=True)  # fmt: skip
        if args.device == "cuda" and kind == "step":
            limit = 1000 * counted["dense"] / rates[0]
            print(f"    dense products alone at the full rate {limit:.2f} ms: factorised takes "
                  f"{found['factorised'] / limit:.2f} of that", flush=True)  # fmt: skip
    if args.parts:
        parts(both["factorised"], args.rounds, rates[1])


def chosen(layer: SteerableConv, x: torch.Tensor, precision: str) -> bool:
    """Whether `auto` takes the factorised layer."""
    fields_out, fields_in, _ = layer.weight.shape
    with autocast(x.device, precision):
        return backend.choose("auto", layer.plan, (fields_in, fields_out), x) != backend.DENSE


def line(title: str, found: dict, counted: dict, moved: dict, rates: tuple[float, float], args) -> str:
    """Products, time and shares of both ways, and e2cnn's time where there is one."""
    text = title
    for key, products in counted.items():
        seconds = found[key] / 1000
        text += f"{key} {products / 1e9:7.1f} G {found[key]:8.2f} ms ({100 * products / seconds / rates[0]:3.0f}%"
        if args.device == "cuda":
            text += f", {moved[key] / 1e9:.2f} GB {100 * moved[key] / seconds / rates[1]:.0f}%"
        text += ")   "
    text += f"ratio {found['dense'] / found['factorised']:5.2f}"
    if "e2cnn" in found:
        text += f"   e2cnn {found['e2cnn']:8.1f} ms, ratio {found['e2cnn'] / found['factorised']:6.2f}"
    return text


def parts(layer: tuple, count: int, bytes_rate: float) -> None:
    """Milliseconds of a training step of the layer by what they were spent on.

    Of steering also the rate of its bytes, the float32 lanes read once and 11 of each written, against that of a copy.
    """
    spent, call, product = collections.Counter(), cpu.Work.call, torch.mm

    def timed(name, work, *arguments, **options):
        start = time.perf_counter()
        found = work(*arguments, **options)
        spent[name] += 1000 * (time.perf_counter() - start)
        return found

    cpu.Work.call = lambda self, name, *rest: timed(name, call, self, name, *rest)
    torch.mm = lambda *arguments, **options: timed("matrix products", product, *arguments, **options)
    work = step(*layer)
    work(), spent.clear()
    start = time.perf_counter()
    for _ in range(count):
        work()
    spent["everything"] = 1000 * (time.perf_counter() - start)
    cpu.Work.call, torch.mm = call, product
    lanes = layer[1].numel() * (4 + algebra.FILTERS * layer[1].element_size())  # bytes, of one steering
    steered = STEERINGS * count * lanes / (spent["steer"] / 1000)
    print("    " + ", ".join(f"{name} {value / count:.1f} ms" for name, value in spent.items()), end="; ")
    print(f"steering at {steered / 1e9:.1f} GB/s, {100 * steered / bytes_rate:.0f}% of a copy", flush=True)


def networks(name: str, args) -> None:
    device = args.device
    images, labels = torch.rand(args.batch, 1, 129, 129, device=device), torch.arange(args.batch, device=device) % 3
    config = {"sym_group": symmetry(name).group, "N": symmetry(name).N, "arch": args.arch, "head": "orbit"}
    auto = build_network(config).to(device, memory_format=torch.channels_last)
    dense = copy.deepcopy(auto)
    set_convolution(dense, "dense")
    for precision in args.precisions:
        kinds = {"dense": (dense, precision), "auto": (auto, precision)}
        if args.e2cnn:
            from e2cnn_reference import E2cnnNetwork

            features = build_network(config | {"head": "flatten"}).head.squeeze.in_features
            theirs = E2cnnNetwork(symmetry(name), arch=args.arch, features=features, initialize=False)
            kinds["e2cnn"] = theirs.to(device), "fp32"
        for what in args.kinds:
            works = {}
            for key, (network, its) in kinds.items():
                if what == "train":
                    works[key] = whole.training_step(network, images, labels, device, its)
                elif key == "e2cnn":
                    works[key] = whole.evaluation(network, images, device, its)
                else:
                    works[key] = (lambda run: lambda: run(images))(evaluator(network, device, its))
            found = rounds(works, args.rounds, device)
            text = ", ".join(f"{key} {value:.{1 if device == 'cuda' else 0}f} ms" for key, value in found.items())
            ratios = ", ".join(f"{key} / auto {found[key] / found['auto']:.2f}" for key in found if key != "auto")
            print(f"{name:<4}{args.arch} {precision} {what}, batch {args.batch}: {text}; {ratios}", flush=True)


def device_name(args, parser: argparse.ArgumentParser) -> str:
    """What it runs on, if there is something to compare there."""
    if args.device == "cpu":
        if library.library() is None:
            parser.error("no C++ compiler: nothing to compare")
        return f"CPU, {torch.get_num_threads()} threads"
    if not torch.cuda.is_available() or not triton_tables.INSTALLED:
        parser.error("--device cuda: needs a GPU and Triton")
    if args.parts:
        parser.error("--parts: on a CPU only")
    return torch.cuda.get_device_name()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["D8", "C8", "C4"], metavar="C4")
    parser.add_argument("--arch", choices=LAYERS, default="full")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["bf16"])
    parser.add_argument("--kinds", nargs="+", choices=["train", "eval"], default=["train", "eval"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--network", action="store_true", help="whole networks instead of layers")
    parser.add_argument("--e2cnn", action="store_true", help="also e2cnn's modules (float32)")
    parser.add_argument("--parts", action="store_true", help="also where the time goes")
    args = parser.parse_args()
    print(f"{device_name(args, parser)}, torch {torch.__version__}")
    for name in args.groups:
        networks(name, args) if args.network else layers(name, args)


if __name__ == "__main__":
    main()

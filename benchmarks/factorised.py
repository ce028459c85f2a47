"""Steerable convolutions without filter banks (factorised.py) against dense ones and e2cnn's modules, in one run.

  python benchmarks/factorised.py                             layers of D8, C8 and C4, forward and training step
  python benchmarks/factorised.py --groups D8 --parts         where the time of a factorised layer goes
  python benchmarks/factorised.py --network --groups D8 C8    whole networks: training step and evaluation
  python benchmarks/factorised.py --network --e2cnn           with e2cnn's modules, which take half a minute a step

Prints milliseconds (best of the rounds, in turn, so that a busy machine slows all alike), the products counted, and
the share of the matrix-product rate measured in the same run that those products were done at.
"""

import argparse
import collections
import copy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import network as whole  # noqa: E402, sets the path of the rest
import torch  # noqa: E402

import factorised  # noqa: E402
from classifier import autocast, evaluator  # noqa: E402
from model import SteerableConv, build_network, set_convolution  # noqa: E402
from steerable import Symmetry, build_gspace, import_e2cnn, steerable_basis  # noqa: E402

LAYERS = {  # of the architectures, images of 129 pixels: (size, fields in, fields out)
    "full": [(63, 24, 48), (63, 48, 48), (31, 48, 96), (31, 96, 96), (31, 96, 64)],
    "compact": [(59, 8, 12), (28, 12, 16), (28, 16, 24), (28, 24, 24), (28, 24, 16)],
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def symmetry(name: str) -> Symmetry:
    return Symmetry(whole.LETTERS[name[0]], int(name[1:]))


def rounds(works: dict, count: int) -> dict[str, float]:
    """Least milliseconds of each, taken in turn after one run of each that isn't counted."""
    times = collections.defaultdict(list)
    for number in range(count + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def step(layer, x, dy, precision: str):
    """Forward and backward pass; x: the tensor that layer is called with, which needs gradients."""

    def work():
        with autocast("cpu", precision):
            y = layer(x)
        torch.autograd.grad(getattr(y, "tensor", y), (x, *layer.parameters()), dy)

    return work


def forward(layer, x, precision: str):
    @torch.no_grad()
    def work():
        with autocast("cpu", precision):
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
    plan = factorised.factorise(basis.kernels, symmetry(name).N, symmetry(name).mirrored)
    for precision in args.precisions:
        rate = whole.matmul_rate("cpu", DTYPES[precision]) / 2
        for size, fields_in, fields_out in LAYERS[args.arch]:
            one_layer(name, basis, plan, (size, fields_in, fields_out), precision, rate, args)


def one_layer(name, basis, plan, shape, precision, rate, args) -> None:
    size, fields_in, fields_out = shape
    group, batch = plan.order, args.batch
    fast = SteerableConv(basis, fields_in, fields_out, 2, plan)
    dense = copy.deepcopy(fast)
    set_convolution(fast, "factorised"), set_convolution(dense, "dense")
    x = torch.randn(batch, fields_in * group, size, size).to(DTYPES[precision], memory_format=torch.channels_last)
    dy = torch.randn(batch, fields_out * group, size, size).to(x)
    x.requires_grad_()
    both = {"dense": (dense, x, dy, precision), "factorised": (fast, x, dy, precision)}
    if args.e2cnn:
        plain = x.detach().float().requires_grad_(), dy.float()
        both["e2cnn"] = e2cnn_layer(name, fields_in, fields_out), *plain, "fp32"
    for kind, times in (("forward", 1), ("step", 3)):
        make = {"forward": lambda layer, x, dy, p: forward(layer, x, p), "step": step}[kind]
        found = rounds({key: make(*value) for key, value in both.items()}, args.rounds)
        pixels = batch * size**2 * fields_in * fields_out * times
        counted = {"dense": pixels * 25 * group**2, "factorised": pixels * plan.products}
        shares = {key: 100 * products / (found[key] / 1000 * rate) for key, products in counted.items()}
        print(
            f"{name:<4}{size}x{size} {fields_in:>3} to {fields_out:<3}{precision:<6}{kind:<9}"
            f"dense {counted['dense'] / 1e9:7.1f} G {found['dense']:8.1f} ms ({shares['dense']:3.0f}%)   "
            f"factorised {counted['factorised'] / 1e9:6.1f} G {found['factorised']:8.1f} ms "
            f"({shares['factorised']:3.0f}%)   ratio {found['dense'] / found['factorised']:5.2f}"
            + (
                f"   e2cnn {found['e2cnn']:8.1f} ms, ratio {found['e2cnn'] / found['factorised']:6.2f}"
                if args.e2cnn
                else ""
            )
            + ("" if factorised.faster(plan, fields_in, fields_out) else "   (auto: dense)"),
            flush=True,
        )
    if args.parts:
        parts(both["factorised"], args.rounds)


def parts(layer: tuple, count: int) -> None:
    """Milliseconds of a training step of the layer by what they were spent on."""
    spent, call, product = collections.Counter(), factorised.Work.call, torch.mm

    def timed(name, work, *arguments, **options):
        start = time.perf_counter()
        found = work(*arguments, **options)
        spent[name] += 1000 * (time.perf_counter() - start)
        return found

    factorised.Work.call = lambda self, name, *rest: timed(name, call, self, name, *rest)
    torch.mm = lambda *arguments, **options: timed("matrix products", product, *arguments, **options)
    work = step(*layer)
    work(), spent.clear()
    start = time.perf_counter()
    for _ in range(count):
        work()
    spent["everything"] = 1000 * (time.perf_counter() - start)
    factorised.Work.call, torch.mm = call, product
    print("    " + ", ".join(f"{name} {value / count:.1f} ms" for name, value in spent.items()), flush=True)


def networks(name: str, args) -> None:
    images, labels = torch.rand(args.batch, 1, 129, 129), torch.arange(args.batch) % 3
    config = {"sym_group": symmetry(name).group, "N": symmetry(name).N, "arch": args.arch, "head": "orbit"}
    auto = build_network(config).to(memory_format=torch.channels_last)
    dense = copy.deepcopy(auto)
    set_convolution(dense, "dense")
    for precision in args.precisions:
        kinds = {"dense": (dense, precision), "auto": (auto, precision)}
        if args.e2cnn:
            from e2cnn_reference import E2cnnNetwork

            features = build_network(config | {"head": "flatten"}).head.squeeze.in_features
            kinds["e2cnn"] = E2cnnNetwork(symmetry(name), arch=args.arch, features=features, initialize=False), "fp32"
        for what in args.kinds:
            works = {}
            for key, (network, its) in kinds.items():
                if what == "train":
                    works[key] = whole.training_step(network, images, labels, "cpu", its)
                elif key == "e2cnn":
                    works[key] = whole.evaluation(network, images, "cpu", its)
                else:
                    works[key] = (lambda run: lambda: run(images))(evaluator(network, "cpu", its))
            found = rounds(works, args.rounds)
            text = ", ".join(f"{key} {value:.0f} ms" for key, value in found.items())
            ratios = ", ".join(f"{key} / auto {found[key] / found['auto']:.2f}" for key in found if key != "auto")
            print(f"{name:<4}{args.arch} {precision} {what}, batch {args.batch}: {text}; {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["D8", "C8", "C4"], metavar="C4")
    parser.add_argument("--arch", choices=LAYERS, default="full")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["bf16"])
    parser.add_argument("--kinds", nargs="+", choices=["train", "eval"], default=["train", "eval"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", action="store_true", help="whole networks instead of layers")
    parser.add_argument("--e2cnn", action="store_true", help="also e2cnn's modules (float32)")
    parser.add_argument("--parts", action="store_true", help="also where the time goes")
    args = parser.parse_args()
    if factorised.library() is None:
        parser.error("no C++ compiler: nothing to compare")
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in args.groups:
        networks(name, args) if args.network else layers(name, args)


if __name__ == "__main__":
    main()

"""Our network against the same network of e2cnn modules (fp32, eager: what the original runs), in one run.

  python benchmarks/network.py                          C4 and D8 on the device there is
  python benchmarks/network.py --groups C4 C8 D4 D8 --rounds 5 --resnet
  python benchmarks/network.py --memory                 peak memory of a training step, each in its own process
  python benchmarks/network.py --epoch 96               an epoch from files on disk to weights, C4

The two are timed in turn, so that a busy machine slows both. Prints images/s (best of the rounds), the ratio, the
rate of the dense network's arithmetic, and its share of the matrix-product rate measured in the same run: above 100%
where layers work without their filter banks (factorised.py).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from darklens.classifier.classifier import evaluator
from darklens.data import batches as data_batches
from darklens.data import folder as data_folder
from darklens.data import transforms
from darklens.machine import autocast
from darklens.networks.basis import GROUPS, Symmetry
from darklens.networks.conv import set_convolution
from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet
from darklens.simulation import recipes, writer

LETTERS = {letter: name for name, letter in GROUPS.items()}


def ours(group: str):
    network = build_network({"sym_group": LETTERS[group[0]], "N": int(group[1:]), "head": "flatten"})
    return network.to(memory_format=torch.channels_last)


def reference(group: str):
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from e2cnn_reference import E2cnnNetwork

    return E2cnnNetwork(Symmetry(LETTERS[group[0]], int(group[1:])))


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Products and sums per second of a large square matrix product: the best of ten."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def seconds(work, device: str) -> float:
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    sync()
    start = time.perf_counter()
    work()
    sync()
    return time.perf_counter() - start


def training_step(network, images, labels, device, precision, compiled=False):
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-5, weight_decay=1e-5)
    forward = torch.compile(network, fullgraph=True) if compiled else network

    def step():
        network.train()
        with autocast(device, precision):
            logits = forward(images)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return step


def evaluation(network, images, device, precision):
    if hasattr(network, "folded"):
        run = evaluator(network, device, precision)
        return lambda: run(images)
    network.train().eval()  # e2cnn expands its filters when it leaves training

    def plain():
        with torch.inference_mode(), autocast(device, precision):
            network(images)

    return plain


def operations(network, size: int, device: str) -> float:
    """Products and sums of one image's way through the dense network."""
    plain = network.folded(plain=True) if hasattr(network, "folded") else network.eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        plain(torch.zeros(1, 1, size, size, device=device))
    return counter.get_total_flops()


def compare(group: str, args, device: str, peak: dict) -> list[dict]:
    rows, batch = [], args.batch or (2 if device == "cpu" else 64)
    images, labels = torch.rand(batch, 1, 129, 129, device=device), torch.arange(batch, device=device) % 3
    theirs = (
        reference(group).to(device)
        if group != "ResNet-18"
        else build_resnet({"channels": 1, "classes": 3, "size": 129})
    )
    theirs = theirs.to(device)
    mine = ours(group).to(device) if group != "ResNet-18" else theirs
    flops = operations(mine, 129, device)
    set_convolution(mine, args.conv)
    for precision in args.precisions:
        fast = images.contiguous(memory_format=torch.channels_last)
        works = {
            "train": (training_step(theirs, images, labels, device, "fp32"),
                      training_step(mine, fast, labels, device, precision, args.compile)),
            "eval": (evaluation(theirs, images, device, "fp32"), evaluation(mine, fast, device, precision)),
        }  # fmt: skip
        for kind in args.kinds:
            old, new = works[kind]
            old(), new(), new()
            times = [(seconds(old, device), seconds(new, device)) for _ in range(args.rounds)]
            slow, quick = (batch / min(column) for column in zip(*times, strict=True))
            rate = flops * quick * (3 if kind == "train" else 1)
            rows.append({"network": group, "what": kind, "precision": precision, "reference": slow, "ours": quick,
                         "ratio": quick / slow, "tflops": rate / 1e12, "share": rate / peak[precision]})  # fmt: skip
            print(
                f"{group:<10}{kind:<7}{precision:<6}reference {slow:9.2f} img/s   ours {quick:9.2f} img/s   "
                f"ratio {quick / slow:5.2f}   {rate / 1e9:9.0f} GFLOP/s = {100 * rate / peak[precision]:.0f}% of peak",
                flush=True,
            )
    return rows


def peak_memory(group: str, side: str, precision: str, batch: int, device: str) -> float:
    """MB above the state before the first step, in this process."""
    network = (reference(group) if side == "reference" else ours(group)).to(device)
    images, labels = torch.rand(batch, 1, 129, 129, device=device), torch.arange(batch, device=device) % 3
    step = training_step(network, images, labels, device, precision)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step(), step()
        return torch.cuda.max_memory_allocated() / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(), step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def memory(args, device: str) -> None:
    for group in args.groups:
        found = {}
        for side, precision in (("reference", "fp32"), ("ours", "bf16"), ("ours", "fp32")):
            command = [sys.executable, __file__, "--peak", group, side, precision, str(args.batch or 16)]
            found[side, precision] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        base = found["reference", "fp32"]
        for key, value in found.items():
            print(f"{group:<6}{key[0]:<11}{key[1]:<6}{value:9.0f} MB   ratio {value / base:5.2f}", flush=True)


def original_batches(paths, labels, batch):
    """The original's input: one process, image over maximum, 8 bits, crop, three resampling turns by Pillow."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for start in range(0, len(paths), batch):
        rows = []
        for path in paths[start : start + batch]:
            image = np.load(path).astype(float)
            picture = Image.fromarray((255 * image / image.max()).astype(np.uint8))
            y, x = rng.integers(0, image.shape[0] - 128 + 1, 2)
            picture = picture.crop((x, y, x + 128, y + 128)).resize((387, 387), Image.BILINEAR)
            picture = picture.rotate(rng.uniform(0, 360), Image.BILINEAR).resize((129, 129), Image.BILINEAR)
            rows.append(torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None])
        yield torch.stack(rows), torch.from_numpy(labels[start : start + batch])


def epoch(args, device: str) -> None:
    """A training epoch from files on disk to weights: the original's pipeline and network, then ours."""
    with tempfile.TemporaryDirectory() as folder:
        count = max(1, args.epoch // 3)
        writer.write_dataset(folder, recipes.RECIPES["f"], {"train": count, "val": 1}, quiet=True)
        data = data_folder.scan(folder)
        split, size = data.splits["train"], args.batch or 8

        def old():
            network = reference("C4").to(device)
            optimiser = torch.optim.Adam(network.parameters(), lr=5e-5, weight_decay=1e-5)
            start = time.perf_counter()
            paths = list(map(split.images.path, range(len(split))))
            for images, labels in original_batches(paths, split.labels, size):
                optimiser.zero_grad()
                F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
                optimiser.step()
            return time.perf_counter() - start

        def new():
            network = ours("C4").to(device)
            set_convolution(network, args.conv)
            optimiser = torch.optim.Adam(network.parameters(), lr=5e-5, weight_decay=1e-5, fused=True)
            start = time.perf_counter()
            batches = data_batches.Batches(
                split, data, transforms.default_preprocess(150), size, device, train=True, progress=False
            )
            for batch in batches.epoch():
                with autocast(device, "bf16"):
                    logits = network(batch.images.contiguous(memory_format=torch.channels_last))
                optimiser.zero_grad()
                F.cross_entropy(logits.float(), batch.labels).backward()
                optimiser.step()
            return time.perf_counter() - start

        slow, quick = old(), new()
    print(f"epoch of {3 * count} images, C4: original {slow:.1f} s, ours {quick:.1f} s, ratio {slow / quick:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["C4", "D8"], metavar="C4")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--kinds", nargs="+", default=["train", "eval"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--conv", default="auto", choices=("auto", "dense", "factorised"))
    parser.add_argument("--resnet", action="store_true", help="also ResNet-18, against itself in fp32")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--epoch", type=int, default=0, metavar="IMAGES")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="also write the rows there")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak:
        group, side, precision, batch = args.peak
        print(peak_memory(group, side, precision, int(batch), device))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}")
    if args.memory or args.epoch:
        memory(args, device) if args.memory else epoch(args, device)
        return
    peak = {"bf16": matmul_rate(device, torch.bfloat16), "fp32": matmul_rate(device, torch.float32)}
    print("matrix product: " + ", ".join(f"{key} {value / 1e9:.0f} GFLOP/s" for key, value in peak.items()))
    rows = [row for group in args.groups + ["ResNet-18"] * args.resnet for row in compare(group, args, device, peak)]
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

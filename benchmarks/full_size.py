"""Everything at the published size: simulate, train, test, and write RESULTS.md. One GPU; can be stopped anywhere.

  python benchmarks/full_size.py --minutes 9            as far as 9 minutes go; call it again to go on
  python benchmarks/full_size.py --only f-C8 j-C8       these networks first
  python benchmarks/full_size.py --arch compact --train 40 --val 10 --test 10 --epochs 1 --out toy     on a CPU
  python benchmarks/full_size.py --arch compact --view residual --transfer --networks D4 ResNet-18     docs/residual.md

Simulates Model F and Model J (25,000 training images a class, 2,500 to pick the best epoch and 2,500 to report),
then trains the baseline with the original's recipe, which shows how hard our images are beside the published ones, and
every network with the fast recipe. What is finished is never done again; a network that was stopped goes on where it
was. All runs lie in OUT/runs/DATA-NETWORK-SEED, with the log and the figures of each.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from darklens.networks.equivariant import build_network
from darklens.networks.resnet import build_resnet

ROOT = Path(__file__).resolve().parents[1]

NETWORKS = ("C4", "C8", "D4", "D8", "ResNet-18")
PUBLISHED = {  # original's README: micro AUC of raw logits; AUC no, sphere, vort; best accuracy %
    "f": {
        "C4": (0.9969, 0.9986, 0.9942, 0.9986, 97.75),
        "C8": (0.9984, 0.9991, 0.9976, 0.9995, 98.63),
        "D4": (0.9982, 0.9994, 0.9969, 0.9994, 98.43),
        "D8": (0.9979, 0.9988, 0.9964, 0.9991, 97.93),
        "ResNet-18": (0.9942, 0.9969, 0.9845, 0.9974, 97.00),
    },
    "j": {
        "C4": (0.9929, 0.9942, 0.9868, 0.9954, 95.76),
        "C8": (0.9950, 0.9958, 0.9887, 0.9966, 96.35),
        "D4": (0.9947, 0.9956, 0.9895, 0.9970, 96.81),
        "D8": (0.9961, 0.9962, 0.9914, 0.9986, 96.89),
        "ResNet-18": (0.9848, 0.9920, 0.9632, 0.9908, 93.49),
    },
}
UNFINISHED = 75  # exit status: call again


@dataclass(frozen=True)
class Job:
    """One network to train."""

    data: str
    network: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.network}{'-seed-recipe' * (self.recipe == 'original')}-{self.seed}"

    def flags(self, args: argparse.Namespace) -> list[str]:
        letter, order = self.network[0], self.network[1:]
        groups = {"C": "Circular", "D": "Dihyderal"}
        kind = (
            ["--use_CNN"]
            if self.network == "ResNet-18"
            else ["--sym_group", groups[letter], "--N", order, "--arch", args.arch]
        )
        kind += ["--view", args.view] if args.view else []
        epochs = args.baseline_epochs if self.recipe == "original" else args.epochs
        return [*kind, "--recipe", self.recipe, "--seed", str(self.seed), "--epochs", str(epochs)]


def jobs(args: argparse.Namespace) -> list[Job]:
    """The baseline's calibration, then each network, both data sets, seed by seed."""
    baseline = [Job(data, "ResNet-18", "original", 0) for data in args.data]
    fast = [
        Job(data, network, "fast", seed)
        for seed in range(args.seeds)
        for network in args.networks
        for data in args.data
    ]
    wanted = baseline + fast
    first = [job for job in wanted if any(job.name.startswith(text) for text in args.only)]
    return first or wanted


class Clock:
    """What is left of the minutes that this call may take."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")

    def run(self, command: list[str]) -> None:
        """Run a program of ours; stop it, which saves its state, when the time is up. Raises SystemExit then."""
        process = subprocess.Popen([sys.executable, *command])
        try:
            status = process.wait(min(self.end - time.monotonic(), 1e6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise SystemExit(UNFINISHED) from None
        if status:
            raise SystemExit(status)


def simulate(args: argparse.Namespace, clock: Clock, data: str) -> None:
    counts = [text for split in ("train", "val", "test") for text in (f"--{split}", str(getattr(args, split)))]
    start = time.monotonic()
    folder = str(args.out / f"images_{data}")
    clock.run([str(ROOT / "simulate.py"), "--model", data, "--out", folder, "--quiet", *counts])
    print(f"Model {data.upper()}: images at hand after {time.monotonic() - start:.0f} s", flush=True)


def folder_of(job: Job, args: argparse.Namespace) -> Path | None:
    found = sorted((args.out / "runs" / job.name).glob("*/*/run.json"))
    return found[-1].parent if found else None


def finished(folder: Path | None) -> dict | None:
    path = folder and folder / "metrics.json"
    return json.loads(path.read_text()) if path and path.exists() else None


def train(job: Job, args: argparse.Namespace, clock: Clock) -> None:
    """Train and test one network, or go on with it."""
    folder, results = folder_of(job, args), ["--results_dir", str(args.out / "runs" / job.name)]
    if finished(folder):
        return
    print(f"== {job.name}", flush=True)
    main = [str(ROOT / "main.py"), "--quiet", *results]
    if folder:
        clock.run([*main, "--resume", "latest"])
    else:
        clock.run([*main, "--data_dir", str(args.out / f"images_{job.data}"), *job.flags(args)])


def transfer(job: Job, args: argparse.Namespace, clock: Clock) -> None:
    """Test a network, as it is, on the other data sets."""
    folder = folder_of(job, args)
    for other in (data for data in args.data if data != job.data):
        if not finished(folder / f"test_images_{other}"):
            data = ["--data_dir", str(args.out / f"images_{other}")]
            clock.run([str(ROOT / "main.py"), "--quiet", "--mode", "Test", "--test_time", str(folder), *data])


# --- the table ------------------------------------------------------------------------------------------------


def operations_of(found: dict, device: str) -> float:
    """Products and sums of one training image in the dense network."""
    from network import operations

    config = {key: value for key, value in found["network"].items() if key != "kind"}
    network = (build_resnet if found["network"]["kind"] == "resnet" else build_network)(config)
    return 3 * operations(network.to(device), config["size"], device)


def row(name: str, runs: list[dict], peak: float, device: str) -> str:
    """One line of the table: means over the seeds, the interval that of the first."""

    def mean(*keys: str, scale: float = 1) -> str:
        values = []
        for run in runs:
            value = run
            for key in keys:
                value = value[key]
            values.append(scale * value)
        spread = f" ± {statistics.stdev(values):.{2 if scale > 1 else 4}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{2 if scale > 1 else 4}f}{spread}"

    low, high = runs[0]["auc"]["macro"]["interval"]
    per_class = " / ".join(mean("auc", "per_class", key, "value") for key in ("no", "sphere", "vort"))
    rate = statistics.mean(run["timing"]["training_images_per_second"] for run in runs)
    minutes = statistics.mean(run["timing"]["training_seconds"] for run in runs) / 60
    share = 100 * rate * operations_of(runs[0], device) / peak
    return (
        f"| {name} | {len(runs)} | {mean('auc', 'macro', 'value')} [{low:.4f}, {high:.4f}] | "
        f"{mean('auc', 'micro', 'value')} | {per_class} | {mean('accuracy', scale=100)} | {minutes:.1f} | {rate:.0f} | "
        f"{share:.0f}% |"
    )


def published(data: str, network: str) -> str:
    micro, no, sphere, vort, accuracy = PUBLISHED[data][network]
    return f"| {network}, published | 1 | | {micro:.4f} | {no:.4f} / {sphere:.4f} / {vort:.4f} | {accuracy} | | | |"


def section(data: str, args: argparse.Namespace, peak: float, device: str) -> list[str]:
    lines = [f"## Model {data.upper()}", "", HEADER, "|---|---|---|---|---|---|---|---|---|"]
    for network in NETWORKS:
        for recipe in ("original", "fast"):
            all_jobs = [Job(data, network, recipe, seed) for seed in range(args.seeds)]
            runs = [found for job in all_jobs if (found := finished(folder_of(job, args)))]
            if runs:
                lines.append(row(f"{network}, {recipe} recipe", runs, peak, device))
        lines.append(published(data, network))
    return [*lines, "", *transferred(data, args)]


def transferred(data: str, args: argparse.Namespace) -> list[str]:
    """A table of networks trained on other data sets, tested on this one."""
    found = {job: finished(folder_of(job, args)) and folder_of(job, args) for job in jobs(args) if job.data != data}
    found = {job: finished(folder / f"test_images_{data}") for job, folder in found.items() if folder}
    lines = [
        f"| {job.network} of Model {job.data.upper()}, seed {job.seed} | {run['auc']['macro']['value']:.4f} "
        f"[{run['auc']['macro']['interval'][0]:.4f}, {run['auc']['macro']['interval'][1]:.4f}] | "
        f"{100 * run['accuracy']:.2f} |"
        for job, run in found.items()
        if run
    ]
    head = [f"Trained elsewhere, tested on Model {data.upper()} as they are:", "", "| network | macro AUC [95%] | % |"]
    return [*head, "|---|---|---|", *lines, ""] if lines else []


HEADER = (
    "| network | seeds | macro AUC [95%] | micro AUC | AUC no / sphere / vort | accuracy % | training min | images/s | "
    "share |"
)
PREFACE = """# Results

Written by `python benchmarks/full_size.py` from the `metrics.json` of each run. The best epoch is chosen on `val`, the
figures are those of `test`: {train} images to train on, {val} and {test} for the others, a class. Published figures are
the original's, on its own images, best of the epochs on the very images that are reported, and its micro AUC is over
raw logits. Arch {arch}, {device}, {peak:.0f} GFLOP/s in a bf16 matrix product. "Share": of that rate, the products of
the dense network counted, so that factorised layers may pass 100%. ± is the standard deviation over the seeds.
"""


def write_table(args: argparse.Namespace) -> Path:
    """RESULTS.md of what is finished."""
    import torch
    from network import matmul_rate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    peak = matmul_rate(device, torch.bfloat16)
    values = {key: f"{getattr(args, key):,}" for key in ("train", "val", "test")}
    lines = [PREFACE.format(arch=args.arch, device=name, peak=peak / 1e9, **values)]
    for data in args.data:
        lines += section(data, args, peak, device)
    path = args.out / "RESULTS.md"
    path.write_text("\n".join(lines))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("full_size"))
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; status 75: call again (0: never)")
    parser.add_argument("--only", nargs="*", default=[], metavar="DATA-NETWORK", help="as f-C8: just these")
    parser.add_argument("--data", nargs="+", choices=("f", "j"), default=["f", "j"])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arch", choices=("full", "compact"), default="full")
    parser.add_argument("--view", choices=("image", "residual", "both"), help="what the networks see (as main.py)")
    parser.add_argument("--transfer", action="store_true", help="also test each network on the other data sets")
    parser.add_argument("--epochs", type=int, default=15, help="with the fast recipe (15)")
    parser.add_argument("--baseline_epochs", type=int, default=30, help="of ResNet-18 with the original's recipe (30)")
    for split, count in {"train": 25_000, "val": 2_500, "test": 2_500}.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"images a class ({count})")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(args.minutes)
    try:
        for data in args.data:
            simulate(args, clock, data)
        for job in jobs(args):
            train(job, args, clock)
        for job in jobs(args) if args.transfer else ():
            transfer(job, args, clock)
    finally:
        print(f"written: {write_table(args)}")


if __name__ == "__main__":
    main()

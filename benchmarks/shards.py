"""What do shards gain over a folder of files, and does memory stay flat where a data set outgrows it?

  python benchmarks/shards.py                                   # 82,500 images of 150 x 150: 7.5 GB, some minutes
  python benchmarks/shards.py --images 2000 --work small   # --work keeps the data for another time

Writes noise as single files, packs it, and reads both in training's shuffled order: as whole batches (cut, augmented,
standardised), and read and checked alone. Each figure is from a process of its own that streams the images itself, cold
(files dropped from the page cache, but not their names and inodes: that takes root) or warm. Then the shards are
repeated ten times by hard links, and the anonymous memory of a process that reads from them is compared. Linux only.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from darklens.data import pack
from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.packed import FORMAT, INDEX, VERSION, seal, sha256_of
from darklens.data.transforms import default_preprocess

CLASSES = "no", "sphere", "vort"


def write_folder(folder: Path, images: int, size: int) -> Path:
    """Noise, ten of eleven images in train; what is in them does not matter to those who read them."""
    dice = np.random.default_rng(0)
    stock = dice.poisson(100, (64, size, size)).astype("u2")
    for split, count in (("train", images * 10 // 33), ("val", images // 33)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                np.save(folder / split / name / f"{i:06}.npy", stock[i % 64] + np.uint16(i % 999))
    return folder


def drop(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def anonymous() -> int:
    """Bytes of memory of this process that are no file's."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("Anonymous:")).split()[1])


def warm(folder: Path) -> None:
    """Read every file once."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes() if path.stat().st_size < 2**20 else sha256_of(path)


def read(folder: str, most: int, whole: bool) -> dict[str, float]:
    """In this process: seconds until the first batch is there, then images/s; bytes of anonymous memory.

    whole: take batches as training does; else only have the images read, checked and stacked.
    """
    before, start = anonymous(), time.perf_counter()
    data = scan(folder)
    options = {"train": True, "workers": 0, "memory_limit": 0, "progress": False}
    batches = Batches(data.splits["train"], data, default_preprocess(data.size), 64, **options)
    order = batches._order(0)
    chunks = (order[i : i + 64] for i in range(0, len(order), 64))
    epoch = (batch.indices for batch in batches.epoch()) if whole else (batches._reader[chunk][0] for chunk in chunks)
    next(epoch)
    first, done = time.perf_counter(), 0
    for batch in epoch:
        done += len(batch)
        if done >= most:
            break
    rate = done / (time.perf_counter() - first)
    return {"start": first - start, "rate": rate, "memory": anonymous() - before, "images": len(order)}


def measure(folder: Path, most: int, whole: bool) -> dict[str, float]:
    """`read` in a process of its own."""
    command = [sys.executable, __file__, "--read", folder, "--most", most, *["--whole"] * whole]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def repeat(source: Path, target: Path, times: int) -> Path:
    """The same shards several times, as hard links. (Labels no longer belong to the images: nobody asks here.)"""
    target.mkdir()
    index = json.loads((source / INDEX).read_text())["index"]
    for split, entry in index["splits"].items():
        count = len(entry["shards"])
        for k in range(count * times):
            os.link(source / f"{split}-{k % count:05}.npy", target / f"{split}-{k:05}.npy")
        entry["shards"] *= times
        entry["counts"] = [n * times for n in entry["counts"]]
        entry["names"] = [f"{i:09}.npy" for n in entry["counts"] for i in range(n)]
        entry["crc32"] *= times
    whole = {"format": FORMAT, "version": VERSION, "sha256": seal(index), "index": index}
    (target / INDEX).write_text(json.dumps(whole))
    return target


def compare(folder: Path, shards: Path, most: int) -> None:
    """Print start-up and rates of both, cold and warm."""
    for state, prepare in (("cold", drop), ("warm", warm)):
        for whole, what in ((False, "read and checked"), (True, "as batches")):
            found = []
            for source in (folder, shards):
                prepare(source)
                found.append(measure(source, most, whole))
            a, b = found
            print(
                f"{state}, {what}: first batch after {a['start']:.2f} s, shards {b['start']:.2f} s "
                f"({a['start'] / b['start']:.1f} x); {a['rate']:.0f} images/s, shards {b['rate']:.0f} "
                f"({b['rate'] / a['rate']:.1f} x); {a['memory'] / 2**20:.0f} MiB, shards {b['memory'] / 2**20:.0f}",
                flush=True,
            )


def compare_memory(shards: Path, most: int) -> None:
    """Print anonymous memory at one and ten times the size."""
    with tempfile.TemporaryDirectory(dir=shards.parent) as here:
        for times in (1, 10):
            found = measure(repeat(shards, Path(here) / str(times), times), most, False)
            print(
                f"{found['images']} images in train: first batch after {found['start']:.2f} s, {found['rate']:.0f} "
                f"images/s, {found['memory'] / 2**20:.1f} MiB of anonymous memory beyond the program's own",
                flush=True,
            )


def prepare(work: Path, images: int, size: int) -> tuple[Path, Path]:
    """The folder and its shards, made where they are not there yet."""
    folder, shards = work / "images_noise", work / "shards_noise"
    if not shards.exists():
        start = time.perf_counter()
        write_folder(folder, images, size)
        written = time.perf_counter()
        print(pack.pack(folder, shards))
        print(f"written in {written - start:.0f} s, packed in {time.perf_counter() - written:.0f} s", flush=True)
    return folder, shards


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=82_500)
    parser.add_argument("--size", type=int, default=150, help="pixels along a side (150)")
    parser.add_argument("--most", type=int, default=10_000, help="images over which a rate is measured (10000)")
    parser.add_argument(
        "--work", type=Path, help="folder for the data, kept (default: one in the current folder, removed)"
    )
    parser.add_argument("--only", choices=("prepare", "rates", "memory"), help="one of the parts")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read, options.most, options.whole)))
        return
    with tempfile.TemporaryDirectory(dir=".") as here:
        work = options.work or Path(here)
        work.mkdir(exist_ok=True)
        folder, shards = prepare(work, options.images, options.size)
        if options.only in (None, "rates"):
            compare(folder, shards, options.most)
        if options.only in (None, "memory"):
            compare_memory(shards, options.most)


if __name__ == "__main__":
    main()

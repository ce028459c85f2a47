"""Lens images: find, check, normalise, augment; `images` reads the single file.

    folder = scan("images_f")                                  # train/<class>/*.npy, val/<class>/*.npy
    batches = Batches(folder.splits["train"], folder, default_preprocess(folder.size), 64, train=True)
    for images, labels, indices in batches.epoch(3):           # (B, C, S, S) float32, (B,), (B,)
        ...

Every problem is a `DataError` of one line that names the file or folder. Images in other formats, or in class
folders that are not split yet, such as the later DeepLense data sets, become such a folder by

    python dataset.py convert SRC DST

and a data set of very many images is packed into a few large files (see shards.py), which `scan` takes as well, by

    python dataset.py pack SRC DST

Training cuts a random window of whole pixels and turns and flips it, so that no pixel is ever resampled and
the noise stays what it was; evaluation always takes the same central window. What happens to image i in epoch
e depends on (seed, e, i) alone: not on the batch size, the number of workers, or whether the images come from
memory or from disk.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from images import MIN_SIZE as MIN_SIZE
from images import DataError, read_image, read_shape
from shards import Packed, is_packed, open_shards

CROP = 129  # pixels: the input of the network, for images at least that large
SPLITS = {"train": True, "val": True, "test": False}  # name -> required
LAYOUT = "train/<class>/*.npy and val/<class>/*.npy with the same classes, two or more"


# --- find ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """The files of one split, in alphabetical order of class, then of name; `Packed` if they lie in shards."""

    name: str
    paths: Sequence[Path]
    labels: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class LensFolder:
    """A data set on disk: what `scan` found. `skipped` counts the stray files and folders it passed over."""

    root: Path
    classes: tuple[str, ...]
    channels: int
    size: int  # pixels along a side
    splits: dict[str, Split]
    skipped: int


def scan(data_dir: str | Path) -> LensFolder:
    """Find the images under `data_dir`; reads one header, no pixels, and lists each folder once. Takes shards too.

    Raises DataError when a folder is missing or empty, or when the splits hold different classes.
    """
    root = Path(data_dir)
    if not os.path.exists(root):
        if root.suffix:
            raise DataError(f"{root}: no such folder; expected the one with train/ and val/ in it")
        raise DataError(
            f"{root}: no such folder. Make one with `python simulate.py --model f --out {root} --train 25000 "
            f"--val 2500`, or download the published images, see README.md"
        )
    if is_packed(root):
        return _scan_shards(root)
    found, _ = _list(root, _is_folder)
    missing = [name for name, required in SPLITS.items() if required and name not in found]
    if missing:
        hint = f"; `python dataset.py convert {root} DST` makes them from class folders"
        raise DataError(f"{root}: expected {LAYOUT}; no folder {' or '.join(missing)} here, {_contents(root)}{hint}")
    names = [name for name in SPLITS if name in found]
    listings = {name: _list(root / name, _is_folder) for name in names}
    classes = _common_classes(root, {name: listing[0] for name, listing in listings.items()})
    skipped, splits = sum(strays for _, strays in listings.values()), {}
    for name in names:
        splits[name], strays = _find_images(root / name, classes)
        skipped += strays
    channels, size = read_shape(splits["train"].paths[0])
    return LensFolder(root, classes, channels, size, splits, skipped)


def _scan_shards(root: Path) -> LensFolder:
    classes, channels, size, packed = open_shards(root)
    splits = {name: Split(name, images, images.labels) for name, images in packed.items()}
    return LensFolder(root, classes, channels, size, splits, 0)


def _list(folder: Path, keep: Callable[[os.DirEntry], bool]) -> tuple[list[str], int]:
    """Sorted names of the entries of `folder` to keep, and the number of the others."""
    try:
        with os.scandir(folder) as entries:
            verdicts = [(entry.name, keep(entry)) for entry in entries]
    except OSError as error:
        advice = "; expected the folder with train/ and val/ in it" if isinstance(error, NotADirectoryError) else ""
        raise DataError(f"{folder}: cannot list this folder ({error.strerror or error}){advice}") from None
    names = sorted(name for name, kept in verdicts if kept)
    return names, len(verdicts) - len(names)


def _is_folder(entry: os.DirEntry) -> bool:
    """True for a folder that may be a split or class: not hidden, no link to a folder that it lies in."""
    try:
        if entry.name.startswith((".", "__")) or not entry.is_dir():
            return False
    except OSError:  # a link to itself
        return False
    here = Path(os.path.realpath(os.path.dirname(entry.path)))
    return not (entry.is_symlink() and here.is_relative_to(os.path.realpath(entry.path)))


def _is_image(entry: os.DirEntry) -> bool:
    """True for a file `*.npy` that is not hidden; a link that leads nowhere is none."""
    try:
        return entry.name.endswith(".npy") and not entry.name.startswith(".") and entry.is_file()
    except OSError:
        return False


def _contents(folder: Path) -> str:
    """What a folder holds, for error messages: 'found: a, b, c and 7 more'."""
    names, _ = _list(folder, lambda entry: True)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"found: {', '.join(names[:5]) or 'nothing'}{more}"


def _common_classes(root: Path, classes: dict[str, list[str]]) -> tuple[str, ...]:
    """The class names, once all splits agree on them. classes: split name -> its class folders."""
    train = classes["train"]
    for name, names in classes.items():
        if not names:
            raise DataError(f"{root / name}: expected {LAYOUT}; no class folders here, {_contents(root / name)}")
        left = ", ".join(sorted(set(train) - set(names))) or "none"
        right = ", ".join(sorted(set(names) - set(train))) or "none"
        if names != train:
            raise DataError(
                f"{root}: train and {name} must hold the same classes; only in train: {left}; only in {name}: {right}"
            )
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: expected two or more class folders, found one: {train[0]}")
    return tuple(train)


def _find_images(folder: Path, classes: Sequence[str]) -> tuple[Split, int]:
    """The split in `folder`, and the number of strays passed over."""
    paths, counts, skipped = [], [], 0
    for name in classes:
        files, strays = _list(folder / name, _is_image)
        if not files:
            raise DataError(f"{folder / name}: expected .npy images in this class folder, {_contents(folder / name)}")
        paths += [folder / name / file for file in files]
        counts.append(len(files))
        skipped += strays
    return Split(folder.name, tuple(paths), np.repeat(np.arange(len(classes)), counts).astype(np.int64)), skipped


# --- normalise ----------------------------------------------------------------------------------------------

KNEE = 0.1  # asinh: linear below this fraction of the brightest pixel, logarithmic above (our choice)
EPSILON = 1e-6  # of the brightest pixel: what varies less is rounding error, or constant, and becomes zeros

STRETCHES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of images whose largest |pixel| is 1
    "none": lambda x: x,
    "sqrt": lambda x: x.sign() * x.abs().sqrt(),  # evens out the Poisson noise
    "asinh": lambda x: torch.asinh(x / KNEE) / math.asinh(1 / KNEE),
    "original": lambda x: (x * 255).floor() / 255,  # 8 bits
}


@dataclass(frozen=True)
class Preprocess:
    """What turns pixels into the input of a network: `preprocess(images)`.

    crop: side of the output, odd, so that the window has a central pixel to turn about
    stretch: a key of STRETCHES
    standardise: to zero mean and unit standard deviation, per image, over the crop and all channels together

    The stretch "original" repeats what the 2021 network was trained on: each image over its maximum, cut to
    8 bits, a window of crop - 1 pixels, then one row of zeros below and one column to the right. (Negative
    pixels become 0.) Multiplying an image by a positive number changes nothing, but for rounding.
    """

    crop: int = CROP
    stretch: str = "sqrt"
    standardise: bool = True

    def __post_init__(self) -> None:
        if type(self.crop) is not int or self.crop < 1 or self.crop % 2 == 0:
            raise DataError(f"preprocess: expected an odd number of pixels as crop, found {self.crop!r}")
        if self.stretch not in STRETCHES:
            raise DataError(f"preprocess: expected stretch to be one of {', '.join(STRETCHES)}, found {self.stretch!r}")
        if type(self.standardise) is not bool:
            raise DataError(f"preprocess: expected standardise to be True or False, found {self.standardise!r}")

    @property
    def window(self) -> int:
        """Pixels along a side that are cut from the image."""
        return self.crop - (self.stretch == "original")

    def to_dict(self) -> dict[str, int | str | bool]:
        """Plain values, for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, int | str | bool]) -> Preprocess:
        """The inverse of `to_dict`. Raises DataError for unknown, missing or wrong entries."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise DataError(f"preprocess: expected the keys {sorted(expected)}, found {sorted(map(str, values))}")
        return cls(**values)

    def __call__(self, images: torch.Tensor, offsets: np.ndarray | torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) of any real type -> (B, C, crop, crop) float32, on the same device.

        offsets: (B, 2) first row and column of each image's window; None: the central one. Raises DataError
        when the images are smaller than the window.
        """
        images = images if images.dtype == torch.float64 else images.float()
        if self.stretch == "original":  # in float64, as there; the maximum is that of the whole image
            images = _unit(images.double().clamp_min(0))
            window = F.pad(STRETCHES["original"](_crop(images, self.window, offsets)), (0, 1, 0, 1)).float()
        else:
            window = STRETCHES[self.stretch](_unit(_crop(images, self.window, offsets)).float())
        return _standardise(window) if self.standardise else window


# For the checkpoints published in 2021
ORIGINAL = Preprocess(crop=CROP, stretch="original", standardise=False)


def default_preprocess(size: int) -> Preprocess:
    """Square root, standardised, 129 pixels or the largest odd number that `size` pixels hold."""
    return Preprocess(crop=min(CROP, size - 1 + size % 2))


def _crop(images: torch.Tensor, window: int, offsets: np.ndarray | torch.Tensor | None) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, window, window), from each image's own offset (B, 2), or from the centre."""
    spare = images.shape[-1] - window
    if spare < 0:
        raise DataError(f"preprocess: expected images of {window} pixels or more, found {images.shape[-1]}")
    if offsets is None:
        return images[..., spare // 2 : spare // 2 + window, spare // 2 : spare // 2 + window]
    offsets = torch.as_tensor(offsets)
    if offsets.numel() and not 0 <= int(offsets.min()) <= int(offsets.max()) <= spare:
        raise DataError(f"preprocess: expected window offsets from 0 to {spare}")
    rows, columns = offsets.to(images.device).unbind(1)
    windows = images.unfold(2, window, 1).unfold(3, window, 1)  # a view: (B, C, row, column, window, window)
    return windows[torch.arange(len(images), device=images.device), :, rows, columns]


def _unit(images: torch.Tensor) -> torch.Tensor:
    """Each image of (B, C, H, W) over its largest |pixel|, so that no later step over- or underflows."""
    scale = images.abs().amax(dim=(1, 2, 3), keepdim=True)
    return images / torch.where(scale > 0, scale, torch.ones_like(scale))


def _standardise(images: torch.Tensor) -> torch.Tensor:
    """Each image of (B, C, S, S), largest |pixel| about 1, to zero mean and unit standard deviation."""
    images = images - images.mean(dim=(1, 2, 3), keepdim=True)
    spread = images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(spread > EPSILON, images / spread, torch.zeros_like(images))


# --- augment ------------------------------------------------------------------------------------------------


def _hash(*words: int | np.ndarray) -> np.ndarray:
    """64 random bits for each tuple of integers (arrays broadcast): SplitMix64, chained.

    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        word = np.atleast_1d(np.asarray(word % 2**64 if isinstance(word, int) else word)).astype(np.uint64)
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def draw_augmentation(
    seed: int, epoch: int, indices: np.ndarray, span: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What happens to each image in an epoch, a function of (seed, epoch, index) alone.

    indices: (B,) positions in the split; span: the largest offset of a window, image size - window.
    Returns offsets (B, 2) int64 uniform on 0..span, turns (B,) int64 on 0..3, flips (B,) bool, on the CPU.
    """
    rows, columns, pose = (_hash(seed, epoch, np.asarray(indices), word) for word in (1, 2, 3))
    offsets = np.stack([rows, columns], axis=1) % np.uint64(span + 1)
    turns, flips = pose % np.uint64(4), (pose >> np.uint64(2)) % np.uint64(2)
    return tuple(torch.from_numpy(x) for x in (offsets.astype(np.int64), turns.astype(np.int64), flips == 1))


def augment(images: torch.Tensor, turns: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror (left-right) the images (B, C, S, S) where `flips` (B,), then turn by `turns` (B,) quarters.

    Exact: a permutation of each image's pixels, the noise is untouched. Counter-clockwise, as torch.rot90.
    """
    turns, flips = (torch.as_tensor(x, device=images.device)[:, None, None, None] for x in (turns, flips))
    images = torch.where(flips, images.flip(-1), images)
    images = torch.where(turns % 2 == 1, images.rot90(1, (2, 3)), images)
    return torch.where(turns >= 2, images.rot90(2, (2, 3)), images)


# --- batches ------------------------------------------------------------------------------------------------

THREADS = 16  # readers that fill the memory: they wait for the disk, not for the processor
HELD = (signal.SIGINT, signal.SIGTERM)


class Batch(NamedTuple):
    """Images (B, C, S, S) float32, labels (B,) int64, both on the device; indices (B,) int64, on the CPU."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class Batches:
    """The batches of one split, shuffled and augmented for training, in file order and as they are otherwise.

    Images that fit in `memory_limit` bytes (default: half of what is available) are read once, by threads;
    others are streamed from disk in every epoch by `workers` processes (0: in this one). Same bits in both.

    shift: pixels by which a training crop may be off centre in x and y (None: as far as the image goes).
    share: which of a batch's images this process takes, by their number, where there are others (None: all).

    labels: (n,) int64, of the whole split; in_memory: whether the images are; warnings: one line if some of
    the images read so far are constant, else nothing. Raises DataError, here or in `epoch`, for a bad file.
    """

    def __init__(
        self,
        split: Split,
        folder: LensFolder,
        preprocess: Preprocess,
        batch_size: int,
        device: str | torch.device = "cpu",
        train: bool = False,
        seed: int = 0,
        workers: int | None = None,
        memory_limit: int | None = None,
        progress: bool = True,
        shift: int | None = None,
        share: Callable[[int], slice] | None = None,
    ):
        if folder.size < preprocess.window:
            raise DataError(
                f"{folder.root}: expected images of {preprocess.window} pixels or more, found {folder.size}"
            )
        self.split, self.labels, self.preprocess = split, split.labels, preprocess
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.device, self.share = torch.device(device), share
        self.workers = min(8, _processors()) if workers is None else workers
        self.spare = folder.size - preprocess.window
        self.span = self.spare if shift is None else min(self.spare, 2 * shift)
        self._reader = _Reader(split.paths, folder.channels, folder.size)
        self._constant: set[int] = set()
        self._store = self._load(available_memory() // 2 if memory_limit is None else memory_limit, progress)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def in_memory(self) -> bool:
        return self._store is not None

    @property
    def warnings(self) -> list[str]:
        if not self._constant:
            return []
        number, total, first = len(self._constant), len(self.split.paths), self.path(min(self._constant))
        return [f"{first}: all pixels are equal, as in {number} of {total} {self.split.name} images"]

    def path(self, index: int) -> Path:
        """The file of an image, by its index in the split."""
        return self.split.paths[int(index)]

    @property
    def identity(self) -> dict[str, str | int]:
        """What decides the images, beside the names of the files and the seed."""
        return {}

    def count(self, number: int) -> int:
        """Images in the batch of that number, those that other processes take among them."""
        return min(self.batch_size, len(self.labels) - number * self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on, those before it not even read."""
        order = self._order(epoch)
        starts = range(start * self.batch_size, len(order), self.batch_size)
        chunks = [order[i : i + self.batch_size] for i in starts]
        if self.share:
            chunks = [chunk[self.share(len(chunk))] for chunk in chunks]
        source = self._take(chunks) if self.in_memory else self._stream(chunks)
        for indices, pixels in zip(chunks, source, strict=True):
            labels = torch.from_numpy(self.labels[indices % len(self.labels)]).to(self.device)
            images = self._prepare(pixels.to(self.device), epoch, indices)
            yield Batch(images, labels, torch.from_numpy(indices))

    def _order(self, epoch: int) -> np.ndarray:
        """(n,) int64: the order of the images; in training, that of the hashes of (seed, epoch, index)."""
        indices = np.arange(len(self.labels), dtype=np.int64)
        return np.argsort(_hash(self.seed, epoch, indices, 0), kind="stable") if self.train else indices

    def _prepare(self, pixels: torch.Tensor, epoch: int, indices: np.ndarray) -> torch.Tensor:
        """(B, C, H, W) as read -> (B, C, S, S) float32, augmented in training."""
        if not self.train:
            return self.preprocess(pixels)
        offsets, turns, flips = draw_augmentation(self.seed, epoch, indices, self.span)
        offsets = offsets + (self.spare - self.span) // 2
        return augment(self.preprocess(pixels, offsets), turns, flips)

    def _load(self, limit: int, progress: bool) -> torch.Tensor | None:
        """All images (n, C, H, W) in the first one's number type, else in float32; None if too large."""
        first, _ = self._reader.read(0)
        for dtype in dict.fromkeys([first.dtype, np.dtype(np.float32)]):
            if len(self.split.paths) * first.size * dtype.itemsize > limit:
                return None
            store = np.empty((len(self.split.paths), *first.shape), dtype)
            if self._fill(store, progress):
                return _place(torch.from_numpy(store), self.device)
        return None

    def _fill(self, store: np.ndarray, progress: bool) -> bool:
        """Read every image into `store`, in parallel; False if its number type can't hold one exactly."""

        def read(indices: range) -> bool:
            for index in indices:
                image, constant = self._reader.read(index)
                if not np.can_cast(image.dtype, store.dtype):
                    return False
                store[index] = image
                self._constant.update([index] if constant else [])
            return True

        blocks = [range(i, min(i + 32, len(store))) for i in range(0, len(store), 32)]
        quiet = None if progress else True  # None: quiet where there is no terminal
        bar = tqdm(total=len(store), desc=f"reading {self.split.name}", unit="img", disable=quiet)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            tasks = [pool.submit(read, block) for block in blocks]
            try:
                for task, block in zip(tasks, blocks, strict=True):
                    if not task.result():
                        return False
                    bar.update(len(block))
                return True
            finally:
                pool.shutdown(cancel_futures=True)

    def _take(self, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, C, H, W) from memory, for each chunk of indices."""
        store = self._store.view(torch.int16) if self._store.dtype == torch.uint16 else self._store
        for indices in chunks:
            yield store[torch.from_numpy(indices).to(store.device)].view(self._store.dtype)

    def _stream(self, chunks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """(B, C, H, W) from disk, for each chunk of indices."""
        for pixels in self._ahead(chunks):
            yield torch.from_numpy(pixels)

    def _ahead(self, chunks: Sequence[np.ndarray]) -> Iterator:
        """What the reader has for each chunk of indices, read ahead by worker processes."""
        loader = DataLoader(
            self._reader,
            sampler=chunks,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_unchanged,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # its own: the program's random numbers stay where they are
        )
        try:
            for result in _start(loader):  # no name for it: dropped, it ends its processes
                if isinstance(result, DataError):
                    raise result
                self._constant.update(result[1])
                yield result[0]
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.split.name}: a process reading images died ({reason}); use fewer") from error


class _Reader(Dataset):
    """Reads batches of files; errors are returned, since a DataLoader makes pages of those raised."""

    def __init__(self, paths: Sequence[Path], channels: int, size: int):
        self.paths, self.channels, self.size = paths, channels, size

    def read(self, index: int) -> tuple[np.ndarray, bool]:
        """The image (C, H, W) in a number type of at most four bytes, and whether it's constant."""
        packed = isinstance(self.paths, Packed)
        image = self.paths.read(index) if packed else read_image(self.paths[index], self.channels, self.size)
        return _compact(image), bool(image.min() == image.max())

    def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, list[int]] | DataError:
        """(B, C, H, W), and which of the indices (B,) are constant images."""
        if not len(indices):
            return np.empty((0, self.channels, self.size, self.size), np.float32), []
        if isinstance(self.paths, Packed):
            self.paths.expect(indices)
        try:
            images, constant = zip(*(self.read(index) for index in indices), strict=True)
        except DataError as error:
            return error
        return np.stack(images), [int(index) for index, flat in zip(indices, constant, strict=True) if flat]


def _compact(image: np.ndarray) -> np.ndarray:
    """An image in a type that float32 holds exactly, so that it matters nowhere in which of them it's kept.

    float64 is scaled by a power of two to a maximum of about 1, since float32 ends at 1e38; to `Preprocess`
    that makes no difference.
    """
    if image.dtype.itemsize <= 2 or image.dtype == np.float32:
        return image
    if image.dtype.kind == "f":
        image = np.ldexp(image, -np.frexp(np.abs(image).max())[1])
    return image.astype(np.float32)


def _place(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a GPU if they leave three quarters of its free memory to the network, else where they are."""
    if device.type == "cuda" and images.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
        return images.to(device)
    return images


def _unchanged(item: object) -> object:
    return item


def _start(loader: DataLoader) -> Iterator:
    """Start worker processes with signals held back until `_outlive_signals` has made them ready.

    Puts back the SIGCHLD handler that torch replaces: its own raises the error of a dead worker in the middle
    of whatever runs. Without it, the next batch fails, within seconds.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    mask, handler = signal.pthread_sigmask(signal.SIG_BLOCK, HELD), signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes: the main one decides, its workers serve on.

    They obey SIGTERM from the main process alone, which is how Python ends those left over at exit. (Where a
    system, such as macOS, doesn't tell the sender, they obey any.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        parent = multiprocessing.parent_process().pid
        threading.Thread(target=_obey, args=(parent,), daemon=True).start()  # `_start` still holds SIGTERM back
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _obey(parent: int) -> None:
    """End this process when its parent says so, or was killed: torch's own watch is not enough, since a worker that
    has a batch in a pipe which nobody reads any more waits for ever."""
    while os.getppid() == parent:
        told = signal.sigtimedwait([signal.SIGTERM], 2)  # seconds
        if told and told.si_pid == parent:
            break
    os._exit(0)


# --- the machine --------------------------------------------------------------------------------------------


def available_memory() -> int:
    """Bytes that this process may still take, of the machine and of its container or batch job."""
    return max(0, min([_machine_memory(), *_group_memory()]))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _machine_memory() -> int:
    """What Linux calls available; elsewhere half of what is built in, or 4 GiB where that isn't known."""
    if match := re.search(r"MemAvailable:\s*(\d+) kB", _read_text("/proc/meminfo")):
        return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _group_memory() -> Iterator[int]:
    """What each control group (cgroup v2, then v1) that this process is in has left, parents too."""
    kinds = [("", "memory.max", "anon"), ("memory", "memory.limit_in_bytes", "total_rss")]
    for controllers, path in re.findall(r"^\d+:(.*?):(/.*)$", _read_text("/proc/self/cgroup"), re.MULTILINE):
        for controller, limit, used in kinds:
            group = Path("/sys/fs/cgroup", controller, path.lstrip("/"))
            for folder in [group, *group.parents] if controller in controllers.split(",") else []:
                bound = _read_text(folder / limit).strip()
                taken = re.search(rf"^{used} (\d+)$", _read_text(folder / "memory.stat"), re.MULTILINE)
                if bound.isdigit():
                    yield int(bound) - int(taken[1] if taken else 0)


# --- command line -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """`dataset.py convert SRC DST`, `pack SRC DST`, `verify SHARDS`: see convert.py and pack.py. Returns the status."""
    parser = argparse.ArgumentParser(prog="dataset.py", description="Prepare a data set: see `dataset.py COMMAND -h`.")
    parser.add_argument("command", choices=["convert", "pack", "verify"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="SRC DST, and options")
    args = parser.parse_args(arguments)
    if args.command == "convert":
        import convert

        return convert.main(args.arguments, "dataset.py convert")
    import pack

    return pack.main([args.command, *args.arguments], "dataset.py")


if __name__ == "__main__":
    sys.exit(main())

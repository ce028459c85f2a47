"""The views of a data set, made once and kept beside it: what its images are to a network that sees residuals.

    folder = open_views(scan("images_j"), ("train", "val"), preprocess)     # a LensFolder of views (C, S, S)

Files: DATA_DIR/views/KEY/SPLIT-00000.npy, ..., plain arrays (n, C, S, S) of float16 that NumPy opens, in the order of
the split; SPLIT-00000.json, written after its array: the array's SHA-256, which images these are views of (a stamp of
their files, and a hash of their pixels), which of them had NaN at their edges, and the table of the fits. KEY says what
they were made with: the preprocessing, the smooth lens, the version of the fit.

A part that is damaged is made again; so is what an interruption left out (of slow fits a few images:
view_pieces.py). Where the files are not those that were seen last, their pixels are read and compared with the hash: a
copied data set keeps its views, replaced images don't. Where nothing can be written beside the images, views go to the
user's cache, or to the folder that LENS_VIEWS_DIR names.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from darklens.data.folder import LensFolder, Split
from darklens.data.image import fingerprint
from darklens.data.provenance import true_start
from darklens.data.reader import FILLED, Reader, read_ahead
from darklens.data.residual import VIEW_VERSIONS
from darklens.data.source import ImageSource, Pixels
from darklens.data.transforms import Preprocess
from darklens.data.view_pieces import Piece, folder_of, load_piece, save_piece
from darklens.errors import DataError, ResultsError
from darklens.machine import usable_cores, user_cache
from darklens.storage.files import cannot_write, npy_bytes, read_json, save_json, write
from darklens.storage.progress import progress

FOLDER, VARIABLE = "views", "LENS_VIEWS_DIR"
THREADS = 8  # that compare pixels


class Sizes(NamedTuple):
    """Images of a file; images that a process fits at a time."""

    part: int
    chunk: int


SIZES = {"sersic": Sizes(1024, 16), "flexible": Sizes(256, 4)}  # by the source, as the time of a fit has it


class Views(ImageSource):
    """The views (C, S, S) float16 of a split, under the names of its images."""

    is_view = True

    def __init__(self, images: ImageSource, shape: tuple[int, int, int], parts: list[Path], part_size: int):
        self.images, self.folder, self.shape, self.parts = images, images.folder, shape, parts
        self.part_size = part_size
        self._open: dict[int, tuple[np.ndarray, set[int]]] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}

    @property
    def originals(self) -> ImageSource:
        return self.images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def read(self, index: int, window: int | None = None) -> Pixels:
        number, row = divmod(index, self.part_size)
        if number not in self._open:
            part = self.parts[number]
            filled = read_json(part.with_suffix(".json")).get("filled", [])
            self._open[number] = np.load(part, mmap_mode="r", allow_pickle=False), set(filled)
        views, filled = self._open[number]
        return Pixels(np.array(views[row]), index in filled)

    def stamp(self, indices: range) -> str:
        return self.images.stamp(indices)

    def fits(self) -> dict[str, list]:
        """The table of the fits (`Fit.table`), one entry an image."""
        tables = [read_json(part.with_suffix(".json"))["fits"] for part in self.parts]
        return {name: [value for table in tables for value in table[name]] for name in tables[0]}


class _Viewer(Dataset):
    """Makes the views of images, by their numbers; errors are returned."""

    def __init__(self, reader: Reader, preprocess: Preprocess, start: np.ndarray | None, training: bool):
        self.reader, self.preprocess, self.start, self.training = reader, preprocess, start, training

    def __getitem__(self, indices: np.ndarray) -> "Piece | DataError":
        result = self.reader[indices]
        if isinstance(result, DataError):
            return result
        try:
            start = None if self.start is None else self.start[indices]
            images = torch.from_numpy(result[0].astype(np.float64))
            view, fits = self.preprocess.with_fit(images, start, training=self.training)
        except DataError as error:
            return error
        filled = [index for remark, index in result[1] if remark == FILLED]
        return Piece(view.half().numpy(), fits.table(), [fingerprint(image) for image in result[0]], filled)


def open_views(
    data: LensFolder,
    names: Sequence[str],
    preprocess: Preprocess,
    workers: int | None = None,
    show: bool = True,
) -> LensFolder:
    """The folder's splits of these names, as views; those that are not there yet are made (`make_views`)."""
    for _ in make_views(data, names, preprocess, workers, show):
        pass
    channels, splits = preprocess.channels(data.channels), {}
    for split in (split for name, split in data.splits.items() if name in names):
        shape, parts = (channels, preprocess.crop, preprocess.crop), _parts(data, split.name, preprocess)
        splits[split.name] = replace(split, images=Views(split.images, shape, parts, _sizes(preprocess).part))
    return replace(data, channels=channels, size=preprocess.crop, splits=splits)


def make_views(
    data: LensFolder, names: Sequence[str], preprocess: Preprocess, workers: int | None = None, show: bool = True
) -> Iterator[bool]:
    """Make what is missing of the views of these splits, on all cores; yields True after each file of them.

    workers: processes (None: one a core). Raises DataError for a bad image, ResultsError where nothing can be kept.
    """
    preprocess.channels(data.channels)
    if data.size < preprocess.crop:
        raise DataError(f"{data.root}: expected images of {preprocess.crop} pixels or more, found {data.size}")
    workers = usable_cores() if workers is None else workers
    for split in (split for name, split in data.splits.items() if name in names):
        yield from _make(data, split, preprocess, workers, show)


def _source(preprocess: Preprocess) -> str:
    return preprocess.smooth_model.source if preprocess.smooth_model else "sersic"


def _sizes(preprocess: Preprocess) -> Sizes:
    return SIZES[_source(preprocess)]


def _parts(data: LensFolder, name: str, preprocess: Preprocess) -> list[Path]:
    folder, count, step = view_folder(data.root, preprocess), len(data.splits[name]), _sizes(preprocess).part
    return [folder / f"{name}-{start // step:05d}.npy" for start in range(0, count, step)]


def network_inputs(source: ImageSource, indices: Iterable[int], preprocess: Preprocess) -> torch.Tensor:
    """What a network sees (m, C, S, S) float32 of some images of a split, by their numbers; not augmented.

    Raises DataError for a bad file.
    """
    images = (torch.tensor(source.read(int(i), preprocess.window).values) for i in indices)
    if source.is_view:
        return torch.stack(list(images)).float()
    return torch.cat([preprocess(image[None]) for image in images])


def fit_table(split: Split) -> dict[str, list]:
    """The table of the fits (`Fit.table`) behind a split of views, one entry an image."""
    if not isinstance(split.images, Views):
        raise TypeError(f"{split.name}: expected views")
    return split.images.fits()


def view_folder(root: Path, preprocess: Preprocess) -> Path:
    """Where the views of the data set at `root` are kept; its name tells what they are made with.

    In $LENS_VIEWS_DIR; else beside the images, or in the user's cache where nothing can be written there. Raises
    ResultsError where there is no such cache either.
    """
    recipe = {"preprocess": preprocess.to_dict(), "version": VIEW_VERSIONS[_source(preprocess)]}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder, elsewhere = Path(root) / FOLDER / key, os.environ.get(VARIABLE)
    if not elsewhere and (folder.is_dir() or os.access(root, os.W_OK)):
        return folder
    name = f"{Path(root).name}-{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}"
    try:
        return (Path(elsewhere) if elsewhere else user_cache() / FOLDER) / name / key
    except RuntimeError:
        raise ResultsError(
            f"{root}: cannot be written, and there is no home folder to keep the residuals of these images in: set "
            f"{VARIABLE}, or XDG_CACHE_HOME, to a folder that can be written"
        ) from None


def _make(data: LensFolder, split: Split, preprocess: Preprocess, workers: int, show: bool) -> Iterator[bool]:
    """Make the parts that are missing, damaged, or of other images."""
    parts, (step, chunk) = _parts(data, split.name, preprocess), _sizes(preprocess)
    spans = [range(i, min(i + step, len(split))) for i in range(0, len(split), step)]
    shape = (preprocess.channels(data.channels), preprocess.crop, preprocess.crop)
    stamps = [split.images.stamp(span) for span in spans]
    reader = Reader(split.images, preprocess.window)
    todo = [k for k, part in enumerate(parts) if not _is_good(part, shape, stamps[k], reader, spans[k])]
    if not todo:
        return
    chunks = {k: [range(i, min(i + chunk, spans[k].stop)) for i in spans[k][::chunk]] for k in todo}
    kept = {c.start: piece for k in todo for c in chunks[k] if (piece := _kept(parts[k], c, split, preprocess))}
    missing = [np.asarray(c) for k in todo for c in chunks[k] if c.start not in kept]
    start = true_start(data, split, preprocess.smooth_model) if preprocess.smooth_model else None
    viewer = _Viewer(reader, preprocess, start, split.name == "train")
    results = read_ahead(viewer, missing, min(workers, len(missing)), split.name)
    with progress(sum(map(len, missing)), f"fitting {split.name}", quiet=not show) as bar, _writing(parts[0].parent):
        for k in todo:
            pieces: list[Piece] = []
            for images in chunks[k]:
                piece = kept.pop(images.start, None)
                if piece is None:
                    piece = next(results)
                    bar.update(len(images))
                    if _is_slow(preprocess):
                        save_piece(parts[k], images.start, piece, split.images.stamp(images))
                pieces.append(piece)
            _save(parts[k], pieces, stamps[k])
            shutil.rmtree(folder_of(parts[k]), ignore_errors=True)
            yield True


def _is_slow(preprocess: Preprocess) -> bool:
    """Whether the fits of a file are worth keeping one by one."""
    return preprocess.view == "flexible"


def _kept(part: Path, images: range, split: Split, preprocess: Preprocess) -> Piece | None:
    """What an interrupted program has made of some images."""
    return load_piece(part, images.start, split.images.stamp(images)) if _is_slow(preprocess) else None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder; where it cannot be written, say how views go elsewhere."""
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        yield
    except ResultsError as error:
        raise ResultsError(f"{error}: set {VARIABLE} to a folder for the residuals of the images") from None


def _save(part: Path, pieces: list[Piece], stamp: str) -> None:
    content = npy_bytes(np.concatenate([piece.views for piece in pieces]))
    write(part, content)
    record = {
        "sha256": _digest(content),
        "stamp": stamp,
        "pixels": _combined(mark for piece in pieces for mark in piece.fingerprints),
        "filled": [index for piece in pieces for index in piece.filled],
        "fits": {name: np.concatenate([piece.table[name] for piece in pieces]) for name in pieces[0].table},
    }
    save_json(part.with_suffix(".json"), record)


def _is_good(part: Path, shape: tuple[int, ...], stamp: str, reader: Reader, span: range) -> bool:
    """Whether a part is intact, and of these images. Raises DataError for one that cannot be read."""
    record = read_json(part.with_suffix(".json"))
    if "stamp" not in record or not _is_intact(part, record, shape):
        return False
    if record["stamp"] == stamp:
        return True
    if record.get("pixels") != _pixels(reader, span):
        return False
    with suppress(ResultsError):  # a folder that is only read: they are compared again next time
        save_json(part.with_suffix(".json"), record | {"stamp": stamp})
    return True


def _pixels(reader: Reader, span: range) -> str:
    """A hash of the pixels of some images, as the fit sees them."""
    with ThreadPoolExecutor(THREADS) as pool:
        return _combined(pool.map(lambda index: fingerprint(reader.read(index)[0]), span))


def _combined(fingerprints: Iterable[str]) -> str:
    return _digest("\n".join(fingerprints).encode())


def _is_intact(part: Path, record: dict, shape: tuple[int, ...]) -> bool:
    try:
        intact = record.get("sha256") == _digest(part.read_bytes())
        return intact and np.load(part, mmap_mode="r", allow_pickle=False).shape[1:] == shape
    except (OSError, ValueError):
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""dataset.py against what its docstrings promise: bad folders, bits, statistics."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from darklens import machine
from darklens.data import transforms
from darklens.data.batches import Batches
from darklens.data.folder import scan
from darklens.data.image import read_image
from darklens.data.transforms import ORIGINAL, STRETCHES, Preprocess, augment, default_preprocess, draw_augmentation
from darklens.errors import DataError

SIZE = 34  # even, so that the crop of 33 has two places to be in


def picture(seed: int, shape: tuple[int, ...] = (SIZE, SIZE), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(300, shape).astype(dtype)


def make_folder(root: Path, train: int = 7, val: int = 3, classes=("no", "sphere", "vort"), **image) -> Path:
    """A data set of `train` and `val` images per class, each different."""
    for split, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * number + 10 * i + (split == "val")
                np.save(folder / f"{split}_{i:03}.npy", picture(seed, **image))
    return root


def open_batches(root: Path, split: str = "train", batch_size: int = 4, **options) -> Batches:
    folder = scan(root)
    options = {"preprocess": default_preprocess(folder.size), "workers": 2, "progress": False} | options
    return Batches(folder.splits[split], folder, batch_size=batch_size, **options)


def assert_one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert str(part) in message


def assert_same(batches, others) -> None:
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


# --- find ---------------------------------------------------------------------------------------------------


def test_scan_finds_classes_labels_and_paths_in_order(tmp_path):
    folder = scan(make_folder(tmp_path / "images_f"))
    assert folder.classes == ("no", "sphere", "vort")
    assert (folder.channels, folder.size, folder.skipped) == (1, SIZE, 0)
    train = folder.splits["train"]
    assert train.labels.dtype == np.int64 and train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert list(train.paths) == sorted(train.paths)
    assert [folder.classes[label] for label in train.labels] == [path.parent.name for path in train.paths]
    assert list(folder.splits) == ["train", "val"]


@pytest.mark.parametrize("classes", [("b", "A"), ("axion", "cdm", "no_sub", "Élan")])
def test_any_class_names_in_plain_sorted_order(tmp_path, classes):
    assert scan(make_folder(tmp_path, 1, 1, classes)).classes == tuple(sorted(classes))


def test_test_split_is_optional_and_must_match(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "test").mkdir()
    for name in ("no", "sphere"):
        (tmp_path / "test" / name).symlink_to(tmp_path / "val" / name)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, "only in train: vort", "only in test: none")
    (tmp_path / "test" / "vort").symlink_to(tmp_path / "val" / "vort")
    assert len(scan(tmp_path).splits["test"].paths) == 9


def test_strays_are_skipped_and_counted(tmp_path):
    clean = scan(make_folder(tmp_path))
    folder = tmp_path / "train" / "no"
    strays = [
        ".DS_Store",
        "._train_000.npy",
        "Thumbs.db",
        "manifest.json",
        "parameters.csv",
        "x.npy.part",
        "y.NPZ",
    ]
    for name in strays:
        (folder / name).write_bytes(b"stray")
    (folder / "nested.npy").mkdir()
    (folder / "loop.npy").symlink_to(folder / "loop.npy")
    (folder / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"stray")
    (tmp_path / "train" / "around").symlink_to(tmp_path / "train")
    (tmp_path / "val" / "above").symlink_to(tmp_path)
    (tmp_path / "val" / "itself").symlink_to(tmp_path / "val" / "itself")
    found = scan(tmp_path)
    assert found.classes == clean.classes
    assert found.splits["train"].paths == clean.splits["train"].paths
    assert found.skipped == len(strays) + 3 + 6


def test_missing_folder_offers_both_ways_to_have_one(tmp_path):
    with pytest.raises(DataError) as error:
        scan(tmp_path / "images_f")
    command = f"python simulate.py --model f --out {tmp_path / 'images_f'} --train 25000 --val 2500"
    assert_one_line(error, command, "README.md")


def spoil_layout(root: Path, how: str) -> None:
    victim = root / "val" / "vort"
    if how == "no val":
        (root / "val").rename(root / "validation")
    elif how == "no class folders":
        for folder in (root / "train").iterdir():
            folder.rename(root / folder.name)
    elif how == "empty class":
        [path.unlink() for path in victim.iterdir()]
    elif how == "only strays":
        [path.rename(path.with_suffix(".txt")) for path in victim.iterdir()]
    elif how == "class renamed":
        victim.rename(root / "val" / "vortex")
    elif how == "one class":
        [(root / s / c).rename(root / f"{s}-{c}") for s in ("train", "val") for c in ("no", "vort")]
    elif how == "a file":
        (root / "val").rename(root / "hidden")
        (root / "val").write_text("not a folder")


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("no val", ["train/<class>/*.npy", "no folder val", "validation", "dataset.py convert"]),
        ("no class folders", ["train/<class>/*.npy", "train", "nothing"]),
        ("empty class", ["val/vort", "nothing"]),
        ("only strays", ["val/vort", "val_000.txt"]),
        ("class renamed", ["only in train: vort;", "only in val: vortex"]),
        ("one class", ["two or more", "sphere"]),
        ("a file", ["no folder val"]),
    ],
)
def test_bad_layouts_name_what_was_expected_and_found(tmp_path, how, parts):
    spoil_layout(make_folder(tmp_path), how)
    with pytest.raises(DataError) as error:
        scan(tmp_path)
    assert_one_line(error, tmp_path, *parts)


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "images_f").write_text("")
    with pytest.raises(DataError) as error:
        scan(tmp_path / "images_f")
    assert_one_line(error, tmp_path / "images_f", "cannot list")


# --- normalise ----------------------------------------------------------------------------------------------


def lenses(count: int = 4, channels: int = 1, size: int = 41) -> torch.Tensor:
    """Rings with noise, (B, C, H, W) float64, all positive."""
    axis = torch.arange(size, dtype=torch.float64) - size / 2
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    ring = 30 + 200 * torch.exp(-((radius - size / 4) ** 2) / 8)
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))
    return ring + ring.sqrt() * noise.double()


def test_default_is_standardised_per_image_over_all_channels():
    out = default_preprocess(41)(lenses(3, 3) * torch.tensor([1.0, 20.0, 300.0])[:, None, None, None])
    assert out.shape == (3, 3, 41, 41) and out.dtype == torch.float32
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=(1, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_default_equals_the_plain_formula_in_float64():
    image = lenses(1)[0, 0].numpy() - 60  # sky-subtracted
    crop = image[4:37, 4:37] / np.abs(image[4:37, 4:37]).max()
    root = np.sign(crop) * np.sqrt(np.abs(crop))
    truth = (root - root.mean()) / root.std()
    out = Preprocess(crop=33)(torch.from_numpy(image)[None, None])[0, 0]
    assert (crop < 0).any()
    np.testing.assert_allclose(out.numpy(), truth, atol=2e-6)


@pytest.mark.parametrize(("size", "crop"), [(150, 129), (129, 129), (128, 127), (64, 63), (29, 29), (500, 129)])
def test_default_crop(size, crop):
    preprocess = default_preprocess(size)
    assert (preprocess.crop, preprocess.window) == (crop, crop)
    centre = torch.zeros(1, 1, size, size)
    start = (size - crop) // 2
    centre[..., start, start] = centre[..., start + crop - 1, start + crop - 1] = 1
    out = Preprocess(crop, "none", False)(centre)
    assert out.sum() == 2 and out[..., 0, 0] == out[..., -1, -1] == 1


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-20, 2.0**-40, 3.7e-3, 0.1, 255.0, 1e12, 1e30])
def test_scale_invariance(stretch, dtype, factor):
    """A power of two changes no bit; another factor only what its rounding does."""
    images = lenses(channels=3).to(dtype)
    preprocess = Preprocess(33, stretch, stretch != "original")
    out, scaled = preprocess(images), preprocess(images * factor)
    if np.log2(factor).is_integer():
        assert torch.equal(out, scaled)
    elif stretch == "original":  # a pixel at the edge between two of the 256 levels may step over
        assert (out != scaled).float().mean() < 1e-3 and (out - scaled).abs().max() < 1.01 / 255
    else:
        torch.testing.assert_close(out, scaled, atol=1e-5, rtol=0)


def test_float64_far_outside_of_float32(tmp_path):
    make_folder(tmp_path, 3, 1)
    out = list(open_batches(tmp_path, preprocess=Preprocess(33)).epoch())
    for number, path in enumerate(sorted((tmp_path / "train").rglob("*.npy"))):
        np.save(path, np.load(path) * 2.0 ** (-700 if number % 2 else 900))
    assert_same(out, open_batches(tmp_path, preprocess=Preprocess(33)).epoch())


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 1e-20, 1e12, -1e30, 65535.0])
def test_constant_images_are_finite(stretch, value):
    images = torch.full((2, 3, 40, 40), value)
    for standardise in (True, False):
        assert Preprocess(33, stretch, standardise)(images).isfinite().all()
    assert (stretch == "original") or Preprocess(33, stretch)(images).abs().max() == 0


@pytest.mark.parametrize("size", [33, 41])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_before_or_after_is_the_same(size, turns):
    images, preprocess = lenses(size=size), Preprocess(33)
    turned = preprocess(images.rot90(turns, (2, 3)))
    torch.testing.assert_close(turned, preprocess(images).rot90(turns, (2, 3)), atol=2e-6, rtol=0)


def test_each_image_is_cut_at_its_own_offset():
    images = torch.arange(2 * 3 * 40 * 40, dtype=torch.float32).view(2, 3, 40, 40)
    preprocess = Preprocess(31, "none", False)
    out = preprocess(images, np.array([[0, 9], [5, 2]]))
    for image, cut, (row, column) in zip(images, out, [(0, 9), (5, 2)], strict=True):
        window = image[:, row : row + 31, column : column + 31]
        torch.testing.assert_close(cut, window / window.max(), rtol=1e-6, atol=0)
    central = preprocess(images, torch.tensor([[4, 4], [4, 4]]))
    assert torch.equal(central, preprocess(images))
    for wrong in ([[0, 10], [0, 0]], [[-1, 0], [0, 0]]):
        with pytest.raises(DataError):
            preprocess(images, torch.tensor(wrong))


@pytest.mark.parametrize("size", [128, 129, 150])
def test_original_is_eight_bits_of_a_128_pixel_crop_with_a_zero_edge(size):
    counts = np.random.default_rng(1).poisson(100, (2, 1, size, size)).astype(np.uint16)
    out = ORIGINAL(torch.from_numpy(counts)).numpy()
    start = (size - 128) // 2
    for image, result in zip(counts, out, strict=True):
        levels = (image[0] / image.max() * 255).astype(np.uint8)[start : start + 128, start : start + 128]
        assert np.array_equal(result[0, :128, :128], (levels / 255).astype(np.float32))
    assert out.shape == (2, 1, 129, 129)
    assert (out[..., 128, :] == 0).all() and (out[..., 128] == 0).all()


def test_original_needs_128_pixels_and_does_not_wrap_negative_ones():
    with pytest.raises(DataError):
        ORIGINAL(torch.ones(1, 1, 127, 127))
    image = torch.ones(1, 1, 128, 128)
    image[..., 0, 0] = -2
    assert ORIGINAL(image)[0, 0, 0, :2].tolist() == [0, 1]


def test_preprocess_survives_json_and_refuses_the_unknown():
    for preprocess in (ORIGINAL, default_preprocess(64), Preprocess(31, "asinh", False)):
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    values = ORIGINAL.to_dict()
    wrong = [values | {"blur": 1}, {"crop": 31}, values | {"crop": 128}, values | {"crop": True}]
    wrong += [
        values | {"crop": -1},
        values | {"crop": "129"},
        values | {"stretch": "log"},
        values | {"standardise": 1},
    ]
    for case in wrong:
        with pytest.raises(DataError) as error:
            Preprocess.from_dict(case)
        assert_one_line(error, "preprocess")


# --- augment ------------------------------------------------------------------------------------------------


def test_augment_covers_the_eight_symmetries_of_the_square():
    image = torch.arange(25.0).view(1, 1, 5, 5)
    turns, flips = torch.arange(8) % 4, torch.arange(8) >= 4
    out = augment(image.expand(8, 2, 5, 5), turns, flips)
    for result, turn, flip in zip(out, turns, flips, strict=True):
        truth = torch.rot90(image[0].flip(-1) if flip else image[0], int(turn), (1, 2))
        assert torch.equal(result, truth.expand(2, 5, 5))
    assert len({tuple(result.flatten().tolist()) for result in out}) == 8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), size=st.integers(29, 40))
def test_augmentation_is_a_permutation_of_the_window(seed, epoch, size):
    images = torch.arange(4 * size * size, dtype=torch.float32).view(4, 1, size, size)  # all pixels different
    offsets, turns, flips = draw_augmentation(seed, epoch, np.arange(4), size - 29)
    window = transforms._crop(images, 29, offsets)
    out = augment(window, turns, flips)
    assert torch.equal(out.flatten(1).sort().values, window.flatten(1).sort().values)
    assert all(
        set(cut.flatten().tolist()) <= set(image.flatten().tolist()) for cut, image in zip(out, images, strict=True)
    )


def test_augmentation_leaves_the_noise_as_it_is():
    """White noise stays white: same variance, no correlation of neighbours. (Resampling would fail.)"""
    noise = torch.randn(256, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    offsets, turns, flips = draw_augmentation(0, 0, np.arange(256), 7)
    out = augment(transforms._crop(noise, 33, offsets), turns, flips)
    pixels = out.numel()
    assert abs(out.var().item() - 1) < 5 * (2 / pixels) ** 0.5
    for neighbours in (out[..., 1:] * out[..., :-1], out[..., 1:, :] * out[..., :-1, :]):
        assert abs(neighbours.mean().item()) < 5 / pixels**0.5
    resampled = torch.nn.functional.avg_pool2d(noise, 2, stride=1)  # what half a pixel of bilinear shift does
    assert abs(resampled.var().item() - 1) > 0.5


def test_draws_depend_on_seed_epoch_and_index_alone():
    indices = np.arange(1000)
    whole = draw_augmentation(5, 2, indices, 21)
    shuffled = np.random.default_rng(0).permutation(1000)
    for part, full in zip(draw_augmentation(5, 2, shuffled[:10], 21), whole, strict=True):
        assert torch.equal(part, full[torch.from_numpy(shuffled[:10])])
    for other in (draw_augmentation(6, 2, indices, 21), draw_augmentation(5, 3, indices, 21)):
        assert not torch.equal(other[0], whole[0])
        agreement = (other[1] == whole[1]).double().mean().item()
        assert abs(agreement - 1 / 4) < 5 * (3 / 16 / 1000) ** 0.5
    for seed in (-1, 2**64 + 5, np.int64(3)):
        assert draw_augmentation(seed, 0, indices, 3)[0].shape == (1000, 2)


def test_draws_are_uniform_and_independent():
    """Chi-squared of the joint table of offsets, turns, flips, for one epoch of many images."""
    offsets, turns, flips = draw_augmentation(0, 1, np.arange(80_000), 4)
    cells = ((offsets[:, 0] * 5 + offsets[:, 1]) * 4 + turns) * 2 + flips
    counts = torch.bincount(cells, minlength=200).double()
    expected = 80_000 / 200
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - 199) < 5 * (2 * 199) ** 0.5
    assert (offsets.min(), offsets.max()) == (0, 4)


def test_draws_of_one_image_are_uniform_over_epochs():
    turns = torch.cat([draw_augmentation(0, epoch, np.array([7]), 4)[1] for epoch in range(2000)])
    counts = torch.bincount(turns, minlength=4).double()
    assert ((counts - 500) ** 2 / 500).sum() < 3 + 5 * 6**0.5


# --- bad images, see test_images.py for all kinds -----------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_nan() -> bytes:
    image = picture(3, dtype="float32")
    image[5, 7] = np.nan
    return npy(image)


BAD_FILES = {  # name -> the file's bytes; None: removed
    "half": npy(picture(4))[:1000],
    "another size": npy(picture(4, (41, 41))),
    "NaN": with_nan(),
    "objects": npy(np.full((SIZE, SIZE), 7, object)),
    "gone": None,
}


# --- batches ------------------------------------------------------------------------------------------------


def test_evaluation_is_in_file_order_and_complete(tmp_path):
    batches = open_batches(make_folder(tmp_path), "val", batch_size=4)
    assert len(batches) == 3
    found = list(batches.epoch())
    assert [len(batch.images) for batch in found] == [4, 4, 1]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(9))
    labels = torch.cat([batch.labels for batch in found])
    assert labels.dtype == torch.int64 and labels.tolist() == batches.labels.tolist()
    assert batches.path(found[1].indices[0]) == tmp_path / "val" / "sphere" / "val_001.npy"
    raw = np.stack([read_image(batches.path(index)) for index in range(9)])
    truth = batches.preprocess(torch.from_numpy(raw))
    torch.testing.assert_close(torch.cat([batch.images for batch in found]), truth, atol=1e-6, rtol=0)
    assert_same(found, batches.epoch(5))


def test_training_epochs_differ_and_repeat(tmp_path):
    make_folder(tmp_path)
    batches = open_batches(tmp_path, train=True, seed=3)
    orders = [torch.cat([batch.indices for batch in batches.epoch(epoch)]).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(21)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert_same(batches.epoch(2), open_batches(tmp_path, train=True, seed=3).epoch(2))
    other = torch.cat([batch.indices for batch in open_batches(tmp_path, train=True, seed=4).epoch(0)]).tolist()
    assert other != orders[0]


def test_an_image_looks_the_same_in_batches_of_any_size(tmp_path):
    make_folder(tmp_path)
    views = []
    for size in (1, 4, 21):
        found = list(open_batches(tmp_path, batch_size=size, train=True).epoch(1))
        views.append((torch.cat([b.indices for b in found]), torch.cat([b.images for b in found])))
    for indices, images in views[1:]:
        assert torch.equal(indices, views[0][0])
        torch.testing.assert_close(images, views[0][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["uint16", ">f8"])
def test_streaming_gives_the_bits_of_memory(tmp_path, train, workers, dtype):
    make_folder(tmp_path, dtype=dtype)
    memory = open_batches(tmp_path, train=train, seed=1)
    stream = open_batches(tmp_path, train=train, seed=1, workers=workers, memory_limit=0)
    assert memory.in_memory and not stream.in_memory
    state = torch.get_rng_state()
    assert_same(memory.epoch(1), stream.epoch(1))
    assert torch.equal(state, torch.get_rng_state())


def test_mixed_number_types_give_the_same_bits_too(tmp_path):
    make_folder(tmp_path)
    kinds = ["uint8", "int8", "uint16", "int16", "float16", "int32", ">f4", "float64", "uint64"]
    for path, kind in zip(sorted((tmp_path / "train").rglob("*.npy")), kinds * 3, strict=False):
        np.save(
            path,
            np.clip(np.load(path), 0, 127).astype(kind) if kind == "int8" else np.load(path).astype(kind),
        )
    memory = open_batches(tmp_path, train=True)
    assert memory.in_memory
    assert_same(memory.epoch(), open_batches(tmp_path, train=True, memory_limit=0, workers=0).epoch())


def test_mixed_number_types_that_outgrow_the_memory_are_streamed(tmp_path):
    make_folder(tmp_path)
    np.save(tmp_path / "train" / "vort" / "train_006.npy", picture(5, dtype="float32"))
    limit = 21 * SIZE * SIZE * 3  # enough for two bytes a pixel, not for four
    stream = open_batches(tmp_path, memory_limit=limit)
    assert not stream.in_memory
    assert_same(stream.epoch(), open_batches(tmp_path).epoch())


@pytest.mark.parametrize("memory_limit", [None, 0])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_resuming_within_an_epoch_is_skipping(tmp_path, memory_limit, start):
    make_folder(tmp_path)
    batches = open_batches(tmp_path, train=True, memory_limit=memory_limit, workers=1)
    assert_same(batches.epoch(2, start=start), list(batches.epoch(2))[start:])
    assert list(batches.epoch(2, start=6)) == list(batches.epoch(2, start=9)) == []


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 3), (3, SIZE, SIZE)])
def test_three_channels(tmp_path, shape):
    batches = open_batches(make_folder(tmp_path, 2, 1, shape=shape))
    assert next(batches.epoch()).images.shape == (4, 3, 33, 33)


@pytest.mark.parametrize("memory_limit", [None, 0])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_anywhere_is_one_line_in_the_main_process(tmp_path, memory_limit, workers, kind):
    make_folder(tmp_path)
    victim = tmp_path / "train" / "vort" / "train_005.npy"
    folder = scan(tmp_path)
    victim.write_bytes(BAD_FILES[kind]) if BAD_FILES[kind] else victim.unlink()
    with pytest.raises(DataError) as error:
        batches = Batches(
            folder.splits["train"],
            folder,
            default_preprocess(SIZE),
            4,
            workers=workers,
            memory_limit=memory_limit,
            progress=False,
        )
        list(batches.epoch())
    assert_one_line(error, victim)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_constant_images_are_counted_and_the_first_named(tmp_path, memory_limit):
    make_folder(tmp_path)
    for name, value in (("no/train_003", 0), ("vort/train_001", 7)):
        np.save(tmp_path / "train" / f"{name}.npy", np.full((SIZE, SIZE), value, np.uint16))
    batches = open_batches(tmp_path, memory_limit=memory_limit)
    for _ in range(2):
        images = torch.cat([batch.images for batch in batches.epoch()])
    assert images.isfinite().all()
    (line,) = batches.warnings
    assert str(tmp_path / "train" / "no" / "train_003.npy") in line and "2 of 21 train" in line
    assert open_batches(tmp_path, "val", memory_limit=memory_limit).warnings == []


def test_images_smaller_than_the_window_are_refused_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        open_batches(make_folder(tmp_path, 1, 1), preprocess=ORIGINAL)
    assert_one_line(error, tmp_path, "128 pixels or more", f"found {SIZE}")


def test_streaming_starts_without_reading_everything(tmp_path):
    make_folder(tmp_path)
    stream = open_batches(tmp_path, memory_limit=0, workers=1, batch_size=1)
    for path in stream.split.paths[10:]:
        path.write_bytes(b"damaged")
    epoch = stream.epoch()
    assert next(epoch).images.shape == (1, 1, 33, 33)
    epoch.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_workers_outlive_signals_to_the_whole_group(tmp_path, name):
    make_folder(tmp_path)
    stream = open_batches(tmp_path, memory_limit=0, batch_size=1)
    handler = signal.getsignal(signal.SIGCHLD)
    epoch = stream.epoch()
    count = len(next(epoch).images)
    assert signal.getsignal(signal.SIGCHLD) == handler and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    # from another process, as a scheduler does: workers do obey SIGTERM from the one that started them
    subprocess.run(["sh", "-c", f"kill -{name} {' '.join(str(worker.pid) for worker in workers)}"], check=True)
    count += sum(len(batch.images) for batch in epoch)
    assert count == 21
    assert not multiprocessing.active_children()


ABANDON = """
import sys
from dataset import Batches, default_preprocess, scan
folder = scan(sys.argv[1])
preprocess = default_preprocess(folder.size)
batches = Batches(folder.splits["train"], folder, preprocess, 1, workers=2, memory_limit=0)
epoch = batches.epoch()
next(epoch)
print(*[p.pid for p in __import__("multiprocessing").active_children()])
sys.exit(3)
"""


def test_a_program_that_ends_within_an_epoch_leaves_no_processes(tmp_path):
    make_folder(tmp_path, train=30)
    done = subprocess.run([sys.executable, "-c", ABANDON, tmp_path], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 3 and not done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_is_killed_is_one_line(tmp_path):
    make_folder(tmp_path, train=30)
    epoch = open_batches(tmp_path, memory_limit=0, workers=1, batch_size=1).epoch()
    next(epoch)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.5)  # nothing is raised in the middle of other work
    with pytest.raises(DataError) as error:
        list(epoch)
    assert_one_line(error, "train", "died")


def test_progress_bar_is_quiet_where_there_is_no_terminal(tmp_path, capsys):
    make_folder(tmp_path)
    open_batches(tmp_path, progress=True)
    assert capsys.readouterr() == ("", "")


# --- the machine --------------------------------------------------------------------------------------------


def test_available_memory_is_plausible():
    assert 2**20 < machine.available_memory() < 2**50


def test_available_memory_obeys_control_groups(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n",
        "/proc/self/cgroup": "0::/slurm/job_7/step_0\n",
        "/sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max\n",
        "/sys/fs/cgroup/slurm/job_7/memory.max": "8000000000\n",
        "/sys/fs/cgroup/slurm/job_7/memory.stat": "anon 3000000000\nfile 4000000000\n",
    }
    monkeypatch.setattr(machine, "_read_text", lambda path: files.get(str(path), ""))
    assert machine.available_memory() == 5_000_000_000
    files["/proc/self/cgroup"] = "11:cpu,cpuacct:/slurm\n4:memory:/slurm/job_7\n0::/\n"
    files["/sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes"] = "2000000000\n"
    files["/sys/fs/cgroup/memory/slurm/job_7/memory.stat"] = "cache 5\nrss 1\ntotal_rss 500000000\n"
    assert machine.available_memory() == 1_500_000_000
    files["/proc/self/cgroup"] = ""
    assert machine.available_memory() == 32_000_000 * 1024

"""Preprocessing and augmentation: bits, statistics, symmetry."""

import json

import numpy as np
import pytest
import torch
from data_sets import assert_one_line, assert_same, make_folder, open_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from darklens.data import transforms
from darklens.data.transforms import ORIGINAL, STRETCHES, Preprocess, augment, default_preprocess, draw_augmentation
from darklens.errors import DataError


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

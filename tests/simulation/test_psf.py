"""Point spread functions against lenstronomy and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch

from darklens.simulation import physics, psf

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("fwhm", [1.6, 3.3])
def test_kernels_equal_lenstronomy(fwhm):
    kernel_util = pytest.importorskip("lenstronomy.Util.kernel_util")
    point = torch.zeros(1, 61, 61, dtype=torch.float64)
    point[0, 30, 30] = 1
    gaussian = physics.gaussian_blur(point, fwhm / psf.FWHM, truncate=12)[0].numpy()
    assert np.abs(gaussian - kernel_util.kernel_gaussian(61, 1, fwhm)).max() <= 1e-10
    for beta in (2.5, 4.765):
        assert np.abs(psf.moffat_kernel(fwhm, beta, 31) - kernel_util.kernel_moffat(31, 1, fwhm, beta)).max() <= 1e-10


def test_moffat_has_its_width_and_holds_its_light():
    kernel = psf.moffat_kernel(8.0, 3.0)
    middle = len(kernel) // 2
    assert np.isclose(kernel[middle, middle + 4] / kernel[middle, middle], 0.5)
    wide = psf.moffat_kernel(8.0, 3.0, 2001)
    reach = 1000 - middle
    assert 1 - wide[reach:-reach, reach:-reach].sum() < 1e-3


@pytest.mark.parametrize("size", [3, 21, 99])
@pytest.mark.parametrize("edges", ["repeat", "zero"])
def test_convolution_equals_scipy(size, edges):
    values, image = RNG.random((size, size)) + np.eye(size), RNG.random((2, 64, 50))
    values[size // 2, size // 2] += 100 * size  # an asymmetric kernel, not off centre
    kernel, image = psf.Kernel(values, edges), torch.from_numpy(image)
    mode = {"repeat": "nearest", "zero": "constant"}[edges]
    expected = np.array([scipy.ndimage.convolve(one, kernel.values, mode=mode) for one in image.numpy()])
    for result in (kernel(image), kernel.fft(image), kernel.direct(image)):
        assert np.abs(result.numpy() - expected).max() <= 1e-10
    assert np.abs(kernel.fft(image.float()).numpy() - expected).max() < 1e-5


def test_convolution_keeps_flux():
    image = torch.zeros(1, 80, 80, dtype=torch.float64)
    image[0, 40, 40] = 5.0
    assert abs(psf.Kernel(psf.moffat_kernel(3.0, 2.5, 41))(image).sum() - 5) < 1e-10


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((3, 4)), "square"),
        (np.ones((4, 4)), "odd number"),
        (np.zeros((3, 3)), "positive sum"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.eye(5) * [1, 0, 0, 0, 0], "off centre by 2.83 pixels"),
    ],
)
def test_unusable_kernels_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        psf.checked_kernel(values)


def test_kernels_are_read_from_files(tmp_path):
    kernel = psf.moffat_kernel(2.0, 3.0, 11)
    np.save(tmp_path / "psf.npy", 7 * kernel[None])
    assert np.allclose(psf.load_kernel(tmp_path / "psf.npy"), kernel)
    fits = pytest.importorskip("astropy.io.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(7 * kernel)]).writeto(tmp_path / "psf.fits")
    assert np.allclose(psf.load_kernel(tmp_path / "psf.fits"), kernel)


def test_fast_lengths():
    assert [psf.fast_length(n) for n in (1, 16, 121, 199, 337)] == [16, 16, 128, 240, 384]


def test_the_core_tells_whether_a_kernel_is_centred():
    """Wings and a background that lean to one side, as in stamps of real stars, do not move it."""
    steps = np.arange(-30, 31)
    leaning = psf.moffat_kernel(2.5, 3.0, 61) + 2e-5 * (1 + steps / 31)
    centroid = (leaning.sum(0) * steps).sum() / leaning.sum()
    assert centroid > 0.5 and psf.core_offset(leaning) < 0.05
    psf.checked_kernel(leaning)
    for shift in (0.2, 0.4):
        moved = scipy.ndimage.shift(psf.moffat_kernel(4.0, 3.0, 61), (0, shift), order=5)
        assert psf.core_offset(moved) == pytest.approx(shift, abs=0.05)
    with pytest.raises(ValueError, match="off centre by 1.00 pixels"):
        psf.checked_kernel(np.roll(psf.moffat_kernel(2.5, 3.0, 31), 1, 1))

"""The detector's noise: its mean, variance and correlation."""

import numpy as np
import pytest

from darklens.simulation import detector

FLAT = np.full((300, 300), 4.0)  # electrons/s


def observe(**settings):
    return detector.observe(FLAT, 1.5, np.random.default_rng(0), detector.Exposure(**settings))


def near(image, mean, variance):
    """Mean and variance within five standard errors."""
    n = image.size
    assert abs(image.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(image.var() / variance - 1) < 5 * np.sqrt(2 / n) + 5 / np.sqrt(n * max(variance, 1))


def test_poisson_counts():
    image = observe(time=10)
    assert (image == np.round(image)).all()
    near(image, 55, 55)


def test_reads_gain_and_rate():
    settings = {"time": 10.0, "read_noise": 3.0, "exposures": 4}
    near(observe(**settings), 55, 55 + 36)
    near(observe(**settings, gain=2.0), 55 / 2, (55 + 36) / 4)
    near(observe(**settings, gain=2.0, output="rate", keep_sky=False), 4 / 2, (55 + 36) / 400)


def test_background_rms_as_lenstronomy_has_it():
    pytest.importorskip("lenstronomy")
    from lenstronomy.Data.imaging_data import ImageData

    image = observe(time=50, rms=0.3, output="rate", keep_sky=False)
    data = ImageData(FLAT, background_rms=0.3, exposure_time=50)
    near(image, 4.0, data.C_D[0, 0])
    near(observe(time=50, rms=0.3, output="rate"), 5.5, data.C_D[0, 0])


def test_background_of_sky_and_reads_as_lenstronomy_has_it():
    data_util = pytest.importorskip("lenstronomy.Util.data_util")
    ours = detector.background_rms(0.02 * 0.1**2, 2264, 4.2, 4)
    assert np.isclose(ours, data_util.bkg_noise(4.2, 566, 0.02, 0.1, 4), rtol=1e-12)
    assert np.isclose(detector.flux(23.1, 25.7), data_util.magnitude2cps(23.1, 25.7), rtol=1e-12)
    assert np.isclose(detector.magnitude(detector.flux(23.1, 25.7), 25.7), 23.1)
    assert np.isclose(detector.sky_rate(22.3, 25.7, 0.1), 0.01 * data_util.magnitude2cps(22.3, 25.7))


@pytest.mark.parametrize("width", [0.4, 0.8])
def test_correlated_noise(width):
    image = observe(time=10, read_noise=3.0, correlation=width)
    steps = np.arange(-9, 10)
    kernel = np.exp(-0.5 * (steps / width) ** 2)
    expected = (kernel[:-1] * kernel[1:]).sum() / (kernel**2).sum()  # of neighbours
    noise = image - image.mean()
    assert abs(image.mean() - 55) < 0.5
    assert abs(noise.var() / 64 - 1) < 0.03
    assert abs((noise[:, :-1] * noise[:, 1:]).mean() / noise.var() - expected) < 0.02
    assert abs((noise[:-4] * noise[4:]).mean() / noise.var()) < 0.02


def test_peak_has_its_signal_to_noise():
    for snr, fraction, variance in [(10.0, 0.0, 0.0), (25.0, 0.1, 0.0), (5.0, 0.05, 400.0)]:
        peak = detector.peak_electrons(snr, fraction, variance)
        assert np.isclose(peak / np.sqrt(peak * (1 + fraction) + variance), snr)


def test_expected_image_is_the_mean():
    settings = {"time": 10.0, "gain": 2.0}
    for keep_sky in (True, False):
        for output in ("counts", "rate"):
            mean = detector.expected_image(FLAT, 1.5, detector.Exposure(**settings, keep_sky=keep_sky, output=output))
            assert np.isclose(observe(**settings, keep_sky=keep_sky, output=output).mean(), mean[0, 0], rtol=1e-3)

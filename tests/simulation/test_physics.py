"""The formulas: distances, PSF, Sersic profile, rod."""

import numpy as np
import pytest
import torch
from simulated import rod_at, scalar, sersic_light

from darklens.simulation import physics


def test_distances_equal_astropy():
    cosmology = pytest.importorskip("astropy.cosmology").FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    near, far = (cosmology.luminosity_distance(z).value for z in (0.45, 1.1))
    assert physics.lensing_distance(0.45, 1.1) == pytest.approx(near * far / (far - near), rel=1e-9)
    near, far = (cosmology.angular_diameter_distance(z).value for z in (0.45, 1.1))
    between = (far * 2.1 - near * 1.45) / 2.1
    assert physics.lensing_distance(0.45, 1.1, "angular") == pytest.approx(near * far / between, rel=1e-9)


def test_einstein_radius_of_model_f():
    assert physics.einstein_radius(1e12, 0.5, 1.0) == pytest.approx(1.282, abs=1e-3)
    assert physics.einstein_radius(1e12, 0.5, 1.0, "angular") == pytest.approx(1.664, abs=1e-3)


def test_psf_conserves_flux_and_is_a_gaussian():
    image = torch.zeros(1, 61, 61, dtype=torch.float64)
    image[0, 30, 30] = 1
    blurred = physics.gaussian_blur(image, 1.7)[0].numpy()
    offset = np.arange(61) - 30
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred.sum(0) * offset**2).sum() == pytest.approx(1.7**2, rel=1e-4)
    flat = torch.full((1, 20, 20), 3.0, dtype=torch.float64)
    assert torch.allclose(physics.gaussian_blur(flat, 1.7), flat, atol=1e-12)


def test_half_of_sersic_light_is_within_the_effective_radius():
    radius = torch.linspace(0, 60, 2_000_001, dtype=torch.float64)[1:]
    shape = scalar(0.5), scalar(1), scalar(0)
    light = sersic_light(radius, torch.zeros(()), 1.5, *shape)[0, 0] * radius
    assert light[radius < 0.5].sum() / light.sum() == pytest.approx(0.5, abs=1e-4)


def test_rod_equals_its_complex_form():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, 4000) + 1j * rng.uniform(-4, 4, 4000)
    for length, angle in ((0.5, 0.0), (1.3, 2.2), (2.0, 5.9)):
        ours, expected = rod_at(points, length, angle)
        assert np.abs(ours - expected).max() <= 1e-12

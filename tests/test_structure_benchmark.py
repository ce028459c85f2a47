"""benchmarks/structure.py: its figures of galaxies whose figures are known."""

import numpy as np
import pytest
from conftest import ROOT

from darklens.simulation.structure import Galaxy

pytest.importorskip("astropy")


@pytest.fixture(scope="module")
def benchmark():
    import importlib.util

    spec = importlib.util.spec_from_file_location("structure_benchmark", ROOT / "benchmarks" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stamp(benchmark, noise=1e-3, size=161, **parts):
    """A drawn galaxy of a half-light radius of about 12 pixels and light 1000, on pixels of a stamp."""
    blank = benchmark.Stamp(np.full((size, size), 1000 / 4000), noise, (size // 2, size // 2), 12.0, 1.0, 0.0)
    return benchmark.like(blank, Galaxy(**parts), np.random.default_rng(1))


@pytest.mark.parametrize(("index", "concentration"), [(1.0, 2.7), (0.5, 2.1)])
def test_concentration_of_known_profiles(benchmark, index, concentration):
    """Exponential discs have 2.7 (Bershady et al. 2000), Gaussians 5 log10 of sqrt(ln 5 / ln 1.25) = 2.15."""
    figures = benchmark.figures(stamp(benchmark, sersic_index=index))
    assert figures[1] == pytest.approx(concentration, abs=0.2) and abs(figures[0]) < 0.02


def test_structure_raises_asymmetry_and_power(benchmark):
    smooth, *structured = (
        benchmark.figures(stamp(benchmark, **parts))
        for parts in ({}, {"clumps": 6, "clump_fraction": 0.4}, {"roughness": 0.8}, {"arms": 3, "arm_contrast": 1.0})
    )
    for figures in structured:
        assert figures[0] > smooth[0] + 0.05
        assert np.nanmax(figures[3:5]) > np.nanmax([*smooth[3:5], -9]) + 0.5


def test_noise_is_not_taken_for_structure(benchmark):
    quiet, noisy = (benchmark.figures(stamp(benchmark, noise=noise, roughness=0.6)) for noise in (1e-3, 0.05))
    assert 0.03 < noisy[0] < quiet[0] + 0.02  # noise hides asymmetry: |difference + noise| grows by less than |noise|
    assert noisy[3] == pytest.approx(quiet[3], abs=0.3)

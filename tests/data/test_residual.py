"""The residual view: what the network sees of an image once the best smooth lens is subtracted."""

import numpy as np
import pytest
import torch

from darklens.data.residual import CLIP, SCALE, residual_view, smoothed
from darklens.data.transforms import Preprocess
from darklens.errors import DataError
from darklens.fit import SmoothModel
from darklens.simulation.recipes import CLASSES, RECIPES
from darklens.simulation.render import simulate

LENS = SmoothModel()
RESIDUAL = Preprocess(105, view="residual", smooth_model=LENS)
BOTH = Preprocess(105, view="both", smooth_model=LENS)


@pytest.fixture(scope="module")
def counts() -> torch.Tensor:
    """(3, 1, 150, 150) float64: a lens of each class."""
    images = np.concatenate([simulate(RECIPES["j"], name, [3]) for name in CLASSES])
    return torch.from_numpy(images.astype(float))[:, None]


@pytest.fixture(scope="module")
def view(counts) -> torch.Tensor:
    return RESIDUAL(counts)


def test_nothing_is_left_without_substructure(view):
    assert view.shape == (3, 1, 105, 105) and view.dtype == torch.float32
    spread = (view * SCALE).std((1, 2, 3))
    assert 0.9 < spread[0] < 1.1 and min(spread[1:]) > 1.1


@pytest.mark.parametrize("size", [105, 106])
def test_white_noise_keeps_its_deviation_and_the_middle_its_place(size):
    noise = torch.randn(8, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert smoothed(noise, 105)[..., 4:-4, 4:-4].std().item() == pytest.approx(1, abs=0.02)
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    bump = torch.exp(-(steps[:, None] ** 2 + steps**2) / 50)[None]
    found = smoothed(bump, 105)[0, 0]
    assert torch.allclose(found, found.flip(0)) and torch.allclose(found, found.rot90())
    assert found.argmax() == 52 * 105 + 52


UNITS = {
    "counts per second": lambda x: x / 565,
    "sky subtracted": lambda x: x - 12.5,
    "half the sky": lambda x: x - 6.25,
    "twice the sky": lambda x: x + 12.5,
    "min-max": lambda x: (x - x.amin((1, 2, 3), True)) / (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True)),
    "huge": lambda x: 1e12 * x,
    "tiny and negative": lambda x: 1e-9 * x - 3e-7,
}


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_does_not_matter(counts, view, unit):
    change = (RESIDUAL(UNITS[unit](counts)) - view).abs().max() * SCALE
    assert change < 1e-2  # of a standard deviation, the steps of float16 (up to 4e-3) included


@pytest.mark.parametrize("preprocess", [RESIDUAL, BOTH], ids=["residual", "both"])
@pytest.mark.parametrize("size", [150, 149])
def test_a_turned_image_has_the_turned_view(counts, preprocess, size):
    lens = counts[..., :size, :size] if size % 2 == 0 else counts[..., 1:, 1:] + counts[..., :-1, :-1]
    straight = preprocess(lens)
    for turn in (lambda x: x.rot90(1, (2, 3)), lambda x: x.flip(3), lambda x: x.flip(2).rot90(1, (2, 3))):
        assert (preprocess(turn(lens)) - turn(straight)).abs().max() * SCALE < 0.02


@pytest.mark.parametrize(
    "cut", [(slice(1, None), slice(None)), (slice(None), slice(None, -1)), (slice(0, 140), slice(None))]
)
def test_an_oblong_image_is_fitted_about_its_own_centre(counts, cut):
    view, found = residual_view(counts[(..., *cut)], LENS, 105)
    assert view.shape == (3, 1, 105, 105) and not found.flag[0] and found.chi_square[0] < 1.1


def test_eight_bits_change_little(counts, view):
    low, high = counts.amin((1, 2, 3), True), counts.amax((1, 2, 3), True)
    change = RESIDUAL(((counts - low) / (high - low) * 255).floor()) - view
    assert (change * SCALE).std() < 0.5


def test_both_has_the_image_too(counts, view):
    both = BOTH(counts)
    assert both.shape == (3, 2, 105, 105) and torch.equal(both[:, 1:], view)
    assert both[:, 0].mean().abs() < 1e-3 and both[:, 0].std().item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    "image", [np.zeros((150, 150)), np.full((150, 150), 7.0), np.eye(150), np.ones((150, 150)) * 1e300]
)
def test_what_is_no_lens_gives_a_finite_view_and_a_flag(image):
    view, found = residual_view(torch.from_numpy(image)[None, None], LENS, 105)
    assert torch.isfinite(view).all() and view.abs().max() <= CLIP / SCALE and found.flag[0]


def test_dead_pixels_are_passed_over(counts, view):
    dead = counts.clone()
    dead[:, :, 70:72, 80] = torch.nan
    change = (RESIDUAL(dead) - view).abs() * SCALE
    assert change[:, :, :40].max() < 0.1 and torch.isfinite(change).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="one channel"):
        RESIDUAL(torch.zeros(1, 3, 150, 150))
    with pytest.raises(DataError, match="105 pixels or more"):
        RESIDUAL(torch.zeros(1, 1, 104, 104))
    with pytest.raises(DataError, match="view"):
        Preprocess(105, view="residuals", smooth_model=LENS)
    with pytest.raises(DataError, match="same window"):
        Preprocess(95, view="residual", smooth_model=LENS)


@pytest.mark.parametrize("preprocess", [RESIDUAL, BOTH, Preprocess(105)])
def test_description_goes_there_and_back(preprocess):
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize("change", [{"pixel_scale": -1.0}, {"pixels": 3}, {"psf_kernel": [[1.0, 2.0]]}])
def test_a_smooth_lens_that_cannot_be_is_refused(change):
    values = RESIDUAL.to_dict()
    with pytest.raises(DataError):
        Preprocess.from_dict(values | {"lens": values["lens"] | change})


def test_correlated_noise_has_the_same_spread_in_the_view():
    """Noise that a Gaussian has smoothed, as drizzled images have it, beside white noise of the same variance."""
    from darklens.simulation.detector import correlate

    rng = np.random.default_rng(3)
    noise = {
        width: np.stack([correlate(n, width) if width else n for n in rng.normal(size=(6, 150, 150))])
        for width in (0.0, 0.45, 0.6)
    }
    views = {
        width: residual_view(torch.as_tensor(images)[:, None], SmoothModel(), 105)[0] for width, images in noise.items()
    }
    for width, view in views.items():
        assert float((3 * view).std()) == pytest.approx(1, abs=0.04), width

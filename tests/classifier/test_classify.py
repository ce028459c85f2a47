"""Classify from Python: the table that Predict writes, of images with noise, masks and PSFs, and of residuals."""

import csv

import numpy as np
import pytest
import torch
from astropy.io import fits

import darklens
from darklens.errors import DataError, UsageError
from darklens.fit import SmoothModel, fit_many
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import simulate
from darklens.survey.predict import predict_folder

COUNT = 3


@pytest.fixture(scope="module")
def network():
    return darklens.load("compact-j")


@pytest.fixture(scope="module")
def images():
    return np.concatenate([darklens.simulate("j", name, range(1)) for name in ("no", "sphere", "vort")]).astype("f4")


def as_text(table: dict[str, np.ndarray], row: int) -> dict[str, str]:
    return {name: str(values[row]) for name, values in table.items()}


def written(network, folder, columns=()) -> list[dict[str, str]]:
    """The rows that Predict writes for the FITS files a0, a1, ... and what lies beside them."""
    with open(folder / "list.csv", "w") as file:
        print("file", *columns, sep=",", file=file)
        for number in range(COUNT):
            print(f"a{number}.fits", *(f"{name}{number}.fits" for name in columns), sep=",", file=file)
    predict_folder(network, folder / "list.csv", folder / "out.csv", quiet=True, workers=0)
    with open(folder / "out.csv", newline="") as file:
        return list(csv.DictReader(file))


def compare(table, rows) -> None:
    assert list(table) == [name for name in rows[0] if name not in ("file", "unit", "pixel_scale", "note")]
    for name, values in table.items():
        assert values.shape == (COUNT,)
        if name in ("class", "flag"):
            assert values.tolist() == [row[name] for row in rows]
        else:
            expected = [float(row[name] or "nan") for row in rows]
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=2e-5, err_msg=name)


def test_images_give_the_table_that_predict_writes(network, images, tmp_path):
    for number, image in enumerate(images):
        fits.writeto(tmp_path / f"a{number}.fits", image)
    table = network.classify(images)
    compare(table, written(network, tmp_path))
    np.testing.assert_allclose(
        np.stack([table[f"calibrated_{name}"] for name in network.classes], 1), network.predict(images), atol=1e-5
    )
    assert table["class"].tolist() == ["no", "sphere", "vort"]
    median = network.infer(images)["sphere"]["log_mass_fraction"].quantile(0.5)
    np.testing.assert_allclose(table["sphere_log_mass_fraction"], median, atol=1e-3)


def test_noise_and_psf_are_those_of_files(network, images, tmp_path):
    axis = np.arange(-8, 9) ** 2 / (2 * 1.9**2)
    kernel = np.exp(-axis - axis[:, None])
    noise = np.sqrt(np.maximum(images, 1)).astype("f4")
    noise[:, 3, :] = 0  # no weight, and what is there may be NaN
    images = images.copy()
    images[:, 3, 70] = np.nan
    for number in range(COUNT):
        fits.writeto(tmp_path / f"a{number}.fits", images[number])
        fits.writeto(tmp_path / f"noise_map{number}.fits", noise[number])
        fits.writeto(tmp_path / f"psf{number}.fits", kernel)
    rows = written(network, tmp_path, ("noise_map", "psf"))
    compare(network.classify(images, noise=noise, psf=kernel), rows)
    compare(network.classify(images, noise=list(noise), psf=np.stack([kernel] * COUNT), batch_size=2), rows)
    assert abs(float(rows[0]["einstein_radius"]) - network.classify(images[:1])["einstein_radius"][0]) > 1e-6


def test_what_is_masked_does_not_matter(network, images):
    """A bright neighbour under a mask changes next to nothing; without one, the fit is poor or its class another."""
    spoilt, mask = images.copy(), np.zeros(images.shape[1:], bool)
    mask[30:42, 100:112] = True
    spoilt[:, mask] += 5 * images.max()
    masked, clean, bare = (network.classify(x, mask=m) for x, m in ((spoilt, mask), (images, mask), (spoilt, None)))
    for name in ("einstein_radius", "chi_square", "p_no"):
        np.testing.assert_array_equal(masked[name], clean[name])
    assert (
        masked["class"].tolist() == ["no", "sphere", "vort"] and (bare["chi_square"] > masked["chi_square"] + 1).all()
    )
    spoilt[:, mask] = np.nan
    np.testing.assert_allclose(network.classify(spoilt, mask=torch.from_numpy(mask))["chi_square"], clean["chi_square"])


def test_residuals_of_a_fit_of_ones_own(network, images):
    table, fit = network.classify(images), fit_many(images, network.preprocess.smooth_model)
    own = network.classify_residual(fit)
    assert list(own) == list(table)
    for name, values in own.items():
        if name == "outlier":  # its figures are of the image, too
            assert np.isnan(values).all()
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(values, table[name], rtol=1e-3, atol=2e-5, err_msg=name)
    alone = network.classify_residual(fit.residual)
    np.testing.assert_allclose(alone["p_sphere"], own["p_sphere"], atol=1e-6)
    assert alone["class"].tolist() == own["class"].tolist() and np.isnan(alone["einstein_radius"]).all()
    assert np.isnan(alone["sphere_log_mass_fraction"]).all()
    padded = np.pad(fit.residual, ((0, 0), (4, 4), (4, 4)))  # as odd or even as before
    np.testing.assert_array_equal(network.classify_residual(padded)["p_no"], alone["p_no"])
    assert network.classify_residual(fit.residual[0])["class"].shape == (1,)


def test_a_fit_at_another_pixel_scale_is_flagged(network, images):
    fit = fit_many(images[:1], SmoothModel(pixel_scale=0.08, psf_sigma=0.136))
    assert "pixels of 0.08 arcsec, the network's have 0.05" in network.classify_residual(fit)["flag"][0]


@pytest.mark.parametrize(
    "sides, message",
    [
        ({"noise": np.ones((4, 4))}, "noise of image 0: expected 150 x 150 pixels"),
        ({"noise": np.ones((2, 150, 150))}, "noise: expected one of shape .H, W., or 3, one for each image"),
        ({"noise": np.zeros((150, 150))}, "expected standard deviations above 0, found none"),
        ({"noise": "poisson"}, "noise: expected"),
        ({"mask": np.ones((150, 150), bool)}, "expected a pixel that counts"),
        ({"mask": np.zeros((150, 150))}, "mask of image 0: expected True where"),
        ({"psf": np.full((5, 5), np.nan)}, "psf of image 0: expected a PSF of finite values"),
        ({"psf": np.ones(5)}, "psf: expected one of shape"),
    ],
)
def test_wrong_sides_are_named_in_one_line(network, images, sides, message):
    with pytest.raises(DataError, match=message) as caught:
        network.classify(images, **sides)
    assert "\n" not in str(caught.value)


def test_wrong_residuals_are_named_in_one_line(network):
    for residual, message in (
        (np.zeros((2, 50, 50)), "of 105 pixels or more"),
        (np.full((1, 105, 105), np.nan), "expected finite"),
        ("residual", "residual: expected"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            network.classify_residual(residual)
        assert "\n" not in str(caught.value)


def test_networks_that_see_images_have_no_use_of_noise(images, tmp_path):
    from darklens.classifier.classifier import Classifier
    from darklens.data.transforms import default_preprocess
    from darklens.networks.equivariant import build_network

    network = build_network({"arch": "compact", "head": "pooled", "size": 39})
    classifier = Classifier(network, ["no", "sphere", "vort"], default_preprocess(39))
    table = classifier.classify(images)
    assert np.isnan(table["novelty"]).all() and "einstein_radius" not in table
    np.testing.assert_allclose(table["p_no"], classifier.predict(images)[:, 0], atol=1e-5)
    with pytest.raises(UsageError, match="this one sees the image"):
        classifier.classify(images, noise=images)
    with pytest.raises(UsageError, match="sees the image view"):
        classifier.classify_residual(images)
    assert classifier.classify(np.empty((0, 150, 150)))["class"].shape == (0,)


def test_what_a_refit_has_freed_is_in_the_table(network):
    """Elliptical halos are fitted again, their axis ratio free; round ones keep empty cells."""
    recipe = changed(RECIPES["j"], {"lens.axis_ratio": 0.75, "lens.angle": [0, 360]})
    images = np.concatenate([simulate(recipe, "no", range(4)), darklens.simulate("j", "no", range(2))]).astype("f4")
    table = network.classify(images)
    ratio, angle = table["halo_axis_ratio"], table["halo_angle"]
    freed = np.isfinite(ratio)
    assert freed[:4].sum() >= 3 and not freed[4:].any() and (freed == np.isfinite(angle)).all()
    np.testing.assert_allclose(ratio[freed], 0.75, atol=0.03)
    assert all("smooth lens" in flag for flag in table["flag"][freed])
    assert np.isfinite(table["residual_significance"]).all() and {"noise_correlation", "noise_scale"} < set(table)

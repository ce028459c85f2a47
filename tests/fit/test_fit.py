"""The fit: does it find what was put in, in any unit and any orientation, and say so when it doesn't?"""

import contextlib
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import fit_data
import numpy as np
import pytest
import torch

from darklens.fit import SmoothModel, fit, fit_many
from darklens.fit.assumptions import smooth_model
from darklens.simulation.draw import draw
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import simulate

CLASSES, F, J = fit_data.CLASSES, fit_data.F, fit_data.J
SPREAD = np.array([0.03, 0.03, 0.03, 0.03, 0.03, 0.1, 0.1, 0.1])


@functools.cache
def sample(name, class_name, count=4):
    return fit_data.images(fit_data.RECIPES[name], class_name, count)


@functools.cache
def mixed():
    """Two images of each class and recipe, and their fits."""
    images = np.concatenate([sample(name, c)[0][:2] for name in "fj" for c in CLASSES]).astype(float)
    return images, fit(images)


@pytest.mark.parametrize("name", ["f", "j"])
def test_truth_is_found_within_its_covariance(name):
    images, truth = sample(name, "no", 40)
    found = fit(images)
    assert found.good.all()
    pulls = (found.free - truth) / np.sqrt(found.covariance.diagonal(axis1=1, axis2=2))
    assert np.abs(pulls.mean(0)).max() < 4 / np.sqrt(40)
    assert np.abs(pulls.std(0) - 1).max() < 4 / np.sqrt(80)
    distance = np.einsum("bp,bpq,bq->b", found.free - truth, np.linalg.inv(found.covariance), found.free - truth)
    assert abs(distance.mean() - 8) < 4 * np.sqrt(16 / 40)  # chi-square of 8 degrees of freedom
    assert abs(found.chi_square.mean() - 1) < 4 * np.sqrt(2 / 106**2 / 40) + 0.002
    assert found.chi_square.std() < 0.02
    assert abs(found.sky.mean() - fit_data.RECIPES[name].noise.sky.values[0]) < 0.1
    assert abs(found.noise[:, 1].mean() - 1) < 0.03  # counts: variance 1 per count


def test_substructure_remains():
    smooth, rest = fit(sample("j", "no")[0]), fit(sample("j", "vort")[0])
    assert rest.good.all() and rest.chi_square.min() > smooth.chi_square.max() + 0.02


def test_units_do_not_matter():
    images, found = mixed()
    span = np.ptp(images, axis=(1, 2), keepdims=True)
    normalised = (images - images.min((1, 2), keepdims=True)) / span
    for other in (images / 565, normalised, images - 29, images * 1e9 + 1e10, normalised.astype(np.float32)):
        again = fit(other)
        assert np.abs(again.residual - found.residual).max() <= 1e-3
        assert (again.flag == found.flag).all()
        assert np.allclose(again.chi_square, found.chi_square, atol=1e-4)


def test_the_turned_image_has_the_turned_fit():
    images, found = mixed()
    for turn in (lambda a: np.rot90(a, 1, (1, 2)), lambda a: a[:, :, ::-1], lambda a: a.transpose(0, 2, 1)):
        again = fit(turn(images))
        assert np.abs(again.residual - turn(found.residual)).max() <= 2e-3
        for name in ("einstein_radius", "shear", "source_radius", "axis_ratio"):
            deviation = found.table()[f"{name}_sd"]
            assert (np.abs(again.table()[name] - found.table()[name]) <= 0.02 * deviation + 1e-5).all(), name
    mirrored = fit(images[:, :, ::-1]).free * np.array([1, 1, -1, -1, 1, 1, 1, -1])
    assert np.abs(mirrored - found.free).max() <= 2e-4


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_start_does_not_matter(class_name):
    images, truth = sample("j", class_name)
    found, rng = fit(images), np.random.default_rng(0)
    for size in (1, 3):
        again = fit(images, start=truth + size * SPREAD * rng.normal(size=truth.shape))
        close = np.maximum(1, 1e-4 * found.chi_square * 106**2)  # of a poor fit's thousands, not 1
        assert (np.abs(again.chi_square - found.chi_square) * 106**2 < close).all()
        assert np.abs(again.residual - found.residual).max() < 5e-3


def test_images_are_fitted_alone():
    images, found = mixed()
    again = fit(images[::-1].copy(), batch=5)
    assert np.abs(again.residual[::-1] - found.residual).max() <= 1e-3


def test_eight_bits_and_known_noise():
    images, truth = sample("j", "no")
    images = images.astype(float)
    span = np.ptp(images, axis=(1, 2), keepdims=True)
    found = fit(np.floor((images - images.min((1, 2), keepdims=True)) / span * 255))
    assert found.good.all() and np.abs(found.chi_square - 1).max() < 0.05
    deviation = np.sqrt(fit_data.clean(J, "no", 4)[0].numpy())
    for noise in ("poisson", deviation):
        known = fit(images, noise=noise)
        assert known.good.all() and np.abs(known.chi_square - 1).max() < 5 * np.sqrt(2 / 106**2)
    with pytest.raises(ValueError, match="noise"):
        fit(images, noise="gaussian")


def test_masked_pixels_do_not_count():
    images, truth = sample("j", "no")
    images, mask = images.astype(float), np.zeros((4, 150, 150), dtype=bool)
    images[:, 60:70, 80:90] = 1e4
    mask[:, 60:70, 80:90] = True
    images[:, 100, :] = np.nan
    found = fit(images, mask=mask)
    assert found.good.all() and np.abs(found.chi_square - 1).max() < 0.05
    assert not found.residual[:, 60 - 22 : 70 - 22, 80 - 22 : 90 - 22].any() and not found.residual[:, 100 - 22].any()
    assert (np.abs(found.free - truth) < 6 * np.sqrt(found.covariance.diagonal(axis1=1, axis2=2))).all()


def odd_images():
    rng, n = np.random.default_rng(0), 150
    x = np.arange(n) * np.ones((n, 1))
    return {
        "zeros": np.zeros((n, n)),
        "constant": np.full((n, n), 7.0),
        "not a number": np.full((n, n), np.nan),
        "white noise": rng.normal(size=(n, n)),
        "counts": rng.poisson(3, (n, n)),
        "huge": rng.normal(size=(n, n)) * 1e300,
        "tiny": rng.normal(size=(n, n)) * 1e-300,
        "hot pixel": rng.normal(size=(n, n)) + np.where((x == 70) & (x.T == 60), 1000, 0),
        "gradient": x,
        "stripes": np.sin(x),
        "negative": -sample("j", "no")[0][0].astype(float),
    }


@pytest.mark.parametrize("name", odd_images())
def test_what_is_no_lens_ends_flagged_and_finite(name):
    found = fit(odd_images()[name])
    assert found.flag[0] != ""
    for values in (found.residual, found.image, found.parameters, found.chi_square):
        assert np.isfinite(values).all()
    assert all(not np.isnan(column).any() for key, column in found.table().items() if key != "flag")


def test_a_lens_without_noise_is_found():
    images, truth = fit_data.clean(J, "no", 2)
    found = fit(images.numpy())
    assert np.abs(found.free - truth).max() < 1e-4 and found.good.all()


def test_free_index_and_centre():
    recipe = changed(J, {"source.sersic_index": 2.0})
    images, truth = fit_data.images(recipe, "no", 3)
    model = SmoothModel(free_index=True, free_centre=True)
    found = fit(images, model)
    assert model.names[8:] == ("log_index", "centre_x", "centre_y") and found.good.all()
    truth = np.concatenate((truth, np.tile([np.log(2), 0, 0], (3, 1))), 1)
    assert (np.abs(found.free - truth) < 5 * np.sqrt(found.covariance.diagonal(axis1=1, axis2=2))).all()
    assert {"sersic_index", "centre_x_sd"} <= set(found.table())


def test_a_ring_with_several_minima_is_tried_from_all_sides(monkeypatch):
    """Of lenses of `wide` that end in a false minimum of the free centre; turned, they end in the true one, too."""
    recipe, rows = RECIPES["wide"], np.array([1305, 2134, 2776])
    images, model = simulate(recipe, "no", rows, 7, "test").astype(float), smooth_model(recipe)
    turned = np.concatenate([images, np.rot90(images, 1, (1, 2))])
    centres = draw(recipe, "no", 7, "test", rows)
    fits = fit(turned, model)
    assert np.abs(fits.chi_square - 1).max() < 0.05 and (fits.residual_significance < 3).all()
    offset = fits.table()["centre_x"][:3] - centres["image.x"]
    assert np.abs(offset / fits.table()["centre_x_sd"][:3]).max() < 5
    monkeypatch.setattr("darklens.fit.run.SHIFTED", np.inf)
    monkeypatch.setattr("darklens.fit.search.Search.from_shifts", lambda _, row, q: q[None])
    assert (fit(images, model).chi_square > 1.05).all()


def test_table_is_in_the_simulators_terms():
    images, _ = sample("j", "no", 40)
    drawn = fit_data.draw.draw(J, "no", 0, "test", range(40))
    table = fit(images).table()
    keys = {"shear": "lens.shear", "source_radius": "source.effective_radius", "axis_ratio": "source.axis_ratio"}
    for name, key in (keys | {"source_x": "source.x", "source_y": "source.y"}).items():
        pull = (table[name] - drawn[key]) / table[f"{name}_sd"]
        assert np.abs(pull).max() < 5 and 0.6 < pull.std() < 1.5, name
    turn = (table["shear_angle"] - np.radians(drawn["lens.shear_angle"]) + np.pi / 2) % np.pi - np.pi / 2
    assert (np.abs(turn) < 5 * table["shear_angle_sd"]).all()


def test_many_is_the_same_as_one_call():
    images, found = mixed()
    told = []
    many = fit_many(images, workers=1, progress=told.append)
    assert sum(told) == len(images) == len(many)
    assert np.array_equal(many.residual, found.residual) and np.array_equal(many.flag, found.flag)
    assert len(fit(images[:0])) == 0


@pytest.mark.slow
def test_processes_change_no_bit():
    images = np.tile(mixed()[0], (6, 1, 1))
    one, two = (fit_many(images, workers=workers, pictures=False) for workers in (1, 2))
    assert np.array_equal(one.residual, two.residual) and one.image.size == 0


KILLED = """
import numpy as np
from darklens.fit import fit_many
if __name__ == "__main__":
    print("started", flush=True)
    fit_many(np.random.default_rng(0).normal(size=(100000, 40, 40)), workers=2, progress=lambda n: print(n, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_fit_leaves_no_process(tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "MARK_OF_THIS_TEST": str(tmp_path)}
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() and parent.stdout.readline()  # a share is done
        assert len(marked(tmp_path)) >= 3
        parent.kill()
    end = time.monotonic() + 20
    while marked(tmp_path) and time.monotonic() < end:
        time.sleep(0.2)
    assert not marked(tmp_path)


def marked(mark):
    """Processes that inherited the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [path] * (f"MARK_OF_THIS_TEST={mark}".encode() in path.read_bytes())
    return found


def test_tensors_and_single_images():
    images, found = mixed()
    for one in (images[0], torch.as_tensor(images[:1])[:, None], images[0].astype(">f4")):
        assert np.abs(fit(one).residual - found.residual[:1]).max() <= 1e-3
    with pytest.raises(ValueError, match="square"):
        fit(images[:, :, :100])


@pytest.mark.parametrize("options", [{}, {"free_index": True, "free_centre": True}])
def test_the_columns_of_the_table(options):
    model = SmoothModel(**options)
    assert tuple(fit(sample("j", "no")[0][:1], model).table()) == model.columns


@functools.cache
def wide():
    """24 smooth lenses of many PSFs, each with the truth of its width, and their fits with all that varies free."""
    recipe = RECIPES["wide"]
    drawn = draw(recipe, "no", 0, "test", range(24))
    images = simulate(recipe, "no", range(24), 0, "test").astype(float)
    return images, drawn, fit(images, smooth_model(recipe))


def test_the_width_of_the_psf_is_found_within_its_covariance():
    _, drawn, found = wide()
    table = found.table()
    assert found.good.all() and np.abs(found.chi_square - 1).max() < 0.06
    for name, truth in (("psf_fwhm", drawn["psf.fwhm"]), ("sersic_index", drawn["source.sersic_index"])):
        pulls = (table[name] - truth) / table[f"{name}_sd"]
        assert abs(pulls.mean()) < 4 / np.sqrt(24) and 0.5 < pulls.std() < 1.7, name
    assert np.ptp(drawn["psf.fwhm"]) > 0.1 and list(table) == list(found.model.columns)


def test_each_images_psf_is_its_own():
    images, _, found = wide()
    assert np.abs(fit(images[5:8], found.model, batch=1).residual - found.residual[5:8]).max() <= 2e-3
    turned = fit(np.rot90(images[:4], 1, (1, 2)), found.model)
    assert (
        np.abs(turned.residual - np.rot90(found.residual[:4], 1, (1, 2))).max() <= 1e-2
    )  # within the tolerance of a fit
    assert np.abs(turned.parameters[:, 11] - found.parameters[:4, 11]).max() <= 1e-3


@pytest.mark.parametrize("wrong", [{"psf_sigma": 0.0}, {"psf_kernel": ((1.0,),)}])
def test_only_a_gaussian_has_a_width(wrong):
    with pytest.raises(ValueError, match="free_psf needs a Gaussian PSF"):
        SmoothModel(free_psf=True, **wrong)


def test_the_room_is_the_function():
    """`import darklens.fit` binds the room to the name of the function: either must do the other's work."""
    import darklens

    images = sample("j", "no")[0][:1]
    assert darklens.fit.SmoothModel is SmoothModel
    assert np.array_equal(darklens.fit(images).parameters, darklens.fit(images).parameters)
    assert darklens.fit is sys.modules["darklens.fit"]

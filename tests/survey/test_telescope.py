"""Telescopes' images: which show a lens galaxy, and what is written of them where the network knows none."""

import copy
import csv
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

import darklens
from darklens.classifier.saved import PRETRAINED
from darklens.fit.lens_galaxy import shows_galaxy
from darklens.simulation.draw import draw
from darklens.simulation.recipes import RECIPES
from darklens.survey.predict import predict_folder
from darklens.survey.telescope import NO_CLASS, knows_galaxies

SCALE = RECIPES["hst"].image.pixel_scale


@pytest.fixture(scope="module")
def network():
    return darklens.load("compact-f")


@pytest.mark.parametrize("name", ["f", "j", "wide", "j_wide"])
def test_rings_show_no_galaxy(name):
    for kind in ("no", "sphere", "vort"):
        assert not any(shows_galaxy(image.astype(float), 0.05) for image in darklens.simulate(name, kind, range(20)))


def test_lens_galaxies_are_seen():
    seen = [shows_galaxy(image.astype(float), 0.05) for image in darklens.simulate("hst", "no", range(20))]
    assert np.mean(seen) > 0.9
    rng = np.random.default_rng(0)
    assert not any(shows_galaxy(rng.normal(size=(120, 120)), 0.05) for _ in range(20))


def test_a_galaxy_with_a_saturated_core_is_seen():
    image = darklens.simulate("hst", "no", [0])[0].astype(float)
    good = image < np.sort(image.ravel())[-9]
    assert shows_galaxy(image, SCALE) and shows_galaxy(np.where(good, image, np.nan), SCALE, good)
    ring = darklens.simulate("j", "no", [0])[0].astype(float)
    y, x = np.mgrid[: len(ring), : len(ring)] - (len(ring) - 1) / 2
    assert not shows_galaxy(ring, 0.05, np.hypot(x, y) > 3)


@pytest.mark.parametrize("name", sorted(path.stem for path in PRETRAINED.glob("*.pt")))
def test_no_shipped_network_knows_a_galaxy_s_light(name):
    """All were trained on rings alone: a galaxy's image has no class, whichever is asked."""
    assert not knows_galaxies(darklens.load(name))


@pytest.fixture(scope="module")
def rows(network, tmp_path_factory):
    """Predict on a folder: three lenses of Hubble with their galaxies, one of them small, and one of Model F."""
    folder = tmp_path_factory.mktemp("telescope")
    images = darklens.simulate("hst", "no", range(3)).astype("f4")
    fits.writeto(folder / "a.fits", images[0], fits.Header({"PIXSCALE": SCALE}))
    cut = images[1, 5:-5, 5:-5]
    fits.writeto(folder / "b.fits", cut, fits.Header({"TELESCOP": "HST", "PIXSCALE": SCALE}))
    np.save(folder / "c.npy", images[2])
    np.save(folder / "d.npy", darklens.simulate("f", "no", [0])[0])
    outputs = folder.parent / "out.csv", folder.parent / "page.html"
    counts = predict_folder(network, folder, outputs[0], quiet=True, workers=0, page=outputs[1])
    assert "this network knows no lens galaxy" in outputs[1].read_text()
    with open(folder.parent / "out.csv", newline="") as file:
        return counts, list(csv.DictReader(file))


def test_a_telescopes_image_has_an_einstein_radius_and_no_class(rows):
    counts, (whole, small, unscaled, simulated) = rows
    assert (counts.classified, counts.rejected, counts.fitted) == (1, 0, 3)
    assert "3 fitted, without a class" in counts.summary() and simulated["class"] == "no"
    truth = draw(RECIPES["hst"], "no", 0, "train", range(3))["halo.einstein_radius"]
    for row, radius in zip((whole, small), truth, strict=False):
        assert row["class"] == row["p_no"] == row["novelty"] == "" and row["flag"].startswith(NO_CLASS)
        assert float(row["einstein_radius"]) == pytest.approx(radius, rel=0.03)
        assert 0 < float(row["einstein_radius_sd"]) < 0.2 and "noise measured in the image" in row["note"]
        assert row["pixel_scale"] == "0.08" and "pixels taken" not in row["note"]
    assert "pixels taken to be of 0.05 arcsec" in unscaled["note"]
    assert float(unscaled["einstein_radius"]) * SCALE / 0.05 == pytest.approx(truth[2], rel=0.03)


@pytest.mark.slow
def test_a_flexible_source_gives_them_a_bayes_factor(network, tmp_path):
    image = darklens.simulate("hst", "no", [1])[0][10:-10, 10:-10]
    fits.writeto(tmp_path / "a.fits", image.astype("f4"), fits.Header({"PIXSCALE": SCALE}))
    predict_folder(network, tmp_path, tmp_path / "out.csv", quiet=True, workers=0, source="flexible")
    (row,) = csv.DictReader(open(tmp_path / "out.csv", newline=""))
    assert not row["class"] and float(row["log_bayes_factor"]) < 5


def test_a_network_that_knows_galaxies_classifies_them(network, tmp_path):
    """As one of a recipe of one's own: nothing is left empty."""
    own = copy.copy(network)
    own.record = replace(network.record, simulation={**network.record.simulation, "name": "mine"})
    fits.writeto(tmp_path / "a.fits", np.pad(darklens.simulate("hst", "no", [0])[0].astype("f4"), 5, mode="edge"))
    counts = predict_folder(own, tmp_path, tmp_path.parent / "own.csv", quiet=True, workers=0)
    assert (counts.classified, counts.fitted) == (1, 0)

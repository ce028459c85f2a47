"""A survey's cutouts measured: what was put in comes out, and the recipe written from it can be drawn."""

import numpy as np
import pytest
from simulated import edited

from darklens.commands import simulate as command
from darklens.data.image import read_picture
from darklens.errors import DataError
from darklens.simulation.recipes import load_recipe
from darklens.simulation.render import simulate
from darklens.survey.measure import measure
from darklens.survey.recipe import power_spectrum, recipe_text

fits = pytest.importorskip("astropy.io.fits")
SCALE = 0.08
RECIPE = edited(
    "hst",
    lens_light="none",
    image={"pixels": 80, "centre_scatter": 0},
    noise={"exposure_time": 2000, "gain": 1, "correlation": 0.6, "read_noise": 0, "sky_magnitude": 21, "peak_snr": 40},
    source={"magnitude": "none", "offset": 0, "effective_radius": 0.1},
    lens={"einstein_radius": 1.2, "axis_ratio": 1, "shear": 0},
)


def header(kind):
    if kind == "CDELT":
        return {"CDELT1": -SCALE / 3600, "CDELT2": SCALE / 3600}
    cards = {"CD1_1": -SCALE / 3600, "CD2_2": SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0}
    return cards if kind == "CD" else {kind: SCALE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cutouts")
    for number, image in enumerate(simulate(RECIPE, "no", range(12))):
        unit = fits.PrimaryHDU(image)
        unit.header["PIXSCALE"], unit.header["BUNIT"] = SCALE, "electron/s"
        unit.writeto(folder / f"{number:02d}_data.fits")
    fits.PrimaryHDU(np.eye(21)).writeto(folder / "a_weight.fits")
    np.save(folder / "other.npy", np.random.default_rng(0).normal(size=(64, 64)))
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_what_was_put_in_comes_out(folder):
    found = measure(folder)
    sky = 10 ** (-0.4 * (21 - 25.96)) * SCALE**2
    assert found.images.shape == (12, 80, 80) and found.pixel_scale == SCALE and found.unit == "electron/s"
    assert found.noise.mean() == pytest.approx(np.sqrt(sky / 2000), rel=0.1)
    assert found.correlation == pytest.approx(0.6, abs=0.1)
    assert np.nanmean(found.ring) * SCALE == pytest.approx(1.2, abs=0.08)
    assert np.median(found.peak_snr) == pytest.approx(40, rel=0.25)
    assert "1 of 13 images are not 80 x 80 pixels" in found.notes[0]


@pytest.mark.parametrize("kind", ["PIXSCALE", "PIXSCAY", "CD", "CDELT"])
def test_pixel_scale_of_a_header(tmp_path, kind):
    unit = fits.PrimaryHDU(np.ones((30, 30), np.float32))
    cards = header(kind)
    if kind.startswith("CD"):
        cards |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 40.0}
    unit.header.update(cards)
    unit.writeto(tmp_path / "one.fits")
    assert read_picture(tmp_path / "one.fits").scale == pytest.approx((SCALE, SCALE), rel=1e-9)
    np.save(tmp_path / "one.npy", np.ones((30, 30)))
    assert read_picture(tmp_path / "one.npy").scale is None


def test_photon_noise_is_seen_by_a_noise_map(tmp_path):
    image = simulate(RECIPE, "no", [0])[0]
    light = np.maximum(image, 0)
    fits.PrimaryHDU(image).writeto(tmp_path / "data.fits")
    fits.PrimaryHDU(np.sqrt(0.01**2 + light / 3000)).writeto(tmp_path / "noise_map.fits")
    assert 1 / measure(tmp_path).variance_per_unit == pytest.approx(3000, rel=0.05)


def test_recipe_and_picture(folder, tmp_path, capsys):
    out = tmp_path / "my survey.toml"
    flags = ["--like", str(folder), "--out", str(out), "--sheet", str(tmp_path / "compared.png")]
    assert command.main(flags) == 0
    recipe = load_recipe(out)
    assert recipe.name == "my_survey" and recipe.image.pixels == 80 and recipe.image.pixel_scale == SCALE
    assert recipe.lens.einstein_radius.bounds[0] < 1.2 < recipe.lens.einstein_radius.bounds[1]
    assert "unit electron/s" in out.read_text() and (tmp_path / "compared.png").stat().st_size > 20_000
    again = simulate(recipe, "no", range(8))
    theirs = measure(folder)
    assert np.std(again[:, :10, :10]) == pytest.approx(np.std(theirs.images[:, :10, :10]), rel=0.25)
    _, power = power_spectrum(again.astype(float))
    assert power.shape == (39,) and recipe_text(theirs, "x") == recipe_text(measure(folder), "x")


def test_a_folder_without_images_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(DataError, match="no cutout in it can be read"):
        measure(tmp_path)
    assert command.main(["--like", str(tmp_path), "--out", str(tmp_path / "x.toml")]) == 2
    assert "no cutout" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--like", str(tmp_path), "--out", str(tmp_path / "folder")])
    assert "--like needs --out FILE.toml" in capsys.readouterr().err

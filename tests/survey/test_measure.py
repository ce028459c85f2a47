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
    survey = measure(folder)
    sky = 10 ** (-0.4 * (21 - 25.96)) * SCALE**2
    assert survey.images.shape == (12, 80, 80) and survey.pixel_scale == SCALE and survey.unit == "electron/s"
    assert survey.noise.mean() == pytest.approx(np.sqrt(sky / 2000), rel=0.1)
    assert survey.correlation == pytest.approx(0.6, abs=0.1)
    assert np.nanmean(survey.ring) * SCALE == pytest.approx(1.2, abs=0.08)
    assert np.median(survey.peak_snr) == pytest.approx(40, rel=0.25)
    assert "1 of 13 images are not 80 x 80 pixels" in survey.notes[0]


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


# ------------------------------------------------------------- cutouts as surveys have them (issue: "wrong recipe")
EUCLID = simulate(edited("euclid"), "no", range(12), seed=7)
PHOTONS = 3.1 * 2264  # a count a second


def padded(at, value, which=range(12)):
    def put(image, number):
        if number in which:
            image[at[number % len(at)]] = value
        return image

    return put


def turned(image, number):
    """A stamp that was turned by 45 degrees."""
    y, x = np.indices(image.shape) - (len(image) - 1) / 2
    return np.where(abs(x) + abs(y) > 0.62 * len(image), np.nan, image)


def star(factor, row, column, width=1.2):
    def put(image, number):
        y, x = np.indices(image.shape)
        return image + factor * image.max() * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * width**2))

    return put


SIDES = [np.s_[:30], np.s_[-30:], np.s_[:, :30], np.s_[:, -30:]]
CHANGES = {
    "plain": lambda image, number: image,
    "zeros on one side": padded(SIDES, 0),
    "NaN on one side": padded([np.s_[:20], np.s_[-20:], np.s_[:, :20]], np.nan),
    "a constant in three of twelve": padded(SIDES, -7, range(3)),
    "a narrow strip of zeros": padded([np.s_[:12]], 0),
    "zeros all round": lambda image, number: np.pad(image[8:-8, 8:-8], 8),
    "turned stamps": turned,
    "a masked corner": padded([np.s_[:25, :25], np.s_[-25:, -25:]], 0),
    "a star in a corner": star(10, 11, 11),
    "a bright star on a side": star(100, 50, 90),
    "a galaxy in a corner": star(2, 85, 14, 5),
    "one odd image": lambda image, number: image * (300 if number == 4 else 1),
}


def cutouts(folder, images, **headers):
    for number, image in enumerate(images):
        cards = {"PIXSCALE": 0.1, "BUNIT": "adu/s"} | {key: value(number) for key, value in headers.items()}
        fits.writeto(folder / f"{number:02d}.fits", image, fits.Header(cards))
    return measure(folder)


@pytest.mark.parametrize("kind", CHANGES)
def test_padding_and_neighbours_are_not_measured(tmp_path, kind):
    survey = cutouts(tmp_path, [CHANGES[kind](image.astype(float), number) for number, image in enumerate(EUCLID)])
    recipe = tmp_path / "x.toml"
    recipe.write_text(recipe_text(survey, "x"))
    noise = load_recipe(recipe).noise
    assert noise.background_rms.values[0] == pytest.approx(0.00353, rel=0.05)
    assert 0.5 < noise.exposure_time.values[0] / PHOTONS < 1.3
    assert np.percentile(survey.peak_snr, [10, 90]) == pytest.approx([10.4, 34.4], rel=0.1)
    low, high = load_recipe(recipe).lens.einstein_radius.bounds
    assert low < 1.2 < high < 2.5
    padding = "padding" in recipe.read_text()
    assert padding == any(word in kind for word in ("zeros", "NaN", "turned", "constant", "masked"))
    assert ("1 of 12 images have a noise 5 times" in recipe.read_text()) == (kind == "one odd image")


def test_blank_images_are_left_out_or_refused(tmp_path):
    images = EUCLID.copy()
    images[:2] = 0
    survey = cutouts(tmp_path, images)
    assert len(survey.images) == 10 and "2 of 12 images are blank" in survey.notes[0]
    (tmp_path / "blank").mkdir()
    with pytest.raises(DataError, match="all 12 images are blank"):
        cutouts(tmp_path / "blank", 0 * images + 3)


@pytest.mark.parametrize("key", ["PIXSCALE", "BUNIT"])
@pytest.mark.parametrize("strangers", [1, 6])
def test_several_scales_or_units_are_said_or_refused(tmp_path, capsys, key, strangers):
    other = {"PIXSCALE": 0.05, "BUNIT": "nJy"}[key]
    usual = {"PIXSCALE": 0.1, "BUNIT": "adu/s"}[key]

    def measured():
        return cutouts(tmp_path, EUCLID, **{key: lambda number: other if number < strangers else usual})

    if strangers == 1:
        survey = measured()
        assert len(survey.images) == 11 and survey.pixel_scale == 0.1 and survey.unit == "adu/s"
        assert survey.notes[0].startswith("1 of 12 images have other")
    else:
        with pytest.raises(DataError, match=r"images of 2 .*\(6 images\) and .*\(6 images\)"):
            measured()
        assert command.main(["--like", str(tmp_path), "--out", str(tmp_path / "x.toml")]) == 2
        assert "measure those of one at a time" in capsys.readouterr().err


@pytest.mark.parametrize("name", ['a "good" survey', "back\\slash", "tab\tand = [brackets]", "é ü"])
def test_any_path_of_a_psf_can_be_read_back(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    fits.writeto(folder / "psf.fits", np.exp(-(np.mgrid[-7:8, -7:8] ** 2).sum(0) / 4.0))
    survey = cutouts(folder, EUCLID[:3])
    (tmp_path / "x.toml").write_text(recipe_text(survey, "x"), encoding="utf-8")
    assert load_recipe(tmp_path / "x.toml").psf.file == str(folder / "psf.fits")


def test_a_psf_that_cannot_be_used_is_said(tmp_path):
    fits.writeto(tmp_path / "psf.fits", np.exp(-(np.mgrid[-7:9, -7:9] ** 2).sum(0) / 4.0))
    text = recipe_text(cutouts(tmp_path, EUCLID[:3]), "x")
    (tmp_path / "x.toml").write_text(text)
    assert "# The PSF beside the images cannot be used" in text and "16 pixels wide" in text
    assert load_recipe(tmp_path / "x.toml").psf.kind == "gaussian"

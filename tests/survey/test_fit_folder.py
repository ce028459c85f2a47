"""Fits of a survey: a row an image, at its own scale and PSF, with what lies beside it; no network."""

import csv
import functools
import math
from pathlib import Path

import fit_data
import numpy as np
import pytest
from astropy.io import fits
from programs import run as run_main

from darklens.errors import DataError, UsageError
from darklens.fit.cosmic_rays import contrast, cosmic_rays
from darklens.fit.lens_galaxy import shows_galaxy
from darklens.plots.lens import plot_lens
from darklens.simulation.draw import draw
from darklens.simulation.psf import gaussian_taps
from darklens.simulation.recipes import RECIPES, changed
from darklens.simulation.render import simulate
from darklens.survey import lens_fit, subhalo
from darklens.survey.fit_folder import FitOptions, fit_columns, fit_folder
from darklens.survey.lens_fit import LensImage, fit_lens

SCALE = 0.05
PSF = np.outer(gaussian_taps(1.7), gaussian_taps(1.7))  # of Models F and J


@functools.cache
def lenses(count=3):
    """Images of Model F without substructure, and their Einstein radii."""
    images, truth = fit_data.images(fit_data.F, "no", count, 4)
    return images.astype(float), truth[:, 0]


@pytest.fixture
def survey(tmp_path) -> Path:
    folder = tmp_path / "survey"
    (folder / "deep").mkdir(parents=True)
    for number, image in enumerate(lenses()[0]):
        np.save(folder / ("deep" if number else ".") / f"{number}.npy", image)
    np.save(tmp_path / "psf.npy", PSF)
    return folder


def options(folder: Path, **changes) -> FitOptions:
    return FitOptions(pixel_scale=SCALE, psf=str(folder.parent / "psf.npy"), **changes)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def run(folder: Path, chosen: FitOptions | None = None, **keywords):
    output = Path(folder).parent / "fits.csv"
    counts = fit_folder(folder, output, chosen or options(folder), quiet=True, workers=0, **keywords)
    return counts, table(output)


def write_list(folder: Path, rows: list[dict]) -> Path:
    path = folder.parent / "list.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_folder_gives_a_row_a_lens(survey):
    counts, rows = run(survey)
    assert [row["file"] for row in rows] == ["0.npy", "deep/1.npy", "deep/2.npy"] and list(rows[0]) == fit_columns()
    for row, truth in zip(rows, lenses()[1], strict=True):
        assert abs(float(row["einstein_radius"]) - truth) < 5 * float(row["einstein_radius_sd"]) < 0.1
        assert abs(float(row["chi_square"]) - 1) < 0.06 and row["lens_light"] == "none" and row["flag"] == ""
        assert abs(float(row["residual_significance"])) < 4 and float(row["pixel_scale"]) == SCALE
        assert "noise measured in the image" in row["note"]
    assert counts.fitted == 3 and counts.flagged == counts.rejected == 0 and "3 images fitted" in counts.summary()


def test_one_file_will_do(survey):
    _, rows = run(survey / "0.npy", options(survey))
    assert len(rows) == 1 and float(rows[0]["einstein_radius"]) == pytest.approx(lenses()[1][0], abs=0.02)


def test_a_list_says_what_lies_beside(survey):
    image, half = lenses()[0][0].copy(), 0.5 * np.sqrt(lenses()[0][0])
    mask = np.zeros(image.shape, np.uint8)
    mask[60:66, 90:96] = 1
    image[60:66, 90:96] = 1e5
    half[30, 30], half[31, 31], half[32, 32], half[33, 33] = 0, -1, np.inf, 1e9
    image[range(30, 34), range(30, 34)] = 7e4
    for name, array in {"image": image, "noise": half, "mask": mask}.items():
        np.save(survey / f"{name}.npy", array)
    fits.writeto(survey / "image.fits", image)
    row = {"noise_map": "survey/noise.npy", "mask": "survey/mask.npy", "psf": "psf.npy", "pixel_scale": SCALE}
    rows = [{"file": "survey/image.npy", "ra": "1.5"} | row, {"file": "survey/image.fits", "ra": "x, y"} | row]
    rows.append({"file": "survey/0.npy", "psf": "psf.npy", "pixel_scale": SCALE})
    counts, found = run(write_list(survey, rows), FitOptions())
    assert [row["ra"] for row in found] == ["1.5", "x, y", ""] and counts.fitted == 3
    for row in found[:2]:
        assert float(row["einstein_radius"]) == pytest.approx(lenses()[1][0], abs=0.02)
        assert float(row["noise_scale"]) == pytest.approx(2, rel=0.05) and float(row["chi_square"]) > 3
        assert "36 pixels masked as listed" in row["note"] and "4 pixels without weight" in row["note"]
    assert float(found[2]["noise_scale"]) == 1


def test_what_cannot_be_used_is_named_in_its_row(survey):
    np.save(survey / "small.npy", np.ones((10, 10)))
    np.save(survey / "cube.npy", np.ones((3, 40, 40)))
    np.save(survey / "nan.npy", np.full((60, 60), np.nan))
    np.save(survey / "flat.npy", np.ones((60, 60)))
    (survey / "text.npy").write_text("no array")
    np.save(survey / "shape.npy", np.ones((3, 3)))
    good = {"file": "survey/0.npy", "psf": "psf.npy", "pixel_scale": SCALE}
    rows = [
        {"file": f"survey/{name}.npy", "pixel_scale": SCALE}
        for name in ("small", "cube", "nan", "flat", "text", "gone")
    ]
    rows += [good | {"pixel_scale": ""}, good | {"noise_map": "survey/shape.npy", "mask": "survey/shape.npy"}]
    rows += [good | {"psf": "survey/nan.npy"}, {"file": "", "pixel_scale": SCALE}]
    counts, found = run(write_list(survey, rows), FitOptions())
    words = ["21 x 21", "one plane", "nothing to fit", "nothing to fit", "a .npy file", "No such file", "pixel scale"]
    for row, word in zip(found, words, strict=False):
        assert word in row["flag"], row
    assert [bool(row["einstein_radius"]) for row in found[-4:]] == [False, True, True, False]
    assert "noise_map" in found[7]["flag"] and "mask" in found[7]["flag"] and "PSF not used" in found[8]["flag"]
    assert "a Gaussian of 2.2 pixels" in found[8]["note"] and counts.fitted + counts.rejected == len(rows)


def test_nothing_to_fit_at_all_leaves_the_old_table(tmp_path):
    folder = tmp_path / "survey"
    folder.mkdir()
    np.save(folder / "small.npy", np.ones((10, 10)))
    (tmp_path / "fits.csv").write_text("old")
    with pytest.raises(DataError, match="no file of 1 could be fitted"):
        fit_folder(folder, tmp_path / "fits.csv", FitOptions(pixel_scale=1.0), quiet=True, workers=0)
    assert (tmp_path / "fits.csv").read_text() == "old"
    with pytest.raises(UsageError, match="einstein_radius"):
        np.save(folder / "0.npy", lenses()[0][0])
        rows = [{"file": "survey/0.npy", "einstein_radius": 1}]
        fit_folder(write_list(folder, rows), tmp_path / "fits.csv", FitOptions(pixel_scale=1.0), quiet=True)


def test_parts_are_the_whole_and_go_on(survey, tmp_path):
    whole = run(survey)[1]
    rows = []
    for number in (1, 2):
        output = tmp_path / f"fits-{number}-of-2.csv"
        fit_folder(survey, output, options(survey), quiet=True, workers=0, part=(number, 2))
        rows += table(output)
    assert rows == whole
    again = fit_folder(survey, tmp_path / "fits-2-of-2.csv", options(survey), quiet=True, workers=0, part=(2, 2))
    assert again.rows_before == 2 and again.fitted == 2
    partial = tmp_path / "fits-2-of-2.csv.partial"
    content = (tmp_path / "fits-2-of-2.csv").read_bytes()
    (tmp_path / "fits-2-of-2.csv").unlink()
    partial.write_bytes(content[: content.index(b"\r\n", content.index(b"\r\n") + 2) + 9])
    again = fit_folder(survey, tmp_path / "fits-2-of-2.csv", options(survey), quiet=True, workers=0, part=(2, 2))
    assert again.rows_before == 1 and (tmp_path / "fits-2-of-2.csv").read_bytes() == content


@pytest.mark.slow
def test_workers_change_nothing(survey, tmp_path):
    expected = run(survey)[1]
    fit_folder(survey, tmp_path / "two.csv", options(survey), quiet=True, workers=2)
    assert table(tmp_path / "two.csv") == expected


def test_pictures_are_drawn(survey):
    pictures = survey.parent / "deep" / "pictures"
    run(survey, options(survey, pictures=str(pictures)))
    assert sorted(path.name for path in pictures.iterdir()) == ["0.npy.png", "deep_1.npy.png", "deep_2.npy.png"]
    assert all(path.stat().st_size > 10_000 for path in pictures.iterdir())


@functools.cache
def galaxy(name="hst"):
    recipe = RECIPES[name]
    drawn = draw(recipe, "no", 0, "test", range(2))
    return simulate(recipe, "no", range(2), 0, "test").astype(float), drawn, recipe


def test_a_lens_galaxy_is_seen_and_modelled():
    images, drawn, recipe = galaxy()
    scale, kernel = recipe.image.pixel_scale, np.outer(gaussian_taps(0.8), gaussian_taps(0.8))
    assert all(shows_galaxy(image, scale) for image in images) and not any(shows_galaxy(i, SCALE) for i in lenses()[0])
    result = fit_lens(LensImage(images[0], scale, None, kernel), pictures=True)
    assert result.values["lens_light"] == "mge" and "noise measured in the image" in result.notes
    truth = drawn["halo.einstein_radius"][0]
    assert float(result.values["einstein_radius"]) == pytest.approx(truth, rel=0.1)
    assert 0 <= result.values["halo_angle"] < math.pi and result.pictures.source is not None


def test_the_window_follows_the_ring():
    """A ring of 2.6 arcsec does not fit the usual window of 5.25."""
    mass = fit_data.F.lens.total_mass.values[0] * (2.6 / lenses()[1].mean()) ** 2
    image, truth = fit_data.images(changed(fit_data.F, {"lens.total_mass": mass, "image.pixels": 201}), "no", 1)
    result = fit_lens(LensImage(image[0].astype(float), SCALE, None, PSF), "none", pictures=True)
    assert truth[0, 0] == pytest.approx(2.6, abs=0.2) and 2 * result.pictures.half > 8
    assert float(result.values["einstein_radius"]) == pytest.approx(truth[0, 0], abs=0.02)


def test_cosmic_rays_are_found_and_stars_are_not():
    rng, n = np.random.default_rng(0), 80
    noise, stars = np.ones((n, n)), np.zeros((n, n))
    stars[rng.integers(8, 72, 6), rng.integers(8, 72, 6)] = 10 ** rng.uniform(2, 4, 6)
    from scipy import signal

    clean = signal.convolve2d(stars, PSF, "same")
    image = clean + rng.normal(size=(n, n))
    good = np.ones((n, n), dtype=bool)
    assert not cosmic_rays(image, noise, PSF, good).any() and min(contrast(PSF)) > 1
    struck = np.zeros((n, n), dtype=bool)
    struck[rng.integers(0, n, 30), rng.integers(0, n, 30)] = True
    struck[40, 40:45] = True  # a long one
    struck &= clean < 1
    found = cosmic_rays(image + 30.0 * struck, noise, PSF, good)
    assert found[struck].mean() > 0.9 and not found[~struck].any()


def test_struck_pixels_are_masked(survey):
    image = lenses()[0][0].copy()
    image[50, 50], image[70, 99] = 5000, 3000
    clean = fit_lens(LensImage(lenses()[0][0], SCALE, None, PSF))
    result = fit_lens(LensImage(image, SCALE, None, PSF))
    assert any("2 pixels struck by cosmic rays" in note for note in result.notes)
    assert result.values["einstein_radius"] == pytest.approx(clean.values["einstein_radius"], abs=2e-3)


def test_the_command_line(survey, monkeypatch, capsys):
    monkeypatch.chdir(survey.parent)
    words = ["--mode", "Fit", "--data_dir", "survey", "--pixel_scale", "0.05", "--psf", "psf.npy", "--num_workers", "0"]
    assert run_main(*words, "--explain", "--quiet") == 0
    assert "3 images fitted" in capsys.readouterr().out and len(table(Path("fits.csv"))) == 3
    assert len(list(Path("fits_pictures").iterdir())) == 3
    assert run_main(*words, "--part", "1/3", "--output", "o.csv", "--quiet") == 0
    assert len(table(Path("o-1-of-3.csv"))) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--mode", "Fit"], "needs --data_dir"),
        (["--mode", "Fit", "--data_dir", "x", "--weights", "compact-f"], "takes no network"),
        (["--mode", "Fit", "--data_dir", "x", "--resample"], "--resample goes with --mode Predict"),
        (["--mode", "Predict", "--data_dir", "x", "--pixel_scale", "0.1"], "--pixel_scale goes with --mode Fit"),
        (["--mode", "Fit", "--data_dir", "x", "--pixel_scale", "0"], "above 0"),
        (["--mode", "Fit", "--data_dir", "x", "--lens_light", "sersic"], "invalid choice"),
        (["--mode", "Fit", "--data_dir", "x", "--detect"], "--detect goes with --source flexible"),
        (["--mode", "Fit", "--data_dir", "nowhere"], "nowhere"),
    ],
)
def test_wrong_command_lines_get_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    try:
        status = run_main(*words)
    except SystemExit as error:
        status = error.code
    assert status != 0 and message in capsys.readouterr().err


@pytest.mark.slow
def test_the_strongest_subhalo_is_where_it_was_put(tmp_path, monkeypatch):
    """1.2e10 of 1e12 Msun beside the arcs: place, mass, Bayes factor, and a panel. Few starts, for time."""
    few = functools.partial(subhalo.strongest, starts=2, finalists=1, shifts=np.zeros((0, 2)))
    monkeypatch.setattr(subhalo, "strongest", few)
    place, share = np.array([0.6, 0.7]), 0.012
    images, _ = fit_data.with_subhalo(fit_data.J, np.array([share * 1e12]), place[None])
    result = fit_lens(
        LensImage(images[0].astype(float), SCALE, None, PSF), "none", True, source="flexible", detect=True
    )
    values = result.values
    assert np.hypot(values["subhalo_x"] - place[0], values["subhalo_y"] - place[1]) < 0.1
    assert values["subhalo_mass_fraction"] == pytest.approx(share, rel=0.4) and values["subhalo_log_bayes_factor"] > 10
    radius = values["einstein_radius"] * share**0.5
    assert values["subhalo_einstein_radius"] == pytest.approx(radius, rel=0.2)
    assert plot_lens(tmp_path, "lens", result.pictures, values, "one lens").stat().st_size > 1e4


@pytest.mark.parametrize("flag", ["poor fit", "its PSF may be wider than assumed", "poor_fit"])
def test_no_subhalo_is_looked_for_where_the_lens_is_not_described(flag):
    """That took minutes, and found what the PSF had left."""
    fitted = lens_fit.LensFit({"chi_square": 7.0}, ["broad_source", flag], ["noise measured"], None)
    result = lens_fit._with_subhalo(fitted, object())
    assert result.notes == ["noise measured", f"no subhalo was looked for: {flag}"] and result.values == fitted.values


def test_more_than_noise_is_flagged():
    images, _ = fit_data.images(fit_data.F, "vort", 2)
    for image in images:
        result = fit_lens(LensImage(image.astype(float), SCALE, None, PSF))
        assert result.values["residual_significance"] > 5 and len(result.flags) == 1


@pytest.mark.slow
def test_a_flexible_source_gives_a_bayes_factor():
    images, truth = lenses()
    result = fit_lens(LensImage(images[0], SCALE, None, PSF), "none", pictures=True, source="flexible")
    assert float(result.values["log_bayes_factor"]) < 10 and float(result.values["residual_significance"]) < 3
    assert float(result.values["chi_square"]) == pytest.approx(1, abs=0.06)
    assert (
        result.pictures.source.shape == (101, 101)
        and "log_bayes_factor" not in fit_lens(LensImage(images[0], SCALE, None, PSF), "none").values
    )

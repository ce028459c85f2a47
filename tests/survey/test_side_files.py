"""One noise map, PSF or name that is wrong costs one row its figures or gives it a flag, and no survey its table."""

import csv
from pathlib import Path

import numpy as np
import pytest

import darklens
from darklens.classifier.classifier import Classifier
from darklens.survey.catalogue import find_survey
from darklens.survey.predict import Counts, predict_folder

Y, X = np.mgrid[-7:8, -7:8]
KERNEL = np.exp(-(X**2 + Y**2) / 5.8)


@pytest.fixture(scope="module")
def network() -> Classifier:
    return darklens.load("compact-f")


@pytest.fixture
def survey(tmp_path) -> Path:
    """Three images, a noise map and a PSF of theirs."""
    for number, image in enumerate(darklens.simulate("f", "sphere", range(3))):
        np.save(tmp_path / f"l{number}.npy", image)
    np.save(tmp_path / "noise.npy", np.sqrt(np.maximum(np.load(tmp_path / "l1.npy"), 1.0)))
    np.save(tmp_path / "psf.npy", KERNEL)
    return tmp_path


def table(network: Classifier, folder: Path, text: str, **options) -> list[dict[str, str]]:
    (folder / "list.csv").write_text(text)
    predict_folder(network, folder / "list.csv", folder / "out.csv", quiet=True, workers=0, **options)
    with open(folder / "out.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("column", ["noise_map", "psf"])
@pytest.mark.parametrize("shape", [(..., None), (None, ...)])
def test_an_axis_of_one_changes_nothing(network, survey, column, shape):
    name = column.removesuffix("_map")
    np.save(survey / "other.npy", np.load(survey / f"{name}.npy")[shape])
    plain, same = (
        table(network, survey, f"file,{column}\nl0.npy,\nl1.npy,{file}.npy\nl2.npy,\n") for file in (name, "other")
    )
    assert plain == same and len(plain) == 3 and not any(".npy" in row["flag"] for row in plain)


@pytest.mark.parametrize("column", ["noise_map", "psf"])
@pytest.mark.parametrize("bad", ["a\0.npy", "gone.npy", "l0.npy[SCI", "list.csv", ".", "cube.npy", "l1.npy/x.npy"])
def test_a_bad_side_file_is_named_in_its_row(network, survey, column, bad):
    np.save(survey / "cube.npy", np.ones((4, 150, 150)))
    rows = table(network, survey, f"file,{column}\nl0.npy,\nl1.npy,{bad}\nl2.npy,\n")
    assert [bool(row["class"]) for row in rows] == [True, True, True]
    assert [column in row["flag"] for row in rows] == [False, True, False]


@pytest.mark.parametrize("bad", ["a\0.npy", "\0", "l1\0.npy", "x" * 300 + ".npy"])
def test_a_name_that_no_file_can_have_is_rejected_in_its_row(network, survey, bad):
    rows = table(network, survey, f"file\nl0.npy\n{bad}\nl2.npy\n")
    assert [bool(row["class"]) for row in rows] == [True, False, True] and rows[1]["flag"]


def test_noise_of_1e16_is_no_weight_when_images_are_resampled(network, survey):
    """Euclid's mark for bad pixels, beside NaN: the same row."""
    noise, rows = np.load(survey / "noise.npy"), []
    for mark in (np.nan, 1e16):
        noise[60:64, 40:46] = mark
        np.save(survey / "marked.npy", noise)
        text = "file,noise_map,pixel_scale\nl1.npy,marked.npy,0.04\nl0.npy,,\n"
        rows.append(table(network, survey, text, resample=True)[0])
    assert rows[0] == rows[1] and float(rows[0]["chi_square"]) > 0.5
    assert "24 pixels have no weight by their noise map" in rows[0]["note"]


MISSPELT = {
    "Noise_Map": ("noise.npy", "noise_map"),
    "NOISE MAP": ("", "noise_map"),
    "noise": ("0.3", "noise_map"),
    "rms": ("noise.npy", "noise_map"),
    "err": ("noise.fits[ERR]", "noise_map"),
    "PSF": ("psf.npy", "psf"),
    "psf_file": ("psf.fits", "psf"),
    "Mask": ("", "mask"),
    "mask_file": ("a.fits", "mask"),
    "PixelScale": ("0.05", "pixel_scale"),
    "pixscale": ("0.05", "pixel_scale"),
}


@pytest.mark.parametrize("column", MISSPELT)
def test_columns_that_seem_to_be_meant_are_named(tmp_path, column):
    value, meant = MISSPELT[column]
    (tmp_path / "list.csv").write_text(f"file,{column}\nl0.npy,\nl1.npy,{value}\n")
    survey = find_survey(tmp_path / "list.csv")
    assert survey.misspelt == ((column, meant),) and survey.columns == (column,)
    summary = Counts(2, 0, 0, 0, misspelt=survey.misspelt).summary()
    assert f"the column {column} was not used: call it {meant} if it is" in summary and "\n" not in summary


@pytest.mark.parametrize("columns", ["id,ra,dec", "rms,id", "sigma_v,z", "noise_map,noise", "psf,PSF", "error,err_ra"])
def test_other_columns_pass_through_in_silence(tmp_path, columns):
    (tmp_path / "list.csv").write_text(f"file,{columns}\n" + "l0.npy" + ",0.3" * len(columns.split(",")) + "\n")
    assert find_survey(tmp_path / "list.csv").misspelt == ()


def test_a_folder_s_noise_maps_and_masks_get_no_rows(tmp_path):
    names = ["a_image.npy", "a_mask.npy", "a_noise_map.npy", "b.npy", "psf.npy"]
    for name in names:
        np.save(tmp_path / name, np.ones((40, 40)))
    survey = find_survey(tmp_path)
    assert [entry.file for entry in survey.entries] == ["a_image.npy", "b.npy"] and survey.skipped == 3
    assert [entry.file for entry in find_survey(tmp_path / "psf.npy").entries] == ["psf.npy"]

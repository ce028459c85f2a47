"""predict.py: a row for every file, whatever the files are; a whole table or the old one."""

import bz2
import csv
import gzip
import os
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from conftest import write_images
from PIL import Image

from darklens.classifier import predictions
from darklens.classifier.calibrate import fit_on
from darklens.classifier.classifier import Classifier
from darklens.data.folder import scan
from darklens.data.transforms import default_preprocess
from darklens.errors import DataError, ResultsError, UsageError
from darklens.networks.equivariant import build_network
from darklens.survey.image_files import find_pictures
from darklens.survey.items import STRUCTURED_NOTE, SurveyReader
from darklens.survey.predict import Counts, predict_folder
from darklens.survey.tables import Tally

CLASSES = ["no", "sphere", "vort"]
P, CALIBRATED = [f"p_{name}" for name in CLASSES], [f"calibrated_{name}" for name in CLASSES]


def new(**changes) -> Classifier:
    torch.manual_seed(0)
    network = build_network({"arch": "compact", "head": "pooled", "size": 39, **changes})
    return Classifier(network, CLASSES, default_preprocess(39), temperature=1.7)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    folder = write_images(tmp_path_factory.mktemp("train"), counts={"train": 40, "val": 40})
    model = new()
    model.novelty = fit_on(model, *(scan(folder).splits[name].images for name in ("train", "val")), quiet=True)
    return model


@pytest.fixture
def survey(tmp_path) -> Path:
    """Twelve good images of 40 x 40 pixels, in folders as users have them."""
    source = write_images(tmp_path / "source", counts={"new": 4}, seed=9)
    folder = tmp_path / "survey"
    for number, path in enumerate(sorted(source.rglob("*.npy"))):
        target = folder / ("a", "b/deeper", ".")[number % 3] / f"{number:02d}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def run(classifier, folder: Path, **options) -> tuple[Counts, list[dict[str, str]]]:
    output = folder.parent / "predictions.csv"
    return predict_folder(classifier, folder, output, quiet=True, **options), table(output)


def numbers(rows: list[dict], columns: list[str]) -> np.ndarray:
    return np.array([[float(row[column]) for column in columns] for row in rows])


# --- figures ------------------------------------------------------------------------------------------------


def test_rows_are_in_order_with_the_figures_of_predict(classifier, survey):
    counts, rows = run(classifier, survey, batch_size=5)
    names = [row["file"] for row in rows]
    assert names == [str(path.relative_to(survey)) for path in sorted(survey.rglob("*.npy"))]
    images = np.stack([np.load(survey / name) for name in names])
    calibrated = classifier.predict(images)
    np.testing.assert_allclose(numbers(rows, CALIBRATED), calibrated, atol=2e-6)
    plain = calibrated**classifier.temperature
    np.testing.assert_allclose(numbers(rows, P), plain / plain.sum(1, keepdims=True), atol=1e-5)
    assert [row["class"] for row in rows] == [CLASSES[k] for k in calibrated.argmax(1)]
    assert (counts.classified, counts.rejected, counts.skipped) == (12, 0, 0)


def test_batch_size_and_workers_do_not_matter(classifier, survey):
    (survey / "0 broken.npy").write_bytes(b"no image")
    columns, found = [*P, *CALIBRATED, "novelty"], []
    for batch_size, workers in ((1, 1), (5, 3), (64, 0)):
        counts, rows = run(classifier, survey, batch_size=batch_size, workers=workers)
        assert counts[:1] + counts[2:] == (12, 1, 0, 0, (), (), 0, 0) and rows[0]["file"] == "0 broken.npy"
        found.append(numbers(rows[1:], columns))
    for other in found[1:]:
        np.testing.assert_allclose(other[:, :-1], found[0][:, :-1], atol=1e-5)
        np.testing.assert_allclose(other[:, -1], found[0][:, -1], rtol=1e-2)


def test_bf16_is_close(classifier, survey):
    exact, rounded = (numbers(run(classifier, survey, precision=p)[1], P) for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - rounded).max() < 0.02


def test_without_temperature_and_novelty_their_cells_are_empty(survey):
    model = new()
    model.temperature = None
    counts, rows = run(model, survey)
    assert counts == (12, 0, 0, 0, 0, (), (), 0, 0)
    assert {row[column] for row in rows for column in (*CALIBRATED, "novelty", "flag")} == {""}
    np.testing.assert_allclose(numbers(rows, P).sum(1), 1, atol=3e-6)


def test_larger_images_are_cropped_about_their_centre(classifier, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "survey"
    folder.mkdir()
    image = rng.poisson(50, (61, 61))
    np.save(folder / "whole.npy", image)
    np.save(folder / "centre.npy", image[11:50, 11:50])
    _, rows = run(classifier, folder)
    np.testing.assert_allclose(*(numbers([row], [*P, "novelty"]) for row in rows), rtol=1e-3)


# --- flags and rejections -----------------------------------------------------------------------------------


def write_strange(folder: Path) -> dict[str, tuple[str, str]]:
    """Files beside good ones: name -> part of the flag, and whether there is a class all the same."""
    rng = np.random.default_rng(1)
    good = np.load(folder / "02.npy")
    centre, border = good.astype("f4"), good.astype("f4")
    centre[20, 20] = border[:3] = np.nan
    arrays = {
        "static": (rng.poisson(30, (40, 40)), predictions.UNLIKE, True),
        "constant": (np.full((40, 40), 5), f"{predictions.CONSTANT}; {predictions.UNLIKE}", True),
        "border": (border, predictions.FILLED, True),
        "centre": (centre, "expected finite pixels", False),
        "oblong": (good[:, 4:], "39 x 39 pixels or more, found 40 x 36", False),
        "small": (good[:36, :36], "39 x 39 pixels or more, found 36 x 36", False),
        "colour": (np.stack([good] * 3), "expected 1 channel(s), as in the training data, found 3", False),
        "complex": (good * 1j, "number type", False),
    }
    for name, (array, *_) in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "empty.npy").touch()
    (folder / "cut.npy").write_bytes((folder / "02.npy").read_bytes()[:-7])
    (folder / "page.fits").write_text("<html>")
    files = {"empty.npy": ("an empty file", False), "cut.npy": ("truncated", False), "page.fits": ("a web page", False)}
    return files | {f"{name}.npy": (flag, good) for name, (_, flag, good) in arrays.items()}


def test_every_file_gets_a_row(classifier, survey):
    expected = write_strange(survey)
    counts, rows = run(classifier, survey, batch_size=4)
    found = {row["file"]: row for row in rows}
    assert len(found) == len(rows) == 12 + len(expected)
    for name, (flag, classified) in expected.items():
        assert flag in found[name]["flag"], name
        cells = {found[name][column] for column in ("class", *P, *CALIBRATED, "novelty")}
        assert cells == {""} if not classified else "" not in cells
        assert str(survey) not in found[name]["flag"]
    flagged = sum(bool(row["flag"]) for row in rows if row["class"])
    assert counts == (15, flagged, 8, 0, 0, (), (), 0, 0)
    assert "120 NaN pixels" in found["border.npy"]["note"]
    assert float(found["static.npy"]["novelty"]) > 1 and "unlike" not in found["02.npy"]["flag"]


def test_good_images_are_what_they_are_among_bad_ones(classifier, survey):
    _, alone = run(classifier, survey)
    strange = write_strange(survey)
    _, among = run(classifier, survey, batch_size=3)
    among = [row for row in among if row["file"] not in strange]
    np.testing.assert_allclose(numbers(among, P), numbers(alone, P), atol=1e-5)


def test_fits_png_and_tiff_among_npy(classifier, survey):
    image = np.load(survey / "02.npy")
    header = fits.Header({"BUNIT": "electron/s"})
    fits.writeto(survey / "x.fits", image.astype(">f4"), header)
    Image.fromarray(image).save(survey / "x.png")
    Image.fromarray(image).save(survey / "X.TIF")
    counts, rows = run(classifier, survey)
    same = [row for row in rows if row["file"] in ("02.npy", "x.fits", "x.png", "X.TIF")]
    assert len(same) == 4 and counts.classified == 15
    np.testing.assert_allclose(numbers(same, P), np.repeat(numbers(same[:1], P), 4, 0), atol=1e-5)
    assert {row["file"]: row["unit"] for row in same if row["unit"]} == {"x.fits": "electron/s"}


def test_many_fits_files_at_once(classifier, tmp_path):
    """Four threads in astropy; and warnings are afterwards shown as before."""
    folder = write_images(tmp_path / "survey", counts={"new": 10}, seed=3)
    for path in list(folder.rglob("*.npy")):
        fits.writeto(path.with_suffix(".fits"), np.load(path))
    before = list(warnings.filters)
    counts, rows = run(classifier, folder, workers=2)
    assert counts.classified == 60 and warnings.filters == before
    pairs = np.stack([numbers(rows[k::2], P) for k in (0, 1)])  # 0000.fits, 0000.npy, 0001.fits, ...
    np.testing.assert_allclose(pairs[0], pairs[1], atol=1e-5)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f8"])
def test_any_number_type(classifier, tmp_path, dtype):
    folder = tmp_path / "survey"
    folder.mkdir()
    image = np.random.default_rng(0).poisson(60, (40, 40)).clip(0, 127)
    np.save(folder / "a.npy", image.astype("f4"))
    np.save(folder / "b.npy", image.astype(dtype))
    _, rows = run(classifier, folder)
    np.testing.assert_allclose(*(numbers([row], P) for row in rows), atol=1e-5)


def test_three_channels(survey, tmp_path):
    folder = tmp_path / "colour"
    folder.mkdir()
    image = np.load(survey / "02.npy")
    np.save(folder / "grey.npy", image)
    np.save(folder / "rgb.npy", np.stack([image, image // 2, image // 3], -1))
    counts, rows = run(new(channels=3), folder)
    assert counts == (1, 0, 1, 0, 0, (), (), 0, 0)
    assert "expected 3 channel(s)" in rows[0]["flag"] and rows[1]["class"]


# --- files --------------------------------------------------------------------------------------------------

ODD_NAMES = ["comma, in.npy", 'quo"te.npy', "line\nbreak.npy", "return\r.npy", "=1+1.npy", "é ü 星.npy", " .npy"]


def test_odd_names_leave_the_table_valid(classifier, survey):
    image = np.load(survey / "02.npy")
    for name in ODD_NAMES:
        np.save(survey / name, image)
    counts, rows = run(classifier, survey)
    assert counts.classified == 12 + len(ODD_NAMES)
    assert set(ODD_NAMES) <= {row["file"] for row in rows} and None not in rows[0]


def test_names_that_are_no_utf8(classifier, survey):
    bad = os.fsencode(survey) + b"/caf\xe9.npy"
    try:
        os.replace(survey / "02.npy", bad)
    except OSError:
        pytest.skip("this file system refuses such names")
    counts, rows = run(classifier, survey)
    assert counts.classified == 12 and "caf\\xe9.npy" in {row["file"] for row in rows}


def test_strays_hidden_files_and_loops_are_skipped(classifier, survey, tmp_path):
    for name in (".DS_Store", "._02.npy", "notes.txt", "x.npz", "b/Thumbs.db"):
        (survey / name).write_bytes(b"x")
    for name in (".git", "__MACOSX"):
        (survey / name).mkdir()
        (survey / name / "02.npy").write_bytes(b"x")
    (survey / "b" / "up").symlink_to(survey)
    (survey / "b" / "self").symlink_to("self")
    (survey / "again").symlink_to(survey / "a")
    (survey / "broken.npy").symlink_to("nowhere.npy")
    os.mkfifo(survey / "pipe.npy")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "back").symlink_to(survey)
    np.save(outside / "linked.npy", np.load(survey / "02.npy"))
    (survey / "z").symlink_to(outside)
    (survey / "zz").symlink_to(outside)
    counts, rows = run(classifier, survey)
    assert (counts.classified, counts.rejected, counts.skipped) == (13, 1, 4 + 2 + 3 + 2 + 2)
    assert rows[-1]["file"] == "z/linked.npy" and "archive" in next(
        row["flag"] for row in rows if row["file"] == "x.npz"
    )


def test_link_to_a_folder_above_does_not_return(survey):
    (survey / "a" / "up").symlink_to(survey.parent)
    _, names, _ = find_pictures(survey)
    assert len([name for name in names if "survey" in name]) == 0 and len(names) == 12


def test_order_is_that_of_paths(tmp_path):
    names = ["a.npy", "a/1.npy", "a/10.npy", "a/2/x.npy", "a-b/1.npy", "B.npy", "10.npy", "9.npy"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert find_pictures(tmp_path)[1] == [str(path) for path in sorted(map(Path, names))]


@pytest.mark.parametrize("given", ["survey/02.npy", "02.npy"])
def test_one_file_will_do(classifier, survey, tmp_path, monkeypatch, given):
    monkeypatch.chdir(survey if given == "02.npy" else tmp_path)
    counts = predict_folder(classifier, given, "out.csv", quiet=True)
    assert counts.classified == 1 and [row["file"] for row in table(Path("out.csv"))] == ["02.npy"]


def test_nothing_to_read_is_one_line(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    cases = {
        "empty": "expected images .* found none; 1 other",
        "nowhere": "cannot list",
        "empty/notes.txt": "or an image",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=message) as error:
            predict_folder(classifier, tmp_path / name, tmp_path / "out.csv", quiet=True)
        assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


# --- the table is whole or not there ------------------------------------------------------------------------


@pytest.fixture
def old(survey) -> Path:
    path = survey.parent / "predictions.csv"
    path.write_text("the old one\n")
    return path


def left(path: Path) -> bool:
    """Whether the old table is untouched and nothing lies beside it."""
    return path.read_text() == "the old one\n" and {p.name for p in path.parent.iterdir()} == {
        path.name,
        "source",
        "survey",
    }


def test_a_reader_of_the_old_table_never_sees_half_of_the_new(classifier, survey, old):
    with open(old) as reader:
        run(classifier, survey)
        assert reader.read() == "the old one\n" and len(table(old)) == 12


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_an_error_in_the_middle_leaves_the_old_table(classifier, survey, old, monkeypatch, error):
    real, seen = Classifier.observer, []

    def breaking(self, *options):
        run = real(self, *options)

        def observe(images):
            assert old.read_text() == "the old one\n"
            seen.append(len(images))
            if len(seen) == 3:
                raise error("in the middle")
            return run(images)

        return observe

    monkeypatch.setattr(Classifier, "observer", breaking)
    with pytest.raises((error, ResultsError)):
        predict_folder(classifier, survey, old, batch_size=2, quiet=True)
    assert seen == [2, 2, 2] and left(old)


def test_a_full_disk_leaves_the_old_table(classifier, survey, old, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="predictions.csv: cannot be written .No space left"):
        predict_folder(classifier, survey, old, quiet=True)
    assert left(old)


def test_rejecting_all_leaves_the_old_table(classifier, survey, old):
    for path in survey.rglob("*.npy"):
        np.save(path, np.zeros((30, 30)))
    with pytest.raises(DataError, match="no file of 12 .* the first: expected an image of 39 x 39 pixels"):
        predict_folder(classifier, survey, old, quiet=True)
    assert left(old)


@pytest.mark.parametrize("output", ["survey", "nowhere/out.csv"])
def test_an_impossible_output_is_found_before_anything_is_read(classifier, survey, monkeypatch, output):
    monkeypatch.setattr(SurveyReader, "read", lambda *arguments: pytest.fail("read"))
    with pytest.raises(ResultsError, match=output):
        predict_folder(classifier, survey, survey.parent / output, quiet=True)


# --- streaming ----------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_files(classifier, survey, monkeypatch):
    """Of 120 images never more are held than the batch read and the one at work."""
    image, alive, most = np.load(survey / "02.npy"), weakref.WeakSet(), []
    for number in range(108):
        np.save(survey / f"more{number}.npy", image)

    def counting(*arguments, read=SurveyReader.read):
        item, fit_input = read(*arguments)
        alive.add(item)
        most.append(len(alive))
        return item, fit_input

    monkeypatch.setattr(SurveyReader, "read", counting)
    counts, _ = run(classifier, survey, batch_size=4, workers=0)
    assert counts.classified == len(most) == 120
    assert max(most) <= 3 * 4


def test_summary_is_one_line():
    assert Counts(1, 2, 3, 4).summary() == (
        "1 images classified, 2 of them flagged; 3 rejected (the column `flag` says why); "
        "4 other files and folders skipped"
    )


@pytest.mark.parametrize("output", ["survey/02.npy", "survey/table.fits", "survey/../survey/02.npy", "link.npy"])
def test_the_table_replaces_no_image(classifier, survey, monkeypatch, output):
    monkeypatch.chdir(survey.parent)
    os.symlink(survey / "02.npy", survey.parent / "link.npy")
    before = (survey / "02.npy").read_bytes()
    with pytest.raises(UsageError):
        predict_folder(classifier, survey / "02.npy" if output == "link.npy" else survey, output, quiet=True)
    assert (survey / "02.npy").read_bytes() == before and not (survey / "table.fits").exists()


# --- what is not looked at, and what holds several images ---------------------------------------------------


@pytest.mark.parametrize("shape", [(61, 60), (60, 61), (45, 80), (40, 40)])
def test_oblong_images_are_cropped_each_axis_about_its_own_centre(classifier, tmp_path, shape):
    folder = tmp_path / "survey"
    folder.mkdir()
    image = np.random.default_rng(0).poisson(50, shape).astype("f4")
    rows, columns = ((length - 39) // 2 for length in shape)
    np.save(folder / "a.npy", image)
    np.save(folder / "b.npy", image[rows : rows + 39, columns : columns + 39])
    image[0, 1] = np.nan if shape != (40, 40) else image[0, 1]  # an island far from the window
    np.save(folder / "c.npy", image)
    _, rows = run(classifier, folder)
    figures = numbers(rows, [*P, "novelty"])
    np.testing.assert_allclose(figures, figures[[0]].repeat(3, 0), rtol=1e-3)
    np.testing.assert_allclose(numbers(rows[:1], CALIBRATED), classifier.predict(np.load(folder / "a.npy")), atol=2e-6)


def test_the_python_api_refuses_what_predict_refuses(classifier, survey):
    """The same reason, for the same pixels."""
    strange = write_strange(survey)
    _, rows = run(classifier, survey)
    for row in rows:
        if row["file"] in strange and row["file"].endswith(".npy") and row["file"] not in ("empty.npy", "cut.npy"):
            image = np.load(survey / row["file"])
            if row["class"]:
                np.testing.assert_allclose(numbers([row], CALIBRATED), classifier.predict(image), atol=2e-6)
            elif image.dtype.kind in "uif":
                with pytest.raises(DataError) as error:
                    classifier.predict([image])
                assert str(error.value) == f"image 0: {row['flag']}"


def test_files_of_many_hdus_and_packings(classifier, survey):
    image = np.load(survey / "02.npy").astype("f4")
    mask = (image > 50).astype("u1")
    hdus = [fits.PrimaryHDU(mask), fits.ImageHDU(image, name="DATA"), fits.ImageHDU(image**0.5, name="NOISE_MAP")]
    hdus[0].header["EXTNAME"] = "MASK"
    fits.HDUList(hdus).writeto(survey / "z1.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask, name="ERR"), fits.ImageHDU(image, name="SCI")]).writeto(
        survey / "z2.fits"
    )
    content = (survey / "z1.fits").read_bytes()
    (survey / "z3.fit.gz").write_bytes(gzip.compress(content))
    (survey / "z4.fits.bz2").write_bytes(bz2.compress(content))
    fits.CompImageHDU(image.astype("i4"), compression_type="RICE_1").writeto(survey / "z5.fz")
    for name in ("z6.jpg", "z7.h5", "z8.npz"):
        (survey / name).write_bytes(b"x")
    counts, rows = run(classifier, survey)
    found = {row["file"]: row for row in rows}
    assert (counts.classified, counts.rejected) == (17, 3)
    for name in ("z1.fits", "z2.fits", "z3.fit.gz", "z4.fits.bz2", "z5.fz"):
        np.testing.assert_allclose(numbers([found[name]], P), numbers([found["02.npy"]], P), atol=1e-5)
    assert found["z1.fits"]["note"] == "HDU 1 (DATA) of 3 images" and "HDU 2 (SCI)" in found["z2.fits"]["note"]
    assert all("save" in found[name]["flag"] for name in ("z6.jpg", "z7.h5", "z8.npz"))


def test_a_constant_window_is_flagged_whatever_is_around_it(classifier, tmp_path):
    folder = tmp_path / "survey"
    folder.mkdir()
    image = np.random.default_rng(0).poisson(50, (60, 60))
    image[10:49, 10:49] = 7
    np.save(folder / "x.npy", image)
    _, (row,) = run(classifier, folder)
    assert predictions.CONSTANT in row["flag"]


def test_sources_with_structure_are_counted():
    tally = Tally()
    for flag in ("", "smooth lens: its source may have structure; unlike training data"):
        tally.count({"class": "no", "flag": flag})
    tally.count({"class": "no", "flag": "", "note": f"HDU 1; {STRUCTURED_NOTE}"})
    assert (tally.classified, tally.flagged, tally.structured) == (3, 1, 2)

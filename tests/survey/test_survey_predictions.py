"""Predict on a survey: pixel scales, lists with noise maps and PSFs, HDUs, parts that were killed, embeddings."""

import csv
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from conftest import ROOT

import darklens
from darklens.classifier.classifier import Classifier
from darklens.commands.run import main
from darklens.data.noise_psf import read_psf
from darklens.data.resample import resample
from darklens.data.transforms import Preprocess, default_preprocess
from darklens.errors import DataError, ResultsError, UsageError
from darklens.fit import SmoothModel, fit
from darklens.networks.equivariant import build_network
from darklens.storage.run_record import RunRecord
from darklens.survey.predict import predict_folder

CLASSES = ["no", "sphere", "vort"]
P = [f"p_{name}" for name in CLASSES]


def new(size: int = 39, scale: float | None = 0.05, **changes) -> Classifier:
    """Untrained: sees a window of so many pixels of the image."""
    torch.manual_seed(0)
    network = build_network({"arch": "compact", "head": "lifted", "size": size, "sym_group": "Dihyderal", **changes})
    record = RunRecord(simulation={"image": {"pixel_scale": scale}} if scale else None)
    return Classifier(network, CLASSES, default_preprocess(size), record=record)


def smooth(size: int = 59) -> Classifier:
    """Untrained: sees what the smooth lens leaves of so many pixels."""
    plain = new(size)
    plain.preprocess = Preprocess(size, view="residual", smooth_model=SmoothModel(window=size))
    return plain


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return new()


@pytest.fixture(scope="module")
def lens() -> np.ndarray:
    """(60, 60), the middle of a lens."""
    return darklens.simulate("f", "no", [0])[0, 45:105, 45:105].astype("f4")


def save(path: Path, image: np.ndarray, **cards) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    fits.writeto(path, image, fits.Header(cards), overwrite=True)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def run(model: Classifier, source: Path, **options) -> list[dict[str, str]]:
    output = source.parent / "out.csv"
    predict_folder(model, source, output, quiet=True, workers=0, **options)
    return rows(output)


def figures(table: list[dict], *columns: str) -> np.ndarray:
    return np.array([[float(row[column]) for column in columns or P] for row in table])


# --- pixel scale --------------------------------------------------------------------------------------------------


def wcs(scale: float, kind: str = "CD", turn: float = 0.5) -> dict:
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 40.0}
    c, s = np.cos(turn), np.sin(turn)
    matrix = {
        f"{i}_{j}": float(value) for (i, j), value in zip(((1, 1), (1, 2), (2, 1), (2, 2)), (-c, s, s, c), strict=True)
    }
    if kind == "CD":
        return cards | {f"CD{key}": value * scale / 3600 for key, value in matrix.items()}
    cards |= {"CDELT1": scale / 3600, "CDELT2": scale / 3600}
    return cards | ({f"PC{key}": value for key, value in matrix.items()} if kind == "PC" else {})


HEADERS = {
    "right": (wcs(0.051), "0.051", ""),
    "cd": (wcs(0.1), "0.1", "pixels of 0.1 arcsec, the network's have 0.05"),
    "pc": (wcs(0.04, "PC"), "0.04", "pixels of 0.04 arcsec"),
    "cdelt": (wcs(0.2, "CDELT"), "0.2", "pixels of 0.2 arcsec"),
    "pixscale": ({"PIXSCALE": 0.1}, "0.1", "pixels of 0.1 arcsec"),
    "pixscay": ({"PIXSCAY": 0.05, "PIXSCAX": 0.08}, "0.0632456", "pixels of 0.05 x 0.08 arcsec"),
    "damaged": ({"PIXSCALE": "wide"}, "", "no pixel scale in its header, although there is PIXSCALE"),
    "zero": ({"PIXSCALE": 0.0}, "", "although there is PIXSCALE"),
    "no sky": ({"CDELT1": 0.1, "CDELT2": 0.1, "CTYPE1": "WAVE"}, "", "although there is CDELT1"),
    "nothing": ({}, "", ""),
}


def test_pixel_scale_is_a_column_and_flagged(classifier, lens, tmp_path):
    for name, (cards, *_) in HEADERS.items():
        save(tmp_path / "survey" / f"{name}.fits", lens, **cards)
    found = {row["file"][:-5]: row for row in run(classifier, tmp_path / "survey")}
    for name, (_, scale, flag) in HEADERS.items():
        assert found[name]["pixel_scale"] == scale, name
        assert (flag in found[name]["flag"]) if flag else found[name]["flag"] == "", name
    unknown = run(new(scale=None), tmp_path / "survey")
    assert {row["flag"] for row in unknown} == {""} and unknown[0]["pixel_scale"] == "0.1"


def test_the_scale_may_stand_in_the_primary_header(classifier, lens, tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"PIXSCALE": 0.1}))
    (tmp_path / "survey").mkdir()
    fits.HDUList([primary, fits.ImageHDU(lens, name="SCI")]).writeto(tmp_path / "survey" / "x.fits")
    assert run(classifier, tmp_path / "survey")[0]["pixel_scale"] == "0.1"


@pytest.mark.parametrize("step", [0.5, 0.8, 1.0, 1.25, 2.0, 3.0])
def test_resampling_conserves_flux_and_turns_with_the_image(step):
    """Against the Gaussian integrated over the new pixels; whole pixels of noise are sums."""
    from scipy.special import erf

    def blob(pixels: int, scale: float) -> np.ndarray:
        steps = (np.arange(pixels + 1) - pixels / 2) * scale
        x, y = (np.diff(erf((steps - at) / 3.0 / 2**0.5)) / 2 for at in (0.3, -1.1))
        return np.outer(y, x)

    into = int(60 / step)
    found = resample(blob(60, 1.0), (into, into), (step, step))
    np.testing.assert_allclose(found, blob(into, step), atol=1e-5 * found.max())
    assert found.sum() == pytest.approx(1, abs=1e-6)
    noise = np.random.default_rng(0).normal(size=(60, 60))
    turned = resample(np.rot90(noise), (into, into), (step, step))
    np.testing.assert_allclose(turned, np.rot90(resample(noise, (into, into), (step, step))), atol=1e-12)
    if step in (2.0, 3.0):
        n = int(step)
        sums = noise.reshape(into, n, into, n).sum((1, 3))
        np.testing.assert_allclose(resample(noise, (into, into), (step, step)), sums, atol=1e-10)
    variance = resample(np.ones((60, 60)), (into, into), (step, step), variance=True)[into // 2, into // 2]
    many = resample(np.random.default_rng(1).normal(size=(1000, 60, 60)), (into, into), (step, step))
    assert many[:, into // 2, into // 2].var() == pytest.approx(variance, rel=0.2)


def test_resampled_images_are_seen_as_those_of_the_networks_scale(classifier, lens, tmp_path):
    """A lens on coarse pixels of 0.1 arcsec, brought back; turned, it is the turned one."""
    coarse = resample(lens, (30, 30), (2, 2))
    for k in range(4):
        save(tmp_path / "survey" / f"{k}.fits", np.rot90(coarse, k), PIXSCALE=0.1)
    np.save(tmp_path / "survey" / "plain.npy", resample(coarse, (59, 59), (0.5, 0.5)))
    found = run(classifier, tmp_path / "survey", resample=True)
    np.testing.assert_allclose(figures(found), figures(found)[[0]].repeat(5, 0), atol=2e-5)
    assert all("resampled from pixels of 0.1 arcsec" in row["flag"] for row in found[:4])
    assert found[4]["flag"] == "no pixel scale in the file: not resampled"
    assert "30 x 30" in run(classifier, tmp_path / "survey")[0]["flag"]  # too few without
    with pytest.raises(UsageError, match="--resample: this network does not say"):
        run(new(scale=None), tmp_path / "survey", resample=True)


# --- lists --------------------------------------------------------------------------------------------------------


def write_list(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding, newline="")
    return path


def test_columns_of_a_list_pass_through_in_order(classifier, lens, tmp_path):
    for name in ("a", "b, c"):
        save(tmp_path / "in" / f"{name}.fits", lens)
    text = (
        'id,path, ra,dec\r\n"7, or ""8""",in/a.fits,1.50,-2\r\n\r\nü,"in/b, c.fits",,"x\r\ny"\r\n9,in/none.fits,3,4\r\n'
    )
    text += f"10,,5,6\r\n11,{tmp_path}/in/a.fits,7,8\r\n"
    found = run(classifier, write_list(tmp_path / "list.csv", text, "utf-8-sig"), file_column="path")
    assert list(found[0])[:5] == ["file", "id", "ra", "dec", "class"]
    passed = [(row["file"], row["id"], row["ra"], row["dec"]) for row in found]
    assert passed[:2] == [("in/a.fits", '7, or "8"', "1.50", "-2"), ("in/b, c.fits", "ü", "", "x\r\ny")]
    assert [bool(row["class"]) for row in found] == [True, True, False, False, True]
    assert "No such file" in found[2]["flag"] and found[3]["flag"] == "no file is named"
    assert figures(found[:1]).tolist() == figures(found[4:]).tolist()


def test_a_list_has_the_scale_of_files_that_do_not_say_it(classifier, lens, tmp_path):
    """As a header does: flagged, or resampled; the header's comes first."""
    coarse = resample(lens, (30, 30), (2, 2))
    np.save(tmp_path / "a.npy", coarse)
    save(tmp_path / "a.fits", coarse, PIXSCALE=0.1)
    text = "file,pixel_scale,id\na.npy,0.1,1\na.fits,,2\na.fits, 0.1 ,3\na.fits,0.05,4\na.npy,,5\n"
    path = write_list(tmp_path / "list.csv", text)
    found = run(classifier, path, resample=True)
    assert list(found[0]).count("pixel_scale") == 1 and [row["id"] for row in found] == list("12345")
    assert [row["pixel_scale"] for row in found] == ["0.1"] * 4 + [""]
    np.testing.assert_array_equal(figures(found[:4]), figures(found[:1]).repeat(4, 0))
    assert found[0]["flag"] == found[1]["flag"] == found[2]["flag"]
    assert "resampled from pixels of 0.1 arcsec" in found[0]["flag"]
    assert "the list's pixel_scale 0.05 is not the file's, which was used" in found[3]["flag"]
    np.save(tmp_path / "a.npy", lens)
    rows = run(classifier, path)
    assert rows[0]["flag"] == "pixels of 0.1 arcsec, the network's have 0.05" and rows[4]["flag"] == ""


def test_columns_that_are_not_used_are_said(classifier, lens, tmp_path):
    """A network that sees the image has no use for noise maps and PSFs."""
    save(tmp_path / "a.fits", lens)
    path = write_list(tmp_path / "list.csv", "file,psf,noise_map\na.fits,none.fits,none.fits\n")
    counts = predict_folder(classifier, path, tmp_path / "out.csv", quiet=True, workers=0)
    said = "noise_map and psf of the list not used: this network sees the image, not a fit"
    assert said in counts.summary() and "\n" not in counts.summary()
    assert said not in predict_folder(smooth(), path, tmp_path / "out.csv", quiet=True, workers=0).summary()
    plain = predict_folder(classifier, tmp_path / "a.fits", tmp_path / "out.csv", quiet=True, workers=0)
    assert "not used" not in plain.summary()


BAD = {
    "id,ra\n1,2\n": "expected a column file in its first line, found id, ra; --file_column",
    "file\tid\na\tb\n": "expected commas between them",
    "": "expected a column file in its first line, found nothing",
    "file,id\n": "found none below",
    "file,id,id\na,1,2\n": "a name of its own for each column, found file, id, id",
    ",file\n0,a\n": "index=False",
    "file,id\na,1\nb\n": "line 3: expected 2 values, one a column, found 1",
    'file,id\n"a,1\n': "line 2: expected values with commas",
    "file,class\na,1\n": "its column class has the name of one that is written",
    "file,flag\na,1\n": "its column flag has",
    "file,pixel_scale\na,0.1\nb,wide\n": "line 3: expected a pixel_scale in arcsec above 0, or an empty cell",
    "file,pixel_scale\na,-0.1\n": "line 2: expected a pixel_scale in arcsec above 0, or an empty cell, found '-0.1'",
    "file,pixel_scale\na,0\n": "found '0'",
    "file,pixel_scale\na,nan\n": "found 'nan'",
    "file,pixel_scale\na,inf\n": "found 'inf'",
    "file,pixel_scale\na\n": "line 2: expected 2 values",
    "file,pixel_scale,pixel_scale\na,1,1\n": "a name of its own for each column",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_list_is_one_line(classifier, tmp_path, text):
    path = write_list(tmp_path / "list.csv", text)
    with pytest.raises((DataError, UsageError)) as error:
        predict_folder(classifier, path, tmp_path / "out.csv", quiet=True)
    assert BAD[text] in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out.csv").exists()


def test_a_list_in_another_alphabet_or_of_no_text(classifier, tmp_path):
    for content in ("file,ü\na,b\n".encode("latin1"), b"file\xff\xfe\n"):
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(DataError, match="UTF-8"):
            predict_folder(classifier, tmp_path / "list.csv", tmp_path / "out.csv", quiet=True)
    with pytest.raises(DataError, match="cannot be read"):
        predict_folder(classifier, tmp_path / "none.csv", tmp_path / "out.csv", quiet=True)
    with pytest.raises(UsageError, match="that is what is read"):
        predict_folder(classifier, tmp_path / "list.csv", tmp_path / "list.csv", quiet=True)


def test_noise_map_and_psf_are_those_of_the_fit(lens, tmp_path):
    """Row by row what `fit` finds with them, FITS or npy, or HDUs of the image's own file."""
    noise, kernel = np.sqrt(lens), np.outer(*[np.exp(-0.5 * (np.arange(-7, 8) / 2.2) ** 2)] * 2)
    noise[20:24, 30] = [0, -1, np.nan, np.inf]
    hdus = [fits.PrimaryHDU(lens), fits.ImageHDU(noise, name="ERR"), fits.ImageHDU(kernel * 7, name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "all.fits")
    np.save(tmp_path / "noise.npy", noise)
    np.save(tmp_path / "psf.npy", kernel)
    bad = lens.copy()
    bad[20:24, 30] = [np.nan, 1e9, np.inf, -1e9]
    save(tmp_path / "bad.fits", bad)
    text = "file,noise_map,psf\nall.fits,,\nall.fits,all.fits[ERR],\nall.fits,noise.npy,all.fits[2]\n"
    text += "bad.fits,all.fits,psf.npy\nall.fits,none.npy,bad.fits[SCI]\n"
    found = run(smooth(), write_list(tmp_path / "list.csv", text))
    noise = np.where(noise > 0, noise, np.nan)
    narrow, _ = read_psf("psf.npy", str(tmp_path))
    plain, with_psf = SmoothModel(window=59), SmoothModel(window=59, psf_kernel=narrow)
    expected = [fit(lens, plain), fit(lens, plain, noise=noise), fit(lens, with_psf, noise=noise)]
    radii = figures(found, "einstein_radius", "chi_square")
    for row, one in zip([*radii[:4], radii[4]], [*expected, expected[2], expected[0]], strict=True):
        truth = [one.table()[name][0] for name in ("einstein_radius", "chi_square")]
        np.testing.assert_allclose(row, truth, rtol=2e-3)
    assert abs(radii[1, 1] / radii[2, 1] - 1) > 0.01  # the PSF matters
    assert "4 pixels have no weight" in found[3]["note"] and not found[1]["flag"].startswith("noise")
    assert "noise measured in the image: noise_map" in found[4]["flag"] and "psf" in found[4]["flag"]


def test_a_psf_of_its_own_is_not_fitted(lens, tmp_path):
    save(tmp_path / "a.fits", lens)
    np.save(tmp_path / "psf.npy", np.outer(*[np.exp(-0.5 * (np.arange(-7, 8) / 1.7) ** 2)] * 2))
    model = smooth()
    model.preprocess = Preprocess(59, view="residual", smooth_model=SmoothModel(window=59, free_psf=True))
    own, fitted = run(model, write_list(tmp_path / "list.csv", "file,psf\na.fits,psf.npy\na.fits,\n"))
    assert own["psf_fwhm"] == own["psf_fwhm_sd"] == "" and abs(float(fitted["psf_fwhm"]) - 0.2) < 0.05
    np.testing.assert_allclose(figures([own], "einstein_radius"), figures([fitted], "einstein_radius"), rtol=0.01)


def test_kernels_become_odd_centred_and_small(tmp_path):
    steps = np.arange(-40, 41)
    wide = np.exp(-0.5 * (np.hypot(*np.meshgrid(steps, steps)) / 2) ** 2)
    even = np.exp(-0.5 * (np.hypot(*np.meshgrid(*[np.arange(24) - 11.5] * 2)) / 2) ** 2)
    corner = np.exp(-0.5 * (np.hypot(*np.meshgrid(*[np.arange(24) - 12.0] * 2)) / 2) ** 2)
    for name, kernel in {"wide": wide, "even": even, "corner": corner, "off": np.roll(wide, 3, 0)}.items():
        np.save(tmp_path / f"{name}.npy", 5 * kernel)
    kernels = {name: np.array(read_psf(f"{name}.npy", str(tmp_path))[0]) for name in ("wide", "even", "corner")}
    for kernel in kernels.values():
        assert kernel.shape[0] % 2 and kernel.shape[0] < 20 and kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernels["wide"], atol=2e-4)
        np.testing.assert_allclose(kernel, np.rot90(kernel), atol=1e-12)
    coarse = np.array(read_psf("wide.npy", str(tmp_path), 2.0)[0])
    assert coarse.shape[0] % 2 and coarse.max() == pytest.approx(kernels["wide"].max() * 4, rel=0.1)
    with pytest.raises(DataError, match="off centre by 3.00 pixels"):
        read_psf("off.npy", str(tmp_path))


# --- HDUs ---------------------------------------------------------------------------------------------------------


def test_an_hdu_is_named(lens, tmp_path, monkeypatch, capsys):
    table = fits.BinTableHDU.from_columns([fits.Column("flux", "E", array=np.ones(5))], name="CAT")
    first, second = fits.ImageHDU(lens, name="F814W"), fits.ImageHDU(lens[::-1] + 5, name="F160W")
    for kind in ("no", "sphere"):
        (tmp_path / "survey" / kind).mkdir(parents=True)
        for number in range(3):
            path = tmp_path / "survey" / kind / f"{number}.fits"
            second.data = lens[::-1] + 5 + (number + 3 * (kind == "no")) * (np.indices(lens.shape).sum(0) == 0)
            fits.HDUList([fits.PrimaryHDU(), table, first, second]).writeto(path)
    model = new()
    for asked, title in (("f160w", "HDU 3 (F160W)"), ("2", "HDU 2 (F814W)")):
        assert all(title in row["note"] for row in run(model, tmp_path / "survey", hdu=asked))
    with pytest.raises(
        DataError, match=r"in HDU G, found 0 PRIMARY no image, 1 CAT no image, 2 F814W \(60, 60\), 3 F160W"
    ):
        run(model, tmp_path / "survey", hdu="G")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "survey", "data", "--hdu", "F160W", "--quiet"]) == 0
    converted = np.load(next(Path("data").glob("*/no/*.npy")))
    assert np.array_equal(converted.flat[1:], (lens[::-1] + 5).flat[1:])
    assert main(["convert", "survey", "other", "--hdu", "9", "--quiet"]) == 1
    assert "in HDU 9, found 0 PRIMARY no image" in capsys.readouterr().err


# --- parts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def survey(lens, tmp_path) -> Path:
    """Eleven images, one of them bad, with names that a table must quote."""
    rng, folder = np.random.default_rng(0), tmp_path / "survey"
    folder.mkdir()
    for number in range(11):
        np.save(folder / f'{number:02d} "x",\r\n.npy', rng.poisson(lens))
    (folder / '03 "x",\r\n.npy').write_bytes(b"no image")
    return folder


def test_parts_merge_to_the_whole(classifier, survey, tmp_path):
    """By the command that docs/slurm.sh gives; a part may be empty."""
    whole = run(classifier, survey, batch_size=1)
    for number in range(1, 17):
        target = tmp_path / f"predictions-{number:02d}-of-16.csv"
        predict_folder(classifier, survey, target, quiet=True, workers=0, batch_size=1, part=(number, 16))
    (line,) = re.findall(r"^# +(awk .*)$", (ROOT / "docs" / "slurm.sh").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    merged = (tmp_path / "predictions.csv").read_bytes()
    assert merged == (tmp_path / "out.csv").read_bytes() and len(whole) == 11
    sizes = {len(rows(path)) for path in tmp_path.glob("predictions-*.csv")}
    assert sizes <= {0, 1}


def kill_after(batches: int, *arguments, **options) -> None:
    """`predict_folder` in a process that is killed, as by SIGKILL, before the network sees the next batch."""
    child = os.fork()
    if child == 0:
        real = Classifier.observer

        def observer(self, *options):
            run, seen = real(self, *options), []

            def observe(images):
                if len(seen) == batches:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen.append(images)
                return run(images)

            return observe

        Classifier.observer = observer
        predict_folder(*arguments, quiet=True, workers=0, **options)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("torn", [b"", b'"10 ""x"",\r\n.n', b"0"])
def test_a_killed_part_goes_on_with_the_same_bits(classifier, survey, tmp_path, torn):
    options = {"batch_size": 2, "part": (1, 1)}
    predict_folder(
        classifier, survey, tmp_path / "a.csv", quiet=True, workers=0, embeddings=tmp_path / "a.npy", **options
    )
    names = tmp_path / "b.csv", tmp_path / "b.npy"
    kill_after(3, classifier, survey, names[0], embeddings=names[1], **options)
    partial = tmp_path / "b.csv.partial"
    assert not names[0].exists() and partial.read_bytes() == (tmp_path / "a.csv").read_bytes()[: partial.stat().st_size]
    with open(partial, "ab") as file:
        file.write(torn)
    with open(tmp_path / "b.npy.partial", "ab") as file:
        file.write(torn)
    counts = predict_folder(classifier, survey, names[0], quiet=True, workers=0, embeddings=names[1], **options)
    assert (counts.classified, counts.rejected, counts.rows_before) == (10, 1, 6)
    for kind in ("csv", "npy"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    again = predict_folder(classifier, survey, names[0], quiet=True, workers=0, embeddings=names[1], **options)
    assert again == counts._replace(rows_before=11) and "11 rows were there before" in again.summary()
    assert not list(tmp_path.glob("*.partial"))


def test_a_part_made_of_something_else_is_refused(classifier, survey, tmp_path):
    output, options = tmp_path / "b.csv", {"quiet": True, "workers": 0, "batch_size": 2}
    kill_after(1, classifier, survey, output, batch_size=2, part=(1, 2))
    before = (tmp_path / "b.csv.partial").read_bytes()
    changed = {
        "another network": (new(head="pooled"), survey, {"part": (1, 2)}),
        "another --part": (classifier, survey, {"part": (1, 3)}),
        "another --resample": (classifier, survey, {"part": (1, 2), "resample": True}),
        "another --precision": (classifier, survey, {"part": (1, 2), "precision": "bf16"}),
    }
    np.save(tmp_path / "list.npy", np.ones((40, 40)))
    listed = write_list(tmp_path / "list.csv", "file\nlist.npy\nlist.npy\n")
    changed["another list of images"] = classifier, listed, {"part": (1, 2)}
    for name, (model, source, more) in changed.items():
        with pytest.raises(ResultsError, match=f"was made with {name}.*remove it"):
            predict_folder(model, source, output, **options, **more)
    (tmp_path / "b.csv.json").unlink()
    with pytest.raises(ResultsError, match="does not say what it was made of"):
        predict_folder(classifier, survey, output, **options, part=(1, 2))
    assert (tmp_path / "b.csv.partial").read_bytes() == before


def test_slurm_gives_each_job_its_part(tmp_path):
    """With a stand-in for srun that prints what it is told."""
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    for more, part in (({}, "3/16"), ({"PARTS": "40"}, "3/40")):
        array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", **more}
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **array}
        command = ["bash", str(ROOT / "docs" / "slurm.sh"), "--data_dir", "list.csv"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"python main.py --mode Predict --part {part} --quiet --data_dir list.csv\n"


# --- embeddings ---------------------------------------------------------------------------------------------------


def test_embeddings_turn_to_themselves_and_are_in_order(classifier, lens, tmp_path):
    lens = lens[1:, 1:]  # odd, as the window is
    images = [np.rot90(lens, k) for k in range(4)] + [lens.T, lens[::-1] ** 0.5]
    (tmp_path / "survey").mkdir()
    for number, image in enumerate(images):
        np.save(tmp_path / "survey" / f"{number}.npy", image)
    (tmp_path / "survey" / "2a.npy").write_bytes(b"no image")
    run(classifier, tmp_path / "survey", embeddings=tmp_path / "e.npy", batch_size=2)
    found = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert found.dtype == np.float32 and found.shape[0] == 7 and np.isnan(found[3]).all()
    same = np.delete(found, [3, 6], 0)
    assert np.abs(same - same[0]).max() < 1e-4 < np.abs(found[6] - same[0]).max() and same[0].std() > 1e-3
    seen = classifier.preprocess(torch.from_numpy(lens)[None, None])
    with torch.no_grad():
        logits = torch.from_numpy(same[:1]) @ classifier.network.head.classify.weight.T
        truth = classifier.network.eval()(seen) - classifier.network.head.classify.bias
    torch.testing.assert_close(logits, truth, atol=1e-4, rtol=1e-4)


def test_embeddings_replace_nothing_else(classifier, survey, tmp_path):
    np.save(tmp_path / "image.npy", np.ones((40, 40), np.float32))
    names = {"image.npy": "something else", "e.txt": "ends in .npy", "survey/e.npy": "taken for an image"}
    for name, message in names.items():
        with pytest.raises(UsageError, match=message):
            run(classifier, survey, embeddings=tmp_path / name)
    for _ in range(2):  # those of an earlier call are replaced
        run(classifier, survey, embeddings=tmp_path / "e.npy")


def test_flags_of_the_program(lens, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = darklens.simulate("f", "sphere", [0])[0].astype("f4")
    save(tmp_path / "a.fits", image, PIXSCALE=0.05)
    write_list(tmp_path / "list.csv", "name,id\na.fits,1\nb.fits,2\n")
    flags = "--mode Predict --weights compact-f --data_dir list.csv --file_column name --quiet --use_cuda False".split()
    assert main([*flags, "--part", "1/2", "--embeddings", "e.npy", "--hdu", "0", "--resample"]) == 0
    (row,) = rows(tmp_path / "predictions-1-of-2.csv")
    assert (row["file"], row["id"], row["class"], row["flag"]) == ("a.fits", "1", "sphere", "")
    assert np.load("e-1-of-2.npy").shape == (1, 128) and "predictions-1-of-2.csv" in capsys.readouterr().out
    for wrong in (["--part", "3/2"], ["--part", "x"], ["--mode", "Train", "--resample"]):
        with pytest.raises(SystemExit) as end:
            main([*flags, *wrong])
        assert end.value.code == 2
    assert "--file_column goes with --mode Predict" in capsys.readouterr().err

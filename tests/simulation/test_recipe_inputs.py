"""The files that a recipe names: read, checked in one line, and kept with the recipe wherever it goes."""

import dataclasses
import json
import os

import numpy as np
import pytest
from simulated import refusal

from darklens.commands import simulate
from darklens.data.folder import scan
from darklens.data.provenance import simulation_of
from darklens.errors import DatasetError, RecipeError
from darklens.fit.assumptions import smooth_model
from darklens.simulation import psf, render
from darklens.simulation.recipe_file import load_recipe, parse_recipe, recipe_dict
from darklens.simulation.recipe_inputs import measured_kernel
from darklens.simulation.recipes import changed
from darklens.simulation.writer import write_dataset

fits = pytest.importorskip("astropy.io.fits")
Table = pytest.importorskip("astropy.table").Table
KERNEL = psf.moffat_kernel(2.5, 3.0, 15)
STAR = np.exp(-(np.mgrid[-10:11, -10:11] ** 2).sum(0) / 9.0)


def write_recipe(folder, text):
    path = folder / "r.toml"
    path.write_text('name = "r"\nbase = "f"\n[image]\npixels = 49\n' + text)
    return path


def with_psf(folder, name):
    return write_recipe(folder, f'[psf]\nkind = "file"\nfwhm = "none"\nfile = "{name}"\n')


def with_stamps(folder, name="galaxies"):
    return write_recipe(
        folder,
        f'[noise]\npeak_snr = 30\n[source]\nbrightness = "none"\nstamps = "{name}"\nstamp_scale = 0.05\n',
    )


def planes(*named):
    """An empty primary HDU and planes by name; None: a table."""
    units = [fits.PrimaryHDU()]
    for name, plane in named:
        table = fits.BinTableHDU(Table({"PSF_MASK": [1.0, 2.0]}), name=name)
        units.append(table if plane is None else fits.ImageHDU(plane, name=name))
    return fits.HDUList(units)


FLAT = np.ones((15, 15))
FILES = {  # all of them hold KERNEL
    "ERR first": planes(("ERR", FLAT), ("PSF", KERNEL)),
    "noise and mask first": planes(("NOISE_MAP", FLAT), ("MASK", FLAT), ("SCI", KERNEL)),
    "a table first": planes(("COLUMNS", None), ("PSF", KERNEL)),
    "STPSF's": planes(("OVERSAMP", np.kron(KERNEL, np.ones((4, 4)))), ("DET_SAMP", FLAT), ("DET_DIST", KERNEL)),
    "no names": fits.HDUList([fits.PrimaryHDU(KERNEL), fits.ImageHDU(FLAT)]),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_psf_is_taken_from_files_of_several_planes(tmp_path, kind):
    FILES[kind].writeto(tmp_path / "psf.fits")
    assert np.allclose(measured_kernel(load_recipe(with_psf(tmp_path, "psf.fits")).psf), KERNEL)


BAD = {
    "even": (KERNEL[1:, 1:], "14 pixels wide"),
    "NaN": (np.where(np.eye(15) > 0, np.nan, KERNEL), "not finite"),
    "negative": (-KERNEL, "no positive sum"),
    "cube": (np.stack([KERNEL] * 3), "one square image"),
    "off centre": (np.roll(KERNEL, 2, 0), "off centre by 2.00 pixels"),
}


@pytest.mark.parametrize("kind", [*BAD, "missing", "not npy", "PSFEx", "truncated"])
def test_a_bad_psf_is_one_line_with_its_key(tmp_path, capsys, kind):
    name, words = "psf.npy", "psf.file"
    if kind in BAD:
        np.save(tmp_path / name, BAD[kind][0])
        words = BAD[kind][1]
    elif kind == "not npy":
        (tmp_path / name).write_text("0 1 0")
    elif kind == "PSFEx":
        name, words = "psf.fits", "holds no image"
        planes(("PSF_DATA", None)).writeto(tmp_path / name)
    elif kind == "truncated":
        name = "psf.fits"
        fits.writeto(tmp_path / name, KERNEL)
        os.truncate(tmp_path / name, 3300)
    with pytest.raises(SystemExit):
        simulate.main(["--recipe", str(with_psf(tmp_path, name)), "--out", str(tmp_path / "out")])
    line = refusal(capsys)
    assert line.startswith("simulate.py: error: psf.file = ") and words in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "NaN", "RGB", "truncated", "no light", "not npy"])
def test_bad_stamps_are_one_line_with_their_key(tmp_path, capsys, kind):
    folder = tmp_path / "galaxies"
    bad = {"NaN": np.where(np.eye(21) > 0, np.nan, STAR), "RGB": np.stack([STAR] * 3), "no light": 0 * STAR}
    if kind != "missing":
        folder.mkdir()
    if kind in bad:
        np.save(folder / "a.npy", bad[kind])
    elif kind == "truncated":
        fits.writeto(folder / "a.fits", STAR)
        os.truncate(folder / "a.fits", 4000)
    elif kind == "not npy":
        (folder / "a.npy").write_text("")
    with pytest.raises(SystemExit):
        simulate.main(["--recipe", str(with_stamps(tmp_path)), "--out", str(tmp_path / "out")])
    assert refusal(capsys).startswith("simulate.py: error: source.stamps = ")


def test_a_kernel_travels_with_the_data_set(tmp_path, monkeypatch):
    """Simulated in one folder, the PSF file gone, looked at from another one."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    np.save("psf.npy", KERNEL)
    recipe = load_recipe(with_psf(here, "psf.npy").name)
    write_dataset("images", recipe, {"train": 1, "val": 1}, quiet=True)
    (here / "psf.npy").unlink()
    monkeypatch.chdir(there)
    known = simulation_of(scan(here / "images"))
    assert np.array_equal(smooth_model(known).psf_kernel, KERNEL / KERNEL.sum())
    assert np.array_equal(render.simulate(known, "no", [0]), np.load(here / "images/train/no/000000.npy")[None])
    assert parse_recipe(json.loads(json.dumps(recipe_dict(recipe)))) == recipe


def test_a_kernel_that_changed_is_another_data_set(tmp_path):
    """The same kernel in another place is the same."""
    counts = {"train": 1, "val": 0}
    np.save(tmp_path / "psf.npy", KERNEL)
    recipe = load_recipe(with_psf(tmp_path, "psf.npy"))
    write_dataset(tmp_path / "images", recipe, counts, quiet=True)
    moved = tmp_path / "moved"
    moved.mkdir()
    np.save(moved / "psf.npy", KERNEL)
    write_dataset(tmp_path / "images", load_recipe(with_psf(moved, "psf.npy")), counts, quiet=True)
    fits.writeto(moved / "wider.fits", psf.moffat_kernel(3.0, 3.0, 15))
    with pytest.raises(DatasetError, match=r"another recipe.psf.kernel"):
        write_dataset(tmp_path / "images", load_recipe(with_psf(moved, "wider.fits")), counts, quiet=True)


def test_stamps_that_changed_are_noticed(tmp_path):
    (tmp_path / "galaxies").mkdir()
    np.save(tmp_path / "galaxies" / "a.npy", STAR)
    recipe = load_recipe(with_stamps(tmp_path))
    assert len(recipe.source.stamps_sha256) == 64
    write_dataset(tmp_path / "images", recipe, {"train": 1}, quiet=True)
    stale = dataclasses.replace(recipe.source, stamps_sha256="0" * 64)
    with pytest.raises(RecipeError, match="stamps have changed"):
        render.simulate(dataclasses.replace(recipe, source=stale), "no", [0])
    np.save(tmp_path / "galaxies" / "b.npy", STAR.T**2)
    from darklens.simulation import recipe_inputs

    recipe_inputs.stamps_digest.cache_clear()  # as another process would find it
    recipe_inputs.stamps.cache_clear()
    with pytest.raises(DatasetError, match="stamps_sha256"):
        write_dataset(tmp_path / "images", load_recipe(with_stamps(tmp_path)), {"train": 1}, quiet=True)


def test_another_file_replaces_the_kernel(tmp_path):
    for name, fwhm in (("a.npy", 2.0), ("b.npy", 3.0)):
        np.save(tmp_path / name, psf.moffat_kernel(fwhm, 3.0, 15))
    recipe = load_recipe(with_psf(tmp_path, "a.npy"))
    other = changed(recipe, {"psf.file": str(tmp_path / "b.npy")})
    assert np.allclose(measured_kernel(other.psf), psf.moffat_kernel(3.0, 3.0, 15))
    assert changed(recipe, {"psf.kind": "none", "psf.file": None}).psf.kernel is None


def test_a_kernel_in_the_recipe_itself(tmp_path):
    path = write_recipe(tmp_path, '[psf]\nkind = "file"\nfwhm = "none"\nkernel = ["0 1 0", "1 4 1", "0 1 0"]\n')
    assert measured_kernel(load_recipe(path).psf)[1, 1] == 0.5
    path = write_recipe(tmp_path, '[psf]\nkind = "file"\nfwhm = "none"\nkernel = ["0 1", "1 4 1"]\n')
    with pytest.raises(RecipeError, match="psf.kernel: expected rows of numbers"):
        render.simulate(load_recipe(path), "no", [0])

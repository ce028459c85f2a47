"""Recipes: read, checked, written back."""

import dataclasses
import json

import numpy as np
import pytest

from darklens.errors import RecipeError
from darklens.simulation.recipe_file import load_recipe, merge, parse_recipe, recipe_dict, recipe_names
from darklens.simulation.recipe_tables import TABLES, LensClass, Subhalos, Vortex


def changed(table=None, base="f", **values):
    raw = recipe_dict(load_recipe(base))
    return merge(raw, {table: values} if table else values)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name and {"no", "sphere", "vort"} == set(recipe.classes)
    assert parse_recipe(recipe_dict(recipe)) == recipe
    assert parse_recipe(json.loads(json.dumps(recipe_dict(recipe)))) == recipe


def test_wide_holds_what_the_issue_says():
    wide = recipe_dict(load_recipe("wide"))
    assert wide["source"]["effective_radius"] == {"loguniform": [0.2, 0.8]}
    assert wide["noise"]["sky_fraction"] == [0.01, 0.1] and "sky" not in wide["noise"]
    assert wide["lens"]["z_lens"] == [0.4, 0.6] and wide["lens"]["conserve_mass"] == {"choice": [True, False]}


@pytest.mark.parametrize("kind", [*TABLES.values(), Subhalos, Vortex, LensClass])
def test_each_key_says_its_unit(kind):
    for field in dataclasses.fields(kind):
        numeric = field.metadata["kind"] in ("prior", "number", "whole", "range")
        assert bool(field.metadata["unit"]) == numeric, field.name


SLIP = {"subhalos": {"mass": [8, 10], "radius": [0, 1], "mass_fraction": 0.03}}
COUNTED = {"subhalos": {"mass": [6, 9], "radius": [0, 1], "count": 25}}
TINY = {"subhalos": {"mass": [10, 1000], "radius": [0, 1], "mass_fraction": 0.03}}
GALAXY = {"flux_ratio": 1.0, "effective_radius": 1.0}
WRONG = [
    ("image", {"pixel_scal": 0.1}, "unknown key image.pixel_scal; did you mean 'pixel_scale'"),
    ("image", {"fwhm": 0.1}, r"unknown key image.fwhm; it belongs into \[psf\]"),
    ("image", {"pixel_scale": 50}, "image.pixel_scale = 50: expected arcsec, between 0.001 and 5"),
    ("image", {"pixel_scale": [0.1, 0.2]}, "image.pixel_scale = .*: expected one number, the same in all images"),
    ("image", {"pixels": 64.5}, "image.pixels = 64.5: expected a whole number"),
    ("psf", {"fwhm": "0.2 arcsec"}, r"psf.fwhm = '0.2 arcsec': expected a number, no text \(arcsec\)"),
    ("psf", {"kind": "mofat"}, "psf.kind = 'mofat': no such choice; did you mean 'moffat'"),
    ("psf", {"kind": "moffat"}, "psf.beta is missing: a PSF of kind 'moffat' needs it"),
    ("psf", {"fwhm": 9.0}, "psf.fwhm is 180 pixels, wider than the image of 150: it is in arcsec"),
    ("noise", {"sky_magnitude": 22.0}, "noise.sky and noise.sky_magnitude: only one of them"),
    ("noise", {"keep_sky": 1}, "noise.keep_sky = 1: expected true or false"),
    ("lens", {"shear": [0, 1.2]}, "lens.shear = .*: expected no unit, between 0 and 0.9"),
    ("lens", {"z_lens": 1.5}, "lens.z_lens reaches 1.5, not well in front of the source"),
    ("lens", {"z_lens": 0.9999}, "lens.z_lens reaches 0.9999, not well in front of the source .lens.z_source from 1"),
    ("lens", {"z_lens": {"normal": [0.5, 0.1]}}, "lens.z_lens: a normal prior has no ends"),
    ("lens", {"einstein_radius": 1.2}, "lens.total_mass or lens.einstein_radius: only one of them"),
    ("lens", {"total_mass": "none"}, "lens.total_mass or lens.einstein_radius: one of them must be given"),
    ("lens", {"axis_ratio": {"uniform": [0.5, 1]}}, "lens.axis_ratio: a uniform prior is written .low, high."),
    ("source", {"magnitude": 22.0}, "source.brightness and source.magnitude: only one of them"),
    ("source", {"x": 0.1}, "source.x and source.y belong together"),
    ("source", {"effective_radius": "none"}, "source.effective_radius is missing"),
    ("source", {"stamps": "galaxies"}, "source.stamp_scale is missing"),
    ("lens_light", {"effective_radius": 1.0}, "lens_light.magnitude or lens_light.flux_ratio: one of them"),
    ("lens_light", {"effective_radius": 1.0, "magnitude": 19}, "noise.zero_point is missing: lens_light.magnitude"),
    ("lens_light", {"magnitude": 19}, r"lens_light.effective_radius is missing \(arcsec"),
    ("classes", {"a b": {}}, "classes.a b: a class is a folder"),
    ("classes", {"x": {"subhalo": {}}}, "unknown key classes.x.subhalo; did you mean 'subhalos'"),
    ("classes", {"x": {"vortex": {"mass_fraction": 0.1}}}, "classes.x.vortex.length or .*: one of them"),
    ("classes", {"x": {"subhalos": {"mass": [1e6, 1e9], "radius": [0, 1]}}}, "classes.x.subhalos.count or"),
    ("classes", {"no": {}, "No": {}}, "classes.no and classes.No: on some disks these are one folder"),
    ("classes", {"x": SLIP}, r"classes.x.subhalos.mass = .8, 10.: expected Msun; did you mean .1e8, 1e10.?"),
    ("classes", {"x": COUNTED}, r"classes.x.subhalos.mass = .6, 9.: expected Msun; did you mean .1e6, 1e9.?"),
    (
        "classes",
        {"x": TINY},
        r"classes.x.subhalos.mass = .10, 1000. .Msun. asks for .* subhalos a lens: at most",
    ),
    (
        "source",
        {"offset": [0, 30]},
        "source.offset reaches 29.7, outside the image, which ends at 3.75",
    ),
    ("source", {"offset": "none", "x": 0, "y": [-9, 9]}, "source.y reaches 8.82, outside the image"),
    ("lens_light", [GALAXY, {"effective_radius": 1.0}], "lens_light.1.magnitude or lens_light.1.relative_flux: one"),
    ("lens_light", [GALAXY, {**GALAXY}], "lens_light.1.flux_ratio has no meaning for a further component"),
    ("lens_light", [GALAXY, {"effective_radus": 1}], "unknown key lens_light.1.effective_radus; did you mean"),
    (None, {"name": "a/b"}, "name = 'a/b': expected a word"),
    (None, {"nois": {}}, "unknown key nois; did you mean 'noise'"),
    (None, {"image": "none"}, r"the recipe has no \[image\] table"),
    (None, {"classes": {}}, r"no \[classes.NAME\] table"),
    (None, {"lens": 3}, "lens = 3: expected a table"),
]


@pytest.mark.parametrize(("table", "values", "words"), WRONG)
def test_what_is_wrong_is_said_in_one_line(table, values, words):
    with pytest.raises(RecipeError, match=words) as caught:
        parse_recipe(changed(None, **{table: values}) if table else changed(None, **values))
    assert "\n" not in str(caught.value)


def test_truncated_halos_need_true_distances():
    halos = {"profile": "tnfw", "count": 3, "mass": [1e8, 1e9], "radius": [0, 1]}
    with pytest.raises(RecipeError, match=r"classes.x.subhalos.profile.*lens.distances"):
        parse_recipe(changed(classes={"x": {"subhalos": halos}}))


def test_a_file_on_a_base(tmp_path):
    np.save(tmp_path / "psf.npy", np.eye(3))
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nbase = "euclid"\nlens_light = "none"\n[psf]\nkind = "file"\nfwhm = "none"\nfile = "psf.npy"\n'
    )
    (tmp_path / "again.toml").write_text('name = "again"\nbase = "mine.toml"\n[image]\npixels = 64\n')
    recipe = load_recipe(tmp_path / "again.toml")
    assert recipe.lens_light is None and recipe.image.pixels == 64 and recipe.image.pixel_scale == 0.1
    assert recipe.psf.file == str(tmp_path / "psf.npy") and recipe.psf.fwhm is None
    assert parse_recipe(json.loads(json.dumps(recipe_dict(recipe)))) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\nbase = "a.toml"', "its own base"),
        ('name = "a"\nbase = "euclit"', "no recipe .*euclit'; did you mean 'euclid'"),
        ("name = ", "is not TOML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, words):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(tmp_path / "a.toml")
    assert "\n" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(RecipeError, match="no recipe 'euclit'; did you mean 'euclid'"):
        load_recipe("euclit")
    with pytest.raises(RecipeError, match="cannot read missing.toml"):
        load_recipe("missing.toml")

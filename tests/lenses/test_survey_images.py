"""Survey images against the simulator of the published sets and against lenstronomy."""

import dataclasses

import numpy as np
import pytest
import torch
from darklens.lenses.drawn import Lenses, draw
from darklens.lenses.survey_render import light_and_sky, render

import simulate as published
from darklens.lenses import physics, profiles, psf
from darklens.lenses.recipe_file import load_recipe, merge, parse_recipe, recipe_dict

CLASSES = ("no", "sphere", "vort")
DOUBLE = {"dtype": torch.float64}


def edited(base, **tables):
    return parse_recipe(merge(recipe_dict(load_recipe(base)), tables))


def set_values(lenses, **values):
    """The lenses with some values set: table__key=value."""
    new = {key.replace("__", "."): np.full(len(lenses), float(v)) for key, v in values.items()}
    return dataclasses.replace(lenses, values=lenses.values | new)


# ------------------------------------------------------------------ against the simulator of the published sets
def as_ours(p, recipe):
    """The published simulator's parameters as ours."""
    start = draw(recipe, "no", 0, "train", range(len(p)))
    names = {
        "z_lens": "lens.z_lens",
        "z_source": "lens.z_source",
        "shear": "lens.shear",
        "source_x": "source.x",
        "source_y": "source.y",
        "source_radius": "source.effective_radius",
        "axis_ratio": "source.axis_ratio",
        "vortex_mass": "vortex.mass",
        "vortex_length": "vortex.length",
        "vortex_x": "vortex.x",
        "vortex_y": "vortex.y",
    }
    angles = {"shear_angle": "lens.shear_angle", "source_angle": "source.angle", "vortex_angle": "vortex.angle"}
    values = {new: getattr(p, old) for old, new in names.items()}
    values |= {new: np.degrees(getattr(p, old)) for old, new in angles.items()}
    values["lens.einstein_radius"] = p.theta_e
    zero = np.zeros_like(p.subhalo_mass)
    subhalos = {"mass": p.subhalo_mass, "x": p.subhalo_x, "y": p.subhalo_y, "concentration": zero, "truncation": zero}
    return Lenses(start.values | values, subhalos)


@pytest.mark.parametrize("name", ["f", "j"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_images_equal_the_published_simulators(name, class_name):
    recipe = load_recipe(name)
    sky, counts = recipe.noise.sky.values[0], recipe.source.brightness.values[0]
    old = dataclasses.replace(published.RECIPES[name], sky=sky, source_counts=counts, peak_snr=None)
    p = published.draw(old, class_name, 3, "train", range(3))
    expected = published.render(p, old, dtype=torch.float64)
    ours = render(as_ours(p, recipe), recipe, **DOUBLE)
    assert (ours - expected).abs().max() <= 1e-10 * expected.max()


# -------------------------------------------------------------------------------------------- against lenstronomy
def ellipse(q, degrees):
    e, phi = (1 - q) / (1 + q), np.radians(degrees)
    return {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi)}


def their_sersic(v, table, amp, x, y, degrees):
    """Their b_n is another: another radius and amplitude give the very same profile."""
    n, radius = v[f"{table}.sersic_index"][0], v[f"{table}.effective_radius"][0]
    ours, theirs = physics.sersic_b(n), 1.9992 * n - 0.3271
    place = {"amp": amp * np.exp(ours - theirs), "n_sersic": n, "center_x": x, "center_y": y}
    return {**place, "R_sersic": radius * (theirs / ours) ** n, **ellipse(v[f"{table}.axis_ratio"][0], degrees)}


def their_subhalos(lenses, recipe):
    s, x, y = lenses.subhalos, lenses["image.x"][0], lenses["image.y"][0]
    z = lenses["lens.z_lens"][0], lenses["lens.z_source"][0]
    places = [{"center_x": x + a, "center_y": y + b} for a, b in zip(s["x"][0], s["y"][0], strict=True)]
    if lenses.profile == "tnfw":
        rs, alpha = profiles.nfw_angles(s["mass"][0], s["concentration"][0], *z)
        halos = zip(rs, alpha, s["truncation"][0] * rs, strict=True)
        kwargs = [{"Rs": a, "alpha_Rs": b, "r_trunc": c} for a, b, c in halos]
    else:
        kwargs = [{"theta_E": physics.einstein_radius(m, *z, recipe.lens.distances)} for m in s["mass"][0]]
    name = {"tnfw": "TNFW", "sis": "SIS", "point": "POINT_MASS"}[lenses.profile]
    return [name] * len(places), [a | b for a, b in zip(kwargs, places, strict=True)]


def their_lens(lenses, recipe, halo_mass):
    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    z = v["lens.z_lens"][0], v["lens.z_source"][0]
    theta_e, phi = physics.einstein_radius(halo_mass, *z, recipe.lens.distances), np.radians(v["lens.shear_angle"][0])
    halo = {"theta_E": theta_e, "center_x": x, "center_y": y, **ellipse(v["lens.axis_ratio"][0], v["lens.angle"][0])}
    gammas = v["lens.shear"][0] * np.cos(2 * phi), v["lens.shear"][0] * np.sin(2 * phi)
    shear = {"gamma1": gammas[0], "gamma2": gammas[1], "ra_0": x, "dec_0": y}
    names, kwargs = their_subhalos(lenses, recipe)
    return ["SIE", "SHEAR", *names], [halo, shear, *kwargs]


def their_pixels(recipe, kernel=None):
    """Their pixels and PSF."""
    pytest.importorskip("lenstronomy")
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF

    n, scale = recipe.image.pixels, recipe.image.pixel_scale
    corner = -(n - 1) / 2 * scale
    grid_of = {"transform_pix2angle": np.eye(2) * scale, "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(np.zeros((n, n)), **grid_of, background_rms=1, exposure_time=1)
    if kernel is None:
        return data, PSF(psf_type="GAUSSIAN", fwhm=recipe.psf.fwhm.values[0], truncation=5)
    return data, PSF(psf_type="PIXEL", kernel_point_source=kernel[::-1].copy())  # our row 0 is the top


def lenstronomy_image(lenses, recipe, kernel=None):
    """electrons/s a pixel of a lens with magnitudes, row 0 at the top."""
    data, spread = their_pixels(recipe, kernel)
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    names, kwargs = their_lens(lenses, recipe, their_halo_mass(lenses))
    light, zero = LightModel(["SERSIC_ELLIPSE"]), recipe.noise.zero_point
    degrees = v["lens.angle"][0] + v["lens_light.angle"][0]
    galaxy = their_sersic(v, "lens_light", 1.0, x, y, degrees)
    place = x + v["source.x"][0], y + v["source.y"][0]
    source = their_sersic(v, "source", 1.0, *place, v["source.angle"][0])
    for one, table in ((galaxy, "lens_light"), (source, "source")):
        one["amp"] = 10 ** (-0.4 * (v[f"{table}.magnitude"][0] - zero)) / light.total_flux([one | {"amp": 1.0}])[0]
    numerics = {"supersampling_factor": recipe.image.supersample, "supersampling_convolution": False}
    model = ImageModel(data, spread, LensModel(names), light, light, kwargs_numerics=numerics)
    return model.image(kwargs, [source], [galaxy])[::-1]


def their_halo_mass(lenses):
    s = lenses.subhalos
    masses = s["mass"][0]
    if lenses.profile == "tnfw":
        masses = profiles.tnfw_mass(masses, s["concentration"][0], s["truncation"][0])
    return lenses["lens.total_mass"][0] - lenses["lens.conserve_mass"][0] * masses.sum()


@pytest.mark.parametrize("profile", ["point", "sis", "tnfw"])
def test_whole_images_equal_lenstronomy(profile):
    """SIE, shear, subhalos, lens light and source by magnitude, a Moffat PSF by FFT, an off-centre lens."""
    halos = {"profile": profile, "count": 4, "mass": [1e8, 1e10], "radius": [0, 3]}
    moffat = {"kind": "moffat", "fwhm": 0.2, "beta": 3.0, "edges": "zero"}
    recipe = edited("hst", psf=moffat, classes={"sphere": {"subhalos": halos}}, image={"pixels": 60})
    lenses = draw(recipe, "sphere", 0, "train", [1])
    expected = lenstronomy_image(lenses, recipe, psf.moffat_kernel(0.2 / 0.08, 3.0))
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_gaussian_image_with_lens_light_equals_lenstronomy():
    recipe = edited("euclid", psf={"fwhm": 0.16}, image={"pixels": 60})
    lenses = draw(recipe, "no", 0, "train", [2])
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    expected = lenstronomy_image(lenses, recipe)
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_a_measured_psf_is_used(tmp_path):
    kernel = psf.moffat_kernel(2.5, 3.0, 21)
    kernel[10, 12] += 0.02  # asymmetric: rows and columns must not be mixed up
    kernel[13, 10] += 0.04
    np.save(tmp_path / "psf.npy", kernel)
    measured = {"kind": "file", "fwhm": "none", "beta": "none", "file": str(tmp_path / "psf.npy"), "edges": "zero"}
    recipe = edited("hst", psf=measured, image={"pixels": 50})
    lenses = draw(recipe, "no", 0, "train", [0])
    ours, _ = light_and_sky(lenses, recipe, **DOUBLE)
    expected = lenstronomy_image(lenses, recipe, kernel / kernel.sum())
    assert np.abs(ours[0].numpy() - expected).max() <= 1e-10 * expected.max()


def test_a_published_model_iii_ring():
    """theta_E and shear of the forward fit to a published Model III image, in its pixels."""
    lenses, recipe = draw(load_recipe("iii"), "no", 0, "train", [0]), load_recipe("iii")
    assert np.isclose(lenses["lens.einstein_radius"][0] / recipe.image.pixel_scale, 10.160855, rtol=1e-6)
    assert np.isclose(lenses["lens.shear"][0], 0.0317157383, rtol=1e-9)


def test_models_ii_and_iii_scale_their_substructure_with_the_halo():
    """All deflections carry one factor: that of the halo's Einstein radius."""
    ii, i = (draw(load_recipe(name), "vort", 0, "train", [0]) for name in ("ii", "i"))
    factor = ii["lens.einstein_radius"] / i["lens.einstein_radius"]
    assert np.isclose(ii["vortex.mass"] / i["vortex.mass"], factor, rtol=2e-4)
    halos = [load_recipe(name).classes["sphere"].subhalos.mass[1] for name in ("ii", "i")]
    assert np.isclose(halos[0] / halos[1], factor, rtol=2e-4)

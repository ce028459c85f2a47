"""Our lenses in lenstronomy's terms: the truth that the simulator is measured against."""

import numpy as np

from darklens.simulation import physics, profiles


def _ellipse(q, degrees):
    e, phi = (1 - q) / (1 + q), np.radians(degrees)
    return {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi)}


def _sersic(v, table, amp, x, y, degrees):
    """Their b_n is another: another radius and amplitude give the very same profile."""
    n, radius = v[f"{table}.sersic_index"][0], v[f"{table}.effective_radius"][0]
    ours, theirs = physics.sersic_b(n), 1.9992 * n - 0.3271
    place = {"amp": amp * np.exp(ours - theirs), "n_sersic": n, "center_x": x, "center_y": y}
    return {**place, "R_sersic": radius * (theirs / ours) ** n, **_ellipse(v[f"{table}.axis_ratio"][0], degrees)}


def _subhalos(lenses, recipe):
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


def _vortex(lenses, recipe, nodes):
    """A rod as point masses on Gauss-Legendre nodes."""
    v = {key: values[0] for key, values in lenses.values.items()}
    if not v["vortex.mass"]:
        return [], []
    t, w = np.polynomial.legendre.leggauss(nodes)
    half, angle = v["vortex.length"] / 2 * t, np.radians(v["vortex.angle"])
    x = v["image.x"] + v["vortex.x"] + half * np.cos(angle)
    y = v["image.y"] + v["vortex.y"] + half * np.sin(angle)
    radii = physics.einstein_radius(
        v["vortex.mass"] * w / 2, v["lens.z_lens"], v["lens.z_source"], recipe.lens.distances
    )
    points = [{"theta_E": r, "center_x": a, "center_y": b} for r, a, b in zip(radii, x, y, strict=True)]
    return ["POINT_MASS"] * nodes, points


def _halo_mass(lenses):
    s, v = lenses.subhalos, lenses.values
    masses = s["mass"][0]
    if lenses.profile == "tnfw":
        masses = profiles.tnfw_mass(masses, s["concentration"][0], s["truncation"][0])
    return v["lens.total_mass"][0] - v["lens.conserve_mass"][0] * (masses.sum() + v["vortex.mass"][0])


def lenstronomy_lens(lenses, recipe, nodes=600):
    """Names and keyword arguments of the first lens's mass profiles."""
    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    z, phi = (v["lens.z_lens"][0], v["lens.z_source"][0]), np.radians(v["lens.shear_angle"][0])
    halo = {"theta_E": physics.einstein_radius(_halo_mass(lenses), *z, recipe.lens.distances)}
    halo |= {"center_x": x, "center_y": y}
    round_one = v["lens.axis_ratio"][0] == 1
    halo |= {} if round_one else _ellipse(v["lens.axis_ratio"][0], v["lens.angle"][0])
    gammas = v["lens.shear"][0] * np.cos(2 * phi), v["lens.shear"][0] * np.sin(2 * phi)
    shear = {"gamma1": gammas[0], "gamma2": gammas[1], "ra_0": x, "dec_0": y}
    parts = [_subhalos(lenses, recipe), _vortex(lenses, recipe, nodes)]
    names, kwargs = (sum(column, []) for column in zip(*parts, strict=True))
    return ["SIS" if round_one else "SIE", "SHEAR", *names], [halo, shear, *kwargs]


def _pixels(recipe, kernel=None):
    """Their pixels and PSF; they repeat the edges of a Gaussian, and put zeros beyond those of a kernel."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF

    n, scale = recipe.image.pixels, recipe.image.pixel_scale
    corner = -(n - 1) / 2 * scale
    grid = {"transform_pix2angle": np.eye(2) * scale, "ra_at_xy_0": corner, "dec_at_xy_0": corner}
    data = ImageData(np.zeros((n, n)), **grid, background_rms=1, exposure_time=1)
    if kernel is None:
        return data, PSF(psf_type="GAUSSIAN", fwhm=recipe.psf.fwhm.values[0], truncation=5)
    return data, PSF(psf_type="PIXEL", kernel_point_source=kernel[::-1].copy())  # our row 0 is the top


def lenstronomy_image(lenses, recipe, kernel=None, nodes=600):
    """electrons/s a pixel of the first lens, without sky; row 0 at the top as ours."""
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    data, spread = _pixels(recipe, kernel)
    v, x, y = lenses.values, lenses["image.x"][0], lenses["image.y"][0]
    names, kwargs = lenstronomy_lens(lenses, recipe, nodes)
    light, zero = LightModel(["SERSIC_ELLIPSE"]), recipe.noise.zero_point
    degrees = v["lens.angle"][0] + v["lens_light.angle"][0]
    galaxies = [("source", x + v["source.x"][0], y + v["source.y"][0], v["source.angle"][0])]
    galaxies += [("lens_light", x, y, degrees)] if recipe.lens_light else []
    found = {}
    for table, *place in galaxies:
        found[table] = _sersic(v, table, 1.0, *place)
        if np.isnan(v.get(f"{table}.brightness", [np.nan])[0]):
            whole = light.total_flux([found[table] | {"amp": 1.0}])[0]
            found[table]["amp"] = 10 ** (-0.4 * (v[f"{table}.magnitude"][0] - zero)) / whole
        else:
            found[table]["amp"] *= v[f"{table}.brightness"][0] / recipe.image.pixel_scale**2
    numerics = {"supersampling_factor": recipe.image.supersample, "supersampling_convolution": False}
    galaxy = {"lens_light_model_class": light} if recipe.lens_light else {}
    model = ImageModel(data, spread, LensModel(names), light, kwargs_numerics=numerics, **galaxy)
    return model.image(kwargs, [found["source"]], [found["lens_light"]] if galaxy else None)[::-1]


def lenstronomy_lens_light(lenses, recipe):
    """electrons/s a pixel of the lens galaxy's components by magnitude, without PSF; row 0 at the top."""
    from lenstronomy.LightModel.light_model import LightModel

    v, n, fine = lenses.values, recipe.image.pixels, recipe.image.supersample
    steps = (np.arange(n * fine) - (n * fine - 1) / 2) * recipe.image.pixel_scale / fine
    x, y = (w.ravel() for w in np.meshgrid(steps, -steps))
    light, total, first = LightModel(["SERSIC_ELLIPSE"]), np.zeros(n * n * fine**2), None
    for name in ("lens_light", "lens_light_2"):
        one = _sersic(v, name, 1.0, v["image.x"][0], v["image.y"][0], v["lens.angle"][0] + v[f"{name}.angle"][0])
        flux = 10 ** (-0.4 * (v[f"{name}.magnitude"][0] - recipe.noise.zero_point))
        flux = flux if first is None else v[f"{name}.relative_flux"][0] * first
        first = flux if first is None else first
        one["amp"] = flux / light.total_flux([one | {"amp": 1.0}])[0]
        total += light.surface_brightness(x, y, [one])
    # (n fine, n fine) -> (n, fine, n, fine), the mean over the rays of a pixel
    return total.reshape(n, fine, n, fine).mean((1, 3)) * recipe.image.pixel_scale**2

"""Our lenses in lenstronomy's terms: the truth that the simulator is measured against."""

import numpy as np

from darklens.lenses import physics


def as_point_masses(p, nodes):
    """Subhalos as they are, the vortex as Gauss-Legendre nodes: mass (Msun), x, y (arcsec)."""
    if not p.vortex_mass.any():
        return p.subhalo_mass[0], p.subhalo_x[0], p.subhalo_y[0]
    t, w = np.polynomial.legendre.leggauss(nodes)
    half = p.vortex_length[0] / 2 * t
    x, y = (c[0] + half * f(p.vortex_angle[0]) for c, f in ((p.vortex_x, np.cos), (p.vortex_y, np.sin)))
    return p.vortex_mass[0] * w / 2, x, y


def lenstronomy_lens(p, recipe, nodes=600):
    mass, x, y = as_point_masses(p, nodes)
    square = p.theta_e[0] ** 2 / recipe.total_mass
    gamma, phi = p.shear[0], p.shear_angle[0]
    halo = {"theta_E": np.sqrt(square * (recipe.total_mass - mass.sum())), "center_x": 0, "center_y": 0}
    shear = {"gamma1": gamma * np.cos(2 * phi), "gamma2": gamma * np.sin(2 * phi), "ra_0": 0, "dec_0": 0}
    points = [
        {"theta_E": np.sqrt(square * m), "center_x": a, "center_y": b} for m, a, b in zip(mass, x, y, strict=True)
    ]
    return ["SIS", "SHEAR", *["POINT_MASS"] * len(points)], [halo, shear, *points]


def lenstronomy_source(p, recipe):
    """The source with lenstronomy's own b_n: another radius and amplitude give the very same profile."""
    n, q, phi = recipe.sersic_index, p.axis_ratio[0], p.source_angle[0]
    ours, theirs = physics.sersic_b(n), 1.9992 * n - 0.3271
    e = (1 - q) / (1 + q)
    return {
        "amp": recipe.source_counts * np.exp(ours - theirs),
        "R_sersic": p.source_radius[0] * (theirs / ours) ** n,
        "n_sersic": n,
        "e1": e * np.cos(2 * phi),
        "e2": e * np.sin(2 * phi),
        "center_x": p.source_x[0],
        "center_y": p.source_y[0],
    }


def lenstronomy_image(p, recipe, nodes=600):
    """The image before noise, without sky; row 0 at the top as ours."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    n, scale = recipe.pixels, recipe.pixel_scale
    corner = -(n - 1) / 2 * scale
    data = ImageData(
        np.zeros((n, n)),
        transform_pix2angle=np.eye(2) * scale,
        ra_at_xy_0=corner,
        dec_at_xy_0=corner,
        background_rms=1,
        exposure_time=1,
    )
    psf = PSF(psf_type="GAUSSIAN", fwhm=recipe.psf_sigma * np.sqrt(8 * np.log(2)), truncation=5)
    names, kwargs = lenstronomy_lens(p, recipe, nodes)
    numerics = {"supersampling_factor": recipe.supersample, "supersampling_convolution": False}
    source = LightModel(["SERSIC_ELLIPSE"])
    model = ImageModel(data, psf, LensModel(names), source, kwargs_numerics=numerics)
    image = model.image(kwargs, [lenstronomy_source(p, recipe)])
    return image[::-1] / scale**2  # theirs is light per square arcsec times the pixel's area

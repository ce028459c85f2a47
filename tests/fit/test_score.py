"""The score test of what a fit holds: does it see a lens off the middle, or an elliptical halo, and nothing else?"""

import math

import fit_data
import numpy as np
import pytest
import torch
from simulated import sie

from darklens.fit import SmoothModel, fit, fit_many, score
from darklens.fit.renderer import Renderer, renderer
from darklens.fit.solver import Problem, Solver
from darklens.simulation import draw
from darklens.simulation.recipes import changed

F64 = torch.float64
OFFSET, ELLIPTICAL, BOTH = score.TESTS
CHANGES = {
    OFFSET: {"robust.registration": 1},  # pixel: 0.05"
    ELLIPTICAL: {"lens.axis_ratio": 0.8, "lens.angle": [0, 360]},
    BOTH: {"robust.registration": 1, "lens.axis_ratio": 0.8, "lens.angle": [0, 360], "noise.sky": 12},  # as when chosen
}


def camera(model=None):
    return Renderer(model or SmoothModel(window=30), 30, 1, torch.device("cpu"), F64)


def parameters():
    return torch.tensor([[0.6, 0.1, -0.05, 0.1, 0.2, -0.9, 0.3, -0.2, 0.3, *[0.0] * 9]], dtype=F64)


def lensed(name, reason, class_name="no", count=6):
    recipe = changed(fit_data.RECIPES[name], CHANGES[reason])
    return fit_data.images(recipe, class_name, count)[0].astype(float), recipe


def scored(images, found):
    """`score` of fits of images."""
    size, (amplitude, sky) = found.residual.shape[-1], (v[:, None, None] for v in (found.amplitude, found.sky))
    data = torch.from_numpy((found.image + found.residual * found.deviation - sky) / amplitude).float()
    weight = torch.from_numpy(amplitude / found.deviation).float()
    solver = Solver(renderer(found.model, size, 1, "cpu", torch.float32), 4)
    return score.score(solver, torch.from_numpy(found.parameters), Problem(data.flatten(1), weight.flatten(1)))


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_halo_is_the_isothermal_ellipsoid_to_first_order(angle):
    """Against central differences of `simulated.sie`, which the tests of profiles compare with lenstronomy's."""
    model, step = camera(), 1e-3
    bends = score.bends(model, parameters())
    for q in (math.exp(-step), math.exp(-2 * step)):
        axis = torch.tensor(angle, dtype=F64)
        ratio, one = torch.tensor(q, dtype=F64), torch.ones((), dtype=F64)
        more = sie(model.x, model.y, one, ratio, axis)
        less = sie(model.x, model.y, one, ratio, axis + math.pi / 2)  # eta -> -eta
        for k in (0, 1):
            slope = (more[k] - less[k]) / (-2 * math.log(q))
            ours = math.cos(2 * angle) * bends["halo_1"][k] + math.sin(2 * angle) * bends["halo_2"][k]
            assert (slope - ours).abs().max() < 1e-4


def test_halo_equals_lenstronomys():
    pytest.importorskip("lenstronomy")
    from lenstronomy.LensModel.lens_model import LensModel

    model, eta, angle = camera(), 1e-3, 0.7
    e = math.tanh(eta / 2)  # (1 - q) / (1 + q)
    x, y, bends = model.x.numpy(), model.y.numpy(), score.bends(model, parameters())
    sie = {"theta_E": 1.0, "center_x": 0, "center_y": 0}
    signs = [{"e1": s * e * math.cos(2 * angle), "e2": s * e * math.sin(2 * angle)} for s in (1, -1)]
    more, less = (LensModel(["SIE"]).alpha(x, y, [sie | shape]) for shape in signs)
    for k in (0, 1):
        ours = math.cos(2 * angle) * bends["halo_1"][k] + math.sin(2 * angle) * bends["halo_2"][k]
        assert np.abs((more[k] - less[k]) / (2 * eta) - ours.numpy()).max() < 1e-5


def test_columns_of_the_centre_are_those_of_a_free_centre():
    held, free = camera(), camera(SmoothModel(window=30, free_centre=True))
    q = parameters()
    bends = score.bends(held, q)
    assert set(score.bends(free, q)) == {"halo_1", "halo_2"}
    columns = held.columns(q, [bends["centre_x"], bends["centre_y"]])
    expected = free.columns(q)
    assert columns.shape[1] == 1 + 8 + 2
    columns[:, 9:] *= q[0, 0]
    assert (columns - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_bends_come_after_a_free_psf():
    model, q = camera(SmoothModel(window=30, free_psf=True)), parameters()
    bends = list(score.bends(model, q).values())
    pairs = (model.columns(q, bends), model.mixing(4)), (model.columns(q), model.mixing())
    more, own = (torch.einsum("brhw,rpl->bphw", columns, mixing) for columns, (_, mixing) in pairs)
    assert torch.allclose(more[:, :9], own, rtol=1e-12) and own.shape[1] == 9 and more.shape[1] == 9 + 4
    assert (more[:, 9:].abs().amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("reason", [OFFSET, ELLIPTICAL])
def test_step_finds_what_was_put_in(reason):
    images, recipe = lensed("j", reason)
    drawn = draw.draw(recipe, "no", 0, "test", range(len(images)))
    _, found = scored(images, fit(images))
    if reason == OFFSET:
        expected = [drawn["image.x"], drawn["image.y"], 0 * drawn["image.x"], 0 * drawn["image.x"]]
    else:
        eta, angle = -math.log(0.8), 2 * np.radians(drawn["lens.angle"])
        expected = [0 * angle, 0 * angle, eta * np.cos(angle), eta * np.sin(angle)]
    names, scales = ("centre_x", "centre_y", "halo_1", "halo_2"), (0.1, 0.1, 0.5, 0.5)
    for name, value, scale in zip(names, expected, scales, strict=True):
        assert np.abs(found[name].numpy() - value).max() < 0.15 * scale, name


def test_gain_is_what_a_second_fit_finds():
    images, _ = lensed("j", OFFSET)
    found = fit(images)
    gains, _ = scored(images, found)
    freed = fit(images, SmoothModel(free_centre=True), noise=padded(found.deviation, images))
    held = fit(images, noise=padded(found.deviation, images))
    expected = (held.chi_square - freed.chi_square) * held.pixels
    assert np.allclose(gains[OFFSET], expected, rtol=0.15)


def padded(deviation, images):
    edge = (images.shape[-1] - deviation.shape[-1]) // 2
    return np.pad(deviation, ((0, 0), (edge, edge), (edge, edge)), mode="edge")


def test_where_nothing_is_wrong_the_gain_is_chi_square_distributed():
    images = fit_data.images(fit_data.J, "no", 40)[0].astype(float)
    gains, _ = scored(images, fit(images))
    for reason, freedom in ((OFFSET, 2), (ELLIPTICAL, 2), (BOTH, 4)):
        assert abs(gains[reason].mean() - freedom) < 4 * np.sqrt(2 * freedom / 40), reason


@pytest.mark.parametrize("reason", CHANGES)
@pytest.mark.parametrize("name", ["f", "j"])
def test_smooth_lenses_that_are_not_as_held_are_flagged(name, reason):
    found = fit(lensed(name, reason)[0]).flag
    expected = [reason] if reason != BOTH else [*score.TESTS]  # where both are wrong, one may explain enough
    assert np.isin(found, expected).sum() >= 5 and set(found) <= {*expected, ""}


def test_substructure_is_not_flagged():
    for recipe in fit_data.RECIPES.values():
        for class_name in fit_data.CLASSES:
            assert (fit(fit_data.images(recipe, class_name, 6)[0]).flag == "").sum() >= 5


def test_flags_turn_with_the_image_and_its_unit():
    images = np.concatenate([lensed("j", reason, "sphere", 3)[0] for reason in CHANGES])
    expected = fit(images).flag
    assert {OFFSET, ELLIPTICAL} <= set(expected)
    for other in (np.rot90(images, 1, (1, 2)), images[:, :, ::-1], images.transpose(0, 2, 1), images / 565 - 3):
        assert (fit(other).flag == expected).all()


def test_what_is_free_is_not_tested():
    images, _ = lensed("j", OFFSET)
    assert OFFSET in fit(images).flag and set(fit(images, SmoothModel(free_centre=True)).flag) == {""}


@pytest.mark.parametrize("freed", [False, True])
def test_left_out_nothing_is_flagged_and_the_fit_is_the_same(freed):
    images, _ = lensed("j", OFFSET)
    tested, found = fit(images), fit_many(images, SmoothModel(refit_flagged=freed), score_test=False)
    assert OFFSET in tested.flag and set(found.flag) == {""}
    assert (found.residual == tested.residual).all() and (found.covariance == tested.covariance).all()


@pytest.mark.parametrize("reason", CHANGES)
def test_what_is_flagged_is_fitted_again(reason):
    images = np.concatenate([lensed("j", reason)[0], fit_data.images(fit_data.J, "no", 2)[0].astype(float)])
    held, found = fit(images), fit(images, SmoothModel(refit_flagged=True))
    flagged = held.flag != ""
    assert flagged.sum() >= 5 and (found.flag == held.flag).all()
    assert held.chi_square[flagged].min() > 1.02 and (np.abs(found.chi_square - 1) < 0.06).sum() >= len(images) - 1
    for name in ("residual", "parameters", "covariance", "chi_square"):
        assert (getattr(found, name)[~flagged] == getattr(held, name)[~flagged]).all()
    assert found.covariance.shape == held.covariance.shape and set(found.table()) == set(held.table())
    for turned in (lambda x: np.rot90(x, 1, (-2, -1)), lambda x: x[..., ::-1]):
        again = fit(turned(images), found.model)
        assert np.abs(again.residual - turned(found.residual)).max() <= 1e-2 and (again.flag == found.flag).all()
    unit = fit(images / 565 - 3, found.model)
    assert np.abs(unit.residual - found.residual).max() <= 2e-3

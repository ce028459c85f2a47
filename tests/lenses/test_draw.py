"""Priors and random streams."""

import dataclasses

import numpy as np
import pytest
from simulated import F, J, inside

from darklens.lenses import draw, recipes


@pytest.mark.parametrize("recipe", [F, J], ids=["f", "j"])
def test_priors_stay_in_their_range_and_fill_it(recipe):
    p = {c: draw.draw(recipe, c, 3, "train", range(1500)) for c in recipes.CLASSES}
    every = [
        *((q.z_lens, recipe.z_lens) for q in p.values()),
        *((q.z_source, recipe.z_source) for q in p.values()),
        *((q.shear, recipe.shear) for q in p.values()),
        *((q.shear_angle, (0, np.radians(2 * np.pi))) for q in p.values()),
        *((q.source_angle, (0, np.radians(2 * np.pi))) for q in p.values()),
        *((np.hypot(q.source_x, q.source_y), recipe.source_offset) for q in p.values()),
        *((q.source_radius, recipe.effective_radius) for q in p.values()),
        *((q.axis_ratio, recipe.axis_ratio) for q in p.values()),
        (p["vort"].vortex_mass / recipe.total_mass, recipe.vortex_fraction),
        (p["vort"].vortex_length, recipe.vortex_length),
        (p["vort"].vortex_angle, (0, 2 * np.pi)),
    ]
    for values, (low, high) in every:
        assert inside(values, (low, high))
        assert abs(values.mean() - (low + high) / 2) <= 5 * (high - low) / np.sqrt(12 * len(values)) + 1e-12
    centre = np.concatenate([p["vort"].vortex_x, p["vort"].vortex_y])
    assert centre.std() == pytest.approx(recipe.vortex_scatter, rel=0.08)
    assert not p["no"].substructure_mass.any()


def test_subhalos_follow_their_priors():
    p = draw.draw(F, "sphere", 3, "train", range(1500))
    real = p.subhalo_mass > 0
    assert real.sum(1).mean() == pytest.approx(25, abs=5 * np.sqrt(25 / 1500))
    assert inside(p.subhalo_mass[real], F.subhalo_mass)
    assert inside(np.hypot(p.subhalo_x, p.subhalo_y)[real], F.subhalo_radius)
    assert np.hypot(p.subhalo_x, p.subhalo_y)[real].mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("slope", [-0.9, -1.0, -1.9])
def test_power_law_quantiles(slope):
    """dN/dm ~ m^slope, from quantiles: equal steps of u hold equal integrals of it."""
    m = draw.power_law(np.linspace(0, 1, 9), 1e6, 1e10, slope)
    assert m[0] == pytest.approx(1e6) and m[-1] == pytest.approx(1e10)
    parts = []
    for low, high in zip(m[:-1], m[1:], strict=True):
        t = np.linspace(np.log(low), np.log(high), 20001)
        parts.append(
            np.trapezoid(np.exp((slope + 1) * t), t)
            if hasattr(np, "trapezoid")
            else np.trapz(np.exp((slope + 1) * t), t)
        )
    assert np.ptp(parts) <= 1e-6 * parts[0]


def test_quirks_are_switches():
    def first(class_name="no", **changes):
        return draw.draw(dataclasses.replace(J, **changes), class_name, 0, "train", range(50))

    plain, free = first(), first(random_shear_axis=True)
    assert free.shear_angle == pytest.approx(np.degrees(plain.shear_angle)) and free.shear_angle.max() > 5
    assert np.array_equal(free.source_x, plain.source_x)
    assert first(random_source_axis=True).source_angle.max() > 5
    assert first("vort").vortex_angle.max() > 5 > first("vort", random_vortex_axis=False).vortex_angle.max()
    assert (first(distances="angular").theta_e > 1.2 * plain.theta_e).all()
    assert (
        first("sphere", subhalo_slope=-1.9).substructure_mass.mean() < 0.01 * first("sphere").substructure_mass.mean()
    )
    with pytest.raises(ValueError, match="distances"):
        first(distances="parallax")


def test_streams_differ():
    base = {"recipe": F, "class_name": "no", "seed": 0, "split": "train", "indices": [3]}
    others = [
        {"recipe": J},
        {"class_name": "vort"},
        {"seed": 1},
        {"split": "val"},
        {"split": "test"},
        {"indices": [4]},
    ]
    shears = [draw.draw(**{**base, **other}).shear[0] for other in [{}, *others]]
    assert len(set(shears)) == len(shears)
    assert (
        draw.stream(F, "no", 0, "train", 3, 0).generate_state(2).tolist()
        != draw.stream(F, "no", 0, "train", 3, 1).generate_state(2).tolist()
    )


@pytest.mark.parametrize("bad", [{"class_name": "axion"}, {"split": "dev"}, {"seed": -1}, {"indices": [-1]}])
def test_unknown_names_and_negative_numbers_are_refused(bad):
    with pytest.raises(ValueError):
        draw.draw(**{"recipe": F, "class_name": "no", "seed": 0, "split": "train", "indices": [0], **bad})

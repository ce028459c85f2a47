"""Steps of a flexible lens that start far off: none climbs, and the priors of the lens are felt."""

import dataclasses

import numpy as np
import torch

from darklens.fit import SmoothModel
from darklens.fit.descent import Descent
from darklens.fit.flexible import FlexibleLens
from darklens.fit.renderer import renderer
from darklens.fit.spline_source import SplineSource

MODEL = SmoothModel(window=51, free_centre=True, free_halo=True)


def lens(**changes: float) -> FlexibleLens:
    """A compact source behind an elliptical lens, the data of the truth, the parameters changed by so much."""
    camera = renderer(MODEL, 51, 1, "cpu", torch.float64)
    truth = torch.as_tensor(MODEL.held())[None].clone()
    values = {"einstein_radius": 0.7, "halo_1": 0.2, "source_x": 0.05, "log_radius": np.log(0.06)}
    for name, value in values.items():
        truth[0, camera.table.index[name]] = value
    noise = torch.as_tensor(np.random.default_rng(0).normal(size=(51, 51)) / 5)
    data = camera.light(truth).view(51, 51) + noise
    start = truth.clone()
    for name, change in changes.items():
        start[0, camera.table.index[name]] += change
    source = SplineSource(camera.table.named(start.clone()), 1.0)
    nothing = torch.zeros(0, 51 * 51, dtype=torch.float64)
    return FlexibleLens(camera, start, data, torch.full_like(data, 5.0), source, nothing)


def test_no_step_climbs():
    """Measured by J of the same linear problem before and after."""
    descent = Descent(lens(einstein_radius=0.05, halo_1=-0.2, centre_x=0.05))
    descent.run(2, hold=False)
    for _ in range(3):
        before = descent.place()
        descent.step(adapt=False)
        after = descent.place()
        descent.move(before)
        height = descent.objective()
        descent.move(after)
        assert descent.objective() <= height


def test_a_lens_that_starts_off_arrives():
    off = lens(einstein_radius=0.03, halo_1=-0.1)
    Descent(off).run(4, hold=True)
    index = off.renderer.table.index
    assert abs(float(off.q[0, index["einstein_radius"]]) - 0.7) < 0.003
    assert abs(float(off.q[0, index["halo_1"]]) - 0.2) < 0.03
    assert float(((off.data - off.image() - off.sky) * off.weight).square().mean()) < 1.05


def test_priors_of_the_lens_hold_it():
    """A narrow prior about a wrong centre wins, one that is not there does not."""
    places = []
    for priors in ({}, {"centre_x": (0.04, 1e-5)}):
        descent = Descent(dataclasses.replace(lens(), priors=priors))
        descent.run(2, hold=False)
        places.append(float(descent.lens.q[0, descent.lens.renderer.table.index["centre_x"]]))
    assert abs(places[0]) < 0.01 and abs(places[1] - 0.04) < 1e-3

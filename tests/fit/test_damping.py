"""Steps that go to and fro are shortened until they arrive."""

import torch

from darklens.fit.damping import LEAST, Damping


def test_steps_that_overshoot_arrive():
    """Each step asks for 2.2 times the way to the minimum: full steps run away, damped ones arrive."""
    precision = torch.diag(torch.tensor([1.0, 100.0], dtype=torch.float64))
    place, damping = torch.tensor([1.0, -0.5], dtype=torch.float64), Damping()
    for _ in range(30):
        step = -2.2 * place
        place = place + damping.share(step, precision) * step
    assert place.abs().max() < 1e-3


def test_the_share_grows_where_steps_agree_and_stays_within_bounds():
    precision, step = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    damping = Damping()
    shares = [damping.share((-1.0) ** k * step, precision) for k in range(8)]
    assert shares[0] == 1.0 and shares[-1] == LEAST
    assert damping.share(step, precision) == LEAST  # the eighth pointed back
    assert damping.share(step, precision) == 1.5 * LEAST


def test_a_lens_with_other_parameters_starts_anew():
    damping = Damping()
    damping.share(torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert damping.share(-torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)) == 1.0

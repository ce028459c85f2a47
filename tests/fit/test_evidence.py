"""The evidence of linear models against the density of the data, written out."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from darklens.fit import evidence

K, N, M = 20, 40, 6


@pytest.fixture
def problem():
    """Columns (K, N), precisions (K,), data (N,), further columns (M, N)."""
    generator = torch.Generator().manual_seed(0)
    columns, further = (torch.randn(n, N, generator=generator, dtype=torch.float64) for n in (K, M))
    precision = torch.rand(K, generator=generator, dtype=torch.float64) + 0.1
    return columns, precision, 2 * torch.randn(N, generator=generator, dtype=torch.float64), further


def density(columns, precision, data):
    covariance = torch.eye(N, dtype=torch.float64) + columns.T @ (columns / precision[:, None])
    return MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance).log_prob(data)


def solved(columns, precision, data):
    posterior = evidence.solve(columns @ columns.T, columns @ data, precision)
    return posterior, data - columns.T @ posterior.mean


def test_evidence_is_the_density_of_the_data(problem):
    columns, precision, data, _ = problem
    posterior, residual = solved(columns, precision, data)
    constant = -N / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    log_e = evidence.log_evidence(posterior, residual.square().sum()) + constant
    torch.testing.assert_close(log_e, density(columns, precision, data))


def test_posterior_is_that_of_bayes_rule(problem):
    columns, precision, data, _ = problem
    covariance = torch.linalg.inv(columns @ columns.T + torch.diag(precision))
    posterior, _ = solved(columns, precision, data)
    torch.testing.assert_close(posterior.covariance_with(slice(None)), covariance)
    torch.testing.assert_close(posterior.mean, covariance @ columns @ data)
    determined = evidence.well_determined(posterior)
    torch.testing.assert_close(determined, 1 - precision * covariance.diagonal())


def test_parts_of_the_covariance(problem):
    posterior, _ = solved(*problem[:3])
    without = posterior.mean_without(slice(3, 6))
    torch.testing.assert_close(posterior.covariance_with([2, 5]), posterior.covariance_with(slice(None))[:, [2, 5]])
    torch.testing.assert_close(posterior.covariance_of([2, 5]), posterior.covariance_with([2, 5])[[2, 5]])
    torch.testing.assert_close(posterior.variance(), posterior.covariance_with(slice(None)).diagonal())
    torch.testing.assert_close(without[3:6], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("deviation", [0.01, 0.5, 3.0])
def test_bayes_factor_is_a_ratio_of_densities(problem, deviation):
    columns, precision, data, further = problem
    posterior, residual = solved(columns, precision, data)
    whitened = posterior.whiten(columns @ further.T)
    information, score = further @ further.T - whitened.T @ whitened, further @ residual
    both = torch.cat((columns, further))
    more = torch.cat((precision, torch.full((M,), deviation**-2, dtype=torch.float64)))
    expected = density(both, more, data) - density(columns, precision, data)
    log_b = evidence.bayes_factor(information, score, torch.tensor([deviation], dtype=torch.float64))
    torch.testing.assert_close(log_b, expected)


def test_evidence_is_averaged_over_deviations(problem):
    columns, precision, data, further = problem
    information, score = further @ further.T, further @ data
    both = torch.tensor([0.1, 1.0], dtype=torch.float64)
    parts = torch.stack([evidence.bayes_factor(information, score, each[None]) for each in both])
    expected = parts.exp().mean().log()
    torch.testing.assert_close(evidence.bayes_factor(information, score, both), expected)


@pytest.mark.parametrize("matrix", [-torch.eye(4).double(), torch.full((4, 4), torch.nan).double()])
def test_what_is_no_matrix_of_normal_equations_is_told(matrix):
    with pytest.raises(torch.linalg.LinAlgError):
        evidence.solve(matrix, torch.ones(4).double(), torch.zeros(4).double())


def test_columns_that_float32_cannot_tell_apart_are_solved():
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(1, N, generator=generator).repeat(5, 1) + 1e-5 * torch.randn(5, N, generator=generator)
    posterior = evidence.solve((columns @ columns.T).double(), columns.double().sum(1), torch.full((5,), 1e-9).double())
    assert posterior.mean.isfinite().all()

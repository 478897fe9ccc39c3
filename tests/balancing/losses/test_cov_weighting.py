"""Weights are the coefficients of variation of loss ratios."""

import torch

from balancing import create_balancer
from tests.balancing.formulas import double, next_weights


def test_cov_weighting_follows_the_coefficients_of_variation():
    history = [[1, 10], [2, 9], [1.5, 9.5], [4, 8]]
    balancer = create_balancer("cov_weighting", ("a", "b"))
    ratios = []
    for t, losses in enumerate(history):
        weights = next_weights(balancer, double(losses))
        ratios.append(double(losses) / double(history[:t]).mean(0) if t else torch.ones(2, dtype=torch.float64))
        so_far = torch.stack(ratios)
        variation = so_far.std(0, correction=0) / so_far.mean(0)
        expected = variation / variation.sum() if t else double([0.5, 0.5])
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)


def test_cov_weighting_of_constant_losses_is_equal():
    balancer = create_balancer("cov_weighting", ("a", "b"))
    assert [next_weights(balancer, double([1, 2])).tolist() for _ in range(3)] == [[0.5, 0.5]] * 3

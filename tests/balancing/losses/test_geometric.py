"""Weights are the derivative of the geometric mean of the losses."""

import torch

from tests.balancing.formulas import derivative, loss_weights


def test_geometric_is_the_derivative_of_its_formula():
    geometric = loss_weights("geometric")
    torch.testing.assert_close(geometric, derivative(lambda loss: loss.prod() ** 0.25))

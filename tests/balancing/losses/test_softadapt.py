"""SoftAdapt favors losses that rise."""

import torch

from balancing import create_balancer
from tests.balancing.formulas import double, next_weights


def test_softadapt_favors_losses_that_rise():
    balancer = create_balancer("softadapt", ("a", "b"), beta=2.0)
    assert next_weights(balancer, double([1, 5])).tolist() == [0.5, 0.5]
    torch.testing.assert_close(next_weights(balancer, double([2, 4])), torch.softmax(double([2, -2]), 0))
    torch.testing.assert_close(next_weights(balancer, double([2, 4.5])), torch.softmax(double([0, 1]), 0))

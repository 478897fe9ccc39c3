"""Weights are the derivative of the power mean of the losses."""

import math

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import LOSSES, PRIORITIES, derivative, double, loss_weights


@pytest.mark.parametrize("gamma", [-3.0, -1.0, -1e-3, 1e-3, 0.5, 1.0, 2.0, 7.0])
def test_power_mean_is_the_derivative_of_its_formula(gamma):
    expected = derivative(lambda loss: loss.pow(gamma).mean().pow(1 / gamma))
    torch.testing.assert_close(loss_weights("power_mean", gamma=gamma), expected)


def test_power_mean_of_preferred_losses():
    p = double(list(PRIORITIES.values())) / 1.5
    expected = derivative(lambda loss: (p * loss).pow(3).mean().pow(1 / 3))
    torch.testing.assert_close(loss_weights("power_mean", gamma=3.0, preference=PRIORITIES), expected)


def test_limits_of_the_power_mean():
    geometric = loss_weights("geometric")
    torch.testing.assert_close(loss_weights("power_mean", gamma=0.0), geometric)
    torch.testing.assert_close(loss_weights("power_mean", gamma=1e-9), geometric)
    torch.testing.assert_close(
        loss_weights("power_mean", gamma=1e-6, losses=LOSSES.float()), geometric.float(), rtol=1e-4, atol=0
    )
    assert torch.equal(loss_weights("power_mean", gamma=math.inf), 4 * loss_weights("tchebycheff"))
    torch.testing.assert_close(
        loss_weights("power_mean", gamma=1e5), loss_weights("power_mean", gamma=math.inf), rtol=1e-4, atol=0
    )
    assert loss_weights("power_mean", gamma=-math.inf).tolist() == [0, 0, 0, 1]
    assert loss_weights("power_mean", double([1, 3, 3]), gamma=math.inf).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("options", [{"gamma": math.nan}, {"log_losses": True}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="power_mean"):
        create_balancer("power_mean", ("a", "b"), **options)

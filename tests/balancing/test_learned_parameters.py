"""Parameters of balancers that an optimizer steps."""

import warnings

import pytest

from tests.balancing.problems import LEARNED, Net, inputs, make, train


@pytest.mark.parametrize("name", LEARNED)
def test_forgotten_parameters_are_noticed(name):
    net, x, balancer = Net(), inputs(), make(name)
    for _ in range(100):
        balancer.backward(net.losses(x))
    with pytest.warns(UserWarning, match="balancer.parameters"):
        balancer.backward(net.losses(x))


@pytest.mark.parametrize("name", LEARNED)
def test_optimized_parameters_raise_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Net(), make(name), steps=110, lr=1e-4)

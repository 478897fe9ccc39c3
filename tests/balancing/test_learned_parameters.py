"""Parameters of balancers that an optimizer steps."""

import warnings

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import LEARNED, Net, inputs, make, train


@pytest.mark.parametrize("name", LEARNED)
def test_forgotten_parameters_are_noticed(name):
    net, x, balancer = Net(), inputs(), make(name)
    for _ in range(10):
        balancer.backward(net.losses(x))
    with pytest.warns(UserWarning, match="balancer.parameters"):
        balancer.backward(net.losses(x))


@pytest.mark.parametrize("name", LEARNED)
def test_a_fused_optimizer_moves_parameters_without_their_version(name):
    net, balancer = Net(), make(name)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=1e-3, fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(110):
            optimizer.zero_grad()
            balancer.backward(net.losses(inputs(seed=step)))
            if balancer.observes:
                balancer.observe(net.losses(inputs(seed=step + 1)))
            optimizer.step()


@pytest.mark.parametrize("name", LEARNED)
def test_optimized_parameters_raise_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Net(), make(name), steps=110, lr=1e-4)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm", ["imtl_l", "mgda"]])
def test_the_warning_about_parameters_that_do_not_move_is_at_the_caller_s_line(name):
    net, balancer = Net(), create_balancer(name, ("a", "b", "c"))
    for _ in range(10):
        balancer.backward(net.losses(inputs()))
    with pytest.warns(UserWarning, match="have not moved for 10 steps") as caught:
        balancer.backward(net.losses(inputs()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it comes once
        for _ in range(12):
            balancer.backward(net.losses(inputs()))
    assert [warning.filename for warning in caught] == [__file__]

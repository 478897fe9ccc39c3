"""Each loss is divided by its own value."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import Net, inputs, make


def test_realtime_is_the_gradient_of_the_log_losses():
    net, x = Net(), inputs()
    torch.stack(list(net.losses(x).values())).log().sum().backward()
    wanted = net.gradients()
    for balancer in (make("realtime"), make("sum", log_losses=True)):
        net.zero_grad()
        balancer.backward(net.losses(x))
        for key, gradient in net.gradients().items():
            torch.testing.assert_close(gradient, wanted[key], rtol=1e-6, atol=1e-9)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="realtime"):
        create_balancer("realtime", ("a", "b"), eps=0.0)

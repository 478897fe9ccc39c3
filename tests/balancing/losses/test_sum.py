"""The sum of the losses equals a plain backward."""

import torch

from balancing import create_balancer
from tests.balancing.problems import Net, inputs


def test_sum_is_plain_backward_bit_for_bit():
    net, x = Net(dtype=torch.float32), inputs(dtype=torch.float32)
    create_balancer("sum", net.objectives).backward(net.losses(x))
    balanced = net.gradients()
    net.zero_grad()
    torch.stack(list(net.losses(x).values())).sum().backward()
    plain = net.gradients()
    assert all(torch.equal(balanced[name], plain[name]) for name in plain)

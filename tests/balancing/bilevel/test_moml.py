"""MOML equals the min-norm point of double backwards."""

import pytest
import torch

from balancing import create_balancer
from balancing.solvers import min_norm_weights
from tests.balancing.bilevel.problems import LR, after_a_step, batches
from tests.balancing.problems import Net


@pytest.mark.parametrize("scale", ["paper", "sum"])
def test_moml_gradient_is_the_min_norm_point_of_double_backwards(scale):
    net, (train, validation) = Net(), batches(step=3)
    balancer = create_balancer("moml", ("a", "b", "c"), scale=scale).double()
    with torch.no_grad():
        balancer.alpha.copy_(torch.tensor([0.5, -1.0, 0.2]))
    alpha = balancer.alpha.detach().clone().requires_grad_()
    weights = torch.softmax(alpha, 0) * (3 if scale == "sum" else 1)
    losses = after_a_step(net, train, validation, weights, LR)
    rows = torch.stack([torch.autograd.grad(loss, alpha, retain_graph=True)[0] for loss in losses])
    rows = rows / rows.norm(dim=1, keepdim=True)
    report = balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, min_norm_weights(rows @ rows.T) @ rows)
    torch.testing.assert_close(report.weights, weights.detach())

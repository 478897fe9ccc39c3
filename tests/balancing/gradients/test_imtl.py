"""IMTL equals IMTL-L before IMTL-G."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import Net, inputs


def test_imtl_balances_the_gradients_of_scaled_losses():
    net, x = Net(("a", "b")), inputs()
    composed = create_balancer(["imtl_l", "imtl_g"], ("a", "b"))
    gradients = []
    for balancer in (create_balancer("imtl", ("a", "b")), composed):
        net.zero_grad()
        losses = net.losses(x)
        balancer.backward(losses)
        gradients.append(net.gradients())
        (s,) = balancer.parameters()
        assert s.detach().tolist() == pytest.approx([-float(loss.detach().log()) for loss in losses.values()], rel=1e-5)
        assert float(s.grad.abs().max()) < 1e-5  # e^s L - 1
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key])
    with pytest.raises(ValueError, match="imtl: weighs the losses itself, so realtime before it has no meaning"):
        create_balancer("imtl", ("a", "b"), before="realtime")

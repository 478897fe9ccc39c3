"""IMTL-L equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import LOSSES, next_weights


@pytest.mark.parametrize("init", ["losses", 0.0, -1.5])
def test_imtl_l_gradients_equal_differentiating_its_formula(init):
    balancer = create_balancer("imtl_l", tuple("abcd"), init=init)
    s = (-LOSSES.log() if init == "losses" else torch.full((4,), init, dtype=torch.float64)).requires_grad_()
    next_weights(balancer, LOSSES)  # the levels start here
    later = (2 * LOSSES).requires_grad_()
    balancer.log_weights.grad = None
    expected = torch.autograd.grad((s.exp() * later - s).sum(), [later, s])
    torch.testing.assert_close(next_weights(balancer, later.detach()), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(balancer.log_weights.grad.double(), expected[1], rtol=1e-5, atol=1e-6)


def test_imtl_l_started_from_the_losses_is_at_rest():
    balancer = create_balancer("imtl_l", tuple("abcd"))
    torch.testing.assert_close(next_weights(balancer, LOSSES), 1 / LOSSES, rtol=1e-6, atol=0)
    assert balancer.log_weights.grad.abs().max() < 1e-6


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="imtl_l"):
        create_balancer("imtl_l", ("a", "b"), init="random")

"""LDC-MTL equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import LOSSES, next_weights


def test_ldc_mtl_equals_the_derivatives_of_its_formula():
    balancer = create_balancer("ldc_mtl", tuple("abcd"), lam=0.3)
    with torch.no_grad():
        balancer.logits.copy_(torch.tensor([0.2, -0.4, 0.1, 0.5]))
    theta = balancer.logits.detach().double().requires_grad_()
    losses = LOSSES.clone().requires_grad_()
    w = 4 * torch.softmax(theta, 0)
    terms = w * losses
    differences = sum((terms[i] - terms[i + 1]).abs() for i in range(3))
    expected = torch.autograd.grad(terms.sum() + 0.3 * differences, [losses, theta])
    torch.testing.assert_close(next_weights(balancer, LOSSES), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(balancer.logits.grad.double(), expected[1], rtol=1e-5, atol=1e-6)


def test_learned_weights_bring_the_weighted_losses_together():
    balancer = create_balancer("ldc_mtl", ("a", "b"), lam=5.0)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.002)
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    for _ in range(600):
        optimizer.zero_grad()
        next_weights(balancer, losses)
        optimizer.step()
    first, second = (torch.softmax(balancer.logits.detach().double(), 0) * losses).tolist()
    assert first == pytest.approx(second, rel=0.05)  # it was a third


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="ldc_mtl: lam must not be negative"):
        create_balancer("ldc_mtl", ("a", "b"), lam=-1.0)

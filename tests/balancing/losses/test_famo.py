"""FAMO equals a loop written by hand."""

import pytest
import torch

from balancing import BalancingError, create_balancer
from tests.balancing.formulas import double, next_weights


def test_famo_equals_a_loop_written_by_hand():
    """Two quadratics; Adam on the logits with the published weight decay."""
    targets, scales, gamma = double([[1.0, 0.0], [-1.0, 2.0]]), double([1.0, 50.0]), 1e-2

    def losses_at(x):
        return scales * ((x - targets) ** 2).sum(1)

    balancer = create_balancer("famo", ("a", "b"), gamma=gamma).double()
    mine = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    own = torch.optim.Adam(balancer.parameters(), lr=0.025)
    outer = torch.optim.SGD([mine], lr=0.05)
    theirs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.025, weight_decay=gamma)
    sgd = torch.optim.SGD([theirs], lr=0.05)
    for _ in range(50):
        outer.zero_grad()
        own.zero_grad()
        balancer.backward(dict(zip("ab", losses_at(mine), strict=True)))
        outer.step()
        with torch.no_grad():
            balancer.observe(dict(zip("ab", losses_at(mine), strict=True)))
        own.step()

        losses = losses_at(theirs)
        z = torch.softmax(logits, 0)
        distance = losses.detach() + 1e-8
        c = 1 / (z / distance).sum().detach()
        sgd.zero_grad()
        (c * z.detach() * (losses + 1e-8).log()).sum().backward()
        sgd.step()
        delta = (distance.log() - (losses_at(theirs) + 1e-8).log()).detach()
        logits.grad = torch.autograd.grad(torch.softmax(logits, 0), logits, delta)[0]
        adam.step()
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(balancer.logits, logits)
    assert logits.abs().max() > 0.1


def test_famo_weights_sum_to_one_and_subtract_the_bound():
    balancer = create_balancer("famo", ("a", "b"), lower={"a": -1.0})
    with torch.no_grad():
        balancer.logits.copy_(torch.tensor([0.3, -0.4]))
    z = torch.softmax(double([0.3, -0.4]), 0)
    expected = z / double([1.5, 4.0])
    torch.testing.assert_close(
        next_weights(balancer, double([0.5, 4.0])), expected / expected.sum(), rtol=1e-6, atol=1e-8
    )
    with pytest.raises(BalancingError, match=r"famo.*'a'"):
        next_weights(balancer, double([-1.5, 4.0]))


def test_famo_learns_from_a_step_once():
    balancer = create_balancer("famo", ("a", "b"), gamma=0.0)
    balancer.update(double([1, 1]))
    assert balancer.logits.grad is None
    next_weights(balancer, double([2, 2]))
    balancer.update(double([1, 2]))
    first = balancer.logits.grad.clone()
    assert first[0] > 0 > first[1]  # the objective that fell loses weight when the optimizer descends
    balancer.update(double([1, 2]))
    assert torch.equal(balancer.logits.grad, first)


def test_famo_remembers_what_it_is_to_compare_with():
    balancer = create_balancer("famo", ("a", "b"))
    next_weights(balancer, double([2, 3]))
    fresh = create_balancer("famo", ("a", "b"))
    fresh.load_state_dict(balancer.state_dict())
    for one in (balancer, fresh):
        with torch.no_grad():
            one.update(double([1, 3]))
    assert torch.equal(fresh.logits.grad, balancer.logits.grad)


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"lower": {"x": 1.0}}, {"gamma": float("nan")}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="famo"):
        create_balancer("famo", ("a", "b"), **options)

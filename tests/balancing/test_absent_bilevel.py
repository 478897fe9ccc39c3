"""Bilevel methods with objectives that have no training or no validation loss."""

import copy

import pytest
import torch

from balancing import create_balancer
from balancing.solvers import min_norm_weights
from tests.balancing.bilevel.problems import LR, after_a_step, batches
from tests.balancing.problems import BILEVEL, Net, assert_close


def without(closure, *names):
    return lambda net: {key: None if key in names else loss for key, loss in closure(net).items()}


def only(closure, *names):
    return lambda net: {key: closure(net)[key] for key in names}


@pytest.mark.parametrize("name", BILEVEL)
@pytest.mark.parametrize("scale", ["preference", "plain"])
def test_the_others_take_the_step_of_a_method_of_their_own(name, scale):
    options = {"preference": {"a": 2.0}} if scale == "preference" else {}
    net, balancer = Net(), create_balancer(name, tuple("abc"), **options)
    twin, other = copy.deepcopy(net), create_balancer(name, tuple("ac"), **options)
    for step in range(3):
        train, validation = batches(step)
        net.zero_grad()
        twin.zero_grad()
        for each in (balancer, other):
            each.zero_grad()
        report = balancer.meta_backward(net, without(train, "b"), validation, lr=1e-3)
        wanted = other.meta_backward(twin, only(train, "a", "c"), only(validation, "a", "c"), lr=1e-3)
        assert report.present == (True, False, True)
        assert_close(net.gradients(), twin.gradients(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(report.weights[[0, 2]], wanted.weights)
        torch.testing.assert_close(balancer.alpha.grad[[0, 2]], other.alpha.grad)
        assert balancer.alpha.grad[1] == 0
        with torch.no_grad():
            for each in (balancer, other):
                each.alpha -= 0.1 * each.alpha.grad
    assert net.head["b"].weight.grad is None


@pytest.mark.parametrize("name", ["auto_lambda", "moml"])
def test_a_weight_is_judged_by_the_validation_losses_there_are(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, tuple("abc"), **({"radius": 1e-5} if name == "auto_lambda" else {}))
    with torch.no_grad():
        balancer.alpha += torch.tensor([0.1, -0.05, 0.2])
    report = balancer.meta_backward(net, train, without(validation, "b"), lr=LR)
    assert report.present == (True, True, True)
    alpha = balancer.alpha.detach().double().requires_grad_()
    weights = torch.softmax(alpha, 0) if name == "moml" else alpha
    losses = after_a_step(net, train, validation, weights, LR)[[0, 2]]
    if name == "auto_lambda":
        (wanted,) = torch.autograd.grad(losses.sum(), alpha)
    else:
        rows = torch.stack([torch.autograd.grad(loss, alpha, retain_graph=True)[0] for loss in losses])
        rows = rows / rows.norm(dim=1, keepdim=True)
        wanted = min_norm_weights(rows @ rows.T) @ rows
    torch.testing.assert_close(balancer.alpha.grad.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BILEVEL)
def test_without_validation_losses_alpha_rests(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, tuple("abc"))
    balancer.meta_backward(net, train, without(validation, "a", "b", "c"), lr=1e-3)
    assert balancer.alpha.grad.abs().max() == 0
    assert all(g.isfinite().all() for g in net.gradients().values())
    assert net.gradients()


@pytest.mark.parametrize("name", BILEVEL)
def test_without_training_losses_nothing_happens(name):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(name, tuple("abc"))
    report = balancer.meta_backward(net, without(train, "a", "b", "c"), validation, lr=1e-3)
    assert report.skipped
    assert not any(report.present)
    assert balancer.alpha.grad is None
    assert not net.gradients()
    assert balancer.step == 0

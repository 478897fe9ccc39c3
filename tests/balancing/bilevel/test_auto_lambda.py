"""Auto-Lambda equals double backward."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.bilevel.problems import LR, Noisy, Regression, after_a_step, batches, learn
from tests.balancing.problems import Net


@pytest.mark.parametrize("preference", [None, {"a": 4.0, "c": 0.5}])
@pytest.mark.parametrize("primary", [(), ("a",), ("b", "c")])
def test_auto_lambda_gradient_equals_double_backward(primary, preference):
    net, (train, validation) = Net(), batches()
    balancer = create_balancer(
        "auto_lambda", ("a", "b", "c"), primary=primary, radius=1e-4, preference=preference
    ).double()
    p = balancer.preference
    with torch.no_grad():
        balancer.alpha.copy_(torch.tensor([0.1, 0.3, 0.02]))
    weights = balancer.alpha.detach().clone().requires_grad_()
    chosen = torch.tensor([float(not primary or name in primary) for name in "abc"]).double()
    (wanted,) = torch.autograd.grad((chosen * p) @ after_a_step(net, train, validation, weights * p, LR), weights)
    report = balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(report.weights, weights.detach() * p)


def test_published_radius_is_close_to_double_backward():
    net, (train, validation) = Net(), batches()
    balancer = create_balancer("auto_lambda", ("a", "b", "c")).double()
    weights = balancer.alpha.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(after_a_step(net, train, validation, weights, LR).sum(), weights)
    balancer.meta_backward(net, train, validation, lr=LR)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-3, atol=1e-6)


def test_dropout_masks_are_the_same_in_every_look():
    net, (train, validation) = Noisy(), batches()
    torch.manual_seed(3)
    balancer = create_balancer("auto_lambda", ("a", "b", "c"), radius=1e-4).double()
    balancer.meta_backward(net, train, validation, lr=1e-3)
    weights = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)

    def seeded(losses):
        def run(n):
            torch.manual_seed(3)
            return losses(n)

        return run

    (wanted,) = torch.autograd.grad(after_a_step(net, seeded(train), seeded(validation), weights, 1e-3).sum(), weights)
    torch.testing.assert_close(balancer.alpha.grad, wanted, rtol=1e-4, atol=1e-8)


def test_auto_lambda_tells_a_useless_auxiliary_from_a_useful_one():
    net = Regression()
    balancer = create_balancer("auto_lambda", ("main", "useful", "noise"), primary=("main",))
    main, useful, noise = learn(balancer, net, steps=150).alpha.tolist()
    assert noise < 0.1 < useful
    assert main > 0.1


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="auto_lambda: unknown objective 'd'"):
        create_balancer("auto_lambda", ("a", "b", "c"), primary=("d",))
    for arguments in ({"radius": 0.0},):
        with pytest.raises(ValueError, match="auto_lambda: radius"):
            create_balancer("auto_lambda", ("a", "b", "c"), **arguments)

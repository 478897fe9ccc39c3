"""GradNorm equals the derivative of its loss and makes lengths equal."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import gramian_of, random_gramian


def test_gradnorm_gradient_equals_differentiating_its_loss():
    g, losses = random_gramian(4, 0), torch.tensor([0.5, 2.0, 3.0, 0.1], dtype=torch.float64)
    initial = {"a": 1.0, "b": 1.5, "c": 3.0, "d": 0.4}
    balancer = create_balancer("gradnorm", tuple("abcd"), initial_losses=initial, init="equal", alpha=0.7).double()
    with torch.no_grad():
        balancer.theta.copy_(torch.tensor([0.3, -0.2, 0.5, 0.0]))
    theta = balancer.theta.detach().clone().requires_grad_()
    w = 4 * torch.softmax(theta, 0)
    norms = g.diagonal().sqrt()
    pace = losses / torch.tensor(list(initial.values()), dtype=torch.float64)
    target = (w * norms).mean().detach() * (pace / pace.mean()) ** 0.7
    (w * norms - target).abs().sum().backward()
    with torch.no_grad():
        weights = balancer.compute_weights(losses, g)
    torch.testing.assert_close(weights, w.detach())
    torch.testing.assert_close(balancer.theta.grad, theta.grad)


def test_gradnorm_with_alpha_zero_makes_lengths_equal():
    g, losses = gramian_of([[100, 0, 0], [0, 1, 0], [0, 0, 0.1]]), torch.ones(3, dtype=torch.float64)
    balancer = create_balancer("gradnorm", ("a", "b", "c"), alpha=0.0, init="equal")
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        with torch.no_grad():
            w = balancer.compute_weights(losses, g)
        optimizer.step()
    lengths = w * g.diagonal().sqrt()
    assert float(lengths.max() / lengths.min()) < 1.2
    assert abs(w.sum() - 3) < 1e-5


def test_gradnorm_starts_at_equal_lengths_unless_told_otherwise():
    g, losses = gramian_of([[1e4, 0], [0, 1e-3]]), torch.tensor([1e7, 1.0], dtype=torch.float64)
    with torch.no_grad():
        w = create_balancer("gradnorm", ("a", "b")).compute_weights(losses, g)
        published = create_balancer("gradnorm", ("a", "b"), init="equal").compute_weights(losses, g)
    lengths = w * g.diagonal().sqrt()
    assert float(lengths[0] / lengths[1]) == pytest.approx(1, rel=1e-5)
    assert published.tolist() == [1, 1]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="gradnorm"):
        create_balancer("gradnorm", ("a", "b"), init="random")

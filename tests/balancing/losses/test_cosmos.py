"""COSMOS equals its formula, and its rays are Dirichlet samples."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import PRIORITIES, derivative, double, loss_weights, next_weights


def test_cosmos_is_the_derivative_of_its_formula():
    r = double(list(PRIORITIES.values())) / 6
    expected = derivative(lambda loss: r @ loss - 0.7 * torch.cosine_similarity(r, loss, dim=0))
    weights = loss_weights("cosmos", penalty=0.7, preference=PRIORITIES)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-8)  # r is single precision
    assert loss_weights("cosmos", torch.zeros(2)).tolist() == [0.5, 0.5]


def test_cosmos_shows_the_ray_that_the_coming_step_uses():
    balancer = create_balancer("cosmos", ("a", "b"), alpha=1.0, penalty=0.0)
    rays = []
    for _ in range(400):
        ray = balancer.draw()
        assert torch.equal(balancer.draw(), ray)
        torch.testing.assert_close(next_weights(balancer, torch.ones(2)), ray)
        rays.append(ray)
    rays = torch.stack(rays)
    torch.testing.assert_close(rays.sum(1), torch.ones(400))
    assert abs(rays[:, 0].mean() - 0.5) < 0.05
    assert abs(rays[:, 0].var() - 1 / 12) < 0.02  # of a uniform variable


def test_cosmos_draws_around_the_preference():
    balancer = create_balancer("cosmos", ("a", "b"), alpha=5.0, penalty=0.0, preference={"a": 3.0})
    mean = torch.stack([next_weights(balancer, torch.ones(2)) for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, torch.tensor([0.75, 0.25]), rtol=0, atol=0.03)


def test_cosmos_remembers_a_ray_that_was_drawn():
    balancer = create_balancer("cosmos", ("a", "b"), alpha=1.0)
    ray = balancer.draw()
    fresh = create_balancer("cosmos", ("a", "b"), alpha=1.0, seed=9)
    fresh.load_state_dict(balancer.state_dict())
    assert torch.equal(fresh.draw(), ray)


@pytest.mark.parametrize("options", [{"penalty": -1.0}, {"alpha": 0.0}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="cosmos"):
        create_balancer("cosmos", ("a", "b"), **options)

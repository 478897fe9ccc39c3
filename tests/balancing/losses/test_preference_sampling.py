"""preference_sampling weighs losses by the Dirichlet sample that a model was shown before its forward pass."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import next_weights


def test_preference_sampling_weighs_by_what_it_showed():
    balancer = create_balancer("preference_sampling", ("a", "b"), preference={"a": 3.0}, alpha=2.0)
    rays = []
    for _ in range(300):
        ray = balancer.draw()
        assert torch.equal(balancer.draw(), ray)
        assert torch.equal(next_weights(balancer, torch.ones(2)), ray)
        rays.append(ray)
    rays = torch.stack(rays)
    torch.testing.assert_close(rays.sum(1), torch.ones(300))
    torch.testing.assert_close(rays.mean(0), torch.tensor([0.75, 0.25]), rtol=0, atol=0.03)
    assert abs(rays[:, 0].var() - 0.75 * 0.25 / 5) < 0.01  # of Dirichlet(3, 1): m (1 - m) / (total + 1)


def test_all_micro_batches_of_a_step_share_a_draw():
    balancer = create_balancer("preference_sampling", ("a", "b"))
    weight = torch.zeros(2, requires_grad=True)
    for _ in range(3):
        weight.grad = None
        ray = balancer.draw()
        for last in (False, False, True):
            balancer.backward({"a": weight[0] * 1.0, "b": weight[1] * 1.0}, last=last)
        torch.testing.assert_close(weight.grad, 3 * ray)
        assert not torch.equal(balancer.draw(), ray)


def test_a_restored_balancer_shows_the_same():
    balancer = create_balancer("preference_sampling", ("a", "b"))
    shown = balancer.draw()
    fresh = create_balancer("preference_sampling", ("a", "b"), seed=9)
    fresh.load_state_dict(balancer.state_dict())
    assert torch.equal(fresh.draw(), shown)
    for each in (balancer, fresh):
        each.step += 1
    assert torch.equal(fresh.draw(), balancer.draw())
    assert not torch.equal(fresh.draw(), shown)


def test_a_composition_shows_the_draw_of_its_part():
    before = create_balancer(["preference_sampling", "pcgrad"], ("a", "b"))
    assert before.draws
    assert torch.equal(before.draw(), before.loss_balancer.draw())
    after = create_balancer(["uncertainty", "preference_sampling"], ("a", "b"))
    assert torch.equal(after.draw(), after.gradient_balancer.draw())
    plain = create_balancer(["uncertainty", "pcgrad"], ("a", "b"), preference={"a": 3.0})
    assert not plain.draws
    torch.testing.assert_close(plain.draw(), torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize(
    ("method", "options", "problem"),
    [
        ("preference_sampling", {"alpha": 0.0}, "preference_sampling: alpha must be positive"),
        ("preference_sampling", {"update_every": 2}, "update_every= has no meaning"),
        ("cosmos", {"alpha": 1.0, "update_every": 2}, "update_every= and weight_ema= would keep earlier ones"),
        ("cosmos", {"alpha": 1.0, "weight_ema": 0.9}, "update_every= and weight_ema= would keep earlier ones"),
        (["preference_sampling", "cosmos"], {"alpha": 1.0}, "draws a preference itself"),
        (["preference_sampling", "pcgrad"], {"update_every": 3}, "keeps weights of earlier steps"),
    ],
)
def test_weights_of_another_draw_are_refused(method, options, problem):
    with pytest.raises(ValueError, match=problem):
        create_balancer(method, ("a", "b"), **options)

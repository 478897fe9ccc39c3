"""Pareto MTL reaches the part of the front that its ray names."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names


def test_known_values():
    assert gramian_weights("pareto_mtl", CONFLICT).tolist() == pytest.approx([1.2, 0.8], abs=1.2e-6)


def test_pareto_mtl_reaches_the_point_that_its_ray_asks_for():
    # L_1 = |x - a|^2, L_2 = |x + a|^2: the Pareto set is the segment between them
    a = torch.ones(2, dtype=torch.float64)
    reached = []
    for index in range(5):
        balancer, x = (
            create_balancer("pareto_mtl", ("a", "b"), index=index),
            torch.tensor([0.3, -0.8], dtype=torch.float64),
        )
        for _ in range(600):
            j = 2 * torch.stack([x - a, x + a])
            losses = torch.stack([(x - a).square().sum(), (x + a).square().sum()])
            x = x - 0.01 * balancer.compute_weights(losses, j @ j.T) @ j
        reached.append(float(torch.atan2(losses[1], losses[0]) * 8 / torch.pi))
        assert float((x[0] - x[1]).abs()) < 0.05  # on the segment
    assert all(abs(where - index) <= 0.55 for index, where in enumerate(reached)), reached


def test_pareto_mtl_first_looks_for_its_part_alone_and_then_guards_it():
    balancer = create_balancer("pareto_mtl", ("a", "b"), rays=[[1, 0], [0, 1]], index=1)
    g = torch.eye(2, dtype=torch.float64)
    outside, inside = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0])
    assert balancer.compute_weights(outside, g).tolist() == pytest.approx([1, -1])
    assert balancer.compute_weights(inside, g).tolist() == pytest.approx([1, 1])
    guarding = balancer.compute_weights(outside, g)  # the point shortest among g_1, g_2 and g_1 - g_2
    assert float(guarding.abs().sum()) == pytest.approx(2)
    assert guarding[0] > guarding[1]
    late = create_balancer("pareto_mtl", ("a", "b"), rays=[[1, 0], [0, 1]], index=1)
    late.epoch = 2
    torch.testing.assert_close(late.compute_weights(outside, g), guarding)


def test_pareto_mtl_preference_scales_the_losses():
    balancer = create_balancer("pareto_mtl", ("a", "b"), rays=[[1, 0], [0, 1]], index=1, preference={"b": 3.0})
    assert balancer.compute_weights(torch.tensor([2.0, 1.0]), torch.eye(2, dtype=torch.float64)).min() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rays": [[1, 0], [1]]}, "pareto_mtl: rays must be non-negative .* with 2 numbers each"),
        ({"rays": [[1, 0]]}, "pareto_mtl: needs at least two rays, got 1"),
        ({"index": 5}, "pareto_mtl: index must be in 0 ... 4, got 5"),
        ({"search_epochs": -1}, "pareto_mtl: search_epochs must not be negative"),
        ({"normalize": "l2"}, "pareto_mtl: .* normalize= has no meaning"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("pareto_mtl", names(2), **options)

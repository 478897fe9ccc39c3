"""PCGrad equals the projections of the gradient vectors."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_of

LOSSES = torch.tensor([1.0, 4.0], dtype=torch.float64)


def test_known_case_of_pcgrad():
    w = create_balancer("pcgrad", ("a", "b")).compute_weights(LOSSES, CONFLICT @ CONFLICT.T)
    assert w.tolist() == pytest.approx([2.2222222222, 1.5789473684], abs=1e-9)


def pcgrad_by_vectors(j, orders):
    """The published loop, on the gradients themselves."""
    total = torch.zeros_like(j[0])
    for i, order in enumerate(orders):
        p = j[i].clone()
        for k in order:
            if k != i and (dot := p @ j[k]) < 0:
                p -= dot / (j[k] @ j[k]) * j[k]
        total += p
    return total


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_pcgrad_equals_projection_of_the_vectors(size):
    for seed in range(10):
        j = torch.randn(size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        balancer = create_balancer("pcgrad", [str(i) for i in range(size)], seed=seed)
        draws = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        orders = [[k for k in row.argsort().tolist() if k != i] for i, row in enumerate(draws)]
        w = balancer.compute_weights(torch.ones(size), j @ j.T)
        torch.testing.assert_close(w @ j, pcgrad_by_vectors(j, orders))


def test_pcgrad_orders_are_uniform():
    g = -torch.ones(3, 3, dtype=torch.float64) + 2 * torch.eye(3, dtype=torch.float64)
    balancer = create_balancer("pcgrad", ("a", "b", "c"))
    distinct = {tuple(round(v, 9) for v in balancer.compute_weights(torch.ones(3), g).tolist()) for _ in range(200)}
    assert len(distinct) > 1


def test_pcgrad_leaves_agreeing_and_zero_gradients_alone():
    assert create_balancer("pcgrad", ("a", "b")).compute_weights(LOSSES, gramian_of([[1, 0], [1, 1]])).tolist() == [
        1,
        1,
    ]
    assert create_balancer("pcgrad", ("a", "b")).compute_weights(LOSSES, gramian_of([[0, 0], [1, 1]])).tolist() == [
        1,
        1,
    ]


def test_pcgrad_preference_scales_the_gradients_before_projection():
    j = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
    p = torch.tensor([1.5, 0.5], dtype=torch.float64)
    w = create_balancer("pcgrad", ("a", "b"), preference={"a": 3, "b": 1}).effective_weights(LOSSES, j @ j.T)
    torch.testing.assert_close(w @ j, pcgrad_by_vectors(p[:, None] * j, [[1], [0]]))

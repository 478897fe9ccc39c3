"""MoCo equals its formulas."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, ones, rows


def simplex(v):
    """By bisection on the threshold."""
    low, high = v.min() - 1, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (v - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (v - low).clamp(min=0)


@pytest.mark.parametrize("rescale", [True, False])
def test_moco_equals_the_formulas(rescale):
    balancer = create_balancer("moco", names(3), rho=0.2, rescale=rescale, preference={"0": 2.0})
    y, w = torch.zeros(3, 9, dtype=torch.float64), ones(3) / 3
    for k in range(1, 6):
        j, losses = rows("random", 3, k), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) / k
        h = j * (losses / j.norm(dim=1))[:, None] if rescale else j
        y = y - 0.5 / k**0.5 * (y - h)
        w = simplex(w - 0.1 / k**0.5 * (y @ y.T + 0.2 * torch.eye(3, dtype=torch.float64)) @ w)
        wanted = (w * torch.tensor([1.5, 0.75, 0.75])) @ y
        torch.testing.assert_close(next_update(balancer, losses, j), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "moco: beta must be in"),
        ({"rho": -1.0}, "moco: beta_decay, gamma_decay and rho must not be negative"),
        ({"rho": float("nan")}, "moco"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("moco", ("a", "b"), **options)

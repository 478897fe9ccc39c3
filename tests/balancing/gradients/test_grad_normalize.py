"""Gradients get equal lengths."""

import pytest
import torch

from balancing import BalancingError, create_balancer
from tests.balancing.formulas import gramian_weights, names, orthogonal, wide


@pytest.mark.parametrize("length", ["mean", "unit"])
def test_grad_normalize_makes_lengths_equal(length):
    j = orthogonal(5, wide(5))
    j[2] = 0
    w = gramian_weights("grad_normalize", j, length=length)
    lengths = (w[:, None] * j).norm(dim=1)
    wanted = j.norm(dim=1)[[0, 1, 3, 4]].mean() if length == "mean" else torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], wanted.expand(4))
    assert w[2] == 1


def test_grad_normalize_favours_slow_objectives():
    j = orthogonal(2, torch.ones(2, dtype=torch.float64))
    balancer = create_balancer("grad_normalize", names(2), alpha=2.0)
    assert balancer.compute_weights(torch.tensor([5.0, 1.0]), j @ j.T).tolist() == pytest.approx([1, 1])
    w = balancer.compute_weights(torch.tensor([5.0, 0.5]), j @ j.T)
    assert w.tolist() == pytest.approx([(4 / 3) ** 2, (2 / 3) ** 2])
    with pytest.raises(BalancingError, match="the loss of objective '1' is -1"):
        balancer.compute_weights(torch.tensor([5.0, -1.0]), j @ j.T)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="grad_normalize: length must be mean or unit"):
        create_balancer("grad_normalize", names(3), length="max")

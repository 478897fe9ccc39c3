"""Losses are divided by their means over a window."""

import pytest
import torch

from balancing import create_balancer


def test_inverse_mean_averages_a_window():
    balancer = create_balancer("inverse_mean", ("a", "b"), window=2, eps=1e-12)
    for losses in ([1.0, 1.0], [3.0, 1.0], [5.0, 1.0]):
        w = balancer.compute_weights(torch.tensor(losses))
    assert w.tolist() == pytest.approx([0.2, 0.8])  # means 4 and 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="inverse_mean"):
        create_balancer("inverse_mean", ("a", "b"), window=0)

"""Losses are divided by those of the first batches."""

import pytest
import torch

from balancing import create_balancer


def test_initial_loss_averages_the_first_batches_and_then_stays():
    balancer = create_balancer("initial_loss", ("a", "b"), batches=2)
    weights = [
        balancer.compute_weights(torch.tensor(losses)).tolist() for losses in ([2.0, 10.0], [4.0, 10.0], [100.0, 1.0])
    ]
    assert weights == [pytest.approx([1 / 2, 0.1]), pytest.approx([1 / 3, 0.1]), pytest.approx([1 / 3, 0.1])]
    given_losses = create_balancer("initial_loss", ("a", "b"), initial_losses={"a": 4.0, "b": 8.0})
    assert given_losses.compute_weights(torch.ones(2)).tolist() == [0.25, 0.125]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="initial_loss"):
        create_balancer("initial_loss", ("a", "b"), batches=0)

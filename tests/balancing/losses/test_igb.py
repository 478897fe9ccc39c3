"""Improvable gap balancing (IGB) measures from the first epoch or steps."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import double, next_weights


def test_igb_measures_the_first_epoch_or_the_first_steps():
    for options in ({}, {"window": 2}):
        balancer = create_balancer("igb", ("a", "b"), **options)
        assert next_weights(balancer, double([2, 10])).tolist() == [0.5, 0.1]
        assert next_weights(balancer, double([4, 30])).tolist() == pytest.approx([0.25, 1 / 30])
        balancer.next_epoch()
        for losses in (double([3, 10]), double([6, 5])):
            expected = 2 * torch.softmax(losses / double([3, 20]), 0) / losses
            torch.testing.assert_close(next_weights(balancer, losses), expected)


def test_igb_that_joins_late_takes_its_first_losses():
    balancer = create_balancer("igb", ("a", "b"))
    balancer.epoch = 3
    next_weights(balancer, double([2, 10]))
    expected = 2 * torch.softmax(double([0.5, 2]), 0) / double([1, 20])
    torch.testing.assert_close(next_weights(balancer, double([1, 20])), expected)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="igb"):
        create_balancer("igb", ("a", "b"), window=0)

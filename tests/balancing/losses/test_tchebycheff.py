"""Tchebycheff scalarization trains the greatest weighted distance."""

import pytest

from balancing import create_balancer
from tests.balancing.formulas import double, loss_weights


def test_tchebycheff_trains_the_greatest_weighted_distance():
    assert loss_weights("tchebycheff").tolist() == [0, 0, 0.25, 0]
    assert loss_weights("tchebycheff", ideal={"c": 2.5}).tolist() == [0, 0.25, 0, 0]
    assert loss_weights("tchebycheff", double([1, 1]), preference={"a": 3.0}).tolist() == [0.75, 0]
    assert loss_weights("tchebycheff", double([1, 3]), preference={"a": 3.0}).tolist() == [0.375, 0.125]  # a tie


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="tchebycheff"):
        create_balancer("tchebycheff", ("a", "b"), ideal={"x": 1.0})

"""Penalty boundary intersection (PBI) equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import PRIORITIES, derivative, double, loss_weights


def test_pbi_is_the_derivative_of_its_formula():
    ray, ideal = 1 / double(list(PRIORITIES.values())), double([0, 0.5, 0, 0])
    ray = ray / ray.norm()

    def scalar(loss):
        along = (loss - ideal) @ ray
        return along + 2.5 * (loss - ideal - along * ray).norm()

    weights = loss_weights("pbi", theta=2.5, ideal={"b": 0.5}, preference=PRIORITIES)
    torch.testing.assert_close(weights, derivative(scalar))


def test_pbi_on_its_ray_is_the_ray():
    for value in (1e-20, 0.3, 7.7, 1e20):
        torch.testing.assert_close(loss_weights("pbi", torch.full((3,), value)), torch.full((3,), 3**-0.5))
    torch.testing.assert_close(loss_weights("pbi", double([1, 2]), preference={"a": 2.0}), double([1, 2]) / 5**0.5)
    torch.testing.assert_close(loss_weights("pbi", torch.zeros(3)), torch.full((3,), 3**-0.5))


def test_pbi_prefers_a_smaller_loss_for_a_higher_priority():
    w = loss_weights("pbi", double([1, 1]), preference={"a": 2.0})
    assert w[0] > 0 > w[1]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="pbi"):
        create_balancer("pbi", ("a", "b"), theta=-1.0)

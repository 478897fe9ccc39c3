"""UW-SO equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import LOSSES, next_weights


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_uw_so_equals_its_formula(temperature):
    balancer = create_balancer("uw_so", tuple("abcd"), temperature=temperature)
    powers = torch.exp(1 / (temperature * LOSSES))
    torch.testing.assert_close(next_weights(balancer, LOSSES), powers / powers.sum())


def test_uw_so_approaches_equal_weights_and_survives_tiny_losses():
    hot = create_balancer("uw_so", ("a", "b"), temperature=1e6)
    assert next_weights(hot, torch.tensor([0.1, 3.0])).tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert next_weights(create_balancer("uw_so", ("a", "b")), torch.tensor([1e-45, 1.0])).tolist() == [1, 0]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="uw_so: temperature must be positive"):
        create_balancer("uw_so", ("a", "b"), temperature=0.0)

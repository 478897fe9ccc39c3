"""Random loss weights (RLW) come from a softmax of normal numbers."""

import pytest
import torch

from balancing import create_balancer


def test_rlw_draws_from_the_softmax_of_normal_numbers():
    balancer = create_balancer("rlw", ("a", "b", "c"), seed=5)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        expected = torch.softmax(torch.randn(3, generator=generator), 0)
        assert torch.equal(balancer.compute_weights(torch.ones(3)), expected)
        assert torch.equal(balancer.compute_weights(torch.ones(3)), expected)  # a second micro-batch of the step
        assert abs(expected.sum() - 1) < 1e-6
        balancer.step += 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="rlw"):
        create_balancer("rlw", ("a", "b"), update_every=2)

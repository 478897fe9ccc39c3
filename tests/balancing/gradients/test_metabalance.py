"""MetaBalance equals its formula."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, ones, orthogonal, wide


@pytest.mark.parametrize("relax", [0.0, 0.7, 1.0])
def test_metabalance_equals_its_formula(relax):
    balancer = create_balancer("metabalance", names(3), primary="1", relax=relax, beta=0.6)
    means = torch.zeros(3, dtype=torch.float64)
    for k in range(4):
        j = (k + 1) * orthogonal(3, torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64), seed=k)
        means = 0.6 * means + 0.4 * j.norm(dim=1)
        w = balancer.compute_weights(ones(3), j @ j.T)
        torch.testing.assert_close(w, relax * means[1] / means + 1 - relax, rtol=1e-5, atol=0)


def test_full_relaxation_makes_lengths_equal_over_many_scales():
    j = orthogonal(5, wide(5))
    w = create_balancer("metabalance", names(5), relax=1.0).compute_weights(ones(5), j @ j.T)
    torch.testing.assert_close((w[:, None] * j).norm(dim=1), j[0].norm().expand(5), rtol=1e-5, atol=0)


def test_a_gradient_that_was_always_zero_keeps_weight_one():
    j = orthogonal(3, ones(3))
    j[2] = 0
    assert create_balancer("metabalance", names(3)).compute_weights(ones(3), j @ j.T).tolist() == pytest.approx([1] * 3)
    j = orthogonal(3, ones(3) * 4)
    j[0] = 0
    assert create_balancer("metabalance", names(3)).compute_weights(ones(3), j @ j.T).tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize("options", [{"relax": 1.5}, {"beta": 1.0}, {"primary": "c"}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="metabalance: "):
        create_balancer("metabalance", ("a", "b"), **options)

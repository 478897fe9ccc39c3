"""Nash-MTL solves its equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from balancing.rescaling import shorten
from tests.balancing.formulas import CONFLICT, gramian_weights, names, random_rows, two_rows


def test_known_values():
    assert gramian_weights("nash_mtl", CONFLICT).tolist() == pytest.approx([0.591461, 0.407071], abs=1.2e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_two_objectives_have_closed_forms(seed, exponent):
    j, aa, ab, bb = two_rows(seed, exponent)
    cosine = ab / (aa * bb) ** 0.5
    nash = [(1 / (aa * (1 + cosine))) ** 0.5, (1 / (bb * (1 + cosine))) ** 0.5]
    assert gramian_weights("nash_mtl", j).tolist() == pytest.approx(nash, rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(0, 10_000))
def test_nash_divides_progress_by_power(size, seed):
    j = random_rows(size, seed)
    preference = {name: 1.0 + i for i, name in enumerate(names(size))}
    balancer = create_balancer("nash_mtl", names(size), preference=preference)
    w = balancer.compute_weights(torch.ones(size, dtype=torch.float64), j @ j.T)
    power = torch.arange(1, size + 1, dtype=torch.float64)
    torch.testing.assert_close(w * (j @ (w @ j)), power / power.mean(), rtol=1e-8, atol=0)
    assert float((w @ j).norm()) == pytest.approx(size**0.5, rel=1e-8)


def test_published_limit_of_nash_is_an_option():
    balancer, gramian = create_balancer("nash_mtl", ("a", "b"), max_norm=1), CONFLICT @ CONFLICT.T
    w = shorten(balancer.effective_weights(torch.ones(2), gramian), gramian, max_norm=1)
    assert w.tolist() == pytest.approx([0.418226, 0.287843], abs=1e-6)

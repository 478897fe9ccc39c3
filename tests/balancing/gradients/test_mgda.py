"""MGDA: known weights, invariances and the effect of preferences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, KINDS, double, gramian_weights, random_gramian, rows


def test_known_case_of_mgda():
    assert create_balancer("mgda", ("a", "b")).compute_weights(
        double([1.0, 4.0]), CONFLICT @ CONFLICT.T
    ).tolist() == pytest.approx([0.6, 0.4], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(-6, 6))
def test_mgda_weights_ignore_a_common_scale_and_follow_a_permutation(size, seed, exponent):
    g = random_gramian(size, seed)
    names = [str(i) for i in range(size)]
    losses = torch.ones(size, dtype=torch.float64)
    w = create_balancer("mgda", names).compute_weights(losses, g)
    torch.testing.assert_close(
        create_balancer("mgda", names).compute_weights(losses, g * 10**exponent), w, rtol=1e-7, atol=1e-9
    )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    permuted = create_balancer("mgda", names).compute_weights(losses, g[order][:, order])
    torch.testing.assert_close(permuted, w[order], rtol=1e-7, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000))
def test_mgda_direction_conflicts_with_nobody(size, seed):
    g = random_gramian(size, seed)
    w = create_balancer("mgda", [str(i) for i in range(size)]).compute_weights(torch.ones(size), g)
    assert ((g @ w) >= -1e-9).all()


def test_mgda_preference_sets_the_ratio_of_progress():
    torch.manual_seed(0)
    j = torch.eye(3, 6, dtype=torch.float64) + 0.1 * torch.randn(3, 6, dtype=torch.float64)
    balancer = create_balancer("mgda", ("a", "b", "c"), preference={"a": 4.0})
    w = balancer.effective_weights(torch.ones(3, dtype=torch.float64), j @ j.T)
    progress = j @ (w @ j)
    torch.testing.assert_close(progress / progress[1], torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))
    assert abs(w.sum() - 1) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5, 20])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_least_weights_are_held_and_the_rest_is_optimal(kind, size, share):
    least = share / size
    j = rows(kind, size)
    w = gramian_weights("mgda", j, min_weight=least)
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert w.min() >= least - 1e-12
    slope = j @ (w @ j)  # the conditions of Karush, Kuhn and Tucker
    above = w > least + 1e-9
    rounding = 1e-11 * float(j.norm(dim=1).max() ** 2)
    if above.any():
        multiplier = slope[above].max()
        assert (slope >= multiplier - rounding).all()


def test_least_weights_of_two_gradients_in_closed_form():
    j = double([[1.0, 0.0], [3.0, 1.0]])  # the first alone is the shortest point of the whole hull
    assert gramian_weights("mgda", j).tolist() == [1, 0]
    assert gramian_weights("mgda", j, min_weight=0.125).tolist() == pytest.approx([0.875, 0.125], abs=1e-12)
    assert gramian_weights("mgda", CONFLICT, min_weight=0.1).tolist() == pytest.approx([0.6, 0.4], abs=1e-12)


def test_frank_wolfe_holds_least_weights():
    j = rows("random", 4)
    w = gramian_weights("mgda", j, solver="frank_wolfe", iterations=100_000, tolerance=1e-12, min_weight=0.1)
    torch.testing.assert_close(w, gramian_weights("mgda", j, min_weight=0.1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("least", [-0.1, 0.51, float("nan")])
def test_a_least_weight_out_of_range_is_named(least):
    with pytest.raises(ValueError, match="mgda: min_weight must be"):
        create_balancer("mgda", ("a", "b"), min_weight=least)


@pytest.mark.parametrize("options", [{"iterations": 0}, {"tolerance": -1.0}, {"solver": "cvxpy"}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="mgda"):
        create_balancer("mgda", ("a", "b"), **options)

"""GO4Align equals its formula, and its groups have the least deviation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import BalancingError, create_balancer
from balancing.losses.go4align import group_centers
from tests.balancing.formulas import double, loss_weights, next_weights


def test_go4align_without_groups_and_with_one():
    separate, together = (
        create_balancer("go4align", ("a", "b", "c"), groups=3, eta=0.1),
        create_balancer("go4align", ("a", "b", "c"), groups=1, eta=0.1),
    )
    p = torch.full((3,), 1 / 3, dtype=torch.float64)
    for losses in (double([1, 2, 5]), double([0.5, 3, 2])):
        p = p * torch.exp(-0.1 * losses)
        p /= p.sum()
        q = p * losses.sum() / losses
        torch.testing.assert_close(next_weights(separate, losses), q, rtol=1e-6, atol=0)
        torch.testing.assert_close(next_weights(together, losses), q.mean().expand(3), rtol=1e-6, atol=0)


def test_go4align_groups_what_is_close():
    assert loss_weights("go4align", double([1, 1, 10, 10]), eta=0.0).tolist() == pytest.approx([5.5, 5.5, 0.55, 0.55])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=7), st.integers(1, 4))
def test_group_centres_have_the_least_squared_deviation(values, groups):
    def deviation(centers):
        return sum((v - c) ** 2 for v, c in zip(values, centers, strict=True))

    def centers_of(labels):
        members = {k: [v for v, m in zip(values, labels, strict=True) if m == k] for k in set(labels)}
        return [sum(members[k]) / len(members[k]) for k in labels]

    least = min(deviation(centers_of(labels)) for labels in itertools.product(range(groups), repeat=len(values)))
    centers = group_centers(values, groups)
    assert len(set(centers)) <= groups
    assert deviation(centers) == pytest.approx(least, rel=1e-9, abs=1e-9)


def test_go4align_says_when_its_weights_cannot_be_represented():
    with pytest.raises(BalancingError, match="go4align"):
        loss_weights("go4align", torch.tensor([1e-30, 1.0, 1e30]))
    assert loss_weights("go4align", double([1e-30, 1.0, 1e30])).isfinite().all()


@pytest.mark.parametrize("options", [{"groups": 0}, {"eta": -1.0}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="go4align"):
        create_balancer("go4align", ("a", "b"), **options)

"""PCD keeps the promised progress of secondary objectives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, random_rows


@pytest.mark.parametrize(("options", "wanted"), [({}, [1.848061, 1.095368]), ({"tau": 0.5}, [1.357817, 1.253361])])
def test_known_values(options, wanted):
    assert gramian_weights("pcd", CONFLICT, **options).tolist() == pytest.approx(wanted, abs=1.2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.floats(0, 1, width=32, allow_subnormal=False))
def test_pcd_keeps_its_promises(size, seed, tau):
    j = random_rows(size, seed, shift=0.0)
    w = gramian_weights("pcd", j, tau=tau)
    d, lengths = w @ j, j.norm(dim=1)
    assert float(d.norm()) == pytest.approx(float(lengths[0]), rel=1e-9)
    # before d got the length of g_0, it was 1 / w_0 as long
    progress = (j @ d) / lengths / (w[0] * lengths[0])
    assert (progress[1:] >= tau - 1e-9).all()


def test_pcd_prefers_the_primary_where_promises_cannot_be_kept():
    opposed = torch.tensor([[1.0, 2, 3], [-2, -4, -6]], dtype=torch.float64)
    assert gramian_weights("pcd", opposed).tolist() == [1, 0]
    secondary = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -3, 0]], dtype=torch.float64)
    assert gramian_weights("pcd", secondary).tolist() == [1, 0, 0]
    assert gramian_weights("pcd", secondary, primary="1", tau=0.0).tolist() == [0, 1, 0]


def test_pcd_remembers_the_usual_lengths():
    balancer = create_balancer("pcd", ("a", "b"), beta=0.5, tau=1.0)
    losses, g = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    assert balancer.compute_weights(losses, g).tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    # the mean of squared lengths is (0.5 + 2 * 4) / (0.5 + 1) of b's, 1 of a's: ||h_b||^2 = 4 / 3
    w = balancer.compute_weights(losses, g * torch.tensor([1.0, 4.0]))
    progress = w * torch.tensor([1.0, 2.0])
    assert float(progress[1] / progress[0]) == pytest.approx((4 / 3) ** 0.5)
    fresh = create_balancer("pcd", ("a", "b"), beta=0.5, tau=1.0)
    fresh.load_state_dict(balancer.state_dict())
    assert torch.equal(fresh.compute_weights(losses, g), balancer.compute_weights(losses, g))


def test_agreement_with_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    for size in (2, 3, 5, 10):
        for seed in range(5):
            j = random_rows(size, seed, shift=0.0)
            theirs = aggregation.PCD()(j)
            weights = gramian_weights("pcd", j)
            torch.testing.assert_close(weights @ j, theirs, rtol=1e-6, atol=1e-6 * float(j.abs().max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": "o7"}, "pcd: unknown objective 'o7'"),
        ({"tau": 1.5}, r"pcd: tau must be in \[0, 1\]"),
        ({"beta": 1.0}, r"pcd: beta must be in \[0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("pcd", names(2), **options)

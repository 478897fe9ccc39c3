"""ConFIG makes cosines equal."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, orthogonal, rows, wide


def test_known_direction_of_conflict_free():
    assert (gramian_weights("conflict_free", CONFLICT) @ CONFLICT).tolist() == pytest.approx(
        [0.158809, 2.070607, 2.070607], abs=1e-6
    )


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_conflict_free_cosines_are_equal(size, seed):
    for scales in (torch.ones(size, dtype=torch.float64), wide(size, seed)):
        j = orthogonal(size, scales, seed)
        n = j.norm(dim=1)
        units = j / n[:, None]
        d = units.T @ (gramian_weights("conflict_free", j) * n)
        cosines = units @ d / d.norm()
        torch.testing.assert_close(cosines, cosines[0].expand(size), rtol=0, atol=1e-8)
        assert cosines.min() > 0
        assert float(d.norm()) == pytest.approx(float((n * cosines).sum()), rel=1e-9)


@pytest.mark.parametrize("length", ["min", "mean", "max"])
def test_conflict_free_has_the_length_that_was_asked_for(length):
    j = orthogonal(4, torch.tensor([1.0, 2, 3, 10], dtype=torch.float64))
    w = gramian_weights("conflict_free", j, length=length, preference={"0": 2.0})
    d = w @ j
    assert float(d.norm()) == pytest.approx({"min": 1, "mean": 4, "max": 10}[length])
    cosines = j @ d / (j.norm(dim=1) * d.norm())
    torch.testing.assert_close(cosines / cosines[1], torch.tensor([2.0, 1, 1, 1], dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(size, seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", size, seed)
    weights = gramian_weights("conflict_free", j)
    torch.testing.assert_close(weights @ j, aggregation.ConFIG()(j), rtol=1e-8, atol=1e-8)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="conflict_free: length must be"):
        create_balancer("conflict_free", names(3), length="sum")

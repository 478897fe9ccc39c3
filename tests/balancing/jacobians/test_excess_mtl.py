"""ExcessMTL equals its formulas."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, names, next_update, ones, rows


def test_excess_mtl_equals_the_formulas():
    balancer = create_balancer("excess_mtl", names(3), eta=0.7)
    squares, w, initial = torch.zeros(3, 9, dtype=torch.float64), ones(3), None
    for k in range(5):
        j = rows("random", 3, k)
        squares += j.square()
        excess = (j.square() / (squares + 1e-7).sqrt()).sum(1)
        if initial is None:
            initial = excess
        else:
            w = w * torch.exp(0.7 * excess / initial)
            w = 3 * w / w.sum()
        torch.testing.assert_close(next_update(balancer, ones(3), j).double(), w, rtol=1e-5, atol=1e-6)


def test_excess_mtl_changes_nothing_if_all_grow_alike():
    balancer = create_balancer("excess_mtl", ("a", "b"), eta=1.0)
    j = 100 * CONFLICT
    assert next_update(balancer, ones(2), j).tolist() == [1, 1]
    assert next_update(balancer, ones(2), j).tolist() == pytest.approx([1, 1])  # e / e(0) is 1 / sqrt(2) for both
    big = next_update(balancer, ones(2), torch.stack([1e6 * j[0], j[1]]))
    assert big.tolist() == pytest.approx([2, 0])


def test_excess_mtl_waits_for_the_first_gradient_that_is_not_zero():
    balancer = create_balancer("excess_mtl", ("a", "b"), eta=1.0)
    zero = torch.stack([CONFLICT[0], torch.zeros(3, dtype=torch.float64)])
    assert next_update(balancer, ones(2), zero).tolist() == [1, 1]
    w = next_update(balancer, ones(2), CONFLICT)
    assert w[1] > w[0]  # the ratio of the late one is 1, that of the other 1 / sqrt(2)
    assert bool(w.isfinite().all())


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="excess_mtl: eta must not be negative"):
        create_balancer("excess_mtl", ("a", "b"), eta=-1.0)

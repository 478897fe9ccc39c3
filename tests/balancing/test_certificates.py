"""Properties that several solutions share and that can be checked without another solver."""

import pytest
import torch

from tests.balancing.formulas import CONFLICT, KINDS, gramian_weights, rows


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
def test_projections_conflict_with_nobody(name, kind, size):
    for seed in range(3):
        j = rows(kind, size, seed)
        w = gramian_weights(name, j)
        d, lengths = w @ j, j.norm(dim=1)
        rounding = 1e-11 * float((w * lengths).sum())  # all that is left of d where every direction conflicts
        assert w.min() >= 1 / size - 1e-12
        assert (j @ d >= -lengths * max(1e-10 * d.norm(), rounding)).all(), (kind, size, seed)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_projection_hears_a_gradient_a_million_times_shorter(name):
    j = CONFLICT * torch.tensor([[1.0], [1e-6]])
    d = gramian_weights(name, j) @ j
    assert (j @ d >= -1e-12 * j.norm(dim=1) * d.norm()).all()


@pytest.mark.parametrize("name", ["nash_mtl", "fairgrad"])
def test_fairness_without_a_finite_solution_is_bounded(name):
    j = torch.tensor([[1.0, 2, 3], [-2, -4, -6], [0, 3, -2]], dtype=torch.float64)
    w = gramian_weights(name, j)
    assert w.isfinite().all()
    torch.testing.assert_close(w @ j, j[2] / j[2].norm(), rtol=1e-4, atol=1e-4)  # the opposed two cancel
    assert gramian_weights(name, torch.tensor([[0.0, 0], [0, 2]], dtype=torch.float64)).tolist() == pytest.approx(
        [0, 0.5]
    )
    assert gramian_weights(name, torch.zeros(2, 2, dtype=torch.float64)).tolist() == [0, 0]

"""IMTL-G makes projections equal."""

import pytest
import torch

from balancing import create_balancer
from balancing.errors import SolverError
from tests.balancing.formulas import CONFLICT, gramian_weights, names, orthogonal, rows, wide


def test_known_weights():
    assert gramian_weights("imtl_g", CONFLICT).tolist() == pytest.approx([0.59233, 0.40767], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_imtl_g_projections_are_equal(size, seed):
    for scales in (torch.ones(size, dtype=torch.float64), wide(size, seed)):
        j = orthogonal(size, scales, seed)
        w = gramian_weights("imtl_g", j)
        units = j / j.norm(dim=1, keepdim=True)
        # w j would lose short rows among long ones, so sum over unit rows
        projections = units @ units.T @ (w * j.norm(dim=1))
        torch.testing.assert_close(projections / projections[0], torch.ones_like(projections), rtol=0, atol=1e-8)
        assert projections.min() > 0
        assert abs(abs(w.sum()) - 1) < 1e-12


@pytest.mark.parametrize("size", [2, 3, 5])
def test_imtl_g_equals_the_published_closed_form(size):
    j = orthogonal(size, torch.linspace(1, 2, size, dtype=torch.float64))
    units = j / j.norm(dim=1, keepdim=True)
    unit_gaps, gaps = units[:1] - units[1:], j[:1] - j[1:]
    others = j[0] @ unit_gaps.T @ torch.linalg.inv(gaps @ unit_gaps.T)
    torch.testing.assert_close(gramian_weights("imtl_g", j), torch.cat([1 - others.sum()[None], others]))


def test_imtl_g_goes_downhill_where_the_published_weights_sum_to_a_negative_number():
    cosines = torch.tensor([[1.0, 0.8, 0.8], [0.8, 1, 0.5], [0.8, 0.5, 1]], dtype=torch.float64)
    n = torch.tensor([0.01, 1, 1], dtype=torch.float64)
    w = create_balancer("imtl_g", names(3)).compute_weights(torch.ones(3), n[:, None] * cosines * n)
    assert w.sum() == pytest.approx(-1)
    torch.testing.assert_close(cosines @ (n * w), (cosines @ (n * w))[0].expand(3))
    assert (cosines @ (n * w))[0] > 0


def test_imtl_g_raises_if_weights_sum_to_zero():
    cosines = torch.tensor([[1.0, 0.8, 0.8], [0.8, 1, 0.5], [0.8, 0.5, 1]], dtype=torch.float64)
    x = torch.linalg.solve(cosines, torch.ones(3, dtype=torch.float64))
    n = torch.tensor([float(-x[0] / (x[1] + x[2])), 1, 1], dtype=torch.float64)
    with pytest.raises(SolverError, match="sum to zero"):
        create_balancer("imtl_g", names(3)).compute_weights(torch.ones(3), n[:, None] * cosines * n)


def test_imtl_g_preference_sets_the_ratio_of_projections():
    j = orthogonal(3, wide(3))
    w = gramian_weights("imtl_g", j, preference={"1": 3.0})
    units = j / j.norm(dim=1, keepdim=True)
    projections = units @ units.T @ (w * j.norm(dim=1))
    torch.testing.assert_close(projections / projections[0], torch.tensor([1.0, 3, 1], dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(size, seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", size, seed)
    w = gramian_weights("imtl_g", j)
    torch.testing.assert_close(w.sum() * w @ j, aggregation.IMTLG()(j), rtol=1e-8, atol=1e-8)

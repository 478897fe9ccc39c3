"""Multi-Krum selects the gradients with the lowest scores."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import gramian_weights, names, rows


@pytest.mark.parametrize(("byzantine", "selected"), [(0, 1), (1, 2), (4, 7)])
def test_krum_selects_the_lowest_scores(byzantine, selected):
    j = rows("random", 7)
    distances = (j[:, None] - j).square().sum(2)
    scores = [sum(sorted(distances[i].tolist())[1 : 7 - byzantine - 1]) for i in range(7)]
    chosen = sorted(range(7), key=scores.__getitem__)[:selected]
    w = gramian_weights("krum", j, byzantine=byzantine, selected=selected)
    assert w.nonzero().squeeze(1).tolist() == sorted(chosen)
    assert w.sum() == pytest.approx(1)


def test_krum_leaves_an_outlier_out():
    j = torch.ones(5, 3, dtype=torch.float64) + 0.1 * torch.eye(5, 3, dtype=torch.float64)
    j[1] = -1e6
    assert gramian_weights("krum", j, byzantine=1, selected=3)[1] == 0


def test_krum_says_how_many_objectives_it_needs():
    with pytest.raises(ValueError, match="krum: byzantine=2 needs at least 5 objectives, got 4"):
        create_balancer("krum", names(4), byzantine=2)
    with pytest.raises(ValueError, match="krum: selected must be between 1 and 4, got 5"):
        create_balancer("krum", names(4), selected=5)


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(size, seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", size, seed)
    # plain and squared distances rank alike when a score is a single distance, which the nearest pair shares
    weights = gramian_weights("krum", j, byzantine=size - 3, selected=2)
    torch.testing.assert_close(weights @ j, aggregation.Krum(size - 3, 2)(j))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="krum: byzantine must not be negative"):
        create_balancer("krum", names(3), byzantine=-1)

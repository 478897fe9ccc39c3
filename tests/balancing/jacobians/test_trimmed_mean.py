"""The trimmed mean leaves out the extremes of each coordinate."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import names, next_update, ones, rows


@pytest.mark.parametrize("width", [1, 100, (1 << 16) + 3])
def test_trimmed_mean_leaves_out_the_extremes(width):
    j = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    for trim in (0, 1, 3):
        wanted = j.sort(0).values[trim : 7 - trim].mean(0)
        torch.testing.assert_close(
            next_update(create_balancer("trimmed_mean", names(7), trim=trim), ones(7), j), wanted
        )


def test_trimmed_mean_says_how_many_objectives_it_needs():
    with pytest.raises(ValueError, match="trimmed_mean: trim=2 needs at least 5 objectives, got 4"):
        create_balancer("trimmed_mean", names(4), trim=2)
    with pytest.raises(ValueError, match="trimmed_mean: trim must not be negative, got -1"):
        create_balancer("trimmed_mean", names(4), trim=-1)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_torchjd(seed):
    aggregation = pytest.importorskip("torchjd").aggregation
    j = rows("random", 5, seed).float()
    for trim in (1, 2):
        update = next_update(create_balancer("trimmed_mean", names(5), trim=trim), ones(5), j)
        torch.testing.assert_close(update, aggregation.TrimmedMean(trim)(j))

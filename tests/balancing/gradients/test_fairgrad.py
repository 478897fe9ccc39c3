"""FairGrad lies between the sum and the min-norm direction."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import CONFLICT, gramian_weights, names, random_rows


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, [0.591461, 0.407071]), ({"alpha": 2.0}, [0.471363, 0.319454]), ({"alpha": 0.5}, [0.742828, 0.525393])],
)
def test_known_values(options, wanted):
    assert gramian_weights("fairgrad", CONFLICT, **options).tolist() == pytest.approx(wanted, abs=1.2e-6)


def test_fairgrad_goes_from_the_sum_to_the_min_norm_direction():
    j = random_rows(4, 0, shift=1.0)
    torch.testing.assert_close(
        gramian_weights("fairgrad", j, alpha=0.01), torch.ones(4, dtype=torch.float64), rtol=0.1, atol=0
    )
    d = gramian_weights("fairgrad", j, alpha=200.0) @ j
    best = (gramian_weights("mgda", j) @ j).norm()  # the largest smallest progress of any direction of length 1
    assert 0.97 * best < (j @ d).min() / d.norm() <= best * (1 + 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 0.0}, "fairgrad: alpha must be positive"), ({"alpha": float("inf")}, "fairgrad")],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_balancer("fairgrad", names(2), **options)

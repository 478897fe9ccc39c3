"""GroupDRO multiplies its weights step by step."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import double, next_weights


def test_group_dro_multiplies_its_weights():
    balancer = create_balancer("group_dro", ("a", "b"), eta=0.3)
    share = double([0.5, 0.5])
    for losses in (double([1, 2]), double([3, 0.5]), double([0, 4])):
        share = share * torch.exp(0.3 * losses)
        share /= share.sum()
        torch.testing.assert_close(next_weights(balancer, losses), 2 * share, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": float("inf")}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="group_dro"):
        create_balancer("group_dro", ("a", "b"), **options)

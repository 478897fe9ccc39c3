"""Prior losses divide the losses."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import make


def test_prior_loss_uses_what_it_is_given():
    balancer = make("prior_loss", tuple("ab"), prior_losses={"a": 4.0, "b": 0.5})
    assert balancer.compute_weights(torch.ones(2)).tolist() == [0.25, 2]


def test_prior_loss_asks_for_the_priors():
    with pytest.raises(ValueError, match="prior_losses="):
        create_balancer("prior_loss", ("a", "b"))


@pytest.mark.parametrize("options", [{"prior_losses": {"a": 1.0}}, {"prior_losses": {"a": 0.0, "b": 1.0}}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="prior_loss"):
        create_balancer("prior_loss", ("a", "b"), **options)

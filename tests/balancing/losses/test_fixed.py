"""Fixed weights are those that are given."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import make


def test_fixed_uses_what_it_is_given():
    assert make("fixed", tuple("ab"), values={"b": 0.1}).compute_weights(torch.ones(2)).tolist() == [
        1,
        pytest.approx(0.1),
    ]


@pytest.mark.parametrize(
    "options", [{"values": {"a": -1.0}}, {"values": {"a": 0.0, "b": 0.0}}, {"values": {"a": float("nan")}}]
)
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="fixed"):
        create_balancer("fixed", ("a", "b"), **options)

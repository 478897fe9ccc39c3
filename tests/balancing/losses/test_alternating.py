"""Objectives take turns, by step or by epoch."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.problems import check_turns


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "abcabc"),
        ({"period": 2}, "aabbcc"),
        ({"order": ["c", "a", "c", "b"]}, "cacbca"),
    ],
)
def test_alternating_gives_each_objective_its_turn(options, expected):
    balancer = create_balancer("alternating", ("a", "b", "c"), **options)
    trained = ""
    for _ in expected:
        w = balancer.compute_weights(torch.ones(3))
        (turn,) = balancer.active()
        assert w.tolist() == [float(i == turn) for i in range(3)]
        trained += "abc"[turn]
        balancer.step += 1
    assert trained == expected


def test_alternating_by_epoch_ignores_steps():
    balancer = create_balancer("alternating", ("a", "b", "c"), unit="epoch", period=2)
    turns = []
    for _ in range(7):
        turns.append(balancer.active()[0])
        balancer.step += 5
        balancer.next_epoch()
    assert turns == [0, 0, 1, 1, 2, 2, 0]


def test_heads_that_take_no_part_get_no_gradient():
    check_turns(create_balancer("alternating", ("a", "b", "c")), "abc")


@pytest.mark.parametrize("options", [{"order": ["a"]}, {"order": ["a", "b", "x"]}, {"period": 0}, {"unit": "hour"}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="alternating"):
        create_balancer("alternating", ("a", "b"), **options)

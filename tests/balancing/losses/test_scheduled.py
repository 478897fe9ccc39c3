"""Weights follow the curves of a schedule."""

import pytest
import torch

from balancing import create_balancer


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("step", [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("linear", [2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0]),
        ("cosine", [2.0, 2.0, 2.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0]),
    ],
)
@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_scheduled_curves(shape, expected, unit):
    balancer = create_balancer(
        "scheduled", ("a", "b"), start={"a": 2.0}, end={"a": 0.0}, shape=shape, begin=3, length=4, unit=unit
    )
    weights = []
    for _ in range(12):
        w = balancer.compute_weights(torch.ones(2))
        weights.append(w[0].item())
        assert w[1] == 1
        balancer.step += unit == "step"
        if unit == "epoch":
            balancer.next_epoch()
    assert weights == pytest.approx(expected + [0.0] * 4, abs=1e-6)


def test_scheduled_times_by_objective():
    balancer = create_balancer(
        "scheduled", ("a", "b", "c"), start={"a": 0.0, "b": 0.0}, begin={"a": 2}, length={"a": 2, "b": 4}, unit="step"
    )
    weights = []
    for _ in range(5):
        weights.append(balancer.compute_weights(torch.ones(3)).tolist())
        balancer.step += 1
    assert weights == [[0, 0, 1], [0, 0.25, 1], [0, 0.5, 1], [0.5, 0.75, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "options",
    [
        {"shape": "sine"},
        {"unit": "hour"},
        {"start": {"a": -1.0}},
        {"end": {"a": 0.0, "b": 0.0}},
        {"begin": -1},
        {"length": 0},
        {"length": {"x": 3}},
        {"weight_ema": 0.5},
    ],
)
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="scheduled"):
        create_balancer("scheduled", ("a", "b"), **options)

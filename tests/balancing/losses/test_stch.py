"""Smooth Tchebycheff scalarization, plain and in logarithms."""

import pytest
import torch

from balancing import create_balancer
from tests.balancing.formulas import PRIORITIES, derivative, double, loss_weights, next_weights


@pytest.mark.parametrize("mu", [0.05, 1.0, 20.0])
def test_stch_is_the_derivative_of_its_formula(mu):
    share, ideal = double(list(PRIORITIES.values())) / 6, double([0.2, 0, -1, 0])
    expected = derivative(lambda loss: mu * torch.logsumexp(share * (loss - ideal) / mu, 0))
    options = {"mu": mu, "ideal": {"a": 0.2, "c": -1.0}, "preference": PRIORITIES}
    torch.testing.assert_close(loss_weights("stch", **options), expected)


def test_stch_becomes_tchebycheff():
    options = {"ideal": {"a": 0.2}, "preference": PRIORITIES}
    torch.testing.assert_close(loss_weights("stch", mu=1e-3, **options), loss_weights("tchebycheff", **options))


@pytest.mark.parametrize("mu", [0.3, 1.0])
def test_stch_in_logarithms_with_a_given_nadir(mu):
    nadir = double([1.0, 2.5, 2.0, 0.3])
    expected = derivative(lambda loss: 4 * mu * torch.logsumexp(torch.log(loss / nadir) / mu, 0))
    weights = loss_weights("stch", form="log", mu=mu, nadir=dict(zip("abcd", nadir.tolist(), strict=True)))
    torch.testing.assert_close(weights, expected, check_dtype=False, rtol=1e-6, atol=0)  # the nadir is single precision


def test_stch_measures_its_nadir_in_the_epochs_after_the_warm_up():
    balancer = create_balancer("stch", ("a", "b"), form="log", warmup=1, measure=2)
    for epoch, losses in enumerate([[9, 9], [2, 4], [4, 8]]):
        assert next_weights(balancer, double(losses)).tolist() == pytest.approx([1 / losses[0], 1 / losses[1]])
        assert balancer.epoch == epoch
        balancer.next_epoch()
    weights = next_weights(balancer, double([3.0, 12.0]))  # ratios 1 and 2 to the nadir (3, 6)
    assert weights.tolist() == pytest.approx([2 * (1 / 3) / 3, 2 * (2 / 3) / 12])
    weights = next_weights(balancer, double([3.0, 6.0]))
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 6])


def test_stch_that_joins_late_takes_its_first_losses_as_nadir():
    balancer = create_balancer("stch", ("a", "b"), form="log")
    balancer.epoch = 50
    assert next_weights(balancer, double([2, 8])).tolist() == pytest.approx([1 / 2, 1 / 8])
    assert next_weights(balancer, double([2, 24])).tolist() == pytest.approx([2 * 0.25 / 2, 2 * 0.75 / 24])


def test_preference_acts_alike_in_both_forms_of_stch():
    """With a small mu both train the objective with the greatest p L / N."""
    losses, priority = double([1.0, 2.0]), {"a": 3.0}
    assert loss_weights("stch", losses, mu=1e-3, preference=priority)[1] < 1e-9
    assert loss_weights("stch", losses, form="log", nadir={"a": 1, "b": 1}, mu=1e-3, preference=priority)[1] < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"form": "square"},
        {"mu": 0.0},
        {"form": "log", "ideal": {"a": 1.0}},
        {"form": "log", "log_losses": True},
        {"form": "log", "nadir": {"a": 1.0}},
        {"form": "log", "nadir": {"a": 1.0, "b": 0.0}},
        {"nadir": {"a": 1.0, "b": 1.0}},
        {"warmup": -1},
        {"measure": 0},
        {"unit": "hour"},
    ],
)
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="stch"):
        create_balancer("stch", ("a", "b"), **options)

"""Dynamic weight average (DWA) compares epochs or windows of steps."""

import pytest
import torch

from balancing import BalancingError, create_balancer
from tests.balancing.formulas import double, next_weights


def test_dwa_compares_the_last_epoch_with_the_one_before():
    balancer = create_balancer("dwa", ("a", "b"), temperature=0.5)
    epochs = [[[4, 10], [2, 20]], [[3, 9], [1, 3]], [[1, 6], [1, 0.1]]]
    for losses in epochs[:2]:
        for step in losses:
            assert next_weights(balancer, double(step)).tolist() == [1, 1]
        balancer.next_epoch()
    expected = 2 * torch.softmax(double([2 / 3, 6 / 15]) / 0.5, 0)  # means (2, 6) and (3, 15)
    for step in epochs[2]:
        torch.testing.assert_close(next_weights(balancer, double(step)), expected)
    balancer.next_epoch()
    expected = 2 * torch.softmax(double([1 / 2, 3.05 / 6]) / 0.5, 0)
    torch.testing.assert_close(next_weights(balancer, double([5.0, 5.0])), expected)


def test_dwa_compares_the_last_steps_with_those_before():
    history = [[4, 10], [2, 20], [3, 9], [1, 3], [1, 6], [7, 8]]
    balancer = create_balancer("dwa", ("a", "b"), window=2)
    for t, losses in enumerate(history):
        weights = next_weights(balancer, double(losses))
        if t < 3:
            assert weights.tolist() == [1, 1]
        else:
            last, before = double(history[t - 1 : t + 1]).mean(0), double(history[t - 3 : t - 1]).mean(0)
            torch.testing.assert_close(weights, 2 * torch.softmax(last / before / 2, 0))


def test_dwa_skips_epochs_without_a_step():
    balancer = create_balancer("dwa", ("a", "b"))
    for losses in ([4, 4], [2, 4]):
        balancer.next_epoch()
        balancer.next_epoch()
        next_weights(balancer, double(losses))
    balancer.next_epoch()
    torch.testing.assert_close(next_weights(balancer, double([1, 1])), 2 * torch.softmax(double([0.25, 0.5]), 0))


def test_dwa_names_a_loss_whose_mean_is_zero():
    balancer = create_balancer("dwa", ("a", "b"), window=1)
    with pytest.raises(BalancingError, match=r"dwa.*'b'"):
        next_weights(balancer, double([1, 0]))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"window": 0}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="dwa"):
        create_balancer("dwa", ("a", "b"), **options)

"""What a loop forgot is said once, in the line of the loop."""

import warnings

import pytest

from balancing import create_balancer
from tests.balancing.problems import Net, inputs


def run(balancer, net, steps):
    for _ in range(steps):
        balancer.backward(net.losses(inputs()))


@pytest.mark.parametrize("name", ["mgda", "pcgrad", "graddrop"])
def test_a_frozen_trunk_is_told_at_the_tenth_step(name):
    net, balancer = Net(), create_balancer(name, ("a", "b", "c"))
    for parameter in net.shared():
        parameter.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 9)
    with pytest.warns(UserWarning, match=f"{name}: in 10 steps there was no parameter") as caught:
        run(balancer, net, 1)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 20)


@pytest.mark.parametrize(("name", "objectives"), [("mgda", "abc"), ("sum", "abc"), ("pcgrad", "a")])
def test_nothing_is_said_where_nothing_is_wrong(name, objectives):
    net, balancer = Net(), create_balancer(name, tuple(objectives))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            balancer.backward({key: loss for key, loss in net.losses(inputs()).items() if key in objectives})


FOLLOW_EPOCHS = [("dwa", {}), ("igb", {}), ("scheduled", {"end": {"a": 2.0}}), ("stch", {"form": "log"})]


@pytest.mark.parametrize(("name", "options"), FOLLOW_EPOCHS)
def test_methods_that_follow_epochs_ask_for_their_end(name, options):
    net, balancer = Net(), create_balancer(name, ("a", "b", "c"), **options)
    balancer.step = 998
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 1)
    with pytest.warns(
        UserWarning, match=rf"{name}: no epoch has ended in 1,000 steps.*next_epoch.*(in steps|unit='step')"
    ):
        run(balancer, net, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dwa", {"window": 2}),
        ("igb", {"window": 2}),
        ("scheduled", {"unit": "step"}),
        ("stch", {"form": "log", "unit": "step"}),
        *FOLLOW_EPOCHS,
    ],
)
def test_no_end_is_asked_for_where_epochs_end_or_do_not_count(name, options):
    net, balancer = Net(), create_balancer(name, ("a", "b", "c"), **options)
    balancer.step = 999
    if (name, options) in FOLLOW_EPOCHS:
        balancer.next_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 1)


def test_a_loop_with_long_epochs_can_say_that_they_end():
    net, balancer = Net(), create_balancer("dwa", ("a", "b", "c"))
    balancer.step, balancer.ends_epochs = 999, True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 1)

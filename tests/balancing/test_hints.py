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


def test_dwa_asks_for_the_end_of_an_epoch():
    net, balancer = Net(), create_balancer("dwa", ("a", "b", "c"))
    balancer.step = 998
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(balancer, net, 1)
    with pytest.warns(UserWarning, match=r"dwa: no epoch has ended in 1,000 steps.*next_epoch"):
        run(balancer, net, 1)
    for options in ({"window": 2}, {}):
        other = create_balancer("dwa", ("a", "b", "c"), **options)
        other.step = 999
        if not options:
            other.next_epoch()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(other, net, 1)

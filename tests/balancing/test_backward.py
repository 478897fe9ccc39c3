"""The gradients that arrive in ``.grad`` are the promised combination, for every method."""

import pytest
import torch
from torch import nn

from balancing import Composed, JacobianBalancer, balancer_class, create_balancer
from tests.balancing.problems import (
    ALL,
    COMBINES,
    GRADIENT,
    MANY,
    TURNS,
    WEIGHS,
    Net,
    assert_close,
    core,
    expected,
    inputs,
    make,
    reference_rows,
    trunk_gradient,
)


class RowMean(JacobianBalancer):
    """Sum of the rows by way of the Jacobian, to check that path against the others."""

    name = "row_mean"

    def combine(self, losses, jacobian):
        return jacobian.sum(0)


@pytest.mark.parametrize("name", WEIGHS)
def test_gradients_are_the_weighted_sum(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer = make(name)
    report = balancer.backward(net.losses(x))
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", COMBINES)
def test_jacobian_methods_combine_the_rows_and_leave_heads_their_gradients(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer, twin = make(name), make(name)
    values = net.losses(x)
    report = balancer.backward(values, shared=net.shared())
    jacobian = torch.stack([trunk_gradient(rows[key]) for key in net.objectives])
    heads = balancer.head_weights
    if name in TURNS:
        jacobian[1:] = 0
    losses = torch.stack([values[key].detach() for key in net.objectives])
    update = core(twin).combine(losses * heads, jacobian * heads[:, None])
    assert report.weights is None
    torch.testing.assert_close(trunk_gradient(net.gradients()), update)
    for i, key in enumerate(net.objectives):
        for leaf, gradient in rows[key].items():
            if leaf.startswith("head"):
                actual = net.gradients().get(leaf, torch.zeros_like(gradient))
                turn = 0 if name in TURNS and i > 0 else 1
                torch.testing.assert_close(actual, turn * heads[i] * gradient)


@pytest.mark.parametrize("heads", ["unit", "weighted"])
@pytest.mark.parametrize("name", [n for n in GRADIENT if n in WEIGHS])
def test_heads_get_what_the_option_says(name, heads):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    balancer = make(name, heads=heads)
    report = balancer.backward(net.losses(x))
    assert (balancer.head_weights is None) == (heads == "weighted")
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", [n for n in ALL if n not in MANY])
def test_one_objective_keeps_the_direction_of_its_gradient(name):
    net, x = Net(("a",)), inputs()
    rows = reference_rows(net, x)["a"]
    balancer = make(name, ("a",))
    report = balancer.backward(net.losses(x))
    balanced, own = trunk_gradient(net.gradients()), trunk_gradient(rows)
    scale = float(balanced @ own / (own @ own))
    torch.testing.assert_close(balanced, scale * own)
    assert scale > 0
    if name in GRADIENT and balancer.convention != "own":
        assert scale == pytest.approx(float(balancer.head_weights[0]) if isinstance(balancer, Composed) else 1.0)
    if report.weights is not None:
        assert scale == pytest.approx(float(report.weights[0]))


def test_jacobian_path_equals_gramian_path_and_one_backward():
    net, x = Net(), inputs()
    report = RowMean(net.objectives).backward(net.losses(x))
    by_rows = net.gradients()
    net.zero_grad()
    create_balancer("sum", net.objectives).backward(net.losses(x))
    assert_close(by_rows, net.gradients())
    assert report.weights is None
    assert report.norms is not None


@pytest.mark.parametrize("name", ALL)
def test_gradients_accumulate_like_backward(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    once = net.gradients()
    make(name).backward(net.losses(x))
    assert_close(net.gradients(), {key: 2 * g for key, g in once.items()})


@pytest.mark.parametrize("name", [name for name in ALL if balancer_class(name).remembers])
def test_gradients_of_steps_add_up_where_memory_is_used_again(name):
    net, balancers = Net(), [make(name), make(name)]
    total = {}
    for seed in range(5):
        net.zero_grad()
        balancers[0].backward(net.losses(inputs(seed=seed)))
        total |= {key: total.get(key, 0) + g for key, g in net.gradients().items()}
    net.zero_grad()
    for seed in range(5):
        balancers[1].backward(net.losses(inputs(seed=seed)))
    assert_close(net.gradients(), total)


@pytest.mark.parametrize("name", ALL)
def test_only_given_parameters_receive_gradients(name):
    net, x = Net(), inputs()
    chosen = [*net.trunk[0].parameters(), *net.head["a"].parameters()]  # the first objective has the first turn
    make(name).backward(net.losses(x), parameters=chosen)
    touched = {id(p) for p in net.parameters() if p.grad is not None}
    assert touched == {id(p) for p in chosen}


def test_frozen_parameters_may_be_listed():
    net, x = Net(), inputs()
    net.trunk[0].weight.requires_grad_(False)
    for name in ("sum", "mgda"):
        make(name).backward(net.losses(x), parameters=list(net.parameters()), shared=net.shared())
    assert net.trunk[0].weight.grad is None
    assert net.trunk[2].weight.grad is not None


@pytest.mark.parametrize("name", ALL)
def test_without_shared_parameters_each_objective_keeps_its_gradient(name):
    names = ("a", "b", "c")
    nets = {key: nn.Linear(3, 1).double() for key in names}
    losses = {key: net(torch.ones(4, 3).double()).square().mean() + 1 for key, net in nets.items()}
    plain = {key: torch.autograd.grad(losses[key], net.weight, retain_graph=True)[0] for key, net in nets.items()}
    balancer = make(name, names)
    report = balancer.backward(losses)
    heads = balancer.head_weights
    heads = report.weights if heads is None else heads
    active = balancer_class(name).active(make(name, names))
    for i, key in enumerate(names):
        if active is None or i in active:
            torch.testing.assert_close(nets[key].weight.grad, float(heads[i]) * plain[key])
        else:
            assert nets[key].weight.grad is None


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l", "gradnorm"])
def test_own_parameters_may_be_frozen(name):
    net, x = Net(), inputs()
    frozen, free = make(name).requires_grad_(False), make(name)
    weights = [balancer.backward(net.losses(x)).weights for balancer in (frozen, free)]
    torch.testing.assert_close(*weights)
    assert all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in free.parameters())


def test_report_describes_the_gradients():
    net, x = Net(("a", "b")), inputs()
    rows = reference_rows(net, x)
    report = make("pcgrad", ("a", "b")).backward(net.losses(x))
    flat = [torch.cat([g.flatten() for key, g in rows[k].items() if key.startswith("trunk")]) for k in "ab"]
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=0)
    torch.testing.assert_close(report.norms, torch.stack([f.norm() for f in flat]))
    torch.testing.assert_close(report.cosines[0, 1], cosine)
    assert report.conflicts == float(cosine < 0)
    assert set(report.as_dict()) == {
        "loss/a", "loss/b", "weight/a", "weight/b", "norm/a", "norm/b", "cosine/a/b", "conflicts",
    }  # fmt: skip

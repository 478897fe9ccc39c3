"""Gradients measured at features or at a subset of the parameters."""

import pytest
import torch
from torch import nn

from balancing import BalancingError, JacobianBalancer, balancer_class
from tests.balancing.problems import GRAMIAN, JACOBIAN, Net, assert_close, core, expected, inputs, make, reference_rows


@pytest.mark.parametrize("name", GRAMIAN)
def test_at_features_finds_weights_there_and_passes_them_on(name):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    z = net.features(x)
    balancer = make(name, at="features")
    report = balancer.backward(net.losses(x, z), features=z)
    assert_close(net.gradients(), expected(rows, balancer, report))
    z = net.features(x)
    grads = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in net.losses(x, z).values()]
    flat = torch.stack([g.flatten() for g in grads])
    torch.testing.assert_close(report.gramian, flat @ flat.T)


@pytest.mark.parametrize("name", [n for n in JACOBIAN if not balancer_class(n).remembers])
def test_jacobian_methods_combine_at_features(name):
    net, x = Net(), inputs()
    z = net.features(x)
    losses = net.losses(x, z)
    rows = torch.stack([torch.autograd.grad(v, z, retain_graph=True)[0].flatten() for v in losses.values()])
    method, values = core(make(name)), torch.stack(list(losses.values())).detach()
    update = (
        method.combine(values, rows)
        if isinstance(method, JacobianBalancer)
        else method.compute_weights(values, rows) @ rows
    )
    wanted = torch.autograd.grad(z, net.shared(), update.view_as(z), retain_graph=True)
    make(name, at="features").backward(losses, features=z)
    for parameter, gradient in zip(net.shared(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", GRAMIAN)
@pytest.mark.parametrize("heads", ["unit", "weighted"])
def test_at_subset_measures_there_and_weighs_everything(name, heads):
    net, x = Net(), inputs()
    rows = reference_rows(net, x)
    last = [net.trunk[2].weight]
    balancer = make(name, at="subset", heads=heads)
    report = balancer.backward(net.losses(x), subset=last)
    flat = torch.stack([rows[k]["trunk.2.weight"].flatten() for k in net.objectives])
    torch.testing.assert_close(report.gramian, flat @ flat.T)
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize(("at", "name"), [("features", "mgda"), ("subset", "mgda"), ("features", "graddrop")])
def test_features_that_are_named_twice_count_once(at, name):
    net, x = Net(), inputs()
    results = []
    for times in (1, 2):
        net.zero_grad()
        z = net.features(x)
        given = {"features": [z] if times == 1 else {"x": z, "y": z}, "subset": [net.trunk[0].weight] * times}[at]
        report = make(name, at=at).backward(net.losses(x, z), **{at: given})
        results.append(net.gradients() | {"gramian": report.gramian})
    assert_close(*results)


@pytest.mark.parametrize("copy", [False, True])
def test_a_hook_on_the_features_changes_the_gradient_of_the_trunk_once(copy):
    net, x = Net(), inputs()
    results = []
    for factor in (1, 4):
        net.zero_grad()
        z = net.features(x)
        if factor > 1:
            z.register_hook(lambda gradient: 4 * gradient)
        given = z.view_as(z) if copy else z
        make("mgda", at="features").backward(net.losses(x, given), features=given)
        results.append([factor * p.grad for p in net.shared()] if factor == 1 else [p.grad for p in net.shared()])
    for once, hooked in zip(*results, strict=True):
        torch.testing.assert_close(hooked, 4 * once)
    assert len(z._backward_hooks) == 1


def test_a_shared_parameter_that_bypasses_the_features_is_an_error():
    net, x = Net(), inputs()
    z = net.features(x)
    losses = {name: loss + net.trunk[0].weight.square().sum() for name, loss in net.losses(x, z).items()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", at="features").backward(losses, features=z)


def two_levels(x, copy):
    """Features at two depths, and two losses that read both."""
    torch.manual_seed(0)
    first, second, heads = nn.Linear(5, 4).double(), nn.Linear(4, 4).double(), [nn.Linear(8, 1).double() for _ in "ab"]
    low = first(x).tanh()
    high = second(low).tanh()
    features = [low.view_as(low), high.view_as(high)] if copy else [low, high]
    z = torch.cat(features, 1)
    losses = {"a": heads[0](z).square().mean(), "b": (heads[1](z) - 1).square().mean()}
    return losses, features, [*first.parameters(), *second.parameters()]


def test_features_computed_from_one_another_are_refused_and_copies_are_exact():
    losses, features, _ = two_levels(inputs(), copy=False)
    with pytest.raises(BalancingError, match="computed from another"):
        make("gradnorm", ("a", "b"), at="features", init="equal").backward(losses, features=features)
    losses, features, trunk = two_levels(inputs(), copy=True)
    wanted = torch.autograd.grad(losses["a"] + losses["b"], trunk, retain_graph=True)
    make("gradnorm", ("a", "b"), at="features", init="equal").backward(losses, features=features)
    for parameter, gradient in zip(trunk, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_trunk_parameter_that_one_loss_reads_past_the_features_is_an_error():
    trunk, head = nn.Linear(5, 4).double(), nn.Linear(4, 1).double()
    x = inputs()
    z = trunk(x).tanh()
    losses = {"a": (z @ trunk.weight - 1).square().mean(), "b": head(z).square().mean()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", ("a", "b"), at="features").backward(losses, features=z)


def test_another_output_of_the_layer_that_made_the_features_is_not_lost():
    trunk, head = nn.Linear(5, 8).double(), nn.Linear(4, 1).double()
    z, side = trunk(inputs()).chunk(2, 1)
    losses = {"a": (z + side).square().mean(), "b": (head(z) - side).square().mean()}
    with pytest.raises(BalancingError, match="without passing through the features"):
        make("mgda", ("a", "b"), at="features").backward(losses, features=z)

"""Micro-batches give the gradients of one batch, for every method."""

import pytest
import torch
from torch import nn

from balancing import balancer_class
from tests.balancing.problems import ALL, Net, assert_close, expected, inputs, make, reference_rows, trunk_gradient


@pytest.mark.parametrize("name", [n for n in ALL if not balancer_class(n).unbiased])
def test_micro_batches_equal_one_batch(name):
    net, x = Net(), inputs(12)
    whole = make(name)
    whole.backward(net.losses(x))
    wanted, wanted_theta = net.gradients(), [p.grad for p in whole.parameters()]
    net.zero_grad()
    parts = make(name)
    for i, part in enumerate(x.chunk(3)):
        losses = {key: loss / 3 for key, loss in net.losses(part).items()}
        report = parts.backward(losses, last=i == 2)
        if i < 2 and parts.needs != "nothing":
            assert report.weights is None
    assert_close(net.gradients(), wanted)
    for parameter, gradient in zip(parts.parameters(), wanted_theta, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", [n for n in ALL if balancer_class(n).unbiased])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_micro_batches_are_independent_samples_for_an_unbiased_gramian(name, count, monkeypatch):
    net, x, balancer, gramians = Net(), inputs(12), make(name), []
    monkeypatch.setattr(
        balancer,
        "compute_weights",
        lambda losses, gramian, find=balancer.compute_weights: (gramians.append(gramian), find(losses, gramian))[1],
    )
    parts = [{key: trunk_gradient(row) for key, row in reference_rows(net, part).items()} for part in x.chunk(count)]
    rows = reference_rows(net, x)
    for i, part in enumerate(x.chunk(count)):
        losses = {key: loss / count for key, loss in net.losses(part).items()}
        report = balancer.backward(losses, last=i == count - 1)
    halves = [
        torch.stack([torch.stack([p[key] for p in parts[i::2]]).mean(0) for key in net.objectives]) for i in (0, 1)
    ]
    if count == 3:  # the third joins the first
        halves[0] = torch.stack([(parts[0][key] + parts[2][key]) / 2 for key in net.objectives])
    cross = halves[0] @ halves[1].T
    torch.testing.assert_close(gramians[0], (cross + cross.T) / 2)
    assert_close(net.gradients(), expected(rows, balancer, report))


@pytest.mark.parametrize("name", ["mgda", "realtime"])
def test_micro_batches_may_take_different_paths(name):
    torch.manual_seed(0)
    left, right, heads = nn.Linear(5, 4).double(), nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
    x = inputs()

    def losses(*trunks):
        outs = [heads(trunk(x).tanh()).square().mean(0) for trunk in trunks]
        return {"a": sum(o[0] for o in outs), "b": sum(o[1] for o in outs)}

    parameters = [*left.parameters(), *right.parameters(), *heads.parameters()]
    report = make(name, ("a", "b")).backward(losses(left, right))
    wanted = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    balancer = make(name, ("a", "b"))
    balancer.backward(losses(left), last=False)
    parts = balancer.backward(losses(right))
    torch.testing.assert_close(parts.weights, report.weights)
    for p, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize("name", ["sum", "mgda"])
def test_a_failed_micro_batch_is_forgotten(name):
    net, x = Net(), inputs()
    balancer = make(name)
    balancer.backward(net.losses(x), last=False)
    with pytest.raises(ValueError, match="is missing"):
        balancer.backward({"a": net.losses(x)["a"]})
    report = balancer.backward(net.losses(x))
    torch.testing.assert_close(report.losses, torch.stack(list(net.losses(x).values())).detach())

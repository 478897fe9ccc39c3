"""Shared parameters are those of the graph, and the Gramian is that of their gradients."""

import pytest
import torch
import torch._functorch.config
from torch import _functorch as functorch
from torch import nn

from balancing import create_balancer
from balancing.measuring.gradients import _CHUNK, Gradients
from balancing.measuring.leaves import find_leaves
from balancing.measuring.looped import collect
from tests.balancing.problems import GRADIENT, GRAMIAN, MANY, TURNS, Net, assert_close, inputs, make


@pytest.mark.parametrize("name", GRADIENT)
def test_given_shared_parameters_equal_discovered_ones(name):
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    discovered = net.gradients()
    net.zero_grad()
    order = [*collect_order(net, x)]
    make(name).backward(net.losses(x), shared=order)
    assert_close(net.gradients(), discovered, rtol=0, atol=0)


def collect_order(net, x):
    """The shared parameters in the order in which the graph lists them."""
    masks = find_leaves(list(net.losses(x).values()))
    return [leaf for leaf, mask in masks.items() if mask.bit_count() > 1]


def test_find_leaves_names_the_objectives_of_each_parameter():
    net, x = Net(("a", "b")), inputs()
    masks = find_leaves(list(net.losses(x).values()))
    assert {masks[p] for p in net.trunk.parameters()} == {0b11}
    assert {masks[p] for p in net.head["a"].parameters()} == {0b01}
    assert {masks[p] for p in net.head["b"].parameters()} == {0b10}
    z = net.features(x)
    assert not set(net.trunk.parameters()) & set(find_leaves(list(net.losses(x, z).values()), stop=[z]))


@pytest.mark.parametrize("name", [n for n in GRAMIAN if n not in MANY])
def test_gradients_that_autograd_aliases_are_not_corrupted(name):
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    q = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    constant = torch.tensor([1.0, -2.0], dtype=torch.float64)
    losses = {"a": (p + q).sum(), "b": 3 * ((p + q) * constant).sum() + 50}  # both rows are one tensor for p and q
    report = make(name, ("a", "b")).backward(losses)
    wanted = report.weights[0] * torch.ones(2) + report.weights[1] * 3 * constant
    torch.testing.assert_close(p.grad, wanted)
    torch.testing.assert_close(q.grad, wanted)
    assert p.grad.data_ptr() != q.grad.data_ptr()
    assert constant.tolist() == [1.0, -2.0]


def test_weights_come_from_the_true_gramian_for_every_layout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 512, 3, padding=1))
    net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert net[2].weight.numel() > _CHUNK
    losses = {"a": net(x).square().mean(), "b": (net(x) - 1).abs().mean(), "c": net(x)[:, :3].exp().mean()}
    points = list(net.parameters())
    flat = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, points, retain_graph=True)]).double()
            for v in losses.values()
        ]
    )
    report = create_balancer("mgda", ("a", "b", "c")).backward(losses)
    torch.testing.assert_close(report.gramian, flat @ flat.T, rtol=1e-5, atol=1e-9)


def test_the_gramian_reads_rows_in_small_pieces():
    big, small = torch.zeros(3 * _CHUNK + 5), [torch.zeros(7) for _ in range(10)]
    rows = [[torch.ones_like(p) * (k + 1) for p in (big, *small)] for k in range(2)]
    gradients = Gradients([big, *small], rows, [{}, {}])
    assert max(piece.numel() for pieces in gradients._pieces() for piece in pieces) <= 2 * _CHUNK
    n = 3 * _CHUNK + 75
    assert gradients.gramian().tolist() == [[n, 2 * n], [2 * n, 4 * n]]


def test_rows_with_missing_parts_count_as_zero():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    gradients = collect([p.sum() + q.sum(), 2 * p.sum()], [p, q], {}, keep_graph=False)
    assert gradients.gramian().tolist() == [[5.0, 4.0], [4.0, 8.0]]
    assert [t.tolist() for t in gradients.combine([1.0, 1.0])] == [[3.0, 3.0], [1.0, 1.0, 1.0]]


# with a compiled graph GradDrop's coordinates come in another order, and heads whose turn it is not get zeros
@pytest.mark.parametrize("name", [n for n in GRADIENT if n not in ("graddrop", *TURNS)])
def test_compiled_model_gives_the_gradients_of_the_eager_one(name):
    functorch.config.donated_buffer = False
    net, x = Net(), inputs()
    make(name).backward(net.losses(x))
    eager = net.gradients()
    net.zero_grad()
    compiled = torch.compile(net.losses, backend="aot_eager")
    make(name).backward(compiled(x), shared=net.shared())
    assert_close(net.gradients(), eager)


def convolution_losses(parameters, x):
    features = torch.nn.functional.conv2d(x, parameters[0]).mean((2, 3)) @ parameters[1]
    return {name: (features[:, k] - k).square().mean() for k, name in enumerate("abc")}


@pytest.mark.parametrize("name", ["mgda", "moco", "db_mtl", "excess_mtl", "graddrop", "trimmed_mean"])
def test_a_new_gradient_lies_in_memory_as_its_parameter(name):
    """A fused optimizer on the CPU reads both as they lie."""
    balancer, x = create_balancer(name, ("a", "b", "c")), torch.randn(2, 3, 5, 5)
    made = [nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4, 3))]
    balancer.backward(convolution_losses(made, x))
    with torch.no_grad():
        made[0].data = made[0].data.to(memory_format=torch.channels_last)
    for parameter in made:
        parameter.grad = None
    balancer.backward(convolution_losses(made, x))
    assert [p.grad.stride() for p in made] == [p.stride() for p in made]

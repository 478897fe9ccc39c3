"""Rows of small networks in one matrix, and one traversal for the gradients at the features."""

import copy

import pytest
import torch
from torch import nn

from balancing import create_balancer
from balancing.measuring import features as at_features
from balancing.measuring.gradients import Gradients
from balancing.measuring.small import FEW, SmallRows, whole_vectors
from tests.balancing.problems import Net, inputs

SHAPES = [(7, 3), (300, 9), (5,)]


def collected(rows, out):
    """Gradients in the matrix that ``out`` makes; a missing one is ``None``."""
    leaves = [torch.zeros(shape) for shape in SHAPES]
    flat = out(leaves, len(rows))
    gradients = Gradients(leaves, [list(row) for row in rows], [], flat.matrix, flat.vectors)
    for k, pieces in enumerate(flat.pieces):
        gradients.flatten(k, pieces)
    return gradients


def random_rows(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(size)]


def exact(rows):
    j = torch.stack([torch.cat([piece.reshape(-1) for piece in row]) for row in rows]).double()
    return j @ j.T


@pytest.mark.parametrize("size", [1, 2, 3, 4, 12, 13])
def test_the_gramian_of_few_coordinates_is_that_of_the_rows(size):
    rows = random_rows(size)
    gramian = collected(rows, SmallRows().out).gramian()
    assert torch.allclose(gramian, exact(rows), rtol=1e-6, atol=1e-3)
    assert torch.equal(gramian, gramian.T)


@pytest.mark.parametrize("size", [2, 5])
def test_rows_that_depend_on_each_other_are_measured_in_double_precision(size):
    rows = random_rows(size)
    rows[1] = [piece * 1.5 + 1e-5 for piece in rows[0]]
    assert torch.allclose(collected(rows, SmallRows().out).gramian(), exact(rows), rtol=1e-12)


@pytest.mark.parametrize("size", [2, 5])
def test_tiny_rows_are_measured_in_double_precision(size):
    rows = [[piece * 1e-25 for piece in row] for row in random_rows(size)]
    gramian = collected(rows, SmallRows().out).gramian()
    assert (gramian.diagonal() > 0).all()
    assert torch.allclose(gramian, exact(rows), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [3, 5])
def test_a_missing_gradient_is_zero_whatever_the_matrix_held_before(size):
    small = SmallRows()
    collected(random_rows(size, seed=1), small.out)
    rows = random_rows(size)
    full = [list(row) for row in rows]
    rows[1] = [None] * len(SHAPES)
    rows[2][0] = None
    full[1], full[2][0] = [torch.zeros(shape) for shape in SHAPES], torch.zeros(SHAPES[0])
    gradients = collected(rows, small.out)
    assert torch.allclose(gradients.gramian(), exact(full), rtol=1e-6, atol=1e-3)
    weights = [0.5 + k for k in range(size)]
    expected = [sum(w * row[p] for w, row in zip(weights, full, strict=True)) for p in range(len(SHAPES))]
    for piece, wanted in zip(gradients.combine(weights), expected, strict=True):
        assert torch.allclose(piece, wanted, rtol=1e-5, atol=1e-5)


def test_large_mixed_and_strided_inputs_keep_their_gradients_as_they_come():
    small = SmallRows()
    assert small.out([torch.zeros(FEW)], 2) is not None
    assert small.out([torch.zeros(FEW), torch.zeros(1)], 2) is None
    assert small.out([torch.zeros(2), torch.zeros(2, dtype=torch.float64)], 2) is None
    assert small.out([torch.zeros(3, 2).T], 2) is None
    assert small.out([torch.zeros(2, dtype=torch.bfloat16)], 2) is None


def test_later_steps_leave_earlier_gradients_and_copies_as_they_are():
    net, balancer = Net(), create_balancer("upgrad", ("a", "b", "c"))
    balancer.backward(net.losses(inputs()))
    kept = {name: (p.grad, p.grad.clone()) for name, p in net.named_parameters()}
    net.zero_grad()
    twin = copy.deepcopy(balancer)
    twin.backward(net.losses(inputs(seed=2)))
    net.zero_grad()
    balancer.backward(net.losses(inputs(seed=3)))
    assert all(torch.equal(gradient, former) for gradient, former in kept.values())


def test_gradients_of_one_vector_are_tensors_of_their_own_to_autograd():
    net = Net()
    create_balancer("upgrad", ("a", "b", "c")).backward(net.losses(inputs()))
    first, second = (parameter.grad for parameter in net.shared()[:2])
    scale = torch.ones_like(first).requires_grad_()
    total = (scale * first).sum()
    second.detach_().mul_(2)
    total.backward()  # what it has saved counts no change of the other one
    assert torch.equal(scale.grad, first)


class Several(Net):
    """Heads that reach the features by several nodes each."""

    def losses(self, x, features=None):
        z = self.features(x) if features is None else features
        plain = super().losses(x, z)
        return {name: loss + (z.sin() * z).mean() * (k + 1) for k, (name, loss) in enumerate(plain.items())}


def steps(net, given, monkeypatch, loop):
    """Gradients of two steps at the features, and how often autograd was called for them."""
    calls, grad = [], torch.autograd.grad
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(None) or grad(*a, **k))
        if loop:
            patch.setattr(at_features, "collect_together", lambda *_: None)
        balancer = create_balancer("mgda", net.objectives, at="features")
        found = []
        for seed in (1, 2):
            net.zero_grad()
            z = net.features(inputs(seed=seed))
            features, losses = given(net, z, inputs(seed=seed))
            report = balancer.backward(losses, features=features)
            found += [*net.gradients().values(), report.weights, report.gramian]
    return found, len(calls)


def whole(net, z, x):
    return z, net.losses(x, z)


def copies(net, z, x):
    features = {name: z.view_as(z) for name in net.objectives}
    return features, {name: net.losses(x, features[name])[name] for name in net.objectives}


def test_rows_that_lie_in_another_way_are_copied():
    """A gradient that is one number expanded, and one that begins within another tensor."""
    plain, block = torch.zeros(4, 3), torch.zeros(13)
    expanded, inside = torch.ones(()).expand(4, 3), block[1:].view(4, 3)
    assert [vector.shape for vector in whole_vectors([[plain], [plain]])] == [(12,), (12,)]
    for other in (expanded, inside, None):
        assert whole_vectors([[plain], [other]]) is None
    assert whole_vectors([[plain, plain], [plain, plain]]) is None
    assert whole_vectors([[plain]] * 4) is None


def expanded(net, z, x):
    return z, {name: (k + 1) * z.sum() for k, name in enumerate(net.objectives)}


@pytest.mark.parametrize("given", [whole, copies, expanded])
@pytest.mark.parametrize("kind", [Net, Several])
def test_one_traversal_of_the_heads_gives_the_bits_of_one_per_loss(kind, given, monkeypatch):
    together, few = steps(kind(), given, monkeypatch, loop=False)
    alone, many = steps(kind(), given, monkeypatch, loop=True)
    assert all(map(torch.equal, together, alone))
    assert (few, many) == (2, 6)


def merged(net, z, x):
    outputs = torch.cat([net.head[name](z) for name in net.objectives], dim=1).chunk(len(net.objectives), dim=1)
    return z, {
        name: (out - k).square().mean() for k, (name, out) in enumerate(zip(net.objectives, outputs, strict=True))
    }


def common_node(net, z, x):
    return z, net.losses(x, z * 2)


@pytest.mark.parametrize("given", [merged, common_node])
def test_heads_with_a_node_in_common_are_traversed_loss_by_loss(given, monkeypatch):
    found, calls = steps(Net(), given, monkeypatch, loop=False)
    expected, _ = steps(Net(), given, monkeypatch, loop=True)
    assert all(map(torch.equal, found, expected))
    assert calls == 6


def test_a_hook_on_the_features_sees_the_gradient_of_each_loss():
    net, seen = Net(), []
    z = net.features(inputs())
    z.register_hook(lambda gradient: seen.append(gradient.clone()))
    losses = net.losses(inputs(), z)
    rows = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses.values()]
    seen.clear()
    create_balancer("mgda", net.objectives, at="features").backward(losses, features=z)
    assert all(map(torch.equal, seen[:3], rows))


def test_a_loss_that_is_one_of_the_features_counts():
    torch.manual_seed(0)
    layer = nn.Linear(5, 1)
    z = layer(inputs(dtype=torch.float32)).mean()
    report = create_balancer("mgda", ("a", "b"), at="features").backward({"a": z, "b": (z * 3).square()}, features=[z])
    slope = float(18 * z.detach())
    assert report.gramian.flatten().tolist() == pytest.approx([1, slope, slope, slope**2], rel=1e-5)

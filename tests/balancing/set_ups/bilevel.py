"""Set-ups of methods that learn weights from other data: the model is evaluated at virtual parameters."""

import copy
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from tests.balancing.problems import BILEVEL, Net
from tests.balancing.set_ups.layers import Layers, Mask, separate_by
from tests.balancing.set_ups.outputs import separate
from tests.balancing.set_ups.reference import build
from tests.balancing.set_ups.table import batch, cell, right_or_refused

LR = 0.02


def meta(method, model, losses, objectives="abc", steps=2):
    """Gradients of the model and of alpha, step by step."""
    balancer, left = build(method, objectives), []
    for step in range(steps):
        model.zero_grad()
        balancer.zero_grad()
        torch.manual_seed(step)
        train, validation = (partial(losses, x=batch(base + step)) for base in (0, 50))
        report = balancer.meta_backward(model, train, validation, lr=LR)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        left.append(gradients | {"alpha": balancer.alpha.grad.clone(), "losses": report.losses})
        with torch.no_grad():
            balancer.alpha.sub_(balancer.alpha.grad, alpha=0.01)
    return left


def check_same(mine, wanted):
    for actual, right in zip(mine, wanted, strict=True):
        assert actual.keys() == right.keys()
        for key, value in right.items():
            torch.testing.assert_close(actual[key], value, rtol=1e-6, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


@cell("auto_lambda")
def bilevel_exact(method):
    """The slope of the validation losses along lambda, by differentiating the virtual step."""
    net = Net()
    balancer = build(method, "abc", radius=1e-4)
    balancer.meta_backward(net, lambda m: separate(m, batch(0)), lambda m: separate(m, batch(50)), lr=LR)
    exact, weights = Net(), torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    names, leaves = zip(*exact.named_parameters(), strict=True)
    values = torch.stack(list(separate(exact, batch(0)).values()))
    gradients = torch.autograd.grad(weights @ values, leaves, create_graph=True)
    moved = {name: p - LR * g for name, p, g in zip(names, leaves, gradients, strict=True)}
    validation = torch.func.functional_call(Closure(exact), {f"net.{k}": v for k, v in moved.items()}, (batch(50),))
    (slope,) = torch.autograd.grad(sum(validation.values()), weights)
    torch.testing.assert_close(balancer.alpha.grad.double(), slope, rtol=1e-4, atol=1e-6)


class Closure(nn.Module):
    """A model's losses as its forward pass."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return separate(self.net, x)


def checkpointed(net, x):
    return separate_by(net, recompute(net.trunk, x, use_reentrant=False), x)


@cell(*BILEVEL)
def bilevel_checkpoint(method):
    def check():
        check_same(meta(method, Net(), checkpointed), meta(method, Net(), separate))

    right_or_refused(check, "checkpoint")


class ByHand(nn.Module):
    """Batch normalization without statistics."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * self.weight + self.bias


def normalized():
    torch.manual_seed(0)
    return Layers(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))


def check_statistics(method, losses):
    model = normalized()
    plain = copy.deepcopy(model)
    plain.trunk[1] = ByHand(plain.trunk[1])
    once = copy.deepcopy(model)
    mine = meta(method, model, losses)
    check_same(mine, meta(method, plain, lambda net, x: net.losses(x)))
    for step in range(2):
        once.losses(batch(step))
    for name, buffer in once.named_buffers():
        torch.testing.assert_close(dict(model.named_buffers())[name], buffer)


@cell(*BILEVEL)
def bilevel_batch_norm(method):
    check_statistics(method, lambda net, x: net.losses(x))


@cell(*BILEVEL)
def bilevel_checkpoint_batch_norm(method):
    right_or_refused(lambda: check_statistics(method, checkpointed), "checkpoint")


@cell(*BILEVEL)
def bilevel_dropout(method):
    """Every virtual step sees the mask that the step itself drew."""

    def build_model(mask):
        torch.manual_seed(0)
        return Layers(nn.Linear(5, 8), mask, nn.Tanh(), nn.Linear(8, 6))

    dropped = meta(method, build_model(Mask(0.3)), lambda net, x: net.losses(x), steps=1)
    torch.manual_seed(0)
    kept = torch.rand((8, 8), dtype=torch.float64) > 0.3
    check_same(dropped, meta(method, build_model(Fixed(kept.double() / 0.7)), lambda net, x: net.losses(x), steps=1))


class Fixed(nn.Module):
    """A product with a constant."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@cell(*BILEVEL)
def bilevel_absent(method):
    """An objective without labels in both batches: the others as without it."""

    def losses(net, x):
        return separate(net, x) | {"b": None}

    def others(net, x):
        return {key: loss for key, loss in separate(net, x).items() if key != "b"}

    def check():
        mine, wanted = meta(method, Net(), losses, steps=1), meta(method, Net(), others, "ac", steps=1)
        for left in mine:
            for key in ("alpha", "losses"):
                left[key] = left[key][[0, 2]]
        check_same(mine, wanted)

    right_or_refused(check, "absent")

"""Batches, models and the exact virtual step for the tests of bilevel methods."""

import torch
from torch import nn

from tests.balancing.problems import Net, inputs

LR = 0.02
TRUTH = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0, 3.0], dtype=torch.float64)


def closure(x):
    """Losses through ``features`` and heads, which a call of ``forward`` alone would not reach."""
    return lambda net: net.losses(x)


def batches(step=0, dtype=torch.float64):
    return closure(inputs(seed=10 + step, dtype=dtype)), closure(inputs(seed=500 + step, dtype=dtype))


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def stacked(losses):
    return torch.stack(list(losses.values()))


def after_a_step(net, train, validation, weights, lr):
    """(K,) validation losses after one gradient step on the weighted training losses, differentiable in the weights."""
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(weights @ stacked(train(net)), parameters, create_graph=True)
    moved = {name: p - lr * g for (name, p), g in zip(net.named_parameters(), gradients, strict=True)}

    class Losses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            return stacked(validation(self.net))

    return torch.func.functional_call(Losses(), {f"net.{name}": p for name, p in moved.items()})


class Regression(nn.Module):
    """One linear layer; the objectives share every weight. Forward only: neither features nor heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 1).double()

    def forward(self, x):
        return self.layer(x).squeeze(1)


def regression(seed, objectives=("main", "useful", "noise")):
    """``main`` is the target, ``useful`` a noisier copy of it, ``noise`` random numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 6, dtype=torch.float64, generator=generator)
    y = x @ TRUTH
    useful = y + 0.1 * torch.randn(16, dtype=torch.float64, generator=generator)
    noise = 5 * torch.randn(16, dtype=torch.float64, generator=generator)

    def losses(net):
        out = net(x)
        targets = {"main": y, "useful": useful, "noise": noise}
        return {name: (out - targets[name]).square().mean() for name in objectives}

    return losses


def learn(balancer, net, steps, lr=0.02, balancer_lr=0.02):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    own = torch.optim.Adam(balancer.parameters(), lr=balancer_lr)
    for step in range(steps):
        optimizer.zero_grad()
        own.zero_grad()
        train, validation = (regression(seed, balancer.objectives) for seed in (step, 10_000 + step))
        balancer.meta_backward(net, train, validation, lr=lr)
        optimizer.step()
        own.step()
    return balancer


class Noisy(Net):
    """BatchNorm and dropout in the trunk."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6)).double()

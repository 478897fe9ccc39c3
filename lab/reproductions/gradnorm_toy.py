"""GradNorm's toy: two regressions on one trunk, with targets a hundredfold apart.

    y_i = s_i tanh((B + E_i) x),  s = (1, 100),  x in R^250, y_i in R^100;  B ~ N(0, 10), E_i ~ N(0, 3.5), fixed
    trunk: four layers of 100 ReLU units; a linear layer per objective; squared loss; alpha = 0.12

The result is ``sum_i L_i / L_i(0)`` on inputs not trained on, the task-normalized loss of the paper, which prints curves only
and says neither learning rate nor batch size, steps or the scale of x. Ours: Adam with 1e-3 on 100 new inputs in each of 4000
steps, x ~ N(0, 1/250), and 10 and 3.5 taken as variances. So only the order of the methods is checked, and that order depends
on the scale of x: with x ~ N(0, 1) GradNorm leads early, and all are alike at the end. GradNorm's weights learn with the 0.025
of its paper, those of the uncertainty with the rate of the network, of which they are a part in their paper; with 0.025 they
end between GradNorm and the sum.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from balancing import create_balancer

INPUTS, OUTPUTS, WIDTH, BATCH = 250, 100, 100, 100
SIZES = {"small": 1.0, "large": 100.0}
METHODS: dict[str, dict[str, Any]] = {
    "sum": {},
    "gradnorm": {"alpha": 0.12, "init": "equal", "at": "subset"},  # gradients at the last shared layer, as published
    "uncertainty": {"init": 0.0},
}


class Model(nn.Module):
    """Trunk and two heads."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [INPUTS, *[WIDTH] * 4]
        layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.last = layers[-1].weight  # gradients are measured here
        self.trunk = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, OUTPUTS) for name in SIZES})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 250) -> name -> (N, 100)."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def train(method: str, seed: int, steps: int) -> float:
    """The task-normalized loss after so many steps."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    common = math.sqrt(10) * torch.randn(OUTPUTS, INPUTS, generator=generator)
    maps = {name: common + math.sqrt(3.5) * torch.randn(common.shape, generator=generator) for name in SIZES}

    def inputs(count: int) -> Tensor:
        return torch.randn(count, INPUTS, generator=generator) / math.sqrt(INPUTS)

    def losses(x: Tensor) -> dict[str, Tensor]:
        outputs = model(x)
        return {
            name: (outputs[name] - size * torch.tanh(x @ maps[name].T)).square().mean() for name, size in SIZES.items()
        }

    model, unseen = Model(), inputs(1000)
    balancer = create_balancer(method, tuple(SIZES), **METHODS[method])
    groups = [{"params": list(model.parameters())}]
    own = list(balancer.parameters())
    rate = 0.025 if method == "gradnorm" else 1e-3
    optimizer = torch.optim.Adam(groups + [{"params": own, "lr": rate}] * bool(own), lr=1e-3)
    with torch.no_grad():
        first = losses(unseen)
    for _ in range(steps):
        optimizer.zero_grad()
        balancer.backward(losses(inputs(BATCH)), subset=[model.last])
        optimizer.step()
    with torch.no_grad():
        return sum((loss / first[name]).item() for name, loss in losses(unseen).items())


def run(seed: int, folder: Path, steps: int = 4000) -> dict[str, float]:
    """All three methods on the same draws."""
    losses = {method: train(method, seed, steps) for method in METHODS}
    return losses | {
        "gradnorm below sum": float(losses["gradnorm"] < losses["sum"]),
        "sum below uncertainty": float(losses["sum"] < losses["uncertainty"]),
    }


RUNS = {"gradnorm_toy": run}

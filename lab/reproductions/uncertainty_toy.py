"""The example of uncertainty weighting: two lines with noise of deviations 10 and 1.

    x ~ N(0, 1),  y1 = 2 x + 8 + 10 e1,  y2 = 3 x + 3 + e2;   100 points; two heads on one hidden layer of 1024 units

The published loss is ``sum_i mean(exp(-s_i) (f_i - y_i)^2 + s_i)``, twice that of our ``uncertainty``, which makes no
difference to Adam. Data, weights and order of the batches are drawn in the published order, as they decide the numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from balancing import create_balancer


class Model(nn.Module):
    """A hidden layer and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.first, self.second = nn.Linear(1, 1024), nn.Linear(1024, 1), nn.Linear(1024, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1) -> two predictions (N, 1)."""
        features = torch.relu(self.hidden(x))
        return self.first(features), self.second(features)


def run(seed: int, folder: Path, epochs: int = 2000) -> dict[str, float]:
    """Train, and return the learned noise levels, and the error on the training data."""
    draw = np.random.RandomState(seed)
    torch.manual_seed(seed)
    x = draw.randn(100, 1)
    y1, y2 = 2 * x + 8 + 10 * draw.randn(100, 1), 3 * x + 3 + draw.randn(100, 1)
    data = [torch.from_numpy(values.astype(np.float32)) for values in (x, y1, y2)]
    model = Model()
    balancer = create_balancer("uncertainty", ("first", "second"), init=0.0)
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-3)
    order = np.arange(100)
    for _ in range(epochs):
        draw.shuffle(order)
        for batch in torch.from_numpy(order).split(20):
            inputs, *targets = (values[batch] for values in data)
            errors = [(f - y).square().mean() for f, y in zip(model(inputs), targets, strict=True)]
            optimizer.zero_grad()
            balancer.backward(dict(zip(balancer.objectives, errors, strict=True)))
            optimizer.step()
    (levels,) = balancer.parameters()  # s
    deviations = levels.detach().div(2).exp().tolist()
    with torch.no_grad():
        left = [(f - y).square().mean().sqrt().item() for f, y in zip(model(data[0]), data[1:], strict=True)]
    return {f"standard deviation {k}": value for k, value in enumerate(deviations, start=1)} | {
        f"training error {k}": value for k, value in enumerate(left, start=1)
    }


RUNS = {"uncertainty_toy": run}

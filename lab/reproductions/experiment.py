"""What a reproduction is: something to run, and what it should give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from balancing import Balancer

#: From seconds to hours: what continuous integration runs, what a patient CPU can run, what needs a GPU and its data.
TIERS = ("quick", "cpu", "gpu")


@dataclass(frozen=True)
class Experiment:
    """A published or recorded result.

    Attributes:
        name: On the command line.
        tier: One of ``TIERS``.
        source: Where the expected values stand.
        expected: Metric -> value, and how far the mean over seeds may be from it.
        run: Gets a seed and a folder for files, and returns the metrics; others than those expected may be among them.
        seeds: What to run it with.
        recipe: All that decides what is run, for a training; runs of another recipe are not taken for its own.
        overrides: Of ``python train.py``, for a training.
        family: The recipe that it is a row of, if it is one of many.
    """

    name: str
    tier: str
    source: str
    expected: Mapping[str, tuple[float, float]]
    run: Callable[[int, Path], dict[str, float]]
    seeds: Sequence[int] = (0,)
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    family: str = ""


def descend(
    losses: Callable[[Tensor], dict[str, Tensor]],
    balancer: Balancer,
    start: Tensor,
    lr: float,
    steps: int,
    epochs: int,
) -> Tensor:
    """The end of plain gradient descent from a point, in steps that are split into epochs."""
    x = nn.Parameter(start)
    optimizer = torch.optim.SGD([x], lr)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        balancer.backward(losses(x), shared=[x])
        optimizer.step()
        if step % (steps // epochs) == 0:
            balancer.next_epoch()
    return x.detach()

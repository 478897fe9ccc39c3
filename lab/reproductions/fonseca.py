"""Fonseca and Fleming's concave front, the synthetic example of Pareto MTL.

    f1 = 1 - exp(-sum_i (x_i - 1 / sqrt(20))^2),  f2 = 1 - exp(-sum_i (x_i + 1 / sqrt(20))^2),  x in R^20

Ten searches of 100 plain gradient steps from uniform points in [-0.5, 0.5]^20. The front goes from (0, 0.98) to (0.98, 0), and
bulges away from the origin, so no weighted sum has its minimum between the ends. A search that ends with both losses above
0.05 is an interior point. Weighted sums get random weights, Pareto MTL ten rays on the quarter circle, as published; the
other methods with preferences, which are our addition, get those rays as preferences.

EPO Search has the same losses in its figures: four rays from one start, and the end of each where its ray meets the front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from balancing import Balancer, create_balancer
from lab.reproductions.experiment import descend
from tasks.scores import hypervolume

SIZE, SEARCHES, STEPS = 20, 10, 100
NAMES = ("f1", "f2")


def losses(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """(20,) -> both losses."""
    center = 1 / math.sqrt(SIZE)
    return {name: 1 - (-(x + sign * center).square().sum()).exp() for name, sign in zip(NAMES, (-1, 1), strict=True)}


def run(
    make: Callable[[int, float], Balancer], lr: float, repeat: int, seed: int, folder: Path, searches: int = SEARCHES
) -> dict[str, float]:
    """Ten searches with the balancers that ``make`` returns for an index and a random number.

    An epoch, which Pareto MTL counts two of, is a tenth of the steps.
    """
    draw = np.random.RandomState(seed)
    points = []
    for index in range(searches):
        balancer = make(index, draw.rand())
        start = torch.from_numpy(draw.uniform(-0.5, 0.5, SIZE))
        end = descend(losses, balancer, start, lr, STEPS * repeat, epochs=10)
        points.append([value.item() for value in losses(end).values()])
    ends = np.array(points)
    return {
        "interior points": float((ends > 0.05).all(1).sum()),
        "hypervolume": hypervolume(ends, (1, 1)),
        "distance to the front": float(distances(ends).max()),
    }


def run_epo(seed: int, folder: Path) -> dict[str, float]:
    """Four searches of 100 steps from the authors' start, with their four preferences.

    The learning rate is the least of theirs, which grows with the distance from the ray.
    """
    start = torch.tensor([0.3, -0.3], dtype=torch.float64).repeat(SIZE // 2)
    points, imbalance = [], 0.0
    for angle in np.linspace(math.pi / 20, 9 * math.pi / 20, 4):
        preference = dict(zip(NAMES, (math.cos(angle), math.sin(angle)), strict=True))
        end = descend(losses, create_balancer("epo", NAMES, preference=preference), start.clone(), 0.1, STEPS, epochs=1)
        points.append([value.item() for value in losses(end).values()])
        first, second = (value * r for value, r in zip(points[-1], preference.values(), strict=True))
        imbalance = max(imbalance, abs(first - second) / (first + second))
    ends = np.array(points)
    return {
        "distance from the ray": imbalance,
        "distance to the front": float(distances(ends).max()),
        "hypervolume": hypervolume(ends, (1, 1)),
    }


def distances(points: np.ndarray) -> np.ndarray:
    """How far (N, 2) losses are from the front, x_i = s / sqrt(20) with s in [-1, 1]."""
    s = np.linspace(-1, 1, 100_001)
    front = 1 - np.exp(-np.stack([(s - 1) ** 2, (s + 1) ** 2], axis=1))
    return np.array([np.linalg.norm(front - point, axis=1).min() for point in points])


def weighted_sum(index: int, share: float) -> Balancer:
    """Random weights of sum 1."""
    return create_balancer("fixed", NAMES, values=dict(zip(NAMES, (share, 1 - share), strict=True)))


def mgda(index: int, share: float) -> Balancer:
    """Without preferences: the same method every time."""
    return create_balancer("mgda", NAMES)


def pareto_mtl(index: int, share: float) -> Balancer:
    """One of ten rays."""
    return create_balancer("pareto_mtl", NAMES, rays=rays(), index=index)


def preferring(method: str, index: int, share: float) -> Balancer:
    """Any method that takes preferences: losses in inverse proportion to them lie on the ray."""
    ray = [max(value, 0.05) for value in rays()[index]]
    return create_balancer(method, NAMES, preference={name: 1 / value for name, value in zip(NAMES, ray, strict=True)})


def rays() -> list[list[float]]:
    """Evenly on the quarter circle, from one axis to the other."""
    angles = np.linspace(0, math.pi / 2, SEARCHES)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).round(12).tolist()


#: Name -> what makes its balancers, the learning rate, and how often the 100 steps are repeated.
RUNS = {
    "fonseca_weighted_sum": partial(run, weighted_sum, 1.0, 1),
    "fonseca_mgda": partial(run, mgda, 1.0, 1),
    # half the step: the weights of our pareto_mtl have the sum 2
    "fonseca_pareto_mtl": partial(run, pareto_mtl, 0.5, 1),
    # small steps, as only one of the two losses is trained in each
    "fonseca_tchebycheff": partial(run, partial(preferring, "tchebycheff"), 0.1, 5),
    "fonseca_mgda_preference": partial(run, partial(preferring, "mgda"), 0.5, 2),
    "fonseca_epo": run_epo,
}

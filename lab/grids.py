"""Grids of static weights and learning rates, which grow where the best point is at an edge.

A point holds a number v_i > 0 per objective, of mean 1. The weights of a run are ``w_i = v_i / L_i`` with the loss L_i of the
best constant prediction, so at v = 1 each term starts near 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Point = tuple[float, ...]
STEP = 0.5  # decades between two points of the grid for two objectives, and of an extension
RATES = 3  # learning rates that a grid may grow by
ROUNDS = 4  # times that a grid of weights may grow


def weight_grid(objectives: int) -> list[Point]:
    """The first grid of static weights; its middle is v = 1.

    Two objectives: nine points, v_1 / v_2 from 0.01 to 100 in steps of half a decade. More: sixteen points of an additive
    low-discrepancy sequence in the cube log10 v_i in [-1, 1] (M. Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018), which begins in the middle.
    """
    if objectives < 2:
        raise ValueError(f"a grid of weights needs at least 2 objectives, got {objectives}")
    if objectives == 2:
        return [_point(np.array([ratio, 0.0])) for ratio in STEP * np.arange(-4, 5)]
    root = 2.0
    for _ in range(60):  # of x^(K + 1) = x + 1
        root = (1 + root) ** (1 / (objectives + 1))
    shifts = root ** -np.arange(1.0, objectives + 1)
    return [_point(2 * ((0.5 + number * shifts) % 1) - 1) for number in range(16)]


def further_points(points: Sequence[Point], chosen: Point) -> list[Point]:
    """Points to add because the chosen one lies at an edge; none if it lies inside.

    It lies inside if every objective has a smaller and a larger share, in the geometric sense, at other points. Where an
    objective has none, half a decade beyond the chosen point is added in that direction.
    """
    logs = np.log10(np.array(points))
    logs -= logs.mean(1, keepdims=True)
    place = logs[list(points).index(chosen)]
    added: dict[Point, None] = {}
    for objective, column in enumerate(logs.T):
        for sign in (-1, 1):
            if sign * place[objective] >= (sign * column).max() - 1e-3:  # points are rounded
                moved = place.copy()
                moved[objective] += sign * STEP
                added[_point(moved)] = None
    return [point for point in added if point not in points]


def further_rate(rates: Sequence[float], best: float, first: int) -> float | None:
    """The learning rate to add because the best lies at an end; ``None`` if none is to be added.

    None is if the best lies inside, or if the limit is reached.

    Args:
        rates: Those that were tried, in a constant ratio, in any order.
        best: One of them.
        first: How many there were before any was added.
    """
    ordered = sorted(rates)
    if best not in (ordered[0], ordered[-1]) or len(ordered) >= first + RATES:
        return None
    ratio = ordered[1] / ordered[0]
    return float(f"{best / ratio if best == ordered[0] else best * ratio:.4g}")


def _point(logs: np.ndarray) -> Point:
    """The point of mean 1 with these decimal logarithms, but for a common constant."""
    values = 10.0 ** (logs - logs.max())
    return tuple(float(f"{value:.4g}") for value in values / values.mean())

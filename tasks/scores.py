"""Scores over several objectives, by which the literature compares methods.

Values are keyed ``<objective>/<metric>``, as in ``summary.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from balancing.choices import raise_for_choice
from tasks.results import ResultKey

Average = Literal["metrics", "objectives"]


def delta_m(
    values: Mapping[str, float],
    baseline: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
    average: Average = "metrics",
) -> float:
    """Mean relative loss of quality against a baseline in percent; negative is better.

    Args:
        values: ``<objective>/<metric>`` -> result of the method.
        baseline: The same of the baseline, as a rule one model per objective.
        higher_is_better: Direction of each metric.
        average: ``metrics``: every metric weighs the same, so that an objective with many weighs more (Maninis et al. 2019;
            the tables of CAGrad, Nash-MTL and FAMO). ``objectives``: mean per objective first; the improvement in percent of
            LibMTL's tables is minus this.

    It is not a number if a value is none.

    Raises:
        ValueError: Metrics differ, a baseline is 0, or another average.
    """
    raise_for_choice("delta_m", "average", average, Average)
    if not values or set(values) != set(baseline) or not set(values) <= set(higher_is_better):
        raise ValueError(f"delta_m: values, baseline and directions must have the same metrics, got {sorted(values)}")
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        if baseline[name] == 0:
            raise ValueError(f"delta_m: the baseline of {name} is 0, so nothing can be relative to it")
        change = (value - baseline[name]) / abs(baseline[name])
        group = name if average == "metrics" else ResultKey.parse(name).objective
        groups.setdefault(group, []).append(-change if higher_is_better[name] else change)
    return 100 * float(np.mean([np.mean(changes) for changes in groups.values()]))


def mean_rank(rows: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> dict[str, float]:
    """Rank of each method averaged over metrics, 1 is best; equal values share the better rank.

    Args:
        rows: Method -> metric -> result. The baseline is left out in the literature.
        higher_is_better: Direction of each metric.

    Raises:
        ValueError: Methods have different metrics, or a value is not a number.
    """
    names = list(higher_is_better)
    if not rows or any(set(row) != set(names) for row in rows.values()):
        raise ValueError(f"mean_rank: every method needs a value of each of {', '.join(names)}")
    signs = np.array([-1.0 if higher_is_better[name] else 1.0 for name in names])
    table = signs * np.array([[row[name] for name in names] for row in rows.values()], dtype=float)
    if np.isnan(table).any():
        raise ValueError("mean_rank: a value is not a number")
    ranks = 1 + (table[None] < table[:, None]).sum(1)
    return dict(zip(rows, ranks.mean(1).tolist(), strict=True))


def hypervolume(points: Sequence[Sequence[float]] | np.ndarray, reference: Sequence[float]) -> float:
    """Exact volume dominated by the points, up to the reference; all values are minimized.

    Args:
        points: (N, M) losses of N solutions; those that do not dominate the reference add nothing.
        reference: (M,) losses that are worse than all that is of interest.

    Raises:
        ValueError: Points and reference have different numbers of objectives, or a value is not a number.
    """
    corner = np.asarray(reference, dtype=float)
    front = np.asarray(points, dtype=float)
    if front.size == 0:
        return 0.0
    if front.ndim != 2 or front.shape[1] != len(corner) or np.isnan(front).any() or np.isnan(corner).any():
        raise ValueError(f"hypervolume: points must be numbers (N, {len(corner)}) as the reference, got {front.shape}")
    return _volume(front[(front < corner).all(1)], corner)


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    """Sweep over the last objective: between two of its values, the slice does not change."""
    if len(points) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    levels = np.append(points[:, -1], corner[-1])
    volume = 0.0
    for count, (low, high) in enumerate(pairwise(levels), start=1):
        if high > low:
            volume += (high - low) * _volume(points[:count, :-1], corner[:-1])
    return float(volume)

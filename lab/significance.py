"""Differences of paired runs, and which of many are significant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mozoo.comparison.estimates import Estimate, estimate, student_share, student_t

LEVEL = 0.05  # probability of a false claim among all of a study


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, with the p-value of Student's two-sided test.

    Attributes:
        mean: With its 95 % interval, before any correction.
        p: Probability of so large a mean if there were none. 1 if all differences are 0.
    """

    mean: Estimate
    p: float


def paired(values: Sequence[float], rival: Sequence[float]) -> Difference:
    """``values - rival``, one pair per seed.

    If runs of one side diverged, that side is infinitely larger, with a p of 0; if runs of both did, p is 1.

    Raises:
        ValueError: Numbers of seeds differ, or are below two.
    """
    if len(values) != len(rival) or len(values) < 2:
        raise ValueError(f"pairs need the same two or more seeds, got {len(values)} and {len(rival)} values")
    diverged, reference = (not all(map(math.isfinite, side)) for side in (values, rival))
    if diverged or reference:
        both = diverged and reference
        return Difference(Estimate(math.nan if both else math.inf if diverged else -math.inf, None), float(both))
    differences = [value - other for value, other in zip(values, rival, strict=True)]
    mean = estimate(differences)
    deviation = statistics.stdev(differences)
    if deviation == 0:
        return Difference(mean, 0.0 if mean.mean else 1.0)
    t = abs(mean.mean) / deviation * math.sqrt(len(differences))
    return Difference(mean, 1 - student_share(t, len(differences) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of S. Holm (Scand. J. Statist. 6, 1979).

    They bound the probability of any false claim, without independence. The k-th smallest of m is multiplied by m - k + 1; none is below one before it, or above 1.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def threshold(pairs: int, comparisons: int) -> float:
    """Standard errors that the clearest of several mean differences needs to be significant.

    Args:
        pairs: Behind each mean.
        comparisons: Number of means, which Holm's correction allows for.
    """
    return student_t(pairs - 1, 1 - LEVEL / comparisons)


def against(rival: Sequence[float], others: Mapping[str, Sequence[float]]) -> tuple[list[str], list[str], list[str]]:
    """Names with significantly smaller values, without a difference, and with larger ones.

    Those with a diverged run count as larger, unless the rival has one, too.
    """
    differences = {name: paired(values, rival) for name, values in others.items()}
    adjusted = holm({name: difference.p for name, difference in differences.items()})
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name, difference in differences.items():
        significant = adjusted[name] < LEVEL
        groups[1 if not significant else 0 if difference.mean.mean < 0 else 2].append(name)
    return groups

"""Means over independent runs, with Student's 95 % interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from mozoo.page import number

_DIGITS = 6  # after the point; of smaller intervals, powers of ten


@dataclass(frozen=True)
class Estimate:
    """Mean over runs, and half the width of its 95 % interval; ``None`` for one run."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        if not math.isfinite(self.mean):
            return "-"
        if self.half is None:
            return number(self.mean)
        digits = 4 if self.half == 0 else meaningful_digits(self.half)
        return self.text(digits) if digits <= _DIGITS else f"{self.mean:.3e} ± {self.half:.1e}"

    def text(self, digits: int) -> str:
        """With this many digits after the point, without a minus before 0."""
        mean = f"{round(self.mean, digits) + 0.0:,.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:,.{digits}f}"


def meaningful_digits(half: float, own: int = 2) -> int:
    """Digits after the point that an interval leaves meaningful: two of its ``own``."""
    return max(own - 1 - math.floor(math.log10(half)), 0)


def column_texts(column: Sequence[Estimate]) -> list[str]:
    """A column with the same digits.

    They are those of a usual interval, or three of a usual mean; four without intervals.
    """
    halves = [each.half for each in column if each.half]
    means = [abs(each.mean) for each in column if each.mean and math.isfinite(each.mean)]
    if not means:
        return [str(each) for each in column]
    usual = statistics.median(means)
    digits = (
        max(meaningful_digits(statistics.median(halves)), meaningful_digits(usual, 3))
        if halves
        else meaningful_digits(usual, 4)
    )
    if digits > _DIGITS:
        return [str(each) for each in column]
    return [each.text(digits) if math.isfinite(each.mean) else "-" for each in column]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's interval over independent runs."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, None)
    return Estimate(mean, student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)))


@cache
def student_t(freedom: int, probability: float = 0.95) -> float:
    """The t for which ``probability`` of Student's distribution lies between -t and t."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _share(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def student_share(t: float, freedom: int) -> float:
    """The part of Student's distribution that lies between -t and t."""
    return _share(math.atan(t / math.sqrt(freedom)), freedom)


def _share(angle: float, freedom: int) -> float:
    """The part below an angle ``atan(t / sqrt(freedom))``.

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    term = total = 1.0
    if freedom == 1:
        return 2 * angle / math.pi
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    return math.sin(angle) * total

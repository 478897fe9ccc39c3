"""Static weights from the gradients of a short first phase.

After AutoScale (Y. Yang et al., "AutoScale: linear scalarization guided by multi-task optimization metrics", 2025,
arXiv:2508.13979): well-performing static weights have gradients of similar magnitude, so weights are found from such metrics in a
first phase and are fixed in a second. Of the paper's metrics this is the gradient magnitude similarity
``2 |a| |b| / (|a|^2 + |b|^2)`` of weighted gradients, which is largest, at 1, exactly where all lengths are equal. The second phase
begins anew, with the same seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from mozoo.tracking import read_rows

MEASURED = 20  # times in the first phase


def first_phase(steps: int) -> tuple[str, ...]:
    """Overrides of a first phase of so many steps with equal weights."""
    every = max(1, steps // MEASURED)
    return "balancer=sum", f"trainer.max_steps={steps}", f"trainer.measure_conflicts={every}", "trainer.log_every=1"


def equal_lengths(file: Path, objectives: Sequence[str]) -> dict[str, float]:
    """Weights of mean 1, inverse to the mean lengths of the gradients in a ``balance.csv``.

    Raises:
        ValueError: There are no lengths, or one is zero.
    """
    rows = [row for row in read_rows(file) if row.get(f"norm/{objectives[0]}", "") != ""]
    lengths = {name: statistics.fmean(float(row[f"norm/{name}"]) for row in rows) for name in objectives if rows}
    if not rows or not all(lengths.values()):
        raise ValueError(f"{file} has no lengths of gradients, or one that is 0: {lengths}")
    mean = statistics.fmean(1 / length for length in lengths.values())
    return {name: 1 / length / mean for name, length in lengths.items()}

"""Metrics that tasks have in common, each with its direction.

torchmetrics, which is slow to import, is imported when the first metric is made, after an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

Transform = Callable[[Tensor], Tensor]


def identity(values: Tensor) -> Tensor:
    """The same values."""
    return values


@dataclass(frozen=True)
class MetricSpec:
    """A metric of one objective.

    Args:
        make: Makes a fresh torchmetrics Metric.
        transform: Applied to predictions and to labels first, e.g. to convert them to another unit.
        higher_is_better: The direction, if it is to be known without making a metric; ``None``: that of the metric.
    """

    make: Callable[[], Metric]
    transform: Callable[[Tensor], Tensor] = identity
    higher_is_better: bool | None = None

    @property
    def direction(self) -> bool:
        """Whether higher is better."""
        return bool(self.make().higher_is_better if self.higher_is_better is None else self.higher_is_better)


def metric(name: str, higher_is_better: bool = True, transform: Transform = identity, **options: Any) -> MetricSpec:
    """The metric of that name, e.g. ``image.PeakSignalNoiseRatio``, in torchmetrics."""

    def make() -> Any:
        import torchmetrics

        return attrgetter(name)(torchmetrics)(**options)

    return MetricSpec(make, transform, higher_is_better)


def accuracy(classes: int) -> MetricSpec:
    """Share of the labels that are predicted."""
    return metric("classification.MulticlassAccuracy", num_classes=classes, average="micro")


def macro_f1(classes: int) -> MetricSpec:
    """F1 score, averaged over classes."""
    return metric("classification.MulticlassF1Score", num_classes=classes, average="macro")


def r2(transform: Transform = identity) -> MetricSpec:
    """Share of the variance that is explained, after ``transform`` of predictions and labels."""
    return metric("R2Score", transform=transform)


def absolute_error(transform: Transform = identity) -> MetricSpec:
    """Mean absolute error, after ``transform`` of predictions and labels."""
    return metric("MeanAbsoluteError", False, transform)

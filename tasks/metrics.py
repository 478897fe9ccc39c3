"""Metrics that tasks have in common, each with its direction.

    metrics = {"accuracy": accuracy(10), "macro_f1": macro_f1(10)}

torchmetrics, which is slow to import, is imported when the first metric is made, after an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import Tensor

from tasks.task import MetricSpec, identity

Transform = Callable[[Tensor], Tensor]


def _spec(name: str, higher_is_better: bool = True, transform: Transform = identity, **options: Any) -> MetricSpec:
    """The metric of that name, e.g. ``image.PeakSignalNoiseRatio``, in torchmetrics."""

    def make() -> Any:
        import torchmetrics

        return attrgetter(name)(torchmetrics)(**options)

    return MetricSpec(make, transform, higher_is_better)


def accuracy(classes: int) -> MetricSpec:
    """Share of the labels that are predicted."""
    return _spec("classification.MulticlassAccuracy", num_classes=classes, average="micro")


def macro_f1(classes: int) -> MetricSpec:
    """F1 score, averaged over classes."""
    return _spec("classification.MulticlassF1Score", num_classes=classes, average="macro")


def binary_accuracy() -> MetricSpec:
    """Share of the labels, 0 or 1, that are predicted."""
    return _spec("classification.BinaryAccuracy")


def binary_f1() -> MetricSpec:
    """F1 score of the label 1."""
    return _spec("classification.BinaryF1Score")


def r2(transform: Transform = identity) -> MetricSpec:
    """Share of the variance that is explained, after ``transform`` of predictions and labels."""
    return _spec("R2Score", transform=transform)


def absolute_error(transform: Transform = identity) -> MetricSpec:
    """Mean absolute error, after ``transform`` of predictions and labels."""
    return _spec("MeanAbsoluteError", False, transform)


def psnr() -> MetricSpec:
    """Peak signal-to-noise ratio in dB of values in [0, 1], from the mean over all samples."""
    return _spec("image.PeakSignalNoiseRatio", data_range=1.0)

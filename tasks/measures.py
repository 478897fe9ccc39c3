"""Metrics that tasks have in common, each with its direction.

    measures = {"accuracy": accuracy(10), "macro_f1": macro_f1(10)}

torchmetrics takes longer to import than all of ours together. It waits until the first metric is made, after an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from tasks.task import Measure

__all__ = ["absolute_error", "accuracy", "binary_accuracy", "binary_f1", "macro_f1", "psnr", "r2"]

Transform = Callable[[Tensor], Tensor]


def accuracy(classes: int) -> Measure:
    """Share of the labels that are predicted."""
    return Measure(
        lambda: _torchmetrics().classification.MulticlassAccuracy(classes, average="micro"), higher_is_better=True
    )


def macro_f1(classes: int) -> Measure:
    """F1 score, averaged over classes."""
    return Measure(
        lambda: _torchmetrics().classification.MulticlassF1Score(classes, average="macro"), higher_is_better=True
    )


def binary_accuracy() -> Measure:
    """Share of the labels, 0 or 1, that are predicted."""
    return Measure(lambda: _torchmetrics().classification.BinaryAccuracy(), higher_is_better=True)


def binary_f1() -> Measure:
    """F1 score of the label 1."""
    return Measure(lambda: _torchmetrics().classification.BinaryF1Score(), higher_is_better=True)


def r2(transform: Transform = lambda values: values) -> Measure:
    """Share of the variance that is explained, once ``transform`` was applied to predictions and labels."""
    return Measure(lambda: _torchmetrics().R2Score(), transform, higher_is_better=True)


def absolute_error(transform: Transform = lambda values: values) -> Measure:
    """Mean absolute error, once ``transform`` was applied to predictions and labels."""
    return Measure(lambda: _torchmetrics().MeanAbsoluteError(), transform, higher_is_better=False)


def psnr() -> Measure:
    """Peak signal-to-noise ratio in dB of values in [0, 1], from the mean error over all samples."""
    return Measure(lambda: _torchmetrics().image.PeakSignalNoiseRatio(data_range=1.0), higher_is_better=True)


def _torchmetrics() -> ModuleType:
    import torchmetrics

    return torchmetrics

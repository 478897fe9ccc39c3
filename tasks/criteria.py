"""Losses that mask missing labels, and their values for trivial predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["classification", "regression"]


class Criterion(Protocol):
    """Mean loss over the labels that are not missing."""

    kind: ClassVar[Kind]

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar mean over the labels; 0, still connected to ``output``, if there is none."""

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of labels that are not missing, a 0-d tensor."""

    def untrained_loss(self, target: Tensor) -> float:
        """Expected loss of an untrained model on these labels."""

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant prediction on these labels."""

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) predictions and (N,) labels, in the units of the target, without the missing ones."""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of logits (B, C, ...) with integer labels (B, ...); label -1 is missing.

    Args:
        classes: Names of the C classes, in the order of the labels.
        complete: No label is missing, which saves the test; the loss is the same.
    """

    classes: Sequence[str]
    complete: bool = field(default=False, kw_only=True)
    kind: ClassVar[Kind] = "classification"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats."""
        if self.complete:
            return F.cross_entropy(output, target)
        return F.cross_entropy(output, target, ignore_index=-1, reduction="sum") / self.num_labels(target).clamp(min=1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of labels that are not -1."""
        return (target != -1).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """log C: every class equally likely."""
        return math.log(len(self.classes))

    def constant_loss(self, target: Tensor) -> float:
        """Entropy of the label frequencies."""
        counts = self._class_counts(target)
        share = counts[counts > 0] / counts.sum()
        return float(-(share * share.log()).sum())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Most likely class and label."""
        known = target != -1
        return output.argmax(1)[known], target[known]

    def _class_counts(self, target: Tensor) -> Tensor:
        return torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error of values and targets of the same shape; NaN in the target is missing.

    Args:
        unit: What the numbers mean, for axis labels.
        complete: No value is missing, which saves the test; the loss is the same.
    """

    unit: str = ""
    complete: bool = field(default=False, kw_only=True)
    kind: ClassVar[Kind] = "regression"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean square of the difference."""
        check_shapes(output, target)
        if self.complete:
            return F.mse_loss(output, target)
        missing = target.isnan()
        truth = torch.where(missing, output.detach(), target)
        return F.mse_loss(output, truth, reduction="sum") / (~missing).sum().clamp(min=1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of values that are not NaN."""
        return (~target.isnan()).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Mean square: the loss of predicting zero."""
        return float(self.labelled_pairs(target, target)[1].double().square().mean())

    def constant_loss(self, target: Tensor) -> float:
        """Variance: the loss of predicting the mean."""
        return float(self.labelled_pairs(target, target)[1].double().var(correction=0))

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Values and targets."""
        missing = target.isnan()
        if missing.any():  # to pick elements takes ten times as long as to copy them all
            return output[~missing], target[~missing]
        return output.flatten(), target.flatten()


def check_shapes(output: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both have the same shape."""
    if output.shape != target.shape:
        raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} must have the same shape")

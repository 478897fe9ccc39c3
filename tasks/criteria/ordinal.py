"""Loss of one class of an order, such as low < medium < high."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria.base import Columns, Kind, LabelKind, Transform, check_shapes, in_float
from tasks.criteria.classes import named_classes
from tasks.criteria.registry import register_criterion
from tasks.metrics import MetricSpec, accuracy, metric


@register_criterion("ordinal", fits=("ordered",))
@dataclass(frozen=True)
class Ordinal:
    """Negative log-likelihood of ordered classes, in nats; labels (B, ...), label -1 is missing.

        P(y > k | y >= k) = sigmoid(output_k),   k = 0 ... C - 2,   outputs (B, C - 1, ...)

    Probabilities P(y > k) are products of these, so they never rise with k, whatever the outputs. X. Shi, W. Cao, S. Raschka,
    "Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional Probabilities", PAA 2023 (CORN). Differs
    from their code in the divisor: the number of labels, not of binary decisions, which makes it a likelihood. Unlike CORAL
    (W. Cao, V. Mirjalili, S. Raschka, Pattern Recognition Letters 2020), it needs no weights that are shared by the outputs.

    Args:
        classes: Names of the C classes, from the lowest to the highest.
    """

    classes: Sequence[str]
    kind: ClassVar[Kind] = "classification"
    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """A logit for each step from one class to the next."""
        return max(len(self.classes) - 1, 1)

    def fitted(self, target: Tensor) -> Self:
        """The same."""
        return self

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the labels."""
        check_shapes(output[:, 0], target)
        steps = torch.arange(output.shape[1], device=output.device).view(1, -1, *[1] * (target.dim() - 1))
        label = target[:, None]
        above = (label > steps).to(output.dtype)
        losses = F.binary_cross_entropy_with_logits(output, above, reduction="none")
        decided = torch.where(label >= steps, losses, 0.0)  # -1, which is missing, decides nothing
        return decided.sum() / self.num_labels(target).clamp(min=1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of labels that are not -1."""
        return (target != -1).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """log 2 for each step up to the class: going on is as likely as staying."""
        known = target[target != -1].double()
        return math.log(2) * float((known + 1).clamp(max=self.outputs).mean())

    def constant_loss(self, target: Tensor) -> float:
        """Entropy of the label frequencies."""
        counts = torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * shares.log()).sum())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Median class and label."""
        known = target != -1
        return self._medians(output)[known], target[known]

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Accuracy, mean distance in classes, and Cohen's kappa with quadratic weights."""
        count = self.outputs + 1
        kappa = metric("classification.MulticlassCohenKappa", num_classes=count, weights="quadratic")
        return {"accuracy": accuracy(count), "distance": metric("MeanAbsoluteError", False), "kappa": kappa}

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """The median class and its probability."""
        labels = self._medians(output)
        return named_classes(name, self.classes, labels, self.probabilities(output).gather(1, labels[:, None])[:, 0])

    def probabilities(self, output: Tensor) -> Tensor:
        """(B, C, ...) probabilities of the classes."""
        above = in_float(output).sigmoid().cumprod(1)  # P(y > k)
        ends = torch.ones_like(above[:, :1])
        return torch.cat([ends, above], 1) - torch.cat([above, 0 * ends], 1)

    def _medians(self, output: Tensor) -> Tensor:
        return (in_float(output).sigmoid().cumprod(1) > 0.5).sum(1)

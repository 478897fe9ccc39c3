"""Losses of maps: every pixel is a sample, and pixels without a truth do not count.

Segmentation   logits (B, C, H, W), labels (B, H, W)           label -1 is unknown
DepthError     depths (B, 1, H, W), depths (B, 1, H, W)        depth 0 is unknown
NormalCosine   directions (B, 3, H, W), normals (B, 3, H, W)   normal (0, 0, 0) is unknown

loss = DepthError("l1")(outputs["depth"], targets["depth"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria import CrossEntropy

__all__ = ["DepthError", "NormalCosine", "Segmentation", "rarity_weights"]


@dataclass(frozen=True)
class Segmentation(CrossEntropy):
    """Cross-entropy of logits (B, C, H, W) with labels (B, H, W), in which a class may count more than another.

    Args:
        classes: Names of the C classes, in the order of the labels; label -1 is unknown.
        weights: What a pixel of each class counts; ``None``: every pixel the same.

    Raises:
        ValueError: Weights that are not positive, or not one per class.
    """

    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (len(self.weights) != len(self.classes) or min(self.weights) <= 0):
            raise ValueError(f"Segmentation needs a positive weight for each of {len(self.classes)} classes")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted mean of the negative log-likelihood in nats."""
        count, logits = self.count(target), output.float()  # 16 bits cannot hold a sum over pixels
        if output.is_cuda and torch.are_deterministic_algorithms_enabled():  # there is no such kernel for maps
            logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
        total = F.cross_entropy(logits, target, self._table(output), ignore_index=-1, reduction="sum")
        return total / torch.where(count > 0, count, 1)

    def count(self, target: Tensor) -> Tensor:
        """Sum of the weights of the labels that are not -1; without weights, their number."""
        table = self._table(target)
        known = target != -1
        return known.sum() if table is None else torch.where(known, table[target.clamp(min=0)], 0.0).sum()

    def prior(self, target: Tensor) -> float:
        """Entropy of the weighted label frequencies."""
        table = self._table(target)
        share = torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()
        if table is not None:
            share *= table.double()
        share = share[share > 0] / share.sum()
        return float(-(share * share.log()).sum())

    def _table(self, like: Tensor) -> Tensor | None:
        return None if self.weights is None else torch.tensor(self.weights, dtype=torch.float32, device=like.device)


def rarity_weights(labels: Tensor, classes: int, power: float = 0.5) -> list[float]:
    """Weights for :class:`Segmentation` that make rare classes count more: frequency ** -power, of mean 1 over pixels.

    A class that is not among ``labels`` gets the largest weight of those that are.
    """
    share = torch.bincount(labels[labels != -1].flatten(), minlength=classes).double()
    if share.sum() == 0:
        raise ValueError("rarity_weights: all labels are unknown")
    share = share / share.sum()
    weights = share.clamp(min=float(share[share > 0].min())) ** -power
    return (weights / (weights * share).sum()).tolist()


@dataclass(frozen=True)
class DepthError:
    """Mean error of depths; a true depth of 0 is unknown.

    Args:
        error: ``l1``: absolute error. ``l2``: squared error. ``log_l1``: absolute error of the logarithm, for which near and
            far count the same; it needs predictions greater than 0.
        unit: Of the depths, for axis labels.

    Raises:
        ValueError: Unknown ``error``.
    """

    error: Literal["l1", "l2", "log_l1"] = "l1"
    unit: str = "m"
    kind: ClassVar[Literal["classification", "regression"]] = "regression"

    def __post_init__(self) -> None:
        if self.error not in ("l1", "l2", "log_l1"):
            raise ValueError(f"DepthError: the error must be l1, l2 or log_l1, got {self.error!r}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the pixels whose depth is known."""
        _same_shape(output, target)
        known = target > 0
        truth, values = torch.where(known, target, 1.0), torch.where(known, output.float(), 1.0)
        return self._errors(values, truth).sum() / known.sum().clamp(min=1)

    def count(self, target: Tensor) -> Tensor:
        """Number of pixels whose depth is known."""
        return (target > 0).sum()

    def initial(self, target: Tensor) -> float:
        """Loss of predicting 0; of predicting 1 where logarithms are compared."""
        truth = target[target > 0].double()
        return float(self._errors(torch.full_like(truth, self.error == "log_l1"), truth).mean())

    def prior(self, target: Tensor) -> float:
        """Loss of the best constant: the median, or the mean for squared errors."""
        truth = target[target > 0].double()
        best = truth.mean() if self.error == "l2" else truth.median()
        return float(self._errors(best, truth).mean())

    def present(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Depths where they are known."""
        _same_shape(output, target)
        known = target > 0
        return output[known], target[known]

    def _errors(self, values: Tensor, truth: Tensor) -> Tensor:
        if self.error == "log_l1":
            return (values.log() - truth.log()).abs()
        return (values - truth).abs() if self.error == "l1" else (values - truth).square()


@dataclass(frozen=True)
class NormalCosine:
    """1 - cosine of the angle between directions and normals, both of length 1; a true normal of (0, 0, 0) is unknown.

    Args:
        unit: Of the components, for axis labels.
    """

    unit: str = ""
    kind: ClassVar[Literal["classification", "regression"]] = "regression"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the pixels whose normal is known."""
        _same_shape(output, target)
        known = (target != 0).any(1)
        cosines = (output.float() * target).sum(1)
        return torch.where(known, 1 - cosines, 0.0).sum() / known.sum().clamp(min=1)

    def count(self, target: Tensor) -> Tensor:
        """Number of pixels whose normal is known."""
        return (target != 0).any(1).sum()

    def initial(self, target: Tensor) -> float:
        """1: directions that have nothing to do with the normals."""
        return 1.0

    def prior(self, target: Tensor) -> float:
        """Loss of the best constant direction, that of the mean normal."""
        normals = target.movedim(1, -1)[(target != 0).any(1)].double()
        return 1 - math.hypot(*normals.mean(0).tolist())

    def present(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3) directions and (N, 3) normals where these are known."""
        _same_shape(output, target)
        known = (target != 0).any(1)
        return output.movedim(1, -1)[known], target.movedim(1, -1)[known]


def _same_shape(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} must have the same shape")

"""Losses of maps: every pixel is a sample, and pixels without a label are masked.

Segmentation   logits (B, C, H, W), labels (B, H, W)           label -1 is unknown
DepthError     depths (B, 1, H, W), depths (B, 1, H, W)        depth 0 is unknown
NormalCosine   directions (B, 3, H, W), normals (B, 3, H, W)   normal (0, 0, 0) is unknown
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from balancing.choices import check_choices
from tasks.criteria import CrossEntropy, Kind, Weights, check_shapes


@dataclass(frozen=True)
class Segmentation(CrossEntropy):
    """Cross-entropy of logits (B, C, H, W) with labels (B, H, W), weighted by class.

    Args:
        classes: Names of the C classes, in the order of the labels; label -1 is unknown.
        weights: Weight of a pixel of each class; ``None``: 1.

    Raises:
        ValueError: Weights that are not positive, or not one per class.
    """

    weights: Weights | None = None

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted mean of the negative log-likelihood in nats."""
        logits = output.float()  # 16 bits cannot hold a sum over pixels
        if output.is_cuda and torch.are_deterministic_algorithms_enabled():  # there is no such kernel for maps
            logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
        return super().__call__(logits, target)


def rarity_weights(labels: Tensor, classes: int, power: float = 0.5) -> list[float]:
    """Class weights for :class:`Segmentation`: frequency ** -power, with mean 1 over pixels.

    A class that is not among ``labels`` gets the largest weight of those that are.
    """
    share = torch.bincount(labels[labels != -1].flatten(), minlength=classes).double()
    if share.sum() == 0:
        raise ValueError("rarity_weights: all labels are unknown")
    share = share / share.sum()
    weights = share.clamp(min=float(share[share > 0].min())) ** -power
    return (weights / (weights * share).sum()).tolist()


@check_choices()
@dataclass(frozen=True)
class DepthError:
    """Mean error of depths; a true depth of 0 is unknown.

    Args:
        error: ``l1``: absolute error. ``l2``: squared error. ``log_l1``: absolute error of the logarithm, a relative one,
            for predictions greater than 0.
        unit: Of the depths, for axis labels.
    """

    error: Literal["l1", "l2", "log_l1"] = "l1"
    unit: str = "m"
    kind: ClassVar[Kind] = "regression"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the pixels whose depth is known."""
        check_shapes(output, target)
        known = target > 0
        truth, values = torch.where(known, target, 1.0), torch.where(known, output.float(), 1.0)
        return self._errors(values, truth).sum() / known.sum().clamp(min=1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of pixels whose depth is known."""
        return (target > 0).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of predicting 0; of predicting 1 where logarithms are compared."""
        truth = target[target > 0].double()
        return float(self._errors(torch.full_like(truth, self.error == "log_l1"), truth).mean())

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant: the median, or the mean for squared errors."""
        truth = target[target > 0].double()
        return float(self._errors(truth.mean() if self.error == "l2" else truth.median(), truth).mean())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Depths where they are known."""
        check_shapes(output, target)
        known = target > 0
        return output[known], target[known]

    def _errors(self, values: Tensor, truth: Tensor) -> Tensor:
        if self.error == "log_l1":
            return (values.log() - truth.log()).abs()
        return (values - truth).square() if self.error == "l2" else (values - truth).abs()


@dataclass(frozen=True)
class NormalCosine:
    """1 - cosine of the angle between directions and normals, both of length 1.

    A true normal of (0, 0, 0) is unknown.
    """

    unit: str = ""  # of the components, for axis labels
    kind: ClassVar[Kind] = "regression"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the pixels whose normal is known."""
        check_shapes(output, target)
        known = (target != 0).any(1)
        cosines = (output.float() * target).sum(1)
        return torch.where(known, 1 - cosines, 0.0).sum() / known.sum().clamp(min=1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of pixels whose normal is known."""
        return (target != 0).any(1).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """1: directions that are independent of the normals."""
        return 1.0

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant direction, that of the mean normal."""
        normals = target.movedim(1, -1)[(target != 0).any(1)].double()
        return 1 - math.hypot(*normals.mean(0).tolist())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3) directions and (N, 3) normals where these are known."""
        check_shapes(output, target)
        known = (target != 0).any(1)
        return output.movedim(1, -1)[known], target.movedim(1, -1)[known]

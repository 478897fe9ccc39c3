"""Losses of maps: every pixel is a sample, and pixels without a label are masked.

Segmentation            logits (B, C, H, W), labels (B, H, W)           label -1 is unknown
DepthError              depths (B, 1, H, W), depths (B, 1, H, W)        depth 0 is unknown
NormalCosine            directions (B, 3, H, W), normals (B, 3, H, W)   normal (0, 0, 0) is unknown
BinaryMap, ShareError   logits (B, 1, H, W), numbers in [0, 1]          NaN is unknown

All but the first are registered for configurations; of classes, those of :mod:`tasks.criteria.classes` are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from balancing.choices import check_choices
from tasks.criteria import CrossEntropy, Kind, Weights, check_shapes, register_criterion
from tasks.criteria.base import check_option, masked_mean
from tasks.criteria.classes import constant_binary_loss, even_binary_loss


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


@register_criterion("depth_error", fits=("depth", "disparity"))
@check_choices()
@dataclass(frozen=True)
class DepthError:
    """Mean error of depths; a true depth of 0 is unknown.

    Args:
        error: ``l1``: absolute error. ``l2``: squared error. ``log_l1``: absolute error of the logarithm, a relative one,
            for predictions greater than 0. ``huber``: half the squared error up to ``delta``, from there on linear.
        unit: Of the depths, for axis labels.
        delta: Of ``huber``, in this unit.
    """

    error: Literal["l1", "l2", "log_l1", "huber"] = "l1"
    unit: str = "m"
    delta: float = 1.0
    kind: ClassVar[Kind] = "regression"

    def __post_init__(self) -> None:
        check_option("depth_error", "delta", self.delta, above=0)

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
        """Loss of the best constant, nearly for ``huber``: the median; the mean for ``l2``."""
        truth = target[target > 0].double()
        best = truth.mean() if self.error == "l2" else truth.median()
        return float(self._errors(best.expand_as(truth), truth).mean())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Depths where they are known."""
        check_shapes(output, target)
        known = target > 0
        return output[known], target[known]

    def _errors(self, values: Tensor, truth: Tensor) -> Tensor:
        if self.error == "log_l1":
            return (values.log() - truth.log()).abs()
        if self.error == "huber":
            return F.huber_loss(values, truth, reduction="none", delta=self.delta)
        return (values - truth).square() if self.error == "l2" else (values - truth).abs()


@register_criterion("binary_map", fits=("binary",))
@dataclass(frozen=True)
class BinaryMap:
    """Cross-entropy of a yes or no per pixel, with its logit; NaN in the target is unknown.

    Args:
        pos_weight: Weight of a pixel that is a yes; edges, which are few, often have 20.
        unit: Of the output, for model cards.
    """

    pos_weight: float = 1.0
    unit: str = "logit, greater than 0 for yes"
    kind: ClassVar[Kind] = "classification"

    def __post_init__(self) -> None:
        check_option("binary_map", "pos_weight", self.pos_weight, above=0)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean in nats over the pixels that are known."""
        check_shapes(output, target)
        known, truth = ~target.isnan(), target.nan_to_num(0.0)
        weight = torch.tensor(self.pos_weight, device=output.device)
        losses = F.binary_cross_entropy_with_logits(output.float(), truth, reduction="none", pos_weight=weight)
        return masked_mean(losses, known)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of pixels that are known."""
        return (~target.isnan()).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of both equally likely."""
        return even_binary_loss(self.pos_weight, self._share(target))

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant: the entropy of the labels, if both weigh the same."""
        return constant_binary_loss(self.pos_weight, self._share(target))

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of a yes, and 0 or 1, where it is known."""
        check_shapes(output, target)
        known = ~target.isnan()
        return output[known].sigmoid(), target[known].long()

    def _share(self, target: Tensor) -> float:
        return float(target[~target.isnan()].double().mean())


@register_criterion("share_error", fits=("share",))
@check_choices()
@dataclass(frozen=True)
class ShareError:
    """Error of a number in [0, 1] per pixel, with its logit; NaN in the target is unknown.

    Args:
        error: ``l1`` or ``l2``, of the sigmoid of the logit; ``cross_entropy``: that of the number.
        unit: Of the output, for model cards.
    """

    error: Literal["l1", "l2", "cross_entropy"] = "l1"
    unit: str = "logit of a number in [0, 1]"
    kind: ClassVar[Kind] = "regression"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the pixels that are known."""
        check_shapes(output, target)
        known, truth = ~target.isnan(), target.nan_to_num(0.0)
        return masked_mean(self._errors(output.float(), truth), known)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of pixels that are known."""
        return (~target.isnan()).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """That of 0.5."""
        truth = target[~target.isnan()].double()
        return float(self._errors(torch.zeros_like(truth), truth).mean())

    def constant_loss(self, target: Tensor) -> float:
        """That of the median, or of the mean if errors are not absolute."""
        truth = target[~target.isnan()].double()
        best = truth.median() if self.error == "l1" else truth.mean()
        return float(self._errors(best.logit(1e-9).expand_as(truth), truth).mean())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers in [0, 1] where they are known."""
        check_shapes(output, target)
        known = ~target.isnan()
        return output[known].sigmoid(), target[known]

    def _errors(self, logits: Tensor, truth: Tensor) -> Tensor:
        if self.error == "cross_entropy":
            return F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        errors = logits.sigmoid() - truth
        return errors.square() if self.error == "l2" else errors.abs()


@register_criterion("cosine", fits=("normals",))
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

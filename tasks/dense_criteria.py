"""Losses of maps: every pixel is a sample, and pixels without a label are masked.

Segmentation, Dice, Focal   logits (B, C, H, W), labels (B, H, W)           label -1 is unknown
DepthError                  depths (B, 1, H, W), depths (B, 1, H, W)        depth 0 is unknown
NormalCosine                directions (B, 3, H, W), normals (B, 3, H, W)   normal (0, 0, 0) is unknown
BinaryMap, ShareError       logits (B, 1, H, W), numbers in [0, 1]          NaN is unknown
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from balancing.choices import check_choices
from tasks.criteria import CrossEntropy, Kind, check_shapes


@dataclass(frozen=True)
class Segmentation(CrossEntropy):
    """Cross-entropy of logits (B, C, H, W) with labels (B, H, W), weighted by class.

    Args:
        classes: Names of the C classes, in the order of the labels; label -1 is unknown.
        weights: Weight of a pixel of each class; ``None``: 1.

    Raises:
        ValueError: Weights that are not positive, or not one per class.
    """

    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (len(self.weights) != len(self.classes) or min(self.weights) <= 0):
            raise ValueError(f"Segmentation needs a positive weight for each of {len(self.classes)} classes")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted mean of the negative log-likelihood in nats."""
        count, logits = self.num_labels(target), output.float()  # 16 bits cannot hold a sum over pixels
        if output.is_cuda and torch.are_deterministic_algorithms_enabled():  # there is no such kernel for maps
            logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
        total = F.cross_entropy(logits, target, self._table(output), ignore_index=-1, reduction="sum")
        return total / torch.where(count > 0, count, 1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Sum of the weights of the labels that are not -1; without weights, their number."""
        table = self._table(target)
        known = target != -1
        return known.sum() if table is None else torch.where(known, table[target.clamp(min=0)], 0.0).sum()

    def _class_counts(self, target: Tensor) -> Tensor:
        counts, table = super()._class_counts(target), self._table(target)
        return counts if table is None else counts * table.double()

    def _table(self, like: Tensor) -> Tensor | None:
        return None if self.weights is None else torch.tensor(self.weights, dtype=torch.float32, device=like.device)


@dataclass(frozen=True)
class Dice(Segmentation):
    """Cross-entropy plus the mean over classes of 1 - Dice.

    ``Dice_c = 2 |P_c Y_c| / (|P_c| + |Y_c|)``. P are probabilities and Y labels, summed over all known pixels of the batch: F. Milletari et al., "V-Net", 3DV 2016; with
    cross-entropy as in F. Isensee et al., "nnU-Net", Nature Methods 2021. A class without a pixel in the batch is left out.
    The second term is no mean over pixels, so micro-batches and processes give other gradients than one large batch.

    Args:
        share: Factor of the second term.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.share > 0:
            raise ValueError(f"Dice: share must be greater than 0, got {self.share}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Both terms, the first in nats."""
        known = (target != -1).unsqueeze(1)
        probabilities = torch.where(known, output.float().softmax(1), 0.0)
        truth = F.one_hot(target.clamp(min=0), output.shape[1]).movedim(-1, 1) * known
        return super().__call__(output, target) + self.share * self._overlap(probabilities, truth)

    def untrained_loss(self, target: Tensor) -> float:
        """That of equal probabilities."""
        return super().untrained_loss(target) + self._of_constant(
            target, lambda share: torch.full_like(share, 1 / len(share))
        )

    def constant_loss(self, target: Tensor) -> float:
        """That of the label frequencies, which are best for the first term."""
        return super().constant_loss(target) + self._of_constant(target, lambda share: share)

    def _of_constant(self, target: Tensor, guess: Callable[[Tensor], Tensor]) -> float:
        counts = torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()
        prediction = guess(counts / counts.sum())
        here = counts > 0
        dice = 2 * prediction * counts / (prediction * counts.sum() + counts)
        return self.share * float(1 - dice[here].mean())

    def _overlap(self, probabilities: Tensor, truth: Tensor) -> Tensor:
        axes = (0, *range(2, truth.dim()))
        both, counts = (probabilities * truth).sum(axes), truth.sum(axes)
        dice = 2 * both / (probabilities.sum(axes) + counts).clamp(min=1e-6)
        here = counts > 0
        return torch.where(here, 1 - dice, 0.0).sum() / here.sum().clamp(min=1)


@dataclass(frozen=True)
class Focal(Segmentation):
    """Cross-entropy times ``(1 - p) ** gamma``, with p the probability of the label.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Args:
        gamma: 0 is the cross-entropy; the larger, the less pixels count that are predicted well.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise ValueError(f"Focal: gamma must be at least 0, got {self.gamma}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the known pixels, weighted as in :class:`Segmentation`."""
        known, table = target != -1, self._table(output)
        logs = output.float().log_softmax(1).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
        losses = -((1 - logs.exp()).clamp(min=0) ** self.gamma) * logs
        if table is not None:
            losses = losses * table[target.clamp(min=0)]
        count = self.num_labels(target)
        return torch.where(known, losses, 0.0).sum() / torch.where(count > 0, count, 1)

    def untrained_loss(self, target: Tensor) -> float:
        """That of equal probabilities."""
        return super().untrained_loss(target) * (1 - 1 / len(self.classes)) ** self.gamma

    def constant_loss(self, target: Tensor) -> float:
        """That of the label frequencies."""
        counts = self._class_counts(target)
        share = counts[counts > 0] / counts.sum()
        return float(-(share * (1 - share) ** self.gamma * share.log()).sum())


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
            for predictions greater than 0. ``huber``: half the squared error up to ``delta``, from there on linear.
        unit: Of the depths, for axis labels.
        delta: Of ``huber``, in this unit.
    """

    error: Literal["l1", "l2", "log_l1", "huber"] = "l1"
    unit: str = "m"
    delta: float = 1.0
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
        """Loss of the best constant, nearly for ``huber``: the median; the mean for ``l2``."""
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
        if self.error == "huber":
            return F.huber_loss(values, truth, reduction="none", delta=self.delta)
        return (values - truth).square() if self.error == "l2" else (values - truth).abs()


@dataclass(frozen=True)
class BinaryMap:
    """Cross-entropy of a yes or no per pixel, with its logit; NaN in the target is unknown.

    Args:
        positive_weight: Weight of a pixel that is a yes; edges, which are few, often have 20.
        unit: Of the output, for model cards.
    """

    positive_weight: float = 1.0
    unit: str = "logit, greater than 0 for yes"
    kind: ClassVar[Kind] = "classification"

    def __post_init__(self) -> None:
        if not self.positive_weight > 0:
            raise ValueError(f"BinaryMap: positive_weight must be greater than 0, got {self.positive_weight}")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted mean in nats over the pixels that are known."""
        check_shapes(output, target)
        known, truth = ~target.isnan(), target.nan_to_num(0.0)
        losses = F.binary_cross_entropy_with_logits(output.float(), truth, reduction="none")
        weights = torch.where(known, self._weights(truth), 0.0)
        return (losses * weights).sum() / weights.sum().clamp(min=1e-6)

    def num_labels(self, target: Tensor) -> Tensor:
        """Sum of the weights of the pixels that are known; without a weight, their number."""
        return torch.where(target.isnan(), 0.0, self._weights(target.nan_to_num(0.0))).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """log 2: both are equally likely."""
        return math.log(2)

    def constant_loss(self, target: Tensor) -> float:
        """Entropy of the weighted share of yes."""
        truth = target[~target.isnan()].double()
        weights = self._weights(truth)
        share = (weights * truth).sum() / weights.sum()
        return float(F.binary_cross_entropy(share, share))

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of a yes, and 0 or 1, where it is known."""
        check_shapes(output, target)
        known = ~target.isnan()
        return output[known].sigmoid(), target[known].long()

    def _weights(self, truth: Tensor) -> Tensor:
        return 1 + (self.positive_weight - 1) * truth


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
        return torch.where(known, self._errors(output.float(), truth), 0.0).sum() / known.sum().clamp(min=1)

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

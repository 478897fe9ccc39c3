"""Losses of one class per sample: logits (B, C, ...), labels (B, ...); -1 is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria.base import (
    Columns,
    Kind,
    LabelKind,
    Transform,
    Weights,
    check_option,
    check_share,
    in_float,
    least_loss,
    masked_mean,
)
from tasks.criteria.registry import register_criterion
from tasks.metrics import MetricSpec, accuracy, macro_f1, metric


@dataclass(frozen=True)
class ClassCriterion:
    """Base of losses of logits: the classes, their weights, metrics and names.

    Args:
        classes: Names of the C classes, in the order of the labels.
        weights: Weight of a label of each class, a list, or a mapping in which others count 1; ``None``: 1; ``balanced``:
            inversely to the frequency in the training labels, with mean 1 over them. The loss is a weighted mean.

    Raises:
        ValueError: Weights that are not positive, or not one per class.
    """

    classes: Sequence[str]
    weights: Weights | None = field(default=None, kw_only=True)
    kind: ClassVar[Kind] = "classification"
    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.classes:  # which are unknown before the data are read
            self._listed_weights()

    @property
    def outputs(self) -> int:
        """A logit for each class; two if the classes are not known yet."""
        return max(len(self.classes), 2)

    def fitted(self, target: Tensor) -> Self:
        """The same with a weight for each class."""
        if self.weights != "balanced":
            return replace(self, weights=self._listed_weights())
        counts = torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()
        weights = counts.sum() / (counts.clamp(min=1) * (counts > 0).sum())  # a class without labels: as if it had one
        return replace(self, weights=tuple(weights.tolist()))

    def num_labels(self, target: Tensor) -> Tensor:
        """Sum of the weights of the labels that are not -1; without weights, their number."""
        known, table = target != -1, self._table(target)
        return known.sum() if table is None else torch.where(known, table[target.clamp(min=0)], 0.0).sum()

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Most likely class and label."""
        known = target != -1
        return output.argmax(1)[known], target[known]

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Accuracy, and F1 averaged over classes."""
        return {"accuracy": accuracy(self.outputs), "macro_f1": macro_f1(self.outputs)}

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """The most likely class and its probability."""
        probabilities, labels = output.softmax(1).max(1)
        return named_classes(name, self.classes, labels, probabilities)

    def _listed_weights(self) -> tuple[float, ...] | None:
        weights, owner = self.weights, type(self).__name__
        if weights is None or weights == "balanced":
            return None
        if isinstance(weights, Mapping):
            unknown = [name for name in weights if str(name) not in self.classes]
            if unknown:
                raise ValueError(
                    f"{owner}: weights names {unknown[0]!r}, which is no class; these are {', '.join(self.classes)}"
                )
            weights = [{str(k): v for k, v in weights.items()}.get(name, 1.0) for name in self.classes]
        if isinstance(weights, str) or len(weights) != len(self.classes):
            raise ValueError(
                f"{owner} needs a positive weight for each of {len(self.classes)} classes, or balanced; got {weights!r}"
            )
        for weight in weights:
            check_option(owner, "a positive weight", weight, above=0)
        return tuple(float(weight) for weight in weights)

    def _table(self, like: Tensor) -> Tensor | None:
        weights = self._listed_weights()
        return None if weights is None else torch.tensor(weights, dtype=torch.float32, device=like.device)

    def _class_counts(self, target: Tensor) -> Tensor:
        """(C,) sums of the weights of the labels."""
        counts = torch.bincount(target[target != -1].flatten(), minlength=len(self.classes)).double()
        table = self._table(target)
        return counts if table is None else counts * table.double()


@register_criterion("cross_entropy", fits=("classes", "ordered"))
@dataclass(frozen=True)
class CrossEntropy(ClassCriterion):
    """Cross-entropy of logits (B, C, ...) with integer labels (B, ...); label -1 is missing.

    Args:
        classes: Names of the C classes, in the order of the labels.
        complete: No label is missing, which saves the test; the loss is the same.
        weights: As in :class:`ClassCriterion`.
        label_smoothing: Share in [0, 1) of a label that is spread over all classes, as in ``torch``.
    """

    complete: bool = field(default=False, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("cross_entropy", "label_smoothing", self.label_smoothing)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats."""
        table = self._table(output)
        if table is not None:  # both must have the same type, which should not be one of 16 bits
            output = in_float(output)
            table = table.to(output.dtype)
        if self.complete:
            return F.cross_entropy(output, target, table, label_smoothing=self.label_smoothing)
        total = F.cross_entropy(
            output, target, table, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing
        )
        count = self.num_labels(target)
        return total / (count.clamp(min=1) if table is None else torch.where(count > 0, count, 1))

    def untrained_loss(self, target: Tensor) -> float:
        """log C: every class equally likely."""
        return math.log(len(self.classes)) * self._smoothed(target)[1]

    def constant_loss(self, target: Tensor) -> float:
        """Entropy of the label frequencies."""
        shares, mass = self._smoothed(target)
        return float(-(shares * shares.log()).sum()) * mass

    def _smoothed(self, target: Tensor) -> tuple[Tensor, float]:
        """Shares of classes that occur in smoothed labels, and their sum relative to the labels."""
        counts, part = self._class_counts(target), self.label_smoothing
        smoothed = counts
        if part:
            table = self._table(target)
            spread = torch.ones_like(counts) if table is None else table.double()
            smoothed = (1 - part) * counts + part / len(counts) * (target != -1).sum() * spread
        return smoothed[smoothed > 0] / smoothed.sum(), float(smoothed.sum() / counts.sum())


@register_criterion("focal", fits=("classes",))
@dataclass(frozen=True)
class Focal(ClassCriterion):
    """Cross-entropy in which sure labels count less: ``-(1 - p) ** gamma * log p``.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, for any number of classes; their alpha are ``weights``.

    Args:
        classes: Names of the C classes, in the order of the labels.
        weights: As in :class:`ClassCriterion`.
        gamma: 0 is cross-entropy.
    """

    gamma: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("focal", "gamma", self.gamma)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted mean over the labels."""
        known = target != -1
        log_p = in_float(output).log_softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
        # expm1, as 1 - p loses its digits where p is near 1; there the power has no gradient for a small gamma
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        losses, table = -(rest**self.gamma) * log_p, self._table(output)
        if table is None:
            return masked_mean(losses, known)
        shares = torch.where(known, table[target.clamp(min=0)], 0.0)
        total = shares.sum()
        return (shares * losses).sum() / torch.where(total > 0, total, 1)

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of equally likely classes."""
        count = len(self.classes)
        return (1 - 1 / count) ** self.gamma * math.log(count)

    def constant_loss(self, target: Tensor) -> float:
        """Smallest loss of constant logits, found numerically."""
        counts = self._class_counts(target)
        shares = counts / counts.sum()

        def loss(logits: Tensor) -> Tensor:
            log_p = logits.log_softmax(0)
            rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
            return -(shares * rest**self.gamma * log_p).sum()

        return least_loss(loss, shares.clamp(min=1e-6).log())


@register_criterion("dice_cross_entropy", fits=("classes",))
@dataclass(frozen=True)
class DiceCrossEntropy(ClassCriterion):
    """Cross-entropy plus ``dice`` times one minus the soft Dice coefficient of each sample.

    The coefficient of a class is ``2 sum(p y) / (sum(p) + sum(y))`` over the known labels of one sample (a map), and that of a
    sample the mean over the classes that it has. Samples are averaged by their numbers of labels, so that batches may be cut
    anywhere. Milletari et al., "V-Net", 3DV 2016 has squares below the line; other code pools over the batch or over absent classes.

    Args:
        classes: Names of the C classes, in the order of the labels.
        weights: Of the classes in both parts, as in :class:`ClassCriterion`.
        dice: Weight of the second part.
    """

    dice: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("dice_cross_entropy", "dice", self.dice)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over labels of the first part, and over samples of the second."""
        logits = in_float(output).flatten(2) if output.dim() > 2 else in_float(output)[..., None]
        labels = target.flatten(1) if target.dim() > 1 else target[:, None]
        known, table = labels != -1, self._table(output)
        weights = (
            torch.ones(logits.shape[1], device=output.device, dtype=logits.dtype) if table is None else table.to(logits)
        )
        counts = torch.where(known, weights[labels.clamp(min=0)], 0.0)  # (B, N)
        log_p = logits.log_softmax(1)
        entropy = -(log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0] * counts).sum()
        truth = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known[:, None]
        shares = log_p.exp() * known[:, None]
        sums = (shares + truth).sum(2)
        overlap = 2 * (shares * truth).sum(2) / torch.where(sums > 0, sums, 1)
        present = truth.sum(2).clamp(max=1) * weights
        mean = (present * overlap).sum(1) / torch.where(present.sum(1) > 0, present.sum(1), 1)
        total = counts.sum()
        return (entropy + self.dice * (counts.sum(1) * (1 - mean)).sum()) / torch.where(total > 0, total, 1)

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of equally likely classes."""
        return float(self._constant(torch.zeros(len(self.classes)), target))

    def constant_loss(self, target: Tensor) -> float:
        """Smallest loss of constant logits, found numerically."""
        counts = self._class_counts(target)
        start = (counts / counts.sum()).clamp(min=1e-6).log()
        return least_loss(lambda logits: self._constant(logits, target), start)

    def _constant(self, logits: Tensor, target: Tensor) -> Tensor:
        shape = (len(target), len(logits), *target.shape[1:])
        return self(logits.view(1, -1, *[1] * (target.dim() - 1)).expand(shape), target)


@register_criterion("binary_cross_entropy", fits=("classes",))
@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Cross-entropy of one logit (B, 1, ...), of the second of two classes; -1 is missing.

    Args:
        classes: Names of both classes, in the order of the labels.
        pos_weight: Weight of a label of the second class; the loss is divided by the number of labels, as in ``torch``.

    Raises:
        ValueError: Another number of classes, or a weight that is not positive.
    """

    classes: Sequence[str]
    pos_weight: float = field(default=1.0, kw_only=True)
    kind: ClassVar[Kind] = "classification"
    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.classes and len(self.classes) != 2:
            raise ValueError(f"binary_cross_entropy needs two classes, got {len(self.classes)}; use cross_entropy")
        check_option("binary_cross_entropy", "pos_weight", self.pos_weight, above=0)

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1

    def fitted(self, target: Tensor) -> Self:
        """The same."""
        return self

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the labels, in nats."""
        weight = torch.as_tensor(self.pos_weight, device=output.device)
        truth = target.clamp(min=0)[:, None].to(output.dtype)
        losses = F.binary_cross_entropy_with_logits(output, truth, reduction="none", pos_weight=weight)
        return masked_mean(losses[:, 0], target != -1)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of labels that are not -1."""
        return (target != -1).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of both classes equally likely."""
        return even_binary_loss(self.pos_weight, self._share(target))

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant: the entropy of the labels, if both weigh the same."""
        return constant_binary_loss(self.pos_weight, self._share(target))

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of the second class, and label."""
        known = target != -1
        return output[:, 0].sigmoid()[known], target[known]

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Accuracy, F1 of the second class, and the area under the ROC curve."""
        names = {"accuracy": "BinaryAccuracy", "f1": "BinaryF1Score", "auroc": "BinaryAUROC"}
        return {name: metric(f"classification.{theirs}") for name, theirs in names.items()}

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """The more likely class and its probability."""
        second = output[:, 0].sigmoid()
        labels = (second >= 0.5).long()
        return named_classes(name, self.classes, labels, torch.where(labels == 1, second, 1 - second))

    def _share(self, target: Tensor) -> float:
        return float(target[target != -1].double().mean())


def named_classes(name: str, classes: Sequence[str], labels: Tensor, probabilities: Tensor) -> Columns:
    """Columns of class names and of their probabilities."""
    words = [classes[label] for label in labels.tolist()]
    return {name: words, f"{name}_probability": probabilities.tolist()}


def even_binary_loss(pos_weight: float, share: float) -> float:
    """Loss in nats of both classes equally likely, if a ``share`` of labels is the second."""
    return math.log(2) * (pos_weight * share + 1 - share)


def constant_binary_loss(pos_weight: float, share: float) -> float:
    """Loss in nats of the best constant, if a ``share`` of the labels is the second.

    ``-a log(a / (a + b)) - b log(b / (a + b))`` with the weights a and b of both, 0 log 0 = 0.
    """
    weights = pos_weight * share, 1 - share
    return sum(-x * math.log(x / sum(weights)) for x in weights if x > 0)

"""Loss of any number of tags per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.criteria.base import Columns, Kind, LabelKind, Transform, check_option, check_shapes, masked_mean
from tasks.criteria.classes import constant_binary_loss
from tasks.criteria.registry import register_criterion
from tasks.metrics import MetricSpec, metric


@register_criterion("multi_label", fits=("tags",))
@dataclass(frozen=True)
class MultiLabel:
    """Binary cross-entropy of logits (B, C, ...) with indicators of C tags; NaN is missing.

    Args:
        classes: Names of the tags.
        pos_weight: Weight of a tag that is there; ``balanced``: for each tag how much more often it is not there than there, in
            the training labels, at most 100; one number for each tag. The loss is divided by the number of indicators.
        separator: Between the tags of one cell.

    Raises:
        ValueError: Weights that are not positive, or not one per tag.
    """

    classes: Sequence[str]
    pos_weight: float | Sequence[float] | str = field(default=1.0, kw_only=True)
    separator: str = field(default=";", kw_only=True)
    kind: ClassVar[Kind] = "classification"
    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weights = self.pos_weight
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"multi_label: pos_weight must be a number, a list or balanced, got {weights!r}")
        for weight in [weights] if isinstance(weights, int | float) else weights:
            if weights != "balanced":
                check_option("multi_label", "pos_weight", weight, above=0)
        if self.classes and isinstance(weights, list | tuple) and len(weights) != len(self.classes):
            raise ValueError(f"multi_label: pos_weight has {len(weights)} numbers for {len(self.classes)} tags")

    @property
    def outputs(self) -> int:
        """A logit for each tag."""
        return max(len(self.classes), 1)

    def fitted(self, target: Tensor) -> Self:
        """The same with weights as numbers."""
        if self.pos_weight != "balanced":
            return self
        share = self._shares(target)
        weights = ((1 - share) / share).nan_to_num(1.0).clamp(0.01, 100)
        return replace(self, pos_weight=tuple(weights.tolist()))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over indicators, in nats."""
        check_shapes(output, target)
        missing = target.isnan()
        truth = torch.where(missing, 0.0, target).to(output.dtype)
        weight = self._weights().to(output.device, torch.float32).view(-1, *[1] * (output.dim() - 2))
        losses = F.binary_cross_entropy_with_logits(output, truth, reduction="none", pos_weight=weight)
        return masked_mean(losses, ~missing)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of indicators that are not NaN."""
        return (~target.isnan()).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of tags that are as likely as not."""
        share, weights = self._shares(target), self._weights()
        return math.log(2) * float((weights * share + 1 - share).mean())

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constants: the mean entropy of the tags, if all weigh the same."""
        pairs = zip(self._shares(target).tolist(), self._weights().expand(self.outputs).tolist(), strict=True)
        return sum(constant_binary_loss(weight, share) for share, weight in pairs) / self.outputs

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) probabilities and (N, C) indicators of the samples that have labels."""
        known = ~target.isnan().any(1)
        return output.sigmoid().movedim(1, -1)[known], target.movedim(1, -1)[known].long()

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """F1 over all tags, its mean over tags, and the share of samples without an error."""
        count = self.outputs
        return {
            "f1": metric("classification.MultilabelF1Score", num_labels=count, average="micro"),
            "macro_f1": metric("classification.MultilabelF1Score", num_labels=count, average="macro"),
            "all_right": metric("classification.MultilabelExactMatch", num_labels=count),
        }

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """The tags that are more likely than not, in one cell; and the probability of each."""
        probabilities = output.sigmoid()
        cells = [
            self.separator.join(tag for tag, there in zip(self.classes, row, strict=True) if there)
            for row in (probabilities >= 0.5).tolist()
        ]
        return {name: cells, **{f"{name}_{tag}": probabilities[:, i].tolist() for i, tag in enumerate(self.classes)}}

    def _shares(self, target: Tensor) -> Tensor:
        """(C,) how many of the samples have each tag."""
        return target.double().movedim(1, -1).flatten(0, -2).nanmean(0)

    def _weights(self) -> Tensor:
        return torch.ones(1).double() if self.pos_weight == "balanced" else torch.tensor(self.pos_weight).double()

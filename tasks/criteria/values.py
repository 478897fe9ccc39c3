"""Losses of numbers: values and targets (B, ...) of the same shape; NaN is missing."""

from __future__ import annotations

from collections.abc import Sequence
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
    check_option,
    check_shapes,
    in_float,
    masked_mean,
)
from tasks.criteria.registry import register_criterion
from tasks.metrics import MetricSpec, absolute_error, metric, r2


@dataclass(frozen=True)
class ValueCriterion:
    """Base of losses of numbers: masks, metrics and units.

    A subclass defines :meth:`errors` and :meth:`best_value`.

    Args:
        unit: What the numbers mean, for axis labels.
        complete: No value is missing, which saves the test; the loss is the same.
    """

    unit: str = ""
    complete: bool = field(default=False, kw_only=True)
    kind: ClassVar[Kind] = "regression"
    name: ClassVar[str]
    fits: ClassVar[tuple[LabelKind, ...]]
    standardized: ClassVar[bool] = True

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Loss of each value, in the shape of ``truth``, which has no NaN."""
        raise NotImplementedError

    def best_value(self, truth: Tensor) -> Tensor:
        """Constant output with the smallest loss on the values (N,), float64."""
        raise NotImplementedError

    def value(self, output: Tensor) -> Tensor:
        """Output as a number in the unit of the target."""
        return output

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def fitted(self, target: Tensor) -> Self:
        """The same."""
        return self

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the values."""
        check_shapes(self.value(output), target)
        if self.complete:
            return self.errors(in_float(output), target).mean()
        missing = target.isnan()
        return masked_mean(self.errors(in_float(output), torch.where(missing, 0.0, target)), ~missing)

    def num_labels(self, target: Tensor) -> Tensor:
        """Number of values that are not NaN."""
        return (~target.isnan()).sum()

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of the output 0."""
        truth = self._known(target)
        return float(self.errors(torch.zeros_like(truth), truth).mean())

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the best constant output."""
        truth = self._known(target)
        return float(self.errors(self.best_value(truth).expand_as(truth), truth).mean())

    def labelled_pairs(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Values and targets."""
        values, missing = self.value(output), target.isnan()
        if missing.any():  # to pick elements takes ten times as long as to copy them all
            return values[~missing], target[~missing]
        return values.flatten(), target.flatten()

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Share of the variance that is explained, and mean absolute error in the unit of the data."""
        return {"r2": r2(), "mae": absolute_error(inverse_transform)}

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """Numbers in the unit of the data."""
        return {name: inverse_transform(self.value(output)).flatten().tolist()}

    def _known(self, target: Tensor) -> Tensor:
        return target[~target.isnan()].double()


@register_criterion("squared_error", fits=("number", "count"))
@dataclass(frozen=True)
class SquaredError(ValueCriterion):
    """Mean squared error; its best constant is the mean."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean square of the difference."""
        check_shapes(output, target)
        if self.complete:
            return F.mse_loss(output, target)
        missing = target.isnan()
        truth = torch.where(missing, output.detach(), target)
        return F.mse_loss(output, truth, reduction="sum") / (~missing).sum().clamp(min=1)

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Squares of the differences."""
        return (output - truth).square()

    def constant_loss(self, target: Tensor) -> float:
        """Variance: the loss of predicting the mean."""
        return float(self._known(target).var(correction=0))


@register_criterion("l1", fits=("number", "count"))
@dataclass(frozen=True)
class L1(ValueCriterion):
    """Mean absolute error; its best constant is the median."""

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Absolute differences."""
        return (output - truth).abs()

    def best_value(self, truth: Tensor) -> Tensor:
        """The median."""
        return truth.median()


@register_criterion("huber", fits=("number", "count"))
@dataclass(frozen=True)
class Huber(ValueCriterion):
    """Half the squared error up to ``delta``, then ``delta * (|error| - delta / 2)``.

    P. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 1964.

    Args:
        unit: As in :class:`ValueCriterion`.
        complete: As in :class:`ValueCriterion`.
        delta: In the unit of the targets; of standardized targets, in standard deviations.
    """

    delta: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check_option("huber", "delta", self.delta, above=0)

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Huber's function of the differences."""
        return F.huber_loss(output, truth, reduction="none", delta=self.delta)

    def best_value(self, truth: Tensor) -> Tensor:
        """Where the clipped differences add up to 0, between median and mean."""
        low, high = truth.min(), truth.max()
        for _ in range(80):
            middle = (low + high) / 2
            below = (truth - middle).clamp(-self.delta, self.delta).sum() > 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


@register_criterion("quantile", fits=("number", "count"))
@dataclass(frozen=True)
class Quantile(ValueCriterion):
    """Mean pinball loss of several quantiles: values (B, Q, ...), targets (B, 1, ...).

        max(q (y - v), (q - 1) (y - v))          R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 1978

    The number that is reported is the quantile next to the median.

    Args:
        unit: As in :class:`ValueCriterion`.
        complete: As in :class:`ValueCriterion`.
        quantiles: Levels between 0 and 1, rising.
    """

    quantiles: Sequence[float] = field(default=(0.1, 0.5, 0.9), kw_only=True)

    def __post_init__(self) -> None:
        levels = self.quantiles
        if isinstance(levels, str | float | int) or not levels or list(levels) != sorted(set(levels)):
            raise ValueError(
                f"quantile: quantiles must be a list of rising levels, such as [0.1, 0.5, 0.9], got {levels!r}"
            )
        if not 0 < min(levels) <= max(levels) < 1:
            raise ValueError(f"quantile: quantiles must lie between 0 and 1, got {list(levels)}")

    @property
    def outputs(self) -> int:
        """A value for each quantile."""
        return len(self.quantiles)

    def value(self, output: Tensor) -> Tensor:
        """The quantile next to the median, (B, 1, ...)."""
        if output.dim() < 2 or output.shape[1] != self.outputs:
            raise ValueError(f"output {tuple(output.shape)} must have {self.outputs} quantiles in its second dimension")
        middle = min(range(self.outputs), key=lambda i: abs(self.quantiles[i] - 0.5))
        return output[:, middle : middle + 1]

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Pinball losses, averaged over the quantiles."""
        levels = torch.tensor(self.quantiles, device=output.device, dtype=output.dtype)
        levels = levels.view(1, -1, *[1] * (output.dim() - 2))
        over = truth - output
        return torch.maximum(levels * over, (levels - 1) * over).mean(1, keepdim=True)

    def untrained_loss(self, target: Tensor) -> float:
        """Loss of the output 0."""
        return self._constant(torch.zeros(self.outputs), target)

    def constant_loss(self, target: Tensor) -> float:
        """Loss of the quantiles of the values."""
        truth = self._known(target).sort().values
        places = torch.tensor([min(int(level * len(truth)), len(truth) - 1) for level in self.quantiles])
        return self._constant(truth[places], target)

    def decode(self, name: str, output: Tensor, inverse_transform: Transform) -> Columns:
        """The quantile next to the median under the objective's name, and each under its percentage."""
        columns: Columns = {name: inverse_transform(self.value(output)).flatten().tolist()}
        ordered = output.sort(1).values  # so that they do not cross
        for i, level in enumerate(self.quantiles):
            columns[f"{name}_q{100 * level:g}"] = inverse_transform(ordered[:, i : i + 1]).flatten().tolist()
        return columns

    def _constant(self, values: Tensor, target: Tensor) -> float:
        truth = self._known(target)[:, None]
        return float(self.errors(values.double().expand(len(truth), -1), truth).mean())


@register_criterion("poisson", fits=("count", "number"))
@dataclass(frozen=True)
class Poisson(ValueCriterion):
    """Half the Poisson deviance of counts ``y``, with the rate ``mean * exp(output)``; in nats.

        rate - y + y log(y / rate)

    It is the negative log-likelihood up to a constant, and never negative. Counts are not standardized; ``mean``, that of the
    training counts, takes its place.

    Args:
        unit: As in :class:`ValueCriterion`.
        complete: As in :class:`ValueCriterion`.
        mean: Rate that the output 0 stands for.
    """

    mean: float = field(default=1.0, kw_only=True)
    standardized: ClassVar[bool] = False

    def fitted(self, target: Tensor) -> Self:
        """The same with the mean of the counts. Raises ValueError if some are negative or all 0."""
        counts = self._known(target)
        if (counts < 0).any():
            raise ValueError(
                f"poisson needs counts of 0 or more, got {float(counts.min()):g}; huber is for any numbers"
            )
        if counts.sum() == 0:
            raise ValueError("poisson needs counts that are not all 0")
        return replace(self, mean=float(counts.mean()))

    def value(self, output: Tensor) -> Tensor:
        """The rate."""
        return self.mean * in_float(output).exp()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the counts."""
        check_shapes(output, target)
        missing = target.isnan()
        return masked_mean(self.errors(in_float(output), torch.where(missing, 0.0, target)), ~missing)

    def errors(self, output: Tensor, truth: Tensor) -> Tensor:
        """Half the deviance of each count."""
        some = truth > 0
        # log(rate / y); differences of near numbers stay exact
        ratio = output - torch.where(some, truth / self.mean, 1.0).log()
        return torch.where(some, truth * (torch.expm1(ratio) - ratio), self.mean * output.exp())

    def best_value(self, truth: Tensor) -> Tensor:
        """The mean of the counts."""
        return (truth.mean() / self.mean).log()

    def metrics(self, inverse_transform: Transform) -> dict[str, MetricSpec]:
        """Mean absolute error of the rate, explained variance, and the mean deviance."""
        deviance = metric("TweedieDevianceScore", False, power=1.0)
        return {"r2": r2(), "mae": absolute_error(), "deviance": deviance}

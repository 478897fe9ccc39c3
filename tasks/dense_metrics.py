"""Metrics of maps, over labeled pixels: (N,) labels, (N,) depths, (N, 3) normals.

Public code averages in two ways that differ whenever batches do:

    pooled    sums and counts over all pixels of a split, so that the size of batches does not matter
    mtan      mean of the batches' means and of their medians; classes that never occur make mIoU not a number

The second is how S. Liu et al. (MTAN, CVPR 2019) and the papers that build on their code report depth and normals, there with
batches of two pictures. Their confusion matrix is pooled in both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError, Metric
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
)

from balancing.choices import check_choices
from tasks.task import MetricSpec

Protocol = Literal["pooled", "mtan"]


class MeanIoU(MulticlassJaccardIndex):
    """Mean over classes of intersection / union, both counted over all pixels.

    Args:
        classes: Number of classes.
        protocol: With ``pooled``, a class that is neither predicted nor true is left out; with ``mtan``, the result is NaN.
    """

    def __init__(self, classes: int, protocol: Protocol = "pooled") -> None:
        super().__init__(classes, average="macro", validate_args=False)
        self.protocol = protocol

    def compute(self) -> Tensor:
        """The mean, in [0, 1]."""
        if self.protocol == "mtan" and self.absent:
            return torch.full((), torch.nan, device=self.confmat.device)
        return super().compute()

    @property
    def absent(self) -> list[int]:
        """Classes that were neither predicted nor true so far."""
        return torch.nonzero(self.confmat.sum(0) + self.confmat.sum(1) == 0).flatten().tolist()


class _Mean(Metric):
    """Sum of values divided by their number."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


class PixelMean(_Mean):
    """Mean over pixels of ``values(prediction, target)``, (N,) or (N, ...)."""

    def __init__(self, values: Callable[[Tensor, Tensor], Tensor], higher_is_better: bool) -> None:
        super().__init__()
        self.values, self.direction = values, higher_is_better

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """The direction."""
        return self.direction

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the pixels of a batch."""
        values = self.values(prediction, target)
        self.total += values.sum()
        self.count += values.numel()


def ratio_within(prediction: Tensor, target: Tensor, limit: float) -> Tensor:
    """1 where the factor between two depths is below ``limit``, such as 1.25, else 0."""
    # a prediction of 0 or less is wrong by more than any factor
    return ((prediction < target * limit) & (prediction * limit > target) & (prediction > 0)).float()


def angle_within(prediction: Tensor, target: Tensor, limit: float) -> Tensor:
    """1 where the angle is below ``limit`` degrees, else 0."""
    return (angles(prediction, target) < limit).float()


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees between (N, 3) directions and (N, 3) normals of any length.

    The angle of a direction of (0, 0, 0) is 90.
    """
    a, b = F.normalize(prediction, dim=-1), F.normalize(target, dim=-1)
    # unlike the arc cosine, exact for small angles too
    half = torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return torch.rad2deg(2 * half)


class AngleMedian(Metric):
    """Median angle in degrees, from a histogram with bins of 0.001 degrees."""

    higher_is_better = False
    full_state_update = False
    histogram: Tensor

    _PER_DEGREE = 1000

    def __init__(self) -> None:
        super().__init__()
        self.add_state("histogram", torch.zeros(180 * self._PER_DEGREE + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        # a direction that is not a number is as wrong as can be
        bins = (angles(prediction, target).nan_to_num(nan=180.0) * self._PER_DEGREE).round().long()
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))

    def compute(self) -> Tensor:
        below = self.histogram.cumsum(0)
        count = int(below[-1])
        if count == 0:
            return torch.full((), torch.nan, device=below.device)
        # both are the same if the count is odd
        middle = torch.tensor([(count + 1) // 2, count // 2 + 1], device=below.device)
        return torch.searchsorted(below, middle).float().mean() / self._PER_DEGREE


class PerBatch(_Mean):
    """Mean over batches of ``metric``, computed on the pixels of each that ``keep`` selects."""

    def __init__(self, metric: Metric, keep: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.metric, self.keep = metric, keep
        self.metric.sync_on_compute = False  # other processes have other batches

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """As for the metric."""
        return self.metric.higher_is_better

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """One batch."""
        if self.keep is not None:
            rows = self.keep(target)
            prediction, target = prediction[rows], target[rows]
        self.metric.reset()
        self.metric.update(prediction, target)
        self.total += self.metric.compute()
        self.count += 1


@check_choices()
def segmentation_metrics(classes: int, protocol: Protocol = "pooled") -> dict[str, MetricSpec]:
    """mIoU and pixel accuracy."""
    return {
        "miou": MetricSpec(partial(MeanIoU, classes, protocol)),
        "pixel_accuracy": MetricSpec(partial(MulticlassAccuracy, classes, average="micro", validate_args=False)),
    }


def binary_metrics() -> dict[str, MetricSpec]:
    """Intersection over union and F1 of the pixels that are a yes."""
    return {
        "iou": MetricSpec(partial(BinaryJaccardIndex, validate_args=False)),
        "f1": MetricSpec(partial(BinaryF1Score, validate_args=False)),
    }


def share_metrics() -> dict[str, MetricSpec]:
    """Absolute error and RMSE of numbers in [0, 1]."""
    return {"abs_err": MetricSpec(MeanAbsoluteError), "rmse": MetricSpec(partial(MeanSquaredError, squared=False))}


@check_choices()
def depth_metrics(protocol: Protocol = "pooled") -> dict[str, MetricSpec]:
    """Absolute error and RMSE in the unit of the data, relative error, shares within 1.25 ** k."""
    make: dict[str, Callable[[], Metric]] = {
        "abs_err": MeanAbsoluteError,
        "rel_err": MeanAbsolutePercentageError,
        "rmse": partial(MeanSquaredError, squared=False),
        **{f"delta{k}": partial(PixelMean, partial(ratio_within, limit=1.25**k), True) for k in (1, 2, 3)},
    }
    return _specs(make, protocol)


@check_choices()
def normal_metrics(protocol: Protocol = "pooled") -> dict[str, MetricSpec]:
    """Mean and median angle in degrees, shares within 11.25, 22.5 and 30 degrees."""
    limits = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}
    make: dict[str, Callable[[], Metric]] = {
        "mean": partial(PixelMean, angles, False),
        "median": AngleMedian,
        **{name: partial(PixelMean, partial(angle_within, limit=limit), True) for name, limit in limits.items()},
    }
    # public code takes a normal for unknown if its components add up to 0
    return _specs(make, protocol, keep=lambda target: target.sum(-1) != 0)


def _specs(make: dict[str, Callable[[], Metric]], protocol: Protocol, **batch: Any) -> dict[str, MetricSpec]:
    if protocol == "pooled":
        return {name: MetricSpec(build) for name, build in make.items()}
    return {name: MetricSpec(lambda build=build: PerBatch(build(), **batch)) for name, build in make.items()}  # type: ignore[misc]

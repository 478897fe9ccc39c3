"""Metrics of predicted rates (N,) where the true rates (N,) are known, all in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RateBias(Metric):
    """Relative error of the mean rate, ``|mean prediction / mean rate - 1|``."""

    higher_is_better = False
    predicted: Tensor
    true: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("predicted", "true"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, rates: Tensor) -> None:
        """Add samples."""
        self.predicted += predictions.sum()
        self.true += rates.sum()

    def compute(self) -> Tensor:
        """The error, from 0 on."""
        return (self.predicted / self.true - 1).abs()


class RateAUC(Metric):
    """Area under the ROC curve, if each sample were positive with its true rate, in expectation.

    The mean over pairs of samples, weighted by how probable the first is positive and the second negative; equal predictions
    count one half.
    """

    higher_is_better = True
    predictions: list[Tensor]
    rates: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("predictions", "rates"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, rates: Tensor) -> None:
        """Add samples."""
        self.predictions.append(predictions.flatten())
        self.rates.append(rates.flatten())

    def compute(self) -> Tensor:
        """The area, in [0, 1]."""
        found, true = (torch.cat(part) if isinstance(part, list) else part for part in (self.predictions, self.rates))
        values, place = found.unique(return_inverse=True)
        true = true.double().cpu()
        positive, negative = (
            torch.zeros(len(values), dtype=torch.float64).index_add(0, place.cpu(), mass) for mass in (true, 1 - true)
        )
        below = negative.cumsum(0) - negative / 2
        return (positive * below).sum() / (positive.sum() * negative.sum())

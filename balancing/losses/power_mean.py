from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("power_mean")
class PowerMean(LossBalancer):
    """Minimize ``V = (mean_i L_i^gamma)^(1/gamma)``: ``w_i = 1/K (V / L_i)^(1 - gamma)``.

    gamma = 1 is the mean, -1 the harmonic mean, 0 the geometric mean (the limit), ``inf`` the greatest loss, whose
    ties share the weight. The larger gamma, the more the largest loss counts.

    needs: losses     scale: own     heads: weighted     preference: V of p_i L_i
    Computed from logarithms, so losses must be positive, and their powers neither over- nor underflow.

    Args:
        gamma: The exponent; ``inf`` and ``-inf`` are allowed.
    """

    convention = "own"
    positive = True
    preference_on = "rows"
    may_be_infinite = ("gamma",)

    def __init__(self, objectives: Sequence[str], *, gamma: float = 2.0, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.gamma = gamma

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        logs = losses.log()
        if self.gamma == 0:
            return geometric_weights(logs)
        # measured from the loss that counts most, no power exceeds 1
        top = logs.max() if self.gamma > 0 else logs.min()
        if math.isinf(self.gamma):
            share = (logs == top).to(losses)
            return share / share.sum()
        powers = self.gamma * (logs - top)
        mean = top + torch.log1p(torch.expm1(powers).mean()) / self.gamma  # exact for small gamma too
        return torch.exp(mean - logs + torch.log_softmax(powers, 0))


def geometric_weights(logs: Tensor) -> Tensor:
    """(K,) derivatives of the geometric mean by losses with these logarithms."""
    return torch.exp(logs.mean() - logs) / len(logs)

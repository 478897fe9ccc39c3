"""Means of the losses other than the arithmetic one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from balancing.balancer import Balancer
from balancing.factory import register_balancer
from balancing.options import BalancerOptions

__all__ = ["Geometric", "PowerMean"]


@register_balancer("power_mean")
class PowerMean(Balancer):
    """Minimise ``V = (mean_i L_i^gamma)^(1/gamma)``: ``w_i = 1/K (V / L_i)^(1 - gamma)``.

    gamma = 1 is the mean, -1 the harmonic mean, 0 the geometric mean (the limit), ``inf`` the greatest loss, whose
    ties share the weight. The larger gamma, the more the largest loss counts.

    needs: losses     scale: own     heads: weighted     preference: V of p_i L_i
    Computed from logarithms, so losses must be positive, and their powers neither over- nor underflow.

    Args:
        objectives: Names of the losses.
        gamma: The exponent; ``inf`` and ``-inf`` are allowed.
        options: See :class:`balancing.Balancer`.
    """

    convention = "own"
    positive = True
    preference_on = "rows"

    def __init__(self, objectives: Sequence[str], *, gamma: float = 2.0, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        if math.isnan(gamma):
            raise ValueError(f"power_mean: gamma must be a number, got {gamma}")
        self.gamma = gamma

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) derivatives of the mean."""
        self.require_positive(losses)
        logs = losses.log()
        if self.gamma == 0:
            return _geometric(logs)
        # measured from the loss that counts most, no power exceeds 1
        top = logs.max() if self.gamma > 0 else logs.min()
        if math.isinf(self.gamma):
            share = (logs == top).to(losses)
            return share / share.sum()
        powers = self.gamma * (logs - top)
        mean = top + torch.log1p(torch.expm1(powers).mean()) / self.gamma  # exact for small gamma too
        return torch.exp(mean - logs + torch.log_softmax(powers, 0))


@register_balancer("geometric")
class Geometric(Balancer):
    """Minimise the geometric mean ``V = (prod_i L_i)^(1/K) = exp(mean_i log L_i)``: ``w_i = V / (K L_i)``.

    Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
    Learning", CVPR Workshops 2019.

    needs: losses     scale: own     heads: weighted
    Invariant to the scale of every loss, up to the length of the update. Raises on a loss that is not positive.
    """

    convention = "own"
    positive = True

    def weights(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """(K,) derivatives of the geometric mean."""
        self.require_positive(losses)
        return _geometric(losses.log())


def _geometric(logs: Tensor) -> Tensor:
    return torch.exp(logs.mean() - logs) / len(logs)

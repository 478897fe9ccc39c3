from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("uw_so")
class SoftOptimalUncertainty(LossBalancer):
    """UW-SO: the optimum of uncertainty weighting in closed form, softened by a temperature.

    ``w = softmax(1 / (T L))``.

    With the noise levels of :class:`Uncertainty` at their optimum each loss is divided by itself; the softmax of these
    inverses keeps the weights bounded as one loss reaches zero.
    Kirchdorfer et al., "Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning", GCPR 2024, arXiv:2408.07985.

    needs: losses     scale: mean-like     heads: weighted
    T is in units of 1 / loss, so it has to be tuned, and again if a loss changes its unit. With T = 1 / (the smallest loss) no
    weight is more than e times another; with a T far below that, the objective of that loss is all that is trained.

    Args:
        temperature: T; the larger, the more equal the weights.
    """

    convention = "mean"
    positive = True

    def __init__(
        self, objectives: Sequence[str], *, temperature: float = 1.0, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not temperature > 0, f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses)
        inverse = 1 / (self.temperature * losses)
        return torch.softmax(inverse.clamp(max=torch.finfo(losses.dtype).max), 0)

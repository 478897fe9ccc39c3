from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("softadapt")
class SoftAdapt(LossBalancer):
    """More weight to losses that fall slowly or rise: ``w = softmax(beta (L(t) - L(t-1)))``.

    Heydari, Thompson and Mehmood, "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with Multi-Part
    Loss Functions", 2019, arXiv:1912.12355.

    needs: losses     scale: mean-like     heads: weighted
    Equal weights at the first step. Differences of single batches are mostly noise; ``weight_ema=`` smooths the weights.

    Args:
        beta: How strongly progress counts, per unit of loss; negative favors the fastest.
    """

    convention = "mean"

    def __init__(self, objectives: Sequence[str], *, beta: float = 0.1, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.beta = beta
        self.previous = nn.Buffer(torch.zeros(len(self.objectives)))
        self.started = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))

    def compute_weights(self, losses: Tensor) -> Tensor:
        change = torch.where(self.started > 0, losses - self.previous.to(losses), 0.0)
        self.previous.copy_(losses)
        self.started.fill_(1)
        return torch.softmax(self.beta * change, 0)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("group_dro")
class GroupDRO(LossBalancer):
    """Group DRO: weights that ascend towards the greatest loss.

    ``w_i <- w_i exp(eta L_i)``, scaled to sum K.
    Minimizes the greatest loss in the long run.
    Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020,
    arXiv:1911.08731.

    needs: losses     scale: sum-like (published: sum 1)     heads: weighted
    The losses should be of one unit: a loss that stays above the others takes all weight in the end.

    Args:
        eta: Step of the weights, per unit of loss.
    """

    proportions = {"log_shares": "log"}

    def __init__(self, objectives: Sequence[str], *, eta: float = 0.01, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not 0 < eta < math.inf, f"eta must be positive and finite, got {eta}")
        self.eta = eta
        self.log_shares = nn.Buffer(torch.zeros(len(self.objectives)).log_softmax(0))

    def compute_weights(self, losses: Tensor) -> Tensor:
        shares = torch.log_softmax(self.log_shares.to(losses) + self.eta * losses, 0)
        self.log_shares.copy_(shares)
        return len(losses) * shares.exp()

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from ..factory import register_balancer
from ..jacobian_balancer import JacobianBalancer
from ..options import BalancerOptions


@register_balancer("trimmed_mean")
class TrimmedMean(JacobianBalancer):
    """Per coordinate, the mean of the gradients without the b smallest and the b largest.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv:1803.01498.

    needs: jacobian     scale: mean-like     heads: unit     preference: scales the gradients beforehand
    Needs K >= 2b + 1 objectives; b = 0 is the mean. A step from which so many objectives are absent that fewer are left
    trims as many as leave at least one.

    Args:
        trim: b, how many gradients are left out on either side.
    """

    coordinatewise = True
    convention = "mean"
    preference_on = "rows"

    def __init__(self, objectives: Sequence[str], *, trim: int = 1, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        size = len(self.objectives)
        self.reject(trim < 0, f"trim must not be negative, got {trim}")
        self.reject(size < 2 * trim + 1, f"trim={trim} needs at least {2 * trim + 1} objectives, got {size}")
        self.trim = trim

    def combine(self, losses: Tensor, jacobian: Tensor) -> Tensor:
        rows = list(jacobian.unbind())
        # the largest of each coordinate moves to the end, and the smallest to the front
        for _ in range(min(self.trim, (len(rows) - 1) // 2)):
            for k in range(len(rows) - 1):
                rows[k], rows[k + 1] = torch.minimum(rows[k], rows[k + 1]), torch.maximum(rows[k], rows[k + 1])
            for k in range(len(rows) - 2, 0, -1):
                rows[k - 1], rows[k] = torch.minimum(rows[k - 1], rows[k]), torch.maximum(rows[k - 1], rows[k])
            rows = rows[1:-1]
        return torch.stack(rows).mean(0)

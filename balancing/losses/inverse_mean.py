from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("inverse_mean")
class InverseMean(LossBalancer):
    """Each loss divided by its running mean.

    ``w_i ~ 1 / (mean of the last W values of L_i + eps)``, sum 1.

    needs: losses     scale: mean-like     heads: weighted
    The current value is part of the window; before W steps the mean is over what there is.

    Args:
        window: W, in steps.
        eps: Keeps the weight finite as a loss reaches zero.
    """

    convention = "mean"
    positive = True
    per_objective = {"history": (1,)}

    def __init__(
        self, objectives: Sequence[str], *, window: int = 10, eps: float = 1e-8, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(window < 1, f"window must be at least 1, got {window}")
        self.reject(not eps > 0, f"eps must be positive, got {eps}")
        self.eps = eps
        self.history = nn.Buffer(torch.zeros(window, len(self.objectives)))
        self.count: Tensor = nn.Buffer(torch.zeros(len(self.objectives), dtype=torch.int64))

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses + self.eps)
        counts, window = self.count.tolist(), len(self.history)
        self.count += 1
        if min(counts) == max(counts):
            self.history[counts[0] % window] = losses
            mean = self.history[: counts[0] + 1].mean(0)
        else:
            self.history.scatter_(0, ((self.count - 1) % window)[None], losses[None].to(self.history))
            filled = self.count.clamp(max=window)
            mean = self.history[: int(filled.max())].sum(0) / filled
        inverse = 1 / (mean + self.eps)
        return inverse / inverse.sum()

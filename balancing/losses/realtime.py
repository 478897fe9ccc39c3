from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import LossBalancer
from ..options import BalancerOptions


@register_balancer("realtime")
class Realtime(LossBalancer):
    """Each loss divided by its current value.

    ``w_i = 1 / (L_i + eps)``, so the update is the gradient of ``sum_i log L_i``.

    needs: losses     scale: own (every term is 1)     heads: weighted
    Invariant to the scale of every loss. Raises on a negative loss, of which there is no logarithm.

    Args:
        eps: Keeps the weight finite as a loss reaches zero.
    """

    convention = "own"
    positive = True

    def __init__(self, objectives: Sequence[str], *, eps: float = 1e-8, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.reject(not eps > 0, f"eps must be positive, got {eps}")
        self.eps = eps

    def compute_weights(self, losses: Tensor) -> Tensor:
        self.require_positive(losses + self.eps)
        return 1 / (losses + self.eps)

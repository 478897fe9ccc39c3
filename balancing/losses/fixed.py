from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("fixed")
class Fixed(ScheduleBalancer):
    """Weights set by hand: ``sum_i c_i L_i``.

    needs: nothing     scale: own     heads: weighted
    With a tuned c this is the strongest simple baseline (Xin et al., "Do Current Multi-Task Optimization Methods in
    Deep Learning Even Help?", NeurIPS 2022, arXiv:2209.11379).

    Args:
        values: Weight of each objective, 1 where not named; zero switches an objective off.
    """

    constant = True
    convention = "own"

    def __init__(
        self,
        objectives: Sequence[str],
        *,
        values: Mapping[str, float] | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(objectives, **options)
        self.values = self.vector(values or {}, default=1.0)
        c = self.values.tolist()
        self.reject(min(c) < 0 or not any(c), f"weights must not be negative, nor all zero, got {dict(values or {})}")

    def compute_weights(self, losses: Tensor) -> Tensor:
        return self.values.to(losses)

from __future__ import annotations

import torch
from torch import Tensor

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer


@register_balancer("sum")
class Sum(ScheduleBalancer):
    """Every objective counts the same: ``sum_i L_i``.

    needs: nothing     scale: sum-like (w = 1, so more objectives mean longer updates)     heads: weighted
    The baseline that any other method has to beat.
    """

    constant = True

    def compute_weights(self, losses: Tensor) -> Tensor:
        return torch.ones_like(losses)

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("rlw")
class RLW(ScheduleBalancer):
    """New random weights at every step: ``w = softmax(z)``, z standard normal.

    Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning",
    TMLR 2022, arXiv:2111.10603.

    needs: nothing     scale: mean-like     heads: weighted
    A method worth its cost should do better. All micro-batches of a step, and all processes, share one draw, which the
    option ``seed`` decides.
    """

    convention = "mean"
    proportions = {"values": "one"}

    def __init__(self, objectives: Sequence[str], **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        self.drawn = nn.Buffer(torch.tensor(-1))
        self.values = nn.Buffer(torch.zeros(len(self.objectives)))

    def compute_weights(self, losses: Tensor) -> Tensor:
        if int(self.drawn) != self.step:
            self.values.copy_(torch.softmax(torch.randn(len(self.objectives), generator=self.generator), 0))
            self.drawn.fill_(self.step)
        return self.values.to(losses)

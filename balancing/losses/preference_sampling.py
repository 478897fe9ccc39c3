from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..drawing import check_drawing, drawn_preference
from ..factory import register_balancer
from ..loss_balancer import ScheduleBalancer
from ..options import BalancerOptions


@register_balancer("preference_sampling")
class PreferenceSampling(ScheduleBalancer):
    """A preference drawn at each step: ``w = r``, r from a Dirichlet distribution.

    A network that reads r learns the minima of ``r'L`` for all r: :meth:`draw` gives r before the forward pass.
    Dosovitskiy and Djolonga, "You Only Train Once: Loss-Conditional Training of Deep Networks", ICLR 2020; Navon, Shamsian,
    Fetaya and Chechik, "Learning the Pareto Front with Hypernetworks", ICLR 2021, arXiv:2010.04104 (linear
    scalarization).

    needs: nothing     scale: mean-like     heads: weighted     preference: mean of the distribution
    All micro-batches of a step, and all processes, share one draw, which the option ``seed`` decides.

    Args:
        alpha: Concentration of the distribution: 1 is uniform, less is nearer to single objectives, more to the mean.
    """

    convention = "mean"
    preference_on = "method"
    draws = True
    proportions = {"ray": "one"}

    def __init__(self, objectives: Sequence[str], *, alpha: float = 1.0, **options: Unpack[BalancerOptions]) -> None:
        super().__init__(objectives, **options)
        check_drawing(self, alpha)
        self.alpha = alpha
        self.ray = nn.Buffer(self.preference.float() / len(self.objectives))
        self.drawn = nn.Buffer(torch.tensor(-1))

    def draw(self) -> Tensor:
        return drawn_preference(self, self.ray, self.drawn, self.alpha)

    def compute_weights(self, losses: Tensor) -> Tensor:
        return self.draw().to(losses)

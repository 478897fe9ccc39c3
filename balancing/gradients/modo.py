from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from ..factory import register_balancer
from ..gramian_balancer import GramianBalancer
from ..options import BalancerOptions
from ..solvers import project_to_simplex


@register_balancer("modo")
class MoDo(GramianBalancer):
    """MoDo: one projected step per batch towards MGDA's weights.

    Weights on the simplex descend ``1/2 w'Gw + rho/2 w'w``: ``w <- project(w - gamma (Gw + rho w))``.
    Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and Conflict-Avoidance",
    NeurIPS 2023, arXiv:2305.20057.

    needs: gramian     scale: mean-like     heads: unit     preference: progress in proportion to it, in the long run
    With two or more micro-batches per step G is the product of independent samples, so the step is unbiased, as published;
    with one batch it is the ordinary Gramian. On one and the same G the weights converge to MGDA's if rho is 0.
    gamma is absolute, as published, and has the unit of 1 / G: below 2 / (sum of the squared lengths + rho) the iteration
    converges, far above the weights jump between corners of the simplex.

    Args:
        gamma: Step size of the weights. The default, that of public code, allows squared lengths of 2000 in all.
        rho: Pull towards equal weights, in the unit of G. Public code has 0.1, which drowns short gradients.
    """

    per_group = False
    convention = "mean"
    preference_on = "target"
    unbiased = True
    proportions = {"mixture": "one"}

    def __init__(
        self, objectives: Sequence[str], *, gamma: float = 1e-3, rho: float = 0.0, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(objectives, **options)
        self.reject(not gamma > 0, f"gamma must be positive, got {gamma}")
        self.reject(not rho >= 0, f"rho must not be negative, got {rho}")
        self.gamma, self.rho = gamma, rho
        self.mixture = nn.Buffer(torch.full((len(self.objectives),), 1 / len(self.objectives)))

    def compute_weights(self, losses: Tensor, gramian: Tensor) -> Tensor:
        w = self.mixture.to(gramian)
        w = project_to_simplex(w - self.gamma * (gramian @ w + self.rho * w))
        self.mixture.copy_(w)
        return w
